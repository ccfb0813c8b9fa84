"""How long work says what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str], None]
"""Called with a few words on what is being done; of one of several equal steps, with `Counted`."""

EVALUATING = "evaluating in float64"
"""The progress that is told while a check takes the most memory."""


class Counted(str):
    """A few words on what is being done, the `number`-th of about `total` equal steps."""

    number: int
    total: int

    def __new__(cls, doing: str, number: int, total: int) -> Counted:
        self = super().__new__(cls, doing)
        self.number, self.total = number, total
        return self

    def __reduce__(self) -> tuple[type[Counted], tuple[str, int, int]]:
        return Counted, (str(self), self.number, self.total)


def silent(_: str) -> None:
    """Report no progress."""
