"""Maps of parts of the channels: through a Concat downstream, into what reads those channels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfold.algebra import parts
from bnfold.algebra.carrying import NotCarried
from bnfold.algebra.linear import NotAbsorbed
from bnfold.algebra.reach import NotReached
from bnfold.rewriting.contract import Common, Refusal
from tests.support.graphs import Parameters, batch_norm, build, normal, only_node, operators
from tests.support.passes import assert_rewritten, run_pass

NAME = "fold-batchnorm"
FREE = {"H": 5, "W": 3}


def assert_refused_after(model: onnx.ModelProto, reason: Refusal, subject: str) -> None:
    """Assert that nothing changes, and what keeps the map from the operators after it."""
    record = run_pass(model, NAME).record
    assert record.output is not None
    assert record.output.same
    refusals = [(refusal.also_reason, refusal.also_in_the_way) for refusal in record.refusals]
    assert refusals == [(reason.name, subject)]


# --- Concat, downstream -------------------------------------------------------------------------


def concat(lines: str, axis: int = 1, rank: int = 4, **weights: object) -> onnx.ModelProto:
    """Return a BatchNormalization n of 3 channels beside a Sigmoid p of x, and lines after them."""
    shape = ",".join(["N", "3", "H", "W"][:rank])
    return build(
        f"(float[{shape}] x) => (float[{','.join('ahbwcd'[: 2 if 'Gemm' in lines else rank])}] y) "
        f"{{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) p = Sigmoid(x) "
        f"{lines.replace('AXIS', str(axis))} }}",
        **batch_norm(3),
        **weights,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("branches", ["n, p", "p, n", "p, n, r", "n, n, p"])
@pytest.mark.parametrize(("rank", "axis"), [(2, 1), (3, 1), (4, -3)])
def test_one_branch_of_a_concat_folds_into_the_weights_that_read_it(
    branches: str, rank: int, axis: int
) -> None:
    channels = 3 * len(branches.split(", "))
    weight = normal(channels, 2) if rank == 2 else normal(2, channels, *[1] * (rank - 2))
    reader = "Gemm" if rank == 2 else "Conv"
    model = concat(f"c = Concat<axis=AXIS>({branches}) y = {reader}(c, w)", axis, rank, w=weight)
    expected = ["Relu", "Sigmoid", "Concat", reader]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


@pytest.mark.parametrize(
    ("lines", "channels"),
    [
        ("q = AveragePool<kernel_shape=[1,1]>(n) c = Concat<axis=1>(q, n, p)", 9),
        ("q = Concat<axis=1>(n, p) c = Concat<axis=1>(q, n)", 9),
        ("q = Concat<axis=1>(n, p) c = Concat<axis=1>(n, q)", 9),
        ("q = AveragePool<kernel_shape=[1,1]>(n) c = Concat<axis=1>(q, n)", 6),
        ("q = AveragePool<kernel_shape=[1,1]>(n) t = AveragePool<kernel_shape=[1,1]>(q) "
         "c = Concat<axis=1>(t, n)", 6),
        ("q = AveragePool<kernel_shape=[1,1]>(n) c = Concat<axis=2>(q, n)", 3),
        ("q = Transpose<perm=[0,2,3,1]>(n) t = Transpose<perm=[0,2,3,1]>(p) "
         "u = Concat<axis=-1>(t, q) c = Transpose<perm=[0,3,1,2]>(u)", 6),
    ],
)  # fmt: skip
def test_a_map_that_comes_in_on_several_ways_is_joined(lines: str, channels: int) -> None:
    model = concat(f"{lines} y = Conv(c, w)", w=normal(2, channels, 1, 1))
    if "p)" not in lines and "(p" not in lines:
        model.graph.node.remove(only_node(model, "Sigmoid"))
    expected = [op for op in operators(model) if op != "BatchNormalization"]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


def test_each_branch_has_a_map_of_its_own() -> None:
    others = {f"{name}2": array for name, array in batch_norm(3, seed=1).items()}
    model = concat(
        "o = BatchNormalization(p, s2, b2, m2, v2) c = Concat<axis=1>(n, o) y = Conv(c, w)",
        w=normal(2, 6, 1, 1),
        **others,
    )
    expected = ["Relu", "Sigmoid", "Concat", "Conv"]
    assert_rewritten(model, NAME, expected, sizes=FREE, certified=True)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("branches", ["n, p", "n, n"])
def test_one_scale_for_all_elements_beside_another_branch(branches: str, axis: int) -> None:
    """Along another axis than the channels', it would be no map of the channels any more."""
    model = build(
        "(float[N,3,4,4] x) => (float[N,2,h,v] y) "
        f"{{ r = Relu(x) n = Mul(r, k) p = Abs(x) c = Concat<axis={axis}>({branches}) "
        "y = Conv<pads=[1,1,1,1]>(c, w) }",
        k=np.array(2, np.float32),
        w=normal(2, 3 if axis > 1 else 6, 3, 3),
    )
    if branches == "n, n":
        model.graph.node.remove(only_node(model, "Abs"))
    expected = operators(model)
    if axis == 1 or branches == "n, n":
        expected.remove("Mul")
    certified = len(expected) < len(model.graph.node)
    assert_rewritten(model, "fold-scale-shift", expected, certified=certified)


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_types(kind: str, dtype: type[np.generic]) -> None:
    model = build(
        f"({kind}[N,3] x) => ({kind}[N,2] y) {{ r = Relu(x) n = BatchNormalization(r, s, b, m, v) "
        "p = Abs(x) c = Concat<axis=1>(p, n) y = Gemm(c, w, d) }",
        w=normal(6, 2, dtype=dtype),
        d=normal(2, dtype=dtype),
        **batch_norm(3, dtype=dtype),
    )
    close = 1e-2 if kind == "float16" else 1e-12
    expected = ["Relu", "Abs", "Concat", "Gemm"]
    assert_rewritten(model, NAME, expected, rtol=close, atol=close, certified=True)


def test_two_scales_of_one_value_do_not_join_along_another_axis() -> None:
    model = build(
        "(float[N,3,4] x) => (float[N,2,h] y) "
        "{ r = Relu(x) n = Mul(r, k) q = Mul(n, l) c = Concat<axis=2>(n, q) y = Conv(c, w) }",
        k=normal(3, 1),
        l=np.full((3, 1), 2, np.float32),
        w=normal(2, 3, 1),
    )
    assert operators(run_pass(model, "fold-scale-shift").to_proto()) == operators(model)


REFUSED_CONCATS: list[tuple[str, Refusal, str]] = [
    ("c = Concat<axis=1>(n, p) y = Conv<pads=[1,1,1,1]>(c, w)", NotAbsorbed.PADDED_SHIFT, "Conv y"),
    ("c = Concat<axis=2>(n, p) y = Conv(c, w)", NotCarried.PARTS_DIFFER, "Concat c"),
    ("q = Neg(n) c = Concat<axis=2>(n, q) y = Conv(c, w)", NotCarried.PARTS_DIFFER, "Concat c"),
    ("q = Slice(n, zero, three, two) i = Slice(q, zero, three, three) "
     "t = Transpose<perm=[0,2,1,3]>(i) c = Concat<axis=3>(i, t) y = Conv(c, w)",
     NotCarried.PARTS_DIFFER, "Concat c"),
    ("q = Reshape(p, free) c = Concat<axis=1>(n, q) y = Conv(c, w)", Common.SHAPE_UNKNOWN,
     "Concat c"),
    ("c = Concat<axis=1>(n, p) e = Exp(c) y = Conv(e, w)", NotReached.READER_NOT_LINEAR, "Exp e"),
    ("c = Concat<axis=1>(n, p) y = Conv(c, w) e = Concat<axis=0>(c, c) z = Conv(e, w) i = Sin(c)",
     NotReached.READER_NOT_LINEAR, "Sin i"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "reason", "subject"), REFUSED_CONCATS)
def test_refuses_a_concat(lines: str, reason: Refusal, subject: str) -> None:
    channels = 6 if "axis=1" in lines else 3
    weights: Parameters = {"w": normal(2, channels, 3 if "pads" in lines else 1, 1)}
    if "three" in lines:
        weights |= {"zero": np.array([0]), "two": np.array([2]), "three": np.array([3])}
    model = concat(lines, **weights)
    if "free" in lines:
        model.graph.input.append(helper.make_tensor_value_info("free", TensorProto.INT64, [4]))
    assert_refused_after(model, reason, subject)


def test_refuses_more_channels_than_it_follows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MOST_CHANNELS", 5)
    model = concat("c = Concat<axis=1>(n, p) y = Conv(c, w)", w=normal(2, 6, 1, 1))
    assert_refused_after(model, NotCarried.TOO_MANY_CHANNELS, "Concat c")


def test_a_concat_whose_size_is_read_keeps_it() -> None:
    model = concat("c = Concat<axis=1>(p, n) z = Shape(c) y = Conv(c, w)", w=normal(2, 6, 1, 1))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT64, [4]))
    expected = ["Relu", "Sigmoid", "Concat", "Shape", "Conv"]
    assert_rewritten(model, NAME, expected, sizes=FREE)
