"""What a window says of its operators and types."""

from __future__ import annotations

import numpy as np
import onnx

from bnfold.proof.certificates.windows import Window
from tests.support.graphs import build


def test_the_coarsest_float_is_the_unit() -> None:
    model = build("(float[N] x) => (float[N] y) { y = Cast<to=1>(h) }", h=np.ones(1, np.float16))
    assert Window(model, model).unit == "float16"
    integers = build("(int64[N] x) => (int64[N] y) { y = Add(x, x) }")
    assert Window(integers, integers).unit == ""
    assert isinstance(model, onnx.ModelProto)
