"""Replaces the content of large tensors in a serialized ModelProto, without parsing the rest.

In protobuf's wire format a message is the concatenation of its fields, each a tag followed by a
number, or by a length and as many bytes: text, data or another message. So it is enough to follow
the path to each large ``raw_data`` and copy everything else. If the replacement has another
length, only the lengths of the enclosing messages change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeAlias, TypeVar

import onnx

_ROUTES: Mapping[str, tuple[str, ...]] = {
    "ModelProto": ("graph", "functions"),
    "FunctionProto": ("node",),
    "GraphProto": ("node", "initializer"),
    "NodeProto": ("attribute",),
    "AttributeProto": ("t", "g", "graphs"),
    "TensorProto": ("raw_data",),
}
"""The fields, by message, that lead to the weights that bnfold reads."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_LONGEST_NUMBER = 10
"""Bytes of the longest varint."""
_LONGEST_LENGTH = 5
"""Bytes of the longest varint that protobuf accepts as a length or a tag."""
_DEEPEST = 100
"""The deepest nesting of messages that protobuf reads."""
_WINDOW = 1 << 14
"""Bytes to read at a time when looking for fields."""


class UnusualError(Exception):
    """The bytes are not protobuf, or are encoded as no common writer does."""


class Bytes(Protocol):
    """Bytes that can be read in pieces, such as a file."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        ...


class Sized(Protocol):
    """Content of a known size that replaces bytes."""

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        ...


C = TypeVar("C", bound=Sized)
Piece: TypeAlias = "bytes | C"


def exchange(
    source: Bytes, is_wanted: Callable[[int, int], bool], replace: Callable[[int, int], Piece[C]]
) -> list[Piece[C]]:
    """Return the pieces of a ModelProto in which each wanted ``raw_data`` is replaced.

    Both functions take an offset and a length. `is_wanted` tells whether to replace the
    ``raw_data`` there, or any in the message there; `replace` returns the replacement.

    Raises:
        UnusualError: if the structure around a wanted ``raw_data`` cannot be parsed.
    """
    return _Walk(source, is_wanted, replace).message("ModelProto", 0, source.size, 0)


def _routes() -> dict[str, dict[int, str]]:
    """Return the message type of each routed field, by message and number; "" for the data."""
    routes: dict[str, dict[int, str]] = {}
    for message, names in _ROUTES.items():
        fields = getattr(onnx, message).DESCRIPTOR.fields_by_name
        chosen = [fields[name] for name in names]
        routes[message] = {
            field.number: field.message_type.name if field.message_type else "" for field in chosen
        }
    return routes


class _Walk(Generic[C]):
    def __init__(
        self,
        source: Bytes,
        is_wanted: Callable[[int, int], bool],
        replace: Callable[[int, int], Piece[C]],
    ) -> None:
        self._source = source
        self._is_wanted = is_wanted
        self._replace = replace
        self._routes = _routes()
        self._window = b""
        self._window_start = 0

    def message(self, name: str, start: int, end: int, depth: int) -> list[Piece[C]]:
        """Return the pieces of one message."""
        if depth > _DEEPEST:
            raise UnusualError("messages are nested too deeply")
        routes = self._routes[name]
        pieces: list[Piece[C]] = []
        copied = position = start
        while position < end:
            tag, body = self._varint(position, end, _LONGEST_LENGTH)
            kind = tag & 7
            if kind == _DELIMITED:
                length_at = body
                length, body = self._varint(length_at, end, _LONGEST_LENGTH)
                position = body + length
                if position > end:
                    raise UnusualError("a field extends beyond its message")
                inner = routes.get(tag >> 3)
                if inner is not None and self._is_wanted(body, length):
                    replaced = (
                        self.message(inner, body, position, depth + 1)
                        if inner
                        else [self._replace(body, length)]
                    )
                    pieces.append(self._source.read(copied, length_at - copied))
                    pieces.append(_varint_bytes(sum(map(_size, replaced))))
                    pieces += replaced
                    copied = position
            elif kind == _VARINT:
                _, position = self._varint(body, end, _LONGEST_NUMBER)
            elif kind in (_FIXED32, _FIXED64):
                position = body + (4 if kind == _FIXED32 else 8)
            else:
                raise UnusualError("a field has an unsupported wire type")
        if position > end:
            raise UnusualError("a field extends beyond its message")
        return [*pieces, self._source.read(copied, end - copied)]

    def _varint(self, position: int, end: int, longest: int) -> tuple[int, int]:
        """Return a number of seven bits per byte, lowest first, and the position after it."""
        index = position - self._window_start
        if not 0 <= index <= len(self._window) - longest:
            self._move_window(position)
            index = 0
        number = shift = 0
        for byte in self._window[index : index + min(longest, end - position)]:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number, position + shift // 7
        raise UnusualError("a number has no end")

    def _move_window(self, position: int) -> None:
        length = min(_WINDOW, self._source.size - position)
        self._window, self._window_start = self._source.read(position, length), position


def _size(piece: bytes | Sized) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.nbytes


def _varint_bytes(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
