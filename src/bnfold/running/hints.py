"""What a model's graph says of its inputs, for them to be drawn by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bnfold.arrays import Array


@dataclass
class Hints:
    """What a model's graph says of its inputs."""

    largest: dict[str, int] = field(default_factory=dict)
    """The largest values of the integer inputs that are indices into a table, or lengths."""
    within: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """The inputs, and axes of them, whose sizes limit an integer input, less a number: 1 for
    indices, 0 for lengths of sequences."""
    columns: dict[str, tuple[int, Sequence[int | tuple[str, int, int] | None]]] = field(
        default_factory=dict
    )
    """The axes along which the integers of an input are limited, and how large they may be at each
    place, if that is known; an input and an axis as in `within`."""
    reach: dict[str, int] = field(default_factory=dict)
    """How large the integers may be from which positions in a table are computed, at most."""
    clipped: set[str] = field(default_factory=set)
    """Those of them that are limited to the table first, and so may be anything."""
    compared: dict[str, list[int]] = field(default_factory=dict)
    """The constants that an integer input is compared with."""
    rows: Mapping[str, list[int]] = field(default_factory=dict)
    """The positions where a table that an integer input looks up differs from another model's."""
    levels: dict[str, list[float]] = field(default_factory=dict)
    """The numbers that a float input is compared with, or limited by."""
    exact: frozenset[float] = frozenset()
    """The constants that decide whether such a number is met: no draw of the noise moves them."""
    missing: dict[str, list[float]] = field(default_factory=dict)
    """What a float input may hold in place of a number: NaN, infinities, or a number for that."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """The strings that an input of strings is compared with, or looked up by."""
    ratios: set[str] = field(default_factory=set)
    """The inputs that are the ratio of a Dropout, in [0, 1)."""
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """The axes and sizes at which a Slice cuts off, the largest first: inputs should be larger."""
    thresholds: list[tuple[str, int, int]] = field(default_factory=list)
    """The inputs, axes and sizes where the model does something else from a certain size on."""
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """The sizes that what is beside them demands of the free axes of inputs."""
    written: list[int] = field(default_factory=list)
    """Sizes that stand in the graph, to be tried where the usual ones do not run."""
    overrides: dict[str, Array] = field(default_factory=dict)
    """The content of the initializers that a caller may override."""

    def limits(self, name: str) -> bool:
        """Say whether it is known how large the integers of an input may be."""
        return name in self.largest or name in self.within
