"""A batch that a signal ends: the index has what is finished, and the folder has nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from bnfold.batch import folder, run
from bnfold.batch.asked import Asked, hash_file
from bnfold.batch.engine import Engine
from bnfold.batch.folder import Folder
from bnfold.batch.run import Job, Manner, run_batch
from bnfold.batch.selection import pages_of
from bnfold.batch.starts import Ledger
from bnfold.batch.tasks import Outcome, Task
from bnfold.errors import UsageError
from bnfold.record.batch import FileRecord, Row, Speed, read_index
from tests.support.batch import INDEX, QUICK, UNTIMED, names
from tests.support.slow import few

MUST_BE_FASTER = replace(QUICK, timing=replace(QUICK.timing, require_speedup=1.5))
ASKED = {"untimed.onnx": UNTIMED, "timed.onnx": QUICK, "held.onnx": MUST_BE_FASTER}
STEPS = (
    *(run._Batch._bring, run._Batch._finish, run._Batch._add_speed),
    *(Folder.bring, Folder._remove, Folder.add_page),
)
"""What moves files and marks rows."""


@pytest.fixture(autouse=True)
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers write names instead of models, and pages say nothing."""
    monkeypatch.setattr(run, "run_all", worked)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(folder, "read_record", lambda path: None)
    monkeypatch.setattr(folder, "render", lambda record, suffix: "a page")
    for kind in ("markdown", "html"):
        monkeypatch.setattr(f"bnfold.report.batch.{kind}", lambda index: "")


def worked(
    engine: Engine, tasks: Sequence[Task], *_: object, **options: object
) -> Iterator[tuple[Task, Outcome]]:
    """Yield what workers would make of tasks, but for one, whose timing they die of."""
    for task in tasks:
        if task.step == "time" and task.name == "timed.onnx" and not task.suffix:
            yield task, Outcome(task.key, "died", starts=["a", "b"])
        else:
            yield task, made(task)


def made(task: Task) -> Outcome:
    page, record = pages_of(f"{task.name}{task.suffix}")
    is_pending = task.step == "check" and task.asked.is_timed
    asked = task.asked.sha256()
    given = [] if task.step == "time" else [task.name, f"{task.name}.{asked}"]
    place = task.stage / task.key
    place.mkdir()
    files = []
    for name in [*given, record, *([] if is_pending else [page])]:
        (place / name).write_text(f"{task.key} {asked}")
        files.append(FileRecord(name, hash_file(place / name)))
    kept = task.row.files[:2] if task.row is not None and not task.suffix else []
    row = Row(task.name, task.shown, 0, "pass", pending=is_pending, files=[*kept, *files])
    speeds = [] if is_pending else [speed("first" if not task.suffix else "second")]
    row = replace(row, speeds=speeds, record=record, page="" if is_pending else page)
    return Outcome(task.key, "done", row, place)


def speed(machine: str) -> Speed:
    return Speed(machine, "CPU", "all", 1.0, 1.0, 1.0, [1.0, 1.0], "as fast", "")


def batch(out: Path, asked: dict[str, Asked], *, each: bool) -> None:
    kinds = {"first": ["here"], "second": ["there"]}
    engine = SimpleNamespace(name="", workers=1, sharers=1, ledger=Ledger(), kinds=lambda: kinds)
    jobs = [Job(Path(name), name, name, each) for name, each in asked.items()]
    with Folder(out) as place:
        run_batch(jobs, place, cast(Engine, engine), Manner(each=each), lambda _: None)


def ended_at(number: int, function: Callable[[], object]) -> bool:
    """Call a function, end it before the n-th line of `STEPS`, and return whether there is one."""
    codes, left = {step.__code__ for step in STEPS}, number

    def line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        left -= event == "line"
        if left == 0:
            left = -1
            raise KeyboardInterrupt
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: line if frame.f_code in codes and not is_last(frame) else None)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def is_last(frame: FrameType) -> bool:
    """Say whether a batch has ended already, and looks whether there is something to finish."""
    return frame.f_back is not None and frame.f_back.f_code is run._Batch.run.__code__


def consistent(out: Path) -> set[str]:
    """Require that the index names each file, as it is there; return the rows that have passed."""
    index = read_index(out / "index.json")
    assert index is not None
    files = [file for row in index.rows for file in row.files]
    assert {file.path for file in files} | INDEX == names(out)
    assert all(map(Folder(out).has, files))
    passed = [row for row in index.rows if row.verdict == "pass"]
    for row in passed:
        assert row.pending or row.page in {file.path for file in row.files}
    return {row.name for row in passed}


EVERY = [*product(ASKED, [True], [17]), *product(ASKED, [False], [2])]


@pytest.mark.parametrize(("name", "again", "stride"), few(EVERY, EVERY[: len(ASKED)]))
def test_a_signal_at_any_step_leaves_what_the_index_names(
    tmp_path: Path, name: str, *, again: bool, stride: int
) -> None:
    """Each file is of a row, as it is; and a row that has passed has its files."""
    asked = {name: ASKED[name]}
    found, number = set(), 1
    while True:
        out = tmp_path / str(number)
        if again:  # what the first one has written is replaced, or removed
            batch(out, {name: replace(ASKED[name], check=False)}, each=False)
        if not ended_at(number, partial(batch, out, asked, each=True)):
            break
        found.add(frozenset(consistent(out)))
        number += stride
    assert consistent(out) == {name}
    assert found == {frozenset(), frozenset({name})}


def test_a_disk_that_is_full_leaves_a_row_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise UsageError("No space left on device")

    monkeypatch.setattr(Folder, "bring", refused)
    with pytest.raises(UsageError, match="No space left"):
        batch(tmp_path / "out", ASKED, each=False)
    assert consistent(tmp_path / "out") == set()
