"""Model files for tests, and what tests of files need: scratch folders, injected failures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.running.runtime import Level, Session
from tests.support.cli import MODELS, REWRITTEN, names
from tests.support.graphs import batch_norm, normal


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Create temporary files in an empty folder, and assert that none remain."""
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    assert names(folder) == set()


def save_external(folder: Path, sample: Path = REWRITTEN) -> Path:
    """Save a sample with all of its weights in m.data beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    onnx.save_model(
        onnx.load(sample), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    return path


def locations(path: Path) -> set[str]:
    proto = onnx.load(path, load_external_data=False)
    return {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def logits(path: Path) -> np.ndarray[Any, Any]:
    with np.load(MODELS / "digits.npz") as digits:
        feeds = {"images": digits["images"][:20]}
    result: np.ndarray[Any, Any] = Session(path, "cpu", Level.DISABLED).run(feeds)["logits"]
    return result


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def described_model() -> onnx.ModelProto:
    """Return a model with every kind of metadata."""
    model = onnx.parser.parse_model("""
        <
            ir_version: 9, opset_import: ["" : 17, "local" : 1, "unused" : 3],
            producer_name: "maker", producer_version: "1.2", domain: "org.example",
            model_version: 7, doc_string: "what it is for",
            metadata_props: ["license" : "Apache-2.0", "classes" : "cat,dog"]
        >
        graph (float[batch, 3, height, 8] x) => (float[batch, 4, out_height, 6] z, float[?] t)
        {
            y = Conv(x, w)
            z = BatchNormalization(y, s, b, m, v)
            flat = Reshape(x, minus_one)
            t = local.Twice(flat)
        }
        <domain: "local", opset_import: ["" : 17]>
        Twice (a) => (c) { c = Add(a, a) }
    """)
    for name, content in {
        "w": normal(4, 3, 3, 3),
        "minus_one": np.array([-1]),
        **batch_norm(4),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    model.graph.doc_string = "the graph"
    model.graph.node[0].doc_string = "the convolution"
    model.graph.node[2].doc_string = "the reshape"
    model.graph.input[0].doc_string = "an image"
    model.graph.output[0].doc_string = "features"
    return model
