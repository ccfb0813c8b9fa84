"""fold-pad: which operators pad with which number, and what a Pad does that they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import bnfold
from bnfold.rewriting.contract import Common, General, Refusal
from bnfold_passes.fold_pad import Why
from tests.support.evaluate import assert_equal_outputs, assert_equivalent, run_plain
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    only_node,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "fold-pad"
LOWEST = float(np.finfo(np.float32).min)


def padded(
    reader: str,
    pads: list[int],
    number: Array | float | None = None,
    *,
    shape: str = "N,4,9,9",
    source: str = "",
    opset: int = 17,
    kind: str = "float",
    result: str | None = None,
    **weights: Array,
) -> onnx.ModelProto:
    """Return ``reader(Pad(x))``, where the reader reads p, and the Pad `source`, which reads x."""
    initializers = {"pads": np.array(pads, np.int64), **weights}
    operand = ""
    if number is not None:
        dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}.get(kind, kind)
        initializers["number"] = np.asarray(number, dtype)
        operand = ", number"
    lines = f"s = {source} p = Pad(s, pads{operand})" if source else f"p = Pad(x, pads{operand})"
    outputs = ",".join("abcdefg"[: len(shape.split(","))])
    return build(
        f"({kind}[{shape}] x) => ({result or kind}[{outputs}] y) {{ {lines} y = {reader} }}",
        opset=opset,
        ir_version=8 if opset < 19 else 10,
        **initializers,
    )


def around(*widths: int) -> list[int]:
    """Return the pads of a Pad with these widths before and after the spatial axes."""
    half = len(widths) // 2
    return [0, 0, *widths[:half], 0, 0, *widths[half:]]


def attribute(model: onnx.ModelProto, op_type: str, name: str) -> Any:
    """Return an attribute of the one node of this type; None if it has none."""
    found = [a for a in only_node(model, op_type).attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else None


KERNEL = normal(6, 4, 3, 3)


# --- Convs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "widths", "expected"),
    [
        ("", (1, 1, 1, 1), [1, 1, 1, 1]),
        ("", (0, 1, 2, 3), [0, 1, 2, 3]),
        ("", (4, 0, 0, 7), [4, 0, 0, 7]),
        ("<pads=[1,2,3,0]>", (0, 1, 2, 3), [1, 3, 5, 3]),
        ("<strides=[2,3]>", (0, 0, 1, 1), [0, 0, 1, 1]),
        ("<strides=[2,2], dilations=[2,1]>", (2, 1, 2, 1), [2, 1, 2, 1]),
        ('<auto_pad="VALID">', (1, 2, 3, 4), [1, 2, 3, 4]),
        ('<auto_pad="NOTSET", pads=[1,1,1,1]>', (1, 2, 3, 4), [2, 3, 4, 5]),
        ("<kernel_shape=[3,3]>", (1, 1, 1, 1), [1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("number", [None, 0.0, -0.0])
def test_a_conv_takes_the_pad(
    attributes: str, widths: tuple[int, ...], expected: list[int], number: float | None
) -> None:
    model = padded(f"Conv{attributes}(p, w, b)", around(*widths), number, w=KERNEL, b=normal(6))
    optimized = assert_rewritten(model, NAME, ["Conv"])
    assert attribute(optimized, "Conv", "pads") == expected
    assert attribute(optimized, "Conv", "auto_pad") is None
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert (rewrite.exactness, rewrite.detail) == ("rounded", "into Conv")


def test_a_depthwise_conv() -> None:
    model = padded("Conv<group=4>(p, w)", around(1, 1, 1, 1), w=normal(8, 1, 3, 3))
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize(
    ("shape", "kernel", "widths"),
    [("N,4,L", (5, 4, 3), (2, 1)), ("N,4,5,6,D", (5, 4, 2, 3, 1), (1, 0, 2, 0, 3, 1))],
)
def test_one_and_three_axes_of_free_sizes(
    shape: str, kernel: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    model = padded("Conv(p, w)", around(*widths), shape=shape, w=normal(*kernel))
    optimized = assert_rewritten(model, NAME, ["Conv"], sizes={"L": 6, "D": 4})
    assert attribute(optimized, "Conv", "pads") == list(widths)


def test_weights_may_be_computed() -> None:
    model = build(
        "(float[N,4,9,9] x, float[6,4,3,3] w) => (float[N,6,9,9] y) "
        "{ p = Pad(x, pads) y = Conv(p, w) }",
        pads=np.array(around(1, 1, 1, 1)),
    )
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize("opset", [2, 6, 7, 10])
def test_early_opsets_have_widths_and_number_as_attributes(opset: int) -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,6,h,w] y) "
        "{ p = Pad<pads=[0,0,1,2,0,0,3,0], value=0.0>(x) y = Conv(p, k) }",
        opset=opset,
        k=KERNEL,
    )
    optimized = assert_rewritten(model, NAME, ["Conv"])
    assert attribute(optimized, "Conv", "pads") == [1, 2, 3, 0]
    model.graph.node[0].attribute[1].f = 1.0
    assert_refused(model, NAME, Why.OTHER_NUMBER, in_the_way="Conv y")


@pytest.mark.parametrize("opset", [11, 13, 18, 19, 21, 23, 24])
def test_later_opsets_have_inputs(opset: int) -> None:
    model = padded("Conv(p, w)", around(1, 2, 3, 0), 0.0, opset=opset, w=KERNEL)
    optimized = assert_rewritten(model, NAME, ["Conv"])
    assert attribute(optimized, "Conv", "pads") == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("axes", "pads", "expected"),
    [
        ([2, 3], [1, 2, 3, 4], [1, 2, 3, 4]),
        ([3, 2], [1, 2, 3, 4], [2, 1, 4, 3]),
        ([-1], [1, 2], [0, 1, 0, 2]),
        ([-2, 1], [1, 0, 2, 0], [1, 0, 2, 0]),
    ],
)
def test_axes(axes: list[int], pads: list[int], expected: list[int]) -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,6,h,w] y) { p = Pad(x, pads, , axes) y = Conv(p, k) }",
        opset=18,
        pads=np.array(pads),
        axes=np.array(axes),
        k=KERNEL,
    )
    optimized = assert_rewritten(model, NAME, ["Conv"])
    assert attribute(optimized, "Conv", "pads") == expected


def test_refuses_axes_from_the_end_of_an_unknown_rank() -> None:
    model = build(
        "(float[N,4,9,9] x, int64[r] s) => (float[a,b,c,d] y) "
        "{ z = Reshape(x, s) p = Pad(z, pads, , axes) y = Conv(p, k) }",
        opset=18,
        pads=np.array([1, 1]),
        axes=np.array([-1]),
        k=KERNEL,
    )
    assert_refused(model, NAME, Common.SHAPE_UNKNOWN)


def test_double() -> None:
    model = padded("MaxPool<kernel_shape=[3,3]>(p)", around(1, 1, 1, 1), -np.inf, kind="double")
    assert_rewritten(model, NAME, ["MaxPool"], rtol=0, atol=0)


def test_half() -> None:
    model = padded("Conv(p, w)", around(1, 1, 1, 1), 0.0, kind="float16", w=KERNEL.astype("f2"))
    assert_rewritten(model, NAME, ["Conv"], rtol=2e-3, atol=2e-3)


# --- Integers -------------------------------------------------------------------------------------


def quantized(reader: str, number: int | None, zero_point: int, kind: str) -> onnx.ModelProto:
    weights: Parameters = {
        "w": np.random.default_rng(0).integers(-9, 9, (6, 4, 3, 3)).astype(np.int8),
        "xs": np.array(0.1, np.float32),
        "xz": np.array(zero_point, kind),
        "ws": np.array(0.1, np.float32),
        "wz": np.array(0, np.int8),
        "ys": np.array(1.5, np.float32),
        "yz": np.array(3, kind),
    }
    weights = named_in(reader, weights)
    result = "int32" if "Integer" in reader else kind
    pads = around(1, 0, 2, 1)
    return padded(reader, pads, number, kind=kind, result=result, opset=13, **weights)


QLINEAR = "QLinearConv(p, xs, xz, w, ws, wz, ys, yz)"


@pytest.mark.parametrize(
    ("reader", "kind"),
    [(QLINEAR, "uint8"), (QLINEAR, "int8"), ("ConvInteger(p, w, xz)", "uint8")],
)
@pytest.mark.parametrize(("number", "zero_point"), [(7, 7), (None, 0)])
def test_integers_pad_with_their_zero_point(
    reader: str, number: int | None, zero_point: int, kind: str
) -> None:
    model = quantized(reader, number, zero_point, kind)
    result = run_pass(model, NAME)
    assert [rewrite.exactness for rewrite in result.record.rewrites] == ["bitwise"]
    feeds = {"x": np.random.default_rng(1).integers(0, 100, (2, 4, 9, 9)).astype(kind)}
    for before, after in zip(
        run_plain(model, feeds), run_plain(result.to_proto(), feeds), strict=True
    ):
        np.testing.assert_array_equal(after, before)


def test_a_conv_integer_without_zero_point() -> None:
    model = quantized("ConvInteger(p, w)", 0, 0, "uint8")
    assert operators(run_pass(model, NAME).to_proto()) == ["ConvInteger"]
    assert_refused(quantized("ConvInteger(p, w)", 1, 0, "uint8"), NAME, Why.OTHER_NUMBER)


@pytest.mark.parametrize("reader", [QLINEAR, "ConvInteger(p, w, xz)"])
def test_refuses_zero_where_the_zero_point_is_another(reader: str) -> None:
    assert_refused(quantized(reader, None, 7, "uint8"), NAME, Why.OTHER_NUMBER)
    model = make_overridable(quantized(reader, 7, 7, "uint8"), "xz")
    assert_refused(model, NAME, Common.PARAMETER_NOT_CONSTANT)


# --- AveragePools ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "widths"),
    [
        ("kernel_shape=[3,3]", (1, 1, 1, 1)),
        ("kernel_shape=[3,3], count_include_pad=0", (1, 0, 2, 1)),
        ("kernel_shape=[3,3], pads=[0,0,0,0], count_include_pad=0", (1, 0, 2, 1)),
        ("kernel_shape=[3,3], count_include_pad=1", (1, 0, 2, 1)),
        ("kernel_shape=[4,4], count_include_pad=1, pads=[1,1,1,1]", (1, 0, 2, 1)),
        ('kernel_shape=[3,3], auto_pad="VALID", strides=[2,1]', (1, 0, 2, 1)),
        ("kernel_shape=[3,3], strides=[2,2], ceil_mode=1", (1, 1, 1, 1)),
        ("kernel_shape=[3,3], strides=[2,4], ceil_mode=1", (1, 1, 1, 1)),
    ],
)
def test_an_average_counts_the_pad(attributes: str, widths: tuple[int, ...]) -> None:
    model = padded(f"AveragePool<{attributes}>(p)", around(*widths))
    optimized = assert_rewritten(model, NAME, ["AveragePool"])
    assert attribute(optimized, "AveragePool", "count_include_pad") == 1


def test_a_valid_pool_ignores_pads_of_its_own() -> None:
    pool = 'MaxPool<kernel_shape=[3,3], auto_pad="VALID", pads=[1,1,1,1]>(p)'
    model = padded(pool, around(1, 0, 2, 1), -np.inf)
    optimized = run_pass(model, NAME).to_proto()
    assert attribute(optimized, "MaxPool", "pads") == [1, 0, 2, 1]
    feeds = draw_feeds(model)
    assert_equal_outputs(model, optimized, feeds)


def test_an_average_with_gaps() -> None:
    pool = "AveragePool<kernel_shape=[3,3], dilations=[2,2], strides=[2,2], ceil_mode=1>(p)"
    model = padded(pool, around(1, 1, 1, 1), opset=19)
    assert_rewritten(model, NAME, ["AveragePool"])


@pytest.mark.parametrize(
    ("attributes", "opset", "reason"),
    [
        ("pads=[1,1,1,1]", 17, Why.NOT_COUNTED),
        ("pads=[0,0,0,1], count_include_pad=0", 17, Why.NOT_COUNTED),
        ("strides=[2,3], ceil_mode=1", 17, Why.ROUNDS_UP),
        ("strides=[3,2], ceil_mode=1, count_include_pad=1", 17, Why.ROUNDS_UP),
        ('auto_pad="SAME_UPPER"', 17, Why.NOT_COUNTED),
        ('auto_pad="SAME_UPPER", ceil_mode=1', 17, Common.PADDED_BY_SIZE),
    ],
)
def test_refuses_an_average_that_counts_otherwise(
    attributes: str, opset: int, reason: Refusal
) -> None:
    model = padded(f"AveragePool<kernel_shape=[3,3], {attributes}>(p)", around(1, 1, 1, 1))
    assert_refused(model, NAME, reason, in_the_way="AveragePool y")


def test_refuses_an_average_that_cannot_count() -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,4,h,w] y) "
        "{ p = Pad<pads=[0,0,1,1,0,0,1,1]>(x) y = AveragePool<kernel_shape=[3,3]>(p) }",
        opset=6,
    )
    assert_refused(model, NAME, Why.NOT_COUNTED)


def test_refuses_an_average_of_another_number() -> None:
    model = padded("AveragePool<kernel_shape=[3,3]>(p)", around(1, 1, 1, 1), -np.inf)
    assert_refused(model, NAME, Why.OTHER_NUMBER)


# --- MaxPools -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "number", "exactness"),
    [
        ("", -np.inf, "bitwise"),
        ("", LOWEST, "rounded"),
        ("Relu(x)", None, "bitwise"),
        ("Relu(x)", 0.0, "bitwise"),
        ("Relu(x)", -1.0, "bitwise"),
        ("Abs(x)", 0.0, "bitwise"),
        ("Clip(x, low)", -1.0, "bitwise"),
        ("Clip(x, low)", -2.0, "bitwise"),
        ("Min(x, high)", LOWEST, "rounded"),
        ("Clip(x, , high)", LOWEST, "bitwise"),
        ("Max(low, x)", -1.0, "bitwise"),
    ],
)
def test_a_maximum_over_what_is_never_the_largest(
    source: str, number: float | None, exactness: str
) -> None:
    bounds: Parameters = {"low": np.array(-1, np.float32), "high": np.array(0.5, np.float32)}
    model = padded(
        "MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)",
        around(1, 0, 2, 1),
        number,
        source=source,
        **Parameters(named_in(source, bounds)),
    )
    expected = [*([source.partition("(")[0]] if source else []), "MaxPool"]
    optimized = assert_rewritten(model, NAME, expected, rtol=0, atol=0)
    assert attribute(optimized, "MaxPool", "pads") == [1, 0, 2, 1]
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.exactness == exactness
    if exactness == "bitwise":
        feeds = {"x": np.full((2, 4, 9, 9), -np.inf, np.float32)}
        feeds["x"][:, :, 4:, 4:] = np.inf
        assert_equal_outputs(model, optimized, feeds)


@pytest.mark.parametrize(("kind", "number"), [("int8", -128), ("uint8", 0), ("uint8", None)])
def test_the_lowest_integer(kind: str, number: int | None) -> None:
    model = padded(
        "MaxPool<kernel_shape=[2,2]>(p)", around(1, 1, 1, 1), number, kind=kind, opset=13
    )
    result = run_pass(model, NAME)
    assert [rewrite.exactness for rewrite in result.record.rewrites] == ["bitwise"]
    feeds = {"x": np.random.default_rng(1).integers(0, 256, (2, 4, 9, 9)).astype(kind)}
    for before, after in zip(
        run_plain(model, feeds), run_plain(result.to_proto(), feeds), strict=True
    ):
        np.testing.assert_array_equal(after, before)


def test_the_lowest_integer_has_no_absolute_value() -> None:
    pool = "MaxPool<kernel_shape=[2,2]>(p)"
    model = padded(pool, around(1, 1, 1, 1), 0, source="Abs(x)", kind="int8", opset=13)
    assert_refused(model, NAME, Why.OTHER_NUMBER)


@pytest.mark.parametrize(
    ("source", "number", "kind"),
    [
        ("", None, "float"),
        ("", -1e38, "float"),
        ("", np.nan, "float"),
        ("", LOWEST, "double"),
        ("", -65504.0, "float"),
        ("", 0, "int8"),
        ("", 1, "uint8"),
        ("Neg(x)", 0.0, "float"),
        ("Relu(x)", 0.5, "float"),
        ("Clip(x, low)", -0.5, "float"),
        ("Clip(x, , low)", -1.0, "float"),
        ("Min(x, low)", -1.0, "float"),
    ],
)
def test_refuses_a_number_that_may_be_the_largest(
    source: str, number: float | None, kind: str
) -> None:
    weights: Parameters = {"low": np.array(-1, np.float32)} if "low" in source else {}
    pads = around(1, 1, 1, 1)
    model = padded(
        "MaxPool<kernel_shape=[3,3]>(p)", pads, number, source=source, kind=kind, **weights
    )
    assert_refused(model, NAME, Why.OTHER_NUMBER, in_the_way="MaxPool y")


@pytest.mark.parametrize(
    ("attributes", "widths", "reason"),
    [
        ("kernel_shape=[2,3]", (2, 0, 0, 0), Why.TOO_WIDE),
        ("kernel_shape=[2,3]", (0, 0, 0, 3), Why.TOO_WIDE),
        ("kernel_shape=[3,3], pads=[1,1,1,1]", (0, 0, 2, 0), Why.TOO_WIDE),
        ("kernel_shape=[2,2], dilations=[3,3]", (2, 0, 0, 0), Why.TOO_WIDE),
        ("kernel_shape=[3,3], strides=[3,3], ceil_mode=1", (1, 0, 0, 0), Why.ROUNDS_UP),
        ('kernel_shape=[3,3], auto_pad="SAME_LOWER"', (0, 0, 2, 0), Why.TOO_WIDE),
        (
            'kernel_shape=[3,3], auto_pad="SAME_LOWER", ceil_mode=1',
            (1, 0, 0, 0),
            Common.PADDED_BY_SIZE,
        ),
    ],
)
def test_refuses_a_maximum_over_other_windows(
    attributes: str, widths: tuple[int, ...], reason: Refusal
) -> None:
    model = padded(f"MaxPool<{attributes}>(p)", around(*widths), -np.inf)
    assert_refused(model, NAME, reason, in_the_way="MaxPool y")


def test_refuses_to_round_a_free_size_up() -> None:
    reader = "MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(p)"
    model = padded(reader, around(1, 1, 1, 1), -np.inf, shape="N,4,9,W")
    assert_refused(model, NAME, Why.ROUNDS_UP)


def test_one_by_one_there_is_nothing_to_round() -> None:
    reader = "MaxPool<kernel_shape=[3,3], strides=[1,2], ceil_mode=1>(p)"
    model = padded(reader, around(1, 1, 1, 1), -np.inf, shape="N,4,H,9")
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["MaxPool"]
    for height in (3, 4):
        feeds = draw_feeds(model, sizes={"H": height})
        assert_equal_outputs(model, optimized, feeds)


def test_refuses_a_window_of_nothing_but_the_pad() -> None:
    reader = "MaxPool<kernel_shape=[2,2], strides=[3,3]>(p)"
    model = padded(reader, around(0, 0, 1, 1), None, source="Relu(x)", shape="N,4,3,3")
    assert_rewritten(model, NAME, ["Relu", "MaxPool"], rtol=0, atol=0)
    gaps = "MaxPool<kernel_shape=[2,2], dilations=[2,2]>(p)"
    model = padded(gaps, around(1, 1, 1, 1), None, source="Relu(x)", shape="N,4,1,1")
    assert_refused(model, NAME, Common.PADDING_ONLY_WINDOW)


def test_refuses_indices_in_use() -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,4,h,w] y, int64[N,4,h,w] i) "
        "{ r = Relu(x) p = Pad(r, pads) y, i = MaxPool<kernel_shape=[3,3]>(p) }",
        pads=np.array(around(1, 1, 1, 1)),
    )
    assert_refused(model, NAME, Common.INDICES_USED)


# --- Pads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pads", "reason"),
    [
        ([0, 0, -1, 0, 0, 0, 0, 0], Why.CROPS),
        ([0, 0, 2, 0, 0, 0, 0, -1], Why.CROPS),
        ([0, 1, 0, 0, 0, 0, 0, 0], Why.PADS_CHANNELS),
        ([0, 0, 1, 1, 1, 0, 1, 1], Why.PADS_CHANNELS),
        ([1, 0, 1, 1, 0, 0, 1, 1], Why.PADS_CHANNELS),
    ],
)
def test_refuses_widths_that_no_conv_has(pads: list[int], reason: Refusal) -> None:
    channels = 4 + pads[1] + pads[5]
    assert_refused(padded("Conv(p, w)", pads, w=normal(6, channels, 3, 3)), NAME, reason)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_refuses_other_modes(mode: str) -> None:
    model = padded("Conv(p, w)", around(1, 1, 1, 1), opset=19, w=KERNEL)
    model.graph.node[0].attribute.append(helper.make_attribute("mode", mode))
    assert_refused(model, NAME, Why.OTHER_MODE)


def test_the_mode_may_be_said() -> None:
    model = padded("Conv(p, w)", around(1, 1, 1, 1), w=KERNEL)
    model.graph.node[0].attribute.append(helper.make_attribute("mode", "constant"))
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize("number", [1.0, -1e-6, -np.inf, np.nan])
def test_refuses_another_number(number: float) -> None:
    model = padded("Conv(p, w)", around(1, 1, 1, 1), number, w=KERNEL)
    assert_refused(model, NAME, Why.OTHER_NUMBER)


@pytest.mark.parametrize("name", ["pads", "number"])
def test_refuses_what_a_caller_may_override(name: str) -> None:
    model = padded("Conv(p, w)", around(1, 1, 1, 1), 0.0, w=KERNEL)
    assert_refused(make_overridable(model, name), NAME, Common.PARAMETER_NOT_CONSTANT)


@pytest.mark.parametrize("strides", ["[1,1]", "[2,3]"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_by_size(auto_pad: str, strides: str) -> None:
    """A stride of 1 needs no size; for others, it must be known."""
    conv = f'Conv<auto_pad="{auto_pad}", strides={strides}>(p, w)'
    known = padded(conv, around(1, 0, 2, 1), shape="2,4,8,9", w=normal(3, 4, 4, 5))
    assert_rewritten(known, NAME, ["Conv"])
    free = padded(conv, around(1, 0, 2, 1), shape="2,4,H,W", w=normal(3, 4, 4, 5))
    if strides == "[1,1]":
        assert_rewritten(free, NAME, ["Conv"], sizes={"H": 7, "W": 6})
    else:
        assert_refused(free, NAME, Common.PADDED_BY_SIZE, in_the_way="Conv y")


@pytest.mark.parametrize(
    "reader", ["Relu(p)", "ConvTranspose(p, t)", "Conv(k, p)", "GlobalAveragePool(p)"]
)
def test_is_silent_about_other_readers(reader: str) -> None:
    weights: Parameters = {"t": normal(4, 3, 3, 3), "k": normal(1, 4, 20, 20)}
    used: Parameters = {name: array for name, array in weights.items() if name in reader[4:]}
    model = padded(reader, around(1, 1, 1, 1), shape="2,4,9,9", **used)
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_is_silent_about_a_pad_of_no_width() -> None:
    record = run_pass(padded("Conv(p, w)", [0] * 8, w=KERNEL), NAME).record
    assert not record.rewrites
    assert not record.refusals


# --- Readers --------------------------------------------------------------------------------------


def test_all_readers_take_the_pad() -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,6,h,w] y, float[N,6,9,9] z, float[N,4,9,9] m) "
        "{ p = Pad(x, pads) y = Conv<strides=[2,2]>(p, k) z = Conv<pads=[1,1,0,0]>(p, l) "
        "m = AveragePool<kernel_shape=[3,3]>(p) }",
        pads=np.array(around(1, 1, 1, 1)),
        k=KERNEL,
        l=normal(6, 4, 4, 4),
    )
    assert_rewritten(model, NAME, ["Conv", "Conv", "AveragePool"])
    (rewrite,) = run_pass(model, NAME).record.rewrites
    assert rewrite.detail == "into AveragePool, Conv"


def test_one_reader_that_cannot_keeps_the_pad() -> None:
    model = build(
        "(float[N,4,9,9] x) => (float[N,6,9,9] y, float[N,4,9,9] m) { p = Pad(x, pads) "
        "y = Conv(p, k) m = MaxPool<kernel_shape=[3,3]>(p) }",
        pads=np.array(around(1, 1, 1, 1)),
        k=KERNEL,
    )
    assert_refused(model, NAME, Why.OTHER_NUMBER, in_the_way="MaxPool m")


@pytest.mark.parametrize(
    ("outputs", "lines"),
    [
        ("float[N,4,11,11] z", "z = Neg(p)"),
        ("int64[4] z", "z = Shape(p)"),
        ("float[N,4,11,11] p", ""),
    ],
)
def test_refuses_a_result_that_something_else_reads(outputs: str, lines: str) -> None:
    model = build(
        f"(float[N,4,9,9] x) => (float[N,6,9,9] y, {outputs}) "
        f"{{ p = Pad(x, pads) y = Conv(p, k) {lines} }}",
        pads=np.array(around(1, 1, 1, 1)),
        k=KERNEL,
    )
    assert_refused(model, NAME, Common.SHARED)


@pytest.mark.parametrize("alone", [True, False])
def test_refuses_a_reader_in_a_body(alone: bool) -> None:
    other = "" if alone else "z = Conv(p, k)"
    outputs = "float[a,b,c,d] y" + ("" if alone else ", float[N,6,9,9] z")
    model = build(
        f"(float[N,4,9,9] x, bool c) => ({outputs}) {{ p = Pad(x, pads) {other} "
        "y = If(c) <then_branch = t () => (float[N,6,9,9] o) { o = Conv(p, k) }, "
        "else_branch = e () => (float[N,4,9,9] q) { q = Neg(x) }> }",
        pads=np.array(around(1, 1, 1, 1)),
        k=KERNEL,
    )
    assert_refused(model, NAME, Common.SHARED)


def test_a_pad_and_a_conv_in_a_body() -> None:
    model = build(
        "(float[N,4,9,9] x, bool c) => (float[a,b,c,d] y) { "
        "y = If(c) <then_branch = t () => (float[N,6,9,9] o) { p = Pad(x, pads) o = Conv(p, k) }, "
        "else_branch = e () => (float[N,4,9,9] q) { q = Neg(x) }> }",
        pads=np.array(around(1, 1, 1, 1)),
        k=KERNEL,
    )
    optimized = run_pass(model, NAME).to_proto()
    assert [node.op_type for node in only_node(optimized, "If").attribute[0].g.node] == ["Conv"]
    for choice in (True, False):
        assert_equivalent(model, optimized, {**draw_feeds(model), "c": np.array(choice)})


def test_a_relu_outside_the_body() -> None:
    model = build(
        "(float[N,4,9,9] x, bool c) => (float[a,b,c,d] y) { r = Relu(x) y = If(c) <then_branch = "
        "t () => (float[N,4,9,9] o) { p = Pad(r, pads) o = MaxPool<kernel_shape=[3,3]>(p) }, "
        "else_branch = e () => (float[N,4,9,9] q) { q = Neg(x) }> }",
        pads=np.array(around(1, 1, 1, 1)),
    )
    result = bnfold.optimize(model, only=NAME, check=False, certify="always")
    optimized = result.to_proto()
    assert [node.op_type for node in optimized.graph.node] == ["Relu", "If"]
    bodies = {a.name: a.g for a in only_node(optimized, "If").attribute}
    assert [node.op_type for node in bodies["then_branch"].node] == ["MaxPool"]
    for choice in (True, False):
        assert_equivalent(model, optimized, {**draw_feeds(model), "c": np.array(choice)})


@pytest.mark.parametrize(
    ("reader", "source", "number"),
    [
        ("Conv(p, w)", "", None),
        ("AveragePool<kernel_shape=[3,3]>(p)", "", None),
        ("MaxPool<kernel_shape=[3,3]>(p)", "", -np.inf),
        ("MaxPool<kernel_shape=[3,3]>(p)", "", LOWEST),
        ("MaxPool<kernel_shape=[3,3]>(p)", "Relu(x)", 0.0),
        ("MaxPool<kernel_shape=[3,3]>(p)", "Clip(x, low)", -2.0),
    ],
)
def test_each_is_certified(reader: str, source: str, number: float | None) -> None:
    weights: Parameters = {"w": KERNEL, "low": np.array(-1, np.float32)}
    weights = {name: array for name, array in weights.items() if name in reader + source}
    model = padded(reader, around(1, 0, 2, 1), number, source=source, **weights)
    (rewrite,) = bnfold.optimize(model, only=NAME, certify="always").record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


@pytest.mark.parametrize("name", ["mode", "pads"])
def test_an_attribute_of_a_function_is_not_known(name: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 10, "f" : 1]> '
        "agraph (float[N,4,9,9] x, float[6,4,3,3] k) => (float[N,6,h,w] y) "
        '{ y = f.block<pads=[0,0,1,1,0,0,1,1], mode="constant">(x, k) } '
        '<domain: "f", opset_import: ["" : 10]> block <pads, mode> (a, k) => (o) '
        "{ p = Pad<pads: ints = @pads, mode: string = @mode>(a) o = Conv(p, k) }"
    )
    pad = model.functions[0].node[0]
    kept = [a for a in pad.attribute if a.name == name]
    other = {"mode": ("pads", around(1, 1, 1, 1)), "pads": ("mode", "constant")}[name]
    del pad.attribute[:]
    pad.attribute.extend([*kept, helper.make_attribute(*other)])
    passes = bnfold.PassOptions(only=[NAME], keep_functions=True)
    record = bnfold.optimize(model, passes=passes, check=False).record
    assert [refusal.reason for refusal in record.refusals] == [General.ATTRIBUTE_BY_REFERENCE.name]
    assert operators(run_pass(model, NAME).to_proto()) == ["Conv"]


def test_widths_that_fit_no_axis_are_left_alone() -> None:
    """onnxruntime would not run this; a pass must not fail on it."""
    model = build(
        "(float[N,4,9,9] x) => (float[N,6,h,w] y) { p = Pad(x, pads, , axes) y = Conv(p, k) }",
        opset=18,
        pads=np.array([1, 1]),
        axes=np.array([2]),
        k=KERNEL,
    )
    for content in ([4], [7], [2, 3], [-5]):
        tensor = onnx.numpy_helper.from_array(np.array(content), "axes")
        model.graph.initializer[1].CopyFrom(tensor)
        assert_refused(model, NAME, Common.SHAPE_UNKNOWN)


# --- Any ------------------------------------------------------------------------------------------


@st.composite
def pad_and_reader(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, int]]:
    axes = draw(st.integers(1, 3))

    def several(low: int, high: int, count: int = axes) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    op_type = draw(st.sampled_from(["Conv", "AveragePool", "MaxPool"]))
    kernel = several(1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": several(1, 3)}
    if draw(st.booleans()):
        attributes["dilations"] = several(1, 2)
    padding = draw(st.sampled_from(["pads", "none", "VALID", "SAME_UPPER"]))
    if padding == "pads":
        limits = [size if op_type == "Conv" else size - 1 for size in kernel]
        attributes["pads"] = [draw(st.integers(0, limit)) for limit in limits * 2]
    elif padding != "none":
        attributes["auto_pad"] = padding
    if op_type == "AveragePool" and draw(st.booleans()):
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    if op_type != "Conv" and draw(st.booleans()):
        attributes["ceil_mode"] = 1
    widths = several(draw(st.sampled_from([0, 0, 0, -1])), 2, 2 * axes)
    sizes = several(5, 8)
    free = draw(st.booleans())
    number = draw(st.sampled_from([None, 0.0, -np.inf, LOWEST, -1.0]))
    names = [f"s{axis}" if free else size for axis, size in enumerate(sizes)]
    groups = draw(st.sampled_from([1, 3])) if op_type == "Conv" else 1
    weights: Parameters = {"pads": np.array(around(*widths))}
    if number is not None:
        weights["number"] = np.array(number, np.float32)
    if op_type == "Conv":
        weights["w"] = normal(6, 3 // groups, *kernel)
        attributes["group"] = groups
    source = draw(st.sampled_from(["Relu", "Neg"]))
    nodes = [
        helper.make_node(source, ["x"], ["s"]),
        helper.make_node("Pad", ["s", "pads", *(["number"] if number is not None else [])], ["p"]),
        helper.make_node(
            op_type, ["p", *(["w"] if op_type == "Conv" else [])], ["y"], **attributes
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *names])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list("abcde")[: axes + 2])],
        [onnx.numpy_helper.from_array(content, name) for name, content in weights.items()],
    )
    opset = [helper.make_opsetid("", 19)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model, {f"s{axis}": size for axis, size in enumerate(sizes)}


@settings(max_examples=12, deadline=None)
@given(pad_and_reader())
def test_random_pads(drawn: tuple[onnx.ModelProto, dict[str, int]]) -> None:
    model, sizes = drawn
    result = run_pass(model, NAME)
    if not result.record.rewrites:
        assert result.record.output is not None
        assert result.record.output.same
        return
    optimized = result.to_proto()
    assert len(optimized.graph.node) == 2
    feeds = draw_feeds(model, sizes=sizes)
    exact = [rewrite.exactness for rewrite in result.record.rewrites] == ["bitwise"]
    tolerance = 0.0 if exact else 1e-5
    for before, after in zip(run_plain(model, feeds), run_plain(optimized, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)
    assert not run_pass(optimized, NAME).record.rewrites
