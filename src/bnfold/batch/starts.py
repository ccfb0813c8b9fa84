"""Counts how often each task was begun, so that a model that kills its workers is told apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ledger:
    """Where workers write down what they begin: a folder that all see, or a Dask scheduler."""

    folder: Path | None = None
    run: str = ""
    """Of a batch on Dask: its name among the scheduler's metadata."""

    @property
    def is_known(self) -> bool:
        """Whether there is such a place."""
        return bool(self.run) or self.folder is not None

    def begin(self, key: str, worker: str) -> list[str]:
        """Add a worker to those that have begun a task, and return them all."""
        starts = [*self.starts(key), worker]
        if self.run:
            _client().set_metadata(["bnfold", self.run, key], starts)
        elif self.folder is not None and self.folder.is_dir():
            (self.folder / f"{key}.starts").write_text("\n".join(starts))
        return starts

    def starts(self, key: str) -> list[str]:
        """Return the workers that have begun a task, as seen from here."""
        if self.run:
            found: list[str] = _client().get_metadata(["bnfold", self.run, key], [])
            return found
        if self.folder is None:
            return []
        try:
            return (self.folder / f"{key}.starts").read_text().splitlines()
        except OSError:
            return []

    def forget(self, key: str) -> None:
        """Forget that a task was begun: its worker could not do it, and did not die of it."""
        if self.run:
            _client().set_metadata(["bnfold", self.run, key], [])
        elif self.folder is not None:
            (self.folder / f"{key}.starts").unlink(missing_ok=True)


def _client() -> Any:
    """Return the client of the scheduler whose worker this is."""
    from distributed import get_client

    return get_client()
