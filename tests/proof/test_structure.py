"""What of a window needs no proof."""

from __future__ import annotations

import numpy as np
import onnx

from bnfold.proof.structure import (
    float_casts,
    is_chain,
    is_multilinear,
    is_same_but_pools,
    of_pool_inputs,
    peeled,
    with_constants_computed,
    without_shared,
)
from tests.support.graphs import Parameters, build, initializer, normal, operators
from tests.support.windows import window

ROW = "(float[N,4] x) => (float[N,m] y)"


def test_constants_are_computed_and_named_apart() -> None:
    weights, others = {"p": normal(4), "q": normal(4)}, {"k": normal(4, seed=1)}
    made = with_constants_computed(
        window(ROW, "k = Mul(p, q) y = Add(x, k)", "y = Add(x, k)", weights, others)
    )
    assert [operators(model) for model in made.models] == [["Add"], ["Add"]]
    assert np.array_equal(initializer(made.before, "k"), weights["p"] * weights["q"])
    assert len(made.constants) == 2


def test_what_draws_is_no_constant() -> None:
    weights = {"p": normal(4), "r": np.array(0.5, np.float32), "t": np.array(True)}
    before = "a = RandomNormalLike(p) b = Dropout(p, r, t) c = Add(a, b) y = Add(x, c)"
    made = with_constants_computed(window(ROW, before, "y = Identity(x)", weights))
    assert operators(made.before) == ["RandomNormalLike", "Dropout", "Add", "Add"]


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


def test_what_draws_is_never_shared() -> None:
    weights = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    pair = window(ROW, "y = Dropout(x, r, t)", "y = Dropout(x, r, t)", weights)
    assert len(peeled(without_shared(pair))) == 1


def test_products_of_what_varies_are_not_linear() -> None:
    weights: Parameters = {"w": normal(4, 4), "p": np.array([0, 1, 0, 1])}
    linear = [
        "y = MatMul(x, w)",
        "a = Add(x, x) y = MatMul(w, a)",
        "y = Div(x, w)",
        "y = Pad(x, p)",
    ]
    others = ["y = Mul(x, x)", "y = Div(w, x)", "y = MatMul(x, x)", "y = Cast<to=7>(x)"]
    for text in linear + others:
        assert is_multilinear(build(f"{ROW} {{ {text} }}", **weights)) == (text in linear), text


def test_casts_between_floats() -> None:
    model = build(f"{ROW} {{ a = Cast<to=10>(x) b = Cast<to=7>(a) y = Cast<to=1>(b) }}")
    assert float_casts(model) == {1, 10}


def test_chains() -> None:
    pool = "MaxPool<kernel_shape=[2]>"
    text = "(float[N,4,L] x) => (float[N,4,l] y)"
    pair = window(text, f"a = Elu(x) y = {pool}(a)", f"a = {pool}(x) y = Elu(a)")
    assert is_same_but_pools(pair)
    assert [operators(part) for model in pair.models for part in of_pool_inputs(model)] == [
        ["Elu"],
        [],
    ]
    assert not is_chain(build(f"{text} {{ a = {pool}(x) y = Add(a, x) }}"))
    other = window(text, f"a = Elu(x) y = {pool}(a)", f"a = {pool}(x) y = Elu<alpha=2.0>(a)")
    assert not is_same_but_pools(other)
