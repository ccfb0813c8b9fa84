"""What is sent to workers, and what they send back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bnfold.batch.asked import Asked, data_of
from bnfold.batch.starts import Ledger
from bnfold.record.batch import Row
from bnfold.version import __version__

Step = Literal["check", "time", "whole"]
"""Rewrite and check; time what was written; or all of it at once."""

MOST_STARTS = 2
"""A model whose workers have died so often is not begun again."""


@dataclass(frozen=True)
class Task:
    """One step with one model."""

    key: str
    """Names its files."""
    step: Step
    name: str
    """Where the result goes, relative to the folder of the batch."""
    model: Path
    shown: str
    """The model's path as the records have it."""
    asked: Asked
    options: str = ""
    """The hash of what is asked."""
    command: list[str] = field(default_factory=list)
    """What would do the same for this model alone."""
    stage: Path = Path()
    """The folder that results are written to."""
    scratch: Path | None = None
    """The folder for temporary files; by default that of the worker's system."""
    sharers: int = 1
    """How many workers share a machine while nothing is timed."""
    row: Row | None = None
    """What is known already, for a timing."""
    optimized: Path | None = None
    record: Path | None = None
    suffix: str = ""
    """Of a second timing, which has a page of its own."""
    size: int = 0
    files: dict[str, bytes] | None = None
    """The files themselves, where the worker cannot see them: see `packed`."""
    ledger: Ledger = field(default_factory=Ledger)
    version: str = __version__


@dataclass(frozen=True)
class Outcome:
    """What came of a task. Unless it is done, there is no row."""

    key: str
    status: Literal["done", "unseen", "died"]
    row: Row | None = None
    folder: Path | None = None
    """Where the files of the row are, under their names alone."""
    files: dict[str, bytes] | None = None
    """Or the files themselves."""
    starts: list[str] = field(default_factory=list)
    """The workers that began it."""
    reason: str = ""
    """Why it died, if that is known."""


def packed(task: Task, data: Mapping[str, Path]) -> Task:
    """Put the files that a task needs into it; `data` are those of external data."""
    files = {f"model/{task.model.name}": task.model.read_bytes()}
    files |= {f"model/{location}": path.read_bytes() for location, path in data.items()}
    if task.optimized is not None and task.record is not None:
        files["record"] = task.record.read_bytes()
        beside = {task.optimized.name: task.optimized} | (data_of(task.optimized) or {})
        files |= {f"optimized/{name}": path.read_bytes() for name, path in beside.items()}
    return replace(task, files=files)
