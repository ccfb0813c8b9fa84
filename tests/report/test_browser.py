"""What a reader sees in Chromium: on a desk and on a phone, in the light and in the dark.

The page itself needs no script. Here a frame around it measures it, and says so in its own text.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from bnfold.report import html
from tests.support.records import RECORDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)

DESK, PHONE = (1280, 800), (390, 844)
SCHEMES = {"light": 1, "dark": 0}

_FRAME = """<!DOCTYPE html><meta charset="utf-8"><title>none</title>
<iframe id="page" style="border: 0; width: %dpx; height: %dpx" src="page.html"></iframe>
<pre id="seen"></pre>
<script>
addEventListener("load", () => {
  const page = document.getElementById("page").contentDocument, view = page.defaultView;
  const bottom = (query) => {
    const found = page.querySelector(query);
    return found ? found.getBoundingClientRect().bottom : null;
  };
  const escaping = [...page.body.querySelectorAll("*")].filter((each) => {
    const box = each.getBoundingClientRect();
    return box.width > 1 && box.right > view.innerWidth + 1 && !each.closest(".scroll, pre, svg");
  });
  const clipped = [...page.querySelectorAll("svg text")].filter((each) => {
    const box = each.getBoundingClientRect(), edge = each.closest("svg").getBoundingClientRect();
    return box.left < edge.left - 2 || box.right > edge.right + 2;
  });
  const body = view.getComputedStyle(page.body);
  document.getElementById("seen").textContent = JSON.stringify({
    title: page.title,
    text: page.body.innerText,
    width: page.documentElement.scrollWidth,
    verdict: bottom(".verdict"), speed: bottom(".headline .speed"), headline: bottom(".headline"),
    background: body.backgroundColor, ink: body.color,
    accent: view.getComputedStyle(page.querySelector(".verdict")).color,
    escaping: escaping.map((each) => each.outerHTML.slice(0, 100)),
    clipped: clipped.map((each) => each.textContent),
    letters: Math.min(...[...page.querySelectorAll("svg text")].map((each) =>
      each.getBoundingClientRect().height)),
    pictures: [...page.querySelectorAll("svg")].map((each) => each.getBoundingClientRect().width),
    scripts: page.scripts.length,
  });
});
</script>
"""


@dataclass(frozen=True)
class Seen:
    """What a reader of the page has before their eyes, in CSS pixels."""

    size: tuple[int, int]
    content: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.content[name]


def look(folder: Path, name: str, size: tuple[int, int], scheme: str) -> Seen:
    """Open the page of a record in Chromium."""
    assert CHROMIUM is not None
    (folder / "page.html").write_text(html.render(RECORDS[name]()), encoding="utf-8")
    (folder / "frame.html").write_text(_FRAME % size, encoding="utf-8")
    process = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1400,1000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "frame.html").as_uri(),
        ],
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    found = re.search('<pre id="seen">(.+?)</pre>', process.stdout, re.DOTALL)
    assert found is not None, process.stderr
    return Seen(size, json.loads(unescape(found[1])))


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["tuned", "fail", "not-verified"])
def test_the_first_screen_says_what_matters_and_nothing_sticks_out(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    seen = look(tmp_path, name, size, "light")
    width, height = size
    assert seen.headline < height
    assert seen.width <= width
    assert seen.escaping == []
    assert seen.clipped == []
    assert all(200 < each <= width for each in seen.pictures)
    assert seen.letters > 8
    for words in ("Verdict", "What changed", "What was rewritten", "how to reproduce this"):
        assert words in seen.text


def test_a_reader_sees_verdict_speed_and_change(tmp_path: Path) -> None:
    seen = look(tmp_path, "tuned", DESK, "light")
    record = RECORDS["tuned"]()
    assert seen.title.startswith("pass: ")
    assert seen.verdict < seen.speed < seen.headline < DESK[1]
    first = seen.text.split("What was rewritten")[0]
    assert f"{record.speed[0].speedup:.3f}" in first
    assert "BatchNormalization 53 → 3" in first
    assert "/layer47/bn/conv" not in seen.text  # folded away
    assert "48 times" in seen.text


def test_light_and_dark_are_not_the_same(tmp_path: Path) -> None:
    light, dark = (look(tmp_path, "pass", PHONE, scheme) for scheme in SCHEMES)
    assert (light.background, dark.background) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")
    assert light.ink == "rgb(27, 31, 36)"
    assert dark.ink == "rgb(232, 234, 237)"
    assert light.accent != dark.accent


def test_the_verdict_has_a_colour_of_its_own(tmp_path: Path) -> None:
    accents = [look(tmp_path, n, DESK, "light").accent for n in ("pass", "fail", "not-verified")]
    assert len(set(accents)) == 3


def test_strange_names_do_nothing_and_stay_on_the_page(tmp_path: Path) -> None:
    seen = look(tmp_path, "hostile", PHONE, "light")
    assert seen.title.startswith("fail: <script>document.title")
    assert seen.scripts == 0
    assert seen.width <= PHONE[0]
    assert seen.escaping == []
    for words in ("<script>document.title = 'taken over'</script>", "תוֹרָה/conv", "🐍 conv"):
        assert words in seen.text


def test_a_large_model_stays_readable(tmp_path: Path) -> None:
    seen = look(tmp_path, "large", DESK, "light")
    assert seen.escaping == []
    assert len(seen.text.splitlines()) < 300
