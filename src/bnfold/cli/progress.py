"""Shows the current step, and the time it takes, on stderr if that is a terminal."""

from __future__ import annotations

from bnfold.cli.signals import require_none


class StepProgress:
    """A line that says what is done, and for how long; a context manager."""

    def __enter__(self) -> StepProgress:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, doing: str) -> None:
        """Begin a step."""
        require_none()
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(f"{doing} …", total=None)
