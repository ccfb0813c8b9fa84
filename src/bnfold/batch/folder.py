"""The folder of a batch: what is in it, what is brought into it, and what of it is up to date."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.atomic import OF_ANY_FILE, create_file, write_text
from bnfold.batch.asked import hash_file
from bnfold.batch.locks import lock_alone
from bnfold.batch.selection import STAGE, pages_of, require_within
from bnfold.batch.work import seal
from bnfold.errors import UsageError, in_words
from bnfold.record.batch import FileRecord, Index, Row, read_index
from bnfold.record.reading import read_record
from bnfold.report import render

if TYPE_CHECKING:
    from typing_extensions import Self

_SECONDS_BETWEEN = 5.0
_SHARE_OF_WRITING = 0.01


class Folder:
    """A context manager: within it, no other batch uses the folder.

    Raises:
        UsageError: if it is no folder, cannot be made or written to, or another batch uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.stage = self.path / STAGE
        self._stack = ExitStack()
        self._written, self._cost = 0.0, 0.0
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--out {path} is not a folder; name one to write to")
        if not self.path.exists() and not self.path.parent.is_dir():
            raise UsageError(f"--out {path}: the folder that it is in does not exist")
        self.before = read_index(self.path / "index.json")

    def __enter__(self) -> Self:
        is_new = not self.path.exists()
        try:
            self.stage.mkdir(parents=True, exist_ok=True)
            if not self._stack.enter_context(lock_alone(self.stage / "lock")):
                self._stack.close()
                raise UsageError(
                    f"another batch writes to {self.path}; wait, or name another --out"
                )
            self._clear(keep=("lock",))  # what a batch left that was killed
            seal(self.stage)
        except OSError as error:
            raise UsageError(in_words(error, self.path, "written to")) from error
        if is_new:
            self._stack.callback(self._remove_if_empty)
        self._stack.callback(shutil.rmtree, self.stage, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _clear(self, keep: Iterable[str]) -> None:
        for path in self.stage.iterdir():
            if path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @property
    def rows_before(self) -> list[Row]:
        """What earlier batches did, each model once."""
        return [*self.before.earlier, *self.before.rows] if self.before is not None else []

    def require_free(self, names: Iterable[str], models: Iterable[Path], force: bool) -> None:
        """Require that nothing is replaced but what an earlier batch wrote.

        Raises:
            UsageError: if a name leads out of the folder, or to a file that is not of a batch.
        """
        known = {row.name for row in self.rows_before}
        given = {os.path.realpath(model) for model in models}
        if self.before is None and not force:
            for name in ("index.html", "index.md"):
                if os.path.lexists(self.path / name):
                    raise UsageError(f"{self.path / name} is not of a batch; --force replaces it")
        for name in names:
            for each in (name, *pages_of(name)):
                place = self.path / each
                if not Path(os.path.realpath(place.parent)).is_relative_to(self.path):
                    raise UsageError(f"{place} is behind a link that leads out of {self.path}")
                if os.path.realpath(place) in given:
                    raise UsageError(
                        f"{place} is one of the models, which are not replaced; name another --out"
                    )
                if place.is_dir():
                    raise UsageError(f"{place} is a folder; name another --out")
                if name not in known and not force and os.path.lexists(place):
                    raise UsageError(f"{place} is not of an earlier batch; --force replaces it")

    def bring(self, row: Row, source: Path, old: Row | None) -> None:
        """Move the files of a row into the folder, and remove those that its old row had beside.

        Raises:
            UsageError: if the system refuses.
        """
        made = {path.name: path for path in source.iterdir()} if source.is_dir() else {}
        for file in row.files:
            place = self.path / file.path
            if place.name not in made:
                continue
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                if not Path(os.path.realpath(place.parent)).is_relative_to(self.path):
                    raise UsageError(f"{place} is behind a link that leads out of {self.path}")
                os.replace(made[place.name], place)
            except OSError as error:
                raise UsageError(in_words(error, place, "written")) from error
        self._remove(old.files if old is not None else [], row.files)
        shutil.rmtree(source, ignore_errors=True)

    def add_page(self, row: Row) -> Row:
        """Render the page of a row from its record.

        Raises:
            UsageError: if it cannot be written, or the record was changed.
        """
        page, _ = pages_of(row.name)
        write_text(self.path / page, render(read_record(self.path / row.record), ".html"))
        file = FileRecord(page, hash_file(self.path / page))
        return replace(row, page=page, files=[*row.files, file])

    def _remove(self, old: Iterable[FileRecord], new: Iterable[FileRecord]) -> None:
        """Remove old files, unless they are among the new, or were changed by somebody else."""
        kept = {file.path for file in new}
        for file in old:
            if file.path not in kept and self.has(file):
                (self.path / file.path).unlink()

    def has(self, file: FileRecord) -> bool:
        """Return whether a file is there, as it was written."""
        place = self.path / file.path
        try:
            require_within(file.path)
            return place.is_file() and hash_file(place) == file.sha256
        except (UsageError, OSError):
            return False

    def is_due(self) -> bool:
        """Return whether enough time has passed to write the index again."""
        pause = max(_SECONDS_BETWEEN, self._cost / _SHARE_OF_WRITING)
        return time.monotonic() - self._written >= pause

    def write(self, index: Index) -> None:
        """Write the index.

        Raises:
            UsageError: if it cannot be written.
        """
        from bnfold.report import batch

        begun = time.monotonic()

        write_text(self.path / "index.json", index.to_json())
        write_text(self.path / "index.md", batch.markdown(index))
        write_text(self.path / "index.html", batch.html(index))
        self._written = time.monotonic()
        self._cost = self._written - begun


def unpack(folder: Path, files: dict[str, bytes], at_most: int) -> Path:
    """Write files that came as bytes to a folder of their own, and return it.

    Models and their data have `at_most` these permissions, pages those of any file.
    """
    folder.mkdir(mode=0o700)
    for name, content in files.items():
        place = folder / Path(name).name
        is_page = place.suffix in (".html", ".json")
        create_file(place, like=place, at_most=OF_ANY_FILE if is_page else at_most)
        place.write_bytes(content)
    return folder
