"""Formats names, numbers and intervals the same way in every rendering.

Names come from untrusted models. Characters that are invisible or would rearrange the text around
them are escaped.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from bnfold.text import legible as legible

LONGEST_NAME = 120
"""The most characters of a name that are shown."""


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """Return the legible text; if it is longer than `most`, cut it and append its length."""
    if len(text) <= most:
        return legible(text)
    return f"{legible(text[:most])}… ({len(text):,} characters)"


def number(value: float | None) -> str:
    """Format an error with three digits, or None as a dash."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.2e}"


def at_most(value: float | None) -> str:
    """Format a bound with two digits, rounded up so that it still holds, or None as a dash."""
    if value is None:
        return "–"
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    nearest = f"{value:.2g}"
    if float(nearest) >= value * (1 - 1e-9):
        return nearest
    return f"{value + 0.5 * 10.0 ** (math.floor(math.log10(value)) - 1):.2g}"


def percent(share: float | None) -> str:
    """Format a share in percent or as a multiple, or None as a dash."""
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < share < 1e-4:
        return "< 0.01 %"
    return f"{share * 100:.3g} %" if share < 10 else f"{share:,.0f} times"


def times(ratio: float | None) -> str:
    """Format a ratio with two digits, as in "0.25 times", or None as a dash."""
    if ratio is None or math.isnan(ratio):
        return "–"
    if 0 < ratio < 0.01:
        return "< 0.01"
    if ratio > 1e6:
        return "> 1,000,000"
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"


def milliseconds(value: float | None) -> str:
    """Format a time in milliseconds with four digits, or None as a dash."""
    return "–" if value is None else f"{value:.4g}"


def interval(value: float | None, bounds: Sequence[float] | None) -> str:
    """Format a ratio with its interval, or None as a dash."""
    if value is None:
        return "–"
    if not bounds:
        return f"{value:.3f} (no interval)"
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def duration(seconds: float) -> str:
    """Format how long something took: 850 ms, 12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def when(started: str | None, seconds: float | None) -> str:
    """Say when a run began and how long it took, as far as that is known."""
    parts = [started.replace("T", " ").replace("Z", " UTC")] if started else []
    parts += [f"took {duration(seconds)}"] if seconds is not None else []
    return ", ".join(parts)


def sizes(shape: Sequence[int]) -> str:
    """Format a shape: 1×3×224×224."""
    return "×".join(map(str, shape)) or "scalar"


def count(number_of: int, noun: str) -> str:
    """Format a number with its noun: 1 rewrite, 1,200 rewrites, 2 passes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number_of:,} {noun if number_of == 1 else plural}"


def command_line(command: Sequence[str]) -> str:
    """Quote a command for a shell, with the path of bnfold itself omitted."""
    if not command:
        return ""
    program, *arguments = command
    name = PurePath(program).name
    is_bnfold = name in ("bnfold", "bnfold.exe") or program.endswith("bnfold/__main__.py")
    return shlex.join(["bnfold" if is_bnfold else program, *arguments])
