"""Finds the rewrite with which a model is no longer equivalent to its original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Progress
from bnfold.proof.equivalence import compare_models
from bnfold.proof.tolerance import within_tolerance
from bnfold.record.data import Culprit, Equivalence, OutputComparison, RewriteRecord
from bnfold.rewriting.contract import General, Refusal
from bnfold.rewriting.engine import Site, Unwanted
from bnfold.workflow.variants import Variants


def find_culprit(
    reference: Path,
    failed: Equivalence,
    rewrites: list[RewriteRecord],
    variants: Variants,
    execution: ExecutionOptions,
    checking: CheckOptions,
    unwanted: Unwanted,
    progress: Progress,
) -> Culprit | None:
    """Bisect over the rewrites; return the first with which the check fails.

    It fails with the first k rewrites and passes with the first k − 1; the culprit is the k-th.
    None if it fails without any: then the passes are innocent.

    Args:
        reference: the original.
        failed: what the check has found.
        rewrites: those of the model that fails, in the order in which they were made.
        variants: makes the model with some of them.
        execution: where and on what to compare.
        checking: how strictly to compare; in float64 only if that has decided.
        unwanted: rewrites that are left out anyhow.
        progress: is told what is tried.
    """
    needs_truth = any(
        each.verdict == "fail" and all(level.verdict == "pass" for level in each.levels)
        for each in failed.providers
        if each.levels
    )
    truth = checking.truth if needs_truth else "off"
    quick = replace(checking, truth=truth, save_inputs=None)

    def compare(count: int) -> Equivalence:
        progress(f"looking for the culprit among {len(rewrites)} rewrites, with {count} of them")
        allowed = {(each.pass_name, each.site) for each in rewrites[:count]}
        place = variants.write(variants.without(_only(allowed, unwanted)).model)
        try:
            return compare_models(reference, place, execution, quick)
        finally:
            variants.discard(place)

    failing = compare(len(rewrites))
    if failing.verdict != "fail" or compare(0).verdict == "fail":
        return None
    passes, fails = 0, len(rewrites)
    while fails - passes > 1:
        middle = (passes + fails) // 2
        found = compare(middle)
        if found.verdict == "fail":
            fails, failing = middle, found
        else:
            passes = middle
    return _culprit(rewrites[fails - 1], failing)


def _only(allowed: set[Site], unwanted: Unwanted) -> Callable[[Site], Refusal | None]:
    def reason(site: Site) -> Refusal | None:
        return unwanted(site) or (None if site in allowed else General.UNDER_SUSPICION)

    return reason


def _culprit(rewrite: RewriteRecord, equivalence: Equivalence) -> Culprit:
    failed = _failed_output(equivalence)
    return Culprit(
        pass_name=rewrite.pass_name,
        site=rewrite.site,
        nodes=rewrite.nodes,
        detail=rewrite.detail,
        reason=equivalence.reason,
        output=failed.name if failed is not None else "",
        worst=failed.worst if failed is not None else None,
        dropped=False,
    )


def _failed_output(equivalence: Equivalence) -> OutputComparison | None:
    outputs = (
        output
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
    )
    return next((each for each in outputs if not within_tolerance(each)), None)
