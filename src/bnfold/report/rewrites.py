"""The rows of a page's table of rewrites: groups of one kind, with the identity of their pass."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass

from bnfold.record.data import Record, RewriteRecord
from bnfold.report.certificates import certified_of, is_change_of_meaning, kind_of
from bnfold.report.changes import rewrite_groups
from bnfold.report.sketches import in_words, typical
from bnfold.report.wording import count


@dataclass(frozen=True)
class Identity:
    """The documentation of a pass, in parts."""

    lead: str
    formulas: list[str]
    exactness: str
    conditions: list[str]


@dataclass(frozen=True)
class RewriteRow:
    """Rewrites of the same kind."""

    key: str
    """The name of its picture."""
    pass_name: str
    exactness: str
    what: str
    words: str
    """The picture in words; empty if there is none."""
    identity: Identity | None
    """Of the pass, at its first row, if the record has it."""
    is_first: bool
    """Whether this is the first row of its pass."""
    proven: str
    """How many are certified, and of which kinds."""
    bound: float | None
    """The largest one of their certificates."""
    rewrites: list[RewriteRecord]

    @property
    def summary(self) -> str:
        """What unfolds below the row."""
        parts = ["drawing"] if self.words else []
        parts += ["identity"] if self.identity is not None else []
        parts.append(count(len(self.rewrites), "site"))
        return " and ".join([", ".join(parts[:-1]), parts[-1]]).removeprefix(" and ")


def rewrite_rows(record: Record) -> list[RewriteRow]:
    """Group the rewrites of a record by pass and kind, those of one pass side by side."""
    identities = {entry.name: _identity(entry.documentation) for entry in record.passes}
    groups = list(enumerate(rewrite_groups(record.rewrites)))
    order = list(dict.fromkeys(group.pass_name for _, group in groups))
    groups.sort(key=lambda item: order.index(item[1].pass_name))
    rows: list[RewriteRow] = []
    for index, group in groups:
        is_first = not rows or rows[-1].pass_name != group.pass_name
        example = typical(group.rewrites)
        found = [rewrite.certificate for rewrite in group.rewrites if rewrite.certificate]
        rows.append(
            RewriteRow(
                key=f"rewrite-{index}",
                pass_name=group.pass_name,
                exactness=group.exactness,
                what=group.what,
                words=in_words(example) if example is not None else "",
                identity=identities.get(group.pass_name) if is_first else None,
                is_first=is_first,
                proven=_proven(group.rewrites),
                bound=max((each.bound for each in found if each.bound is not None), default=None),
                rewrites=group.rewrites,
            )
        )
    return rows


def _proven(rewrites: list[RewriteRecord]) -> str:
    found = [rewrite.certificate for rewrite in rewrites if rewrite.certificate is not None]
    kinds = Counter(kind_of(certificate) for certificate in found)
    requested = sum(map(is_change_of_meaning, rewrites))
    if requested == len(rewrites):
        return "nothing to prove: changes the meaning, as requested"
    kinds += Counter({"not tried": len(rewrites) - len(found) - requested})
    words = ", ".join(
        kind if len(kinds) == 1 else f"{number:,} {kind}" for kind, number in kinds.most_common()
    )
    return f"{certified_of(rewrites)}: {words}"


def _identity(documentation: str) -> Identity:
    """Split the docstring of a pass: indented blocks are formulas, the last one is exactness."""
    lead, *blocks = documentation.strip("\n").split("\n\n")
    formulas = [textwrap.dedent(block) for block in blocks if block.startswith("    ")]
    texts = [" ".join(block.split()) for block in blocks if not block.startswith("    ")]
    exactness = [text for text in texts if text.startswith(("BITWISE", "ROUNDED", "SEMANTIC"))]
    conditions = [text for text in texts if text not in exactness]
    return Identity(" ".join(lead.split()), formulas, " ".join(exactness), conditions)
