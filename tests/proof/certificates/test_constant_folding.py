"""What depends on constants alone is computed."""

from __future__ import annotations

import numpy as np

from bnfold.proof.certificates.constant_folding import with_constants_computed, with_sizes
from bnfold.running.evaluation import evaluate
from tests.support.graphs import build, initializer, normal, operators
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


def test_constants_are_rounded_as_where_a_pass_evaluates_them() -> None:
    """Weights that onnxruntime has packed are summed in another order."""
    row, weights = "(float[N,3] x) => (float[n,m] y)", {"p": normal(7, 300), "q": normal(300, 3)}
    made = with_constants_computed(
        window(row, "k = MatMul(p, q) y = Add(x, k)", "y = Identity(x)", weights)
    )
    model = build("(float[7,300] p, float[300,3] q) => (float[7,3] k) { k = MatMul(p, q) }")
    (expected,) = evaluate(model, weights) or ()
    assert np.array_equal(initializer(made.before, "k"), expected)


def test_what_only_sizes_were_read_of_is_not_asked_for() -> None:
    """Nodes that computed it alone would ask for an input that no probe has."""
    sizes = "s = Constant<value_ints=[-1,4]>() t = Shape(u) v = Slice(t, zero, one) "
    interface = "(float[2,3,4] x, float[6,4] r) => (float[6,4] y)"
    bounds = {"zero": np.array([0]), "one": np.array([2]), "no": np.zeros(6, np.int64)}
    before = f"u = Pad(x, no) {sizes} w = Reshape(r, v) y = Reshape(w, s)"
    pair = window(interface, before, "y = Identity(r)", bounds, {})
    shapes = {"x": [2, 3, 4], "r": [6, 4]}
    fixed = with_sizes(with_constants_computed(pair), shapes)
    assert [value.name for value in fixed.before.graph.input] == ["r"]
    assert operators(fixed.before) == ["Reshape", "Reshape"]
