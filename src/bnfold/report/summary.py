"""What all renderings say alike: the headline, and how rewrites and refusals are grouped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnfold.record.data import (
    Culprit,
    Equivalence,
    OutputComparison,
    Record,
    RefusalRecord,
    RewriteRecord,
    SpeedRecord,
)
from bnfold.report.wording import count, interval, percent, shortened, sizes

LONGEST_REASON = 400
"""So many characters of a reason stand in the headline."""

_TONES = {
    "pass": "good",
    "identical": "good",
    "fail": "bad",
    "not-verified": "open",
    "faster": "good",
    "slower": "bad",
}
_MOST_CHANGES = 3
_MOST_SPEEDS = 3


@dataclass(frozen=True)
class Headline:
    """What a reader wants to know first. A line that does not apply is empty."""

    verdict: str
    tone: str
    """``good``, ``bad``, ``open`` or ``neutral``."""
    meaning: str
    speed: list[str]
    """A line for each timing, the one at onnxruntime's best first."""
    change: str


def headline(record: Record) -> Headline:
    """Say the most important of a record."""
    verdict = verdict_of(record)
    return Headline(
        verdict=verdict,
        tone=_TONES.get(verdict, "neutral"),
        meaning=_meaning(record),
        speed=_speed_lines(record),
        change=_change_line(record),
    )


def verdict_of(record: Record) -> str:
    """Return what was found, in a word or two: about equivalence, else about speed."""
    if record.equivalence is not None:
        return record.equivalence.verdict
    if record.output is not None:
        return "not checked"
    if record.speed:
        return _main_speed(record).verdict or "timed"
    return "explained"


def subject_of(record: Record) -> str:
    """Return what the second model is called: it may be anybody's."""
    return "candidate" if record.candidate is not None else "optimized model"


def _meaning(record: Record) -> str:
    found, subject = record.equivalence, subject_of(record)
    if found is None:
        if record.output is not None:
            return "nobody compared the optimized model with the original"
        if record.speed:
            main = _main_speed(record)
            return f"{main.provider}, {level_text(main.level)}"
        return "what optimize would do; nothing was written"
    if found.verdict == "identical":
        return "there was nothing to rewrite: the output is what the input was"
    if found.verdict == "pass":
        share = closest_share(found)
        closest = f"; the closest element takes {percent(share)} of its tolerance"
        where = " and ".join(each.provider for each in found.providers)
        outputs = sum(len(each.outputs) for each in found.providers[:1])
        unsettled = sum(len(each.unsettled) for each in found.providers)
        left_out = f"; {count(unsettled, 'comparison')} left out" if unsettled else ""
        return (
            f"the {subject} computes what the original does: {count(outputs, 'output')} on {where}"
            f"{closest if share is not None else ''}{left_out}"
        )
    culprit = culprit_of(found)
    because = f", because of {culprit.pass_name} at {shortened(culprit.site)}" if culprit else ""
    opening = {"fail": f"the {subject} computes something else"}.get(
        found.verdict, "neither shown nor refuted"
    )
    return f"{opening}{because}: {shortened(found.reason, LONGEST_REASON)}"


def culprit_of(equivalence: Equivalence) -> Culprit | None:
    """Return the rewrite that is to blame, if one was found and was not dropped."""
    return next((each for each in equivalence.culprits if not each.dropped), None)


def closest_share(equivalence: Equivalence) -> float | None:
    """Return the largest share of its tolerance that an element takes, at any level."""
    shares = [
        share_of_tolerance(output)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
    ]
    known = [each for each in shares if each is not None]
    return max(known, default=None) if len(known) == len(shares) else None


def share_of_tolerance(output: OutputComparison) -> float | None:
    """Return by what share of its tolerance the worst element is off; None if at no tolerance.

    None as well where elements beyond it are excused.
    """
    needed, allowed = output.needed, output.tolerance
    if needed is None or output.excused:
        return None
    shares = [
        taken / given
        for taken, given in ((needed.atol, allowed.atol), (needed.rtol, allowed.rtol))
        if given > 0
    ]
    return max(shares, default=0.0)


# --- Speed ----------------------------------------------------------------------------------------


def _main_speed(record: Record) -> SpeedRecord:
    """Return the timing at onnxruntime's best, which is what users run."""
    return next((each for each in record.speed if each.level == "all"), record.speed[0])


def level_text(level: str) -> str:
    """Return what an optimization level of onnxruntime means."""
    texts = {"all": "onnxruntime at its best", "disabled": "without its optimizations"}
    return texts.get(level, f"onnxruntime optimization {level}")


def _speed_lines(record: Record) -> list[str]:
    note = [record.speed_note] if record.speed_note else []
    several = len({(each.provider, str(each.shapes)) for each in record.speed}) > 1
    lines = []
    for each in record.speed[:_MOST_SPEEDS]:
        shapes = ", ".join(sizes(shape) for shape in each.shapes.values())
        where = f"{each.provider}, {shapes}, {level_text(each.level)}"
        where = where if several else level_text(each.level)
        if each.speedup is None or each.ci95 is None:
            lines.append(f"{each.original_ms:.4g} ms, {where}")
        else:
            ratio = interval(each.speedup, each.ci95)
            lines.append(f"{ratio} times as fast: {each.verdict}, {where}")
    more = len(record.speed) - len(lines)
    return [*lines, *([f"and {more} more"] if more > 0 else []), *note]


# --- What changed ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatorChange:
    """How many nodes of an operator there are before and after."""

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
    """Return what differs, the most frequent first, then the sum over all operators."""
    names = sorted({*before, *after}, key=lambda name: (-before.get(name, 0), name))
    rows = [OperatorChange(name, before.get(name, 0), after.get(name, 0)) for name in names]
    changed = [each for each in rows if each.before != each.after]
    return [*changed, OperatorChange("all nodes", sum(before.values()), sum(after.values()))]


def _change_line(record: Record) -> str:
    kept = _kept(record)
    after = operators_after(record)
    if after is None:
        rewritten = f"{count(len(record.rewrites), 'rewrite')} would be made"
        is_explained = bool(record.rewrites or record.refusals)
        return ", ".join([rewritten, *([kept] if kept else [])]) if is_explained else ""
    *changes, total = operator_changes(record.model.ops, after)
    changes.sort(key=lambda each: -abs(each.after - each.before))
    parts = [f"{shortened(e.name)} {e.before} → {e.after}" for e in changes[:_MOST_CHANGES]]
    by = ""
    if record.output is not None:
        passes = len({each.pass_name for each in record.rewrites})
        by = f"{count(len(record.rewrites), 'rewrite')} by {count(passes, 'pass')}: "
    nodes = f"{by}nodes {total.before:,} → {total.after:,}"
    return "; ".join([", ".join([nodes, *parts]), *([kept] if kept else [])])


def _kept(record: Record) -> str:
    """Say how many candidates stay, and how many of them because the check failed with them."""
    culprits = record.equivalence.culprits if record.equivalence is not None else []
    dropped = sum(each.dropped for each in culprits)
    parts = [f"{count(len(record.refusals), 'candidate')} kept"] if record.refusals else []
    parts += [f"{count(dropped, 'rewrite')} dropped after the check failed"] if dropped else []
    return ", ".join(parts)


@dataclass(frozen=True)
class RewriteGroup:
    """The rewrites of a pass that did the same."""

    pass_name: str
    exactness: str
    what: str
    rewrites: list[RewriteRecord]


def rewrite_groups(rewrites: Sequence[RewriteRecord]) -> list[RewriteGroup]:
    """Group rewrites by what was done to what, the most frequent first."""
    keys = [
        (each.pass_name, each.exactness, f"{each.op_type} {each.detail}".strip())
        for each in rewrites
    ]
    members: dict[tuple[str, str, str], list[RewriteRecord]] = {}
    for key, each in zip(keys, rewrites, strict=True):
        members.setdefault(key, []).append(each)
    return [RewriteGroup(*key, members[key]) for key, _ in Counter(keys).most_common()]


@dataclass(frozen=True)
class RefusalGroup:
    """The nodes of an operator that are kept for the same reason."""

    op_type: str
    reason: str
    message: str
    remedy: str
    refusals: list[RefusalRecord]


def refusal_groups(refusals: Sequence[RefusalRecord]) -> list[RefusalGroup]:
    """Group refusals by operator and reason, in the order in which each first occurs."""
    groups: dict[tuple[str, str, str], list[RefusalRecord]] = {}
    for refusal in refusals:
        reason, message = refusal.reason, refusal.message
        if refusal.also_reason:
            reason += f", behind {refusal.also_reason}"
            message += f"; behind, {refusal.also_message}"
        groups.setdefault((refusal.op_type, reason, message), []).append(refusal)
    return [RefusalGroup(*key, group[0].remedy, group) for key, group in groups.items()]
