"""Compares two models on one provider, in full or before they select."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from google.protobuf.message import EncodeError

from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Progress
from bnfold.proof.candidates import Candidates, candidates
from bnfold.proof.original import Original
from bnfold.proof.runs import ProviderComparison
from bnfold.proof.stages import difference_in_stages, written
from bnfold.proof.traits import Traits
from bnfold.record.data import ProviderEquivalence
from bnfold.running.inputs import Inputs
from bnfold.scratch import Scratch


def compared(
    provider: str,
    original: Path,
    optimized: Path,
    execution: ExecutionOptions,
    checking: CheckOptions,
    told: Progress,
    scratch: Scratch | None,
) -> tuple[ProviderEquivalence, Inputs | None]:
    """Return how the models compare, and the inputs on which.

    With a scratch folder, what is compared are the values that outputs are selected from, if that
    decides.

    Raises:
        UsageError: if the request for inputs does not fit the model.
    """
    traits = Traits.beside(original, optimized)
    reference = Original(original, traits, provider, execution, told)
    comparison = ProviderComparison(reference, optimized, checking)
    outcome = _before_selection(comparison, told, scratch) if scratch is not None else ""
    if isinstance(outcome, ProviderEquivalence):
        return outcome, reference.inputs
    whole = comparison.result()
    if outcome and whole.verdict == "not-verified":
        whole = replace(whole, verdict="fail", reason=outcome)
    return whole, reference.inputs


def _before_selection(
    compared: ProviderComparison, told: Progress, scratch: Scratch
) -> ProviderEquivalence | str:
    """Compare what both models select from.

    Where they do not, or that does not show them to be equal, return where they differ after that,
    or nothing if that is not known.
    """
    whole = compared.original
    checking = compared.checking
    # A tolerance that is asked for is one of the outputs.
    is_asked = any(map(checking.asks_for, [*checking.rtols, *checking.atols, ""]))
    if not (whole.traits.ordered or whole.traits.indices) or is_asked:
        return ""
    cut = candidates(whole.path, compared.path)
    result = _compared_at(cut, compared, told, scratch) if cut is not None else ""
    has_failed = isinstance(result, ProviderEquivalence) and result.verdict == "fail"
    if cut is not None and not has_failed:
        return result
    # What is selected from may be other functions of the same values, which keep their order.
    earlier = candidates(whole.path, compared.path, earlier=True)
    if earlier is None or earlier.is_whole:
        return result if earlier is None else ""
    again = _compared_at(earlier, compared, told, scratch)
    if isinstance(again, str):
        return result
    if again.verdict != "pass":
        return again if cut is None else result
    return _with_ties(again)


_TIES = 1e-3
"""The share of what is selected that ties may decide, if an increasing function rounds it."""


def _with_ties(found: ProviderEquivalence) -> ProviderEquivalence:
    """Return a pass, or a fail if both models select other elements than ties explain.

    Functions that increase give ties where they saturate, and are not defined everywhere.
    """
    chosen = found.selection
    if chosen is None or chosen.same >= (1 - _TIES) * chosen.rows:
        return found
    reason = (
        "functions that increase with the same values select others: "
        f"{chosen.same} of {chosen.rows} selected elements match"
    )
    return replace(found, verdict="fail", reason=reason, cause="other-ties")


def _compared_at(
    cut: Candidates, compared: ProviderComparison, told: Progress, scratch: Scratch
) -> ProviderEquivalence | str:
    """Compare both models where they are cut, and what comes after, unless it is the same."""
    whole, checking = compared.original, compared.checking
    try:
        paths = written(cut.original, cut.other, scratch.folder)
    except (ValueError, EncodeError):
        return ""  # beyond 2 GiB
    traits = Traits.beside(paths[0], paths[1])
    before = Original(paths[0], traits, whole.provider, whole.execution, told)
    found = ProviderComparison(before, paths[1], checking).result()
    if found.verdict not in ("pass", "fail") or before.inputs is None:
        return ""
    if cut.tails is not None:
        folder = scratch.folder
        later = difference_in_stages(cut.tails, before, whole.traits, checking, folder)
        if later is not None:
            return later
    is_same = cut.tails is None
    result = compared.after_selection(found, before.inputs, cut.operators, is_same=is_same)
    whole.inputs = before.inputs  # running again may have taken fewer samples
    return result
