"""What is added up after Casts that round is proven, if neither rounding nor range is worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.kinds import rounding_casts
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Array, Parameters, normal
from tests.support.windows import window

TYPES: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float": np.float32,
    "double": np.float64,
}
TO = {"float16": 10, "float": 1, "double": 11, "bfloat16": 16}
SCALE, SHIFT = np.array([0.75, -0.5, 0.25, 0.875]), np.array([0.5, -1.5, 2.0, 0.25])
ADD = "y = Add(d, e)"
HALF = 2.0**-11


def exact(wide: str, narrow: str) -> dict[str, Array]:
    """Return the weights of two products, and those that are right after a scale and a shift."""
    v, w, b = normal(3, 4), normal(3, 4, seed=1), normal(4, seed=2)
    old = {"v": v, "w": w, "b": b, "v2": v * SCALE, "w2": w * SCALE, "b2": b * SCALE + SHIFT}
    of_wide = {name: content.astype(TYPES[wide]) for name, content in old.items()}
    return of_wide | {"s": SCALE.astype(TYPES[narrow]), "t": SHIFT.astype(TYPES[narrow])}


def pair(
    wide: str = "float",
    narrow: str = "float16",
    changed: Mapping[str, Array] | None = None,
    *,
    after: str = ADD,
    before: str = "a = Add(d, e) n = Mul(a, s) y = Add(n, t)",
    result: str = "",
    rows: str = "2",
    **others: Array,
) -> Window:
    """Return a window of two products that are cast and added, and the same folded into both."""
    cast = f"Cast<to={TO[narrow]}>"
    products = f"c = Gemm(x, v, b) d = {cast}(c) f = MatMul(x, w) e = {cast}(f)"
    folded = f"c = Gemm(x, v2, b2) d = {cast}(c) f = MatMul(x, w2) e = {cast}(f)"
    weights = {**exact(wide, narrow), **others}
    return window(
        f"({wide}[{rows},3] x) => ({result or narrow}[r,m] {'z' if result == 'float' else 'y'})",
        f"{products} {before}",
        f"{folded} {after}",
        weights,
        {**weights, **(changed or {})},
    )


def moved(name: str, index: Any, by: float) -> dict[str, Array]:
    content = exact("float", "float16")[name].copy()
    content[index] = content[index] * (1 + by)
    return {name: content}


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [("float", "float16"), ("float", "bfloat16"), ("double", "float"), ("double", "float16")],
)
def test_sums_of_what_is_cast_are_proven(wide: str, narrow: str) -> None:
    each = pair(wide, narrow, rows="N")
    assert rounding_casts(each)
    found = certify(each)
    assert (found.verdict, found.kind) == ("certified", "linear"), found
    assert found.bound is not None
    assert found.bound < 1e-5
    assert found.doubt is not None
    assert found.doubt < 1e-6


AVERAGES = "ReduceMean<axes=[1]>", "ReduceSum", "AveragePool<kernel_shape=[2]>"


@pytest.mark.parametrize("operator", AVERAGES)
@pytest.mark.parametrize(
    ("scale", "proven"), [(0.5, True), (-1.0, True), (-1.01, False), (1.01, False)]
)
def test_averages_of_what_is_cast(operator: str, scale: float, proven: bool) -> None:
    """An average may be in range where what it is of is not."""
    weights: Parameters = {"k": normal(1), "s": np.array([scale], np.float16)}
    weights["k2"] = weights["k"] * weights["s"].astype(np.float32)
    found = certify(
        window(
            "(float[2,1,6] x) => (float16[2,1,m] y)",
            f"c = Mul(x, k) d = Cast<to=10>(c) a = {operator}(d) y = Mul(a, s)",
            f"c = Mul(x, k2) d = Cast<to=10>(c) y = {operator}(d)",
            weights,
        )
    )
    assert found.verdict == ("certified" if proven else "open"), found


WRONG: dict[str, Mapping[str, Array]] = {
    "a sign": moved("w2", np.s_[:, 1], -2.0),
    "the sign of a bias": moved("b2", 2, -2.0),
    "three units of a channel": moved("v2", np.s_[:, 2], 3 * HALF),
    "three units of a channel of both": {
        **moved("v2", np.s_[:, 2], 3 * HALF),
        **moved("w2", np.s_[:, 2], 3 * HALF),
        **moved("b2", 2, 3 * HALF),
    },
    "three units of a weight": moved("w2", (1, 3), 3 * HALF),
    "three units of a bias": moved("b2", 0, 3 * HALF),
    "another channel": {"v2": exact("float", "float16")["v2"][:, [1, 0, 2, 3]]},
    "the other product": {"v2": exact("float", "float16")["w2"]},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_sums_are_not_proven(case: str) -> None:
    found = certify(pair(changed=WRONG[case]))
    is_gross = "three" not in case
    assert found.verdict == ("differs" if is_gross else "open"), found


@pytest.mark.parametrize(("shift", "proven"), [(127.0, True), (129.0, False)])
def test_a_shift_takes_a_sum_out_of_range(shift: float, proven: bool) -> None:
    """By more than two steps of the largest float16, which are 64 each."""
    weights = exact("float", "float16")
    new = {"v2": weights["v"], "w2": weights["w"], "b2": weights["b"] + np.float32(shift)}
    right = pair(before="a = Add(d, e) y = Add(a, t)", changed=new, t=np.full(4, shift, np.float16))
    assert certify(right).verdict == ("certified" if proven else "open")


MAPPED = "a = Add(d, e) n = Mul(a, s) y = Add(n, t)"
WIDENED = "p = Cast<to=1>(d) q = Cast<to=1>(e)"
OTHERS = {
    "scaled": (MAPPED, "g = Mul(d, two) y = Add(g, e)", "float16"),
    "read twice": (MAPPED, "a = Add(d, d) y = Add(a, e)", "float16"),
    "another type": (f"{MAPPED} z = Cast<to=1>(y)", f"{WIDENED} z = Add(p, q)", "float"),
    "cast once more": (MAPPED, f"{WIDENED} a = Add(p, q) y = Cast<to=10>(a)", "float16"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_sums_round_otherwise(case: str) -> None:
    before, after, result = OTHERS[case]
    weights = exact("float", "float16")
    is_half = case in ("scaled", "read twice")
    new = {name: weights[name] / np.float32(2) for name in ("v2", "b2") if is_half}
    two = np.array(2, np.float16)
    found = certify(pair(before=before, after=after, result=result, changed=new, two=two))
    assert (found.verdict, found.note) == ("open", "it rounds to float16 within")


def test_a_cubic_resize_is_no_average() -> None:
    weights: Parameters = {"k": normal(1), "s": np.array([0.5], np.float16)}
    weights |= {"k2": weights["k"] / np.float32(2), "r": np.array([1, 1, 1, 2], np.float32)}
    for mode, proven in (("nearest", True), ("linear", True), ("cubic", False)):
        resize = f'Resize<mode="{mode}">'
        found = certify(
            window(
                "(float[1,1,4,4] x) => (float16[1,1,4,m] y)",
                f"c = Mul(x, k) d = Cast<to=10>(c) a = {resize}(d, , r) y = Mul(a, s)",
                f"c = Mul(x, k2) d = Cast<to=10>(c) y = {resize}(d, , r)",
                weights,
            )
        )
        assert found.verdict == ("certified" if proven else "open"), mode
