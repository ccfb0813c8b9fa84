"""An empty batch, as where nothing is detected, is evaluated in float64 as onnxruntime runs it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.proof.float64.evaluation import Truth64
from tests.support.evaluate import run_plain
from tests.support.graphs import Parameters, build, normal

WEIGHTS: Parameters = {
    "w": normal(2, 3, 3, 3),
    "v": normal(3, 2, 3, 3),
    "c": normal(3),
    "f": normal(7),
    "m": normal(7, 4),
    "s": np.array([1, 1, 2, 2], np.float32),
    "k": np.array([1]),
    "h": np.array(1),
    "p": np.array([0, 0, 1, 1, 0, 0, 0, 2]),
}


LINES = [
    "y = Conv(x, w)",
    "y = ConvTranspose(x, v)",
    "y = ConvTranspose<strides=[2,2], output_padding=[1,0]>(x, v)",
    "y = MaxPool<kernel_shape=[2,2]>(x)",
    "y = AveragePool<kernel_shape=[2,2]>(x)",
    "y = LpPool<kernel_shape=[2,2]>(x)",
    "y = GlobalAveragePool(x)",
    "y = GlobalMaxPool(x)",
    "y = BatchNormalization(x, c, c, c, c)",
    "y = InstanceNormalization(x, c, c)",
    "y = LRN<size=3>(x)",
    "y = LayerNormalization<axis=3>(x, f, f)",
    "y = LpNormalization<axis=1>(x)",
    'y = Resize<mode="linear">(x, , s)',
    'y = Resize<mode="nearest">(x, , s)',
    'y = Resize<mode="cubic">(x, , s)',
    "y = Pad(x, p)",
    "y = MatMul(x, m)",
    "y = Softmax<axis=1>(x)",
    "y = LogSoftmax<axis=1>(x)",
    "y = Hardmax<axis=1>(x)",
    "y = ReduceMean<axes=[2,3]>(x)",
    "y = ReduceMax<axes=[1]>(x)",
    "y = ArgMax<axis=1>(x)",
    "z, y = TopK(x, k)",
    "y = CumSum(x, h)",
    "y = Mean(x, x)",
    "y = Flatten(x)",
    "y = Flatten<axis=0>(x)",
    "y = Flatten<axis=3>(x)",
    "y = Flatten<axis=-2>(x)",
    "y = Flatten<axis=4>(x)",
]
OTHERWISE_BEFORE_17 = ("LayerNormalization", "Resize")


@pytest.mark.parametrize(
    ("line", "opset"),
    [
        (line, opset)
        for line in LINES
        for opset in (12, 17)
        if opset == 17 or not any(name in line for name in OTHERWISE_BEFORE_17)
    ],
)
def test_every_operator_gives_what_onnxruntime_gives(line: str, opset: int, tmp_path: Path) -> None:
    read = {name: array for name, array in WEIGHTS.items() if re.search(rf"[( ]{name}[,)]", line)}
    model = build(f"(float[N,3,5,7] x) => (float y) {{ {line} }}", opset=opset, **read)
    model.graph.output[0].type.Clear()
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, tmp_path / "m.onnx")
    feeds = {"x": np.zeros((0, 3, 5, 7), np.float32)}
    (expected,) = run_plain(model, feeds)
    found = Truth64(tmp_path / "m.onnx").outputs(feeds)["y"]
    assert found.shape == expected.shape
    assert not found.size
