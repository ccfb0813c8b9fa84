"""Writes models without holding a whole one in memory."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from bnfold.modelfile.markers import Markers
from bnfold.modelfile.model import LoadedModel, serialize
from bnfold.modelfile.places import Place, places_of
from bnfold.modelfile.reading import SMALLEST_STORED
from bnfold.modelfile.stored import Content, Extent, InMemory, OpenFile, StoredTensor
from bnfold.modelfile.wire import exchange

EXTERNAL_THRESHOLD = 1024
"""Bytes of the smallest tensor that goes to the data file, if there is one."""


_PAGE = 4096
"""The alignment in the data file of tensors of at least a page: onnxruntime can map them."""


_LINE = 64
"""The alignment of smaller tensors, which processors load fastest."""


class _InMemoryBytes:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read(self, offset: int, length: int) -> bytes:
        return self._content[offset : offset + length]


class ModelLayout:
    """The offsets in the model file of large new weights, which are in memory.

    The file is ``serialize(loaded).SerializeToString(deterministic=True)``, with the content in
    place of the markers.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._new: dict[Content, Place] = {
            InMemory(place.tensor): place
            for place in places_of(loaded.ir)
            if isinstance(place.tensor, ir.Tensor) and place.tensor.nbytes >= SMALLEST_STORED
        }
        self._offsets: dict[Place, int] = {}
        self._markers = loaded.markers.copy()
        marked = {
            place: ir.serde.TensorProtoTensor(_proto(place.tensor, self._markers.add(content)))
            for content, place in self._new.items()
        }
        with _replaced(marked):
            self._message = serialize(loaded).SerializeToString(deterministic=True)

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the content of the model file, one block at a time."""
        message, markers = self._message, self._markers
        offsets = list(markers.find(message))

        def has_marker(offset: int, length: int) -> bool:
            index = bisect.bisect_left(offsets, offset)
            return index < len(offsets) and offsets[index] < offset + length

        def content(offset: int, length: int) -> Content:
            marked = markers.get(message[offset : offset + length])
            assert marked is not None
            return marked

        position = 0
        for piece in exchange(_InMemoryBytes(message), has_marker, content):
            if isinstance(piece, bytes):
                yield piece
                position += len(piece)
            else:
                if piece in self._new:
                    self._offsets[self._new[piece]] = position
                yield from piece.blocks()
                position += piece.nbytes

    def leave_in(self, file: OpenFile, markers: Markers) -> None:
        """Release the weights in memory; from now on, they are read from the written file."""
        _leave_in(file, self._offsets, markers)


def _leave_in(file: OpenFile, offsets: Mapping[Place, int], markers: Markers) -> None:
    for place, offset in offsets.items():
        tensor = place.tensor
        if isinstance(tensor, ir.Tensor):
            extent = Extent(file, offset, tensor.nbytes)
            place.tensor = StoredTensor(_proto(tensor, markers.add(extent)), extent)


@contextlib.contextmanager
def _replaced(tensors: Mapping[Place, ir.TensorProtocol]) -> Iterator[None]:
    """Replace the tensors temporarily."""
    before = {place: place.tensor for place in tensors}
    try:
        for place, tensor in tensors.items():
            place.tensor = tensor
        yield
    finally:
        for place, tensor in before.items():
            place.tensor = tensor


class DataLayout:
    """The offsets of a model's large weights in its one data file; shared content stays shared.

    Those of at least `smallest` bytes go there, but attributes of nodes only if their content is
    already external.
    """

    def __init__(self, loaded: LoadedModel, smallest: float = EXTERNAL_THRESHOLD) -> None:
        self._offsets: dict[Place, int] = {}
        self._contents: dict[Content, int] = {}
        self._inside: dict[Place, ir.TensorProtocol] = {}
        self._files: dict[str, OpenFile] = {}
        self._end = 0
        for place in places_of(loaded.ir):
            if belongs_outside(place, smallest):
                self._offsets[place] = self._offset_of(self._content_of(place.tensor))
            elif isinstance(place.tensor, ir.ExternalTensor):
                self._inside[place] = self._inlined(place.tensor, loaded.markers)

    def _inlined(self, tensor: ir.ExternalTensor, markers: Markers) -> ir.TensorProtocol:
        """Return the tensor as one of the model file; the content of a large one is not read."""
        content = self._content_of(tensor)
        assert isinstance(content, Extent)
        if content.nbytes < SMALLEST_STORED or tensor.dtype.bitwidth == 6:
            return ir.serde.TensorProtoTensor(_proto(tensor, content.read()))
        return StoredTensor(_proto(tensor, markers.add(content)), content)

    def _content_of(self, tensor: ir.TensorProtocol) -> Content:
        if isinstance(tensor, StoredTensor):
            return tensor.extent
        if not isinstance(tensor, ir.ExternalTensor):
            return InMemory(tensor)
        path = os.path.realpath(tensor.path)
        file = self._files.setdefault(path, OpenFile(Path(path)))
        return Extent(file, tensor.offset or 0, tensor.nbytes)

    def _offset_of(self, content: Content) -> int:
        if content not in self._contents:
            step = _PAGE if content.nbytes >= _PAGE else _LINE
            offset = -(-self._end // step) * step
            self._contents[content] = offset
            self._end = offset + content.nbytes
        return self._contents[content]

    def __bool__(self) -> bool:
        """Return whether any weight goes to the data file."""
        return bool(self._offsets)

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the content of the data file, one block at a time."""
        position = 0
        for content, offset in self._contents.items():
            yield bytes(offset - position)
            yield from content.blocks()
            position = offset + content.nbytes

    @property
    def nbytes_outside(self) -> int:
        """The bytes of the weights that go to the data file."""
        return sum(place.tensor.nbytes for place in self._offsets)

    def bring_inside(self) -> None:
        """Let the weights that do not go to the data file be part of the model file."""
        for place, tensor in self._inside.items():
            place.tensor = tensor

    def located(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Make the model refer to the data file `name` beside it, temporarily."""
        outside = {place: _located(place.tensor, name, at) for place, at in self._offsets.items()}
        return _replaced(outside)

    def leave_in(self, file: OpenFile, markers: Markers) -> None:
        """Release the weights in memory; from now on, they are read from the written file."""
        _leave_in(file, self._offsets, markers)


def belongs_outside(place: Place, smallest: float) -> bool:
    """Return whether a model with a data file has this weight there."""
    tensor = place.tensor
    may_be = isinstance(tensor, ir.ExternalTensor) or (
        place.is_initializer and not isinstance(tensor, ir.StringTensor)
    )
    return may_be and tensor.nbytes >= smallest


def _located(tensor: ir.TensorProtocol, name: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        name,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _proto(tensor: ir.TensorProtocol, raw_data: bytes) -> onnx.TensorProto:
    """Return a copy of the tensor with other content."""
    proto = onnx.TensorProto(
        name=tensor.name,
        data_type=tensor.dtype.value,
        dims=tensor.shape.numpy(),
        doc_string=tensor.doc_string or None,
        raw_data=raw_data,
    )
    for key, value in tensor.metadata_props.items():
        proto.metadata_props.add(key=key, value=value)
    return proto
