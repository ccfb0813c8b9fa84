"""A model as the caller gave it: a path or a ModelProto."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx

from bnfold.errors import BnfoldError, ModelError
from bnfold.modelfile.protos import count_operators, node_lists_of
from bnfold.modelfile.reading import (
    LARGEST_MESSAGE,
    SMALLEST_STORED,
    ReadModel,
    read_light,
    read_whole,
)
from bnfold.modelfile.stored import OpenFile
from bnfold.record.data import ModelRecord

ModelSource: TypeAlias = str | os.PathLike[str] | onnx.ModelProto


@dataclass(frozen=True)
class Source:
    """A newly read model, and its file or its bytes."""

    read: ReadModel
    file: OpenFile | None
    content: bytes
    """The serialized ModelProto, if that was given; empty for a path."""

    @staticmethod
    def of(source: ModelSource) -> Source:
        """Read a model from a path, or copy a ModelProto.

        Raises:
            ModelError: if it cannot be read, or is not a model.
        """
        if isinstance(source, onnx.ModelProto):
            content = source.SerializeToString(deterministic=True)
            given = Source(ReadModel(onnx.ModelProto.FromString(content)), None, content)
        else:
            file = OpenFile(Path(source))
            read = read_light(file, SMALLEST_STORED) if file.size >= SMALLEST_STORED else None
            given = Source(read or read_whole(file), file, b"")
        if not given.read.proto.HasField("graph") or not given.read.proto.graph.output:
            raise ModelError(
                f"{given.name} is not an ONNX model: it is empty, or has no graph with outputs"
            )
        return given

    def whole(self) -> Source:
        """Return the same model with all content in its protobuf, without markers."""
        assert self.file is not None
        return Source(read_whole(self.file), self.file, b"")

    @property
    def path(self) -> Path | None:
        return self.file.path if self.file is not None else None

    @property
    def name(self) -> str:
        return str(self.path) if self.path is not None else "the model"

    @property
    def is_one_message(self) -> bool:
        """Whether other tools can read the file, too: protobuf parses at most 2 GiB."""
        return self.file is None or self.file.size <= LARGEST_MESSAGE

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the model as given, one block at a time."""
        return self.file.blocks() if self.file is not None else iter([self.content])

    def _sha256(self) -> str:
        return self.file.sha256() if self.file else hashlib.sha256(self.content).hexdigest()

    def require_in_place(self) -> None:
        """Require that the path, if it was given as one, still leads to the file that was read.

        Raises:
            ModelError: if the file has been replaced, removed or changed.
        """
        if self.file is not None:
            self.file.require_in_place()

    def start_hashing(self) -> None:
        """Start to compute the SHA-256 that `describe` needs, in another thread."""
        if self.file is not None:
            self.file.start_hashing()

    def describe(self, *, hashed: bool = True) -> ModelRecord:
        """Describe the model; `hashed` includes its SHA-256, which takes a while."""
        proto = self.read.proto
        ops = count_operators(
            (node.domain, node.op_type) for nodes in node_lists_of(proto) for node in nodes
        )
        return ModelRecord(
            path=str(self.path) if self.path is not None else None,
            sha256=self._sha256() if hashed else None,
            bytes=self.file.size if self.file else len(self.content),
            ir_version=proto.ir_version,
            opset={opset.domain or "ai.onnx": opset.version for opset in proto.opset_import},
            nodes=sum(ops.values()),
            ops=ops,
        )


@contextmanager
def in_place(*sources: Source) -> Iterator[None]:
    """Require that files stay where they are while they are read by path.

    What fails meanwhile may do so because one does not.

    Raises:
        ModelError: if one has been replaced, removed or changed.
    """
    try:
        yield
    except BnfoldError:
        for source in sources:
            source.require_in_place()
        raise
    for source in sources:
        source.require_in_place()
