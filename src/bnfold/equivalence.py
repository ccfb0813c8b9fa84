"""Compares two models on the same inputs, and decides whether they compute the same.

The reference is the original as it stands, without onnxruntime's optimizations. The other model
is held against it at both levels: without them (is the rewrite right?) and with them (does it
stay right after onnxruntime's own rewrites?).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.contract import Array
from bnfold.inputs import InputRequest, Inputs, UnsupportedInput, make_inputs
from bnfold.progress import Progress, silent
from bnfold.record import (
    Equivalence,
    LevelComparison,
    OutputComparison,
    ProviderEquivalence,
    Verdict,
)
from bnfold.runtime import Level, Session, SessionError, ValueSpec, require_provider
from bnfold.tolerance import Accumulator, Allowance, ToleranceRequest, difference, within_tolerance


def compare_models(
    original: Path,
    optimized: Path,
    *,
    providers: Sequence[str] = ("cpu",),
    inputs: InputRequest | None = None,
    tolerances: ToleranceRequest | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Equivalence:
    """Run both models on the same inputs and compare all of their outputs.

    Raises:
        ProviderError: if a provider is not available.
        UsageError: if the request for inputs does not fit the model.
    """
    found = []
    inputs_used: Inputs | None = None
    for provider in providers:
        require_provider(provider)
        comparison = _ProviderComparison(
            original,
            optimized,
            provider,
            inputs or InputRequest(),
            tolerances or ToleranceRequest(),
            threads,
            progress,
        )
        found.append(comparison.result())
        inputs_used = inputs_used or comparison.inputs
    return Equivalence(
        verdict=worst_verdict([each.verdict for each in found]),
        reason="; ".join(f"{each.provider}: {each.reason}" for each in found if each.reason),
        providers=found,
        inputs=inputs_used.record() if inputs_used is not None else None,
    )


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return fail if there is one, else not-verified if there is one or nothing, else pass."""
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and all(each == "pass" for each in verdicts) else "not-verified"


class _Undecided(Exception):  # noqa: N818 - an answer, not an error
    """Ends a comparison early, with a verdict and the reason."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


@dataclass
class _ProviderComparison:
    """One session is open at a time, so that memory holds one model and the reference outputs."""

    original: Path
    optimized: Path
    provider: str
    request: InputRequest
    tolerances: ToleranceRequest
    threads: int | None
    progress: Progress
    inputs: Inputs | None = None
    output_specs: Sequence[ValueSpec] = ()
    references: list[dict[str, Any]] = field(default_factory=list)
    noise: dict[str, list[Array]] = field(default_factory=dict)

    def result(self) -> ProviderEquivalence:
        """Decide, by one rule.

        The verdict is

        - not-verified, if the original does not run, is not deterministic, or has no finite output;
        - fail, if the other model has another interface, does not run, or exceeds the tolerance;
        - at full optimization likewise, but not-verified if the original itself exceeds it there;
        - pass otherwise.
        """
        levels: list[LevelComparison] = []
        floor: list[OutputComparison] = []
        try:
            self._reference_outputs()
            floor = self._noise_floor()
            levels.append(self._compare(Level.DISABLED))
            levels.append(self._compare(Level.ALL))
            verdict, reason = _decide(levels, floor)
        except _Undecided as undecided:
            verdict, reason = undecided.verdict, undecided.reason
        outputs = levels[0].outputs if levels else []
        return ProviderEquivalence(self.provider, verdict, reason, outputs, levels, floor)

    def _session(self, path: Path, level: Level, whose: str) -> Session:
        self.progress(f"loading {whose} ({self.provider}, optimization {level.value})")
        return Session(path, self.provider, level, self.threads)

    def _reference_outputs(self) -> None:
        try:
            session = self._session(self.original, Level.DISABLED, "the original")
            self.inputs, self.output_specs = make_inputs(session, self.request), session.outputs
            self.progress("running the original")
            self.references = [session.run(feeds) for feeds in self.inputs.feeds()]
            again = session.run(next(self.inputs.feeds()))
        except (SessionError, UnsupportedInput) as error:
            raise _Undecided("not-verified", str(error)) from error
        for name, value in self.references[0].items():
            if not isinstance(value, np.ndarray):
                raise _Undecided("not-verified", f"output {name!r} is not a tensor")
        comparisons = self._accumulate([again])
        if not all(map(within_tolerance, comparisons)):
            raise _Undecided("not-verified", "the original disagrees with itself from run to run")
        total = sum(v.size for outputs in self.references for v in outputs.values())
        if total == 0:
            raise _Undecided("not-verified", "no output has any elements to compare")
        values = [value for outputs in self.references for value in outputs.values()]
        if all(_is_all_nan(value) for value in values):
            raise _Undecided("not-verified", "every output of the original is NaN throughout")
        if not any(map(np.any, values)):
            raise _Undecided("not-verified", "every output of the original is zero throughout")

    def _noise_floor(self) -> list[OutputComparison]:
        """Compare the original with itself at full optimization, and note the differences."""
        assert self.inputs is not None
        try:
            session = self._session(self.original, Level.ALL, "the original")
            results = [session.run(feeds) for feeds in self.inputs.feeds()]
        except SessionError as error:
            reason = f"the original, optimization all: {error}"
            raise _Undecided("not-verified", reason) from error
        self.noise = {
            name: [
                difference(reference[name], result[name])
                for reference, result in zip(self.references, results, strict=True)
            ]
            for name in self.references[0]
        }
        return self._accumulate(results)

    def _compare(self, level: Level) -> LevelComparison:
        assert self.inputs is not None
        whose = "the optimized model"
        try:
            session = self._session(self.optimized, level, whose)
            self._require_interface(session, self.inputs)
            self.progress(f"running {whose} (optimization {level.value})")
            results = [session.run(feeds) for feeds in self.inputs.feeds()]
        except SessionError as error:
            raise _Undecided("fail", f"{whose}, optimization {level.value}: {error}") from error
        outputs = self._accumulate(results)
        verdict = "pass" if all(map(within_tolerance, outputs)) else "fail"
        return LevelComparison(level.value, verdict, outputs)

    def _require_interface(self, session: Session, inputs: Inputs) -> None:
        for kind, expected, found in (
            ("input", inputs.specs, session.inputs),
            ("output", self.output_specs, session.outputs),
        ):
            names = [[spec.name for spec in specs] for specs in (expected, found)]
            if names[0] != names[1]:
                raise _Undecided("fail", f"the {kind}s are {names[1]}, not {names[0]}")
            for one, other in zip(expected, found, strict=True):
                if not one.accepts(other):
                    reason = f"{kind} {one.name!r} is {other.describe()}, not {one.describe()}"
                    raise _Undecided("fail", reason)

    def _accumulate(self, results: Sequence[dict[str, Any]]) -> list[OutputComparison]:
        found = []
        for name in self.references[0]:
            originals = [reference[name] for reference in self.references]
            allowance = Allowance(self.tolerances, originals, self.noise.get(name))
            accumulator = Accumulator(name, allowance)
            for sample, (original, result) in enumerate(zip(originals, results, strict=False)):
                accumulator.add(sample, original, result[name])
            found.append(accumulator.comparison())
        return found


def _decide(
    levels: Sequence[LevelComparison], floor: Sequence[OutputComparison]
) -> tuple[Verdict, str]:
    disabled, optimized = levels
    if disabled.verdict == "fail":
        return "fail", _describe_worst(disabled.outputs)
    if optimized.verdict == "fail":
        if not all(map(within_tolerance, floor)):
            return "not-verified", (
                "onnxruntime's own optimizations change the original by more than the tolerance"
            )
        return "fail", f"with onnxruntime's optimizations, {_describe_worst(optimized.outputs)}"
    return "pass", ""


def _describe_worst(outputs: Sequence[OutputComparison]) -> str:
    failed = next(each for each in outputs if not within_tolerance(each))
    if failed.nonfinite.original != failed.nonfinite.optimized or not failed.nonfinite.same:
        return (
            f"output {failed.name!r} is NaN or infinite at {failed.nonfinite.optimized} places, "
            f"where the original is at {failed.nonfinite.original}"
        )
    if failed.worst is None:
        return f"output {failed.name!r} has another shape, type or content"
    passes = " and no difference is allowed"
    if failed.needed is not None:
        needed = failed.needed
        passes = f"; it would pass with --rtol {needed.rtol:.2g} --atol {needed.atol:.2g}"
    return (
        f"output {failed.name!r} is {failed.worst.optimized:.6g} at {failed.worst.index} of sample "
        f"{failed.worst.sample}, not {failed.worst.original:.6g}{passes}"
    )


def _is_all_nan(values: Array) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).all())
