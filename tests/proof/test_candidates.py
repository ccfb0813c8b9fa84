"""What rows are selected from is compared in place of the rows, where scores tie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import pytest

from bnfold.arrays import Array
from bnfold.proof.candidates import Candidates, candidates
from tests.support.checks import compared_on_cpu
from tests.support.graphs import build, normal, only_node

BOXES = 300
DETECTOR = (
    "(float[1,8] x) => (float[K,4] boxes, float[K] scores, int64[K] labels) {{ "
    "u = Mul(x, tiny) m = MatMul(u, wc) a = Add(m, bias) l = Reshape(a, sizes) s = Softmax(l) "
    "c = Squeeze(s, zero) best = ReduceMax<axes=[1], keepdims=0>(c) kind = ArgMax<axis=1,"
    " keepdims=0>(c) t = MatMul(u, wb) d = Reshape(t, corners) b = Add(d, grid) {more} "
    "scores, i = TopK(best, k) labels = Gather(kind, i) boxes = Gather({boxes}, i) }}"
)


def detector(boxes: str = "b", more: str = "", **changes: Array) -> onnx.ModelProto:
    """Return the best 40 of 300 boxes, whose scores are equal but for rounding."""
    corner = np.arange(BOXES, dtype=np.float32)[:, None] * 3
    weights: dict[str, Any] = {
        "tiny": np.array([1e-6], np.float32),
        "wc": normal(8, BOXES * 5),
        "wb": normal(8, BOXES * 4),
        "bias": np.zeros(BOXES * 5, np.float32),
        "sizes": np.array([1, BOXES, 5]),
        "corners": np.array([BOXES, 4]),
        "zero": np.array([0]),
        "grid": np.concatenate([corner, corner, corner + 2, corner + 2], 1),
        "k": np.array([40]),
        "five": np.array(5),
    }
    return build(DETECTOR.format(boxes=boxes, more=more), **weights | changes)


def rounded(content: Array) -> Array:
    """Return it off by its last bit, as a right fold of weights is."""
    signs = np.random.default_rng(1).choice([-1, 0, 1], content.shape)
    return np.asarray(content * (1 + signs * 2.0**-24), np.float32)


def cut(folder: Path, one: onnx.ModelProto, other: onnx.ModelProto) -> Candidates | None:
    for name, model in (("one", one), ("other", other)):
        onnx.save(model, folder / f"{name}.onnx")
    return candidates(folder / "one.onnx", folder / "other.onnx")


def names(found: Candidates | None, *, tails: bool = False) -> set[str]:
    assert found is not None
    assert (found.tails is not None) == tails
    assert [o.name for o in found.original.graph.output] == [
        o.name for o in found.other.graph.output
    ]
    return {output.name for output in found.original.graph.output}


NEIGHBOURS = (
    "(float[N,3,8,8] x) => (float[N,3,5] y) {{ s = Shape(x) l = Slice(s, zero, two, zero) "
    "sh = Concat<axis=0>(l, rest) r = Reshape(x, {shape}) v, i = TopK(r, five) "
    "m = ReduceMean<axes=[2]>(r) e = Expand(m, each) g = GatherElements<axis=2>(r, i) "
    "y = Sub(g, {mean}) }}"
)


def neighbours(shape: str = "sh", mean: str = "e") -> onnx.ModelProto:
    """Return the best five of 64, less the mean of all."""
    weights: dict[str, Any] = {
        "zero": np.array([0]),
        "two": np.array([2]),
        "rest": np.array([-1]),
        "five": np.array([5]),
        "each": np.array([1, 1, 5]),
        "whole": np.array([0, 3, 64]),
    }
    return build(NEIGHBOURS.format(shape=shape, mean=mean), **weights)


# --- From end to end ------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "mean"), [("whole", "e"), ("sh", "m"), ("whole", "m")])
def test_shapes_may_be_written_otherwise_before_a_selection(shape: str, mean: str) -> None:
    """As a constant, with a 0 for what it was; or left to whoever broadcasts the value."""
    other = neighbours(shape, mean)
    for one, twin in ((neighbours(), other), (other, neighbours())):
        found = compared_on_cpu(one, twin)
        assert (found.verdict, found.reason) == ("pass", "")
        assert found.selection is not None


@pytest.mark.parametrize(("shape", "mean"), [("whole", "e"), ("sh", "m"), ("whole", "m")])
def test_what_is_wrong_beside_a_shape_fails(shape: str, mean: str) -> None:
    wrong = neighbours(shape, mean)
    only_node(wrong, "ReduceMean").op_type = "ReduceMax"
    assert compared_on_cpu(neighbours(), wrong).verdict == "fail"


def test_where_other_rows_tie_the_candidates_decide() -> None:
    found = compared_on_cpu(detector(), detector(wc=rounded(normal(8, BOXES * 5))))
    assert (found.verdict, found.reason) == ("pass", "")
    assert {output.name for output in found.outputs} == {"best", "s", "b"}
    assert found.selection is not None
    assert found.selection.operators == ["ArgMax", "TopK"]
    assert found.selection.outputs == ["boxes", "scores", "labels"]
    assert found.selection.rows == 80
    assert found.selection.same <= 80


def off(logit: int, by: float) -> Array:
    return np.asarray(by * (np.arange(BOXES * 5) == logit), np.float32)


def with_boxes_after(lines: str, **weights: Any) -> onnx.ModelProto:
    """Return the detector with other operators between the selected boxes and the output."""
    model = detector(wc=rounded(normal(8, BOXES * 5)))
    last = build(f"(float[K,4] chosen) => (float[K,4] boxes) {{ {lines} }}", **weights)
    model.graph.node[-1].output[0] = "chosen"
    model.graph.node.extend(last.graph.node)
    model.graph.initializer.extend(last.graph.initializer)
    return model


def test_other_operators_after_the_selection_may_give_the_same() -> None:
    thirds = {"three": np.array([3], np.float32), "third": np.array([1 / 3], np.float32)}
    right = with_boxes_after("h = Mul(chosen, three) boxes = Mul(h, third)", **thirds)
    found = compared_on_cpu(detector(), right)
    assert (found.verdict, found.reason) == ("pass", "")
    assert found.selection is not None
    assert not found.selection.same_operators
    wrong = with_boxes_after("boxes = Mul(chosen, more)", more=np.array([1.01], np.float32))
    assert compared_on_cpu(detector(), wrong).verdict != "pass"


WRONG: dict[str, Callable[[], onnx.ModelProto]] = {
    "one channel of a class": lambda: detector(bias=off(7, -0.01)),
    "boxes shifted": lambda: detector(grid=detector_grid() + np.ones(1, np.float32)),
    "one box shifted": lambda: detector(grid=one_shifted(detector_grid())),
    "boxes shifted after the selection": lambda: detector(
        "moved", "moved = Add(b, one)", one=np.ones(1, np.float32)
    ),
    "fewer rows": lambda: detector(k=np.array([39])),
}


def detector_grid() -> Array:
    (grid,) = (t for t in detector().graph.initializer if t.name == "grid")
    return onnx.numpy_helper.to_array(grid)


def one_shifted(grid: Array) -> Array:
    changed = grid.copy()
    changed[150, 2] += 1
    return changed


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_models_do_not_pass(kind: str) -> None:
    assert compared_on_cpu(detector(), WRONG[kind]()).verdict != "pass"


@pytest.mark.parametrize("kind", ["one channel of a class", "one box shifted"])
def test_what_is_not_selected_is_compared_too(kind: str) -> None:
    found = compared_on_cpu(detector(), WRONG[kind]())
    assert found.verdict == "fail"
    assert found.reason.startswith("before ArgMax, TopK: ")


def test_a_tolerance_that_is_asked_for_is_one_of_the_outputs() -> None:
    found = compared_on_cpu(detector(), detector(), rtol=1e-3)
    assert [output.name for output in found.outputs] == ["boxes", "scores", "labels"]
    assert found.selection is None


# --- Where models are cut -------------------------------------------------------------------------


CLASSES = (
    "(float[N,3,20,20] x) => (int64[N,1,20,20] y) {{ c = Conv<pads=[1,1,1,1]>(x, first) "
    "r = Relu(c) l = Conv(r, second) s = Softmax<axis=1>(l) i = Identity(l) {last} }}"
)


def classes(last: str = "y = ArgMax<axis=1>(l)", **changes: Array) -> onnx.ModelProto:
    """Return a class of eleven for each pixel."""
    weights: dict[str, Any] = {"first": normal(6, 3, 3, 3), "second": normal(11, 6, 1, 1)} | changes
    return build(CLASSES.format(last=last), **weights)


def one_weight_off(share: float) -> Array:
    second = normal(11, 6, 1, 1)
    second[3, 2] *= 1 + share
    return second


@pytest.mark.parametrize(
    "last", ["y = ArgMax<axis=1>(i)", "k = ArgMax<axis=1>(l) y = Cast<to=7>(k)"]
)
def test_what_classes_are_taken_from_is_compared(last: str) -> None:
    found = compared_on_cpu(
        classes(), classes("y = ArgMax<axis=1>(i)", second=rounded(normal(11, 6, 1, 1)))
    )
    assert (found.verdict, found.reason) == ("pass", "")
    assert [output.name for output in found.outputs] == ["l"]
    assert found.selection is not None
    assert (found.selection.operators, found.selection.outputs) == (["ArgMax"], ["y"])
    assert found.selection.rows == found.selection.same > 5000
    found = compared_on_cpu(classes(last), classes(last, second=one_weight_off(1e-5)))
    assert found.verdict == "fail"
    assert "before ArgMax: " in found.reason


def test_a_softmax_before_classes_changes_none() -> None:
    for last in ("y = ArgMax<axis=1>(s)", "t = Mul(l, two) y = ArgMax<axis=1>(t)"):
        more = {"two": np.array(2, np.float32)} if "two" in last else {}
        for pair in ((classes(), classes(last, **more)), (classes(last, **more), classes())):
            found = compared_on_cpu(*pair)
            assert found.verdict == "pass"
            assert [output.name for output in found.outputs] == ["l"]
    assert compared_on_cpu(classes(), classes("y = ArgMin<axis=1>(l)")).verdict == "fail"
    for share in (0.1, 1e-4):
        wrong = classes("y = ArgMax<axis=1>(s)", second=one_weight_off(share))
        assert compared_on_cpu(classes(), wrong).verdict == "fail"


def test_a_class_that_is_always_the_same_is_no_riddle() -> None:
    bias = "b = Add(l, bias) y = ArgMax<axis=1>(b)"
    sure = {"bias": np.float32(1e3) * (np.arange(11) == 4).astype("f").reshape(1, 11, 1, 1)}
    assert compared_on_cpu(classes(bias, **sure), classes(bias, **sure)).verdict == "pass"
    wrong = compared_on_cpu(
        classes(bias, **sure), classes(bias, second=one_weight_off(0.1), **sure)
    )
    assert wrong.verdict == "fail"


def test_operator_sets_that_one_model_alone_imports_are_no_difference() -> None:
    other = classes(second=rounded(normal(11, 6, 1, 1)))
    other.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    assert compared_on_cpu(classes(), other).selection is not None
    other.opset_import[0].version = 18
    assert compared_on_cpu(classes(), other).selection is None


def test_models_without_a_selection_are_not_cut(tmp_path: Path) -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    assert cut(tmp_path, model, model) is None


def test_a_selection_of_constants_is_none(tmp_path: Path) -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] y) { v, i = TopK(c, k) y = Mul(x, v) }",
        c=normal(6),
        k=np.array([4]),
    )
    assert cut(tmp_path, model, model) is None


TOP = "(float[N,9] x) => (float[N,4] y) {{ a = Relu(x) {first} v, i = TopK({read}, k) {after} }}"


def top(first: str = "", read: str = "a", after: str = "y = Neg(v)", **more: Array) -> Any:
    text = TOP.format(first=first, read=read, after=after)
    weights: dict[str, Any] = {"k": np.array([4]), **more}
    return build(text, **weights)


def test_the_operands_of_a_selection_are_what_is_compared(tmp_path: Path) -> None:
    assert names(cut(tmp_path, top(), top())) == {"a"}


@pytest.mark.parametrize("after", ["y = Abs(v)", "w = Neg(v) y = Relu(w)", "y = Mul(v, s)"])
def test_what_comes_after_a_selection_is_run_where_it_differs(tmp_path: Path, after: str) -> None:
    weights: dict[str, Any] = {"s": np.array([-1.001], np.float32)} if " s)" in after else {}
    found = cut(tmp_path, top(), top(after=after, **weights))
    assert names(found, tails=True) == {"a"}
    assert found is not None
    assert found.tails is not None
    one, other = found.tails
    assert [node.op_type for node in one.graph.node] == ["TopK", "Neg"]
    assert [value.name for value in one.graph.input] == ["x", "a"]
    assert [value.name for value in other.graph.output] == ["y"]
    assert "Relu" not in [node.op_type for node in other.graph.node][:1]


def test_other_constants_after_a_selection_are_not_taken_for_equal(tmp_path: Path) -> None:
    after = "y = Mul(v, s)"
    one, other = (top(after=after, s=np.array([f], np.float32)) for f in (2, 2.001))
    assert names(cut(tmp_path, one, one)) == {"a"}
    assert names(cut(tmp_path, one, other), tails=True) == {"a"}


def test_values_of_one_name_are_cut_at_only_if_both_models_compute_them(tmp_path: Path) -> None:
    """The other model has another name for what the original selects from."""
    other = top(first="b = Relu(a)", read="b", after="w = Neg(v) y = Identity(w)")
    assert names(
        cut(tmp_path, top(after="y = Mul(v, s)", s=np.array(-1, np.float32)), other), tails=True
    ) == {"a"}


def test_copies_and_slices_of_everything_are_no_difference(tmp_path: Path) -> None:
    other = top(
        after="w = Identity(v) z = Slice(w, zero, end) y = Neg(z)",
        zero=np.array([0]),
        end=np.array([2**63 - 1]),
    )
    assert names(cut(tmp_path, top(), other)) == {"a"}
    other = top(
        after="z = Slice(v, zero, end) y = Neg(z)", zero=np.array([1]), end=np.array([2**63 - 1])
    )
    assert names(cut(tmp_path, top(), other), tails=True) == {"a"}


def test_expressions_of_constants_are_computed(tmp_path: Path) -> None:
    one = top(after="t = Add(s, s) y = Mul(v, t)", s=np.array([1], np.float32))
    other = top(after="y = Mul(v, u)", u=np.array([2], np.float32))
    assert names(cut(tmp_path, one, other)) == {"a"}


def test_operators_that_round_nothing_are_passed(tmp_path: Path) -> None:
    model = top(first="b = Transpose<perm=[0,1]>(a) c = Gather<axis=1>(b, k)", read="b")
    assert names(cut(tmp_path, model, model)) == {"a"}


def test_a_value_may_have_another_name_in_the_other_model(tmp_path: Path) -> None:
    other = build(
        "(float[N,9] x) => (float[N,4] y) { b = Abs(x) a = Relu(b) w, j = TopK(b, k) y = Neg(w) }",
        k=np.array([4]),
    )
    found = cut(tmp_path, top(), other)
    assert names(found) == {"a'"}


def test_bodies_are_compared_with_what_they_read(tmp_path: Path) -> None:
    def branching(inner: str, outer: str = "a") -> onnx.ModelProto:
        text = (
            "(float[9] x) => (float[4] y) { a = Relu(x) b = Sigmoid(x) s = ReduceSum<keepdims=0>(x)"
            " yes = Greater(s, z) y = If<"
            f"then_branch = g1 () => (float[4] p) {{ p, q = TopK({outer}, k) }}, "
            f"else_branch = g2 () => (float[4] r) {{ t, u = TopK(b, k) r = {inner} }}>(yes) }}"
        )
        return build(text, k=np.array([4]), z=np.array(0, np.float32))

    assert names(cut(tmp_path, branching("Neg(t)"), branching("Neg(t)"))) == {"a", "b", "s"}
    wrong = cut(tmp_path, branching("Neg(t)"), branching("Abs(t)"))
    assert names(wrong, tails=True) == {"a", "b", "s"}
    others = names(cut(tmp_path, branching("Neg(t)"), branching("Neg(t)", "b")))
    assert len(others) == 3  # two of them under one name, which is compared and fails


def test_random_operators_are_not_taken_for_equal(tmp_path: Path) -> None:
    model = top(after="r = RandomNormalLike(v) y = Add(v, r)")
    assert cut(tmp_path, model, model) is None


def test_models_of_other_opsets_are_not_cut(tmp_path: Path) -> None:
    other = top()
    other.opset_import[0].version = 16
    assert cut(tmp_path, top(), other) is None


def test_a_deep_network_before_classes_is_no_recursion() -> None:
    lines = " ".join(f"h{k} = Relu(h{k - 1})" for k in range(1, 1500))
    last = "y = ArgMax<axis=1>(h1499)"
    text = f"(float[N,9] x) => (int64[N,1] y) {{ h0 = MatMul(x, w) {lines} {last} }}"
    one, other = (build(text, w=w) for w in (normal(9, 9), rounded(normal(9, 9))))
    found = compared_on_cpu(one, other)
    assert (found.verdict, [output.name for output in found.outputs]) == ("pass", ["h1499"])


def test_constants_are_computed_through_long_chains(tmp_path: Path) -> None:
    lines = " ".join(f"k{n} = Add(k{n - 1}, one)" for n in range(1, 1500))
    text = (
        f"(float[N,9] x) => (int64[N,1] y) {{ k0 = Identity(one) {lines} "
        "h = MatMul(x, w) g = Mul(h, k1499) y = ArgMax<axis=1>(g) }"
    )
    one, other = (
        build(text, w=normal(9, 9), one=np.array(number, np.float32)) for number in (1, 2)
    )
    assert names(cut(tmp_path, one, one)) == {"g"}
    assert names(cut(tmp_path, one, other)) == {"g"}
