"""Shows the current step, and the time it takes, on stderr if that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.cli.signals import require_none
from bnfold.progress import Counted
from bnfold.text import legible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class StepProgress:
    """A line that says what is done, how much of it and for how long; a context manager."""

    def __enter__(self) -> StepProgress:
        from rich.console import Console

        console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total: int | None = None
        if console.is_terminal:
            self._bar = _progress(console)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, doing: str) -> None:
        """Begin a step; the time goes on in those that are counted together."""
        require_none()
        if self._bar is None:
            return
        words = f"{legible(doing)} …"
        total = doing.total if isinstance(doing, Counted) else None
        done = doing.number - 1 if isinstance(doing, Counted) else 0
        if self._task is not None and total is not None and total == self._total and done:
            self._bar.update(self._task, description=words, completed=done)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(words, total=total, completed=done)
        self._total = total


def _progress(console: object) -> Progress:
    """Return a line of one task: a spinner, what is done, a bar where that is known, and a time."""
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Bar(ProgressColumn):
        """A bar for what is counted."""

        _bar = BarColumn(bar_width=16)

        def render(self, task: Task) -> RenderableType:
            return Text("") if task.total is None else self._bar.render(task)

    assert isinstance(console, Console)
    others = 30  # columns of the spinner, the bar and the time
    most = max(10, console.width - others)
    name = Column(no_wrap=True, overflow="ellipsis", max_width=most)
    words = TextColumn("{task.description}", markup=False, table_column=name)
    columns = SpinnerColumn(), words, Bar(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)
