"""The rule by which two models are equivalent, and the words for why they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bnfold.proof.tolerance import within_tolerance
from bnfold.record.data import (
    LevelComparison,
    OutputComparison,
    ProviderEquivalence,
    Truth,
    Verdict,
)
from bnfold.text import told_apart

MOST_EXACT_DIFFERENCE = 1e-3
"""Where an output is settled on no sample, the two models may differ by this share in float64."""

FEWEST_SAMPLES = 2
"""A verdict never rests on fewer, unless fewer were given or asked for."""

_NEAR_LIMIT = 0.4
"""In float64, what differs by such a share of what rounding explains is tried on more samples: a
few may have shown too little of it, and where they have few values, more is allowed for chance."""

NARROW = 3.0
"""In float64, what differs by less than so many times what rounding explains may be the rounding of
weights by both of two tools, if certificates show that of each weight."""

_LARGEST_OFFER = 10.0
"""A message offers a tolerance of up to so many times the allowed one. One that is far beyond is
no advice: it would let wrong models pass."""


@dataclass(frozen=True)
class Findings:
    """All that a verdict rests on.

    Args:
        levels: the optimized model against the plain original, without and with onnxruntime's
            optimizations.
        floor: the original against itself, with these optimizations.
        truth: how far both are from the float64 evaluation, if that was wanted.
        never_settled: the outputs that the original's own rounding decides on every sample, or on
            all but one, with their noise as a share of their values.
        settled_once: those of them that are settled on one sample.
        needs_truth: whether there is no pass without the float64 evaluation.
        asked: the outputs for which a tolerance was asked for. It holds for float64, too.
    """

    levels: Sequence[LevelComparison]
    floor: Sequence[OutputComparison] = ()
    truth: Truth | None = None
    never_settled: Mapping[str, float] = field(default_factory=dict)
    settled_once: frozenset[str] = frozenset()
    needs_truth: bool = False
    asked: frozenset[str] = frozenset()


def decide(findings: Findings) -> tuple[Verdict, str]:
    """Return the verdict and, unless it is pass, the reason.

    In this order, the verdict is

    1. fail, if without optimizations an output exceeds its tolerance, and is not as near to the
       float64 evaluation as the original is;
    2. with optimizations likewise, unless it is within its tolerance of the original with
       optimizations; but not-verified if the original itself exceeds its tolerance there;
    3. fail, if in float64 the two differ by more than rounding explains, or an output is further
       from the float64 evaluation than the original's, by more than a factor;
    4. not-verified, if an output is settled on no sample, or on one of several, and float64 does
       not show it to be equal;
    5. likewise, if most of its elements jump, and float64 shows too few samples to be equal;
    6. not-verified, if the float64 evaluation is needed and there is none;
    7. pass.
    """
    disabled, optimized = findings.levels
    if disabled.verdict == "fail":
        return "fail", describe_worst(disabled.outputs)
    if optimized.verdict == "fail":
        if not all(map(within_tolerance, findings.floor)):
            return "not-verified", (
                "onnxruntime's own optimizations change the original by more than the tolerance"
            )
        return "fail", f"with onnxruntime's optimizations, {describe_worst(optimized.outputs)}"
    truth = findings.truth
    if truth is not None and (reason := beyond_truth(truth, findings.asked)):
        return "fail", reason
    for name, noise in findings.never_settled.items():
        if not _is_equal_in_float64(name, truth):
            where = "all samples but one" if name in findings.settled_once else "every sample"
            return "not-verified", (
                f"the original's output {name!r} changes by {noise:.1%} when its inputs and "
                f"weights change by their last bit, on {where}; --data with typical inputs may help"
            )
    for output in truth.outputs if truth is not None else []:
        if output.ratio is None and output.name not in findings.asked:
            return "not-verified", (
                f"most of output {output.name!r} jumps from step to step when the original's "
                "inputs and weights change by their last bit, and in float64 the two differ there; "
                "--data with typical inputs may help"
            )
    if findings.needs_truth and (truth is None or not (truth.outputs or truth.needless)):
        why = truth.note if truth is not None else "it was not evaluated"
        return "not-verified", f"there is no float64 evaluation: {why}"
    return "pass", ""


def is_near_limit(truth: Truth) -> bool:
    """Say whether more samples may show that the two differ by more than rounding explains."""
    ratios = [output.ratio for output in truth.outputs if output.ratio is not None]
    return _NEAR_LIMIT <= max(ratios, default=0.0) <= 1


def is_narrow(provider: ProviderEquivalence) -> bool:
    """Say whether all that fails is that float64 shows slightly more than rounding explains.

    Two tools that fold a model in float32 round its weights several times each.
    """
    truth = provider.truth
    if provider.verdict != "fail" or truth is None or not provider.reason:
        return False
    if provider.reason != beyond_truth(truth):
        return False
    outputs = [
        replace(each, ratio=min(each.ratio, 1.0) if each.ratio < NARROW else each.ratio)
        if each.ratio is not None
        else each
        for each in truth.outputs
    ]
    return not beyond_truth(replace(truth, outputs=outputs))


def beyond_truth(truth: Truth, asked: frozenset[str] = frozenset()) -> str:
    """Return why the optimized model is too far from the float64 evaluation, or nothing.

    The outputs for which a tolerance is asked do not count.
    """
    for output in truth.outputs:
        if output.name in asked:
            continue
        if output.ratio is not None and output.ratio > 1:
            explained = f"1/{output.ratio:.3g} of that" if output.ratio < 1e6 else "none"
            return (
                f"in float64, output {output.name!r} differs by {output.computed_exactly:.2g} "
                f"(relative RMS); at {output.where}, rounding explains {explained}"
            )
        if output.limit is not None and output.optimized > output.limit:
            return (
                f"output {output.name!r} is within its tolerance, but off the float64 evaluation "
                f"by {output.optimized:.2g} (relative RMS), and the original by "
                f"{output.original:.2g}"
            )
    return ""


def _is_equal_in_float64(name: str, truth: Truth | None) -> bool:
    outputs = truth.outputs if truth is not None else []
    return any(
        output.name == name
        and output.ratio is not None
        and output.ratio <= 1
        and output.computed_exactly <= MOST_EXACT_DIFFERENCE
        for output in outputs
    )


def of_all(providers: Sequence[ProviderEquivalence]) -> tuple[Verdict, str]:
    """Return the verdict over all providers, and the reasons of each."""
    reasons = [f"{each.provider}: {each.reason}" for each in providers if each.reason]
    return worst_verdict([each.verdict for each in providers]), "; ".join(reasons)


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return fail if there is one, else not-verified if there is one or nothing, else pass."""
    if "fail" in verdicts:
        return "fail"
    is_pass = bool(verdicts) and all(verdict == "pass" for verdict in verdicts)
    return "pass" if is_pass else "not-verified"


def describe_worst(outputs: Sequence[OutputComparison]) -> str:
    """Say of the first output that exceeds its tolerance where it does, and by how much."""
    failed = next(output for output in outputs if not within_tolerance(output))
    if failed.nonfinite.original != failed.nonfinite.optimized or not failed.nonfinite.same:
        return (
            f"output {failed.name!r} is NaN or infinite at {failed.nonfinite.optimized} places, "
            f"where the original is at {failed.nonfinite.original}"
        )
    if failed.mismatch:
        return f"output {failed.name!r} {failed.mismatch}"
    assert failed.worst is not None
    optimized, original = told_apart(failed.worst.optimized, failed.worst.original)
    return (
        f"output {failed.name!r} is {optimized} at {failed.worst.index} of sample "
        f"{failed.worst.sample}, not {original}{_what_would_pass(failed)}"
    )


def _what_would_pass(failed: OutputComparison) -> str:
    needed, allowed = failed.needed, failed.tolerance
    if needed is None:
        return ", and no difference is allowed"
    is_near = needed.rtol <= _LARGEST_OFFER * allowed.rtol and allowed.rtol
    if is_near or needed.atol <= _LARGEST_OFFER * allowed.atol:
        return f"; it would pass with --rtol {needed.rtol:.2g} --atol {needed.atol:.2g}"
    times = max(
        (
            one / other
            for one, other in ((needed.rtol, allowed.rtol), (needed.atol, allowed.atol))
            if other
        ),
        default=0.0,
    )
    return f", which is {times:.3g} times what is allowed"
