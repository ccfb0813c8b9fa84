"""The states of switches, which are booleans of one element: some act only together."""

from __future__ import annotations

_FEW = 4
"""Switches of which all combinations are tried; of more, it would take too many samples."""


def samples_for(switches: int) -> int:
    """Return in how many samples few switches take all combinations, and any two of more do."""
    if switches < 2:
        return 0
    return 2**switches if switches <= _FEW else 2 + 2 * (switches - 1).bit_length()


def state(place: int, switches: int, sample: int) -> bool:
    """Return whether the switch at this place among others is on: all are first, and none next."""
    if switches <= _FEW:
        pattern = (sample - 1) % 2**switches
        return bool(pattern >> place & 1)
    if sample < 2:
        return sample == 0
    bit = bool(place >> (sample // 2 - 1) & 1)
    return bit if sample % 2 == 0 else not bit
