"""Weights are compared number by number: what is the same sum is certified, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.sums.weights import prove_weights
from bnfold.proof.certificates.windows import Window
from bnfold.proof.float64.evaluation import Truth64
from bnfold.record.data import Certificate
from tests.support.graphs import Array, Parameters, batch_norm, normal
from tests.support.windows import affine_of, window

# --- Chains that are drawn ------------------------------------------------------------------------


@dataclass
class Chain:
    """A linear operator with scales and shifts around it, and what it computes: its rows.

    `weights` are of shape [computed, read / groups, …]. Both are in float64.
    """

    weights: Array
    shift: Array
    lines: list[str] = field(default_factory=list)
    constants: Parameters = field(default_factory=dict)
    last: str = "x"

    def constant(self, content: Array) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = content
        return name

    def add(self, line: str) -> None:
        self.last = f"v{len(self.lines)}"
        self.lines.append(f"{self.last} = {line}")


@dataclass(frozen=True)
class Drawn:
    """A chain, and the one operator that it is."""

    interface: str
    chain: Chain
    after: str
    layout: Callable[[Array], Array]
    """Turns rows into weights as the operator stores them."""

    def pair(self, weights: Array, shift: Array) -> Window:
        """Return the window of the chain, and of its operator with rows that are given."""
        return window(
            self.interface,
            " ".join([*self.chain.lines, f"y = Identity({self.chain.last})"]),
            self.after,
            self.chain.constants,
            {"w": self.layout(weights.astype(np.float32)), "b": shift.astype(np.float32)},
        )


def applied(weights: Array, vector: Array, groups: int) -> Array:
    """Return what rows make of one number for each channel that is read."""
    rows, each = weights.shape[:2]
    result = np.zeros(rows)
    for row in range(rows):
        for column in range(each):
            read = row // (rows // groups) * each + column
            result[row] += weights[row, column].sum() * vector[read]
    return result


def scaled_columns(weights: Array, scale: Array, groups: int) -> Array:
    """Return rows of which what they read is scaled."""
    rows, each = weights.shape[:2]
    result = weights.copy()
    for row in range(rows):
        for column in range(each):
            result[row, column] *= scale[row // (rows // groups) * each + column]
    return result


def transposed_filters(weights: Array, groups: int) -> Array:
    """Return rows as the weights of a ConvTranspose: [read, computed / groups, …]."""
    rows, each = weights.shape[:2]
    of_group = rows // groups
    stored = np.zeros((groups * each, of_group, *weights.shape[2:]), weights.dtype)
    for row in range(rows):
        for column in range(each):
            stored[row // of_group * each + column, row % of_group] = weights[row, column]
    return stored


@st.composite
def chains(draw: st.DrawFn) -> Drawn:
    kind = draw(st.sampled_from(["Conv", "ConvTranspose", "Gemm", "MatMul"]))
    seed = draw(st.integers(0, 99))
    is_spatial = kind.startswith("Conv")
    rank = draw(st.integers(1, 3)) if is_spatial else 0
    groups = draw(st.integers(1, 3)) if is_spatial else 1
    each, rows = draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    reads = groups * each
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    weights = normal(rows, each, *kernel, seed=seed)
    pads = draw(st.lists(st.integers(0, 1), min_size=2 * rank, max_size=2 * rank))
    strides = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    sizes = "".join(f",S{axis}" for axis in range(rank))
    interface = f"(float[N,{reads}{sizes}] x) => (float[M,c{',t' * rank}] y)"
    operator = kind
    layout: Callable[[Array], Array] = np.array
    if is_spatial:
        operator = f"{kind}<group={groups}, pads={pads}, strides={strides}>"
        if kind == "ConvTranspose":
            layout = partial(transposed_filters, groups=groups)
    else:
        interface = f"(float[N,{'' if kind == 'Gemm' else 'M,'}{reads}] x) => (float[t,s] y)"
        layout = np.transpose
    chain = Chain(weights.astype(np.float64), np.zeros(rows))

    def vector(size: int, number: int) -> Array:
        values = normal(size, seed=100 * number + seed) + np.float32(0.1)
        return values.reshape(-1, *[1] * rank)

    if draw(st.booleans()):
        scale = vector(reads, 1)
        is_divided = draw(st.booleans())
        name = chain.constant(scale)
        chain.add(f"{'Div' if is_divided else 'Mul'}({chain.last}, {name})")
        factor = scale.reshape(-1).astype(np.float64)
        chain.weights = scaled_columns(chain.weights, 1 / factor if is_divided else factor, groups)
    if kind != "ConvTranspose" and not any(pads) and draw(st.booleans()):
        shift = vector(reads, 2)
        chain.add(f"Add({chain.constant(shift)}, {chain.last})")
        shift = shift.reshape(-1).astype(np.float64)
        chain.shift = applied(weights.astype(np.float64), shift, groups)
    chain.add(f"{operator}({chain.last}, {chain.constant(layout(weights))})")
    for number in range(draw(st.integers(0, 4))):
        step(draw, chain, vector(rows, 3 + number), is_spatial=is_spatial)
    is_product = kind == "MatMul"
    after = "p = MatMul(x, w) y = Add(p, b)" if is_product else f"y = {operator}(x, w, b)"
    return Drawn(interface, chain, after, layout)


def step(draw: st.DrawFn, chain: Chain, vector: Array, *, is_spatial: bool) -> None:
    """Scale or shift what a chain computes."""
    kinds = ["Mul", "Div", "Add", "Sub", "from", "Neg", *(["normalized"] if is_spatial else [])]
    kind = draw(st.sampled_from(kinds))
    wide = vector.reshape(-1).astype(np.float64)
    ones = (1,) * (chain.weights.ndim - 1)
    if kind == "normalized":
        parameters = batch_norm(len(wide), seed=len(chain.lines))
        names = [chain.constant(parameters[name]) for name in "sbmv"]
        chain.add(f"BatchNormalization({chain.last}, {', '.join(names)})")
        scale, shift = affine_of(parameters)
    elif kind == "Neg":
        chain.add(f"Neg({chain.last})")
        scale, shift = -np.ones(len(wide)), np.zeros(len(wide))
    elif kind in ("Mul", "Div"):
        chain.add(f"{kind}({chain.last}, {chain.constant(vector)})")
        scale, shift = wide if kind == "Mul" else 1 / wide, np.zeros(len(wide))
    elif kind == "from":
        chain.add(f"Sub({chain.constant(vector)}, {chain.last})")
        scale, shift = -np.ones(len(wide)), wide
    else:
        chain.add(f"{kind}({chain.last}, {chain.constant(vector)})")
        scale, shift = np.ones(len(wide)), wide if kind == "Add" else -wide
    chain.weights = chain.weights * scale.reshape(-1, *ones)
    chain.shift = chain.shift * scale + shift


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_chain_is_one_operator(drawn: Drawn) -> None:
    weights, shift = drawn.chain.weights, drawn.chain.shift
    found = prove_weights(drawn.pair(weights, shift))
    assert found is not None
    rows = np.moveaxis(weights, 1, -1)
    rounded = np.moveaxis(weights.astype(np.float32).astype(np.float64), 1, -1)
    norms = np.linalg.norm(rows, axis=-1)
    expected = (np.linalg.norm(rounded - rows, axis=-1) / norms).max()
    assert found.bound == pytest.approx(expected, rel=1e-4, abs=1e-12)
    assert (found.verdict, found.kind, found.doubt) == ("certified", "weights", None)


@settings(max_examples=40, deadline=None)
@given(chains(), st.data())
def test_one_number_that_is_off_is_found(drawn: Drawn, data: st.DataObject) -> None:
    weights, shift = drawn.chain.weights.copy(), drawn.chain.shift.copy()
    place = tuple(data.draw(st.integers(0, size - 1)) for size in weights.shape)
    if data.draw(st.booleans()):
        index: tuple[Any, ...] = (place[0], slice(None), *place[2:])
        row = np.linalg.norm(weights[index])
        weights[place] += data.draw(st.sampled_from([1e-5, -1e-3])) * row
    else:
        shift[place[0]] += 1e-5 * max(abs(shift[place[0]]), 1.0)
    assert prove_weights(drawn.pair(weights, shift)) is None


# --- What is written in another way ---------------------------------------------------------------


def product(one: Array, other: Array) -> Array:
    """Return the filters of a pointwise Conv after another one, or of any one after it."""
    wide = (each.astype(np.float64) for each in (one, other))
    return np.asarray(np.einsum("om...,mi...->oi...", *wide), np.float32)


def centred(filters: Array) -> Array:
    """Return filters of 1×1 as the centre of 3×3."""
    return np.pad(filters, [(0, 0), (0, 0), (1, 1), (1, 1)])


def dense(filters: Array, groups: int) -> Array:
    """Return the filters of a Conv of groups as those of one without."""
    rows, each = filters.shape[:2]
    result = np.zeros((rows, groups * each, *filters.shape[2:]), np.float64)
    for row in range(rows):
        first = row // (rows // groups) * each
        result[row, first : first + each] = filters[row]
    return result


MAP = "(float[N,4,H,W] x, float[N,4,H,W] z) => (float[N,c,h,w] y)"
ROWS = "(float[N,4] x, float[N,4] z) => (float[N,c] y)"
CONSTANTS: Parameters = {
    "k": normal(4, 4, 3, 3),
    "q": normal(4, 4),
    "t": np.ascontiguousarray(normal(4, 4).T),
    "g": normal(4, seed=1).reshape(4, 1, 1),
    "h": normal(4, seed=1),
    "p": normal(4, 1, 1, seed=2),
    "minus": np.array(-1, np.float32),
    "two": np.array([2], np.float32),
    "half": np.array(0.5, np.float32),
    "deep": normal(1, 1, 4, 1, 1),
    "k3": normal(2, 4, 4),
    "k2": normal(4, 2, 3, 3),
    "n": -normal(4, seed=1).reshape(4, 1, 1),
    "o": (normal(4, seed=1).astype(np.float64) @ normal(4, 4).astype(np.float64)).astype(
        np.float32
    ),
    "odd": np.array([1, -1, 5, 7]),
    "index": np.array(1),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "i2": np.array([2]),
    "zeros": np.array([0, 0]),
    "twos": np.array([2, 2]),
    "axes": np.array([1, 2]),
    "g1": normal(1, 4, 1, 1),
    "back": np.array([-1]),
    "lowest": np.array([-(2**31)]),
    "backwards": np.array([3, 2, 1, 0]),
    "ones": np.array([1, 1, 2]),
    "crossed": np.array([2, 3, 0, 1]),
    "quarters": np.full((4, 1, 2, 2), 0.25, np.float32),
    "unit": np.ones((4, 1, 1, 1), np.float32),
    "twos4": np.full(4, 2, np.float32),
    "dilated": normal(4, 4, 2, 2),
    "full": normal(3, 4),
    "column": normal(3, 1),
    "k16": 2 * normal(4, 8, 3, 3),
    "tail": normal(4, seed=1).reshape(4, 1, 1)[2:],
    "thrice": 3 * normal(4, 4, 3, 3),
    "along": normal(4, 4, 1, 1).reshape(4, 4, 1),
    "swapped": np.ascontiguousarray(normal(4, 4, 3, 3).swapaxes(0, 1)),
    "k8": normal(4, 8, 3, 3),
    "even": normal(4, 4, 2, 2),
    "holes": np.insert(np.insert(normal(4, 4, 2, 2), 1, 0, 2), 1, 0, 3),
    "both": normal(4, 4, 3, 3) + centred(normal(4, 4, 1, 1)),
    "rep": normal(4, 4, 3, 3)
    + centred(normal(4, 4, 1, 1) + np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)),
    "summed": normal(4, 4, 1, 1) + normal(4, 4, 1, 1, seed=1),
    "after": product(normal(4, 4, 1, 1), normal(4, 4, 3, 3)),
    "before": product(normal(4, 4, 3, 3), normal(4, 4, 1, 1)),
    "shift": product(normal(4, 4, 1, 1), normal(4, seed=1).reshape(4, 1, 1, 1)).reshape(4),
    "sums": product(
        normal(4, 4, 3, 3).astype(np.float64).sum((2, 3)), normal(4, seed=1).reshape(4, 1)
    ).reshape(4),
    "qt": product(normal(4, 4), normal(4, 4).T),
    "residual": normal(4, 4) + np.eye(4, dtype=np.float32),
    "pair": normal(4, 2, 1, 1, seed=2),
    "crossing": product(
        dense(normal(4, 2, 1, 1, seed=2), 2), dense(normal(4, 2, 3, 3), 2)[[2, 3, 0, 1]]
    ),
    "thirds": np.array([2, 2, 4]),
    "flat": np.array([-1, 4]),
    "flatter": np.array([-1, 2]),
    "parts": np.array([1, 3]),
    "last": np.array([2, 3]),
    "huge": np.array([2**62]),
    "z0": np.zeros(1, np.float32),
    "wide": np.concatenate([normal(4, 4, 1, 1), normal(4, 4, 1, 1, seed=1)], axis=1),
    "halved": np.concatenate([normal(4, 4, 1, 1) / 2, normal(4, 4, 1, 1, seed=1)], axis=1),
    "upper": normal(4, 2, 3, 3)[:2],
    "left": normal(4, 4, 1, 1),
    "right": normal(4, 4, 1, 1, seed=1),
    "lower": normal(4, 2, 3, 3)[2:],
    "thin": normal(2, 4, 3, 3),
    "stacked": np.concatenate([normal(2, 4, 3, 3), normal(4, 4, 3, 3)]),
    **batch_norm(4),
}
FOUR = MAP.replace("z)", "z, float[N,4,H,W] u, float[N,4,H,W] w)")
TWO = MAP.replace("y)", "y, float[N,c,h,w] r)")


TOKENS = "(float[N,M,4] x, float[N,M,4] z) => (float[K,c] y)"
FLAT = [
    (TOKENS, "a = MatMul(x, q) e = Flatten<axis=2>(a) y = Add(e, h)",
     "a = MatMul(x, q) e = Add(h, a) y = Flatten<axis=-1>(e)"),
    (TOKENS, "e = Flatten<axis=2>(x) y = Gemm(e, q, h)",
     "a = MatMul(x, q) e = Reshape(a, flat) y = Add(e, h)"),
    (TOKENS, "e = Reshape(x, flat) y = BatchNormalization(e, s, b, m, v)",
     "e = Flatten<axis=2>(x) y = BatchNormalization(e, s, b, m, v)"),
    (TOKENS, "e = Flatten<axis=2>(x) i = Flatten<axis=2>(z) a = Add(e, i) y = MatMul(a, q)",
     "e = MatMul(x, q) a = Reshape(e, flat) i = MatMul(z, q) j = Flatten<axis=2>(i) "
     "y = Add(a, j)"),
    (ROWS, "a = Flatten<axis=1>(x) y = Add(a, z)", "y = Add(x, z)"),
    (ROWS, "a = Add(x, z) y = Neg(a)", "a = Add(x, z) e = Neg(a) y = Flatten(e)"),
]  # fmt: skip

SAME = "pads=[1,1,1,1]"
POOL = "AveragePool<kernel_shape=[2,2], strides=[2,1]"
MERGED = [
    (MAP, "a = Mul(x, two) e = Add(a, x) y = Conv(e, k)", "y = Conv(x, thrice)"),
    (MAP, "y = Add(x, x)", "y = Mul(x, two)"),
    (MAP, f"a = Conv<{SAME}>(x, k) e = Conv(x, left) y = Sum(a, e, x)",
     f"y = Conv<{SAME}>(x, rep)"),
    (MAP, f"a = Conv<{SAME}>(x, k) e = Sub(a, x) y = Add(e, x)", f"y = Conv<{SAME}>(x, k)"),
    (MAP, "a = Conv<strides=[2,2]>(x, left) e = Conv<strides=[2,2], pads=[1,1,1,1]>(x, k) "
     "y = Add(a, e)", "y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, both)"),
    (MAP, "y = Conv<dilations=[2,2], pads=[1,1,1,1]>(x, even)", f"y = Conv<{SAME}>(x, holes)"),
    (MAP, 'y = Conv<auto_pad="SAME_UPPER">(x, even)', "y = Conv<pads=[0,0,1,1]>(x, even)"),
    (MAP, 'y = Conv<auto_pad="SAME_LOWER">(x, k)', f"y = Conv<{SAME}>(x, k)"),
    (MAP, "a = Concat<axis=1>(x, x) y = Conv(a, wide)", "y = Conv(x, summed)"),
    (MAP, f"a = Conv<{SAME}>(x, k, h) y = Conv(a, left)", f"y = Conv<{SAME}>(x, after, shift)"),
    (MAP, f"a = Conv(x, left) y = Conv<{SAME}>(a, k)", f"y = Conv<{SAME}>(x, before)"),
    (MAP, "a = Conv(x, left, h) y = Conv<strides=[2,1]>(a, k)",
     "y = Conv<strides=[2,1]>(x, before, sums)"),
    (MAP, "a = Add(x, z) y = Conv(a, left)", "a = Conv(z, left) e = Conv(x, left) y = Add(a, e)"),
    (MAP, f"a = Conv(x, left, h) y = {POOL}>(a)", f"a = {POOL}>(x) y = Conv(a, left, h)"),
    (MAP, f"a = Conv(x, left) y = {POOL}, pads=[1,0,0,1], count_include_pad=1>(a)",
     f"a = {POOL}, pads=[1,0,0,1], count_include_pad=1>(x) y = Conv(a, left)"),
    (MAP, "a = Conv(x, left, h) y = GlobalAveragePool(a)",
     "a = GlobalAveragePool(x) y = Conv(a, left, h)"),
    (MAP, f"a = Conv(x, left, h) y = {POOL}, pads=[1,0,0,1], ceil_mode=1>(a)",
     f"a = {POOL}, pads=[1,0,0,1], ceil_mode=1>(x) y = Conv(a, left, h)"),
    (MAP, f"a = Mul(x, g) y = {POOL}>(a)", "a = AveragePool<strides=[2,1], kernel_shape=[2,2], "
     'auto_pad="NOTSET", pads=[0,0,0,0]>(x) y = Mul(a, g)'),
    (ROWS, "a = Gemm(x, q) y = Gemm(a, t)", "y = MatMul(x, qt)"),
    (ROWS, "a = MatMul(x, q) y = Add(a, x)", "y = MatMul(x, residual)"),
    (MAP, "a = Conv<group=2>(x, k2) e = Gather<axis=1>(a, crossed) y = Conv<group=2>(e, pair)",
     "y = Conv(x, crossing)"),
]  # fmt: skip
PARTS = [
    (MAP, "a = Add(x, g) y = Slice(a, i2, huge, i1)",
     "a = Slice(x, i2, huge, i1) y = Add(a, tail)"),
    (MAP, "a = Concat<axis=1>(x, z) e = Conv(a, k8) y = Mul(e, two)",
     "a = Concat<axis=1>(x, z) y = Conv(a, k16)"),
    (TWO, "y, r = Split<axis=1>(x)", "y = Slice(x, i0, i2, i1) r = Gather<axis=-3>(x, last)"),
    (TWO, "y, r = Split<axis=1>(x, parts)", "r = Slice(x, i1, huge, i1, i1) "
     "y = Slice(x, i0, i1, i1)"),
    (MAP, "y = Gather<axis=1>(x, backwards)", "y = Slice(x, back, lowest, i1, back)"),
    (MAP, "y = Identity(x)", "a, e = Split<axis=1>(x) y = Concat<axis=1>(a, e)"),
    (MAP, "a = Concat<axis=1>(x, z) y = Mul(a, two)", "a = Mul(x, two) e = Add(z, z0) "
     "d = Mul(e, two) y = Concat<axis=-3>(a, d)"),
    (MAP, "a = Concat<axis=1>(x, z) y = Conv(a, wide)", "i = Mul(x, two) a = Concat<axis=1>(i, z) "
     "y = Conv(a, halved)"),
    (MAP, "a = Conv(x, thin) e = Conv(x, k) y = Concat<axis=1>(a, e)", "y = Conv(x, stacked)"),
    (MAP, "a = Conv<group=2>(x, k2) y = Slice(a, i2, huge, i1)", "a = Slice(x, i2, huge, i1) "
     "y = Conv(a, lower)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("interface", "before", "after"),
    [
        (ROWS, "y = Gemm(x, q, h)", "i = MatMul(x, q) y = Add(h, i)"),
        (ROWS, "y = Gemm(x, q)", "y = Gemm<transB=1, alpha=1.0>(x, t)"),
        (ROWS, "y = Gemm<alpha=2.0, beta=0.5>(x, q, h)", "i = Mul(x, two) j = Gemm(i, q) "
         "e = Mul(j, two) l = Add(e, h) y = Mul(l, half)"),
        (MAP, "y = Conv(x, k)", "y = Conv<kernel_shape=[3,3], strides=[1,1], pads=[0,0,0,0], "
         'dilations=[1,1], group=1, auto_pad="NOTSET">(x, k)'),
        (MAP, "c = Conv(x, k, h) y = Add(c, z)", "c = Conv(x, k) a = Sum(z, c, g) y = Identity(a)"),
        (MAP, "c = Conv(x, k) a = Sub(z, c) y = Add(a, g)", "c = Conv(x, k) i = Sub(g, c) "
         "y = Add(i, z)"),
        (MAP, "y = Neg(x)", "y = Mul(minus, x)"),
        (MAP, "y = Mul(x, two)", "y = Div(x, half)"),
        (MAP, "i = Mul(x, g) y = Add(i, z)", "d = Div(z, g) i = Add(x, d) y = Mul(i, g)"),
        (MAP, "a = Add(x, z) y = BatchNormalization(a, s, b, m, v)", "i = Neg(z) a = Sub(x, i) "
         "y = BatchNormalization<training_mode=0, momentum=0.5>(a, s, b, m, v)"),
        (MAP, 'a = Add(x, g) y = Conv<auto_pad="VALID">(a, k)',
         'a = Sub(x, n) y = Conv<auto_pad="VALID">(a, k)'),
        ("(float[N,M,4] x) => (float[N,M,c] y)", "a = Add(x, h) y = MatMul(a, q)",
         "i = MatMul(x, q) y = Add(i, o)"),
        *PARTS,
        *MERGED,
        *FLAT,
    ],
)  # fmt: skip
def test_what_is_written_otherwise(interface: str, before: str, after: str) -> None:
    assert prove_weights(window(interface, before, after, CONSTANTS)) is not None


@pytest.mark.parametrize(
    ("interface", "before", "after"),
    [
        (MAP, "y = Conv(x, k)", "y = Conv<strides=[2,1]>(x, k)"),
        (MAP, "y = Conv(x, k)", "y = Conv<dilations=[1,2]>(x, k)"),
        (MAP, "y = Conv<strides=[2,2]>(x, k)", "y = Conv<strides=[2,2], pads=[0,0,1,1]>(x, k)"),
        (MAP, "y = Conv(x, k)", "y = Conv<pads=[1,1,1,1]>(x, k)"),
        (MAP, "y = Conv<pads=[1,0,0,1]>(x, k)", "y = Conv<pads=[0,1,1,0]>(x, k)"),
        (MAP, 'y = Conv<auto_pad="SAME_UPPER">(x, even)',
         'y = Conv<auto_pad="SAME_LOWER">(x, even)'),
        (MAP, 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, k)',
         'y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, k)'),
        (MAP, "a = Conv<pads=[1,1,1,1]>(x, k) y = Add(a, x)", "y = Conv<pads=[1,1,1,1]>(x, k)"),
        (MAP, "a = Conv(x, left) y = Conv(a, right)", "a = Conv(x, right) y = Conv(a, left)"),
        (MAP, "a = Conv(x, k) y = Conv(a, right)", "a = Conv(x, right) y = Conv(a, k)"),
        (MAP, "y = AveragePool<kernel_shape=[2,2]>(x)", "y = AveragePool<kernel_shape=[2,1]>(x)"),
        (MAP, "y = AveragePool<kernel_shape=[1,1]>(x)", "y = GlobalAveragePool(x)"),
        (MAP, "a = Conv<strides=[2,2]>(x, left) y = Conv(a, k)", "y = Conv(x, before)"),
        (MAP, 'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, k)',
         'y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(x, swapped)'),
        (MAP, "a = Conv(x, left) y = GlobalAveragePool(a)", "y = Conv(x, left)"),
        (MAP, "y = Conv(x, k)", "y = ConvTranspose(x, k)"),
        (MAP, "y = Conv(x, k)", "y = Conv(z, k)"),
        (MAP, "y = Conv<group=2>(x, k2)", "y = ConvTranspose<group=2>(x, k2)"),
        (MAP, "y = ConvTranspose(x, k)", "y = ConvTranspose<output_padding=[1,0]>(x, k)"),
        (MAP, "y = Conv(x, k, h)", "y = Conv(x, k)"),
        (MAP, "y = Sub(x, z)", "y = Sub(z, x)"),
        (MAP, "y = Sub(x, g)", "y = Sub(g, x)"),
        (MAP, "y = Mul(x, g)", "y = Div(x, g)"),
        (MAP, "y = Add(x, z)", "y = Identity(x)"),
        (MAP, "y = Add(x, g)", "y = Add(x, p)"),
        (MAP, "y = Add(x, z)", "y = Sum(x)"),
        (MAP, "y = BatchNormalization(x, s, b, m, v)",
         "y = BatchNormalization<epsilon=0.001>(x, s, b, m, v)"),
        (MAP, "y = BatchNormalization(x, s, b, m, v)", "y = BatchNormalization(x, s, b, v, m)"),
        (MAP, "c = Conv(x, k) y = Mul(c, g)", "c = Mul(x, g) y = Conv(c, k)"),
        (ROWS, "y = Gemm(x, q)", "y = Gemm<transB=1>(x, q)"),
        (ROWS, "y = Gemm(x, q, h)", "y = Gemm<beta=2.0>(x, q, h)"),
        (ROWS, "y = Gemm(x, q, h)", "y = Gemm<alpha=2.0>(x, q, h)"),
        (ROWS, "y = MatMul(x, q)", "y = Mul(x, h)"),
        (MAP, "y = Concat<axis=1>(x, z)", "y = Concat<axis=1>(z, x)"),
        (TOKENS, "y = Flatten<axis=2>(x)", "y = Flatten<axis=2>(z)"),
        (TOKENS, "e = Flatten<axis=2>(x) y = Add(e, h)", "y = Flatten<axis=2>(x)"),
        (TOKENS, "e = Flatten<axis=2>(x) i = Flatten<axis=2>(z) y = Add(e, i)",
         "e = Add(x, z) y = Flatten<axis=2>(e)"),  # other sizes are broadcast
        (TOKENS, "y = Flatten<axis=2>(x)", "y = Flatten<axis=1>(x)"),
        (TOKENS, "y = Flatten<axis=2>(x)", "y = Reshape(x, flatter)"),
        (MAP, "y, a = Split<axis=1>(x)", "a, y = Split<axis=1>(x)"),
        (MAP, "y = Slice(x, i0, i2, i1)", "y = Slice(x, i1, i2, i1)"),
        (MAP, "y = Slice(x, i0, huge, i1, i2)", "y = Slice(x, i0, i2, i1)"),
        (MAP, "y = Gather<axis=1>(x, backwards)", "y = Identity(x)"),
        (MAP, "a = Gather<axis=1>(x, backwards) y = Conv(a, k)", "y = Conv(x, k)"),
        (MAP, "a = Concat<axis=1>(x, z) y = Conv(a, wide)",
         "a = Concat<axis=1>(z, x) y = Conv(a, wide)"),
        (MAP, "a = Conv(x, k) y = Concat<axis=1>(a, z)", "a = Conv(x, k) y = Concat<axis=1>(z, a)"),
        (MAP, "a = Concat<axis=1>(x, z) y = Slice(a, i1, i2, i1)", "y = Slice(z, i1, i2, i1)"),
        (MAP, "y = Conv<group=2>(x, k2)",
         "a = Gather<axis=1>(x, crossed) y = Conv<group=2>(a, k2)"),
    ],
)  # fmt: skip
def test_what_differs(interface: str, before: str, after: str) -> None:
    assert prove_weights(window(interface, before, after, CONSTANTS)) is None
    assert prove_weights(window(interface, after, before, CONSTANTS)) is None


@pytest.mark.parametrize(
    ("interface", "before", "after"),
    [
        (MAP, "a = Conv(x, left) e = Conv(z, right) y = Add(a, e)",
         "a = Concat<axis=1>(x, z) y = Conv(a, wide)"),
        (MAP, "y = Slice(x, i0, i2, i1)", "a = Concat<axis=1>(x, z) y = Slice(a, i0, i2, i1)"),
        (MAP, "y = Slice(x, i0, i2, i1)", "e = Conv(z, k) a = Concat<axis=1>(x, e) "
         "y = Slice(a, i0, i2, i1)"),
        (FOUR, "a = Add(x, z) e = Add(u, w) y = Concat<axis=1>(a, e)",
         "a = Concat<axis=1>(x, u) e = Concat<axis=1>(z, w) y = Add(a, e)"),
        (TWO, "a = Mul(x, g) y, r = Split<axis=1>(a)", "a = Mul(x, g) e = Concat<axis=1>(a, z) "
         "y, r, f = Split<axis=1>(e, thirds)"),
        (MAP.replace("4", "C"), "a = Conv<group=2>(x, k2) y = Slice(a, i0, i2, i1)",
         "y = Conv(x, upper)"),
    ],
)  # fmt: skip
def test_what_may_not_run_where_the_other_does(interface: str, before: str, after: str) -> None:
    """Maps may have other sizes than one another, and broadcast."""
    assert prove_weights(window(interface, before, after, CONSTANTS)) is None


def test_filters_of_another_rank_read_other_inputs() -> None:
    pair = window(MAP, "y = Conv(x, left)", "y = Conv(x, along)", CONSTANTS)
    for model in pair.models:
        model.graph.input[0].type.tensor_type.ClearField("shape")
    assert prove_weights(pair) is None
    assert prove_weights(Window(pair.before, pair.before)) is not None


def test_a_tap_is_compared_by_itself() -> None:
    """All but the corner of a map does not read it, but that corner reads nothing else."""
    filters = normal(2, 4, 3, 3)
    filters[0, :, 2, 2] *= np.float32(1e-6)
    other = filters.copy()
    other[0, 1, 2, 2] *= np.float32(1.001)
    lines = "y = Conv<pads=[2,2,0,0]>(x, k)"
    pair = window(MAP, lines, lines, {"k": filters}, {"k": other})
    assert prove_weights(pair) is None


# --- Programs -------------------------------------------------------------------------------------


KERNELS = [
    ([3, 3], "pads=[1,1,1,1]"),
    ([3, 1], "pads=[2,0,0,0]"),
    ([2, 2], "dilations=[2,2], pads=[1,1,1,1]"),
    ([2, 3], 'auto_pad="SAME_LOWER"'),
]
"""Of which the results have the sizes of the operands."""


def program(choices: Sequence[int]) -> tuple[str, Parameters]:
    """Return lines that some numbers choose, over two maps of four channels."""
    values = [("x", 4), ("z", 4)]
    lines: list[str] = []
    constants: Parameters = {}
    numbers = iter(choices)

    def constant(content: Array) -> str:
        constants[f"k{len(constants)}"] = content
        return f"k{len(constants) - 1}"

    def add(line: str, *sizes: int) -> None:
        names = [f"v{len(values) + index}" for index in range(len(sizes))]
        values.extend(zip(names, sizes, strict=True))
        lines.append(f"{', '.join(names)} = {line}")

    for kind, at, other, number in zip(numbers, numbers, numbers, numbers, strict=False):
        (name, size), (twin, width) = (values[place % len(values)] for place in (at, other))
        vector = normal(size, 1, 1, seed=number % 3) + np.float32(0.05)
        if kind < 3 and size == width:
            add(f"{('Add', 'Sub', 'Sum')[kind]}({name}, {twin})", size)
        elif kind in (3, 4):
            add(f"{('Mul', 'Div')[kind - 3]}({name}, {constant(vector)})", size)
        elif kind == 5:
            add(f"Sub({constant(vector)}, {name})", size)
        elif kind == 6:
            add(f"Concat<axis=1>({name}, {twin})", size + width)
        elif kind == 7 and size > 1:
            first = 1 + number % (size - 1)
            add(f"Split<axis=1>({name}, {constant(np.array([first, size - first]))})",
                first, size - first)  # fmt: skip
        elif kind == 8:
            indices = [place % size for place in (at, number, other)][: 1 + number % 3]
            add(f"Gather<axis=1>({name}, {constant(np.array(indices))})", len(indices))
        elif kind == 9:
            add(f"Conv({name}, {constant(normal(3, size, 1, 1, seed=number % 2))})", 3)
        elif kind == 10:
            weights = constant(normal(size, 1, 3, 3, seed=number % 2))
            add(f"Conv<group={size}, pads=[1,1,1,1]>({name}, {weights})", size)
        elif kind == 11:
            weights = constant(normal(size, 2, 1, 1, seed=number % 2))
            add(f"ConvTranspose({name}, {weights})", 2)
        else:
            kernel, attributes = KERNELS[kind % len(KERNELS)]
            weights = constant(normal(3, size, *kernel, seed=number % 2))
            add(f"Conv<{attributes}>({name}, {weights})", 3)
    return " ".join([*lines, f"y = Identity({values[-1][0]})"]), constants


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=8, max_size=40), st.data())
def test_only_what_computes_the_same_is_certified(choices: list[int], data: st.DataObject) -> None:
    others = list(choices)
    if data.draw(st.booleans()):
        others[data.draw(st.integers(0, len(choices) - 1))] = data.draw(st.integers(0, 15))
    (before, old), (after, new) = map(program, (choices, others))
    pair = window(MAP, before, after, old, new)
    found = prove_weights(pair)
    if found is None:
        return
    generator = np.random.default_rng(0)
    feeds = {name: generator.standard_normal((2, 4, 3, 5)) for name in "xz"}
    one, other = (Truth64.of_part(model).outputs(feeds)["y"] for model in pair.models)
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


# --- What is no such sum, on both sides alike -----------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "lines"),
    [
        (MAP, "a = Add(x, g) y = Conv<pads=[0,1,0,0]>(a, k)"),  # a border is not shifted
        (MAP, "a = Add(x, g) y = Conv<pads=[0,0,1,0]>(a, k)"),
        (MAP, 'a = Add(x, g) y = Conv<auto_pad="SAME_UPPER">(a, k)'),
        (MAP, "a = Add(x, g) y = ConvTranspose(a, k)"),
        (MAP, "c = Conv(x, k) y = Sub(c, x)"),  # whose borders fit, if at all, where one spreads
        (MAP, "y = Mul(x, z)"),
        (MAP, "y = Div(g, x)"),
        (MAP, "y = Relu(x)"),
        (MAP, "y = Mul(x, h)"),  # along the width
        (MAP, "y = Add(x, deep)"),
        (MAP, "y = MatMul(x, k3)"),
        (MAP, "y = MatMul(q, x)"),
        (MAP, "c = Conv(x, k) y = Conv(c, k)"),
        (MAP, "c = Conv(x, k) y = MatMul(c, q)"),
        (MAP, "c = MatMul(x, q) y = BatchNormalization(c, s, b, m, v)"),
        (MAP, "y, i, u = BatchNormalization<training_mode=1>(x, s, b, m, v)"),
        (ROWS, "y = Gemm<transA=1>(x, q)"),
        (ROWS, "y = Gemm(x, q, full)"),  # along the rows of a batch
        (ROWS, "y = Add(x, full)"),
        (ROWS, "y = Add(x, column)"),
        ("(float[N,C,H,W] x) => (float[N,c,h,w] y)", "y = Mul(x, g)"),  # may be one channel
        ("(float[N,C,H,W] x) => (float[N,c,h,w] y)", "i = Mul(x, g) y = Conv(i, k)"),
        ("(float[N,1,H,W] x) => (float[N,c,h,w] y)", "y = Mul(x, g)"),
        ("(float[N,4,H,W] x, float[N,1,H,W] z) => (float[N,c,h,w] y)", "y = Add(x, z)"),
        ("(float[N,4,H,W] x, float[N,4] z) => (float[N,c,h,w] y)", "y = Add(x, z)"),
        ("(float[N,4,H,W] x, float[N,4] z) => (float[N,c,h,w] y)", "y = Concat<axis=1>(x, z)"),
        ("(float[N,1,H,W] x) => (float[N,c,h,w] y)", "i = Mul(x, g) y = Conv(i, k)"),
        ("(float x) => (float y)", "y = Mul(x, two)"),
        ("(float[4] x) => (float[c] y)", "y = MatMul(x, q)"),
        (MAP.replace("y)", "y, float[N,c,h,w] r)"), "y = Neg(x) r = Relu(z)"),
        (MAP, f"a = Conv<{SAME}>(x, k) y = Conv<{SAME}>(a, k)"),
        (MAP.replace("4", "3"), "y = Conv(x, k)"),
        ("(float[N,4,H] x) => (float[N,c,h] y)", "y = Conv(x, k)"),
        (MAP, "a = Add(x, z) y = Conv(a, k)"),  # one of them may be smaller, and spread
        (MAP, "a = Conv<strides=[2,2]>(x, left) e = Conv<strides=[2,2]>(a, k) y = Conv(e, k)"),
        (FOUR, "a = Add(z, w) e = Concat<axis=1>(x, a) y = Conv(e, k8)"),
        (MAP, 'y = Conv<auto_pad="">(x, k)'),
        (MAP, 'y = Conv<auto_pad="SAME_UPPER", dilations=[2,2]>(x, k)'),  # runtimes may refuse it
        (MAP, 'y = Conv<auto_pad="VALID", pads=[0,0,0,0]>(x, k)'),
        (MAP, "y = Conv<pads=[-1,-1,3,3]>(x, k)"),
        (MAP, "y = Conv<pads=[1,1]>(x, k)"),
        (MAP, "y = Conv(x, k, two)"),
        (MAP, "y = BatchNormalization(x, two, two, two, two)"),
        (MAP, "a = Add(x, minus) y, b, c, d, e = Split<axis=1>(a)"),
        (MAP, "y, e = Split<axis=1>(x, ones)"),  # three sizes of two parts
        (MAP, "y, e = Split<axis=1, split=[1,3]>(x)"),
        (MAP, "y = Concat<axis=5>(x, z)"),
        (TOKENS, "y = Flatten(x)"),
        (TOKENS, "y = Reshape(x, flatter)"),
        (TOKENS, "a = Add(x, z) y = Flatten<axis=2>(a)"),
        ("(float[N,4] x, int64[2] z) => (float[K,4] y)", "y = Reshape(x, z)"),
        (MAP, "y = Flatten<axis=3>(x)"),  # the last axis is of free size
        (MAP, "y = Slice(x, i0, i2, i1, i0)"),
        (MAP, "a = Conv<strides=[2,2]>(x, left) e = Concat<axis=1>(x, a) y = Conv(e, wide)"),
        (MAP, f"a = Add(x, g) y = {POOL}, pads=[1,0,0,1], count_include_pad=1>(a)"),
        (MAP, "a = Conv(x, k) y = GlobalAveragePool(a)"),
        ("(float[N,M,4] x) => (float[N,M,1] y)", "a = MatMul(x, q) y = GlobalAveragePool(a)"),
        (MAP, "a = Concat<axis=2>(x, z) y = Neg(a)"),
        (MAP, "a = Concat<axis=1>(x, g1) y = Neg(a)"),
        (MAP, "a, y = Split<axis=2>(x)"),
        (MAP, "y = Gather<axis=1>(x, index)"),
        (MAP, "y = Gather<axis=2>(x, odd)"),
        (MAP, "y = Slice(x, i0, i2, i2)"),
        (MAP, "y = Slice(x, i0, i2)"),
        (MAP, "y = Slice(x, i2, i2, i1)"),  # nothing
        (MAP, "y = Slice(x, zeros, twos, axes)"),
        ("(int64[N,4] x) => (int64[N,c] y)", "y = Neg(x)"),
    ],
)
def test_what_is_no_sum(interface: str, lines: str) -> None:
    assert prove_weights(window(interface, lines, lines, CONSTANTS)) is None


@pytest.mark.parametrize(
    "line",
    [
        "y = Add<axis=1, broadcast=1>(x, h)",
        "y = BatchNormalization(x, s, b, m, v)",
        "y = Sum(x, g)",
        "y, e = Split<axis=1>(x, parts)",
    ],
)
def test_old_operators_mean_something_else(line: str) -> None:
    assert prove_weights(window(MAP, line, line, CONSTANTS, opset=6)) is None


@pytest.mark.parametrize(("opset", "is_known"), [(17, False), (18, True)])
def test_parts_of_an_uneven_split(opset: int, is_known: bool) -> None:
    text = "(float[N,5] x) => (float[N,3] y, float[N,2] z)"
    line = f"y, z = Split<axis=1{', num_outputs=2' if is_known else ''}>(x)"
    after = "y = Slice(x, i0, i3, i1) z = Slice(x, i3, huge, i1)"
    pair = window(text, line, after, CONSTANTS | {"i3": np.array([3])}, opset=opset)
    assert (prove_weights(pair) is not None) == is_known


def test_a_split_into_more_parts_than_there_are() -> None:
    text = "(float[N,5] x) => (float[N,2] y)"
    line = "y, a, b, c = Split<axis=1, num_outputs=4>(x)"
    assert prove_weights(window(text, line, line, opset=18)) is None


# --- Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = Add(x, masked)", "y = Add(x, h)"),
        ("y = Sub(x, masked)", "y = Add(x, h)"),
        ("y = Gemm(x, q, masked)", "y = Gemm(x, q, h)"),
        ("y = Gemm(x, infinite)", "y = Gemm(x, q)"),
        ("y = Mul(x, masked)", "y = Mul(x, h)"),
        ("y = Div(x, h)", "y = Div(x, zero)"),
    ],
)
def test_infinity_is_like_nothing_else(before: str, after: str) -> None:
    infinite = normal(4, 4)
    infinite[1, 2] = -np.inf
    masked = normal(4, seed=1)
    masked[1] = -np.inf
    constants = CONSTANTS | {
        "masked": masked,
        "infinite": infinite,
        "zero": np.zeros(4, np.float32),
    }
    assert prove_weights(window(ROWS, before, after, constants)) is None
    assert prove_weights(window(ROWS, after, before, constants)) is None


def test_weights_that_cancel_have_no_norm() -> None:
    """Each is rounded by itself, but what is computed is 0, and then their rounding."""
    left, scale = normal(4, 4, 1, 1), normal(4, seed=1).reshape(4, 1, 1, 1)
    old = {"w": np.concatenate([left, -left], axis=1), "g": scale[:, :, 0]}
    rounded = left * scale
    new = {"w": np.concatenate([rounded, -np.nextafter(rounded, np.float32(9))], axis=1)}
    body = "a = Concat<axis=1>(x, x)"
    pair = window(MAP, f"{body} e = Conv(a, w) y = Mul(e, g)", f"{body} y = Conv(a, w)", old, new)
    assert prove_weights(pair) is None


@pytest.mark.parametrize("size", [1e160, 1e140, 1.0, 1e-140, 1e-155, 1e-170])
def test_squares_of_small_differences_are_not_lost(size: float) -> None:
    body = "(double[N,4] x) => (double[N,4] y)", "y = MatMul(x, q)", "y = MatMul(x, q)"
    q = normal(4, 4, dtype=np.float64) * size
    for error, is_equal in ((1e-16, True), (1e-10, False)):
        other = q.copy()
        other[:, 2] *= 1 + error
        found = prove_weights(window(*body, {"q": q}, {"q": other}))
        assert (found is not None) is is_equal


@pytest.mark.parametrize("size", [1e160, 1e-170, 1e-320])
def test_squares_are_neither_infinite_nor_lost(size: float) -> None:
    text = "(double[N,4] x) => (double[N,4] y)"
    q = normal(4, 4, dtype=np.float64) * size
    assert prove_weights(window(text, "y = MatMul(x, q)", "y = MatMul(x, q)", {"q": q})) is not None
    for wrong in (q[::-1], -q, q * 0):
        other = {"q": np.ascontiguousarray(wrong)}
        assert (
            prove_weights(window(text, "y = MatMul(x, q)", "y = MatMul(x, q)", {"q": q}, other))
            is None
        )
        assert (
            prove_weights(window(text, "y = MatMul(x, q)", "y = MatMul(x, q)", other, {"q": q}))
            is None
        )


def test_the_rounding_is_that_of_what_is_read() -> None:
    """Not that of a coarser constant that nothing reads, or of another result."""
    unread = {"u": np.ones(1, np.float16)}
    old, new = ({"k": np.array(number, np.float32)} | unread for number in (1.0, 1.007))
    text = "(float[N,4] x) => (float[N,4] y)"
    assert prove_weights(window(text, "y = Mul(x, k)", "y = Mul(x, k)", old, new)) is None
    text = "(double[N,4] x, float16[N,4] z) => (double[N,4] y, float16[N,4] r)"
    lines = "y = Mul(x, k) r = Neg(z)"
    wide, off = ({"k": np.array(number, np.float64)} for number in (1.0, 1.007))
    assert prove_weights(window(text, lines, lines, wide, off)) is None


# --- Size -----------------------------------------------------------------------------------------


def test_a_long_chain_is_left_to_others() -> None:
    lines = " ".join(f"a{n} = Add(a{n - 1}, h)" for n in range(1, 400))
    lines = f"a0 = Neg(x) {lines} y = Identity(a399)"
    assert prove_weights(window(ROWS, lines, lines, CONSTANTS)) is None


def test_a_large_product_of_two_operators_is_not_computed() -> None:
    constants = {"p": normal(2100, 2), "q": normal(2, 2100)}
    lines = "a = MatMul(x, p) y = MatMul(a, q)"
    text = "(float[N,2100] x) => (float[N,2100] y)"
    assert prove_weights(window(text, lines, lines, constants)) is None


def test_butterflies_do_not_multiply() -> None:
    lines, last = "", "x"
    for level in range(12):
        lines += (
            f"a{level}, b{level} = Split<axis=1>({last}) c{level} = Add(a{level}, b{level}) "
            f"d{level} = Sub(a{level}, b{level}) e{level} = Concat<axis=1>(c{level}, d{level}) "
        )
        last = f"e{level}"
    lines += f"y = Neg({last})"
    assert prove_weights(window(ROWS, lines, lines, CONSTANTS)) is None


def test_a_depthwise_sum_of_many_channels() -> None:
    """Of which the dense rows would take 300 MB."""
    old = {"w": normal(2000, 1, 3, 3)}
    wide = old["w"].astype(np.float64)
    wide[:, :, 1, 1] += 1
    text = "(float[N,2000,H,W] x) => (float[N,2000,H,W] y)"
    conv = "Conv<group=2000, pads=[1,1,1,1]>"
    pair = window(text, f"a = {conv}(x, w) y = Add(a, x)", f"y = {conv}(x, w)",
                  old, {"w": wide.astype(np.float32)})  # fmt: skip
    assert prove_weights(pair) is not None


# --- Certificates ---------------------------------------------------------------------------------


def folded(dtype: Any = np.float32, name: str = "float", **changed: Array) -> Window:
    """Return a Conv with a BatchNormalization, and the Conv that it is."""
    old = {"k": normal(8, 4, 3, 3, dtype=dtype), **batch_norm(8, dtype=dtype)}
    scale, shift = affine_of(old)
    filters = old["k"].astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    new = {"k": filters.astype(dtype), "d": shift.astype(dtype), **changed}
    return window(
        f"({name}[N,4,H,W] x) => ({name}[N,8,h,w] y)",
        "c = Conv<pads=[1,1,1,1]>(x, k) y = BatchNormalization(c, s, b, m, v)",
        "y = Conv<pads=[1,1,1,1]>(x, k, d)",
        old,
        new,
    )


@pytest.mark.parametrize(
    ("dtype", "name", "rounding"),
    [
        (np.float64, "double", 2.0**-53),
        (np.float32, "float", 2.0**-24),
        (np.float16, "float16", 2.0**-11),
        (ml_dtypes.bfloat16, "bfloat16", 2.0**-8),
    ],
)
def test_a_fold_is_certified_at_all_sizes(dtype: Any, name: str, rounding: float) -> None:
    found = certify(folded(dtype, name))
    assert (found.verdict, found.kind) == ("certified", "weights")
    assert found.bound is not None
    assert found.bound <= 3 * rounding
    assert not found.shapes
    assert found.doubt is None


def test_what_is_the_same_bit_by_bit_is_constant() -> None:
    lines = "c = Conv(x, k) y = Add(c, g)"
    assert certify(window(MAP, lines, lines, CONSTANTS)).kind == "constant"


def test_a_fold_before_what_both_share() -> None:
    pair = folded()
    for model in pair.models:
        model.graph.node[-1].output[0] = "sum"
        relu = model.graph.node.add(op_type="Relu")
        relu.input.append("sum")
        relu.output.append("y")
    assert certify(Window(*pair.models)).kind == "weights"


@pytest.mark.parametrize("content", [np.nan, np.inf])
def test_a_number_that_is_none_is_not_certified(content: float) -> None:
    shift = np.zeros(8, np.float32)
    shift[3] = content
    assert prove_weights(folded(d=shift)) is None
    filters = normal(8, 4, 3, 3)
    filters[0, 0, 0, 0] = content
    assert prove_weights(folded(k=filters)) is None


def test_large_weights_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prove_weights(folded())
    monkeypatch.setattr("bnfold.proof.certificates.sums.linear_sums._BLOCK", 40)
    assert isinstance(whole, Certificate)
    assert prove_weights(folded()) == whole
    filters = normal(8, 4, 3, 3)
    assert math.prod(filters.shape) > 40
    filters[7, 3, 2, 2] += 1
    assert prove_weights(folded(k=filters)) is None
