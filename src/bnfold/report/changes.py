"""What changed: operators before and after, and groups of rewrites and refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnfold.record.data import Record, RefusalRecord, RewriteRecord


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
