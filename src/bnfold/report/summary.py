"""What all renderings share: the headline, notes on the check, groups of rewrites and refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bnfold.record.data import (
    Culprit,
    Divergence,
    Equivalence,
    Inconclusive,
    OutputComparison,
    ProviderEquivalence,
    Record,
    RefusalRecord,
    RewriteRecord,
    Selection,
    SpeedRecord,
    Truth,
    TruthOutput,
)
from bnfold.report.certificates import certificate_summary, is_of_certificate
from bnfold.report.wording import count, interval, number, percent, shortened, sizes, times

LONGEST_REASON = 400
"""The most characters of a reason in the headline."""

_TONES = {
    "pass": "good",
    "certified": "good",
    "identical": "good",
    "fail": "bad",
    "not-verified": "open",
    "faster": "good",
    "slower": "bad",
}
CERTIFIED = "while running both models could not decide"
"""What follows the verdict "certified", and is followed by the reason."""

_MOST_CHANGES = 3
_MOST_SPEEDS = 3


@dataclass(frozen=True)
class Headline:
    """The most important results. A line that does not apply is empty."""

    verdict: str
    tone: str
    """``good``, ``bad``, ``open`` or ``neutral``."""
    meaning: str
    certificates: str
    """How many rewrites are proven, and how exactly."""
    speed: list[str]
    """A line for each timing, full optimization first."""
    change: str


def headline(record: Record) -> Headline:
    """Summarize a record."""
    verdict = verdict_of(record)
    certificates = certificate_summary(record)
    return Headline(
        verdict=verdict,
        tone=_TONES.get(verdict, "neutral"),
        meaning=_meaning(record),
        certificates=str(certificates) if certificates is not None else "",
        speed=_speed_lines(record),
        change=_change_line(record),
    )


def verdict_of(record: Record) -> str:
    """Return the verdict in a word or two: on equivalence, else on speed."""
    if record.equivalence is not None:
        return record.equivalence.verdict
    if record.output is not None:
        return "not checked"
    if record.speed:
        return _main_speed(record).verdict or "timed"
    return "explained"


def subject_of(record: Record) -> str:
    """Return what to call the second model, which may come from any tool."""
    return "candidate" if record.candidate is not None else "optimized model"


def _meaning(record: Record) -> str:
    equivalence, subject = record.equivalence, subject_of(record)
    if equivalence is None:
        if record.output is not None:
            return "not compared with the original (--no-check)"
        if record.speed:
            main = _main_speed(record)
            return f"{main.provider}, {level_text(main.level)}"
        return "what optimize would do; nothing was written"
    if equivalence.verdict == "identical":
        return "nothing to rewrite: the output is identical to the input"
    if equivalence.verdict == "pass":
        share = worst_share(equivalence)
        worst = f"; the worst element uses {percent(share)} of its tolerance"
        where = " and ".join(provider.provider for provider in equivalence.providers)
        outputs = sum(len(provider.outputs) for provider in equivalence.providers[:1])
        open_ones = sum(len(provider.inconclusive) for provider in equivalence.providers[:1])
        inconclusive = f", {open_ones:,} inconclusive" if open_ones else ""
        unsettled = sum(len(provider.unsettled) for provider in equivalence.providers)
        excluded = f"; {count(unsettled, 'comparison')} excluded" if unsettled else ""
        return (
            f"the {subject} computes the same values as the original: "
            f"{count(outputs, 'output')} on {where}{inconclusive}"
            f"{worst if share is not None else ''}{_by_float64(equivalence)}{excluded}"
        )
    culprit = culprit_of(equivalence)
    because = ""
    if culprit is not None and not is_of_certificate(culprit):
        because = f", because of {culprit.pass_name} at {shortened(culprit.site)}"
    opening = {
        "fail": f"the {subject} computes different values",
        "certified": f"each {'rewrite' if record.rewrites else 'output'} is proven, {CERTIFIED}",
    }.get(equivalence.verdict, "equivalence could not be decided")
    return f"{opening}{because}: {shortened(equivalence.reason, LONGEST_REASON)}"


def culprit_of(equivalence: Equivalence) -> Culprit | None:
    """Return the rewrite that makes the check fail, if one was found and not dropped."""
    return next((culprit for culprit in equivalence.culprits if not culprit.dropped), None)


def worst_share(equivalence: Equivalence) -> float | None:
    """Return the largest share of its tolerance that an element uses, at any level.

    Outputs that pass by float64 instead do not count. None if it is not known of some other output.
    """
    shares = [
        share_of_tolerance(output)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
        if not output.by_float64
    ]
    known = [share for share in shares if share is not None]
    return max(known, default=None) if len(known) == len(shares) else None


def share_of_tolerance(output: OutputComparison) -> float | None:
    """Return the share of its tolerance that the worst element uses.

    Return None if no tolerance would pass, or if elements beyond it are ignored.
    """
    needed, allowed = output.needed, output.tolerance
    if needed is None or output.excused:
        return None
    shares = [
        used / limit
        for used, limit in ((needed.atol, allowed.atol), (needed.rtol, allowed.rtol))
        if limit > 0
    ]
    return max(shares, default=0.0)


def _by_float64(equivalence: Equivalence) -> str:
    names = {
        (provider.provider, output.name)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
        if output.by_float64
    }
    if not names:
        return ""
    exceed = "exceeds its" if len(names) == 1 else "exceed their"
    why = "the original's own rounding is as large"
    return f"; {count(len(names), 'output')} {exceed} tolerance, but {why}"


# --- Notes on the check ---------------------------------------------------------------------------


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
    rows = f"{selection.same:,} of {count(selection.rows, 'selected row')} match"
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


def counted(output: OutputComparison, equivalence: Equivalence) -> str:
    """Say how many samples count for an output, if not all of them do."""
    total = equivalence.inputs.samples if equivalence.inputs is not None else 0
    return f"{output.samples} of {total} samples" if 0 < output.samples < total else ""


def remarks(output: OutputComparison) -> list[str]:
    """Say what the numbers of a comparison do not: what was ignored, matched or passed, and why."""
    notes = []
    if output.by_float64:
        why = "the original's own rounding is as large (float64)"
        notes.append(f"beyond its tolerance, but {why}")
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
        of_provider += [[note] for note in [draws_note(provider)] if note]
        prefix = [f"{provider.provider}: "] if several else []
        found += [[*prefix, *sentence] for sentence in of_provider]
    return found


# --- Speed ----------------------------------------------------------------------------------------


def _main_speed(record: Record) -> SpeedRecord:
    """Return the timing with full optimization, onnxruntime's default."""
    return next((speed for speed in record.speed if speed.level == "all"), record.speed[0])


def level_text(level: str) -> str:
    """Describe an optimization level of onnxruntime."""
    texts = {"all": "all onnxruntime optimizations", "disabled": "no onnxruntime optimizations"}
    return texts.get(level, f"onnxruntime optimization {level}")


def _speed_lines(record: Record) -> list[str]:
    note = [record.speed_note] if record.speed_note else []
    several = len({(speed.provider, str(speed.shapes)) for speed in record.speed}) > 1
    lines = []
    for speed in record.speed[:_MOST_SPEEDS]:
        shapes = ", ".join(sizes(shape) for shape in speed.shapes.values())
        where = f"{speed.provider}, {shapes}, {level_text(speed.level)}"
        where = where if several else level_text(speed.level)
        if speed.speedup is None or speed.ci95 is None:
            lines.append(f"{speed.original_ms:.4g} ms, {where}")
        else:
            ratio = interval(speed.speedup, speed.ci95)
            lines.append(f"{ratio} times as fast: {speed.verdict}, {where}")
    more = len(record.speed) - len(lines)
    return [*lines, *([f"and {more} more"] if more > 0 else []), *note]


# --- What changed ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatorChange:
    """The number of nodes of an operator before and after."""

    name: str
    before: int
    after: int

    @property
    def change(self) -> str:
        """The difference, with its sign."""
        return f"{self.after - self.before:+d}" if self.after != self.before else "0"


def operators_after(record: Record) -> dict[str, int] | None:
    """Return the operators of the second model, if there is one."""
    second = record.output or record.candidate
    return second.ops if second is not None else None


def operator_changes(before: Mapping[str, int], after: Mapping[str, int]) -> list[OperatorChange]:
    """Return the operators whose number changed, most frequent first, then the total."""
    names = sorted({*before, *after}, key=lambda name: (-before.get(name, 0), name))
    rows = [OperatorChange(name, before.get(name, 0), after.get(name, 0)) for name in names]
    changed = [row for row in rows if row.before != row.after]
    return [*changed, OperatorChange("all nodes", sum(before.values()), sum(after.values()))]


def _change_line(record: Record) -> str:
    kept = _kept(record)
    after = operators_after(record)
    if after is None:
        rewritten = f"{count(len(record.rewrites), 'rewrite')} would be made"
        is_explained = bool(record.rewrites or record.refusals)
        return ", ".join([rewritten, *([kept] if kept else [])]) if is_explained else ""
    *changes, total = operator_changes(record.model.ops, after)
    changes.sort(key=lambda change: -abs(change.after - change.before))
    parts = [f"{shortened(c.name)} {c.before} → {c.after}" for c in changes[:_MOST_CHANGES]]
    by = ""
    if record.output is not None:
        passes = len({rewrite.pass_name for rewrite in record.rewrites})
        by = f"{count(len(record.rewrites), 'rewrite')} by {count(passes, 'pass')}: "
    nodes = f"{by}nodes {total.before:,} → {total.after:,}"
    return "; ".join([", ".join([nodes, *parts]), *([kept] if kept else [])])


def _kept(record: Record) -> str:
    """Describe how many candidates are kept, and how many rewrites were dropped."""
    culprits = record.equivalence.culprits if record.equivalence is not None else []
    dropped = sum(culprit.dropped for culprit in culprits)
    parts = [f"{count(len(record.refusals), 'candidate')} kept"] if record.refusals else []
    parts += [f"{count(dropped, 'rewrite')} dropped after the check failed"] if dropped else []
    return ", ".join(parts)


@dataclass(frozen=True)
class RewriteGroup:
    """Rewrites of the same kind by one pass."""

    pass_name: str
    exactness: str
    what: str
    rewrites: list[RewriteRecord]


def rewrite_groups(rewrites: Sequence[RewriteRecord]) -> list[RewriteGroup]:
    """Group rewrites by pass, operator and detail, most frequent first."""
    keys = [
        (rewrite.pass_name, rewrite.exactness, f"{rewrite.op_type} {rewrite.detail}".strip())
        for rewrite in rewrites
    ]
    members: dict[tuple[str, str, str], list[RewriteRecord]] = {}
    for key, rewrite in zip(keys, rewrites, strict=True):
        members.setdefault(key, []).append(rewrite)
    return [RewriteGroup(*key, members[key]) for key, _ in Counter(keys).most_common()]


@dataclass(frozen=True)
class RefusalGroup:
    """Nodes of an operator that are kept for the same reason."""

    op_type: str
    reason: str
    message: str
    remedy: str
    refusals: list[RefusalRecord]


def refusal_groups(refusals: Sequence[RefusalRecord]) -> list[RefusalGroup]:
    """Group refusals by operator and reason, in order of first occurrence."""
    groups: dict[tuple[str, str, str], list[RefusalRecord]] = {}
    for refusal in refusals:
        reason, message = refusal.reason, refusal.message
        if refusal.also_reason:
            reason += f", downstream {refusal.also_reason}"
            message += f"; downstream, {refusal.also_message}"
        groups.setdefault((refusal.op_type, reason, message), []).append(refusal)
    return [RefusalGroup(*key, group[0].remedy, group) for key, group in groups.items()]
