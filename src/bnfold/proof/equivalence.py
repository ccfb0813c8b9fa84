"""Compares two models on the same inputs, and decides whether they compute the same.

The reference is the original as it is, without onnxruntime's optimizations. The other model is
compared with it at both levels: without them (is the rewrite right?) and with them (does it stay
right after onnxruntime's own rewrites?). The rule of the verdict is `bnfold.proof.verdict.decide`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import EVALUATING, Progress, silent
from bnfold.proof.learned import learned
from bnfold.proof.verdict import of_all
from bnfold.record.data import Equivalence, InputsRecord, ProviderEquivalence, Verdict
from bnfold.running.isolation import CrashedError, isolated
from bnfold.running.runtime import require_provider
from bnfold.scratch import Scratch

_Outcome = tuple[ProviderEquivalence, InputsRecord | None]


def compare_models(
    original: Path,
    optimized: Path,
    execution: ExecutionOptions | None = None,
    checking: CheckOptions | None = None,
    progress: Progress = silent,
    *,
    selections: bool = True,
) -> Equivalence:
    """Run both models on the same inputs and compare all of their outputs.

    Where outputs are rows that are selected by values that may tie, what is compared is what they
    are selected from, if that can be and `selections` is true.

    Each provider's comparison runs in a process of its own: if a model crashes onnxruntime, that is
    a verdict, too.

    Raises:
        ProviderError: if a provider is not available.
        UsageError: if the request for inputs does not fit the model.
    """
    execution, checking = execution or ExecutionOptions(), checking or CheckOptions()
    for provider in execution.providers:
        require_provider(provider)
    _learn_ahead(original, optimized)
    outcomes = [
        _compare_on(provider, original, optimized, execution, checking, progress, selections)
        for provider in execution.providers
    ]
    providers = [outcome for outcome, _ in outcomes]
    verdict, reason = of_all(providers)
    return Equivalence(
        verdict=verdict,
        reason=reason,
        providers=providers,
        inputs=next((inputs for _, inputs in outcomes if inputs is not None), None),
    )


def _learn_ahead(*paths: Path) -> None:
    """Learn about models here, so that all forks have it; one that fails does so there again."""
    for path in paths:
        with suppress(Exception):
            learned(path)


def _compare_on(
    provider: str,
    original: Path,
    optimized: Path,
    execution: ExecutionOptions,
    checking: CheckOptions,
    progress: Progress,
    selections: bool,
) -> _Outcome:
    saves = provider == execution.providers[0]

    def work(told: Progress, scratch: Scratch) -> _Outcome:
        from bnfold.proof.one_provider import compared  # slow to import: only the fork needs it

        outcome, inputs = compared(
            provider,
            original,
            optimized,
            execution,
            checking,
            told,
            scratch if selections else None,
        )
        if inputs is not None and saves and checking.save_inputs is not None:
            inputs.save(checking.save_inputs)
        return outcome, inputs.record() if inputs is not None else None

    try:
        with Scratch() as scratch:
            return isolated(lambda told: work(told, scratch), progress)
    except CrashedError as crash:
        if crash.during == EVALUATING and checking.truth == "auto":
            without = replace(checking, truth="off")  # it took more memory than there is
            return _compare_on(
                provider, original, optimized, execution, without, progress, selections
            )
        # The original has run through by then. SIGKILL comes from a system short of memory.
        is_others = "the optimized model" in crash.during and not crash.is_killed
        verdict: Verdict = "fail" if is_others else "not-verified"
        return ProviderEquivalence(provider, verdict, str(crash), [], [], []), None
