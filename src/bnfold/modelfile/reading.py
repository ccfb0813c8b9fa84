"""Reads a model file but leaves the content of its large weights there."""

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
"""Bytes of the smallest weight that stays in the file; reading smaller ones later costs more."""

LARGEST_MESSAGE = 2**31 - 1
"""Bytes of the largest message that protobuf parses."""


_POINTER = b"version https://git-lfs"
"""Begins the small text that Git stores in place of a large file."""


@dataclass(frozen=True)
class ReadModel:
    """A model's protobuf, in which `markers` replace the content of large weights."""

    proto: onnx.ModelProto
    markers: Markers = field(default_factory=Markers)

    def raw_size(self, tensor: onnx.TensorProto) -> int:
        """Return the size of the tensor's raw data in bytes."""
        content = self.markers.get(tensor.raw_data)
        return len(tensor.raw_data) if content is None else content.nbytes


def read_light(file: OpenFile, smallest: int) -> ReadModel | None:
    """Read a model without weights of `smallest` bytes or more; None if its encoding is unusual."""
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
    """Read a model with protobuf's own parser.

    Raises:
        ModelError: if it is not a model.
    """
    if file.size > LARGEST_MESSAGE:
        raise ModelError(
            f"{file.path} is not an ONNX model, is truncated, or encodes more than 2 GiB in an "
            "unusual way; save its weights as external data"
        )
    if file.read(0, min(file.size, len(_POINTER))) == _POINTER:
        raise ModelError(
            f"{file.path} is a Git LFS pointer, not the model itself; run git lfs pull to fetch it"
        )
    try:
        return ReadModel(onnx.ModelProto.FromString(file.read(0, file.size)))
    except DecodeError:
        raise ModelError(f"{file.path} is not an ONNX model, or is truncated") from None


def attach(model: ir.Model, markers: Markers) -> bool:
    """Attach the content of `markers` to the model's weights; return whether all of it was used."""
    if not len(markers):
        return True
    attached: set[Extent] = set()
    for place in places_of(model):
        if isinstance(place.tensor, ir.serde.TensorProtoTensor):
            proto = place.tensor.raw
            content = markers.get(proto.raw_data)
            if isinstance(content, Extent):
                attached.add(content)
                if place.tensor.dtype.bitwidth == 6:
                    proto.raw_data = content.read()  # onnx_ir checks its length when it serializes
                else:
                    place.tensor = StoredTensor(proto, content)
    return len(attached) == len(markers)


def restore(proto: onnx.ModelProto, markers: Markers) -> None:
    """Replace the markers by their content."""
    for tensor in tensors_of(proto):
        content = markers.get(tensor.raw_data)
        if content is not None:
            tensor.raw_data = b"".join(content.blocks())
