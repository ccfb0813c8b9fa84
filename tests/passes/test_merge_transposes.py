"""merge-transposes: two Transposes become one, or none."""

from __future__ import annotations

import itertools

import onnx
import pytest

import bnfold
from tests.support.evaluate import assert_equal_outputs
from tests.support.graphs import build, draw_feeds, operators
from tests.support.passes import certificates, run_pass
from tests.support.slow import in_turn

NAME = "merge-transposes"


def chain(lines: str, x: str = "2,3,5") -> onnx.ModelProto:
    model = build(f"(float[{x}] x) => (float r) {{ y = Neg(x) {lines} r = Abs(z) }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def merged(model: onnx.ModelProto) -> list[str]:
    """Return what is left; assert equal values and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)
    assert not run_pass(optimized, NAME).record.rewrites
    return operators(optimized)[1:-1]


@pytest.mark.parametrize(
    ("inner", "outer"),
    in_turn(itertools.permutations(range(3)), [(2, 0, 1), (0, 2, 1), (1, 2, 0)]),
)
def test_all_orders_of_three_axes(inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
    model = chain(f"a = Transpose<perm={list(inner)}>(y) z = Transpose<perm={list(outer)}>(a)")
    is_whole_trivial = [inner[axis] for axis in outer] == [0, 1, 2]
    assert merged(model) == ([] if is_whole_trivial else ["Transpose"])


def test_the_default_reverses_the_axes() -> None:
    assert merged(chain("a = Transpose(y) z = Transpose(a)")) == []
    assert merged(chain("a = Transpose(y) z = Transpose<perm=[0,2,1]>(a)")) == ["Transpose"]


def test_it_is_certified() -> None:
    model = chain("a = Transpose<perm=[1,2,0]>(y) z = Transpose<perm=[0,2,1]>(a)", "N,3,5")
    record = bnfold.optimize(model, passes=bnfold.PassOptions(only=[NAME])).record
    (rewrite,) = record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


def test_one_that_only_transposes_read_is_merged_into_each() -> None:
    lines = (
        "a = Transpose<perm=[1,2,0]>(y) b = Transpose<perm=[1,0,2]>(a) "
        "c = Transpose<perm=[0,2,1]>(a) d = Transpose<perm=[1,2,0]>(c) z = Add(b, d)"
    )
    model = chain(lines, "3,3,3")
    assert merged(model) == ["Transpose", "Transpose", "Add"]
    proven = certificates(model, NAME)
    assert [each.verdict for each in proven] == ["certified"] * 3


def test_one_that_is_undone_goes_whatever_else_reads_the_first() -> None:
    lines = (
        "a = Transpose<perm=[0,2,1]>(y) b = Transpose<perm=[0,2,1]>(a) c = Exp(a) "
        "d = Transpose<perm=[0,2,1]>(c) z = Add(b, d)"
    )
    assert merged(chain(lines)) == ["Transpose", "Exp", "Transpose", "Add"]


@pytest.mark.parametrize(
    "lines",
    [
        "a = Transpose<perm=[1,2,0]>(y) b = Exp(a) z = Transpose<perm=[0,2,1]>(b)",
        "a = Transpose<perm=[1,2,0]>(y) b = Transpose<perm=[0,2,1]>(a) c = Exp(a) "
        "d = Transpose<perm=[0,2,1]>(c) z = Add(b, d)",
    ],
)
def test_others_stay(lines: str) -> None:
    assert not run_pass(chain(lines), NAME).record.rewrites


def test_one_that_very_many_read_stays() -> None:
    for readers, expected in ((8, 8), (9, 10)):
        lines = "".join(f"b{n} = Transpose<perm=[0,2,1]>(a) " for n in range(readers))
        names = ", ".join(f"b{n}" for n in range(readers))
        model = chain(f"a = Transpose<perm=[1,2,0]>(y) {lines} z = Sum({names})")
        assert len(merged(model)) == expected + 1


def test_between_an_input_and_an_output_one_stays() -> None:
    model = build("(float[2,3] x) => (float[a,b] z) { a = Transpose(x) z = Transpose(a) }")
    assert operators(run_pass(model, NAME).to_proto()) == ["Transpose"]
