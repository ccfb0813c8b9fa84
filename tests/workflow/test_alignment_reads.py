"""Both sides of a window read the same values: what one computes of them, the other does, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.alignment import certified
from tests.support.graphs import Parameters, build, normal

INTERFACE = "(float[n,5,4] x) => (float[n,4,5] y, float[n,4,5] z)"
HEAD = "l = Exp(x) t = Transpose<perm=[0,2,1]>(l) z = Neg(t) m = MatMul(l, w)"
WEIGHTS: Parameters = {"w": normal(4, 4), "two": np.array(2, np.float32)}


def pair(before: str, after: str) -> list[onnx.ModelProto]:
    """Return two models that compute what is added to a value in two layouts of it."""
    models = []
    for tail in (before, after):
        text = f"{HEAD} {tail}"
        read = {name: array for name, array in WEIGHTS.items() if f" {name})" in text}
        models.append(build(f"{INTERFACE} {{ {text} }}", **read))
    return models


TRANSPOSED = "u = Transpose<perm=[0,2,1]>(m) y = Add(t, u)"
REPEATED = "u = Transpose<perm=[0,2,1]>(m) a = Add(t, u) n = Mul(a, two) s = Neg(a) y = Add(n, s)"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (TRANSPOSED, "b = Add(l, m) y = Transpose<perm=[0,2,1]>(b)"),
        (TRANSPOSED, "b = Add(m, l) y = Transpose<perm=[0,2,1]>(b)"),
        (REPEATED, "b = Add(l, m) n = Mul(b, two) s = Neg(b) c = Add(n, s) "
         "y = Transpose<perm=[0,2,1]>(c)"),
    ],
)  # fmt: skip
def test_a_value_and_its_transpose_are_no_two_inputs(
    before: str, after: str, tmp_path: Path
) -> None:
    """In both directions."""
    one, other = pair(before, after)
    assert not certified(one, other, tmp_path).open
    assert not certified(other, one, tmp_path).open


@pytest.mark.parametrize(
    "after",
    [
        "b = Sub(l, m) y = Transpose<perm=[0,2,1]>(b)",
        "b = Add(l, l) y = Transpose<perm=[0,2,1]>(b)",
        "b = Add(l, m) s = Neg(b) y = Transpose<perm=[0,2,1]>(s)",
    ],
)
def test_what_is_wrong_in_another_layout_is_not_certified(after: str, tmp_path: Path) -> None:
    one, other = pair(TRANSPOSED, after)
    found = certified(one, other, tmp_path)
    assert [window.output for window in found.open] == ["y"]
    assert found.open[0].differs


def test_parts_of_which_one_is_read_stay_apart(tmp_path: Path) -> None:
    """Of a Split that is taken in, another part may be read as it is."""
    interface = "(float[n,4,6] x) => (float[n,3,4] y, float[n,4,3] z)"
    head = "l = Exp(x) a, b = Split<axis=2>(l) z = Neg(b)"
    one = f"{head} t = Transpose<perm=[0,2,1]>(a) u = Transpose<perm=[0,2,1]>(b) y = Add(t, u)"
    other = f"{head} c = Add(a, b) y = Transpose<perm=[0,2,1]>(c)"
    models = [build(f"{interface} {{ {lines} }}") for lines in (one, other)]
    assert not certified(models[0], models[1], tmp_path).open
    wrong = build(f"{interface} {{ {other.replace('(a, b)', '(a, a)')} }}")
    assert certified(models[0], wrong, tmp_path).open


RESIDUAL = "(float[n,6,5,4] x) => (float[n,6,5,4] y)"
"""Blocks that compute in NHWC what is added in NCHW: x, and as often as it is long, f of it."""


def chain(layout: str, blocks: int, operator: str = "Add", back: str = "0,3,1,2") -> str:
    """Return residual blocks whose sum is kept in a layout; the last operator may be another."""
    lines = ["a0 = Neg(x)"]
    if layout == "nhwc":
        lines.append("s0 = Transpose<perm=[0,2,3,1]>(a0)")
    for block in range(blocks):
        last = operator if block == blocks - 1 else "Add"
        read, made, mark = f"a{block}", f"a{block + 1}", f"<perm=[{back}]>"
        if layout == "nchw":
            lines += [
                f"h{block} = Transpose<perm=[0,2,3,1]>({read})",
                f"m{block} = MatMul(h{block}, w)",
            ]
            lines += [f"u{block} = Transpose{mark}(m{block})", f"{made} = {last}({read}, u{block})"]
        else:
            lines += [f"e{block} = Identity(s{block})", f"m{block} = MatMul(e{block}, w)"]
            lines += [f"s{block + 1} = {last}(s{block}, m{block})"]
            lines += [f"{made} = Transpose{mark}(s{block + 1})", f"z{block} = Exp({made})"]
    return " ".join([*lines, f"y = Relu(a{blocks})"])


def chains(one: str, other: str) -> list[onnx.ModelProto]:
    weights: Parameters = {"w": normal(6, 6)}
    return [build(f"{RESIDUAL} {{ {text} }}", **weights) for text in (one, other)]


@pytest.mark.parametrize("blocks", [1, 3, 12])
def test_a_chain_of_sums_in_another_layout_is_certified_one_by_one(
    blocks: int, tmp_path: Path
) -> None:
    """A sum that one side has in one layout, and the other in another, is read as its transpose."""
    one, other = chains(chain("nchw", blocks), chain("nhwc", blocks))
    for pair_ in ((one, other), (other, one)):
        found = certified(*pair_, tmp_path)
        assert not found.open
        assert found.values >= blocks


@pytest.mark.parametrize("wrong", [{"operator": "Sub"}, {"back": "0,3,2,1"}])
def test_what_is_wrong_after_a_sum_in_another_layout_is_not_certified(
    wrong: dict[str, str], tmp_path: Path
) -> None:
    square = RESIDUAL.replace("5,4]", "4,4]")
    weights: Parameters = {"w": normal(6, 6)}
    one, other = (
        build(f"{square} {{ {text} }}", **weights)
        for text in (chain("nchw", 3), chain("nhwc", 3, **wrong))
    )
    for pair_ in ((one, other), (other, one)):
        found = certified(*pair_, tmp_path)
        assert [window.output for window in found.open] == ["y"]


def test_sizes_that_one_side_alone_knows_hold_on_both(tmp_path: Path) -> None:
    """An exporter computes them, an optimizer writes them down."""
    bounds: Parameters = {"nought": np.array([0]), "one": np.array([1]), "rest": np.array([3, 2])}
    outputs = "float[48] z) => (float[a,b] e, float[a,b,c] y)"
    one = build(
        f"(float[N,6] x, {outputs} {{ e = Exp(x) s = Shape(e) q = Slice(s, nought, one) "
        "c = Concat<axis=0>(q, rest) r = Reshape(z, c) y = Neg(r) }",
        **bounds,
    )
    text = f"(float[8,6] x, {outputs} {{ e = Exp(x) r = Reshape(z, known) y = Neg(r) }}"
    assert not certified(one, build(text, known=np.array([8, 3, 2])), tmp_path).open
    assert certified(one, build(text, known=np.array([4, 6, 2])), tmp_path).open
