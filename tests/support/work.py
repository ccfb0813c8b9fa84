"""Counts work instead of time: how many Python functions are called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType


class TooMuchWorkError(Exception):
    """More functions were called than allowed."""


def calls(function: Callable[[], object], limit: float) -> int:
    """Return how many functions, and steps of generators, a call runs.

    Raises:
        TooMuchWorkError: as soon as they are more than `limit`.
    """
    count = 0

    def event(frame: FrameType, kind: str, argument: object) -> None:
        nonlocal count
        count += kind == "call"
        if count > limit:
            sys.setprofile(None)
            raise TooMuchWorkError(f"more than {limit:.0f} calls")

    sys.setprofile(event)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count
