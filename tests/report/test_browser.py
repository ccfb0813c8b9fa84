"""The page as rendered by Chromium: on a desktop and on a phone, in light and in dark mode.

The page itself needs no script. Here, a frame around it measures it and writes the results into its
own text.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

from bnfold.record.data import Record
from bnfold.report import html
from tests.report.noted import noted
from tests.support.records import HOSTILE_NAMES, RECORDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
    ),
]

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
SCHEMES = {"light": 1, "dark": 0}

_FRAMES = """<!DOCTYPE html><meta charset="utf-8">
{frames}
<pre id="seen"></pre>
<script>
function look(frame) {{
  const page = frame.contentDocument, view = page.defaultView;
  const all = (query) => [...page.querySelectorAll(query)];
  const box = (element) => element.getBoundingClientRect();
  const bottom = (query) => Math.max(0, ...all(query).map((element) => box(element).bottom));
  const escapes = (element) =>
    box(element).width > 1 && box(element).right > view.innerWidth + 1 &&
    !element.closest(".scroll, pre, svg");
  const isClipped = (element) =>
    box(element).left < box(element.closest("svg")).left - 2 ||
    box(element).right > box(element.closest("svg")).right + 2;
  return {{
    title: page.title,
    text: page.body.innerText,
    width: page.documentElement.scrollWidth,
    bottoms: [".verdict", ".headline .speed", ".headline"].map(bottom),
    ground: view.getComputedStyle(page.body).backgroundColor,
    ink: view.getComputedStyle(page.body).color,
    accent: view.getComputedStyle(page.querySelector(".verdict")).color,
    escaping: all("body *").filter(escapes).map((element) => element.outerHTML.slice(0, 100)),
    clipped: all("svg text").filter(isClipped).map((element) => element.textContent),
    letters: Math.min(...all("svg text").map((element) => box(element).height)),
    pictures: all("svg").map((element) => box(element).width),
    scripts: page.scripts.length,
    speed: bottom("#speed ~ .scroll"),
    labels: all("td[data-label]").slice(0, 5).map(
      (cell) => view.getComputedStyle(cell, "::before").content),
    heads: all("thead").filter((head) => box(head).height > 0).length,
  }};
}}
addEventListener("load", () => {{
  const frames = [...document.querySelectorAll("iframe")];
  const seen = Object.fromEntries(frames.map((frame) => [frame.id, look(frame)]));
  document.getElementById("seen").textContent = JSON.stringify(seen);
}});
</script>
"""
_FRAME = '<iframe id="{}" style="border: 0; width: {}px; height: {}px" src="page.html"></iframe>'


@dataclass(frozen=True)
class Seen:
    """The rendered page, with sizes in CSS pixels."""

    title: str
    text: str
    width: float
    bottoms: list[float]
    """The bottoms of the verdict, the speed and the whole headline."""
    ground: str
    ink: str
    accent: str
    escaping: list[str]
    """Elements that overflow the page."""
    clipped: list[str]
    """Texts that overflow their picture."""
    letters: float | None
    """The height of the smallest letters in a picture."""
    pictures: list[float]
    scripts: int
    speed: float
    """The bottom of the first table on speed."""
    labels: list[str]
    """What is before the text of some cells of tables."""
    heads: int
    """The number of heads of tables that are visible."""


def look(folder: Path, name: str, scheme: str = "light") -> dict[str, Seen]:
    """Open the page of a record in Chromium, on a desktop and on a phone."""
    return look_at(folder, RECORDS[name](), scheme)


def look_at(folder: Path, record: Record, scheme: str = "light") -> dict[str, Seen]:
    """Open the page of this record."""
    return look_at_page(folder, html.render(record), scheme)


def look_at_page(folder: Path, page: str, scheme: str = "light") -> dict[str, Seen]:
    """Open a page."""
    assert CHROMIUM is not None
    frames = "".join(_FRAME.format(screen, *size) for screen, size in SIZES.items())
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "frames.html").write_text(_FRAMES.format(frames=frames), encoding="utf-8")
    process = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    match = re.search('<pre id="seen">(.+?)</pre>', process.stdout, re.DOTALL)
    assert match is not None, process.stderr
    return {screen: Seen(**seen) for screen, seen in json.loads(unescape(match[1])).items()}


ACCENTS = {
    "tuned": "rgb(20, 113, 63)",
    "fail": "rgb(179, 38, 30)",
    "not-verified": "rgb(138, 90, 0)",
}
"""The colour of the verdict in light mode."""


@pytest.mark.parametrize("name", ACCENTS)
def test_the_first_screen_shows_what_matters_and_nothing_overflows(
    tmp_path: Path, name: str
) -> None:
    for where, seen in look(tmp_path, name).items():
        width, height = SIZES[where]
        assert 0 < seen.bottoms[0] < seen.bottoms[2] < height
        assert seen.width <= width
        assert seen.escaping == []
        assert seen.clipped == []
        assert all(200 < picture <= width for picture in seen.pictures)
        assert seen.letters is not None
        assert seen.letters > 8
        assert seen.accent == ACCENTS[name]
        for words in ("Verdict", "What changed", "What was rewritten", "how to reproduce this"):
            assert words in seen.text


def test_a_reader_sees_verdict_speed_and_change_and_unfolds_the_rest(tmp_path: Path) -> None:
    seen = look(tmp_path, "tuned")["desk"]
    record = RECORDS["tuned"]()
    assert seen.title.startswith("pass: ")
    assert seen.bottoms == sorted(seen.bottoms)
    first = seen.text.split("What was rewritten")[0]
    assert f"{record.speed[0].speedup:.3f}" in first
    assert "BatchNormalization 53 → 3" in first
    assert "drawing and 48 sites" in seen.text
    assert record.rewrites[47].nodes[0] in html.render(record)
    assert record.rewrites[47].nodes[0] not in seen.text


def test_the_first_two_screens_show_equivalence_and_speed_and_a_phone_shows_cards(
    tmp_path: Path,
) -> None:
    seen = look(tmp_path, "pass")
    assert SIZES["desk"][1] < seen["desk"].speed < 2 * SIZES["desk"][1]
    assert seen["desk"].heads > 3
    assert {*seen["desk"].labels} == {"none"}
    assert seen["phone"].heads == 0
    assert seen["phone"].labels[0] == '"optimization disabled"'


def test_several_runs_stay_on_the_page(tmp_path: Path) -> None:
    records = [RECORDS[name]() for name in ("bench alone", "explain", "hostile")]
    for where, seen in look_at_page(tmp_path, html.render_runs(records)).items():
        assert seen.width <= SIZES[where][0]
        assert seen.escaping == []
        assert seen.scripts == 0
        assert seen.title.startswith("1 timed, 1 explained, 1 fail: a.onnx")


def test_the_page_is_dark_in_dark_mode(tmp_path: Path) -> None:
    dark = look(tmp_path, "tuned", "dark")["phone"]
    assert (dark.ground, dark.ink) == ("rgb(20, 23, 26)", "rgb(232, 234, 237)")
    assert dark.accent == "rgb(111, 211, 155)"


def test_hostile_names_do_nothing_and_stay_on_the_page(tmp_path: Path) -> None:
    for where, seen in look(tmp_path, "hostile").items():
        assert seen.title.startswith("fail: <script>document.title")
        assert seen.scripts == 0
        assert seen.width <= SIZES[where][0]
        assert seen.escaping == []
        for words in ("<script>document.title = 'taken over'</script>", "תוֹרָה/conv", "🐍 conv"):
            assert words in seen.text


@pytest.mark.parametrize("name", ["", HOSTILE_NAMES[0], HOSTILE_NAMES[9]])
def test_notes_on_the_check_stay_on_the_page(tmp_path: Path, name: str) -> None:
    record = noted(*(f"{name}/{part}" for part in ("logits", "boxes", "mask", "act")))
    for where, seen in look_at(tmp_path, record).items():
        assert seen.scripts == 0
        assert seen.width <= SIZES[where][0]
        assert seen.escaping == []
        for words in ("First divergence", "proves nothing", "is estimated from 7 runs"):
            assert words in seen.text


def test_a_large_model_stays_readable(tmp_path: Path) -> None:
    seen = look(tmp_path, "large")["desk"]
    assert seen.escaping == []
    assert len(seen.text.splitlines()) < 300
