"""How long work says what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str], None]
"""Called with a few words on what is being done."""


def silent(_: str) -> None:
    """Report no progress."""
