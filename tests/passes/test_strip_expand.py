"""strip-expand: an elementwise operator broadcasts what was expanded before it."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import Parameters, build, make_overridable, operators
from tests.support.passes import run_pass

NAME = "strip-expand"

WEIGHTS: Parameters = {
    "row": np.array([3, 5]),
    "rank3": np.array([1, 3, 5]),
    "two": np.array([2, 3, 5]),
    "ones": np.array([1, 1]),
    "five": np.array([1, 5]),
    "fifth": np.array([5]),
    "one": np.array([1]),
    "pairs": np.array([2, 2]),
    "zero": np.array([0]),
}


def model(lines: str, x: str = "N,1", y: str = "N,5", *, opset: int = 13) -> onnx.ModelProto:
    """Return a model of these lines, whose result is z."""
    read = {name: c for name, c in WEIGHTS.items() if f", {name})" in lines or f"({name}," in lines}
    text = f"(float[{x}] x, float[{y}] y) => (z) {{ {lines} }}"
    return build(text, opset=opset, **read)


def stripped(original: onnx.ModelProto, *sizes: int) -> list[str]:
    """Return the operators left; assert the same bits and shapes, and a fixpoint."""
    optimized = run_pass(original, NAME).to_proto()
    generator = np.random.default_rng(0)
    for n in sizes:
        feeds = {}
        for value in original.graph.input:
            shape = [dim.dim_value or n for dim in value.type.tensor_type.shape.dim]
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        assert_equal_outputs(original, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return operators(optimized)


AS_Y = "s = Shape(y) e = Expand(x, s)"


@pytest.mark.parametrize(
    "operator",
    [
        "Add(e, y)",
        "Sub(y, e)",
        "Mul(e, y)",
        "Div(y, e)",
        "Pow(y, e)",
        "Max(y, e, y)",
        "Min(e, y)",
        "Mean(y, e)",
        "Sum(e, y, e)",
        "Mod<fmod=1>(y, e)",
        "Less(y, e)",
        "GreaterOrEqual(e, y)",
        "Equal(e, y)",
    ],
)
def test_an_operator_broadcasts_by_itself(operator: str) -> None:
    assert stripped(model(f"{AS_Y} z = {operator}"), 1, 3) == [operator.split("(")[0].split("<")[0]]


@pytest.mark.parametrize("opset", [8, 11, 13, 21])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("N,1", "N,5"),
        ("1,1", "N,N"),
        ("1", "N,3,5"),
        ("3,1", "N,3,5"),
        ("N,1,5", "N,N,5"),
        ("2,3", "2,3"),
        ("", "N"),
        ("1,5", "M,5"),
    ],
)
def test_sizes_of_any_rank(x: str, y: str, opset: int) -> None:
    assert stripped(model(f"{AS_Y} z = Add(e, y)", x, y, opset=opset), 1, 4) == ["Add"]


@pytest.mark.parametrize(
    "lines",
    [
        "s = Shape(y) n = Gather(s, zero) t = Concat<axis=0>(n, fifth) e = Expand(x, t) "
        "z = Mul(e, y)",
        "e = Expand(x, ones) z = Mul(e, y)",
        "e = Tile(x, five) z = Mul(e, y)",
        "s = Shape(y) e = Expand(x, s) b = Less(e, y) z = Where(b, y, e)",
    ],
)
def test_what_has_the_sizes_may_be_written_otherwise(lines: str) -> None:
    assert not {"Expand", "Tile"} & {*stripped(model(lines), 1, 3)}


def test_two_operands_are_expanded_at_most_once() -> None:
    lines = "s = Shape(y) e = Expand(x, s) f = Expand(x, s) z = Add(e, f)"
    assert stripped(model(lines, "1,1"), 1, 3) == ["Shape", "Expand", "Add"]
    lines = "w = Mul(x, y) s = Shape(w) e = Expand(x, s) f = Expand(y, s) z = Add(e, f)"
    assert stripped(model(lines, "N,1", "1,5"), 1, 3) == ["Add"]


@pytest.mark.parametrize(
    ("line", "is_stripped"),
    [("Max(y, e, e)", True), ("Sub(e, e)", False), ("Pow(e, e)", False)],
)
def test_an_expand_that_is_read_twice(line: str, is_stripped: bool) -> None:
    """All of its reads are left out, or none: its window reads what the Expand reads alone."""
    original = model(f"{AS_Y} z = {line}", "1,1")
    assert ("Expand" not in stripped(original, 1, 3)) == is_stripped
    record = bnfold.optimize(original, only=[NAME, "strip-unused"]).record
    assert [each.pass_name for each in record.rewrites].count(NAME) == is_stripped
    assert all(r.certificate and r.certificate.verdict == "certified" for r in record.rewrites)


@pytest.mark.parametrize("line", ["Less(e, e) z = Where(b, e, e)", "Less(x, e) z = Where(b, x, e)"])
def test_an_expand_to_the_sizes_of_a_value_that_is_not_read(line: str) -> None:
    """It stays for its other reader; the windows know what it is, and where its sizes are from."""
    lines = f"s = Shape(y) e = Expand(x, s) b = {line}"
    record = bnfold.optimize(model(lines, "1,5"), only=[NAME]).record
    assert record.rewrites
    assert all(r.certificate and r.certificate.verdict == "certified" for r in record.rewrites)


def test_an_expand_to_sizes_that_a_caller_may_override_is_no_difference() -> None:
    """Its window knows what it repeats, if not how often."""
    lines = "t = Concat<axis=0>(one, fifth) e = Expand(x, t) b = Less(e, e) z = Where(b, e, e)"
    original = make_overridable(model(lines, "1,5"), "one")
    record = bnfold.optimize(original, only=[NAME]).record
    assert record.rewrites
    certificates = [each.certificate for each in record.rewrites if each.certificate is not None]
    assert {each.verdict for each in certificates} <= {"certified", "open"}


def test_an_expand_with_other_readers_stays_for_them() -> None:
    lines = f"{AS_Y} n = Neg(e) a = Add(e, y) z = Concat<axis=1>(n, a)"
    assert stripped(model(lines), 1, 3) == ["Shape", "Expand", "Neg", "Add", "Concat"]
    lines = f"{AS_Y} a = Add(e, y) b = Mul(e, a) z = Sub(b, e)"
    assert stripped(model(lines, "1,1"), 1, 3) == ["Add", "Mul", "Sub"]


@pytest.mark.parametrize(
    ("lines", "x", "y"),
    [
        ("e = Expand(x, row) z = Add(e, y)", "1,1", "1,5"),  # three rows come from it alone
        ("e = Expand(x, row) z = Add(e, y)", "1,1", "5"),
        ("e = Expand(x, row) z = Add(e, y)", "1,1", "N,5"),  # N may be 1
        ("e = Expand(x, row) z = Add(e, y)", "3,1", "1"),
        ("e = Expand(x, rank3) z = Add(e, y)", "1,1", "3,5"),  # an axis comes from it
        ("e = Expand(x, two) z = Add(e, y)", "3,5", "3,5"),
        ("e = Expand(x, row) z = Add(e, y)", "1,1", "2,3,1"),
        ("e = Expand(x, five) z = Add(e, y)", "1,1", "5,1"),  # another axis has that size
        ("e = Expand(x, pairs) z = Add(e, y)", "1,1", "1,2"),
        ("s = Shape(y) e = Expand(x, s) z = Neg(e)", "N,1", "N,5"),
        ("s = Shape(y) e = Expand(x, s) z = PRelu(e, y)", "N,1", "N,5"),
    ],
)  # fmt: skip
def test_an_expand_that_something_else_does_not_do_stays(lines: str, x: str, y: str) -> None:
    assert "Expand" in stripped(model(lines, x, y), 1, 3)


def test_operators_that_do_not_broadcast_so_are_left() -> None:
    lines = "e = Tile(x, five) z = Sum(e, y)"
    assert stripped(model(lines, "3,1", "3,5", opset=7)) == ["Tile", "Sum"]


def test_what_is_expanded_may_be_read_and_returned() -> None:
    text = f"(float[1] x, float[N] y) => (z, e) {{ {AS_Y} z = Add(e, y) }}"
    assert stripped(build(text), 1, 3) == ["Shape", "Expand", "Add"]


def test_a_tile_that_repeats_more_than_one_element_stays() -> None:
    lines = "e = Tile(x, five) z = Add(e, y)"
    assert stripped(model(lines, "2,2", "2,10")) == ["Tile", "Add"]
    assert stripped(model(lines, "2,N", "2,M")) == ["Tile", "Add"]


def test_two_sizes_of_one_name_may_differ() -> None:
    lines = "s = Shape(y) e = Expand(x, s) z = Add(e, w)"
    text = f"(float[1] x, float[N] y, float[N] w) => (z) {{ {lines} }}"
    assert run_pass(build(text), NAME).record.rewrites == []


@pytest.mark.parametrize(("x", "y"), [("N,1", "N,5"), ("1,1", "N,M"), ("1", "4,5")])
def test_it_is_certified(x: str, y: str) -> None:
    for lines in (f"{AS_Y} z = Div(y, e)", f"{AS_Y} b = Less(e, y) z = Where(b, y, e)"):
        record = bnfold.optimize(model(lines, x, y), only=[NAME, "strip-unused"]).record
        found = [rewrite.certificate for rewrite in record.rewrites]
        assert found
        assert {each.verdict for each in found if each is not None} == {"certified"}


@pytest.mark.parametrize("line", ["z = Div(e, x)", "r = Relu(x) z = Sub(r, e) w = Mul(z, x)"])
def test_it_is_certified_beside_what_is_expanded(line: str) -> None:
    """The Expand stays, since it is an output, and its operand is one of the operator, too."""
    text = f"(float[N,1] x) => (z, e) {{ s = Shape(x) e = Expand(x, s) {line} }}"
    record = bnfold.optimize(build(text), only=[NAME]).record
    found = [rewrite.certificate for rewrite in record.rewrites]
    assert found
    assert {each.verdict for each in found if each is not None} == {"certified"}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_sizes(data: st.DataObject) -> None:
    """x, y and the target have free and fixed sizes, or 1."""
    rank = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.sampled_from(["N", "3", "5"]), min_size=rank, max_size=rank))

    def some(label: str) -> list[str]:
        own = [data.draw(st.sampled_from([size, size, "1"]), label=label) for size in sizes]
        return own[data.draw(st.integers(0, rank), label=label) :]

    x, y, target = some("x"), some("y"), some("target")
    like = ",".join(target)
    text = (
        f"(float[{','.join(x)}] x, float[{','.join(y)}] y, float[{like}] t) => (z) "
        "{ o = Mul(t, t) s = Shape(o) e = Expand(x, s) r = Sub(e, y) z = Div(r, e) }"
    )
    original = build(text)
    optimized = bnfold.optimize(original, check=False).to_proto()
    for n in (1, 4):
        feeds = {
            value.name: np.arange(1, 1 + math.prod(shape), dtype=np.float32).reshape(shape)
            for value in original.graph.input
            for shape in [[dim.dim_value or n for dim in value.type.tensor_type.shape.dim]]
        }
        assert_equal_outputs(original, optimized, feeds)
