"""The common style of all pictures, and the conversion of a figure to SVG for a page.

Text in the SVG stays text. Colours are CSS custom properties of the page, so pictures follow its
dark mode and print styles. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from bnfold.report.wording import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, PAPER, NEUTRAL, GOOD, BAD = (f"#01010{digit}" for digit in range(1, 8))
"""Placeholders for the colours of the page: matplotlib accepts no CSS variables."""

_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    NEUTRAL: "var(--neutral)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bnfold",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, which measures text with it
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

WIDTH = 4.3
"""In inches of 72 units: as wide as a phone's page, so that text does not shrink there."""

_LONGEST_LABEL = 22


class Picture:
    """A figure in progress. Draw on its axes, then call `svg`."""

    def __init__(self, height: float) -> None:
        self._figure = Figure(figsize=(WIDTH, height), layout="constrained")

    def axes(self) -> Axes:
        """Return a single pair of axes."""
        return self._figure.subplots()

    def pair_of_axes(self) -> tuple[Axes, Axes]:
        """Return two pairs of axes, side by side."""
        left, right = self._figure.subplots(1, 2)
        return left, right

    def svg(self, name: str, alternative: str) -> str:
        """Return an ``svg`` element whose ids begin with `name`, with a text alternative."""
        stream = io.StringIO()
        self._figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        return _for_page(stream.getvalue(), name, alternative)


@contextmanager
def picture(height: float) -> Iterator[Picture]:
    """Create a figure, this many inches high, in the common style.

    Warnings about glyphs that the measuring font lacks are ignored: the reader's font has them.
    """
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Picture(height)


def label(name: str) -> str:
    """Shorten a name to fit beside an axis."""
    return shortened(name) if len(name) <= _LONGEST_LABEL else f"{shortened(name[:20])}…"


def _for_page(svg: str, name: str, alternative: str) -> str:
    """Strip what a page does not need, and make ids unique across pictures."""
    root = ElementTree.fromstring(svg)
    references = set(re.findall(r"#([\w-]+)", svg))
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        _tidy(element, name, references)
    kept = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alternative}
    root.attrib.clear()
    root.attrib.update(kept)
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element, name: str, references: set[str]) -> None:
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        key = key.rpartition("}")[2]
        if key == "id" and value not in references:
            continue
        if key == "id":
            value = f"{name}-{value}"
        value = re.sub(r"^#(?=[\w-]+$)|(?<=url\()#", f"#{name}-", value)
        value = re.sub(r"'DejaVu Sans'(, [^;,]+)*", "var(--sans)", value)
        element.set(key, re.sub("#01010[1-7]", lambda match: _COLOURS[match[0]], value))
