"""Free sizes that what is beside an input demands: size 1 would run, and show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.proof.traits import Traits
from tests.support.graphs import Parameters, build, named_in, normal

WEIGHTS: Parameters = {
    "row": normal(6),
    "table": normal(6, 5),
    "kernel": normal(4, 3, 1, 1),
    "one": normal(1),
    "column": normal(5, 1),
}


def models(interface: str, *lines: str) -> list[onnx.ModelProto]:
    return [
        build(
            f"{interface} {{ {each} }}",
            **named_in(each, WEIGHTS),
        )
        for each in lines
    ]


@pytest.mark.parametrize(
    ("interface", "body", "sizes"),
    [
        ("(float[B,T,D] x) => (float[B,T,D] y)", "y = Mul(x, row)", {("x", 2): 6}),
        ("(float[B,T,D] x, bool[B,T,D] c) => (float[B,T,D] y)", "y = Where(c, row, x)",
         {("c", 2): 6, ("x", 2): 6}),
        ("(float[B,T,D] x) => (float[B,T,D] y)", "y = Max(x, x, row)", {("x", 2): 6}),
        ("(float[B,T,D] x) => (float[B,T,D] y)", "y = Add(x, one)", {}),
        ("(float[B,T,D] x) => (float[B,T,D] y)", "y = Sub(column, x)", {("x", 1): 5}),
        ("(float[B,T,6] x) => (float[B,T,D] y)", "y = Mul(x, row)", {}),
        ("(float[B,D] x) => (float[B,5] y)", "y = MatMul(x, table)", {("x", 1): 6}),
        ("(float[D,B] x) => (float[6,B] y)", "y = MatMul(table, x)", {("x", 0): 5}),
        ("(float[D] x) => (float y)", "y = MatMul(x, row)", {("x", 0): 6}),
        ("(float[B,D] x) => (float[B,5] y)", "y = Gemm(x, table)", {("x", 1): 6}),
        ("(float[B,D] x) => (float[B,6] y)", "y = Gemm<transB=1>(x, table)", {("x", 1): 5}),
        ("(float[D,B] x) => (float[B,5] y)", "y = Gemm<transA=1>(x, table)", {("x", 0): 6}),
        ("(float[D,B] x) => (float[6,B] y)", "y = Gemm(table, x)", {("x", 0): 5}),
        ("(float[B,D] x) => (float[6,B] y)", "y = Gemm<transB=1>(table, x)", {("x", 1): 5}),
        ("(float[D,B] x) => (float[5,B] y)", "y = Gemm<transA=1>(table, x)", {("x", 0): 6}),
        ("(float[B,C,9,9] x) => (float[B,4,9,9] y)", "y = Conv(x, kernel)", {("x", 1): 3}),
        ("(float[B,C,9,9] x) => (float[B,4,9,9] y)", "y = Conv<group=2>(x, kernel)",
         {("x", 1): 6}),
        ("(float[B,D] x, float[B,6] other) => (float[B,6] y)", "y = Add(x, other)", {("x", 1): 6}),
        ("(float[B,T,D] x) => (float[B,T,D] y)", "y = LayerNormalization(x, row)", {("x", 2): 6}),
    ],
)  # fmt: skip
def test_sizes_that_are_demanded(
    tmp_path: Path, interface: str, body: str, sizes: dict[tuple[str, int], int]
) -> None:
    (model,) = models(interface, body)
    onnx.save(model, tmp_path / "m.onnx")
    assert Traits.of(tmp_path / "m.onnx").hints.sizes == sizes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m = Mul(x, row) y = ReduceMean<axes=[1]>(m)",
         "m = Mul(x, row) y = ReduceMax<axes=[1]>(m)"),
        ("m = Mul(x, row) y = Softmax<axis=2>(m)", "m = Mul(x, row) y = Softmax<axis=1>(m)"),
        ("m = Mul(x, row) y = Transpose<perm=[0,2,1]>(m)", "y = Transpose<perm=[0,2,1]>(x)"),
    ],
)  # fmt: skip
def test_what_size_1_would_hide_is_found(one: str, other: str) -> None:
    pair = models("(float[B,T,D] x) => (float[a,b,c] y)", one, other)
    equivalence = bnfold.check(*pair).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert equivalence.inputs is not None
    assert {shapes["x"][2] for shapes in equivalence.inputs.shapes} == {6}


def test_axes_of_one_name_have_one_size() -> None:
    interface = "(float[B,D] x, float[D] z) => (float[B,D] y)"
    equivalence = bnfold.check(
        *models(interface, "m = Mul(x, row) y = Add(m, z)", "m = Mul(row, x) y = Sub(m, z)")
    ).equivalence
    assert equivalence is not None
    assert equivalence.inputs is not None
    assert {tuple(shapes["z"]) for shapes in equivalence.inputs.shapes} == {(6,)}


def test_a_demand_that_cannot_be_met_is_dropped() -> None:
    """Rows of two sizes can both be multiplied by one number alone."""
    body = "m = Mul(x, row) s = ReduceSum(m) k = Mul(x, column_) t = ReduceSum(k) y = Add(s, t)"
    model = build(
        f"(float[B,D] x) => (float[a,b] y) {{ {body} }}", row=normal(6), column_=normal(1, 4)
    )
    equivalence = bnfold.check(model, model).equivalence
    assert equivalence is not None
    assert equivalence.verdict in ("pass", "identical")


MASKED = (
    "f = Cast<to=1>(mask) u = Unsqueeze(f, axes) s = Sub(one_, u) b = Mul(s, {}) "
    "l = Add(x, b) y = Softmax(l)"
)


@pytest.mark.parametrize(("factor", "is_mask"), [("low", True), ("scale", False)])
def test_an_attention_mask_is_0_or_1(tmp_path: Path, factor: str, is_mask: bool) -> None:
    weights: Parameters = {
        "axes": np.array([1]),
        "one_": np.array(1, np.float32),
        factor: np.array(-1e4 if factor == "low" else 0.5, np.float32),
    }
    interface = "(float[B,T,T] x, int64[B,T] mask) => (float[B,T,T] y)"
    model = build(f"{interface} {{ {MASKED.format(factor)} }}", **weights)
    onnx.save(model, tmp_path / "m.onnx")
    assert (Traits.of(tmp_path / "m.onnx").hints.largest.get("mask") == 1) == is_mask
