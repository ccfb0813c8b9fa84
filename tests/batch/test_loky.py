"""Batches on processes of this machine: what comes of the models, and of workers that die."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from bnfold.batch.engine import Loky
from bnfold.batch.starts import Ledger
from bnfold.options import PassOptions
from tests.support.batch import (
    INDEX,
    QUICK,
    UNTIMED,
    foldable,
    jobs,
    killing,
    names,
    run,
    run_index,
    save,
    with_pages,
)
from tests.support.files import save_external
from tests.support.graphs import operators


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with models, two of which have one name, and one that is none."""
    folder = tmp_path / "models"
    save(folder / "a" / "model.onnx", foldable(1))
    save(folder / "b" / "model.onnx", foldable(2))
    save(folder / "c.onnx", foldable(3))
    (folder / "broken.onnx").write_text("no model")
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def loky(scratch: Path, jobs: int = 2) -> Loky:
    return Loky(jobs, Ledger(scratch))


def test_each_model_is_optimized_and_a_broken_one_fails_alone(
    models: Path, tmp_path: Path, scratch: Path
) -> None:
    save_external(models / "external")
    out = tmp_path / "out"
    timed = {"c": QUICK}
    index = run_index(jobs(models, UNTIMED, **timed), out, loky(scratch), scratch)
    rows = {row.name: row for row in index.rows}
    good = {"a/model.onnx", "b/model.onnx", "c.onnx", "external/m.onnx"}
    assert {name for name, row in rows.items() if row.verdict == "pass"} == good
    broken = rows["broken.onnx"]
    assert (broken.exit_code, broken.verdict, broken.page, broken.files) == (3, "failed", "", [])
    assert "not an ONNX model" in broken.reason
    assert (index.exit_code, index.finished) == (3, True)
    (data,) = [each for each in names(out) if each.endswith(".data")]
    assert data.startswith("external/m.onnx.")
    assert names(out) == with_pages(*good) | INDEX | {data}
    for name in good:
        written = onnx.load(out / name)
        assert "BatchNormalization" not in operators(written)
        assert rows[name].batchnorm == [2 if name.startswith("external") else 1, 0]
        assert {file.path for file in rows[name].files} >= with_pages(name)
    assert rows["c.onnx"].speeds[0].level == "all"
    assert not rows["c.onnx"].pending
    assert '"speedup"' in (out / "c.onnx.json").read_text()
    assert names(scratch) == {path.name for path in scratch.glob("*.starts")}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH")
def test_workers_import_no_file_of_the_current_folder(
    models: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.environ.get("PYTHONSAFEPATH")
    for name in ("random", "numpy"):
        (models / f"{name}.py").write_text("open('RAN', 'w'); raise SystemExit")
    monkeypatch.chdir(models)
    index = run_index(jobs(models / "a", UNTIMED), tmp_path / "out", loky(scratch), scratch)
    assert [row.verdict for row in index.rows] == ["pass"]
    assert not (models / "RAN").exists()
    assert os.environ.get("PYTHONSAFEPATH") == before


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_is_killed(models: Path, tmp_path: Path, scratch: Path, times: int) -> None:
    """Once: nothing is lost. Twice, at one model: that one fails, and no other."""
    made = jobs(models)
    place = next(i for i, job in enumerate(made) if job.name == "b/model.onnx")
    ledger = Ledger(scratch)
    out = tmp_path / "out"
    with killing(lambda: ledger.starts(f"{place:05}-check"), times) as killed:
        rows = run(made, out, loky(scratch), scratch)
    assert len(killed) == times
    row = rows.pop("b/model.onnx")
    assert row.starts == 2
    if times == 1:
        assert row.verdict == "pass"
        assert any(killed[0] in note and "did it again" in note for note in row.notes)
    else:
        assert (row.verdict, row.exit_code) == ("failed", 5)
        assert all(worker in row.reason for worker in killed)
    assert {row.verdict for name, row in rows.items() if name != "broken.onnx"} == {"pass"}
    lost = {"b/model.onnx"} if times == 2 else set()
    good = {"a/model.onnx", "b/model.onnx", "c.onnx"} - lost
    assert names(out) == with_pages(*good) | INDEX


@pytest.mark.slow
def test_a_model_that_kills_its_worker_while_it_is_timed_is_kept(
    models: Path, tmp_path: Path, scratch: Path
) -> None:
    made = [job for job in jobs(models, QUICK) if job.name == "c.onnx"]
    ledger = Ledger(scratch)
    with killing(lambda: ledger.starts("00000-time"), 2) as killed:
        (row,) = run(made, tmp_path / "out", loky(scratch, 1), scratch).values()
    assert len(killed) == 2
    assert (row.verdict, row.exit_code, row.pending) == ("pass", 0, False)
    assert "not timed: its workers died twice" in row.speed_note
    assert names(tmp_path / "out") == with_pages("c.onnx") | INDEX


@pytest.mark.slow
def test_what_must_be_faster_is_written_after_its_timing(
    models: Path, tmp_path: Path, scratch: Path
) -> None:
    slow = replace(QUICK, timing=replace(QUICK.timing, require_speedup=1000.0))
    at_median = replace(slow.timing, require_speedup=1e-6, require_speedup_at="median")
    fast = replace(QUICK, timing=at_median)
    (models / "broken.onnx").unlink()
    save(
        models / "d.onnx",
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> '
            "g (float[2] x) => (float[2] y) { y = Relu(x) }"
        ),
    )
    out = tmp_path / "out"
    index = run_index(jobs(models, slow, c=fast), out, loky(scratch), scratch)
    rows = {row.name: row for row in index.rows}
    assert {row.exit_code for name, row in rows.items() if name != "c.onnx"} == {6}
    assert index.exit_code == 6
    assert rows["c.onnx"].verdict == "pass"
    assert "a speed-up of 1000 is required" in rows["a/model.onnx"].reason
    assert "nothing to rewrite" in rows["d.onnx"].reason
    pages = {"a/model.onnx", "b/model.onnx", "d.onnx"}
    assert names(out) == with_pages("c.onnx") | (with_pages(*pages) - pages) | INDEX
    assert '"written": false' in (out / "a/model.onnx.json").read_text()


@pytest.mark.slow
def test_changes_of_meaning_and_tuning_run_as_a_whole(
    models: Path, tmp_path: Path, scratch: Path
) -> None:
    fixed = replace(QUICK, passes=PassOptions(set_shapes={"x": [2, 3, 6, 6]}))
    tuned = replace(QUICK, tune=True, timing=replace(QUICK.timing, tune_seconds=0.0))
    made = [job for job in jobs(models, fixed, c=tuned) if job.name != "broken.onnx"]
    rows = run(made, tmp_path / "out", loky(scratch), scratch)
    assert {row.verdict for row in rows.values()} <= {"pass", "identical"}
    assert rows["a/model.onnx"].speeds[0].level == "all"
    assert '"tuning": {' in (tmp_path / "out" / "c.onnx.json").read_text()


@pytest.mark.slow
def test_models_travel_as_bytes(models: Path, tmp_path: Path, scratch: Path) -> None:
    save_external(models / "external")
    by_path = run(jobs(models, QUICK), tmp_path / "path", loky(scratch), scratch)
    for path in scratch.iterdir():
        path.unlink()
    sent = run(jobs(models, QUICK), tmp_path / "bytes", loky(scratch), scratch, send="bytes")
    assert names(tmp_path / "bytes") == names(tmp_path / "path")
    for name, row in sent.items():
        other = by_path[name]
        assert (row.verdict, row.reason, row.sha256) == (other.verdict, other.reason, other.sha256)
        if not row.exit_code:
            assert (tmp_path / "bytes" / name).read_bytes() == (
                tmp_path / "path" / name
            ).read_bytes()
            assert str(scratch) not in (tmp_path / "bytes" / f"{name}.json").read_text()


Touch = Callable[[Path, Path], object]

CHANGES: dict[str, tuple[Touch, set[str]]] = {
    "nothing": (lambda models, out: None, set()),
    "a model": (lambda models, out: save(models / "c.onnx", foldable(9)), {"c.onnx"}),
    "an output": (lambda models, out: (out / "c.onnx").unlink(), {"c.onnx"}),
    "a page": (lambda models, out: (out / "c.onnx.html").write_text(""), {"c.onnx"}),
}


@pytest.mark.slow
def test_resume_skips_what_is_up_to_date(
    models: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (models / "broken.onnx").unlink()
    out = tmp_path / "out"
    run(jobs(models), out, loky(scratch), scratch)

    def redone(**asked: Any) -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")}
        time.sleep(0.01)
        for path in scratch.iterdir():
            path.unlink()
        made = jobs(models, replace(UNTIMED, **asked))
        rows = run(made, out, loky(scratch), scratch, resume=True)
        assert {row.verdict for row in rows.values()} <= {"pass", "not checked"}
        return {
            str(path.relative_to(out))
            for path in out.rglob("*.onnx")
            if path.stat().st_mtime_ns != before.get(path)
        }

    for change, expected in CHANGES.values():
        change(models, out)
        assert redone() == expected
    assert redone(check=False) == {"a/model.onnx", "b/model.onnx", "c.onnx"}
    monkeypatch.setattr("bnfold.version.__version__", "0.0")
    assert redone(check=False) == {"a/model.onnx", "b/model.onnx", "c.onnx"}


@pytest.mark.slow
def test_a_model_that_fails_now_loses_what_an_earlier_batch_wrote(
    models: Path, tmp_path: Path, scratch: Path
) -> None:
    out = tmp_path / "out"
    run(jobs(models), out, loky(scratch), scratch)
    (models / "c.onnx").write_text("no model")
    (out / "b" / "model.onnx").write_text("changed by somebody")
    (models / "b" / "model.onnx").write_text("no model")
    rows = run(jobs(models), out, loky(scratch), scratch, resume=True)
    assert rows["c.onnx"].exit_code == 3
    assert names(out) == with_pages("a/model.onnx") | {"b/model.onnx"} | INDEX
