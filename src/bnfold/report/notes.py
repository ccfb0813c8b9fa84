"""What the numbers of a check do not say, as sentences that every rendering has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bnfold.record.data import (
    Divergence,
    Equivalence,
    Inconclusive,
    OutputComparison,
    ProviderEquivalence,
    Selection,
    Truth,
    TruthOutput,
)
from bnfold.report.wording import count, number, times


@dataclass(frozen=True)
class Name:
    """A name from a model within a sentence: each rendering marks it in its own way."""

    text: str


Sentence: TypeAlias = Sequence[str | Name]
"""The parts of a sentence, to be joined. It begins in lower case and has no full stop."""


def joined(sentence: Sentence, plain: Callable[[str], str], name: Callable[[str], str]) -> str:
    """Return the sentence with these functions applied to its text and its names."""
    parts = (name(part.text) if isinstance(part, Name) else plain(part) for part in sentence)
    return "".join(parts)


def divergence_note(divergence: Divergence) -> Sentence:
    """Say where two models first diverge, and by how much."""
    node: Sentence = [" ", Name(divergence.node)] if divergence.node else []
    other: Sentence = []
    if divergence.other_value:
        operator: Sentence = [" (", Name(divergence.other_op_type), ")"]
        other = [", in the other ", Name(divergence.other_value), *operator]
    by = f": max |Δ| {number(divergence.max_abs)}" if divergence.max_abs is not None else ""
    compared = f"{count(divergence.compared, 'value')} compared"
    return [
        "the two models first diverge at ",
        Name(divergence.value),
        " (",
        Name(divergence.op_type),
        *node,
        ")",
        *other,
        f"{by}; {compared}",
    ]


def selection_note(selection: Selection) -> Sentence:
    """Say what was compared in place of outputs whose rows are selected, and what was matched."""
    last = selection.operators[-1]
    operators = " and ".join([", ".join(selection.operators[:-1]), last]).removeprefix(" and ")
    others = selection.rows - selection.same
    is_index = {"ArgMax", "ArgMin"}.issuperset(selection.operators)
    kind = "selected element" if is_index else "selected row"
    rows = f"{selection.same:,} of {count(selection.rows, kind)} match"
    after = "the same operators" if selection.same_operators else "equal results on the same values"
    return [
        f"compared before {operators}, with {after} after that; {rows}",
        f", and {others:,} tie with others" if others else "",
    ]


def inconclusive_note(inconclusive: Inconclusive) -> Sentence:
    """Say of an output that it proves nothing, and why."""
    return ["output ", Name(inconclusive.output), " ", inconclusive.reason, " and proves nothing"]


def draws_note(provider: ProviderEquivalence) -> str:
    """Say how often the original was run to estimate its noise, if that is known."""
    if not provider.draws:
        return ""
    return f"the original's rounding noise is estimated from {count(provider.draws, 'run')}"


def narrow_note(provider: ProviderEquivalence) -> str:
    """Say why it passes although float64 shows more than rounding explains, if it does."""
    if not provider.narrow:
        return ""
    return (
        "in float64, it differs by slightly more than rounding explains, but certificates show "
        "that this is the rounding of weights, as of two tools that fold in float32"
    )


def counted(output: OutputComparison, equivalence: Equivalence) -> str:
    """Say how many samples count for an output, if not all of them do."""
    total = equivalence.inputs.samples if equivalence.inputs is not None else 0
    return f"{output.samples} of {total} samples" if 0 < output.samples < total else ""


def remarks(output: OutputComparison) -> list[str]:
    """Say what the numbers of a comparison do not: what was ignored, matched or passed, and why."""
    notes = []
    if output.by_float64:
        only = output.nonfinite.original - output.nonfinite.optimized
        if output.nonfinite.same:
            why = "the original's own rounding is as large (float64)"
            notes.append(f"beyond its tolerance, but {why}")
        else:
            places = f"in the original alone at {count(only, 'place')}"
            notes.append(f"NaN or infinite {places}, where float64 agrees with the other model")
    if output.excused:
        elements = f"{count(output.excused, 'element')} beyond tolerance"
        are, their = ("is", "its") if output.excused == 1 else ("are", "their")
        notes.append(f"{elements} {are} ignored: the last bit decides {their} step")
    if output.exchanged:
        rows = count(output.exchanged, "row")
        notes.append(f"{rows} changed places: the values that order them tie")
    if output.replaced:
        rows, are = count(output.replaced, "row"), "is" if output.replaced == 1 else "are"
        notes.append(
            f"{rows} {are} not the original's, but the original selects them, too, when its inputs "
            "and weights change by their last bit"
        )
    return notes


def output_notes(provider: ProviderEquivalence) -> list[Sentence]:
    """Return the remarks on all outputs; one that holds at several levels appears once."""
    compared: list[tuple[str, list[OutputComparison]]] = [
        *((level.level, level.outputs) for level in provider.levels),
        ("TF32 allowed", provider.tf32),
    ]
    places: dict[tuple[str, str], list[str]] = {}
    for place, outputs in compared:
        for output in outputs:
            for remark in remarks(output):
                places.setdefault((output.name, remark), []).append(place)
    return [
        [Name(name), f" ({' and '.join(where)}): {remark}"]
        for (name, remark), where in places.items()
    ]


def exact_note(output: TruthOutput) -> str:
    """Say how far the two models differ in float64, and what rounding explains of it, if known."""
    ratio = output.ratio
    if ratio is None:
        return ""
    if not ratio:
        return "in float64, the two are equal"
    where = f", at {output.where}" if ratio > 1 and output.where else ""
    explained = f"{times(ratio)} times what rounding explains"
    return f"in float64, the two differ by {number(output.computed_exactly)}, {explained}{where}"


def unit_note(output: TruthOutput) -> str:
    """Name the rounding unit of an output, if it is not its own type, and known."""
    is_known = output.ratio is not None
    return f"rounding unit {output.unit}" if is_known and output.unit != output.dtype else ""


def no_truth_note(truth: Truth) -> str:
    """Say why there is no float64 evaluation, if there is none."""
    if truth.outputs or not truth.note:
        return ""
    what = "float64 evaluation not needed" if truth.needless else "no float64 evaluation"
    return f"{what}: {truth.note}"


def notes(equivalence: Equivalence) -> list[Sentence]:
    """Return all notes, the most important first, for a rendering with little room."""
    several = len(equivalence.providers) > 1
    found: list[Sentence] = []
    if equivalence.divergence is not None:
        found.append(divergence_note(equivalence.divergence))
    for provider in equivalence.providers:
        of_provider: list[Sentence] = [inconclusive_note(item) for item in provider.inconclusive]
        if provider.selection is not None:
            of_provider.insert(0, selection_note(provider.selection))
        of_provider += output_notes(provider)
        if provider.truth is not None:
            of_provider += [
                ["output ", Name(output.name), f": {exact_note(output)}"]
                for output in provider.truth.outputs
                if output.ratio is not None and output.ratio > 1
            ]
            of_provider += [[note] for note in [no_truth_note(provider.truth)] if note]
        of_provider += [[n] for n in (narrow_note(provider), draws_note(provider)) if n]
        prefix = [f"{provider.provider}: "] if several else []
        found += [[*prefix, *sentence] for sentence in of_provider]
    return found
