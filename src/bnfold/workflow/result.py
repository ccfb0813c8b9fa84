"""What a run of `optimize` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from bnfold.modelfile.model import LoadedModel
from bnfold.record.data import Record


@dataclass(frozen=True)
class Result:
    """An optimized model and the record of its optimization.

    It stays usable after OUTPUT has been removed or replaced. Pickling it includes the model with
    all of its weights.
    """

    record: Record
    _model: LoadedModel | bytes = field(repr=False)

    def to_proto(self) -> onnx.ModelProto:
        """Return the optimized model as a new ModelProto.

        Most weights are still in a file: each call reads them all, and takes as much memory as
        the model is large.

        Raises:
            ModelError: if the model exceeds 2 GiB, the limit of a ModelProto, or if a file that
                holds its weights has been changed in place.
        """
        if isinstance(self._model, bytes):
            proto: onnx.ModelProto = onnx.ModelProto.FromString(self._model)
            return proto
        return self._model.to_proto()

    def __reduce__(self) -> tuple[type[Result], tuple[Record, bytes]]:
        return Result, (self.record, self.to_proto().SerializeToString(deterministic=True))
