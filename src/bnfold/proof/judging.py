"""Compares results with those of the original, output by output, within what each may be off by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnfold.options import CheckOptions
from bnfold.proof.comparison import Accumulator
from bnfold.proof.original import Original
from bnfold.proof.outputs import Results
from bnfold.proof.rows import common, matched
from bnfold.proof.tolerance import Allowance, within_tolerance
from bnfold.proof.truth_slices import Evaluation
from bnfold.record.data import LevelComparison, OutputComparison, Verdict
from bnfold.running.runtime import Level


@dataclass(frozen=True)
class Judge:
    """Compares with an original that has run, by the tolerances asked for."""

    original: Original
    checking: CheckOptions

    def levels(self, plain: Results, best: Results) -> list[LevelComparison]:
        """Compare at both levels; at the second, if need be, with the original optimized, too."""
        levels = [
            _level(Level.DISABLED, self.compare(plain)),
            _level(Level.ALL, self.compare(best)),
        ]
        if levels[1].verdict == "fail":
            outputs = self.compare(best, self.original.best)
            if all(map(within_tolerance, outputs)):
                levels[1] = replace(_level(Level.ALL, outputs), against=Level.ALL.value)
        return levels

    def compare(
        self, results: Results, references: Results | None = None
    ) -> list[OutputComparison]:
        """Compare results with the reference outputs, or others, on the settled samples."""
        original = self.original
        references = references or original.references
        allowances = {name: self.allowance(name, references) for name in original.names}
        results, moves = self.in_order(results, references)
        comparisons = []
        for name in original.names:
            samples = original.settled(name)
            if not samples:
                continue
            jumps = name in original.traits.steps
            accumulator = Accumulator(
                name,
                allowances[name],
                jumps=jumps,
                has_neighbours=name not in original.traits.indices,
            )
            for sample in samples:
                draws = [draw[sample][name] for draw in original.draws] if jumps else []
                one, other = references[sample][name], results[sample][name]
                accumulator.add(sample, one, other, draws)
            counted = replace(accumulator.comparison(), samples=len(samples))
            exchanged, replaced = moves.get(name, (0, 0))
            comparisons.append(replace(counted, exchanged=exchanged, replaced=replaced))
        return comparisons

    def allowance(self, name: str, references: Results, samples: Sequence[int] = ()) -> Allowance:
        """Return what an output may be off by, on its settled samples unless others are given.

        Where onnxruntime gives another shape when it optimizes the original, as it does where it
        infers a shape otherwise than it computes it, no noise is known.
        """
        original = self.original
        samples = samples or original.settled(name) or range(len(references))
        values = {sample: references[sample][name] for sample in samples}
        noise = original.noise.get(name)
        if any(value.shape != original.references[at][name].shape for at, value in values.items()):
            noise = None
        is_coarse = name in original.traits.coarse
        unit = original.unit(name)
        return Allowance(self.checking.of(name), unit, values, noise, is_coarse=is_coarse)

    def in_order(
        self, results: Results, references: Results
    ) -> tuple[Results, dict[str, tuple[int, int]]]:
        """Bring the rows of outputs whose order ties leave open into the original's order.

        With how many rows of each output changed places, and how many have others in theirs.
        """
        original = self.original
        allowances = {name: self.allowance(name, references) for name in self.ordered}
        in_order, moves = [], dict.fromkeys(self.ordered, (0, 0))
        for sample, result in enumerate(results):
            chosen = {
                name: references[sample][name]
                for name in self.ordered
                if sample in original.settled(name)
            }
            allowed = {name: allowances[name].limits(sample, chosen[name]) for name in chosen}
            draws = [draw[sample] for draw in original.draws]
            found = matched(chosen, result, allowed, draws)
            in_order.append(found.outputs)
            for name in chosen:
                before = moves[name]
                moves[name] = before[0] + found.exchanged[name], before[1] + found.replaced[name]
        return in_order, moves

    def common_rows(self, results: Results) -> tuple[int, int]:
        """Return how many rows the original has, and how many of them the other model has, too.

        Where there are no rows that are selected, the elements of classes are counted.
        """
        if not self.ordered:
            return self._common_classes(results)
        every = range(len(self.original.references))
        allowances = {n: self.allowance(n, self.original.references, every) for n in self.ordered}
        rows = same = 0
        for sample, (one, other) in enumerate(zip(self.original.references, results, strict=True)):
            chosen = {name: one[name] for name in self.ordered}
            allowed = {n: allowances[n].limits(sample, chosen[n]) for n in chosen}
            counts = common(chosen, other, allowed)
            rows, same = rows + counts[0], same + counts[1]
        return rows, same

    def _common_classes(self, results: Results) -> tuple[int, int]:
        pairs = [
            (one[name], other[name])
            for one, other in zip(self.original.references, results, strict=True)
            for name in self.original.traits.indices & one.keys()
            if one[name].shape == other[name].shape
        ]
        same = sum(int((one == other).sum()) for one, other in pairs)
        return sum(one.size for one, _ in pairs), same

    def in_the_originals_order(self, evaluation: Evaluation) -> Evaluation:
        """Bring rows into the order that the original has in its own type.

        In float64, too, a tie alone excuses another order of the other model.
        """
        sample = evaluation.sample
        values = {
            name: sample.original[name]
            for name in self.ordered
            if name in evaluation.truth and name in evaluation.exact
        }
        # On an unsettled sample, too, so all samples count.
        every = range(len(self.original.references))
        allowances = {n: self.allowance(n, self.original.references, every) for n in values}
        allowed = {name: allowances[name].limits(sample.number, values[name]) for name in values}
        truth = matched(values, evaluation.truth, allowed, any_order=True).outputs
        draws = [evaluation.truth, *(draw[sample.number] for draw in self.original.draws)]
        exact = matched({n: truth[n] for n in values}, evaluation.exact, allowed, draws).outputs
        optimized = matched(values, sample.optimized, allowed, draws).outputs
        return replace(
            evaluation, sample=replace(sample, optimized=optimized), truth=truth, exact=exact
        )

    @property
    def ordered(self) -> list[str]:
        return [name for name in self.original.names if name in self.original.traits.ordered]


def verdict_on(outputs: Sequence[OutputComparison]) -> Verdict:
    """Return pass if each output is within its tolerance, else fail."""
    return "pass" if all(map(within_tolerance, outputs)) else "fail"


def _level(level: Level, outputs: list[OutputComparison]) -> LevelComparison:
    return LevelComparison(level.value, verdict_on(outputs), outputs)
