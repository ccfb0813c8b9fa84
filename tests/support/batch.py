"""Batches for tests: small models, quick options, and workers that die."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from bnfold.batch.asked import Asked
from bnfold.batch.engine import Engine
from bnfold.batch.folder import Folder
from bnfold.batch.run import Job, Manner, run_batch
from bnfold.batch.tasks import Outcome, Task
from bnfold.batch.work import work
from bnfold.options import CheckOptions, TimingOptions
from bnfold.record.batch import Index, Row
from tests.support.graphs import batch_norm, build, normal

QUICK = Asked(checking=CheckOptions(truth="off", certify="off"), timing=TimingOptions(seconds=0.0))
"""A check without the float64 evaluation, and one turn of timing."""
UNTIMED = Asked(checking=QUICK.checking, bench=False)


def foldable(seed: int = 0) -> onnx.ModelProto:
    """Return a small model with a BatchNormalization to fold."""
    return build(
        "(float[N,3,6,6] x) => (float[N,4,4,4] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        w=normal(4, 3, 3, 3) * (1 + 0.01 * seed),
        **batch_norm(4),
    )


def save(path: Path, model: onnx.ModelProto | None = None) -> Path:
    """Save a model, and make the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model or foldable(), path)
    return path


def jobs(folder: Path, asked: Asked = UNTIMED, **others: Asked) -> list[Job]:
    """Return a job for each model in a folder; `others` are of models by stem."""
    paths = sorted(folder.rglob("*.onnx"))
    return [
        Job(path, path.name, str(path.relative_to(folder)), others.get(path.stem, asked))
        for path in paths
    ]


def run(made: list[Job], out: Path, engine: Engine, scratch: Path, **manner: Any) -> dict[str, Row]:
    """Run a batch, and return its rows by name."""
    return {row.name: row for row in run_index(made, out, engine, scratch, **manner).rows}


def run_index(made: list[Job], out: Path, engine: Engine, scratch: Path, **manner: Any) -> Index:
    """Run a batch, and return its index."""
    place = Folder(out)
    with place:
        manner_of = Manner(scratch=scratch, **manner)
        return run_batch(made, place, engine, manner_of, lambda _: None)


def worked_here(
    engine: Engine,
    tasks: Sequence[Task],
    prepare: Callable[[Task, bool], Task],
    *_: object,
    **__: object,
) -> Iterator[tuple[Task, Outcome]]:
    """Do tasks in this process: to start workers takes longer."""
    return ((task, work(prepare(task, False))) for task in tasks)


@contextmanager
def killing(starts: Callable[[], list[str]], times: int) -> Iterator[list[str]]:
    """Kill the worker that begins something, so often; yield those that were killed.

    `starts` returns the workers that have begun it, as a host and a process.
    """
    killed: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while len(killed) < times and not over.wait(0.002):
            found = starts()
            if len(found) > len(killed):
                os.kill(int(found[-1].rpartition(":")[2]), signal.SIGKILL)
                killed.append(found[-1])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def names(folder: Path) -> set[str]:
    """Return the paths of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def with_pages(*names: str) -> set[str]:
    """Return these models, and what belongs to them."""
    return {each for name in names for each in (name, f"{name}.html", f"{name}.json")}


INDEX = {"index.html", "index.md", "index.json"}


def copy(path: Path, place: Path) -> Path:
    """Copy a file to a folder that is made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, place))
