"""Scales before what is rearranged compute the same, and attention is proven by its weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.scales_first import with_scales_first
from bnfold.proof.certificates.windows import Window
from tests.support.evaluate import run_float64
from tests.support.graphs import Parameters, build, normal
from tests.support.windows import scaled, window


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def moved(interface: str, lines: str, weights: Parameters) -> Window:
    """Return a window of one body on both sides, with its scales first."""
    pair = window(interface, lines, lines, weights)
    return with_scales_first(Window(*map(shaped, pair.models)))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type != "Identity"]


QKV = "(float[2,5,8] x) => (float[a,b,c,d] y, float[e,f,g,h] k, float[i,j,l,m] v)"
NUMBERS: Parameters = {
    "w": normal(8, 24),
    "heads": np.array([-1, 5, 3, 2, 4]),
    "flat": np.array([0, 2, 3, 4, 5]),
    "half": np.array(0.5, np.float32),
    "each": normal(4, seed=2),
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "i2": np.array([2]),
    "i3": np.array([3]),
    "i4": np.array([4]),
    "parts": np.array([1, 2]),
}
SPLIT = (
    "p = MatMul(x, w) r = Reshape(p, heads) t = Transpose<perm=[2,0,3,1,4]>(r) "
    "a, b, c = Split<axis=0>(t) q = Squeeze(a, i0) k = Squeeze(b, i0) v = Squeeze(c, i0) "
    "y = Mul(q, {})"
)
GATHER = (
    "p = MatMul(x, w) r = Reshape(p, heads) q = Gather<axis=2>(r, zero) "
    "k = Gather<axis=2>(r, one) v = Gather<axis=2>(r, two) y = Mul({}, q)"
)
SLICE = (
    "p = MatMul(x, w) r = Reshape(p, heads) a = Slice(r, i0, i1, i2) b = Slice(r, i1, i2, i2) "
    "c = Slice(r, i2, i3, i2) q = Squeeze(a, i2) k = Squeeze(b, i2) v = Squeeze(c, i2) "
    "y = Mul(q, {})"
)


@pytest.mark.parametrize("lines", [SPLIT, GATHER, SLICE])
@pytest.mark.parametrize("scale", ["half", "each"])
def test_a_query_is_scaled_in_the_product(lines: str, scale: str) -> None:
    pair = moved(QKV, lines.format(scale), NUMBERS)
    assert operators(pair.before)[:2] == ["MatMul", "Mul"]
    assert operators(pair.before).count("Mul") == 1
    plain = build(f"{QKV} {{ {lines.format(scale)} }}", **NUMBERS)
    feeds = {"x": normal(2, 5, 8, seed=5)}
    for one, other in zip(run_float64(plain, feeds), run_float64(pair.before, feeds), strict=True):
        assert np.allclose(one, other, 1e-12, 1e-12)


@pytest.mark.parametrize("lines", [SPLIT, GATHER, SLICE])
def test_what_is_folded_into_the_product_is_certified_by_weights(lines: str) -> None:
    scale = np.ones(24)
    scale[:8] = 0.5
    plain = lines.rpartition("y = ")[0].replace("q = ", "y = ")
    right, wrong = (
        {**NUMBERS, "w": scaled(normal(8, 24), each, axis=1)} for each in (scale, scale[::-1])
    )
    for weights, verdict, kind in ((right, "certified", "weights"), (wrong, "differs", "")):
        pair = window(QKV, lines.format("half"), plain, NUMBERS, weights)
        found = certify(Window(*map(shaped, pair.models)))
        assert (found.verdict, found.kind) == (verdict, kind)


KEPT = "(float[2,4,6] x) => (float[a,b,c] y, float[d,e,f] z)"
INPUT = "(float[2,4,6] x) => (float[a,b,c] y)"
BRANCHES = (
    "z = If(yes) <then_branch = t () => (float[2,4,6] r) { r = Neg(n) }, "
    "else_branch = e () => (float[2,4,6] s) { s = Abs(n) }>"
)


@pytest.mark.parametrize(
    ("interface", "lines"),
    [
        (KEPT, "a, b = Split<axis=1>(x) y = Mul(a, half) z = Neg(b)"),  # of an input
        (KEPT, "n = Neg(x) a = Slice(n, i0, i2, i1) b = Slice(n, i1, i3, i1) y = Mul(a, half) "
         "z = Neg(b)"),  # that share elements
        (KEPT, "n = Neg(x) a = Slice(n, i0, i2, i1) b = Slice(n, i2, i4, i2) y = Mul(a, half) "
         "z = Neg(b)"),  # along two axes
        (KEPT, "n = Neg(x) a = Slice(n, i0, i2, i1) y = Mul(a, half) z = Abs(n)"),  # and all of it
        (KEPT, "z = Neg(x) a = Slice(z, i0, i2, i1) y = Mul(a, half)"),  # of an output
        (KEPT, "n = Neg(x) a, z = Split<axis=1>(n) y = Mul(a, z)"),  # by what is no constant
        (KEPT, "n = Neg(x) a, b = Split<axis=1>(n) y = Mul(a, half) z = Mul(a, b)"),  # read twice
        (KEPT, "n = Neg(x) z, b = Split<axis=1>(n) y = Mul(z, half)"),  # an output is a part
        (INPUT, "a, b = Split<axis=1>(x) c = Slice(b, i0, i1, i1) y = Mul(c, half)"),
        (KEPT, f"n = Neg(x) a, b = Split<axis=1>(n) y = Mul(a, half) {BRANCHES}"),
        (INPUT, "n = Neg(x) y = Mul(n, half)"),  # no part
        (INPUT, "n = Neg(x) a = Slice(n, i0, i1, i1) y = Mul(a, column)"),  # that spreads
    ],
)  # fmt: skip
def test_what_stays(interface: str, lines: str) -> None:
    column = normal(3, 1)
    pair = window(interface, lines, lines, {**NUMBERS, "column": column, "yes": np.array(True)})
    pair = Window(*map(shaped, pair.models))
    assert with_scales_first(pair) is pair


def test_of_a_free_batch_too() -> None:
    interface = QKV.replace("[2,5,8]", "[N,5,8]")
    pair = moved(interface, SPLIT.format("half"), NUMBERS)
    assert operators(pair.before)[:2] == ["MatMul", "Mul"]


def test_rows_that_a_reshape_mixes_are_not_scaled_before() -> None:
    """What lies before and after the scaled axis is unknown on both sides, and not the same."""
    interface = "(float[N,8,M] x) => (float[a,b,c] y, float[d,e,f] z)"
    lines = "n = Neg(x) r = Reshape(n, three) a, z = Split<axis=1>(r, halves) y = Mul(a, half)"
    weights: Parameters = {"three": np.array([-1, 8, 3]), "halves": np.array([2, 6])}
    pair = moved(interface, lines, {**NUMBERS, **weights})
    feeds = {"x": normal(3, 8, 5)}
    results = run_float64(build(f"{interface} {{ {lines} }}", **NUMBERS, **weights), feeds)
    for one, other in zip(results, run_float64(pair.before, feeds), strict=True):
        assert np.allclose(one, other, 1e-12, 1e-12)


STEPS = ("transpose", "split", "squeeze", "merge", "divide", "slice", "gather", "flatten")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_rearrangement_computes_the_same(data: st.DataObject) -> None:
    """Of a chain of random steps, of which any part is scaled."""
    shape = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    given = [*shape]
    weights: Parameters = {}
    lines, parts, name, count = ["v = Neg(x)"], list[tuple[str, int]](), "v", 0

    def fresh() -> str:
        nonlocal count
        count += 1
        return f"n{count}"

    def constant(content: list[int] | int) -> str:
        weights[made := f"c{fresh()}"] = np.array(content)
        return made

    for _ in range(data.draw(st.integers(1, 5))):
        step, result = data.draw(st.sampled_from(STEPS)), fresh()
        axis = data.draw(st.integers(0, len(shape) - 1))
        if step == "transpose":
            order = data.draw(st.permutations(range(len(shape))))
            lines.append(f"{result} = Transpose<perm={[*order]}>({name})")
            shape = [shape[each] for each in order]
        elif step == "split" and shape[axis] > 1:
            first = data.draw(st.integers(1, shape[axis] - 1))
            sizes = constant([first, shape[axis] - first])
            other = fresh()
            lines.append(f"{result}, {other} = Split<axis={axis}>({name}, {sizes})")
            parts.append((other, len(shape)))
            shape = [*shape[:axis], first, *shape[axis + 1 :]]
        elif step == "slice":
            start = data.draw(st.integers(0, shape[axis] - 1))
            stride = data.draw(st.sampled_from([1, 2]))
            ends = constant([shape[axis]])
            where = ", ".join([constant([start]), ends, constant([axis]), constant([stride])])
            lines.append(f"{result} = Slice({name}, {where})")
            shape = [*shape[:axis], len(range(start, shape[axis], stride)), *shape[axis + 1 :]]
        elif step == "gather" and len(shape) > 1:
            place = data.draw(st.integers(-shape[axis], shape[axis] - 1))
            lines.append(f"{result} = Gather<axis={axis}>({name}, {constant(place)})")
            shape = [*shape[:axis], *shape[axis + 1 :]]
        elif step == "squeeze" and shape[axis] == 1 and len(shape) > 1:
            lines.append(f"{result} = Squeeze({name}, {constant([axis])})")
            shape = [*shape[:axis], *shape[axis + 1 :]]
        elif step == "merge" and axis + 1 < len(shape):
            shape = [*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]]
            lines.append(f"{result} = Reshape({name}, {constant(shape)})")
        elif step == "divide" and shape[axis] in (2, 4):
            shape = [*shape[:axis], 2, shape[axis] // 2, *shape[axis + 1 :]]
            lines.append(f"{result} = Reshape({name}, {constant(shape)})")
        elif step == "flatten":
            lines.append(f"{result} = Flatten<axis={axis}>({name})")
            shape = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
        else:
            continue
        name = result
    own = [data.draw(st.sampled_from([1, size])) for size in shape]
    outputs = []
    for number, (part, rank) in enumerate([(name, len(shape)), *parts]):
        weights[f"s{number}"] = normal(*own) if number == 0 else normal(1, seed=number)
        lines.append(f"y{number} = Mul({part}, s{number})")
        outputs.append(
            f"float[{', '.join(f'{axis}_{number}' for axis in 'abcdefgh'[:rank])}] y{number}"
        )
    interface = f"(float[{','.join(map(str, given))}] x) => ({', '.join(outputs)})"
    model = shaped(build(f"{interface} {{ {' '.join(lines)} }}", **weights))
    pair = with_scales_first(Window(model, model))
    feeds = {"x": normal(*given, seed=9)}
    results = run_float64(model, feeds), run_float64(pair.before, feeds)
    for before, after in zip(*results, strict=True):
        assert before.shape == after.shape
        assert np.allclose(before, after, 1e-12, 1e-12)
