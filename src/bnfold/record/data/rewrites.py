"""What passes did and left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bnfold.record.data.certificates import Certificate

ExactnessName: TypeAlias = Literal["bitwise", "rounded", "semantic"]


@dataclass(frozen=True)
class NodeSketch:
    """A node in a small drawing: its operator, and the nodes of the drawing that it reads.

    `reads` holds indices into the drawing. Each negative number stands for one value from outside
    it; weights are omitted.
    """

    op_type: str
    reads: list[int]


@dataclass(frozen=True)
class RewriteRecord:
    """One application of a pass."""

    pass_name: str
    site: str
    op_type: str
    """The operator at the site."""
    nodes: list[str]
    exactness: ExactnessName
    detail: str
    gone: dict[str, str] = field(default_factory=dict)
    """Each BatchNormalization and Dropout that was also removed, as operator by site: absorbed, or
    no longer read."""
    before: list[NodeSketch] = field(default_factory=list)
    """The nodes of the pattern, in graph order, as in `nodes`. Like `after`, it is empty beyond the
    first hundred rewrites of a pass."""
    after: list[NodeSketch] = field(default_factory=list)
    """The nodes that replace them."""
    certificate: Certificate | None = None
    """The proof that both compute the same; null if it was not asked for."""


@dataclass(frozen=True)
class PassRecord:
    """A selected pass, with its documentation: identity and conditions."""

    name: str
    exactness: ExactnessName
    documentation: str


@dataclass(frozen=True)
class RefusalRecord:
    """A node that matches a pass but must not be rewritten."""

    pass_name: str
    site: str
    op_type: str
    reason: str
    message: str
    remedy: str
    in_the_way: str
    also_reason: str = ""
    """Why the pass could not rewrite the node from the other side either."""
    also_message: str = ""
    also_in_the_way: str = ""
