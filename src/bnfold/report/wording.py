"""How names, numbers and intervals are written, in every rendering alike.

Names come from models, and models from anywhere. What a reader could not see, or what would
rearrange the text around it, is replaced by a sign that stands for it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import PurePath

LONGEST_NAME = 120
"""So many characters of a name are shown."""

_PICTURES = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
_UNSEEN = [
    *range(0x80, 0xA0),
    0x061C,
    0x200B,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xD800, 0xE000),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    0xFFFE,
    0xFFFF,
]
"""Control characters, marks of direction, separators of lines, spaces of no width, and halves."""
_LEGIBLE = _PICTURES | dict.fromkeys(_UNSEEN, 0xFFFD)


def legible(text: str) -> str:
    """Return the text with a sign in the place of each character that does not show."""
    return text.translate(_LEGIBLE)


def shortened(text: str, most: int = LONGEST_NAME) -> str:
    """Return the text, legible, and what is beyond so many characters as their number."""
    if len(text) <= most:
        return legible(text)
    return f"{legible(text[:most])}… ({len(text):,} characters)"


def number(value: float | None) -> str:
    """Return three digits of a measured error, or a dash where there is none."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.2e}"


def percent(share: float | None) -> str:
    """Return a share in percent, or as a multiple; a dash where there is none."""
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < share < 1e-4:
        return "< 0.01 %"
    return f"{share * 100:.3g} %" if share < 10 else f"{share:,.0f} times"


def milliseconds(value: float | None) -> str:
    """Return four digits of a time in milliseconds, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def interval(value: float, bounds: Sequence[float]) -> str:
    """Return a ratio with its interval."""
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def sizes(shape: Sequence[int]) -> str:
    """Return a shape, 1×3×224×224."""
    return "×".join(map(str, shape)) or "scalar"


def count(number_of: int, noun: str) -> str:
    """Return a number with its noun: 1 rewrite, 1,200 rewrites, 2 passes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number_of:,} {noun if number_of == 1 else plural}"


def command_line(command: Sequence[str]) -> str:
    """Return the words of a command as a shell takes them, with bnfold's own path left out."""
    if not command:
        return ""
    program, *arguments = command
    name = PurePath(program).name
    is_bnfold = name in ("bnfold", "bnfold.exe") or program.endswith("bnfold/__main__.py")
    return shlex.join(["bnfold" if is_bnfold else program, *arguments])
