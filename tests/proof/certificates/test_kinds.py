"""What kinds of functions models are."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.kinds import (
    is_chain,
    is_multilinear,
    is_same_but_pools,
    rounding_casts,
)
from bnfold.proof.certificates.submodels import of_pool_inputs
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Parameters, build, normal, operators
from tests.support.windows import window

ROW = "(float[N,4] x) => (float[N,m] y)"


def test_products_of_what_varies_are_not_linear() -> None:
    weights: Parameters = {"w": normal(4, 4), "p": np.array([0, 1, 0, 1])}
    weights |= {"r": np.array(0.5, np.float32), "t": np.array(True), "g": np.ones(4, np.float32)}
    linear = [
        "y = MatMul(x, w)",
        "a = Add(x, x) y = MatMul(w, a)",
        "y = Div(x, w)",
        "y = Pad(x, p)",
        'y = Einsum<equation="ij,jk->ik">(x, w)',
        'y = Einsum<equation="jk,ij->ik">(w, x)',
    ]
    others = ["y = Mul(x, x)", "y = Div(w, x)", "y = MatMul(x, x)", "y = Cast<to=7>(x)"]
    others += ['y = Einsum<equation="ij,ij->ij">(x, x)']
    others += ["y = Dropout(x, r, t)", "y = BatchNormalization<training_mode=1>(x, g, g, g, g)"]
    for text in linear + others:
        assert is_multilinear(build(f"{ROW} {{ {text} }}", **weights)) == (text in linear), text


@pytest.mark.parametrize(
    ("types", "lines", "expected"),
    [
        ("float", "a = Cast<to=10>(x) b = Cast<to=7>(a) y = Cast<to=1>(b)", {"float16"}),
        ("float", "y = Cast<to=11>(x)", set()),
        ("double", "y = Cast<to=1>(x)", {"float32"}),
        ("float16", "y = Cast<to=1>(x)", set()),
        ("float16 float", "a = Cast<to=1>(x) y = Cast<to=10>(a)", {"float16"}),
        ("float16", "a = Cast<to=1>(x) y = Cast<to=10>(a)", set()),
        ("float16", "y = Cast<to=16>(x)", {"bfloat16"}),
        ("bfloat16", "y = Cast<to=10>(x)", {"float16"}),
        ("float", "a = Cast<to=7>(x) y = Cast<to=1>(a)", set()),
    ],
)
def test_casts_that_round(types: str, lines: str, expected: set[str]) -> None:
    read, _, made = types.partition(" ")
    pair = window(f"({read}[N,4] x) => ({made or read}[N,4] y)", lines, "y = Identity(x)")
    assert rounding_casts(pair) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a = Neg(x) y = Cast<to=10>(a)", set()),
        ("a = Cast<to=10>(x) b = Flatten(a) y = Concat<axis=1>(b)", set()),
        ("a = Cast<to=10>(x) b = Neg(a) y = Relu(b)", set()),
        ("a = Cast<to=10>(x) y = Add(a, a)", {"float16"}),
        ("a = Cast<to=10>(x) b = Cast<to=1>(a) y = Cast<to=10>(b)", {"float16"}),
        ("a = Cast<to=16>(x) b = Flatten(a) y = Cast<to=10>(b)", {"float16", "bfloat16"}),
    ],
)
def test_casts_that_round_results_alone(lines: str, expected: set[str]) -> None:
    interface, old = "(float[N,4] x) => (float16[N,4] y)", "a = Cast<to=10>(x) y = Neg(a)"
    assert rounding_casts(window(interface, old, lines)) == expected
    wide = interface.replace("float16", "float")
    assert rounding_casts(window(wide, old, lines)) == (expected or {"float16"})


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


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = MatMul(x, w)", "a = MatMul(x, w) y = Cast<to=11>(a)"),
        ("y = MatMul(x, w)", "a = Cast<to=11>(x) y = MatMul(a, v)"),
        ("y = Relu(x)", "a = Relu(x) y = Cast<to=11>(a)"),
        ("a = Relu(x) y = Sqrt(a)", "a = Relu(x) b = CastLike(a, v) y = Sqrt(b)"),
    ],
)
def test_another_type_is_a_difference(before: str, after: str) -> None:
    """In float64 it is none."""
    w = normal(4, 3)
    weights: Parameters = {"w": w, "v": w.astype(np.float64)}
    pair = window("(float[N,4] x) => (float[N,M] y)", before, after, weights)
    found = certify(pair)
    assert found.verdict == "differs"
    assert found.worst is not None
    assert found.worst.mismatch == "float becomes double"


@pytest.mark.parametrize("before", ["y = Identity(x)", "y = Cast<to=1>(x)"])
@pytest.mark.parametrize("sizes", ["N,4", "3"])
def test_another_type_than_that_of_what_is_read_is_a_difference(before: str, sizes: str) -> None:
    pair = window(f"(float[{sizes}] x) => (y)", before, "y = Cast<to=11>(x)")
    for each in (pair, Window(pair.after, pair.before)):
        assert certify(each).verdict == "differs"
