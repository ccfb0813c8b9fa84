"""Lines and tables for a terminal: wrapped to its width between words, and safe to show.

Names come from untrusted models: markup in them stays text, and control characters are replaced by
visible symbols.
"""

from __future__ import annotations

import enum

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnfold.report.wording import legible

_LONGEST_CELL = 20
"""Characters of a name in a table of `_USUAL_WIDTH`; a wider one has place for more."""

_USUAL_WIDTH = 80


class Detail(enum.IntEnum):
    """How much is printed."""

    QUIET = 0
    """The last lines alone: verdict, speed and file."""
    USUAL = 1
    VERBOSE = 2
    """Nothing is left out: all outputs, all nodes that are kept, and how the inputs were made."""


def styled(content: str, style: str = "") -> Text:
    """Return text of a model, or about it."""
    return Text(legible(content), style)


def say(console: Console, *parts: str | Text, indent: int = 0, hang: int = 2) -> None:
    """Print a sentence; if it is longer than a line, the others are indented by `hang` more.

    A word that is longer than a line, as a path may be, stays whole: it can be copied.
    """
    sentence = Text.assemble(*(styled(part) if isinstance(part, str) else part for part in parts))
    line = Text(" " * indent)
    is_empty = True
    for word in sentence.split(" "):
        if not is_empty and line.cell_len + 1 + word.cell_len > console.width:
            console.print(line, soft_wrap=True)
            line, is_empty = Text(" " * (indent + hang)), True
        line = Text.assemble(line, word) if is_empty else Text.assemble(line, " ", word)
        is_empty = False
    console.print(line, soft_wrap=True)


def table(*titles: str, numbers: bool = True) -> Table:
    """Return a table without lines: a column of text, and others of numbers or of text."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    made.show_header = any(titles)
    for place, title in enumerate(titles):
        is_number = numbers and place > 0
        made.add_column(title, justify="right" if is_number else "left", no_wrap=is_number)
    return made


def cell(console: Console, name: str) -> Text:
    """Return a name for a table. Of a long one the middle is left out: its end tells most."""
    text, most = legible(name), _LONGEST_CELL + max(0, console.width - _USUAL_WIDTH)
    if len(text) <= most:
        return Text(text)
    half = most // 2
    return Text(f"{text[: half - 1]}…{text[-half:]}")
