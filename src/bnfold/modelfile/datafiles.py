"""Which files hold the external data of a model."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo

from bnfold.modelfile.external import data_folders, find_data
from bnfold.modelfile.protos import tensors_of
from bnfold.modelfile.source import Source


def data_files(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the files that hold a model's external data, by the location that it has for each.

    Raises:
        ModelError: if the model cannot be read, or a file cannot be found.
    """
    source = Source.of(path)
    folders = data_folders(Path(path))
    locations = {
        ExternalDataInfo(tensor).location
        for tensor in tensors_of(source.read.proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    return {each: find_data(folders, each, source.name)[0] for each in sorted(locations)}
