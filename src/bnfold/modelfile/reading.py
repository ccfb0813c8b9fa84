"""Reads a model file, and leaves the content of its large weights there."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from bnfold.errors import ModelError
from bnfold.modelfile.markers import Markers
from bnfold.modelfile.places import places_of
from bnfold.modelfile.protos import tensors_of
from bnfold.modelfile.stored import Extent, OpenFile, StoredTensor
from bnfold.modelfile.wire import UnusualError, exchange

SMALLEST_STORED = 4096
"""Bytes from which on a weight stays in the file; below, it costs more to come back for it."""

LARGEST_MESSAGE = 2**31 - 1
"""Bytes that protobuf parses."""


@dataclass(frozen=True)
class ReadModel:
    """A model's protobuf, in which `markers` stand for the content of the large weights."""

    proto: onnx.ModelProto
    markers: Markers = field(default_factory=Markers)

    def raw_size(self, tensor: onnx.TensorProto) -> int:
        """Return how many bytes of raw data the tensor has."""
        content = self.markers.get(tensor.raw_data)
        return len(tensor.raw_data) if content is None else content.nbytes


def read_light(file: OpenFile, smallest: int) -> ReadModel | None:
    """Read a model without its weights of at least `smallest` bytes; None if written unusually."""
    markers = Markers()
    try:
        pieces: list[bytes] = exchange(
            file,
            is_wanted=lambda _, length: length >= smallest,
            replace=lambda offset, length: markers.add(Extent(file, offset, length)),
        )
        return ReadModel(onnx.ModelProto.FromString(b"".join(pieces)), markers)
    except (UnusualError, DecodeError):
        return None


def read_whole(file: OpenFile) -> ReadModel:
    """Read a model as protobuf does.

    Raises:
        ModelError: if it is none.
    """
    if file.size > LARGEST_MESSAGE:
        raise ModelError(
            f"{file.path} is not an ONNX model, or is truncated, or holds more than 2 GiB in an "
            "unusual form; save its weights as external data"
        )
    try:
        return ReadModel(onnx.ModelProto.FromString(file.read(0, file.size)))
    except DecodeError:
        raise ModelError(f"{file.path} is not an ONNX model, or is truncated") from None


def attach(model: ir.Model, markers: Markers) -> bool:
    """Let the model find the content that `markers` stand for; return whether it needs it all."""
    if not len(markers):
        return True
    attached: set[Extent] = set()
    for place in places_of(model):
        if isinstance(place.tensor, ir.serde.TensorProtoTensor):
            proto = place.tensor.raw
            content = markers.get(proto.raw_data)
            if isinstance(content, Extent):
                place.tensor = StoredTensor(proto, content)
                attached.add(content)
    return len(attached) == len(markers)


def restore(proto: onnx.ModelProto, markers: Markers) -> None:
    """Put the content in the place of the markers."""
    for tensor in tensors_of(proto):
        content = markers.get(tensor.raw_data)
        if content is not None:
            tensor.raw_data = b"".join(content.blocks())
