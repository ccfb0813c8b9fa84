"""Integer inputs: all that a model may look up with them is looked up, however it is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.modelfile.loading import load
from bnfold.options import InputOptions
from bnfold.proof.hints.differing_rows import differing_rows
from bnfold.proof.traits import Traits
from bnfold.running.drawn_integers import _within_columns
from bnfold.running.hints import Hints
from bnfold.running.input_search import make_inputs
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import Level, Session, ValueSpec
from tests.support.checks import verdict
from tests.support.graphs import Array, Parameters, build, normal

ROWS = 50
NUMBERS: Parameters = {
    "zero": np.array(0),
    "one": np.array(1),
    "three": np.array(3),
    "ignored": np.array(-100),
    "rows": np.array(ROWS),
    "nine": np.array(9),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "i2": np.array([2]),
    "i9": np.array([9]),
    "off_on": np.array([0, 1], np.float32),
    "small": normal(3, 4, seed=1),
    "ones": np.ones((7, 9), np.float32),
}
IDS = "(int64[N,M] i) => (float[N,M,4] y)"
PAIRS = "(int64[N,2] i) => (float[N,4] y)"


def wrong(table: Array, share: float = 0.1) -> Array:
    """Return a table with all but some of its first rows, and the last, three times as large."""
    changed, first = table.copy(), max(1, int(len(table) * share))
    changed[first : len(table) - 1] *= 3
    return changed


def verdict_of_samples(one: onnx.ModelProto, other: onnx.ModelProto) -> str:
    return verdict(one, other, certify="off", providers="cpu")


@pytest.mark.parametrize(
    ("interface", "lines"),
    [
        (IDS, "c = Less(i, zero) j = Where(c, zero, i) y = Gather(t, j)"),
        (IDS, "c = GreaterOrEqual(i, zero) j = Where(c, i, zero) y = Gather(t, j)"),
        (IDS, "c = Equal(i, ignored) j = Where(c, zero, i) y = Gather(t, j)"),
        (IDS, "c = Equal(i, one) j = Where(c, three, i) y = Gather(t, j)"),
        (IDS, "c = GreaterOrEqual(i, rows) j = Where(c, three, i) y = Gather(t, j)"),
        (IDS, "c = Greater(i, zero) k = Cast<to=7>(c) j = Mul(i, k) y = Gather(t, j)"),
        ("(int64[N,M] i, bool[N,M] m) => (float[N,M,4] y)",
         "j = Where(m, three, i) y = Gather(t, j)"),
        ("(int32[N,M] i) => (float[N,M,4] y)", "f = Cast<to=1>(i) g = Relu(f) j = Cast<to=7>(g) "
         "y = Gather(t, j)"),
        (IDS, "j = Mod(i, rows) y = Gather(t, j)"),
        (IDS, "j = Sub(i, one) k = Add(j, one) y = Gather(t, k)"),
        (PAIRS, "a = Gather<axis=1>(i, zero) b = Gather<axis=1>(i, one) c = Gather(small, a) "
         "d = Gather(t, b) y = Add(c, d)"),
        (PAIRS, "a, b = Split<axis=1>(i) c = Gather(small, a) d = Gather(t, b) e = Add(c, d) "
         "y = Squeeze(e, i1)"),
        (PAIRS, "a = Slice(i, i1, i2, i1) b = Slice(i, i0, i1, i1) c = Gather(t, a) "
         "d = Gather(small, b) e = Add(c, d) y = Squeeze(e, i1)"),
        ("(int64[N,2] i) => (float[N] y)", "y = GatherND(t, i)"),
        ("(int64[N] i, float[N,50] x) => (float y)", "w = ReduceSum(t, i1) v = Squeeze(w, i1) "
         'y = NegativeLogLikelihoodLoss<reduction="sum">(x, i, v)'),
        ("(int64[N] i) => (float[N,4] y)", "o = OneHot(i, rows, off_on) y = MatMul(o, t)"),
        ("(int64[N,1] a, int64[N,1] i) => (float[N,1,4] y)", "k = Mul(a, nine) j = Add(k, i) "
         "y = Gather(t, j)"),
    ],
)  # fmt: skip
def test_all_of_a_table_is_looked_up(interface: str, lines: str) -> None:
    table = normal(ROWS, 4)
    one, other = (
        build(f"{interface} {{ {lines} }}", **NUMBERS, t=each) for each in (table, wrong(table))
    )
    assert verdict_of_samples(one, other) == "fail"
    assert verdict_of_samples(one, one) in ("pass", "identical")


def test_tuples_of_positions_go_as_far_as_each_axis() -> None:
    """Of free sizes, too."""
    interface = "(float[N,9] x, int64[M,2] i) => (float[M] y)"
    scale = np.ones(9, np.float32)
    scale[7] = 1.5
    one = build(f"{interface} {{ y = GatherND(x, i) }}")
    other = build(f"{interface} {{ k = Mul(x, s) y = GatherND(k, i) }}", s=scale)
    assert verdict_of_samples(one, other) == "fail"
    same = build(f"{interface} {{ k = Identity(x) y = GatherND(k, i) }}")
    assert verdict_of_samples(one, same) == "pass"


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_all_that_may_be_written_to_is(reduction: str) -> None:
    interface = "(float[N,9] x, int64[N,3] i, float[N,3] u) => (float[N,9] y)"
    line = f'ScatterElements<axis=1, reduction="{reduction}">(x, i, u)'
    scale = np.ones(9, np.float32)
    scale[3:8] = 3
    one = build(f"{interface} {{ y = {line} }}", opset=18)
    other = build(f"{interface} {{ z = {line} y = Mul(z, s) }}", opset=18, s=scale)
    assert verdict_of_samples(one, other) == "fail"


def test_labels_that_are_ignored_are_among_them() -> None:
    interface = "(float[N,5] x, int64[N] i) => (float[N] y)"
    loss = 'SoftmaxCrossEntropyLoss<reduction="none"{}>(x, i)'
    one, other = (
        build(f"{interface} {{ y = {loss.format(end)} }}")
        for end in (", ignore_index=2", ", ignore_index=3")
    )
    assert verdict_of_samples(one, other) == "fail"
    assert verdict_of_samples(one, one) in ("pass", "identical")


def drawn(model: onnx.ModelProto, tmp_path: Path, samples: int = 3) -> list[Array]:
    """Return what is drawn for the input i."""
    onnx.save(model, tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", "cpu", Level.DISABLED)
    found = make_inputs(
        session, InputOptions(samples=samples), Traits.of(tmp_path / "m.onnx").hints
    )
    return [np.asarray(feeds["i"]) for feeds in found.feeds()]


@pytest.mark.parametrize("rows", [3, 7, 11, 64, 98, 300])
def test_the_end_of_a_table_is_found_by_trying(rows: int, tmp_path: Path) -> None:
    """Positions are computed, so that the table says only how far they may go."""
    lines = "j = Add(i, three) k = Sub(j, three) y = Gather(t, k)"
    model = build(f"{IDS} {{ {lines} }}", three=np.array(3), t=normal(rows, 4))
    assert max(int(each.max()) for each in drawn(model, tmp_path)) == rows - 1
    lines = "j = Add(i, three) y = Gather(t, j)"
    model = build(f"{IDS} {{ {lines} }}", three=np.array(1), t=normal(rows, 4))
    assert max(int(each.max()) for each in drawn(model, tmp_path)) == rows - 2


def test_a_large_table_is_looked_up_to_its_end(tmp_path: Path) -> None:
    lines = "c = Less(i, zero) j = Where(c, zero, i) y = Gather(t, j)"
    model = build(f"{IDS} {{ {lines} }}", **NUMBERS, t=normal(300, 4))
    assert max(int(each.max()) for each in drawn(model, tmp_path)) == 299
    model = build(f"(int64[1] i) => (float[1,4] y) {{ {lines} }}", **NUMBERS, t=normal(300, 4))
    samples = drawn(model, tmp_path, samples=12)
    assert len({int(each[0]) for each in samples} - {-1, 0, 1}) > 3
    lines = "j = Sub(i, zero) y = Gather(t, j)"
    model = build(f"(int64[1] i) => (float[1,4] y) {{ {lines} }}", **NUMBERS, t=normal(300, 4))
    assert int(drawn(model, tmp_path)[0][0]) == 299


def test_no_size_is_chosen_because_few_numbers_happen_to_fit(tmp_path: Path) -> None:
    lines = "j = Where(m, three, i) y = Gather(t, j)"
    interface = "(int64[N,M] i, bool[N,M] m) => (float[N,M,4] y)"
    model = build(f"{interface} {{ {lines} }}", **NUMBERS, t=normal(ROWS, 4))
    assert max(each.size for each in drawn(model, tmp_path)) > 20


def test_a_type_may_hold_less_than_a_table_has(tmp_path: Path) -> None:
    lines = "c = Cast<to=7>(i) j = Add(c, zero) y = Gather(t, j)"
    model = build(
        f"(uint8[N,300] i) => (float[N,300,4] y) {{ {lines} }}", **NUMBERS, t=normal(300, 4)
    )
    assert max(int(each.max()) for each in drawn(model, tmp_path)) == 255
    lines = "o = Equal(i, full) y = Cast<to=1>(o)"
    model = build(f"(uint8[N,9] i) => (float[N,9] y) {{ {lines} }}", full=np.array(255, np.uint8))
    found = np.concatenate([each.reshape(-1) for each in drawn(model, tmp_path)])
    assert {254, 255} <= set(found.tolist())


def test_what_is_guarded_and_moved_is_searched_from_zero_on(tmp_path: Path) -> None:
    lines = "c = Equal(i, ignored) j = Where(c, zero, i) k = Add(j, one) y = Gather(t, k)"
    model = build(f"{IDS} {{ {lines} }}", **NUMBERS, t=normal(ROWS, 4))
    samples = drawn(model, tmp_path)
    assert min(int(each.min()) for each in samples) == -100
    assert max(int(each.max()) for each in samples) == ROWS - 2


def test_numbers_that_are_given_are_kept() -> None:
    """Though others beside them are searched: a wrong table passes on these."""
    interface = "(int64[1,3] i, int64[N,M] k) => (float[1,3,4] y, float[N,M,4] z)"
    lines = (
        "c = Less(i, zero) j = Where(c, zero, i) y = Gather(t, j) "
        "d = Less(k, zero) e = Where(d, zero, k) z = Gather(small, e)"
    )
    one, other = (
        build(f"{interface} {{ {lines} }}", **NUMBERS, t=table)
        for table in (normal(ROWS, 4), wrong(normal(ROWS, 4)))
    )
    given = {"i": np.array([[1, 2, -7]])}
    equivalence = bnfold.check(one, other, inputs=given, certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == "pass"


@pytest.mark.parametrize(
    ("interface", "line", "most"),
    [
        ("(int64[N,6] i) => (float[N,6,9] y)", "y = OneHot(i, nine, off_on)", 8),
        ("(float[N,5,6] x, int64[N,6] i) => (float[N,6] y)",
         'y = NegativeLogLikelihoodLoss<reduction="none">(x, i)', 4),
        ("(float[N,9] x, int64[N,6] i, float[N,6] u) => (float[N,9] y)",
         "y = ScatterElements<axis=1>(x, i, u)", 8),
    ],
)  # fmt: skip
def test_classes_and_positions_are_never_negative(
    interface: str, line: str, most: int, tmp_path: Path
) -> None:
    samples = drawn(build(f"{interface} {{ {line} }}", **NUMBERS), tmp_path)
    assert min(int(each.min()) for each in samples) == 0
    assert max(int(each.max()) for each in samples) == most


def test_a_label_that_is_no_class_is_drawn_where_it_is_ignored(tmp_path: Path) -> None:
    interface = "(float[N,5,6] x, int64[N,6] i) => (float[N,6] y)"
    line = 'NegativeLogLikelihoodLoss<reduction="none", ignore_index=255>(x, i)'
    samples = drawn(build(f"{interface} {{ y = {line} }}"), tmp_path)
    found = set(np.concatenate([each.reshape(-1) for each in samples]).tolist())
    assert found == {0, 1, 2, 3, 4, 255}


def test_columns_whose_limits_are_not_accepted_are_searched(tmp_path: Path) -> None:
    """How many rows there are is not known."""
    interface = "(float[N,K] x, int64[M,2] i) => (float[M] y)"
    lines = "r = Reshape(x, rows) y = GatherND(r, i)"
    model = build(f"{interface} {{ {lines} }}", rows=np.array([-1, 9]))
    for content in drawn(model, tmp_path):
        assert content.max() >= 1


def test_within_columns() -> None:
    whole = np.arange(24).reshape(2, 4, 3)
    found = _within_columns(whole, 1, [2, None, 0, 23])
    assert np.array_equal(found[:, 0], [[2, 1, 2], [0, 1, 2]])
    assert np.array_equal(found[:, 1], whole[:, 1])
    assert not found[:, 2].any()
    assert np.array_equal(found[:, 3], [[23, 10, 11], [21, 22, 23]])
    assert np.array_equal(_within_columns(whole, 1, [2]), whole)


def test_each_column_has_its_own_limit(tmp_path: Path) -> None:
    lines = (
        "a, b, c = Split<axis=1>(i) d = Gather(small, a) e = Gather(t, b) f = Add(d, e) "
        "g = Cast<to=1>(c) h = Unsqueeze(g, i2) y = Add(f, h)"
    )
    model = build(f"(int64[N,3] i) => (float[N,1,4] y) {{ {lines} }}", **NUMBERS, t=normal(9, 4))
    samples = drawn(model, tmp_path)
    assert min(int(content.min()) for content in samples) == 0
    most = np.max([content.max(axis=0) for content in samples], axis=0)
    assert most[:2].tolist() == [2, 8]
    assert most[2] <= 8


def test_numbers_that_only_compare_are_not_limited(tmp_path: Path) -> None:
    lines = "c = Greater(i, three) y = Cast<to=1>(c)"
    model = build(f"(int64[N,9] i) => (float[N,9] y) {{ {lines} }}", three=np.array(3))
    every = np.concatenate([each.reshape(-1) for each in drawn(model, tmp_path, samples=6)])
    assert {2, 3, 4} <= set(every.tolist())
    assert every.max() > 50
    model = build(f"(int64[N,9] i) => (float[N,9] y) {{ {lines} }}", three=np.array(300))
    every = np.concatenate([each.reshape(-1) for each in drawn(model, tmp_path, samples=6)])
    assert {299, 300, 301} <= set(every.tolist())


LONG = 50_000
ONE_OF_MANY = [
    (IDS, "y = Gather(t, i)"),
    ("(int32[N,M] i) => (float[N,M,4] y)", "j = Cast<to=7>(i) y = Gather(t, j)"),
    ("(int64[1] i) => (float[1,4] y)", "y = Gather(t, i)"),
    ("(int64 i) => (float[4] y)", "y = Gather(t, i)"),
    ("(int64[N,M] i) => (float[4,N,M] y)", "u = Transpose(t) y = Gather<axis=1>(u, i)"),
    (IDS, "c = Equal(i, ignored) j = Where(c, zero, i) y = Gather(t, j)"),
    (IDS, "u = Cast<to=10>(t) v = Gather(u, i) y = Cast<to=1>(v)"),
    (IDS, "k = Gather(t, i) l = Gather(same, i) y = Add(k, l)"),
    (IDS, "l = Gather(same, i) k = Gather(t, i) y = Add(k, l)"),
]


@pytest.mark.parametrize(("interface", "lines"), ONE_OF_MANY)
@pytest.mark.parametrize("row", [1, 32_100, LONG - 2])
def test_one_row_of_many_that_is_wrong_is_looked_up(interface: str, lines: str, row: int) -> None:
    table, same = normal(LONG, 4, seed=1), normal(LONG, 4, seed=2)
    changed = table.copy()
    changed[row] *= 1.1
    one, other = (
        build(f"{interface} {{ {lines} }}", **NUMBERS, t=each, same=same)
        for each in (table, changed)
    )
    assert verdict_of_samples(one, other) == "fail"


def test_rows_that_differ_by_rounding_hide_none_that_differs_more() -> None:
    table = normal(LONG, 4)
    changed = (table.astype(np.float64) * 3 / 3 + 1e-8).astype(np.float32)
    assert (changed != table).any(axis=1).sum() > 100
    one, close = (build(f"{IDS} {{ y = Gather(t, i) }}", t=each) for each in (table, changed))
    assert verdict_of_samples(one, close) == "pass"
    changed[77, 2] += 0.01
    assert verdict_of_samples(one, build(f"{IDS} {{ y = Gather(t, i) }}", t=changed)) == "fail"


def rows(one: Array, other: Array, lines: str = "y = Gather(t, i)") -> dict[str, list[int]]:
    first, second = (load(build(f"{IDS} {{ {lines} }}", t=each)).ir for each in (one, other))
    return differing_rows(first, second)


def test_the_rows_that_differ_most_come_first() -> None:
    table = normal(30, 4)
    changed = table.copy()
    for place in range(20):
        changed[place, place % 4] += place
    assert rows(table, changed) == {"i": list(range(19, 11, -1))}
    assert rows(changed, table) == {"i": list(range(19, 11, -1))}
    assert rows(table, table) == {}
    assert rows(table, table[:29]) == {}, "of another shape"
    changed[5, 1] = np.nan
    assert rows(table, changed)["i"][0] == 5
    assert rows(changed, changed) == {}
    assert rows(table, changed, "a = Gather(t, i) b = Add(a, a) y = Identity(b)")["i"][0] == 5


def test_long_tables_are_compared_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.proof.hints.differing_rows._AT_ONCE", 8)
    table = normal(31, 4)
    changed = table.copy()
    changed[[0, 17, 30]] += np.array([[1], [2], [3]], np.float32)
    assert rows(table, changed) == {"i": [30, 17, 0]}
    assert rows(table[:0], table[:0]) == {}


@pytest.mark.parametrize("column", range(3))
def test_a_row_that_differs_in_the_table_of_any_column_is_looked_up(column: int) -> None:
    """Beside tables that do not have as many rows."""
    tables: Parameters = {
        name: normal(count, 4, seed=count) for name, count in (("r", 7), ("s", LONG), ("t", 900))
    }
    lines = "a, b, c = Split<axis=-1>(i) u = Gather(r, a) v = Gather(s, b) w = Gather(t, c) "
    text = f"(int64[N,3] i) => (float[N,1,4] y) {{ {lines} y = Sum(u, v, w) }}"
    changed = tables["rst"[column]].copy()
    changed[-3] += 1
    one, other = (build(text, **each) for each in (tables, tables | {"rst"[column]: changed}))
    assert verdict_of_samples(one, other) == "fail"
    assert verdict_of_samples(one, one) in ("pass", "identical")


@pytest.mark.parametrize(("row", "expected"), [(3, "pass"), (4, "fail")])
def test_rows_that_the_model_does_not_accept_are_left_out(row: int, expected: str) -> None:
    """Here, odd positions lead out of a second table."""
    lines = "c = Equal(i, nought_or_eight) d = Cast<to=1>(c) j = Gather(places, i) "
    lines += "u = Gather(t, i) v = Gather(small, j) w = Add(u, v) y = Add(w, d)"
    table, places = normal(40, 4), np.arange(40) % 2 * 99
    changed = table.copy()
    changed[row] += 1
    weights = {**NUMBERS, "places": places, "nought_or_eight": np.array([[[0]], [[8]]])}
    one, other = (
        build(f"(int64[1,M] i) => (float[2,M,4] y) {{ {lines} }}", **weights, t=each)
        for each in (table, changed)
    )
    assert verdict_of_samples(one, other) == expected


def test_rows_beyond_a_smaller_table_hide_none_within_it() -> None:
    table = normal(90_000, 4)
    changed = table.copy()
    changed[85_000:85_005] += 5
    changed[71_700, 2] += 1
    one, other = (
        build(
            f"{IDS} {{ u = Gather(s, i) v = Gather(t, i) y = Add(u, v) }}",
            t=each,
            s=normal(80_000, 4),
        )
        for each in (table, changed)
    )
    assert verdict_of_samples(one, other) == "fail"


def test_a_row_that_differs_in_several_tables_counts_as_the_furthest() -> None:
    first, second = normal(30, 4, seed=1), normal(30, 4, seed=2)
    models = []
    for change in (0.0, 1.0):
        one, two = first.copy(), second.copy()
        one[3] += 10 * change
        two[3] += change / 8
        two[10:16] += change
        model = build(f"{IDS} {{ u = Gather(a, i) v = Gather(b, i) y = Add(u, v) }}", a=one, b=two)
        models.append(load(model).ir)
    assert differing_rows(models[0], models[1])["i"][0] == 3


def test_few_integers_are_those_rows_in_every_second_sample() -> None:
    spec = ValueSpec("i", "tensor(int64)", (2,))
    inputs = Inputs([spec], [{"i": (2,)}], [{}], 0, 6, {"i": 99}, Hints(rows={"i": [7, 5]}))
    drawn = [sorted(feeds["i"].tolist()) for feeds in inputs.feeds()]
    assert [each == [5, 7] for each in drawn] == [False, True] * 3
    many = replace(inputs, shapes=[{"i": (80,)}])
    for feeds in many.feeds():
        assert {5, 7} <= set(feeds["i"].tolist())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = Min(i, many)", "y = Min(i, more)"),
        ("y = Max(i, many)", "y = Max(many, i, less)"),
        ("y = Clip(i, less, many)", "y = Clip(i, less, more)"),
        ("y = Identity(i)", "n = Cast<to=3>(i) y = Cast<to=7>(n)"),
        ("y = Identity(i)", "n = Cast<to=2>(i) y = Cast<to=7>(n)"),
        ("y = Identity(i)", "n = Cast<to=5>(i) y = Cast<to=7>(n)"),
    ],
)
def test_integers_reach_what_limits_them_in_either_model(one: str, other: str) -> None:
    """Those of a narrower type, too."""
    limits: Parameters = {"many": np.array(500), "more": np.array(501), "less": np.array(-400)}
    if "less, i" in other or "i, less)" in other:
        limits["less"] = np.array(501)
    models = []
    for lines in (one, other):
        read = {
            name: each
            for name, each in limits.items()
            if f" {name}" in lines or f"({name}" in lines
        }
        models.append(build(f"(int64[N,3] i) => (int64[N,3] y) {{ {lines} }}", **read))
    assert verdict_of_samples(*models) == "fail"
    assert verdict_of_samples(*models[::-1]) == "fail"


def test_integers_that_the_model_does_not_accept_are_not_drawn_only_for_a_limit() -> None:
    """Here, what it is limited to leads out of a table."""
    lines = "h = Min(i, many) y = Gather(t, h)"
    one = build(f"{IDS} {{ {lines} }}", t=normal(ROWS, 4), many=np.array(500))
    other = build(f"{IDS} {{ {lines} }}", t=wrong(normal(ROWS, 4)), many=np.array(500))
    assert verdict_of_samples(one, one) in ("pass", "identical")
    assert verdict_of_samples(one, other) == "fail"
    cast = f"{IDS} {{ h = Cast<to=6>(i) y = Gather(t, h) }}"
    again = f"{IDS} {{ h = Cast<to=6>(i) z = Gather(t, h) y = Identity(z) }}"
    for table, expected in ((normal(ROWS, 4), "pass"), (wrong(normal(ROWS, 4)), "fail")):
        assert verdict_of_samples(build(cast, t=normal(ROWS, 4)), build(again, t=table)) == expected


def test_where_all_is_padding_texts_are_as_short_as_other_integers_need() -> None:
    """Positions that are counted beside padding reach as far as their table, which is short."""
    body = (
        "m = Equal(i, pad) n = Not(m) c = Cast<to=7>(n) s = CumSum(c, axis) p = Mul(s, c) "
        "q = Add(p, pad) e = Gather(words, i) f = Gather(places, q) y = {}(e, f)"
    )
    pair = [
        build(
            f"(int64[B,T] i) => (float[B,T,4] y) {{ {body.format(kind)} }}",
            pad=np.array(1),
            axis=np.array(1),
            words=normal(50, 4),
            places=normal(40, 4, seed=1),
        )
        for kind in ("Add", "Sub")
    ]
    found = bnfold.check(pair[0], pair[0]).equivalence
    assert found is not None
    assert found.inputs is not None
    assert all(shapes["i"][1] < 40 for shapes in found.inputs.shapes)
    assert found.verdict in ("pass", "identical")
    assert verdict_of_samples(*pair) == "fail"
