"""Rows in which the tables of two models differ are looked up, whatever their position comes of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnfold
from tests.support.checks import verdict
from tests.support.graphs import Array, Parameters, build, named_in, normal

ROWS, ROW = 3000, 1234
TABLE = normal(ROWS, 4)
SIZES = "s = Shape<start=1, end=2>(x) "
COUNT = f"{SIZES} q = Squeeze(s) r = Range(nought, q, one) "
NUMBERS: Parameters = {
    "nought": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "low": np.array(1000),
    "high": np.array(ROWS),
    "zeros": np.array([0]),
    "ones": np.array([1]),
    "depth": np.array(ROWS),
    "values": np.array([0, 1], np.float32),
    "scale": np.array(0.5, np.float32),
    "none": np.array(0, np.int8),
}
IDS = "(int64[N,5] i, float[N,T,4] x) => (float[a,b,c] y)"


def verdict_on_tables(interface: str, body: str, one: Array, other: Array) -> str:
    read = named_in(body, NUMBERS)
    pair = [build(f"{interface} {{ {body} }}", table=table, **read) for table in (one, other)]
    return verdict(*pair)


def changed(table: Array, *rows: int) -> Array:
    result = table.copy()
    for row in rows:
        result[row] += 1
    return result


LOOKED_UP = [
    "y = Gather(table, i)",
    "p = Add(i, two) y = Gather(table, p)",
    "p = Sub(i, two) q = Add(p, one) y = Gather(table, q)",
    "p = Sub(i, low) l = Less(p, nought) g = GreaterOrEqual(i, high) o = Or(l, g) "
    "w = Where(o, nought, p) y = Gather(table, w)",
    "p = Add(i, two) c = Min(p, high_) y = Gather(table, c)",
    "u = Unsqueeze(i, two_) y = GatherND(table, u)",
    "h = OneHot(i, depth, values) y = MatMul(h, table)",
]
NUMBERS |= {"high_": np.array(ROWS - 1), "two_": np.array([2])}


@pytest.mark.parametrize("body", LOOKED_UP)
def test_a_row_is_found_by_the_position_that_reaches_it(body: str) -> None:
    assert verdict_on_tables(IDS, body, TABLE, changed(TABLE, ROW)) == "fail"
    assert verdict_on_tables(IDS, body, TABLE, TABLE) in ("pass", "identical")


def test_a_row_of_a_quantized_table_is_found() -> None:
    table = (TABLE * 20).astype(np.int8)
    body = "t = DequantizeLinear(table, scale, none) y = Gather(t, i)"
    assert verdict_on_tables(IDS, body, table, changed(table, ROW)) == "fail"


CUT_OFF = [
    f"{SIZES} t = Slice(table, zeros, s, zeros) y = Add(x, t)",
    f"{COUNT} t = Gather(table, r) y = Add(x, t)",
    f"{COUNT} p = Add(r, two) t = Gather(table, p) y = Add(x, t)",
    f"{COUNT} u = Unsqueeze(r, zeros) t = Gather(table, u) y = Add(x, t)",
]


@pytest.mark.parametrize("body", CUT_OFF)
@pytest.mark.parametrize("rows", [300, 1024])
def test_a_table_of_positions_is_read_as_far_as_it_differs(body: str, rows: int) -> None:
    table = TABLE[:rows]
    assert verdict_on_tables(IDS, body, table, changed(table, rows - 1)) == "fail"
    assert verdict_on_tables(IDS, body, table, table) in ("pass", "identical")


def test_a_table_that_is_cut_off_along_both_axes_is_read_as_far_as_it_differs() -> None:
    """As a causal mask: what differs lies beyond the place of its row."""
    mask = np.tril(np.ones((900, 900), np.float32))
    other = mask.copy()
    other[600, 700] = 5
    body = (
        f"{SIZES} p = Slice(table, zeros, s, zeros) q = Slice(p, zeros, s, ones) "
        "m = MatMul(x_, q) y = MatMul(m, x)"
    )
    interface = "(float[N,T,4] x, float[N,1,T] x_) => (float[a,b,c] y)"
    assert verdict_on_tables(interface, body, mask, other) == "fail"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("h = Div(i, hour) d = Mod(h, day)", "h = Div(i, hour) d = Mod(h, half)"),
        ("h = Div(i, hour) d = Mod(h, day)", "h = Div(i, minute) d = Mod(h, day)"),
        ("h = Div(i, bit) d = Mod(h, two)", "h = Div(i, bit) d = Mod(i, two)"),
    ],
)
def test_what_a_time_is_computed_of_goes_through_a_day(one: str, other: str) -> None:
    weights: Parameters = {
        "hour": np.array(3600),
        "minute": np.array(60),
        "day": np.array(24),
        "half": np.array(12),
        "bit": np.array(256),
        "two": np.array(2),
        "table": normal(24, 4),
    }
    pair: list[onnx.ModelProto] = []
    for text in (one, other):
        body = f"{text} y = Gather(table, d)"
        read = named_in(body, weights)
        pair.append(build(f"(int64[N] i) => (float[N,4] y) {{ {body} }}", **read))
    equivalence = bnfold.check(*pair).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("k = Mul(mode, thousand) b = Equal(k, target)", "k = Mul(mode, thousand) b = Less(k, no)"),
        ("k = Add(mode, thousand) b = Equal(k, target)", "k = Add(mode, thousand) b = Less(k, no)"),
        ("h = Div(mode, bit) d = Mod(h, two) b = Cast<to=9>(d)", "b = Less(mode, no)"),
    ],
)  # fmt: skip
def test_a_mode_takes_the_number_that_it_is_compared_with_after_arithmetic(
    one: str, other: str
) -> None:
    weights: Parameters = {
        "thousand": np.array(1000),
        "target": np.array(7000),
        "no": np.array(-(2**40)),
        "bit": np.array(256),
        "two": np.array(2),
    }
    pair = []
    for text in (one, other):
        body = f"{text} n = Neg(x) y = Where(b, n, x)"
        read = named_in(body, weights)
        pair.append(build(f"(float[N,4] x, int64 mode) => (float[N,4] y) {{ {body} }}", **read))
    equivalence = bnfold.check(*pair).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
