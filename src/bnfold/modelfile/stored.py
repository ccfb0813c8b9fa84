"""Files held open, and weights that are read from them on demand."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.atomic import BLOCK
from bnfold.errors import ModelError, in_words, require_text

_PAGE = 4096
"""Bytes that a system reads at least."""

_READS_ANYWHERE = hasattr(os, "preadv")
"""Whether files can be read without moving their position, which forked processes share."""


class OpenFile:
    """A regular file, as it was when it was opened.

    It stays readable after it is replaced or removed. If its content changes, reading fails.
    Several threads and forked processes may read it.

    `name` is the path to report instead, for a file that will be renamed.

    Raises:
        ModelError: if it cannot be opened, is not a regular file, or changes later.
    """

    def __init__(self, path: Path, name: Path | None = None) -> None:
        self.path, self._place = name or path, path
        require_text(path, ModelError)
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ModelError(f"{path} is not a regular file")
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the object
        except FileNotFoundError:
            raise ModelError(f"{path} does not exist") from None
        except IsADirectoryError:
            raise ModelError(f"{path} is a directory; name the .onnx file in it") from None
        except OSError as error:
            raise ModelError(in_words(error, path, "read")) from error
        except ValueError as error:  # a NUL in the name
            raise ModelError(f"{path} cannot be read: {error}") from error
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._digest: Future[str] | None = None
        self.size, self._modified = self._state()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ModelError(in_words(error, self.path, "read")) from error

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        (content,) = self.read_each([offset], length)
        return content

    def read_each(self, offsets: Iterable[int], length: int) -> list[bytes]:
        """Return exactly `length` bytes from each offset on."""
        with self._in_words():
            found = [self._read_at(offset, length) for offset in offsets]
            self._require_unchanged(any(len(content) < length for content in found))
        return found

    def _read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes, or what there is: a system may return fewer at a time."""
        content = self._read_some(offset, length)
        while content and len(content) < length:
            more = self._read_some(offset + len(content), length - len(content))
            if not more:
                break
            content += more
        return content

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer."""
        done = 0
        with self._in_words():
            while done < len(buffer):
                count = self._read_some_into(offset + done, buffer[done:])
                if not count:
                    break
                done += count
            self._require_unchanged(done < len(buffer))

    def _read_some(self, offset: int, length: int) -> bytes:
        if _READS_ANYWHERE:
            return os.pread(self._file.fileno(), length, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(length)

    def _read_some_into(self, offset: int, buffer: memoryview) -> int:
        if _READS_ANYWHERE:
            return os.preadv(self._file.fileno(), [buffer], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(buffer)

    def _require_unchanged(self, is_short: bool) -> None:
        if is_short or self._state() != (self.size, self._modified):
            raise ModelError(f"{self.path} was changed while it was being read")

    def require_in_place(self) -> None:
        """Require that its path still leads to this file: onnxruntime reads by path.

        Raises:
            ModelError: if it has been replaced, removed or changed.
        """
        try:
            is_there = os.path.samestat(os.stat(self._place), os.fstat(self._file.fileno()))
        except OSError:
            is_there = False
        if not is_there:
            raise ModelError(f"{self.path} was replaced while it was in use; run bnfold again")
        self._require_unchanged(is_short=False)

    def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the content from `offset` on, one block at a time."""
        end = self.size if length is None else offset + length
        for start in range(offset, end, BLOCK):
            yield self.read(start, min(BLOCK, end - start))

    def sha256(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal."""
        self.start_hashing()
        assert self._digest is not None
        return self._digest.result()

    def start_hashing(self) -> None:
        """Start to compute `sha256` in another thread."""
        if self._digest is None:
            executor = ThreadPoolExecutor(1)
            self._digest = executor.submit(self._hash)
            executor.shutdown(wait=False)

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


class Content(Protocol):
    """The content of a weight as ONNX stores it, in memory or in a file."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        ...

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the content, one block at a time."""
        ...


@dataclass(frozen=True)
class Extent:
    """Content at an offset in a file."""

    file: OpenFile
    offset: int
    nbytes: int

    def blocks(self) -> Iterator[bytes]:
        return self.file.blocks(self.offset, self.nbytes)

    def read(self) -> bytes:
        """Return all of it."""
        return self.file.read(self.offset, self.nbytes)


@dataclass(frozen=True, eq=False)
class InMemory:
    """The content of a tensor in memory."""

    tensor: ir.TensorProtocol

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def blocks(self) -> Iterator[bytes | memoryview]:
        if self.tensor.dtype.bitwidth < 8 or sys.byteorder == "big":
            yield self.tensor.tobytes()
        else:
            yield np.ascontiguousarray(self.tensor.numpy()).reshape(-1).view(np.uint8).data


class StoredTensor(ir.serde.TensorProtoTensor):
    """A weight whose content stays in the model file.

    Its proto, which ``onnx_ir.to_proto`` returns, has a marker as ``raw_data``.
    """

    def __init__(self, proto: onnx.TensorProto, extent: Extent) -> None:
        super().__init__(proto)
        self.extent = extent
        self._array: weakref.ref[Array] | None = None

    def numpy(self) -> Array:
        """Return the content; read it again only if no earlier array is still alive."""
        array = self._array() if self._array is not None else None
        if array is None:
            array = self._read()
            self._array = weakref.ref(array)
        return array

    def every(self, step: int, count: int) -> Array:
        """Return the first `count` elements that are `step` apart, and read little else.

        What lies between two of them is read, too, only if both may be in one page.
        """
        dtype = self.dtype.numpy().newbyteorder("<")
        size, extent = dtype.itemsize, self.extent
        found = np.empty(count, dtype)
        if step * size > _PAGE:
            places = range(extent.offset, extent.offset + count * step * size, step * size)
            found[:] = np.frombuffer(b"".join(extent.file.read_each(places, size)), dtype)
            return found
        at_once = BLOCK // (step * size)
        for first in range(0, count, at_once):
            few = min(at_once, count - first)
            content = extent.file.read(
                extent.offset + first * step * size, ((few - 1) * step + 1) * size
            )
            found[first : first + few] = np.frombuffer(content, dtype)[::step]
        return found

    def _read(self) -> Array:
        if self.dtype.bitwidth < 8:
            proto = onnx.TensorProto(dims=self.raw.dims, data_type=self.raw.data_type)
            proto.raw_data = self.tobytes()
            return ir.serde.TensorProtoTensor(proto).numpy()
        array = np.empty(self.size, self.dtype.numpy().newbyteorder("<"))
        self.extent.file.read_into(self.extent.offset, array.view(np.uint8).data)
        array.flags.writeable = False
        return array.reshape(self.shape.numpy())

    def tobytes(self) -> bytes:
        """Return the content as stored in the file."""
        return self.extent.read()
