"""What a worker does with one model. It may be on another machine, and without the same files."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bnfold.batch.asked import Asked, data_of, hash_file, hash_model
from bnfold.batch.locks import timing_lock
from bnfold.batch.rows import row_of, speeds_of
from bnfold.batch.selection import pages_of
from bnfold.batch.tasks import MOST_STARTS, Outcome, Task
from bnfold.errors import BnfoldError, ProviderError, SessionError, TooSlowError, UsageError
from bnfold.record.batch import FileRecord, Row
from bnfold.record.data import Record
from bnfold.running.environment import available_threads, environment, kind_of_machine
from bnfold.version import __version__

_one_at_a_time = threading.Lock()
"""For a worker with several threads: checks fork, and timings need quiet."""


def work(task: Task) -> Outcome:
    """Do a step. Whatever fails is told in the row."""
    if task.version != __version__:
        message = f"its worker on {socket.gethostname()} has bnfold {__version__}"
        error = UsageError(f"{message}, not {task.version}: install the same there")
        return Outcome(task.key, "done", row_of(task.name, task.shown, None, error))
    starts = task.ledger.begin(task.key, f"{socket.gethostname()}:{os.getpid()}")
    if len(starts) > MOST_STARTS:
        return Outcome(task.key, "died", starts=starts)
    with _one_at_a_time, _settled(task.scratch):
        if task.files is not None:
            outcome = _from_bytes(task)
        elif _sees(task):
            outcome = _in_folder(task, task.stage / f"{task.key}-{secrets.token_hex(4)}")
        else:
            task.ledger.forget(task.key)
            return Outcome(task.key, "unseen")
    return replace(outcome, starts=starts)


def seal(stage: Path) -> None:
    """Mark a folder, so that a worker knows that it sees this one."""
    (stage / "here").touch()


def _sees(task: Task) -> bool:
    """Return whether this machine has the model and the folder for results."""
    try:
        same = task.model.stat().st_size == task.size
    except OSError:
        same = task.size < 0  # it is not there for anyone
    return same and (task.stage / "here").exists()


@contextlib.contextmanager
def _settled(scratch: Path | None) -> Iterator[None]:
    """Keep this process as the command keeps its own, and its temporary files in one place."""
    gc.set_threshold(50_000)
    for library in ("matplotlib", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    before = tempfile.tempdir
    if scratch is not None:
        tempfile.tempdir = str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _from_bytes(task: Task) -> Outcome:
    """Write the files to a folder of this machine, work there, and send back what is made."""
    assert task.files is not None
    with tempfile.TemporaryDirectory(prefix="bnfold-batch-") as temporary:
        folder = Path(temporary)
        for name, content in task.files.items():
            place = folder / "given" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        given = folder / "given"
        local = replace(task, files=None, model=given / "model" / task.model.name)
        if task.optimized is not None:
            optimized = given / "optimized" / task.optimized.name
            local = replace(local, optimized=optimized, record=given / "record")
        outcome = _in_folder(local, folder / "made")
        made = {path.name: path.read_bytes() for path in (folder / "made").iterdir()}
        return replace(outcome, folder=None, files=made)


def _in_folder(task: Task, folder: Path) -> Outcome:
    begun = time.monotonic()
    folder.mkdir(parents=True)
    with _warnings() as notes:
        if task.step == "time":
            with timing_lock():
                begun = time.monotonic()  # not the time that it waited for others
                row = _time(task, folder)
        elif task.step == "whole":
            with timing_lock():
                begun = time.monotonic()
                row = _optimize(task, folder)
        else:
            row = _optimize(task, folder)
    seconds = time.monotonic() - begun + (task.row.seconds if task.row is not None else 0.0)
    row = replace(row, seconds=round(seconds, 2), notes=[*row.notes, *notes])
    return Outcome(task.key, "done", row, folder)


def _optimize(task: Task, folder: Path) -> Row:
    from bnfold import api

    asked, place = task.asked, folder / Path(task.name).name
    execution, timing = asked.execution, asked.timing
    if task.step == "check":
        timing = replace(timing, require_speedup=None)
        if execution.threads is None:
            threads = max(1, available_threads() // task.sharers)
            execution = replace(execution, threads=threads)
    record: Record | None = None
    error: Exception | None = None
    try:
        result = api.optimize(
            task.model,
            place,
            passes=asked.passes,
            check=asked.check,
            bench=asked.bench and task.step == "whole",
            tune=asked.tune,
            drop_culprit=asked.drop_culprit,
            execution=execution,
            checking=asked.checking,
            timing=timing,
            storage=asked.storage,
        )
        record = result.record
        del result  # the model
    except BnfoldError as failure:
        record, error = failure.record, failure
    except Exception as failure:
        error = failure
    if task.step == "check" and error is None and record is not None:
        error = _lack_of_rewrites(asked, record)
    row = _row(task, record, error)
    if record is None:
        return row
    is_pending = task.step == "check" and asked.is_timed and not error and bool(record.rewrites)
    row = replace(row, pending=is_pending)
    if record.speed:
        row = replace(
            row, speeds=speeds_of(record.speed, kind_of_machine(), pages_of(task.name)[0])
        )
    if error is None:
        row = replace(row, files=[_file(task, path) for path in sorted(folder.iterdir())])
    record = _of_batch(record, task, written=error is None)
    return _with_pages(task, folder, row, record)


def _lack_of_rewrites(asked: Asked, record: Record) -> TooSlowError | None:
    """Say what `optimize` says where there is nothing to time, but a speed-up is required."""
    required = asked.timing.require_speedup
    if required is None or required <= 1 or record.rewrites:
        return None
    return TooSlowError(
        f"nothing was written: a speed-up of {required:g} is required, but there was nothing to "
        "rewrite"
    )


def _time(task: Task, folder: Path) -> Row:
    from bnfold import api
    from bnfold.record.reading import read_record

    assert task.row is not None
    assert task.record is not None
    assert task.optimized is not None
    record, asked, note = read_record(task.record), task.asked, ""
    error: BnfoldError | None = None
    timed: Record | None = None
    try:
        timed = api.bench(
            task.model, task.optimized, execution=asked.execution, timing=asked.timing
        )
    except TooSlowError as failure:
        timed, error = failure.record, TooSlowError(f"nothing was written: {failure}")
    except (ProviderError, SessionError, UsageError) as failure:
        note = f"not timed: {failure}"
        if asked.timing.require_speedup is not None:
            required = f"a speed-up of {asked.timing.require_speedup:g} is required"
            error = TooSlowError(f"nothing was written: {required}, but {note}")
    speed = timed.speed if timed is not None else []
    page, _ = pages_of(f"{task.name}{task.suffix}")
    speeds = speeds_of(speed, kind_of_machine(), page)
    if task.suffix:
        row = replace(task.row, files=[], speeds=speeds, notes=[note] if note else [])
        if timed is None:
            return row
        made = replace(timed, command=[])
        return replace(_with_pages(task, folder, row, made), page="", record="")
    record = replace(record, speed=speed, speed_note=note, environment=environment())
    if error is not None and record.output is not None:
        record = replace(record, output=replace(record.output, written=False))
    row = replace(
        _row(task, record, error, task.row),
        speeds=speeds,
        starts=task.row.starts,
        notes=task.row.notes,
        files=[] if error is not None else _without_pages(task.row),
    )
    return _with_pages(task, folder, row, record)


def _without_pages(row: Row) -> list[FileRecord]:
    return [file for file in row.files if file.path not in (row.page, row.record)]


def _row(
    task: Task, record: Record | None, error: BaseException | None, known: Row | None = None
) -> Row:
    """Return the row of a run, with the hashes by which a later run knows it again."""
    data = data_of(task.model)
    data_bytes = sum(path.stat().st_size for path in (data or {}).values())
    row = row_of(task.name, task.shown, record, error, data_bytes)
    row = replace(row, reason=row.reason.replace(str(task.model), task.shown))
    if known is not None:
        return replace(row, sha256=known.sha256, options=known.options)
    content = hash_model(task.model, data, record.model.sha256 if record is not None else None)
    return replace(row, sha256=content, options=task.options)


def _of_batch(record: Record, task: Task, *, written: bool) -> Record:
    """Name the files as they are called where the batch was started."""
    assert record.output is not None
    output = replace(record.output, path=task.name, written=written)
    model = replace(record.model, path=task.shown)
    return replace(record, command=task.command, model=model, output=output)


def _with_pages(task: Task, folder: Path, row: Row, record: Record) -> Row:
    """Write the page and the record; of a model that is still to be timed, the record alone."""
    from bnfold.report import render

    page, data = pages_of(f"{task.name}{task.suffix}")
    page = "" if row.pending else page
    made = [name for name in (page, data) if name]
    for name in made:
        place = folder / Path(name).name
        place.write_bytes(render(record, place.suffix).encode())
    files = [*row.files, *(_file(task, folder / Path(name).name) for name in made)]
    return replace(row, page=page, record=data, files=files)


def _file(task: Task, path: Path) -> FileRecord:
    parent, _, _ = task.name.rpartition("/")
    return FileRecord(f"{parent}/{path.name}" if parent else path.name, hash_file(path))


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what bnfold warns of, once each."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in messages:
                messages.append(record.getMessage())

    logger, collector = logging.getLogger("bnfold"), Collector(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
