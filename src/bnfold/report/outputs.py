"""A row for each output of a check: how far the two models are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.record.data import Equivalence, OutputComparison, ProviderEquivalence, TruthOutput
from bnfold.report.notes import counted
from bnfold.report.summary import share_of_tolerance


@dataclass(frozen=True)
class OutputRow:
    """An output, over all levels of optimization."""

    output: OutputComparison
    samples: str
    """How many samples count, if not all do."""
    errors: list[float | None]
    """The largest difference at each level."""
    floor: float | None
    """The largest difference of the original from itself."""
    share: float | None
    """The largest share of its tolerance that an element uses."""
    truth: TruthOutput | None


def output_rows(provider: ProviderEquivalence, equivalence: Equivalence) -> list[OutputRow]:
    """Return the outputs of a provider, in order."""
    levels = [({each.name: each for each in level.outputs}, level) for level in provider.levels]
    floor = {each.name: each.max_abs for each in provider.noise_floor}
    truth = {each.name: each for each in (provider.truth.outputs if provider.truth else [])}
    rows = []
    for output in provider.outputs:
        found = [outputs.get(output.name) for outputs, _ in levels]
        shares = [share_of_tolerance(each) for each in found if each is not None]
        known = [share for share in shares if share is not None]
        rows.append(
            OutputRow(
                output=output,
                samples=counted(output, equivalence),
                errors=[each.max_abs if each is not None else None for each in found],
                floor=floor.get(output.name),
                share=max(known) if known and len(known) == len(shares) else None,
                truth=truth.get(output.name),
            )
        )
    return rows
