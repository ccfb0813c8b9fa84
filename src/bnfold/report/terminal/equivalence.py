"""Prints how two models were compared: a table of outputs, and what the numbers do not say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from rich.console import Console

from bnfold.record.data import (
    Culprit,
    Equivalence,
    OutputComparison,
    ProviderEquivalence,
    Tolerance,
    Truth,
)
from bnfold.report.notes import (
    Sentence,
    counted,
    divergence_note,
    draws_note,
    exact_note,
    inconclusive_note,
    joined,
    narrow_note,
    no_truth_note,
    output_notes,
    selection_note,
    unit_note,
)
from bnfold.report.terminal.lines import Detail, cell, say, styled, table
from bnfold.report.wording import count, number, times

_MOST_ROWS = 12
"""Outputs of a level that are shown, unless all are asked for."""

_MOST_NOTES = 8

_O = TypeVar("_O")


def print_comparisons(console: Console, equivalence: Equivalence, detail: Detail) -> None:
    """Print each output's error and tolerance, how float64 judges them, and all notes."""
    for provider in equivalence.providers:
        _print_outputs(console, provider, detail)
        if provider.truth is not None and provider.truth.outputs:
            _print_truth(console, provider.truth, detail)
        _print_notes(console, list(_notes(provider, equivalence)), detail)
        if provider.placement is not None and provider.provider != "cpu":
            say(console, f"{provider.provider}, nodes: {placements(provider.placement)}")
    for culprit in equivalence.culprits:
        _print_culprit(console, culprit)
    if equivalence.divergence is not None:
        say(console, _words(divergence_note(equivalence.divergence)))


def _print_outputs(console: Console, provider: ProviderEquivalence, detail: Detail) -> None:
    """Print a table of all outputs at all levels of optimization."""
    if not provider.levels:
        return
    title = f"outputs on {provider.provider}"
    rows = table(title, "max |Δ|", "allowed rtol, atol", "needed rtol, atol")
    compared = {f"optimization {each.level}": each.outputs for each in provider.levels}
    compared |= {"with the device's default rounding": provider.tf32} if provider.tf32 else {}
    for level, outputs in compared.items():
        rows.add_row(level)
        for output in _some(outputs, detail):
            rows.add_row(cell(console, f"  {output.name}"), *_numbers(output))
        if len(outputs) > _MOST_ROWS and detail < Detail.VERBOSE:
            rows.add_row(f"  and {len(outputs) - _MOST_ROWS} more")
    if provider.noise_floor:
        rows.add_row("noise of the original")
        for floor in _some(provider.noise_floor, detail):
            rows.add_row(cell(console, f"  {floor.name}"), number(floor.max_abs))
    console.print(rows)


def _numbers(output: OutputComparison) -> list[str]:
    allowed, needed = output.tolerance, output.needed
    if not (allowed.rtol or allowed.atol):
        return ["unequal" if output.mismatch else "equal"]
    return [number(output.max_abs), _tolerance(allowed), _tolerance(needed) if needed else "none"]


def _tolerance(tolerance: Tolerance) -> str:
    return f"{tolerance.rtol:.1e}, {tolerance.atol:.1e}"


def _print_truth(console: Console, truth: Truth, detail: Detail) -> None:
    """Print a table of the errors against the float64 evaluation of the original."""
    ratios = any(output.ratio is not None for output in truth.outputs)
    apart = ("apart", "× rounding") if ratios else ()
    rows = table("errors in float64", "original", "new", "up to", *apart)
    for output in _some(truth.outputs, detail):
        numbers = [f"{output.original:.2e}", f"{output.optimized:.2e}"]
        numbers.append(f"{output.limit:.1e}" if output.limit is not None else "")
        if output.ratio is not None:
            numbers += [number(output.computed_exactly), times(output.ratio)]
        rows.add_row(cell(console, f"  {output.name}"), *numbers)
    console.print(rows)


def _some(items: Sequence[_O], detail: Detail, most: int = _MOST_ROWS) -> Sequence[_O]:
    return items if detail == Detail.VERBOSE else items[:most]


# --- What the tables do not say -------------------------------------------------------------------


def _print_notes(console: Console, notes: Iterable[str], detail: Detail) -> None:
    notes = list(dict.fromkeys(notes))
    shown = _some(notes, detail, _MOST_NOTES)
    for note in shown:
        say(console, note, indent=2)
    if len(notes) > len(shown):
        say(console, f"and {count(len(notes) - len(shown), 'more note')} (--verbose)", indent=2)


def _notes(provider: ProviderEquivalence, equivalence: Equivalence) -> Iterator[str]:
    """Yield all notes, the most important first."""
    for inconclusive in provider.inconclusive:
        yield _words(inconclusive_note(inconclusive))
    for sample in provider.unsettled:
        where = f"sample {sample.sample} is inconclusive for {sample.output}"
        yield f"{where}: the original changes by {sample.noise:.1%} from rounding alone"
    if provider.selection is not None:
        yield _words(selection_note(provider.selection))
    compared = [*(output for level in provider.levels for output in level.outputs), *provider.tf32]
    for output in compared:
        samples = counted(output, equivalence)
        yield from (f"{output.name}: {note}" for note in (output.mismatch, samples) if note)
    if provider.truth is not None:
        yield from _truth_notes(provider.truth)
    yield from (note for note in (narrow_note(provider), draws_note(provider)) if note)
    yield from map(_words, output_notes(provider))
    for output in compared:
        yield from (f"{output.name}: {note}" for note in [_agreement(output)] if note)


def _truth_notes(truth: Truth) -> Iterator[str]:
    for output in truth.outputs:
        is_far = output.ratio is not None and output.ratio > 1
        for note in (unit_note(output), exact_note(output) if is_far else ""):
            if note:
                yield f"{output.name}: {note}"
    if note := no_truth_note(truth):
        yield note


def _agreement(output: OutputComparison) -> str:
    """Describe how often the best classes agree, if there are classes, and the worst flip."""
    if output.top1_agreement is None:
        return ""
    five = "" if output.top5_agreement is None else f", top-5 in {output.top5_agreement:.2%}"
    flips = max((flip.margin for flip in output.flips), default=None)
    margin = "" if flips is None else f", largest flipped margin {flips:.2g}"
    return f"same top-1 in {output.top1_agreement:.2%}{five}{margin}"


def _words(sentence: Sentence) -> str:
    return joined(sentence, plain=str, name=str)


def _print_culprit(console: Console, culprit: Culprit) -> None:
    detail = f" ({culprit.detail})" if culprit.detail else ""
    dropped = ", which was dropped" if culprit.dropped else ""
    what = f"the check fails with {culprit.pass_name} at {culprit.site}{detail}{dropped}: "
    if culprit.is_certified:
        what = f"the check fails{dropped}: "
    say(console, styled(what, "red"), culprit.reason)


def placements(placement: Sequence[Mapping[str, int]]) -> str:
    """Say which providers run how many nodes, of each model."""
    return " → ".join(
        ", ".join(f"{nodes} on {provider}" for provider, nodes in counts.items())
        for counts in placement
    )
