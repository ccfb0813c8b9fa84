"""What depends on constants alone is computed."""

from __future__ import annotations

import numpy as np

from bnfold.proof.constant_folding import with_constants_computed
from tests.support.graphs import initializer, normal, operators
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
