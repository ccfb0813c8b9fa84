"""Rows whose order ties leave open: matched as sets, all outputs together, or left in place."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.arrays import Array
from bnfold.proof.equivalence import compare_models
from bnfold.proof.rows import Matched, common, matched
from bnfold.record.data import ProviderEquivalence
from tests.support.graphs import build, normal


def match(
    original: Mapping[str, Array], other: Mapping[str, Array], allowed: float = 1e-5
) -> tuple[dict[str, Array], dict[str, int]]:
    limits = {
        name: np.full((1,) * values.ndim, allowed if values.dtype.kind == "f" else 0.0)
        for name, values in original.items()
    }
    turned = {
        name: np.roll(np.roll(values, 1, axis=0), 1, axis=min(1, values.ndim - 1))
        for name, values in original.items()
        if values.ndim
    }
    turned = {**original, **turned}
    moved = {n: v + v.dtype.type(7) if v.dtype.kind in "fiu" else v for n, v in turned.items()}
    found = matched(original, other, limits, [turned, moved])  # ties everywhere
    return found.outputs, found.exchanged


def outcome(found: Matched) -> tuple[dict[str, Array], dict[str, int]]:
    return found.outputs, found.exchanged


def detections(seed: int = 0, *leading: int) -> dict[str, Array]:
    """Return boxes, scores and labels of ten objects."""
    leading = leading or (10,)
    return {
        "boxes": normal(*leading, 4, seed=seed),
        "scores": np.sort(normal(*leading, seed=seed))[..., ::-1].copy(),
        "labels": np.random.default_rng(seed).integers(0, 90, leading),
    }


def exchanged(values: Mapping[str, Array], order: list[int], axis: int = 0) -> dict[str, Array]:
    return {name: np.take(content, order, axis) for name, content in values.items()}


def same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


# --- What is matched ------------------------------------------------------------------------------

ORDERS = [
    [0, 1, 2, 4, 3, 5, 6, 7, 8, 9],
    [1, 0, 2, 3, 4, 5, 6, 7, 9, 8],
    [0, 3, 1, 2, 4, 5, 6, 7, 8, 9],
    [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_brought_into_the_originals_order_in_all_outputs(order: list[int]) -> None:
    original = detections()
    found, counts = match(original, exchanged(original, order))
    assert same(found, original)
    moved = sum(place != row for place, row in enumerate(order))
    assert counts == {"boxes": moved, "scores": moved, "labels": moved}


def test_rows_in_order_stay_and_nothing_is_counted() -> None:
    original = detections()
    found, counts = match(original, original)
    assert same(found, original)
    assert counts == {"boxes": 0, "scores": 0, "labels": 0}


def test_what_is_given_is_not_changed() -> None:
    original = detections()
    other = exchanged(original, ORDERS[0])
    before = {name: content.copy() for name, content in other.items()}
    match(original, other)
    assert same(other, before)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_on_the_second_axis_are_matched_batch_by_batch(batch: int) -> None:
    original = detections(0, batch, 10)
    other = {name: content.copy() for name, content in original.items()}
    for content in other.values():
        content[-1] = content[-1][ORDERS[0]]
    found, counts = match(original, other)
    assert same(found, original)
    assert set(counts.values()) == {2}


def test_each_batch_has_its_own_order() -> None:
    original = detections(0, 3, 10)
    other = {name: content.copy() for name, content in original.items()}
    for content in other.values():
        for number, order in enumerate(ORDERS[:3]):
            content[number] = content[number][order]
    found, counts = match(original, other)
    assert same(found, original)
    assert set(counts.values()) == {2 + 4 + 3}


def test_rows_of_scores_alone_are_matched_by_their_values() -> None:
    """Scores that tie are equal: nothing moves."""
    original = {"scores": np.array([0.9, 0.5, 0.5, 0.1], np.float32)}
    found, counts = match(original, {"scores": original["scores"][[0, 2, 1, 3]]})
    assert same(found, original)
    assert counts == {"scores": 0}


def test_indices_and_words_are_matched_exactly() -> None:
    original = {
        "picked": np.array([[0, 0, 7], [0, 0, 3], [0, 1, 3]]),
        "words": np.array(["cat", "dog", "dog"], object),
        "kept": np.array([True, False, True]),
    }
    found, counts = match(original, exchanged(original, [1, 0, 2]))
    assert same(found, original)
    assert set(counts.values()) == {2}
    for name, row in (("picked", [0, 0, 8]), ("words", "bird"), ("kept", False)):
        other = exchanged(original, [1, 0, 2])
        other[name][1] = row
        assert set(match(original, other)[1].values()) == {0}


def test_a_row_may_be_off_by_what_is_allowed_in_the_originals_place() -> None:
    original = detections()
    for off, moved in ((0.9, 2), (1.1, 0)):
        other = exchanged(original, ORDERS[0])
        limits: dict[str, Array] = {
            name: np.zeros(content.shape) for name, content in original.items()
        }
        limits["boxes"][3, 1] = 1e-3  # of the row that is fourth in the original, and fifth now
        other["boxes"][4, 1] += np.float32(off * 1e-3)
        tied = exchanged(original, ORDERS[0])
        counts = matched(original, other, limits, [tied]).exchanged
        assert set(counts.values()) == {moved}


def test_of_several_rows_that_match_the_nearest_is_taken() -> None:
    original = {"v": np.array([[5.0], [1.0], [2.0], [1.0], [6.0]], np.float32)}
    other = {"v": np.array([[5.0], [2.0], [1.0], [1.0], [6.0]], np.float32)}
    found, counts = match(original, other)
    assert same(found, original)
    assert counts == {"v": 2}


def test_rows_of_the_original_itself_may_be_in_any_order() -> None:
    """In a draw of its noise, or in float64: no tie need explain it."""
    original = {"v": np.arange(10, dtype=np.float32).reshape(10, 1)}
    other = exchanged(original, ORDERS[3])
    limits = {"v": np.full((1, 1), 1e-5)}
    found, counts = outcome(matched(original, other, limits))
    assert same(found, other)
    assert counts == {"v": 0}
    found, counts = outcome(matched(original, other, limits, any_order=True))
    assert same(found, original)
    assert counts == {"v": 10}


# --- What is left in place ------------------------------------------------------------------------


def test_a_row_without_match_leaves_all_in_place() -> None:
    original = detections()
    other = exchanged(original, ORDERS[0])
    other["boxes"][0, 0] += 1
    found, counts = match(original, other)
    assert same(found, other)
    assert set(counts.values()) == {0}


def test_outputs_that_exchange_different_rows_are_left_in_place() -> None:
    """The scores go with other boxes."""
    original = detections()
    other = exchanged(original, ORDERS[0]) | {"scores": original["scores"]}
    found, counts = match(original, other)
    assert same(found, other)
    assert set(counts.values()) == {0}


def test_a_row_is_taken_once() -> None:
    original = {"v": np.array([[1.0], [1.0], [2.0]], np.float32)}
    other = {"v": np.array([[2.0], [1.0], [2.0]], np.float32)}
    found, counts = match(original, other)
    assert same(found, other)
    assert counts == {"v": 0}


def test_one_batch_without_match_leaves_the_others_alone() -> None:
    original = detections(0, 2, 10)
    other = {name: content.copy() for name, content in original.items()}
    for content in other.values():
        content[:] = content[:, ORDERS[0]]
    other["boxes"][1, 0, 0] += 1
    found, counts = match(original, other)
    assert set(counts.values()) == {2}
    assert all(np.array_equal(found[name][0], original[name][0]) for name in original)
    assert all(np.array_equal(found[name][1], other[name][1]) for name in original)


def test_outputs_of_other_shapes_are_left_alone() -> None:
    original = detections()
    shorter = {name: content[:9] for name, content in original.items()}
    limits = {name: np.zeros((1,) * content.ndim) for name, content in original.items()}
    found, counts = outcome(matched(original, shorter, limits))
    assert same(found, shorter)
    assert set(counts.values()) == {0}
    assert match({"v": np.array(1.0)}, {"v": np.array(2.0)})[1] == {"v": 0}


# --- Other rows -----------------------------------------------------------------------------------


def exact(original: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.zeros((1,) * content.ndim) for name, content in original.items()}


def with_row(
    values: Mapping[str, Array], row: int, source: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the values with one row of others, which is appended where there is none."""
    return {
        name: np.concatenate([content[:row], source[name][[0]], content[row + 1 :]])
        for name, content in values.items()
    }


def test_a_row_that_the_original_selects_in_a_draw_is_excused() -> None:
    original, another = detections(), detections(1)
    draw = with_row(original, 9, another)
    found = matched(original, with_row(original, 8, another), exact(original), [draw])
    assert set(found.replaced.values()) == {0}  # no draw lacks the row that is missing
    draws = [draw, with_row(original, 8, detections(2))]
    found = matched(original, with_row(original, 8, another), exact(original), draws)
    assert same(found.outputs, original)
    assert set(found.replaced.values()) == {1}


def test_a_row_that_no_draw_has_is_not_excused() -> None:
    original, another = detections(), detections(1)
    draw = with_row(original, 9, another)
    for name in original:
        other = with_row(original, 9, another)
        other[name] = other[name].copy()
        other[name][9] += 1
        found = matched(original, other, exact(original), [draw])
        assert same(found.outputs, other)
        assert set(found.replaced.values()) == {0}


@pytest.mark.parametrize("kept", [9, 11])
def test_rows_may_be_more_or_fewer_as_in_a_draw(kept: int) -> None:
    original = detections()
    draw = with_row(original, 10, detections(1)) if kept > 10 else with_fewer(original, kept)
    found = matched(original, draw, exact(original), [draw])
    assert same(found.outputs, original)
    assert set(found.replaced.values()) == ({1} if kept < 10 else {0})
    found = matched(original, draw, exact(original), [original])
    assert same(found.outputs, draw)


def with_fewer(values: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {name: content[:count] for name, content in values.items()}


def test_where_most_rows_are_others_nothing_is_excused() -> None:
    original, another = detections(), detections(1)
    found = matched(original, another, exact(original), [another])
    assert same(found.outputs, another)


def test_a_noisy_row_of_a_draw_is_the_same_row() -> None:
    original = detections()
    limits = {n: np.full((1,) * content.ndim, 1e-3) for n, content in original.items()}
    draw = {name: content[ORDERS[0]] for name, content in original.items()}
    draw["boxes"][4] += np.float32(0.01)
    found = matched(original, draw, limits, any_order=True).outputs
    np.testing.assert_allclose(found["boxes"][3] - original["boxes"][3], 0.01, rtol=1e-3)
    assert np.array_equal(found["labels"], original["labels"])


def test_common_rows_are_counted_wherever_they_are() -> None:
    original = detections()
    other = with_row(exchanged(original, ORDERS[3]), 2, detections(1))
    assert common(original, other, exact(original)) == (10, 9)
    assert common({"v": np.array(1.0)}, {"v": np.array(1.0)}, {"v": np.zeros(())}) == (0, 0)
    nothing = {"v": np.zeros((0, 4), np.float32)}
    assert common(nothing, nothing, {"v": np.zeros((1, 1))}) == (0, 0)


def test_no_rows_are_in_order() -> None:
    nothing = {"v": np.zeros((0, 4), np.float32)}
    assert match(nothing, nothing)[1] == {"v": 0}


def test_outputs_that_are_not_ordered_pass_through() -> None:
    original = {"v": np.array([[1.0], [2.0]], np.float32)}
    other = exchanged(original, [1, 0]) | {"else": np.array([3, 4])}
    found, _ = match(original, other)
    assert np.array_equal(found["else"], [3, 4])


@settings(max_examples=30, deadline=None)
@given(
    order=st.permutations(range(8)),
    values=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    changed=st.integers(-1, 7),
)
def test_whatever_moves_only_equal_sets_of_rows_become_equal(
    order: list[int], values: list[int], changed: int
) -> None:
    original = {
        "v": np.array(values, np.float32).reshape(8, 1),
        "n": np.array(values[::-1]),
    }
    other = exchanged(original, list(order))
    if changed >= 0:
        other["v"][changed] += 10
    found, _ = match(original, other)
    assert same(found, original) == (changed < 0)
    rows = sorted(zip(found["v"][:, 0], found["n"], strict=True))
    assert rows == sorted(zip(other["v"][:, 0], other["n"], strict=True))


# --- From end to end ------------------------------------------------------------------------------


def compare(one: onnx.ModelProto, other: onnx.ModelProto) -> ProviderEquivalence:
    """Compare the rows themselves, not what they are selected from."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "one.onnx", Path(folder) / "other.onnx"
        onnx.save(one, paths[0])
        onnx.save(other, paths[1])
        return compare_models(*paths, selections=False).providers[0]


TOP = (
    "(float[N,4] x) => (float[20] scores, {more}int64[20] labels) {{ "
    "r = ReduceMean<axes=[0], keepdims=0>(x) z = ReduceSum<keepdims=0>(r) u = Mul(z, tiny) "
    "a = Add(p, e) s = Add(a, u) scores, labels = TopK(s, k) {lines} }}"
)
BOXES = {"more": "float[20,4] boxes, ", "lines": "t = Mul(table, r) boxes = Gather(t, labels)"}
NONE = {"more": "", "lines": ""}
TIES = np.asarray(np.repeat(normal(20), 2) + np.tile([0, 2.0**-23], 20), np.float32)
APART = np.asarray(np.random.default_rng(0).permutation(40), np.float32)


def top(text: Mapping[str, str], scores: Array, **changes: Array) -> onnx.ModelProto:
    """Return the best 20 of 40 rows."""
    weights: dict[str, Any] = {
        "p": scores,
        "e": np.zeros(40, np.float32),
        "tiny": np.array([1e-3], np.float32),
        "k": np.array([20]),
        "table": np.abs(normal(40, 4)) + 1,
    }
    return build(TOP.format(**text), **weights | changes)


def last_bits() -> Array:
    return normal(40, seed=3) * np.float32(2e-7)


@pytest.mark.parametrize("text", [NONE, BOXES], ids=["scores", "boxes"])
def test_top_k_with_ties_passes_and_says_what_was_exchanged(text: Mapping[str, str]) -> None:
    found = compare(top(text, TIES), top(text, TIES, e=last_bits()))
    assert (found.verdict, found.reason) == ("pass", "")
    moved = {output.name: output.exchanged for output in found.outputs}
    assert moved["labels"] == moved["scores"] > 0


@pytest.mark.parametrize("scores", [APART, TIES], ids=["apart", "ties"])
def test_a_wrong_box_fails(scores: Array) -> None:
    """One number of the table, of the row with the best score."""
    table = np.abs(normal(40, 4)) + 1
    table[int(scores.argmax()), 2] += 0.01
    assert compare(top(BOXES, scores), top(BOXES, scores, table=table)).verdict == "fail"


@pytest.mark.parametrize(
    ("text", "scores", "kind"),
    [
        (NONE, TIES, "one"),
        (NONE, APART, "all"),
        (NONE, TIES, "sign"),
        *(
            pytest.param(NONE, scores, kind, marks=pytest.mark.slow)
            for scores, kind in [(APART, "one"), (TIES, "all"), (APART, "sign")]
        ),
        pytest.param(BOXES, TIES, "one", marks=pytest.mark.slow),
        pytest.param(BOXES, APART, "sign", marks=pytest.mark.slow),
    ],
)
def test_wrong_scores_fail(text: Mapping[str, str], scores: Array, kind: str) -> None:
    wrong = {
        "one": np.where(np.arange(40) == scores.argmax(), -0.5, 0),
        "all": np.full(40, 0.01 * scores.max()),
        "sign": -2 * scores,
    }[kind]
    other = top(text, scores, e=wrong.astype(np.float32))
    assert compare(top(text, scores), other).verdict == "fail"


def test_a_ranking_turned_round_fails() -> None:
    text = "(float[N,4] x) => (int64[N,4] y) { v, y = TopK<largest=1>(x, k) }"
    other = text.replace("largest=1", "largest=0")
    k = np.array([4])
    assert compare(build(text, k=k), build(other, k=k)).verdict == "fail"


SUPPRESS = (
    "(float[1,30,4] x) => (int64[K,3] picked{more}) {{ "
    "n = Mul(x, small) b = Add(n, grid) t = Add(p, e) "
    "picked = NonMaxSuppression(b, t, most, overlap) {lines} }}"
)
PICKED = {
    "more": ", float[K,4] boxes",
    "lines": "i = Gather<axis=1>(picked, two) f = Squeeze(b, zero) boxes = Gather(f, i)",
}
IN_PAIRS = np.repeat(np.linspace(0.2, 0.9, 15, dtype=np.float32), 2).reshape(1, 1, 30)
ALL_APART = np.linspace(0.2, 0.9, 30, dtype=np.float32).reshape(1, 1, 30)
CORNERS = np.arange(30, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)


def suppress(text: Mapping[str, str], scores: Array, **changes: Array) -> onnx.ModelProto:
    weights: dict[str, Any] = {
        "small": np.array([1e-3], np.float32),
        "grid": CORNERS[None],
        "p": scores,
        "e": np.zeros((1, 1, 30), np.float32),
        "most": np.array([24]),
        "overlap": np.array([0.5], np.float32),
        "two": np.array(2),
        "zero": np.array([0]),
    }
    return build(SUPPRESS.format(**text), **weights | changes)


@pytest.mark.parametrize("text", [NONE, PICKED], ids=["indices", "boxes"])
def test_suppression_with_ties_passes(text: Mapping[str, str]) -> None:
    e = normal(1, 1, 30) * np.float32(2e-7)
    found = compare(suppress(text, IN_PAIRS), suppress(text, IN_PAIRS, e=e))
    assert (found.verdict, found.reason) == ("pass", "")
    assert all(output.exchanged for output in found.outputs)


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (ALL_APART, "one"),
        (IN_PAIRS, "all"),
        pytest.param(ALL_APART, "all", marks=pytest.mark.slow),
        pytest.param(IN_PAIRS, "one", marks=pytest.mark.slow),
    ],
)
def test_wrong_boxes_fail(scores: Array, kind: str) -> None:
    grid = CORNERS[None].copy()
    if kind == "one":
        grid[0, 20, 1] += 0.5
    wrong: dict[str, Array] = {"grid": grid} if kind == "one" else {"two": np.array(1)}
    assert compare(suppress(PICKED, scores), suppress(PICKED, scores, **wrong)).verdict == "fail"


@pytest.mark.parametrize("scores", [ALL_APART, IN_PAIRS], ids=["apart", "ties"])
def test_a_box_that_should_have_been_picked_fails(scores: Array) -> None:
    e = np.zeros((1, 1, 30), np.float32)
    e[0, 0, 20] = -0.6
    assert compare(suppress(NONE, scores), suppress(NONE, scores, e=e)).verdict == "fail"


def test_where_nothing_is_found_the_other_outputs_are_compared() -> None:
    text = (
        "(float[1,30,4] x) => (int64[K,3] picked, float[1,30,4] b) { b = Add(x, grid) "
        "picked = NonMaxSuppression(b, p, most, overlap, high) }"
    )
    weights: dict[str, Any] = {
        "grid": CORNERS[None],
        "p": IN_PAIRS,
        "most": np.array([24]),
        "overlap": np.array([0.5], np.float32),
        "high": np.array([2], np.float32),
    }
    model = build(text, **weights)
    other = build(text, **weights)
    other.doc_string = "another file"
    assert compare(model, other).verdict == "pass"
