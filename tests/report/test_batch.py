"""The pages of a batch: what they show, and that no name in them is obeyed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bnfold.record.batch import Index, Row, Speed
from bnfold.report.batch import columns_of, html, markdown, summary_of, tone_of
from tests.support.records import HOSTILE_NAMES

ROW = Row(
    name="a/m.onnx",
    model="models/a/m.onnx",
    exit_code=0,
    verdict="pass",
    rewrites=4,
    certified=3,
    certificates="3 of 4",
    batchnorm=[53, 0],
    nodes=[1172, 122],
    bytes=[2_400_000, 2_400_000],
    seconds=12.34,
    page="a/m.onnx.html",
    record="a/m.onnx.json",
)
FAILED = Row("b.onnx", "b.onnx", 3, "failed", "b.onnx is not an ONNX model")


def speed(machine: str, factor: float, verdict: str, page: str = "") -> Speed:
    interval = [factor - 0.01, factor + 0.01]
    return Speed(machine, "cpu", "all", 1.0, 1 / factor, factor, interval, verdict, page)


TIMED = replace(
    ROW,
    speeds=[
        speed("fast box", 1.25, "faster", "a/m.onnx.html"),
        speed("slow box", 0.9, "slower", "a/m.onnx.on-2.html"),
    ],
)


class Cells(HTMLParser):
    """Collects the tags of a page, and the texts of the cells of its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_a_row_a_model() -> None:
    page = Cells(html(Index([TIMED, FAILED])))
    head, first, second = page.rows[:3]
    speeds = ["speed-up on A", "speed-up on B"]
    assert head == ["model", "verdict", "certified", "BN", "nodes", "MB", *speeds, "seconds"]
    assert first[0].strip() == "a/m.onnx"
    assert first[1:6] == ["pass", "3 of 4", "53 → 0", "1,172 → 122", "2.40"]
    assert first[6:8] == ["1.25 [1.24, 1.26] faster", "0.90 [0.89, 0.91] slower"]
    assert first[8].strip() == "12.3"
    assert "exit code 3: b.onnx is not an ONNX model" in second[0]
    assert second[1:8] == ["failed", *["–"] * 6]
    assert {"a/m.onnx.html", "a/m.onnx.on-2.html", "index.json", "index.md"} == {*page.links}


def test_the_page_needs_no_network_and_no_script() -> None:
    text = html(Index([TIMED, FAILED]))
    assert not re.search(r"https?://|//cdn|@import", text)
    assert text.count("<script>") == 1
    without = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert 'class="controls" hidden' in without
    assert "a/m.onnx" in without


def test_one_machine_needs_no_letter() -> None:
    (column,) = columns_of([replace(ROW, speeds=[speed("box", 1.0, "no significant difference")])])
    assert column.title == "speed-up"


def test_what_is_pending_or_was_not_timed() -> None:
    rows = [TIMED, replace(ROW, name="p", pending=True), replace(ROW, name="q")]
    page = Cells(html(Index(rows)))
    assert [row[6] for row in page.rows[1:4]] == ["1.25 [1.24, 1.26] faster", "not yet", "–"]


def test_the_tone_is_that_of_the_worst() -> None:
    slow = replace(ROW, verdict="too slow", exit_code=6)
    assert tone_of(Index([ROW])) == "good"
    assert tone_of(Index([ROW, slow])) == "open"
    assert tone_of(Index([ROW, slow, FAILED])) == "bad"
    assert summary_of(Index([ROW, ROW, FAILED], finished=False)) == (
        "3 models: 2 pass, 1 failed (not finished)"
    )


def test_markdown_says_the_same() -> None:
    text = markdown(Index([TIMED, FAILED]))
    assert "| [a/m.onnx](a/m.onnx.html) | pass | 3 of 4 | 53 → 0 | 1,172 → 122 |" in text
    assert "1.25 \\[1.24, 1.26\\] faster" in text
    assert "- b.onnx: exit code 3: b.onnx is not an ONNX model" in text
    assert "- A: fast box, cpu" in text


def test_hostile_names_change_nothing() -> None:
    calm = Cells(html(Index([replace(FAILED, page="x")] * len(HOSTILE_NAMES))))
    rows = [
        replace(FAILED, name=name, model=name, reason=name, verdict=name, notes=[name], page=name)
        for name in HOSTILE_NAMES
    ]
    text = html(Index(rows, command=[*HOSTILE_NAMES]))
    page = Cells(text)
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == 0
    assert page.tags.count("style") == 1
    assert len(page.rows) == len(calm.rows)
    assert "\u202e" not in unescape(text)
    assert all(not link.startswith(("javascript:", '"')) for link in page.links)
    lines = markdown(Index(rows)).splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(rows) + 1


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

CLICKS = """<script>
const seen = [];
const see = () => seen.push([...document.querySelectorAll("#models tbody tr")]
  .filter((row) => !row.hidden).map((row) => row.cells[0].querySelector("bdi").innerText));
const click = (column) =>
  document.querySelector("#models thead").rows[0].cells[column].querySelector("button").click();
const set = (name, value) => {
  document.getElementById(name).value = value;
  document.getElementById(name).dispatchEvent(new Event("input"));
  see();
};
click(4); see(); click(4); see(); click(0); see();
set("words", "M2"); set("words", ""); set("verdict", "failed"); set("verdict", "");
set("speed", "slower");
document.body.innerHTML = "<pre>" + JSON.stringify(seen) + "</pre>";
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_sorts_and_filters(tmp_path: Path) -> None:
    rows = [replace(ROW, name=f"m{number}", nodes=[number * 100, 5]) for number in (3, 1, 20)]
    page = html(Index([*rows, FAILED, TIMED])).replace("</body>", f"{CLICKS}</body>")
    (tmp_path / "page.html").write_text(page)
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    shown = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, check=True, timeout=120
    )
    (seen,) = re.findall(r"<pre>(.*?)</pre>", shown.stdout.decode())
    by_nodes = ["b.onnx", "m1", "m3", "a/m.onnx", "m20"]
    by_name = ["a/m.onnx", "b.onnx", "m1", "m20", "m3"]
    assert json.loads(unescape(seen)) == [
        by_nodes,
        by_nodes[::-1],
        by_name,
        ["m20"],
        by_name,
        ["b.onnx"],
        by_name,
        ["a/m.onnx"],
    ]
