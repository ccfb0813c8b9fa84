"""Short placeholders for the content of large weights, to keep a protobuf small."""

from __future__ import annotations

import os
from collections.abc import Iterator

from bnfold.modelfile.stored import Content


class Markers:
    """The content that each marker replaces. Markers are random, so no file contains one."""

    def __init__(self, token: bytes | None = None) -> None:
        self._token = os.urandom(16) if token is None else token
        self._contents: dict[bytes, Content] = {}

    def add(self, content: Content) -> bytes:
        """Return a new marker for the content."""
        marker = self._token + len(self._contents).to_bytes(8, "big")
        self._contents[marker] = content
        return marker

    def get(self, raw_data: bytes) -> Content | None:
        """Return the content that the bytes stand for, if they are a marker."""
        return self._contents.get(raw_data)

    def find(self, message: bytes) -> Iterator[int]:
        """Yield the offset of each marker in a serialized message."""
        offset = message.find(self._token)
        while offset >= 0:
            yield offset
            offset = message.find(self._token, offset + 1)

    def copy(self) -> Markers:
        """Return a copy, to which other markers can be added."""
        copied = Markers(self._token)
        copied._contents.update(self._contents)
        return copied

    def __len__(self) -> int:
        return len(self._contents)
