"""Compares two models on the same inputs, and decides whether they compute the same.

The reference is the original as it stands, without onnxruntime's optimizations. The other model
is held against it at both levels: without them (is the rewrite right?) and with them (does it
stay right after onnxruntime's own rewrites?). The rule of the verdict is
`bnfold.proof.verdict.decide`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.arrays import Array
from bnfold.errors import SessionError
from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Progress, silent
from bnfold.proof.comparison import Accumulator
from bnfold.proof.tolerance import (
    FLIPS_FACTOR,
    FLIPS_SHARE,
    Allowance,
    difference,
    unsettled_share,
    within_tolerance,
)
from bnfold.proof.traits import Interface
from bnfold.proof.truth_errors import Sample, compare_with_truth
from bnfold.proof.verdict import decide, worst_verdict
from bnfold.record.data import (
    Equivalence,
    LevelComparison,
    OutputComparison,
    ProviderEquivalence,
    Truth,
    Unsettled,
    Verdict,
)
from bnfold.running.inputs import Inputs, UnsupportedInput, make_inputs, off_by_the_last_bit
from bnfold.running.runtime import Level, Session, ValueSpec, require_provider

TRUTH_SECONDS = 10.0
"""How long the float64 evaluation may take, if it is not asked for in so many words."""


def compare_models(
    original: Path,
    optimized: Path,
    execution: ExecutionOptions | None = None,
    checking: CheckOptions | None = None,
    progress: Progress = silent,
) -> Equivalence:
    """Run both models on the same inputs and compare all of their outputs.

    Raises:
        ProviderError: if a provider is not available.
        UsageError: if the request for inputs does not fit the model.
    """
    execution, checking = execution or ExecutionOptions(), checking or CheckOptions()
    found = []
    inputs: Inputs | None = None
    interface = Interface(original)
    for provider in execution.providers:
        require_provider(provider)
        comparison = _ProviderComparison(
            original, optimized, interface, provider, execution, checking, progress
        )
        found.append(comparison.result())
        inputs = inputs or comparison.inputs
    if inputs is not None and checking.save_inputs is not None:
        inputs.save(checking.save_inputs)
    return Equivalence(
        verdict=worst_verdict([each.verdict for each in found]),
        reason="; ".join(f"{each.provider}: {each.reason}" for each in found if each.reason),
        providers=found,
        inputs=inputs.record() if inputs is not None else None,
    )


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
    interface: Interface
    provider: str
    execution: ExecutionOptions
    checking: CheckOptions
    progress: Progress
    inputs: Inputs | None = None
    output_specs: Sequence[ValueSpec] = ()
    references: list[dict[str, Any]] = field(default_factory=list)
    optimized_references: list[dict[str, Any]] = field(default_factory=list)
    noise: dict[str, list[Array]] = field(default_factory=dict)
    moved: dict[str, list[Array]] = field(default_factory=dict)
    unsettled: dict[tuple[int, str], float] = field(default_factory=dict)
    flips: dict[str, int] = field(default_factory=dict)
    placement: list[dict[str, int]] = field(default_factory=list)

    def result(self) -> ProviderEquivalence:
        """Take all measurements, then decide.

        Before the rule of `decide` comes into it, the verdict is

        - not-verified, if the original does not run, is not deterministic, or an output of it has
          nothing to compare: no elements, nothing but NaN, or no sample on which it is settled;
        - fail, if the other model has another interface, or does not run.
        """
        levels: list[LevelComparison] = []
        floor: list[OutputComparison] = []
        tf32: list[OutputComparison] = []
        truth: Truth | None = None
        try:
            self._reference_outputs()
            floor = self._noise_floor()
            plain = self._optimized_outputs(Level.DISABLED)
            levels.append(self._compare(Level.DISABLED, plain))
            levels.append(self._compare_optimized(self._optimized_outputs(Level.ALL), floor))
            if self.provider == "cuda":
                tf32 = self._accumulate(self._optimized_outputs(Level.ALL, tf32=True))
            if self.checking.truth != "off" and levels[0].verdict == "pass":
                truth = self._truth(plain)
            needs_truth = self.checking.truth == "always"
            verdict, reason = decide(levels, floor, truth, needs_truth=needs_truth)
        except _Undecided as undecided:
            verdict, reason = undecided.verdict, undecided.reason
        return ProviderEquivalence(
            provider=self.provider,
            verdict=verdict,
            reason=reason,
            outputs=levels[0].outputs if levels else [],
            levels=levels,
            noise_floor=floor,
            unsettled=[
                Unsettled(sample, name, share) for (sample, name), share in self.unsettled.items()
            ],
            truth=truth,
            tf32=tf32,
            placement=self.placement if len(self.placement) == 2 else None,
        )

    def _session(self, path: Path, level: Level, whose: str, *, tf32: bool = False) -> Session:
        self.progress(f"loading {whose} ({self.provider}, optimization {level.value})")
        return Session(path, self.provider, level, self.execution.threads, tf32=tf32)

    def _reference_outputs(self) -> None:
        try:
            session = self._session(self.original, Level.DISABLED, "the original")
            self.inputs = make_inputs(session, self.execution.inputs, self.interface.largest)
            self.output_specs = session.outputs
            self.progress("running the original")
            self.references = [session.run(feeds) for feeds in self.inputs.feeds()]
            again = session.run(next(self.inputs.feeds()))
            moved = [session.run(off_by_the_last_bit(feeds)) for feeds in self.inputs.feeds()]
        except (SessionError, UnsupportedInput) as error:
            raise _Undecided("not-verified", str(error)) from error
        self._note_placement(session)
        for name, value in self.references[0].items():
            if not isinstance(value, np.ndarray):
                raise _Undecided("not-verified", f"output {name!r} is not a tensor")
        if not all(map(within_tolerance, self._accumulate([again]))):
            raise _Undecided("not-verified", "the original disagrees with itself from run to run")
        self._require_something_to_compare()
        self.flips = {each.name: each.shares[-1] for each in self._accumulate(moved)}
        self._note_noise(moved)
        self.moved = dict(self.noise)
        self._require_settled_samples()

    def _require_something_to_compare(self) -> None:
        for name in self.references[0]:
            values = [outputs[name] for outputs in self.references]
            if not any(each.size for each in values):
                raise _Undecided("not-verified", f"output {name!r} has no elements to compare")
            if all(map(_is_all_nan, values)):
                raise _Undecided("not-verified", f"output {name!r} is NaN throughout")
            only = values[0].flat[0] if values[0].size else None
            is_alike = all(bool(np.all(each == only)) for each in values)
            if is_alike and values[0].dtype.kind == "f" and name not in self.interface.fixed:
                reason = f"output {name!r} of the original is {only:g} throughout"
                raise _Undecided("not-verified", reason)

    def _note_placement(self, session: Session) -> None:
        placement = session.placement
        if placement is not None:
            self.placement.append(placement)

    def _noise_floor(self) -> list[OutputComparison]:
        """Compare the original with itself at full optimization, and note the noise."""
        assert self.inputs is not None
        try:
            session = self._session(self.original, Level.ALL, "the original")
            results = [session.run(feeds) for feeds in self.inputs.feeds()]
        except SessionError as error:
            reason = f"the original, optimization all: {error}"
            raise _Undecided("not-verified", reason) from error
        self._note_noise(results)
        self.optimized_references = results
        return self._accumulate(results)

    def _note_noise(self, results: Sequence[dict[str, Any]]) -> None:
        """Keep, element by element, the largest difference of the original from itself."""
        for name in self.references[0]:
            found = [
                difference(reference[name], result[name])
                for reference, result in zip(self.references, results, strict=True)
            ]
            known = self.noise.get(name, found)
            self.noise[name] = [np.maximum(a, b) for a, b in zip(known, found, strict=True)]

    def _require_settled_samples(self) -> None:
        """Leave out the samples on which the original itself does not settle on an output."""
        for name, noise in self.noise.items():
            for sample, each in enumerate(noise):
                share = unsettled_share(self.references[sample][name], each)
                if share is not None:
                    self.unsettled[sample, name] = share
            if all((sample, name) in self.unsettled for sample in range(len(noise))):
                share = max(self.unsettled[sample, name] for sample in range(len(noise)))
                raise _Undecided(
                    "not-verified",
                    f"the original's output {name!r} changes by {share:.1%} when its inputs change "
                    "by their last bit, on every sample",
                )

    def _optimized_outputs(self, level: Level, *, tf32: bool = False) -> list[dict[str, Any]]:
        assert self.inputs is not None
        whose = "the optimized model"
        try:
            session = self._session(self.optimized, level, whose, tf32=tf32)
            self._require_interface(session, self.inputs)
            self.progress(f"running {whose} (optimization {level.value})")
            results = [session.run(feeds) for feeds in self.inputs.feeds()]
        except SessionError as error:
            raise _Undecided("fail", f"{whose}, optimization {level.value}: {error}") from error
        if level is Level.DISABLED:
            self._note_placement(session)
        self._require_shapes(results)
        return results

    def _compare(self, level: Level, results: Sequence[dict[str, Any]]) -> LevelComparison:
        outputs = self._accumulate(results)
        verdict: Verdict = "pass" if all(map(within_tolerance, outputs)) else "fail"
        return LevelComparison(level.value, verdict, outputs)

    def _compare_optimized(
        self, results: Sequence[dict[str, Any]], floor: Sequence[OutputComparison]
    ) -> LevelComparison:
        """Compare at full optimization; with the likewise optimized original if it takes that."""
        found = self._compare(Level.ALL, results)
        if found.verdict == "pass" or all(map(within_tolerance, floor)):
            return found
        outputs = self._accumulate(results, self.optimized_references)
        if not all(map(within_tolerance, outputs)):
            return found
        return LevelComparison(Level.ALL.value, "pass", outputs, against=Level.ALL.value)

    def _require_interface(self, session: Session, inputs: Inputs) -> None:
        for kind, expected, found in (
            ("input", inputs.specs, session.inputs),
            ("output", self.output_specs, session.outputs),
        ):
            names = [[spec.name for spec in specs] for specs in (expected, found)]
            if names[0] != names[1]:
                raise _Undecided("fail", f"the {kind}s are {names[1]}, not {names[0]}")
            for one, other in zip(expected, found, strict=True):
                if not one.accepts(other, is_input=kind == "input"):
                    reason = f"{kind} {one.name!r} is {other.describe()}, not {one.describe()}"
                    raise _Undecided("fail", reason)

    def _require_shapes(self, results: Sequence[dict[str, Any]]) -> None:
        """How many elements are found may hang on the last bit, and then nothing can be said."""
        for original, result in zip(self.references, results, strict=True):
            for name in self.interface.data_dependent:
                shapes = original[name].shape, result[name].shape
                if shapes[0] != shapes[1]:
                    raise _Undecided(
                        "not-verified",
                        f"the shape of output {name!r} depends on the data, and is {shapes[1]} "
                        f"instead of {shapes[0]}",
                    )

    def _truth(self, results: Sequence[dict[str, Any]]) -> Truth:
        """Evaluate in float64; the samples are those of which both models' outputs are at hand."""
        assert self.inputs is not None
        self.progress("evaluating in float64")
        names = list(self.references[0])
        noises = [
            {name: self.moved[name][sample] for name in names} for sample in range(len(results))
        ]
        everything = zip(self.inputs.feeds(), self.references, results, noises, strict=True)
        unsettled = {sample for sample, _ in self.unsettled}
        settled = (each for sample, each in enumerate(everything) if sample not in unsettled)
        return compare_with_truth(
            self.original,
            self.optimized,
            itertools.starmap(Sample, settled),
            TRUTH_SECONDS,
            rounding=self.interface.rounding,
            whatever_it_takes=self.checking.truth == "always",
        )

    def _accumulate(
        self,
        results: Sequence[dict[str, Any]],
        references: Sequence[dict[str, Any]] | None = None,
    ) -> list[OutputComparison]:
        """Compare results, as many as there are, with the reference outputs, or others."""
        references = references or self.references
        found = []
        for name in self.references[0]:
            settled = [s for s in range(len(self.references)) if (s, name) not in self.unsettled]
            originals = [references[sample][name] for sample in settled]
            noise = [self.noise[name][sample] for sample in settled] if self.noise else None
            allowance = Allowance(self.checking, originals, noise)
            excusable = 0
            if name in self.interface.rounding and self.flips:
                elements = sum(each.size for each in originals)
                excusable = FLIPS_FACTOR * self.flips[name] + int(FLIPS_SHARE * elements)
            accumulator = Accumulator(name, allowance, excusable)
            for place, sample in enumerate(settled):
                if sample < len(results):
                    accumulator.add(place, sample, originals[place], results[sample][name])
            found.append(accumulator.comparison())
        return found


def _is_all_nan(values: Array) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).all())
