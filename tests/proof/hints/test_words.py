"""Strings are words that a model knows, and floats are missing where it asks for that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.checks import verdict
from tests.support.graphs import Parameters, build, named_in

NAN = float("nan")
NUMBERS: Parameters = {
    "a": np.array(0.1, np.float32),
    "b": np.array(0.7, np.float32),
    "two": np.array(2, np.float32),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m = IsNaN(x) y = Where(m, a, x)", "m = IsNaN(x) y = Where(m, b, x)"),
        ("m = IsNaN(x) y = Where(m, a, x)", "y = Identity(x)"),
        ("y = Identity(x)", "m = IsNaN(x) y = Where(m, a, x)"),
        ("k = Mul(x, two) m = IsNaN(k) y = Where(m, a, x)",
         "k = Mul(x, two) m = IsNaN(k) y = Where(m, b, x)"),
        ("e = Equal(x, x) y = Where(e, x, a)", "e = Equal(x, x) y = Where(e, x, b)"),
        ("m = IsInf(x) y = Where(m, a, x)", "m = IsInf(x) y = Where(m, b, x)"),
        ("m = IsInf(x) y = Where(m, a, x)", "m = IsInf<detect_negative=0>(x) y = Where(m, a, x)"),
    ],
)  # fmt: skip
def test_what_a_model_takes_for_missing_is_drawn(one: str, other: str) -> None:
    pair = [
        build(
            f"(float[N,3] x) => (float[N,3] y) {{ {body} }}",
            **named_in(body, NUMBERS),
        )
        for body in (one, other)
    ]
    assert verdict(*pair) == "fail"
    assert verdict(pair[0], pair[0]) in ("pass", "identical")


def ml(op_type: str, kinds: tuple[int, int], **attributes: Any) -> onnx.ModelProto:
    """Return a model of one operator of ai.onnx.ml, or of StringNormalizer, between two types."""
    domain = "" if op_type == "StringNormalizer" else "ai.onnx.ml"
    node = helper.make_node(op_type, ["x"], ["y"], domain=domain, **attributes)
    shape = ["N"] if kinds[0] != TensorProto.FLOAT else ["N", 3]
    values = [
        helper.make_tensor_value_info(*each)
        for each in (("x", kinds[0], shape), ("y", kinds[1], None))
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


COLOURS = ["red", "green", "blue", "black", "white", "yellow"]
FLOATS = TensorProto.FLOAT, TensorProto.FLOAT
LABELS = TensorProto.STRING, TensorProto.INT64
NAMES = TensorProto.STRING, TensorProto.STRING
CODES = TensorProto.INT64, TensorProto.INT64


@pytest.mark.parametrize(
    ("op_type", "kinds", "attributes", "other"),
    [
        ("Imputer", FLOATS, {"imputed_value_floats": [0.1], "replaced_value_float": NAN},
         {"imputed_value_floats": [0.7]}),
        ("Imputer", FLOATS, {"imputed_value_floats": [0.1], "replaced_value_float": -999.0},
         {"imputed_value_floats": [0.7]}),
        ("LabelEncoder", LABELS, {"keys_strings": COLOURS, "values_int64s": [0, 1, 2, 3, 4, 5]},
         {"values_int64s": [0, 1, 2, 3, 5, 4]}),
        ("LabelEncoder", LABELS,
         {"keys_strings": COLOURS, "values_int64s": [0, 1, 2, 3, 4, 5], "default_int64": -1},
         {"default_int64": 0}),
        ("LabelEncoder", CODES, {"keys_int64s": [2023, 5000, 30000], "values_int64s": [1, 2, 3]},
         {"values_int64s": [1, 3, 2]}),
        ("CategoryMapper", LABELS, {"cats_strings": COLOURS, "cats_int64s": [0, 1, 2, 3, 4, 5]},
         {"cats_int64s": [0, 1, 2, 3, 5, 4]}),
        ("StringNormalizer", NAMES, {"case_change_action": "LOWER", "locale": "C"},
         {"case_change_action": "UPPER"}),
        ("StringNormalizer", NAMES, {"case_change_action": "LOWER", "locale": "C"},
         {"case_change_action": "NONE"}),
        ("StringNormalizer", NAMES,
         {"case_change_action": "LOWER", "locale": "C", "stopwords": ["the", "of"],
          "is_case_sensitive": 0}, {"stopwords": ["the"]}),
    ],
)  # fmt: skip
def test_what_a_model_looks_for_is_drawn(
    op_type: str, kinds: tuple[int, int], attributes: dict[str, Any], other: dict[str, Any]
) -> None:
    pair = ml(op_type, kinds, **attributes), ml(op_type, kinds, **{**attributes, **other})
    assert verdict(*pair) == "fail"
    assert verdict(pair[0], pair[0]) in ("pass", "identical")


def test_strings_that_must_be_numbers_are() -> None:
    model = build("(string[N] x) => (float[N] y) { y = Cast<to=1>(x) }")
    other = build("(string[N] x) => (float[N] y) { c = Cast<to=1>(x) y = Identity(c) }")
    assert verdict(model, other) == "pass"
    wrong = build("(string[N] x) => (float[N] y) { c = Cast<to=1>(x) y = Neg(c) }")
    assert verdict(model, wrong) == "fail"


def test_of_columns_of_which_some_are_missing_none_is() -> None:
    """What the others do with NaN is not asked for."""
    body = (
        "a, b = Split<axis=1>(x) m = IsNaN(a) c = Where(m, number, a) {} y = Concat<axis=1>(c, d)"
    )
    parts = "d = Relu(b)", "p = Greater(b, z) d = Where(p, b, z)"
    one, other = (f"(float[N,6] x) => (float[N,6] y) {{ {body.format(each)} }}" for each in parts)
    number, nought = NUMBERS["a"], np.array(0, np.float32)
    assert verdict(build(one, number=number), build(other, number=number, z=nought)) == "pass"
