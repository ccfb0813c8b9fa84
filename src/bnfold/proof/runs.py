"""Runs the other model on one provider, takes all measurements, and decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnfold.errors import SessionError, UsageError
from bnfold.options import CheckOptions
from bnfold.progress import EVALUATING
from bnfold.proof.comparison import STEP_FACTOR
from bnfold.proof.interface import Interface, difference
from bnfold.proof.judging import Judge
from bnfold.proof.original import Original, Undecided, shapes_of
from bnfold.proof.outputs import Results, fill
from bnfold.proof.rescue import judged_by_truth
from bnfold.proof.tolerance import within_tolerance
from bnfold.proof.truth_errors import compare_with_truth, measure
from bnfold.proof.truth_slices import Evaluation, Sample
from bnfold.proof.verdict import (
    FEWEST_SAMPLES,
    Findings,
    beyond_truth,
    decide,
    describe_worst,
    is_near_limit,
)
from bnfold.record.data import (
    Cause,
    Inconclusive,
    LevelComparison,
    OutputComparison,
    ProviderEquivalence,
    Selection,
    Truth,
    Unsettled,
)
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Feeds, Level, Session

TRUTH_SECONDS = 10.0
"""How long the float64 evaluation may take, if it is not asked for in so many words."""

TRUTH_SECONDS_IN_DOUBT = 60.0
"""The same, where an output is beyond its tolerance: then float64 decides."""

_OTHER = "the optimized model"


@dataclass
class ProviderComparison:
    """The comparison of a model with the original, on the original's provider and inputs."""

    original: Original
    path: Path
    checking: CheckOptions
    placement: dict[str, int] | None = None

    @property
    def judge(self) -> Judge:
        """What compares results with those of the original."""
        return Judge(self.original, self.checking)

    def result(self) -> ProviderEquivalence:
        """Take all measurements, then decide.

        Before the rule of `decide` comes into it, the verdict is

        - not-verified, if the original does not run, is not deterministic, or has no output that
          shows anything;
        - fail, if the other model has another interface, or does not run, or gives something else
          than the same number throughout where that is all that the original gives.
        """
        original = self.original
        levels: list[LevelComparison] = []
        floor: list[OutputComparison] = []
        tf32: list[OutputComparison] = []
        truth: Truth | None = None
        cause: Cause = ""
        try:
            original.run()
            self._require_known_names()
            floor = self.judge.compare(original.best)
            levels, plain, best = self._judged(self._run(Level.DISABLED), self._run(Level.ALL))
            if original.provider == "cuda":
                tf32 = self.judge.compare(self._run(Level.ALL, tf32=True))
            if self.checking.truth != "off":
                levels, truth = self._judged_in_float64(levels, plain, best)
            if len(original.draws) > 1:  # they may have left out samples, or added some
                floor = self.judge.compare(original.best)
            verdict, reason = decide(self._findings(levels, floor, truth))
        except Undecided as undecided:
            verdict, reason, cause = undecided.verdict, undecided.reason, undecided.cause
            if cause == "constant-output" and (difference := self._difference_from_constants()):
                verdict, reason, cause = "fail", difference, ""
        placements = [each for each in (original.placement, self.placement) if each is not None]
        return ProviderEquivalence(
            provider=original.provider,
            verdict=verdict,
            reason=reason,
            outputs=levels[0].outputs if levels else [],
            levels=levels,
            noise_floor=floor,
            unsettled=[Unsettled(*where, share) for where, share in original.unsettled.items()],
            truth=truth,
            tf32=tf32,
            placement=placements if len(placements) == 2 else None,
            inconclusive=[Inconclusive(*item) for item in original.inconclusive.items()],
            draws=len(original.draws),
            cause=cause,
        )

    def after_selection(
        self,
        before: ProviderEquivalence,
        inputs: Inputs,
        operators: Sequence[str],
        *,
        is_same: bool,
    ) -> ProviderEquivalence:
        """Run both models in full, once they are equal before they select; say what was matched.

        Not equal before, nothing is run. That both run, and give outputs of the same types, is all
        that is left to show: what comes after the selection is known to be equal.

        Args:
            before: how they compare before.
            inputs: those on which they were compared.
            operators: those that select.
            is_same: whether both have the same operators after that.
        """
        original = self.original
        named = ", ".join(operators)
        if before.verdict == "fail":
            return replace(before, reason=f"before {named}: {before.reason}")
        selection = Selection(list(operators), [], 0, 0, is_same)
        try:
            original.run_again(replace(inputs, samples=min(inputs.samples, FEWEST_SAMPLES)))
            plain = self._run(Level.DISABLED)
            self._run(Level.ALL)
            rows, same = self.judge.common_rows(plain)
            selection = replace(selection, outputs=original.names, rows=rows, same=same)
        except Undecided as undecided:
            return replace(before, verdict=undecided.verdict, reason=undecided.reason)
        placements = [each for each in (original.placement, self.placement) if each is not None]
        placement = placements if len(placements) == 2 else None
        return replace(before, selection=selection, placement=placement)

    def _require_known_names(self) -> None:
        for name in (*self.checking.rtols, *self.checking.atols):
            if name not in self.original.names:
                known = ", ".join(self.original.names)
                raise UsageError(f"a tolerance is given for {name!r}; the outputs are {known}")

    def _findings(
        self,
        levels: Sequence[LevelComparison],
        floor: Sequence[OutputComparison],
        truth: Truth | None,
    ) -> Findings:
        original = self.original
        samples = range(len(original.references))
        few = min(FEWEST_SAMPLES, len(samples))
        never = [name for name in original.names if len(original.settled(name)) < few]
        return Findings(
            levels=levels,
            floor=floor,
            truth=truth,
            never_settled={
                n: max(original.unsettled.get((s, n), 0) for s in samples) for n in never
            },
            settled_once=frozenset(n for n in never if original.settled(n)),
            needs_truth=self.checking.truth == "always",
            asked=frozenset(n for n in original.names if self.checking.asks_for(n)),
        )

    def _judged(
        self, plain: Results, best: Results
    ) -> tuple[list[LevelComparison], Results, Results]:
        """Compare at both levels, with more draws before an output fails; also return the results.

        These are new ones if the original has taken more samples for its draws.
        """
        original = self.original
        levels = self.judge.levels(plain, best)
        while not _passes(levels) and original.draw():
            plain, best = self._on_all_samples(plain, best)
            levels = self.judge.levels(plain, best)
        if original.has_all_draws:
            self._require_same_rows(plain, best)
        return levels, plain, best

    def _judged_in_float64(
        self, levels: list[LevelComparison], plain: Results, best: Results
    ) -> tuple[list[LevelComparison], Truth]:
        """Measure in float64, with more draws before that fails, and more samples near the limit.

        Return the levels as they are then, outputs beyond their tolerance that float64 lets pass
        among them.
        """
        original = self.original
        truth, evaluations = self._truth(plain, in_doubt=not _passes(levels))
        while _passes(levels):
            if beyond_truth(truth) and original.draw():
                plain, best = self._on_all_samples(plain, best)
                levels = self.judge.levels(plain, best)
                truth = self._measured_again(evaluations, plain)
            elif is_near_limit(truth) and original.add_samples():
                levels, plain, best = self._judged(*self._on_all_samples(plain, best))
                truth, evaluations = self._truth(plain, in_doubt=not _passes(levels))
            else:
                break
        return judged_by_truth(self.judge, levels, evaluations, plain, best), truth

    def _difference_from_constants(self) -> str:
        """Return where the other model gives something else than the same number throughout.

        That it gives the same would show nothing. Of floats, zero may be what rounding leaves.
        """
        try:
            outputs = self.judge.compare(self._run(Level.DISABLED))
        except Undecided as undecided:
            return undecided.reason if undecided.verdict == "fail" else ""
        for output in outputs:
            is_float = self.original.references[0][output.name].dtype.kind == "f"
            is_zero = output.worst is not None and output.worst.original == 0
            if not within_tolerance(output) and not (is_float and is_zero):
                return describe_worst([output])
        return ""

    # --- The other model --------------------------------------------------------------------------

    def _run(self, level: Level, *, tf32: bool = False) -> Results:
        original = self.original
        assert original.inputs is not None
        if level is Level.DISABLED:
            self._require_interface()
        original.progress(f"loading {_OTHER} ({original.provider}, optimization {level.value})")
        threads = original.execution.threads
        try:
            session = Session(self.path, original.provider, level, threads, tf32=tf32)
            doing = f"running {_OTHER} (optimization {level.value})"
            results = original.results(session, original.inputs.feeds(), doing=doing)
        except SessionError as error:
            raise Undecided("fail", f"{_OTHER}, optimization {level.value}: {error}") from error
        if level is Level.DISABLED:
            self.placement = session.placement
        fill(results, original.everything)
        self._require_same_arrays(results)
        return results

    def _on_all_samples(self, plain: Results, best: Results) -> tuple[Results, Results]:
        """Return the results at both levels, from new runs if the original has more samples now."""
        if len(plain) == len(self.original.references):
            return plain, best
        return self._run(Level.DISABLED), self._run(Level.ALL)

    def _require_interface(self) -> None:
        assert self.original.inputs is not None
        shapes = shapes_of(self.original.inputs, self.original.references)
        reason = difference(Interface.of(self.original.path), Interface.of(self.path), shapes)
        if reason:
            raise Undecided("fail", reason)

    def _require_same_rows(self, *levels: Results) -> None:
        for results in levels:
            in_order = self.judge.in_order(results, self.original.references)[0]
            self._require_same_arrays(in_order, has_been_matched=True)

    def _require_same_arrays(self, results: Results, *, has_been_matched: bool = False) -> None:
        """The number of elements may depend on the last bit, and then nothing can be said.

        Unless it is a number of rows that can be matched. If they have been, and have no match, a
        number that is much further off than in any draw is a difference.
        """
        original = self.original
        for sample, (one, other) in enumerate(zip(original.references, results, strict=True)):
            for name in original.traits.data_dependent & one.keys():
                sizes, others = one[name].shape, other[name].shape
                is_ordered = name in original.traits.ordered
                if sizes == others or (is_ordered and not has_been_matched):
                    continue
                most = max(_apart(sizes, draw[sample][name].shape) for draw in original.draws)
                is_beyond = is_ordered and _apart(sizes, others) > STEP_FACTOR * most + 1
                raise Undecided(
                    "fail" if is_beyond else "not-verified",
                    f"the shape of output {name!r} depends on the data, and is {others} "
                    f"instead of {sizes}",
                )

    # --- The float64 evaluation -------------------------------------------------------------------

    def _truth(self, results: Results, *, in_doubt: bool) -> tuple[Truth, list[Evaluation]]:
        """Evaluate in float64, first the samples on which all outputs are settled."""
        original = self.original
        assert original.inputs is not None
        original.progress(EVALUATING)
        unsettled = {sample for sample, _ in original.unsettled}
        feeds = original.inputs.sample
        order = sorted(range(len(results)), key=lambda sample: sample in unsettled)
        samples = (self._sample(number, feeds(number), results[number]) for number in order)
        return compare_with_truth(
            original.path,
            self.path,
            samples,
            TRUTH_SECONDS_IN_DOUBT if in_doubt else TRUTH_SECONDS,
            units=original.traits.units,
            steps=original.traits.steps,
            whatever_it_takes=self.checking.truth == "always",
            every_sample=in_doubt,
            arrange=self.judge.in_the_originals_order,
        )

    def _sample(self, number: int, feeds: Feeds, result: dict[str, Any]) -> Sample:
        original = self.original
        return Sample(
            feeds=feeds,
            original=original.references[number],
            optimized=result,
            noise={name: noise.largest[number] for name, noise in original.noise.items()},
            slices={name: noise.slices(number) for name, noise in original.noise.items()},
            number=number,
            unsettled=frozenset(name for at, name in original.unsettled if at == number),
        )

    def _measured_again(self, evaluations: Sequence[Evaluation], results: Results) -> Truth:
        """Measure with what is known by now of the original's noise."""
        known = []
        for each in evaluations:
            number = each.sample.number
            sample = self._sample(number, each.sample.feeds, results[number])
            known.append(self.judge.in_the_originals_order(replace(each, sample=sample)))
        traits = self.original.traits
        return measure(known, traits.units, traits.steps)


def _apart(sizes: Sequence[int], others: Sequence[int]) -> float:
    """Return how many rows there are more or fewer."""
    if len(sizes) != len(others):
        return math.inf
    return max((abs(a - b) for a, b in zip(sizes, others, strict=True)), default=0)


def _passes(levels: Sequence[LevelComparison]) -> bool:
    return all(level.verdict == "pass" for level in levels)
