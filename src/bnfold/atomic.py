"""Writes files atomically."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bnfold.errors import UsageError, in_words

if TYPE_CHECKING:
    from typing_extensions import Self

OF_ANY_FILE = 0o666
"""The permissions of a new file, of which the umask takes some away."""

BLOCK = 1 << 20
"""Bytes to copy or hash at a time."""


class AtomicFile:
    """A file that is written to a temporary file, then renamed to its place.

    Use as a context manager; unless `commit` is called, the file is removed on exit. What is made
    is remembered before it is made, so that a signal leaves nothing behind: push the object on an
    `ExitStack` first, and let it `create` the file then. If `hashed`, `sha256` is the hash of the
    content written last, in hexadecimal.

    A file that replaces another is synced to disk first. A new file is not, as with `cp`: nothing
    is lost if the power fails.

    A file that replaces another keeps its permissions. A new one has those that the umask leaves,
    and `at_most` these.

    Raises:
        UsageError: if the place cannot hold a file, or writing fails.
    """

    def __init__(self, place: Path, *, hashed: bool = False, at_most: int = OF_ANY_FILE) -> None:
        self.sha256: str | None = None
        self._at_most = at_most
        self._hashed = hashed
        self._committed = False
        with as_usage_error(place):
            with contextlib.suppress(FileNotFoundError):
                place.stat()  # a link to itself is an OSError here, unlike below
            _require_file_name(place)
            self._settle(place.resolve())  # a link stays a link: its target is replaced
            if self.place.exists() and not self.place.is_file():
                raise UsageError(f"{place} is not a regular file; name a file to write to")

    def _settle(self, place: Path) -> None:
        """Choose the place, and the name of the temporary file beside it."""
        self.place = place
        self._replaces = place.exists()
        start = os.fsdecode(os.fsencode(place.name)[:100])
        self.path = place.with_name(f".{start}.{secrets.token_hex(6)}.tmp")

    def create(self) -> Self:
        """Create the temporary file."""
        with as_usage_error(self.place):
            create_file(self.path, like=self.place, at_most=self._at_most)
        return self

    def __enter__(self) -> Self:
        try:
            return self.create()
        except BaseException:
            self.discard()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._committed:
            self.discard()

    def discard(self) -> None:
        """Remove what was made, as far as the system lets it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def write(self, content: bytes) -> None:
        """Replace the content."""
        self.write_blocks([content])

    def write_blocks(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Replace the content, given in pieces."""
        digest = Digest() if self._hashed else None
        with as_usage_error(self.place):
            passing = digest.passing(blocks) if digest is not None else blocks
            overwrite(self.path, passing, to_disk=self._replaces)
        self.sha256 = digest.hexdigest() if digest is not None else None

    def commit(self) -> None:
        """Rename the file to its place."""
        with as_usage_error(self.place):
            os.replace(self.path, self.place)
        self._committed = True


def write_text(place: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        UsageError: if it cannot be written.
    """
    with AtomicFile(place) as file:
        file.write(text.encode())
        file.commit()


@contextlib.contextmanager
def as_usage_error(place: Path) -> Iterator[None]:
    """Turn an OSError into the message that `place` cannot be written, with the cause."""
    try:
        yield
    except OSError as error:
        raise UsageError(in_words(error, place, "written")) from error


def create_file(path: Path, like: Path, at_most: int = OF_ANY_FILE) -> None:
    """Create an empty file with the permissions of an existing one, or else `at_most` these."""
    mode = like.stat().st_mode & 0o777 if like.exists() else None
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    os.close(os.open(path, flags, at_most if mode is None else 0o600))
    if mode is not None:
        path.chmod(mode)


def shared_permissions(files: Iterable[Path]) -> int:
    """Return the permissions of a new file that tells what these hold to nobody else.

    Its owner may read and write it.
    """
    shared = OF_ANY_FILE
    for file in files:
        try:
            shared &= file.stat().st_mode
        except OSError:
            shared = 0
    return shared | 0o600


def _require_file_name(place: Path) -> None:
    """Require that the path does not lead to an open stream, as /dev/stdout and /dev/fd/1 do.

    Such a path names a file that another program writes to; to replace it takes its content away.
    """
    step = os.path.abspath(place)
    for _ in range(40):  # as many links as the system follows
        folder = os.path.realpath(os.path.dirname(step))
        if folder == "/proc" or folder.startswith("/proc/"):
            raise UsageError(f"{place} is an open stream, not a file; name a file to write to")
        step = os.path.join(folder, os.path.basename(step))
        if not os.path.islink(step):
            return
        step = os.path.join(folder, os.readlink(step))


class Digest:
    """The SHA-256 of all blocks that pass through."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def passing(self, blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Yield the blocks; hash each one while the next is written and read."""
        with ThreadPoolExecutor(1) as executor:
            hashing: Future[None] | None = None
            for block in joined(blocks):
                if hashing is not None:
                    hashing.result()
                hashing = executor.submit(self._sha256.update, block)
                yield block

    def hexdigest(self) -> str:
        """Return the hash in hexadecimal."""
        return self._sha256.hexdigest()


def overwrite(path: Path, blocks: Iterable[bytes | memoryview], *, to_disk: bool) -> None:
    """Overwrite an existing file; with `to_disk`, fsync it.

    Truncate it at the end, not at the start: ext4 waits for the disk when a file that was truncated
    to zero is closed.
    """
    with open(path, "r+b", buffering=0) as file:
        for block in joined(blocks):
            written = 0
            while written < len(block):
                written += file.write(memoryview(block)[written:])
        file.truncate()
        if to_disk:
            os.fsync(file.fileno())


def joined(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Join small blocks into ones large enough to write efficiently."""
    small = bytearray()
    for block in blocks:
        if len(block) < BLOCK // 2:
            small += block
            if len(small) < BLOCK:
                continue
            block = b""
        if small:
            yield bytes(small)
            small.clear()
        if block:
            yield block
    if small:
        yield bytes(small)
