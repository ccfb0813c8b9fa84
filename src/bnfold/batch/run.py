"""Runs a batch: all checks side by side, then the timings with nothing beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from bnfold import version
from bnfold.atomic import shared_permissions
from bnfold.batch.asked import Asked, data_of, hash_model
from bnfold.batch.engine import Engine, run_all
from bnfold.batch.estimate import Estimate, Status, Watch
from bnfold.batch.folder import Folder, unpack
from bnfold.batch.tasks import Outcome, Step, Task, packed
from bnfold.errors import UsageError
from bnfold.record.batch import WAITING, Index, Row

SENDING = ("auto", "path", "bytes")


@dataclass(frozen=True)
class Job:
    """A model, and what is to become of it."""

    model: Path
    shown: str
    name: str
    asked: Asked
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manner:
    """How a batch runs.

    Args:
        resume: leave alone what is up to date.
        send: models travel by ``path``, as ``bytes``, or as bytes where a worker lacks the path.
        each: time on each kind of machine.
        scratch: a folder for temporary files of workers on this machine.
        command: the command line, for the index.
    """

    resume: bool = False
    send: str = "auto"
    each: bool = False
    scratch: Path | None = None
    command: list[str] = field(default_factory=list)


def run_batch(
    jobs: Sequence[Job], folder: Folder, engine: Engine, manner: Manner, watch: Watch
) -> Index:
    """Do all jobs, and return the index, which is in the folder then, with all that it names.

    The folder must have been entered. Whatever ends the batch, the index has what was finished.

    Raises:
        UsageError: if the folder cannot be written to, or the workers cannot be used.
    """
    return _Batch(jobs, folder, engine, manner, watch).run()


class _Batch:
    def __init__(
        self, jobs: Sequence[Job], folder: Folder, engine: Engine, manner: Manner, watch: Watch
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._folder, self._engine, self._manner = folder, engine, manner
        self._watch = watch
        self._begun = time.monotonic()
        self._old = {row.name: row for row in folder.rows_before}
        self._rows = {job.name: self._waiting(job) for job in jobs}
        self._keys = {job.name: f"{number:05}" for number, job in enumerate(jobs)}
        self._hashes: dict[int, str] = {}
        self._held: dict[str, Path] = {}
        """The folders of models that are not written before they are timed."""
        self._finishing: tuple[Row, Path] | None = None
        """A row whose files are being moved, and the folder that they are in."""

    def _waiting(self, job: Job) -> Row:
        """Return the row of a model that is not finished: it has the files of an earlier batch."""
        files = self._old[job.name].files if job.name in self._old else []
        return Row(job.name, job.shown, 0, WAITING, files=files)

    def run(self) -> Index:
        finished = False
        try:
            kept = self._up_to_date() if self._manner.resume else {}
            self._rows |= kept
            new = [job for name, job in self._jobs.items() if name not in kept]
            checks = [self._task(job, "check") for job in new if not job.asked.is_whole]
            wholes = [self._task(job, "whole") for job in new if job.asked.is_whole]
            self._folder.write(self._index(finished=False))
            self._check(checks, len(wholes))
            self._time(wholes)
            finished = True
        finally:
            with suppress(UsageError):  # the one that is being raised
                self._finish()
            index = self._index(finished=finished)
            self._folder.write(index)
        return index

    def _index(self, *, finished: bool) -> Index:
        waiting = {name: self._waiting(self._jobs[name]) for name in self._held}
        rows = [waiting.get(name, row) for name, row in sorted(self._rows.items())]
        seconds = round(time.monotonic() - self._begun, 1)
        others = self._old.keys() - self._jobs.keys()
        earlier = [self._old[name] for name in sorted(others) if self._old[name].files]
        return Index(rows, self._manner.command, self._engine.name, seconds, finished, earlier)

    # --- What is up to date -----------------------------------------------------------------------

    def _up_to_date(self) -> dict[str, Row]:
        """Return the rows of an earlier batch that still hold."""
        found = {}
        for number, (name, job) in enumerate(self._jobs.items()):
            self._watch(Status("looking for what is up to date", number, len(self._jobs), 0, None))
            row = self._old.get(name)
            if row is not None and self._holds(job, row):
                found[name] = row
        return found

    def _holds(self, job: Job, row: Row) -> bool:
        return (
            row.exit_code == 0
            and row.verdict != WAITING
            and row.version == version.__version__
            and bool(row.files)
            and row.options == self._options(job.asked) != ""
            and all(map(self._folder.has, row.files))
            and row.sha256 == hash_model(job.model, data_of(job.model)) != ""
        )

    def _options(self, asked: Asked) -> str:
        """Return the hash of what is asked; "" if a file that it names cannot be read."""
        if id(asked) not in self._hashes:
            try:
                self._hashes[id(asked)] = asked.sha256()
            except UsageError:
                self._hashes[id(asked)] = ""
        return self._hashes[id(asked)]

    # --- The two phases ---------------------------------------------------------------------------

    def _check(self, tasks: list[Task], wholes: int) -> None:
        pending = sum(row.pending for row in self._rows.values())
        timed = sum(task.asked.is_timed for task in tasks) + pending + wholes
        seconds = max((job.asked.seconds_to_time for job in self._jobs.values()), default=0.0)
        self._estimate = Estimate(len(tasks), timed, seconds + 1)
        self._estimate.begin("check")
        self._tell("checking")
        with closing(self._outcomes(tasks, None)) as outcomes:
            for task, outcome in outcomes:
                row = self._row(task, outcome)
                self._estimate.end_one("check")
                if task.asked.is_timed and not row.pending:
                    self._estimate.drop_one("time")
                if row.pending and task.asked.timing.require_speedup is not None:
                    self._hold(row, outcome)
                else:
                    self._bring(row, outcome)
                self._tell("checking")

    def _time(self, wholes: list[Task]) -> None:
        if not wholes and not any(row.pending or self._manner.each for row in self._rows.values()):
            return
        kinds = self._engine.kinds()
        self._estimate.begin("time")
        self._tell("timing")
        if not self._manner.each or not kinds:
            self._time_on([place for places in kinds.values() for place in places], wholes)
            return
        for number, (kind, places) in enumerate(kinds.items()):
            self._time_on(places, wholes if number == 0 else [])
            self._time_again(kind, places)

    def _time_on(self, places: Sequence[str], wholes: list[Task]) -> None:
        """Time what was not timed yet."""
        tasks = [self._timing(row) for row in self._rows.values() if row.pending]
        with closing(self._outcomes([*tasks, *wholes], places)) as outcomes:
            for task, outcome in outcomes:
                self._estimate.end_one("time")
                self._bring(self._row(task, outcome), outcome)
                self._tell("timing")

    def _time_again(self, kind: str, places: Sequence[str]) -> None:
        """Time what was timed on other kinds of machines alone."""
        tasks = [
            self._timing(row, f".on-{len(row.machines) + 1}")
            for row in self._rows.values()
            if row.speeds and kind not in row.machines and not self._jobs[row.name].asked.is_whole
        ]
        with closing(self._outcomes(tasks, places)) as outcomes:
            for task, outcome in outcomes:
                self._add_speed(self._row(task, outcome), outcome)
                self._tell(f"timing on {kind}")

    def _outcomes(
        self, tasks: list[Task], places: Sequence[str] | None
    ) -> Generator[tuple[Task, Outcome]]:
        resend = self._manner.send != "path"
        return run_all(self._engine, tasks, self._prepared, places, resend=resend)

    def _tell(self, doing: str) -> None:
        if self._folder.is_due():
            self._folder.write(self._index(finished=False))
        failed = sum(row.exit_code != 0 for row in self._rows.values())
        left = self._estimate.seconds_left()
        self._watch(Status(doing, self._estimate.done, self._estimate.total, failed, left))

    # --- Tasks ------------------------------------------------------------------------------------

    def _task(self, job: Job, step: Step) -> Task:
        return Task(
            key=f"{self._keys[job.name]}-{step}",
            step=step,
            name=job.name,
            model=job.model,
            shown=job.shown,
            asked=job.asked,
            options=self._options(job.asked),
            command=job.command,
            stage=self._folder.stage,
            scratch=self._manner.scratch,
            sharers=self._engine.sharers,
            size=_size(job.model),
            ledger=self._engine.ledger,
        )

    def _timing(self, row: Row, suffix: str = "") -> Task:
        task = self._task(self._jobs[row.name], "time")
        held = self._held.get(row.name)
        beside = held if held is not None else (self._folder.path / row.name).parent
        return replace(
            task,
            key=task.key + suffix,
            row=row,
            suffix=suffix,
            optimized=beside / Path(row.name).name,
            record=beside / Path(row.record).name,
        )

    def _prepared(self, task: Task, as_bytes: bool) -> Task:
        """Put the files into a task, if its worker does not see them."""
        if not as_bytes and self._manner.send != "bytes":
            return task
        try:  # if anything is missing, the worker will find out
            return packed(task, data_of(task.model) or {})
        except OSError:
            return replace(task, files={})

    # --- Outcomes ---------------------------------------------------------------------------------

    def _row(self, task: Task, outcome: Outcome) -> Row:
        if outcome.status == "unseen":  # by path alone, which was asked for
            reason = "its worker does not see the file; leave out --send path"
            return Row(task.name, task.shown, 2, "failed", reason)
        if outcome.row is None:
            return self._dead(task, outcome)
        row, starts = outcome.row, outcome.starts
        if len(starts) > 1:
            note = f"its worker {starts[-2]} was lost, and {starts[-1]} did it again"
            row = replace(row, starts=max(row.starts, len(starts)), notes=[*row.notes, note])
        return row

    def _dead(self, task: Task, outcome: Outcome) -> Row:
        """Return the row of a model that its workers died of, or that none are left for."""
        cause = outcome.reason or (
            f"its workers died twice ({', '.join(outcome.starts[:2])}), which a lack of memory or "
            "a crash of a library does"
        )
        if task.row is None:
            row = Row(task.name, task.shown, 5, "failed", cause)
            return replace(row, starts=len(outcome.starts))
        note = f"not timed: {cause}"
        required = task.asked.timing.require_speedup is not None
        if task.suffix:
            return replace(task.row, speeds=[], files=[], notes=[note])
        row = replace(task.row, pending=False, speed_note=note, notes=[*task.row.notes, note])
        if not required:
            return row
        failed = replace(row, exit_code=6, verdict="too slow", reason=note)
        return replace(failed, files=[], page="", record="")

    def _source(self, name: str, outcome: Outcome) -> Path:
        """Return the folder of the files that a worker has made."""
        if outcome.files is not None:
            model = self._jobs[name].model
            at_most = shared_permissions([model, *(data_of(model) or {}).values()])
            folder = self._folder.stage / f"{outcome.key}-received"
            return unpack(folder, outcome.files, at_most)
        return outcome.folder or self._folder.stage / "none"

    def _hold(self, row: Row, outcome: Outcome) -> None:
        self._held[row.name] = self._source(row.name, outcome)
        self._rows[row.name] = row

    def _bring(self, row: Row, outcome: Outcome) -> None:
        """Bring the files of a row into the folder; only then does the index have the row."""
        self._finishing = row, self._source(row.name, outcome)
        self._finish()

    def _finish(self) -> None:
        """Bring what is left of a row, which may be all of it, or nothing.

        A signal may come at any step, and then all steps are done again.
        """
        if self._finishing is None:
            return
        row, source = self._finishing
        held, known = self._held.get(row.name), self._rows[row.name]
        if held is not None:
            known = self._waiting(self._jobs[row.name])
            if row.exit_code == 0:
                self._folder.bring(row, held, None)
        self._folder.bring(row, source, known)
        if row.record and not row.page and not row.pending:  # its timing has made none
            row = self._folder.add_page(row)
        self._rows[row.name] = row
        self._held.pop(row.name, None)
        self._finishing = None

    def _add_speed(self, row: Row, outcome: Outcome) -> None:
        """Add the timings of another kind of machine to a row."""
        known = self._rows[row.name]
        more = replace(
            known,
            speeds=[*known.speeds, *row.speeds],
            files=[*known.files, *row.files],
            notes=[*known.notes, *row.notes],
        )
        self._bring(more, outcome)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
