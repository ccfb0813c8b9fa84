"""Finds the rewrite that makes a model fail the check."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Counted, Progress
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
    """Bisect the rewrites; return the first with which the check fails.

    It passes with the first k − 1 rewrites and fails with the first k; the culprit is the k-th.
    None if it fails without any rewrite: then no pass is to blame.

    Args:
        reference: the original.
        failed: the comparison that failed.
        rewrites: the rewrites of the failing model, in the order in which they were made.
        variants: makes the model with some of the rewrites.
        execution: the providers and inputs to compare on.
        checking: how strictly to compare; float64 is used only if it decided the failure.
        unwanted: the rewrites that are left out in any case.
        progress: called with a message for each trial.
    """
    needs_truth = any(
        provider.verdict == "fail" and all(level.verdict == "pass" for level in provider.levels)
        for provider in failed.providers
        if provider.levels
    )
    truth = checking.truth if needs_truth else "off"
    quick = replace(checking, truth=truth, save_inputs=None)

    trials = itertools.count(1)
    most_trials = 2 + len(rewrites).bit_length()  # both ends, then half of what is left

    def compare(count: int) -> Equivalence:
        doing = f"looking for the culprit: the first {count} of {len(rewrites)} rewrites"
        progress(Counted(doing, next(trials), most_trials))
        allowed = {(rewrite.pass_name, rewrite.site) for rewrite in rewrites[:count]}
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
        equivalence = compare(middle)
        if equivalence.verdict == "fail":
            fails, failing = middle, equivalence
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
    return next((output for output in outputs if not within_tolerance(output)), None)
