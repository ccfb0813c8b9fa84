"""Has the C library keep the memory that is freed, for what comes next."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's parameters (mallopt(3))."""

_KEPT = 2**29
"""Bytes that may lie free at the end of the heap."""
_APART = 2**25
"""Bytes from which on a block is mapped by itself, and given back; glibc allows no more."""


def keep_freed_memory() -> None:
    """Give freed memory back to the system only where there is much of it.

    To be given a page anew takes longer than to fill it with weights. By default, glibc gives back
    what a session or an array has left, and asks for it again for the next one. This is for a
    process that ends after its work. Another C library goes on as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _APART)
