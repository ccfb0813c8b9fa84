"""Compares two models on the same inputs, and decides whether they compute the same.

The reference is the original as it stands, without onnxruntime's optimizations. The other model
is held against it at both levels: without them (is the rewrite right?) and with them (does it
stay right after onnxruntime's own rewrites?).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.contract import Array
from bnfold.inputs import InputRequest, Inputs, UnsupportedInput, make_inputs
from bnfold.record import (
    Equivalence,
    LevelComparison,
    NonFinite,
    OutputComparison,
    ProviderEquivalence,
    Tolerance,
    Verdict,
    Worst,
)
from bnfold.runtime import Level, Session, SessionError, require_provider

Progress = Callable[[str], None]
"""Called with a few words on what is being done."""

DEFAULT_TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(rtol=1e-9, atol=1e-10),
    "float32": Tolerance(rtol=1e-4, atol=2e-5),
    "float16": Tolerance(rtol=1e-2, atol=5e-3),
}
"""By type of output. Here `atol` is a share of the output's largest magnitude over all samples, so
that outputs around 1e-6 and around 1e6 are judged alike. Other types must be equal."""

NOISE_FLOOR_FACTOR = 4.0
"""How many times the noise floor `atol` is at least: a saturated Sigmoid or Softmax is noisier
than its magnitude tells."""

MOST_NOISE = 1e-3
"""The share of the output's largest magnitude beyond which noise is no excuse."""


@dataclass(frozen=True)
class ToleranceRequest:
    """What the user says of tolerances: None is the default. `atol` is in the output's unit."""

    rtol: float | None = None
    atol: float | None = None

    def tolerance_for(self, originals: Sequence[Array], noise: float) -> Tolerance:
        """Return the tolerance for an output.

        Args:
            originals: what the original gives, sample by sample.
            noise: how far the original is from itself at another optimization level.
        """
        default = DEFAULT_TOLERANCES.get(originals[0].dtype.name)
        if default is None:
            return Tolerance(0.0, 0.0)
        largest = max(map(_largest_magnitude, originals))
        excused = min(NOISE_FLOOR_FACTOR * noise, MOST_NOISE * largest)
        return Tolerance(
            rtol=default.rtol if self.rtol is None else self.rtol,
            atol=max(default.atol * largest, excused) if self.atol is None else self.atol,
        )


def _largest_magnitude(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def compare_models(
    original: Path,
    optimized: Path,
    *,
    providers: Sequence[str] = ("cpu",),
    inputs: InputRequest | None = None,
    tolerances: ToleranceRequest | None = None,
    threads: int | None = None,
    progress: Progress = lambda _: None,
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
    references: list[dict[str, Any]] = field(default_factory=list)
    noise: dict[str, float] = field(default_factory=dict)

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
            floor = self._compare(self.original, Level.ALL, "the original").outputs
            self.noise = {each.name: each.max_abs for each in floor}
            levels.append(self._compare(self.optimized, Level.DISABLED, "the optimized model"))
            levels.append(self._compare(self.optimized, Level.ALL, "the optimized model"))
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
            self.inputs = make_inputs(session, self.request)
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
        if all(_is_all_nan(v) for outputs in self.references for v in outputs.values()):
            raise _Undecided("not-verified", "every output of the original is NaN throughout")

    def _compare(self, path: Path, level: Level, whose: str) -> LevelComparison:
        assert self.inputs is not None
        is_original = path == self.original
        try:
            session = self._session(path, level, whose)
            if not is_original:
                self._require_interface(session, self.inputs)
            self.progress(f"running {whose} (optimization {level.value})")
            results = [session.run(feeds) for feeds in self.inputs.feeds()]
        except SessionError as error:
            verdict = "not-verified" if is_original else "fail"
            raise _Undecided(verdict, f"{whose}, optimization {level.value}: {error}") from error
        outputs = self._accumulate(results)
        verdict = "pass" if all(map(within_tolerance, outputs)) else "fail"
        return LevelComparison(level.value, verdict, outputs)

    def _require_interface(self, session: Session, inputs: Inputs) -> None:
        for kind, expected, found in (
            ("inputs", [spec.name for spec in inputs.specs], session.inputs),
            ("outputs", list(self.references[0]), session.outputs),
        ):
            names = [spec.name for spec in found]
            if names != expected:
                raise _Undecided("fail", f"the {kind} are {names}, not {expected}")

    def _accumulate(self, results: Sequence[dict[str, Any]]) -> list[OutputComparison]:
        found = []
        for name in self.references[0]:
            originals = [reference[name] for reference in self.references]
            tolerance = self.tolerances.tolerance_for(originals, self.noise.get(name, 0.0))
            accumulator = _Accumulator(name, tolerance)
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
    if failed.worst is None or failed.needed is None:
        return f"output {failed.name!r} has another shape, type or content"
    return (
        f"output {failed.name!r} is {failed.worst.optimized:.6g} at {failed.worst.index} of sample "
        f"{failed.worst.sample}, not {failed.worst.original:.6g}; it would pass with "
        f"--rtol {failed.needed.rtol:.2g} --atol {failed.needed.atol:.2g}"
    )


def within_tolerance(comparison: OutputComparison) -> bool:
    """Say whether the output stays within its tolerance at each element."""
    needed, allowed = comparison.needed, comparison.tolerance
    return needed is not None and needed.rtol <= allowed.rtol and needed.atol <= allowed.atol


def _is_all_nan(values: Array) -> bool:
    return values.dtype.kind == "f" and bool(np.isnan(values).all())


class _Accumulator:
    """Gathers the comparison of one output, sample by sample."""

    def __init__(self, name: str, tolerance: Tolerance) -> None:
        self._name = name
        self._tolerance = tolerance
        self._dtype = ""
        self._shape: list[int] = []
        self._max_abs = self._max_rel = self._squares = 0.0
        self._dot = self._original_norm = self._optimized_norm = 0.0
        self._count = 0
        self._share = -1.0
        self._worst: Worst | None = None
        self._comparable = True
        self._nonfinite = NonFinite(0, 0, same=True)

    def add(self, sample: int, original: Array, optimized: Array) -> None:
        """Compare one sample."""
        self._dtype, self._shape = original.dtype.name, list(original.shape)
        if original.dtype != optimized.dtype or original.shape != optimized.shape:
            self._comparable = False
        elif original.dtype.kind == "f":
            self._add_floats(sample, original, optimized)
        else:
            self._comparable &= bool(np.array_equal(original, optimized))
            self._share = max(self._share, 0.0)

    def _add_floats(self, sample: int, original: Array, optimized: Array) -> None:
        a, b = original.astype(np.float64), optimized.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        same = bool(np.array_equal(a[~finite], b[~finite], equal_nan=True))
        self._nonfinite = NonFinite(
            self._nonfinite.original + int(np.count_nonzero(~np.isfinite(a))),
            self._nonfinite.optimized + int(np.count_nonzero(~np.isfinite(b))),
            self._nonfinite.same and same,
        )
        self._comparable &= same
        a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        error = np.abs(a - b)
        self._count += int(np.count_nonzero(finite))
        self._squares += float(np.sum(error**2))
        self._dot += float(np.sum(a * b))
        self._original_norm += float(np.sum(a * a))
        self._optimized_norm += float(np.sum(b * b))
        if not error.size:
            self._share = max(self._share, 0.0)
            return
        self._max_abs = max(self._max_abs, float(error.max()))
        largest = float(np.abs(a).max())
        relative = error / np.maximum(np.abs(a), 1e-3 * largest if largest else 1.0)
        self._max_rel = max(self._max_rel, float(relative.max()))
        allowed = self._tolerance.atol + self._tolerance.rtol * np.abs(a)
        share = np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)
        at = int(share.argmax())
        if float(share.flat[at]) > self._share:
            self._share = float(share.flat[at])
            index = [int(i) for i in np.unravel_index(at, share.shape)]
            self._worst = Worst(sample, index, float(a.flat[at]), float(b.flat[at]))

    def comparison(self) -> OutputComparison:
        """Return what was gathered."""
        norms = np.sqrt(self._original_norm) * np.sqrt(self._optimized_norm)
        needed = None
        if self._comparable and 0 <= self._share < np.inf:
            needed = Tolerance(
                self._tolerance.rtol * self._share, self._tolerance.atol * self._share
            )
        return OutputComparison(
            name=self._name,
            dtype=self._dtype,
            shape=self._shape,
            max_abs=self._max_abs,
            max_rel=self._max_rel,
            rms=float(np.sqrt(self._squares / self._count)) if self._count else 0.0,
            cosine=self._dot / float(norms) if norms else 1.0,
            worst=self._worst,
            tolerance=self._tolerance,
            needed=needed,
            nonfinite=self._nonfinite,
        )
