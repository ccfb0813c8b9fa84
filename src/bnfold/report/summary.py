"""What all renderings share: the headline, and the grouping of rewrites and refusals."""

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
"""The most characters of a reason in the headline."""

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
    """The most important results. A line that does not apply is empty."""

    verdict: str
    tone: str
    """``good``, ``bad``, ``open`` or ``neutral``."""
    meaning: str
    speed: list[str]
    """A line for each timing, full optimization first."""
    change: str


def headline(record: Record) -> Headline:
    """Summarize a record."""
    verdict = verdict_of(record)
    return Headline(
        verdict=verdict,
        tone=_TONES.get(verdict, "neutral"),
        meaning=_meaning(record),
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
        unsettled = sum(len(provider.unsettled) for provider in equivalence.providers)
        excluded = f"; {count(unsettled, 'comparison')} excluded" if unsettled else ""
        return (
            f"the {subject} computes the same values as the original: "
            f"{count(outputs, 'output')} on {where}"
            f"{worst if share is not None else ''}{excluded}"
        )
    culprit = culprit_of(equivalence)
    because = f", because of {culprit.pass_name} at {shortened(culprit.site)}" if culprit else ""
    opening = {"fail": f"the {subject} computes different values"}.get(
        equivalence.verdict, "equivalence could not be decided"
    )
    return f"{opening}{because}: {shortened(equivalence.reason, LONGEST_REASON)}"


def culprit_of(equivalence: Equivalence) -> Culprit | None:
    """Return the rewrite that makes the check fail, if one was found and not dropped."""
    return next((culprit for culprit in equivalence.culprits if not culprit.dropped), None)


def worst_share(equivalence: Equivalence) -> float | None:
    """Return the largest share of its tolerance that an element uses, at any level."""
    shares = [
        share_of_tolerance(output)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
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
