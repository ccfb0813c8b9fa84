"""Compares two models on one provider, in full or before they select."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import EncodeError

from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Progress
from bnfold.proof.candidates import candidates
from bnfold.proof.original import Original
from bnfold.proof.runs import ProviderComparison
from bnfold.proof.tails import are_equal
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
    outcome = _before_selection(comparison, told, scratch) if scratch is not None else None
    return outcome or comparison.result(), reference.inputs


def _before_selection(
    compared: ProviderComparison, told: Progress, scratch: Scratch
) -> ProviderEquivalence | None:
    """Compare what both models select from; None where they do not, or that decides nothing."""
    whole = compared.original
    checking = compared.checking
    # A tolerance that is asked for is one of the outputs.
    is_asked = any(map(checking.asks_for, [*checking.rtols, *checking.atols, ""]))
    if not (whole.traits.ordered or whole.traits.indices) or is_asked:
        return None
    cut = candidates(whole.path, compared.path)
    if cut is None:
        return None
    paths = scratch.folder / "original.onnx", scratch.folder / "other.onnx"
    for path, model in zip(paths, (cut.original, cut.other), strict=True):
        try:
            path.write_bytes(model.SerializeToString())
        except (ValueError, EncodeError):
            return None  # beyond 2 GiB
    traits = Traits.beside(paths[0], paths[1])
    before = Original(paths[0], traits, whole.provider, whole.execution, told)
    found = ProviderComparison(before, paths[1], checking).result()
    if found.verdict not in ("pass", "fail") or before.inputs is None:
        return None
    if cut.tails is not None and not are_equal(cut.tails, before, whole.traits, checking):
        return None
    is_same = cut.tails is None
    result = compared.after_selection(found, before.inputs, cut.operators, is_same=is_same)
    whole.inputs = before.inputs  # running again may have taken fewer samples
    return result
