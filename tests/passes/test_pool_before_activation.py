"""pool-before-activation: which functions commute, which windows are safe, and what pays off."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bnfold.algebra.elementwise import ELEMENTWISE, NotMonotone
from bnfold.algebra.pooling import Pool
from bnfold.rewriting.contract import Common
from bnfold_passes.pool_before_activation import Why
from tests.support.evaluate import assert_equivalent, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "pool-before-activation"
POOL = "MaxPool<kernel_shape=[2,2], strides=[2,2]>"


def swap(
    function: str, *, pool: str = POOL, opset: int = 17, size: str = "8,8", **weights: Array
) -> onnx.ModelProto:
    """Return ``pool(function)``, where the function reads x."""
    return build(
        f"(float[N,4,{size}] x) => (float[N,4,h,w] y) {{ f = {function} y = {pool}(f) }}",
        opset=opset,
        ir_version=10 if opset > 20 else 8,
        **weights,
    )


# --- Functions ------------------------------------------------------------------------------

PIECEWISE = [
    "Relu(x)",
    "LeakyRelu<alpha=0.0>(x)",
    "LeakyRelu<alpha=0.3>(x)",
    "LeakyRelu(x)",
    "ThresholdedRelu<alpha=0.5>(x)",
    "ThresholdedRelu(x)",
    "Floor(x)",
    "Ceil(x)",
    "Round(x)",
    "Sign(x)",
    "Clip(x, low, high)",
    "Clip(x, , high)",
    "Clip(x)",
    "PRelu(x, slope)",
    "Mul(x, scale)",
    "Mul(scale, x)",
    "Div(x, divisor)",
    "Add(x, term)",
    "Add(term, x)",
    "Sub(x, term)",
    "Add(x, scalar)",
    "Mul(x, low_rank)",
]
TRANSCENDENTAL = [
    "HardSigmoid(x)",
    "HardSigmoid<alpha=0.0>(x)",
    "Elu(x)",
    "Elu<alpha=0.0>(x)",
    "Selu(x)",
    "Celu(x)",
    "Celu<alpha=0.5>(x)",
    "Sigmoid(x)",
    "Tanh(x)",
    "Softplus(x)",
    "Softsign(x)",
    "Erf(x)",
    "Exp(x)",
    "Atan(x)",
    "BatchNormalization(x, s, b, m, v)",
]
WEIGHTS: Parameters = {
    "low": np.array(-0.5, np.float32),
    "high": np.array(0.7, np.float32),
    "slope": np.array([0, 0.1, 0.2, 2], np.float32).reshape(4, 1, 1),
    "scale": np.array([0, 0.1, 1, 2], np.float32).reshape(1, 4, 1, 1),
    "divisor": np.array([0.5, 0.1, 1, 2], np.float32).reshape(4, 1, 1),
    "term": normal(1, 4, 1, 1),
    "scalar": np.array(-2.5, np.float32),
    "low_rank": np.array([1.5], np.float32),
} | (batch_norm(4) | {"s": np.array([0, 0.1, 1, 2], np.float32)})


def used(function: str) -> Parameters:
    names = function.partition("(")[2].rstrip(")").replace(" ", "").split(",")
    return {name: WEIGHTS[name] for name in names if name in WEIGHTS}


@pytest.mark.parametrize("function", PIECEWISE + TRANSCENDENTAL)
def test_the_pool_moves_before(function: str) -> None:
    name = function.partition("(")[0].partition("<")[0]
    model = swap(function, **used(function))
    tolerance = 0.0 if function in PIECEWISE else 1e-6
    assert_rewritten(model, NAME, ["MaxPool", name], rtol=tolerance, atol=tolerance)
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.exactness == ("bitwise" if function in PIECEWISE else "rounded")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("LeakyRelu<alpha=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("ThresholdedRelu<alpha=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("Elu<alpha=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("Selu<alpha=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("Selu<gamma=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("Celu<alpha=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("HardSigmoid<alpha=-0.1>(x)", NotMonotone.NEGATIVE_SLOPE),
        ("PRelu(x, negative)", NotMonotone.NEGATIVE_SLOPE),
        ("Mul(x, negative)", NotMonotone.NEGATIVE_SLOPE),
        ("Div(x, negative)", NotMonotone.NEGATIVE_SLOPE),
        ("Div(x, zero)", NotMonotone.NEGATIVE_SLOPE),
        ("BatchNormalization(x, minus, b, m, v)", NotMonotone.NEGATIVE_SLOPE),
        ("BatchNormalization<training_mode=1>(x, s, b, m, v)", Common.TRAINING_MODE),
        ("Sub(term, x)", NotMonotone.NOT_MONOTONE),
        ("Div(scale, x)", NotMonotone.NOT_MONOTONE),
        ("Abs(x)", NotMonotone.NOT_MONOTONE),
        ("Neg(x)", NotMonotone.NOT_MONOTONE),
        ("HardSwish(x)", NotMonotone.NOT_MONOTONE),
        ("Mish(x)", NotMonotone.NOT_MONOTONE),
        ("Sin(x)", NotMonotone.NOT_MONOTONE),
        ("Log(x)", NotMonotone.NOT_TOTAL),
        ("Sqrt(x)", NotMonotone.NOT_TOTAL),
        ("Add(x, x)", NotMonotone.TWO_VALUES),
        ("Mul(x, x)", NotMonotone.TWO_VALUES),
        ("PRelu(x, x)", Common.PARAMETER_NOT_CONSTANT),
        ("Add(x, per_column)", NotMonotone.VARIES_IN_SPACE),
        ("Mul(x, per_row)", NotMonotone.VARIES_IN_SPACE),
        ("PRelu(x, per_column)", NotMonotone.VARIES_IN_SPACE),
        ("Add(x, rank_5)", NotMonotone.VARIES_IN_SPACE),
    ],
)
def test_refuses_what_does_not_commute(function: str, reason: NotMonotone) -> None:
    weights = used(function)
    extra = {
        "negative": np.array([1, 1, -0.1, 1], np.float32).reshape(4, 1, 1),
        "minus": np.array([1, 1, -0.1, 1], np.float32),
        "zero": np.array([1, 0, 1, 1], np.float32).reshape(4, 1, 1),
        "per_column": np.abs(normal(8)),
        "per_row": np.abs(normal(8, 1)),
        "rank_5": normal(1, 1, 1, 1, 1),
    }
    weights |= named_in(function, extra)
    assert_refused(swap(function, opset=18, **weights), NAME, reason)


@pytest.mark.parametrize("operator", ["Add", "Mul", "Sub", "Div"])
def test_refuses_a_parameter_that_a_caller_may_replace(operator: str) -> None:
    model = swap(f"{operator}(x, k)", opset=18, k=np.abs(normal(4, 1, 1)))
    reason = Common.PARAMETER_NOT_CONSTANT
    assert_refused(make_overridable(model, "k"), NAME, reason)


def test_channels_as_many_as_columns_are_still_not_channels() -> None:
    """A bare (C,) aligns with the last axis, also where C equals the width."""
    model = swap("Mul(x, k)", size="4,4", k=np.abs(normal(4)))
    assert_refused(model, NAME, NotMonotone.VARIES_IN_SPACE)


@pytest.mark.parametrize(("source", "target"), [("float", 11), ("int8", 1), ("uint8", 11)])
def test_a_widening_cast_moves_after(source: str, target: int) -> None:
    kind = {1: "float", 11: "double"}[target]
    model = build(
        f"({source}[N,4,8,8] x) => ({kind}[N,4,4,4] y) {{ f = Cast<to={target}>(x) y = {POOL}(f) }}"
    )
    assert_rewritten(model, NAME, ["MaxPool", "Cast"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("source", "target", "opset"),
    [("double", 1, 17), ("int32", 1, 17), ("int64", 11, 17), ("int8", 1, 11)],
)
def test_refuses_a_narrowing_cast(source: str, target: int, opset: int) -> None:
    kind = {1: "float", 11: "double"}[target]
    model = build(
        f"({source}[N,4,8,8] x) => ({kind}[N,4,4,4] y) "
        f"{{ f = Cast<to={target}>(x) y = {POOL}(f) }}",
        opset=opset,
    )
    assert_refused(model, NAME, NotMonotone.NARROWING_CAST)


def test_every_listed_operator_is_tested_here() -> None:
    text = Path(__file__).read_text()
    tried = {name for name in ELEMENTWISE if re.search(rf"\W{name}[(<]", text)}
    assert set(ELEMENTWISE) - tried == {"Cos", "Gelu", "Reciprocal", "Swish"}


# --- Pools ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]",
        "kernel_shape=[3,3], strides=[2,2], ceil_mode=1",
        "kernel_shape=[2,2], strides=[2,2], dilations=[2,2]",
        "kernel_shape=[3,3], strides=[2,2], dilations=[2,2], pads=[2,2,2,2]",
        'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"',
        'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_LOWER"',
        'kernel_shape=[3,3], strides=[2,2], auto_pad="VALID"',
        "kernel_shape=[3,2], strides=[1,3], pads=[2,0,1,1]",
    ],
)
def test_windows_that_hold_a_real_element(attributes: str) -> None:
    assert_rewritten(swap("Elu(x)", pool=f"MaxPool<{attributes}>"), NAME, ["MaxPool", "Elu"])


@pytest.mark.parametrize("spatial_rank", [1, 2, 3])
def test_one_to_three_axes(spatial_rank: int) -> None:
    kernel = [2] * spatial_rank
    pool = f"MaxPool<kernel_shape={kernel}, strides={kernel}>"
    model = build(
        f"(float[N,4,{','.join(['6'] * spatial_rank)}] x) => "
        f"(float[N,4,{','.join(['3'] * spatial_rank)}] y) {{ f = Mul(x, k) y = {pool}(f) }}",
        k=np.abs(normal(4, *[1] * spatial_rank)),
    )
    assert_rewritten(model, NAME, ["MaxPool", "Mul"], rtol=0, atol=0)


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[2,2], strides=[3,3], pads=[0,0,2,2]",
        "kernel_shape=[2,2], strides=[2,2], pads=[2,0,0,0]",
    ],
)
def test_refuses_windows_of_only_padding(attributes: str) -> None:
    model = swap("Elu(x)", pool=f"MaxPool<{attributes}>", size="6,6")
    assert_refused(model, NAME, Common.PADDING_ONLY_WINDOW)


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[2,2], strides=[2,2], dilations=[2,2], pads=[1,1,1,1]",
        'kernel_shape=[2,2], strides=[2,2], dilations=[2,2], auto_pad="SAME_UPPER"',
        "kernel_shape=[2,2], strides=[3,3], ceil_mode=1",
    ],
)
def test_refuses_windows_that_may_be_padding_if_sizes_are_free(attributes: str) -> None:
    model = swap("Elu(x)", pool=f"MaxPool<{attributes}>", size="H,W")
    assert_refused(model, NAME, Common.PADDING_ONLY_WINDOW)


def test_refuses_if_no_window_fits() -> None:
    """Some runtimes then use one window of padding, others none."""
    model = build(
        "(float[2,3,1] x) => (float[2,3,l] y) { f = Selu(x) "
        "y = MaxPool<kernel_shape=[2], strides=[2], dilations=[2], pads=[1,0]>(f) }"
    )
    result = run_pass(model, NAME)
    assert [refusal.reason for refusal in result.record.refusals] == [
        Common.PADDING_ONLY_WINDOW.name
    ]


def test_refuses_a_constant_that_adds_an_axis() -> None:
    model = build(
        f"(float[4,8,8] x) => (float[1,4,4,4] y) {{ f = Add(x, k) y = {POOL}(f) }}",
        k=normal(1, 1, 1, 1),
    )
    assert_refused(model, NAME, NotMonotone.VARIES_IN_SPACE)


@pytest.mark.parametrize("function", ["Mul", "Div", "Add", "Sub", "PRelu"])
def test_refuses_a_constant_that_is_not_finite(function: str) -> None:
    model = swap(f"{function}(x, k)", k=np.full((1, 4, 1, 1), np.inf, np.float32))
    assert_refused(model, NAME, NotMonotone.NOT_FINITE)


def test_unused_indices_do_not_matter() -> None:
    model = build(f"(float[N,4,8,8] x) => (float[N,4,4,4] y) {{ f = Elu(x) y, i = {POOL}(f) }}")
    assert_rewritten(model, NAME, ["MaxPool", "Elu"])


def test_refuses_indices_in_use() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,4,4] y, int64[N,4,4,4] i) "
        f"{{ f = Elu(x) y, i = {POOL}(f) }}"
    )
    assert_refused(model, NAME, Common.INDICES_USED)


def test_refuses_a_result_that_something_else_reads() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,4,4] y, float[N,4,8,8] z) "
        f"{{ f = Elu(x) y = {POOL}(f) z = Neg(f) }}"
    )
    assert_refused(model, NAME, Common.SHARED, in_the_way="Elu f")


def test_other_readers_of_the_data_do_not_matter() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,4,4] y, float[N,4,8,8] z) "
        f"{{ f = Elu(x) y = {POOL}(f) z = Neg(x) }}"
    )
    assert_rewritten(model, NAME, ["MaxPool", "Elu", "Neg"])


# --- Profit ---------------------------------------------------------------------------------


def test_refuses_a_pool_that_does_not_shrink() -> None:
    model = swap("Elu(x)", pool="MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>")
    assert_refused(model, NAME, Why.NOT_SMALLER)


FUSED = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip"]
PRODUCERS = {
    "c": "c = Conv(x, w)",
    "t": "t = ConvTranspose(x, w)",
    "n": "c = Conv(x, w) n = BatchNormalization(c, s, b, m, v)",
    "a": "c = Conv(x, w) a = Add(c, x)",
}


@pytest.mark.parametrize(("activation", "value"), list(itertools.product(FUSED, PRODUCERS)))
def test_refuses_what_the_runtime_fuses(activation: str, value: str) -> None:
    weights = batch_norm(4) if value == "n" else {}
    model = build(
        f"(float[N,4,8,8] x) => (float[N,4,4,4] y) "
        f"{{ {PRODUCERS[value]} f = {activation}({value}) y = {POOL}(f) }}",
        w=normal(4, 4, 1, 1),
        **weights,
    )
    assert_refused(model, NAME, Why.FUSED_BY_RUNTIME)


def test_what_the_runtime_does_not_fuse_moves_after_a_conv() -> None:
    model = build(
        f"(float[N,4,8,8] x) => (float[N,4,4,4] y) {{ c = Conv(x, w) f = Elu(c) y = {POOL}(f) }}",
        w=normal(4, 4, 1, 1),
    )
    assert_rewritten(model, NAME, ["Conv", "MaxPool", "Elu"])


def test_a_chain_of_functions_moves_whole() -> None:
    model = build(
        "(float[N,4,8,8] x) => (float[N,4,4,4] y) "
        f"{{ a = Elu(x) b = Tanh(a) c = Floor(b) y = {POOL}(c) }}"
    )
    assert_rewritten(model, NAME, ["MaxPool", "Elu", "Tanh", "Floor"])


# --- Random pools ---------------------------------------------------------------------------


@st.composite
def pools(draw: st.DrawFn) -> tuple[int, dict[str, list[int] | int]]:
    kernel, stride, dilation = (draw(st.integers(1, 3)) for _ in range(3))
    reach = dilation * (kernel - 1)
    pads = [draw(st.integers(0, kernel - 1)) for _ in range(2)]
    size = draw(st.integers(1, 9))
    assume(size + sum(pads) > reach)
    attributes: dict[str, list[int] | int] = {
        "kernel_shape": [kernel],
        "strides": [stride],
        "dilations": [dilation],
        "pads": pads,
        "ceil_mode": draw(st.integers(0, 1)),
    }
    return size, attributes


def written(attributes: dict[str, list[int] | int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in attributes.items())


@settings(max_examples=20, deadline=None)
@given(pools(), st.booleans())
def test_random_pools(pool: tuple[int, dict[str, list[int] | int]], free: bool) -> None:
    size, attributes = pool
    model = build(
        f"(float[N,3,{'L' if free else size}] x) => (float[N,3,l] y) "
        f"{{ f = Elu(x) y = MaxPool<{written(attributes)}>(f) }}"
    )
    if run_pass(model, NAME).record.rewrites:
        assert_rewritten(model, NAME, ["MaxPool", "Elu"], sizes={"L": size})


@settings(max_examples=30, deadline=None)
@given(pools())
def test_what_is_safe_for_any_size_is_safe_for_each(
    pool: tuple[int, dict[str, list[int] | int]],
) -> None:
    size, attributes = pool
    text = f"=> (float[1,1,l] y) {{ y = MaxPool<{written(attributes)}>(x) }}"
    safe_here, safe_anywhere = (
        every_window_is_real(build(f"(float[1,1,{length}] x) {text}")) for length in (size, "L")
    )
    assert safe_here or not safe_anywhere


def every_window_is_real(model: onnx.ModelProto) -> bool:
    node = next(iter(ir.from_proto(model).graph))
    assert node.inputs[0] is not None
    return Pool.of(node).every_window_is_real(node.inputs[0])


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_refuses_integers_that_wrap_around(kind: str) -> None:
    """127 + 1 is −128 in int8: the largest of the sums is not the sum of the largest."""
    model = build(
        f"({kind}[N,4,8,8] x) => ({kind}[N,4,4,4] y) {{ f = Add(x, k) y = {POOL}(f) }}",
        k=np.array(1, kind),
    )
    assert_refused(model, NAME, NotMonotone.WRAPS_AROUND)


@pytest.mark.parametrize(("kind", "exactness"), [("float", "bitwise"), ("float16", "rounded")])
def test_round_of_float16_is_not_bitwise(kind: str, exactness: str) -> None:
    model = build(f"({kind}[N,4,8,8] x) => ({kind}[N,4,4,4] y) {{ f = Round(x) y = {POOL}(f) }}")
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.exactness == exactness


HALF = [function for function in PIECEWISE if not function.startswith("Round")]


@pytest.mark.parametrize("function", HALF)
def test_what_is_bitwise_in_float16_is_so_in_onnxruntime(function: str) -> None:
    weights = {name: value.astype(np.float16) for name, value in used(function).items()}
    model = build(
        f"(float16[N,4,9,11] x) => (float16[N,4,h,w] y) "
        f"{{ e = Exp(x) f = {function.replace('x', 'e')} y = {POOL}(f) }}",
        **weights,
    )
    optimized = run_pass(model, NAME).to_proto()
    for one, other in zip(
        run_plain(model, draw_feeds(model)), run_plain(optimized, draw_feeds(model)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_term_that_widens_one_channel_leaves_the_pool_with_one() -> None:
    """The shape of the new pool is that of its data: else, the next BatchNormalization folds."""
    model = build(
        "(float[N,1,8,8] x) => (float[N,4,4,4] y) "
        f"{{ e = Exp(x) f = Add(e, k) p = {POOL}(f) y = Mul(p, q) }}",
        k=normal(4, 1, 1),
        q=normal(4, 1, 1),
    )
    result = run_pass(model, NAME, "fold-scale-shift")
    assert operators(result.to_proto()) == ["MaxPool", "Exp", "Add", "Mul"]
    assert_equivalent(model, result.to_proto(), draw_feeds(model))
