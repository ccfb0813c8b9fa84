"""A temporary folder that is made only if it is needed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import UsageError, in_words

if TYPE_CHECKING:
    from typing_extensions import Self


class Scratch:
    """A context manager; `folder` makes the folder on first use, and the exit removes it.

    Its name is chosen before it is made, so that a signal leaves nothing behind; and before a
    fork, which may make it, and may be killed: who forked removes it.
    """

    def __init__(self) -> None:
        self._name = f"bnfold-{secrets.token_hex(6)}"
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder.

        Raises:
            UsageError: if it cannot be made.
        """
        try:
            folder = self.place()
        except OSError as error:  # none of the usual folders can be written to
            raise UsageError(
                "no folder for temporary files can be written to; set TMPDIR to one that can"
            ) from error
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            message = in_words(error, folder, "made")
            raise UsageError(f"{message}; set TMPDIR to another folder") from error
        return folder

    def place(self) -> Path:
        """Return the path of the folder, whether it is there or not."""
        if self._folder is None:
            self._folder = Path(os.path.abspath(tempfile.gettempdir()), self._name)
        return self._folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # no folder for temporary files: none was made
            remove_folder(self.place())


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it, as far as the system lets it, also if a signal comes."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)  # an empty one needs no descriptor, of which there may be none left
        return
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # another signal
        shutil.rmtree(folder, ignore_errors=True)
        raise
