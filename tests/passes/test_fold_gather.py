"""fold-gather: a permutation of channels is one of weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common
from tests.support.graphs import build, named_in, normal
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "fold-gather"

ORDER = [2, 0, 3, 1]
PICKS = {
    "gather": "g = Gather<axis=1>(x, order)",
    "gather from the end": "g = Gather<axis=-3>(x, order)",
    "slice": "g = Slice(x, last, before, axis, back)",
    "slice of all": "g = Slice(x, first, beyond, axis)",
}
SLICES: dict[str, Any] = {
    "last": np.array([-1]),
    "before": np.array([-(2**62)]),
    "first": np.array([0]),
    "beyond": np.array([2**62]),
    "axis": np.array([1]),
    "back": np.array([-1]),
}


def model_of(
    reader: str, pick: str = "gather", order: Any = ORDER, x: str = "N,4,7,6", **more: Any
) -> onnx.ModelProto:
    """Return a model of a pick of x to g, and a reader of it, with the constants they name."""
    text = f"{PICKS.get(pick, pick)} {reader}"
    known = SLICES | {"order": np.array(order)} | more
    weights = named_in(text, known)
    rank = x.count(",") + 1 - ("w" in more and np.ndim(more["w"]) == 1)
    sizes = ",".join(f"r{axis}" for axis in range(rank))
    return build(f"(float[{x}] x) => (float[{sizes}] y) {{ {text} }}", **weights)


def operator(line: str) -> str:
    """Return the operator of a line."""
    return line.partition(" = ")[2].partition("(")[0].partition("<")[0]


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize(
    ("reader", "shape"),
    [
        ("y = Conv(g, w)", (5, 4, 3, 2)),
        ("y = Conv<pads=[1,1,0,0], strides=[2,1]>(g, w, b)", (5, 4, 3, 2)),
        ("y = ConvTranspose(g, w)", (4, 5, 3, 2)),
    ],
)
def test_convolutions(pick: str, reader: str, shape: tuple[int, ...]) -> None:
    model = model_of(reader, pick, w=normal(*shape), b=normal(5, seed=1))
    assert_rewritten(model, NAME, [operator(reader)], certified=True)


@pytest.mark.parametrize(
    ("x", "axis", "reader", "shape"),
    [
        ("N,3,4", 2, "y = MatMul(g, w)", (4, 5)),
        ("N,3,4", -1, "y = MatMul(g, w)", (4,)),
        ("3,2,4", -1, "y = MatMul(g, w)", (3, 4, 5)),
        ("N,4", 1, "y = Gemm(g, w)", (4, 5)),
        ("N,4", -1, "y = Gemm<transB=1, alpha=0.5, beta=2.0>(g, w, b)", (5, 4)),
        ("4", 0, "y = MatMul(g, w)", (4, 5)),
    ],
)
def test_products(x: str, axis: int, reader: str, shape: tuple[int, ...]) -> None:
    pick = f"g = Gather<axis={axis}>(x, order)"
    model = model_of(reader, pick, x=x, w=normal(*shape), b=normal(5, seed=1))
    assert_rewritten(model, NAME, [operator(reader)])


@pytest.mark.parametrize(
    ("pick", "order"),
    [
        ("gather", [0, 1, 2, 2]),  # one channel twice
        ("gather", [0, 1, 2]),  # not all of them
        ("gather", [0, 1, 2, 3, 3]),
        ("gather", [-1, 3, 1, 0]),  # the same one from either end
        ("g = Gather<axis=2>(x, order)", [3, 2, 1, 0]),  # positions
        ("g = Slice(x, last, before, rows, back)", ORDER),
        ("g = Slice(x, two, twos, both, twos)", ORDER),
        ("i = Cast<to=7>(floats) g = Gather<axis=1>(x, i)", ORDER),
    ],
)
def test_what_is_no_permutation_of_channels(pick: str, order: list[int]) -> None:
    more: dict[str, Any] = {
        "rows": np.array([2]),
        "both": np.array([1, 2]),
        "two": np.array([-1, -1]),
        "twos": np.array([-9, -9]),
        "floats": np.array(ORDER[:2], np.float32),
    }
    if "twos" in pick:
        pick = pick.replace("both, twos", "both, backs")
        more["backs"] = np.array([-1, -1])
    channels = len(order) if pick in PICKS else 4
    channels = 2 if "floats" in pick else channels
    model = model_of("y = Conv(g, w)", pick, order, w=normal(5, channels, 1, 1), **more)
    assert not run_pass(model, NAME).record.rewrites


@pytest.mark.parametrize(
    ("reader", "shape", "x"),
    [
        ("y = Conv<group=2>(g, w)", (6, 2, 1, 1), "N,4,7,6"),
        ("y = Conv<group=4>(g, w)", (4, 1, 1, 1), "N,4,7,6"),
        ("y = Gemm<transA=1>(g, w)", (7, 5), "7,4"),
        ("y = Conv(v, g)", (1, 4, 7, 7), "5,4,3,3"),  # the weight is permuted
    ],
)
def test_readers_that_take_other_channels(reader: str, shape: tuple[int, ...], x: str) -> None:
    model = model_of(reader, x=x, w=normal(*shape), v=normal(*shape))
    assert not run_pass(model, NAME).record.rewrites


def test_indices_that_make_another_axis() -> None:
    pick = "g = Gather<axis=1>(x, order)"
    model = model_of("y = MatMul(g, w)", pick, [ORDER], x="N,4", w=normal(4, 5))
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = "r2"
    assert not run_pass(model, NAME).record.rewrites


def test_unknown_channels() -> None:
    model = model_of("y = Conv(g, w)", x="N,C,7,6", w=normal(5, 4, 1, 1))
    assert not run_pass(model, NAME).record.rewrites


def test_another_reader() -> None:
    model = model_of("c = Conv(g, w) p = GlobalMaxPool(g) y = Add(c, p)", w=normal(4, 4, 1, 1))
    assert_refused(model, NAME, Common.SHARED)


def test_weights_that_are_computed() -> None:
    model = model_of("w = Sigmoid(x) y = Conv(g, w)")
    assert_refused(model, NAME, Common.WEIGHT_NOT_CONSTANT)


def test_weights_that_a_caller_may_replace() -> None:
    model = model_of("y = Conv(g, w)", w=normal(5, 4, 1, 1))
    weight = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [5, 4, 1, 1])
    model.graph.input.append(weight)
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)


@settings(max_examples=30)
@given(st.data())
def test_random_permutations(data: st.DataObject) -> None:
    channels, rank = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    order = data.draw(st.permutations(range(channels)))
    from_end = data.draw(st.lists(st.booleans(), min_size=channels, max_size=channels))
    indices = [i - channels if end else i for i, end in zip(order, from_end, strict=True)]
    kernel = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    turned = data.draw(st.booleans())
    sizes = ",".join(f"S{axis}" for axis in range(rank))
    shape = (channels, 5) if turned else (5, channels)
    reader = "y = ConvTranspose(g, w)" if turned else "y = Conv(g, w)"
    model = model_of(reader, order=indices, x=f"N,{channels},{sizes}", w=normal(*shape, *kernel))
    free = {f"S{axis}": 5 for axis in range(rank)}
    assert_rewritten(model, NAME, [operator(reader)], sizes=free)
