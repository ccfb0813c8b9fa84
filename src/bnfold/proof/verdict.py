"""The rule by which two models are equivalent, and the words for why they are not."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.proof.tolerance import within_tolerance
from bnfold.record.data import LevelComparison, OutputComparison, Truth, Verdict


def decide(
    levels: Sequence[LevelComparison],
    floor: Sequence[OutputComparison],
    truth: Truth | None,
    *,
    needs_truth: bool = False,
) -> tuple[Verdict, str]:
    """Return the verdict and, unless it is pass, the reason.

    Args:
        levels: the optimized model against the plain original, without and with onnxruntime's
            optimizations.
        floor: the original against itself, with these optimizations.
        truth: how far both are from the float64 evaluation, if that was wanted.
        needs_truth: whether there is no pass without it.

    In this order, the verdict is

    1. fail, if without optimizations an output exceeds its tolerance;
    2. with optimizations likewise, unless it is within its tolerance of the original with
       optimizations; but not-verified if the original itself exceeds its tolerance there;
    3. fail, if an output is further from the truth than the original's, by more than a factor;
    4. not-verified, if truth is needed and there is none;
    5. pass.
    """
    disabled, optimized = levels
    if disabled.verdict == "fail":
        return "fail", describe_worst(disabled.outputs)
    if optimized.verdict == "fail":
        if not all(map(within_tolerance, floor)):
            return "not-verified", (
                "onnxruntime's own optimizations change the original by more than the tolerance"
            )
        return "fail", f"with onnxruntime's optimizations, {describe_worst(optimized.outputs)}"
    for output in truth.outputs if truth is not None else ():
        if output.limit is not None and output.optimized > output.limit:
            return "fail", (
                f"output {output.name!r} is within its tolerance, but off the float64 evaluation "
                f"by {output.optimized:.2g} (relative RMS), and the original by "
                f"{output.original:.2g}"
            )
    if needs_truth and (truth is None or not (truth.outputs or truth.needless)):
        why = truth.note if truth is not None else "it was not evaluated"
        return "not-verified", f"there is no float64 evaluation: {why}"
    return "pass", ""


def worst_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Return fail if there is one, else not-verified if there is one or nothing, else pass."""
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts and all(each == "pass" for each in verdicts) else "not-verified"


def describe_worst(outputs: Sequence[OutputComparison]) -> str:
    """Say of the first output that exceeds its tolerance where it does, and by how much."""
    failed = next(each for each in outputs if not within_tolerance(each))
    if failed.nonfinite.original != failed.nonfinite.optimized or not failed.nonfinite.same:
        return (
            f"output {failed.name!r} is NaN or infinite at {failed.nonfinite.optimized} places, "
            f"where the original is at {failed.nonfinite.original}"
        )
    if failed.mismatch:
        return f"output {failed.name!r} {failed.mismatch}"
    assert failed.worst is not None
    passes = " and no difference is allowed"
    if failed.needed is not None:
        needed = failed.needed
        passes = f"; it would pass with --rtol {needed.rtol:.2g} --atol {needed.atol:.2g}"
    return (
        f"output {failed.name!r} is {failed.worst.optimized:.6g} at {failed.worst.index} of sample "
        f"{failed.worst.sample}, not {failed.worst.original:.6g}{passes}"
    )
