"""What both sides of a window share needs no proof."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.constant_folding import with_constants_computed
from bnfold.proof.certificates.normal_forms.congruence import peeled, without_shared
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import build, normal, operators
from tests.support.windows import window

ROW = "(float[N,4] x) => (float[N,m] y)"


def test_equal_operators_are_peeled_down_to_what_differs() -> None:
    weights = {"w": normal(4, 4), "g": normal(4)}
    tail = "r = Relu(h) s = Softmax(r) y = MatMul(s, w)"
    pair = window(ROW, f"h = Mul(x, g) {tail}", f"h = Add(x, g) {tail}", weights)
    (left,) = peeled(pair)
    assert [operators(model) for model in left.models] == [["Mul"], ["Add"]]
    assert peeled(window(ROW, tail.replace("h", "x"), tail.replace("h", "x"), weights)) == []


def test_another_attribute_constant_or_output_is_not_peeled() -> None:
    weights = {"w": normal(4, 4)}
    cases = [
        ("y = Elu(x)", "y = Elu<alpha=0.5>(x)", None),
        ("y = MatMul(x, w)", "y = MatMul(x, w)", {"w": normal(4, 4, seed=1)}),
        ("y, z = Split<axis=1>(x)", "z, y = Split<axis=1>(x)", None),
        ("y = Sub(x, w)", "y = Sub(w, x)", None),
    ]
    for before, after, others in cases:
        pair = with_constants_computed(window(ROW, before, after, weights, others))
        assert len(peeled(without_shared(pair))) == 1, before


def test_what_both_compute_from_the_inputs_becomes_an_input() -> None:
    head = "a = Relu(x) b = Sigmoid(a)"
    pair = window(ROW, f"{head} y = Mul(b, k)", f"{head} y = Div(b, k)", {"k": normal(4)})
    for model in pair.models:
        described = onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["N", 4])
        model.graph.value_info.append(described)
    cut = without_shared(pair)
    assert [operators(model) for model in cut.models] == [["Mul"], ["Div"]]
    assert cut.before.graph.node[0].input[0] == cut.after.graph.node[0].input[0]


def test_a_window_that_is_shared_as_a_whole_is_valid_still() -> None:
    pair = window(ROW, "y = Relu(x)", "y = Relu(x)")
    described(pair, "y")
    cut = without_shared(pair)
    for model in cut.models:
        assert not model.graph.node
        assert model.graph.output[0].name in {value.name for value in model.graph.input}
    assert [value.name for value in cut.inputs] == [cut.before.graph.output[0].name]
    assert peeled(cut) == []


def test_what_draws_is_never_shared() -> None:
    weights = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    pair = window(ROW, "y = Dropout(x, r, t)", "y = Dropout(x, r, t)", weights)
    assert len(peeled(without_shared(pair))) == 1


def described(pair: Window, name: str) -> None:
    for model in pair.models:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4])
        model.graph.value_info.append(value)


def test_what_draws_is_no_shared_input() -> None:
    weights = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    pair = window(
        ROW, "a = Dropout(x, r, t) y = Neg(a)", "a = Dropout(x, r, t) y = Abs(a)", weights
    )
    described(pair, "a")
    assert [operators(model)[0] for model in without_shared(pair).models] == ["Dropout"] * 2


def test_constants_that_differ_in_the_end_are_not_shared() -> None:
    one, other = normal(4, 9), normal(4, 9)
    other[-1, -1] += 1
    body = "a = MatMul(x, w) y = {}(a)"
    pair = window(ROW, body.format("Neg"), body.format("Abs"), {"w": one}, {"w": other})
    described(pair, "a")
    assert [operators(model)[0] for model in without_shared(pair).models] == ["MatMul"] * 2
    same = window(ROW, body.format("Neg"), body.format("Abs"), {"w": one}, {"w": one.copy()})
    described(same, "a")
    assert [operators(model) for model in without_shared(same).models] == [["Neg"], ["Abs"]]


@pytest.mark.parametrize(("other", "left"), [("a", 0), ("b", 1)])
def test_strings_are_compared_and_not_where_they_are_stored(other: str, left: int) -> None:
    text = "(string[2] x) => (string[4] y) {{ k = Constant<value_strings=[{}]>() {} }}"
    joined = "y = Concat<axis=0>(x, k)"
    pair = Window(*(build(text.format(f'"c", "{each}"', joined)) for each in ("a", other)))
    assert len(peeled(with_constants_computed(pair))) == left
    assert len(peeled(without_shared(with_constants_computed(pair)))) == left
