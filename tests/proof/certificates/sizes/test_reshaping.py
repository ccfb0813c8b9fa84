"""Free sizes are chosen such that Reshapes to known sizes can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.sizes.reshaping import fitting
from bnfold.proof.certificates.sizes.sizing import Sizing, sizings
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate
from tests.support.windows import window

Shape: TypeAlias = tuple[int, ...]


def pair(interface: str, before: str, after: str, **constants: Any) -> Window:
    arrays = {name: np.array(content) for name, content in constants.items()}
    found = window(interface, before, after, arrays)
    return Window(*map(onnx.shape_inference.infer_shapes, found.models))


FLATTENED = {
    "a product": ("float[N,L,6] x", "", [-1, 120], [-1, 4, 5, 6]),
    "one of two": ("float[N,L,M] x", "", [-1, 576], [-1, 9, 8, 8]),
    "behind a Transpose": ("float[N,L,6] x", "m = Transpose<perm=[0,2,1]>(x)", [-1, 120],
                           [-1, 6, 4, 5]),
    "of the second alone": ("float[N,L,6] x", "", [-1, 7, 6], [-1, 11, 7, 6]),
}  # fmt: skip
"""The input, what comes before two Reshapes, and their targets: elements must be multiples."""


@pytest.mark.parametrize("case", list(FLATTENED))
def test_a_size_may_have_to_be_a_multiple(case: str) -> None:
    given, moved, first, last = FLATTENED[case]
    of = "m" if moved else "x"

    def of_target(target: list[int]) -> Certificate:
        return certify(
            pair(
                f"({given}) => (float[A,B,C,D] y)",
                f"{moved} t = Reshape({of}, a) y = Reshape(t, b)",
                f"{moved} y = Reshape({of}, c)",
                a=first,
                b=last,
                c=target,
            )
        )

    found = of_target(last)
    assert (found.verdict, found.kind) == ("certified", "copying")
    assert of_target([last[0], *last[:0:-1]]).verdict == "differs"


OF_SIZES = (
    "s = Shape(z) n = Gather(s, zero) u = Unsqueeze(n, zero) t = Concat<axis=0>(u, rest) "
    "y = Reshape(x, t)"
)


@pytest.mark.parametrize("more", ["", ", float[N,2] z"])
def test_a_size_may_be_the_product_of_others(more: str) -> None:
    lines = OF_SIZES if more else OF_SIZES.replace("Shape(z)", "Shape(x)")
    constants = {"zero": 0, "rest": [4, 5, 6]}
    lines = lines.replace("Unsqueeze(n, zero)", "Reshape(n, single)")
    found = pair(
        f"(float[N,L,6] x{more}) => (float[A,B,C,D] y)",
        lines,
        "y = Reshape(x, c)",
        **constants,
        single=[1],
        c=[-1, 4, 5, 6],
    )
    assert certify(found).verdict == "certified"


@pytest.mark.parametrize("last", [24, 12])
def test_a_target_may_copy_sizes(last: int) -> None:
    """Of N rows of h parts each, where only two parts have as many elements as are asked for."""
    found = pair(
        "(float[N,h,1,12] x) => (float[A,B,C] y)",
        "t = Transpose<perm=[0,2,1,3]>(x) y = Reshape(t, a)",
        "y = Reshape(x, b)",
        a=[0, 1, 24],
        b=[0, 24 // last, last],
    )
    assert certify(found).verdict == ("certified" if last == 24 else "differs")


@pytest.mark.parametrize("error", [0, 1])
def test_elementwise_operators_may_come_before(error: int) -> None:
    w = np.arange(60, dtype=np.float32).reshape(20, 3) + 1
    found = pair(
        "(float[5,T,4] x) => (float[A,B] y)",
        "m = Mul(x, k) t = Reshape(m, a) y = MatMul(t, w)",
        "t = Reshape(x, a) y = MatMul(t, v)",
        k=np.array([2], np.float32),
        a=[1, 20],
        w=w,
        v=w * np.float32(2 + error),
    )
    assert certify(found).verdict == ("differs" if error else "certified")


def test_what_runs_or_cannot_run_at_all_stays() -> None:
    runs = pair("(float[N,L,6] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                a=[-1, 6])  # fmt: skip
    assert [fitting(runs, each) for each in sizings(runs)] == [None] * len(sizings(runs))
    never = pair("(float[4,3] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                 a=[7, 2])  # fmt: skip
    assert [fitting(never, each) for each in sizings(never)] == [None] * len(sizings(never))
    huge = pair("(float[N,3] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                a=[2**20, 2**20])  # fmt: skip
    assert [fitting(huge, each) for each in sizings(huge)] == [None] * len(sizings(huge))


def chosen(interface: str, body: str, **constants: Any) -> list[tuple[int, ...] | None]:
    """Return the shape of x at each choice of sizes, or None if it stays."""
    found = pair(f"({interface}) => (float[A,B] y)", body, body, **constants)
    fits = [fitting(found, sizing) for sizing in sizings(found)]
    return [None if fit is None else fit.shapes["x"] for fit in fits]


@pytest.mark.parametrize(
    ("target", "fits"),
    [
        ([-1, 35], lambda x: x[0] * x[1] % 7 == 0),
        ([14, 10], lambda x: x[0] * x[1] == 28),
        ([-1, 11], lambda x: x[0] * x[1] % 11 == 0),
    ],
)
@pytest.mark.parametrize("fixed", ["5", "1,5", "5,1"])
def test_known_sizes_stay(fixed: str, target: list[int], fits: Callable[[Shape], bool]) -> None:
    sizes = tuple(map(int, fixed.split(",")))
    for shape in chosen(f"float[N,M,{fixed}] x", "y = Reshape(x, a)", a=target):
        assert shape is None or (shape[2:] == sizes and fits(shape))
    for shape in chosen(f"float[N,{fixed},M] x", "y = Reshape(x, a)", a=target):
        assert shape is None or (shape[1:-1] == sizes and fits((shape[0], shape[-1])))


def test_sizes_without_a_name_are_apart() -> None:
    found = pair("(float[N,M,6] x) => (float[A,B] y)", "y = Reshape(x, a)", "y = Reshape(x, a)",
                 a=[9, 10])  # fmt: skip
    for model in found.models:
        for size in model.graph.input[0].type.tensor_type.shape.dim[:2]:
            size.ClearField("dim_param")
    fit = fitting(found, Sizing({"x": (2, 5, 6)}, False, False, False))
    assert fit is not None
    assert fit.shapes["x"] == (3, 5, 6)


@pytest.mark.parametrize(
    ("asked", "size"), [(35, 7), (50, 10), (70, 14), (11, 11), (20, 4), (36, 12)]
)
def test_the_smallest_multiple_is_chosen(asked: int, size: int) -> None:
    found = chosen("float[3,M,5] x", "y = Reshape(x, a)", a=[-1, asked])
    assert {*found} - {None} == {(3, size, 5)}


@pytest.mark.parametrize(
    "body",
    [
        "t = Concat<axis=2>(x, x) y = Reshape(t, a)",  # not as many elements as the input
        "y = Reshape(x, b)",  # whose 0 stands for a size of the input
        "y = Reshape(x, c)",  # to what is computed
    ],
)
def test_what_it_cannot_count_stays(body: str) -> None:
    found = chosen("float[N,M,5] x, int64[2] c", body, a=[-1, 77], b=[0, 0, -1])
    assert found == [None] * len(found)
