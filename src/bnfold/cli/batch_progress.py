"""Shows how far a batch is, and how long the rest will take, on stderr if that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.cli.signals import require_none

if TYPE_CHECKING:
    from rich.progress import Progress

    from bnfold.batch.estimate import Status


class BatchProgress:
    """A bar, a count and an estimate; a context manager."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None

    def __enter__(self) -> BatchProgress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        console = Console(stderr=True)
        if console.is_terminal and not self._quiet:
            text = TextColumn("{task.description}")
            columns = SpinnerColumn(), BarColumn(), text
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting the workers", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, status: Status) -> None:
        """Show how far it is."""
        require_none()
        if self._bar is not None:
            self._bar.update(
                self._task, description=in_words(status), completed=status.done, total=status.total
            )


def in_words(status: Status) -> str:
    """Return the line: what is done, how much of it, and how long the rest takes."""
    parts = [f"{status.doing} {status.done:,} of {status.total:,}"]
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time as rough as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
