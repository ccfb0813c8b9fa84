"""The float64 evaluation: against onnx's own kernels, against arithmetic, and what it refuses."""

from __future__ import annotations

import itertools
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bnfold.modelfile.places import weights_of
from bnfold.proof.float64.evaluation import NoTruth, Truth64, _shared_operator
from bnfold.proof.truth_errors import compare_with_truth
from bnfold.proof.truth_slices import Evaluation, Sample
from tests.support.evaluate import RuntimeException, run_float64, run_plain
from tests.support.graphs import Array, Parameters, batch_norm, build, draw_feeds, normal


def evaluate(folder: Path, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    path = folder / "m.onnx"
    onnx.save(model, path)
    return Truth64(path).outputs(feeds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


# --- The kernels ----------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn, *, dilated: bool = True, ceil: bool = False) -> dict[str, Any]:
    """Draw attributes of a window that fits into an image of 9 × 7."""
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)), draw(st.integers(1, 3))],
    }
    if dilated and draw(st.booleans()):
        attributes["dilations"] = [draw(st.integers(1, 2)), draw(st.integers(1, 2))]
    padding = draw(st.sampled_from(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if padding == "pads":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in [*kernel, *kernel]]
    elif padding != "none" and "dilations" not in attributes:
        attributes["auto_pad"] = padding
        # onnxruntime pads by negative numbers if the stride exceeds the kernel
        attributes["strides"] = [
            min(s, k) for s, k in zip(attributes["strides"], kernel, strict=True)
        ]
    if ceil and padding in ("none", "pads"):
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    return attributes


def one_node(
    op_type: str, weights: dict[str, Array], attributes: dict[str, Any]
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4, 9, 7])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = helper.make_node(op_type, ["x", *weights], ["y"], **attributes)
    initializers = [
        onnx.numpy_helper.from_array(content, name) for name, content in weights.items()
    ]
    graph = helper.make_graph([node], "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def agrees_with_onnxruntime(
    folder: Path, op_type: str, weights: dict[str, Array], attributes: dict[str, Any]
) -> None:
    model = one_node(op_type, weights, attributes)
    feeds = draw_feeds(model)
    (expected,) = run_plain(model, feeds)
    actual = evaluate(folder, model, feeds)["y"]
    assert actual.dtype == np.float64
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


RANKS = {2: [3, 4], 3: [2, 4, 6], 4: [2, 4, 6, 5], 5: [2, 4, 6, 5, 3]}
BY_AXIS = ("Hardmax", "LogSoftmax", "LpNormalization<p=1>", "LpNormalization<p=2>", "Softmax")


@pytest.mark.parametrize(
    ("line", "rank", "opset"),
    [
        *((f"{kind}(x)", rank, 17) for kind in ("GlobalMaxPool", "GlobalAveragePool",
          "GlobalLpPool", "GlobalLpPool<p=3>") for rank in (3, 4, 5)),
        *(("InstanceNormalization(x, s, b)", rank, 17) for rank in (3, 4, 5)),
        *((f"GroupNormalization<num_groups={groups}>(x, s, b)", rank, 21)
          for groups in (1, 2, 4) for rank in (3, 4)),
        ("GroupNormalization<num_groups=2, epsilon=0.5>(x, s2, b2)", 3, 18),
        *((f"MeanVarianceNormalization{axes}(x)", 4, 13) for axes in ("", "<axes=[0,1]>")),
        *((f'Resize<mode="{mode}", coordinate_transformation_mode="align_corners">(x, , {by})',
           4, 17) for mode in ("nearest", "linear", "cubic") for by in ("scales", ", sizes")),
    ],
)  # fmt: skip
def test_operators_of_every_rank(folder: Path, line: str, rank: int, opset: int) -> None:
    weights: Parameters = {
        "s": normal(4), "b": normal(4, seed=1), "s2": normal(2), "b2": normal(2, seed=1),
        "scales": np.array([1, 1, 0.5, 1.7], np.float32), "sizes": np.array([2, 4, 4, 9]),
    }  # fmt: skip
    used = {n: array for n, array in weights.items() if f", {n}" in line}
    text = (
        f"(float[{','.join(map(str, RANKS[rank]))}] x) => (float[{'a,b,c,d,e'[: 2 * rank - 1]}] y)"
    )
    model = build(f"{text} {{ y = {line} }}", opset=opset, **used)
    feeds = draw_feeds(model)
    (expected,) = run_plain(model, feeds)
    actual = evaluate(folder, model, feeds)["y"]
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("kind", BY_AXIS)
def test_operators_along_every_axis(folder: Path, kind: str, opset: int) -> None:
    for rank in (2, 3, 4):
        for axis in range(-rank, rank):
            named = kind.replace(">", f", axis={axis}>") if ">" in kind else f"{kind}<axis={axis}>"
            sizes, names = ",".join(map(str, RANKS[rank])), "a,b,c,d"[: 2 * rank - 1]
            text = f"(float[{sizes}] x) => (float[{names}] y) {{ y = {named}(x) }}"
            model = build(text, opset=opset)
            feeds = draw_feeds(model)
            (expected,) = run_plain(model, feeds)
            actual = evaluate(folder, model, feeds)["y"]
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_what_has_no_length_stays(folder: Path) -> None:
    model = build("(float[2,3] x) => (float[2,3] y) { y = LpNormalization<p=1>(x) }")
    x = np.array([[0, 0, 0], [1, -3, 0]], np.float32)
    np.testing.assert_array_equal(evaluate(folder, model, {"x": x})["y"], x / 4)


@settings(max_examples=30)
@given(attributes=windows(), group=st.sampled_from([1, 2, 4]), bias=st.booleans())
def test_conv(folder: Path, attributes: dict[str, Any], group: int, bias: bool) -> None:
    weights = {"w": normal(8, 4 // group, *attributes["kernel_shape"])}
    weights |= {"b": normal(8)} if bias else {}
    agrees_with_onnxruntime(folder, "Conv", weights, {**attributes, "group": group})


@settings(max_examples=20)
@given(attributes=windows(), group=st.sampled_from([1, 2, 4]), extra=st.integers(0, 1))
def test_conv_transpose(folder: Path, attributes: dict[str, Any], group: int, extra: int) -> None:
    attributes = {key: value for key, value in attributes.items() if key != "auto_pad"}
    attributes["output_padding"] = [min(extra, s - 1) for s in attributes["strides"]]
    weights = {"w": normal(4, 3, *attributes["kernel_shape"]), "b": normal(3 * group)}
    agrees_with_onnxruntime(folder, "ConvTranspose", weights, {**attributes, "group": group})


@pytest.mark.parametrize("opset", [1, 6, 7, 9, 11, 13])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 0.0), (1.0, 2.5)])
@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("size", [(3, 2), (2,), ()])
def test_gemm(opset: int, alpha: float, beta: float, turned: int, size: tuple[int, ...]) -> None:
    """onnx's own leaves beta out below operator set 7, unless C is spread."""
    a, b, c = (normal(*shape, seed=at) for at, shape in enumerate([(3, 4), (4, 2), size]))
    spread = ", broadcast=1" if opset < 7 and len(size) < 2 else ""
    model = build(
        f"(float[{'4,3' if turned else '3,4'}] x) => (float[3,2] y) {{ y = Gemm<alpha={alpha}, "
        f"beta={beta}, transA={turned}, transB={turned}{spread}>(x, b, c) }}",
        opset=opset,
        b=b.T.copy() if turned else b,
        c=c,
    )
    found = Truth64(model).outputs({"x": a.T.copy() if turned else a})["y"]
    wide = [array.astype(np.float64) for array in (a, b, c)]
    np.testing.assert_allclose(found, alpha * wide[0] @ wide[1] + beta * wide[2], 1e-12)


@pytest.mark.parametrize(
    "given_as", ["auto_pad", "output_shape", "whole output_shape", "larger output_shape"]
)
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "NOTSET"])
@pytest.mark.parametrize(
    ("kernel", "strides"), [([3, 4], [2, 2]), ([5, 2], [2, 1]), ([1, 3], [3, 4])], ids=str
)
def test_conv_transpose_pads_for_a_size_as_onnx_says(
    folder: Path, given_as: str, auto_pad: str, kernel: list[int], strides: list[int]
) -> None:
    """Versions of onnxruntime differ here, but do not where the padding is given."""
    weights = {"w": normal(4, 3, *kernel)}
    sizes = [9, 7]
    full = [(sizes[i] - 1) * strides[i] + kernel[i] for i in range(2)]
    wanted = [min(sizes[i] * strides[i], full[i]) for i in range(2)]
    attributes: dict[str, Any] = {"strides": strides, "auto_pad": auto_pad}
    if given_as != "auto_pad":
        wanted = [15, full[1] + 2] if given_as.startswith("larger") else [4, 5]
        attributes["output_shape"] = [*([2, 3] if given_as.startswith("whole") else []), *wanted]
    elif auto_pad == "NOTSET":
        wanted = full
    totals = [max(0, full[i] - wanted[i]) for i in range(2)]
    begins = [total // 2 if auto_pad == "SAME_UPPER" else -(-total // 2) for total in totals]
    model = one_node("ConvTranspose", weights, {"strides": strides})
    feeds = draw_feeds(model)
    (everything,) = run_plain(model, feeds)
    expected = np.pad(everything, [(0, 0), (0, 0), (0, 2), (0, 2)])
    for axis in range(2):
        places = np.arange(begins[axis], begins[axis] + wanted[axis])
        expected = np.take(expected, places, axis + 2)
    actual = evaluate(folder, one_node("ConvTranspose", weights, attributes), feeds)["y"]
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(attributes=windows(ceil=True))
def test_max_pool(folder: Path, attributes: dict[str, Any]) -> None:
    agrees_with_onnxruntime(folder, "MaxPool", {}, attributes)


def averages(x: Array, attributes: dict[str, Any], count_include_pad: int) -> Array:
    """Return the averages that ONNX specifies, by window. (onnxruntime 1.23 differs.)"""
    pads = attributes.get("pads", [0, 0, 0, 0])
    dilations = attributes.get("dilations", [1, 1])
    taps, starts = [], []
    for axis in range(2):
        reach = (attributes["kernel_shape"][axis] - 1) * dilations[axis] + 1
        room = x.shape[2 + axis] + pads[axis] + pads[2 + axis] - reach
        steps = range(0, room + 1, attributes["strides"][axis])
        starts.append([step - pads[axis] for step in steps])
        taps.append(range(0, reach, dilations[axis]))
    y = np.zeros((*x.shape[:2], len(starts[0]), len(starts[1])))
    for (i, top), (j, left) in itertools.product(*map(enumerate, starts)):
        places = itertools.product((top + t for t in taps[0]), (left + t for t in taps[1]))
        real = [(r, c) for r, c in places if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]]
        counted = len(taps[0]) * len(taps[1]) if count_include_pad else len(real)
        y[:, :, i, j] = sum(x[:, :, r, c].astype(np.float64) for r, c in real) / counted
    return y


@settings(max_examples=30)
@given(attributes=windows(), count=st.integers(0, 1))
def test_average_pool(folder: Path, attributes: dict[str, Any], count: int) -> None:
    attributes = {key: value for key, value in attributes.items() if key != "auto_pad"}
    model = one_node("AveragePool", {}, {**attributes, "count_include_pad": count})
    feeds = draw_feeds(model)
    expected = averages(feeds["x"], attributes, count)
    np.testing.assert_allclose(
        evaluate(folder, model, feeds)["y"], expected, rtol=1e-12, atol=1e-12
    )


@settings(max_examples=20)
@given(attributes=windows(ceil=True))
def test_average_pool_agrees_with_onnxruntime(folder: Path, attributes: dict[str, Any]) -> None:
    agrees_with_onnxruntime(folder, "AveragePool", {}, attributes)


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 17])
def test_batch_normalization_at_every_opset(folder: Path, opset: int) -> None:
    model = build(
        "(float[2,4,3] x) => (float[2,4,3] y) { y = BatchNormalization(x, s, b, m, v) }",
        opset=opset,
        **batch_norm(4),
    )
    feeds = draw_feeds(model)
    np.testing.assert_allclose(
        evaluate(folder, model, feeds)["y"], run_plain(model, feeds)[0], rtol=1e-5, atol=1e-5
    )


def test_batch_normalization_in_training_mode(folder: Path) -> None:
    """Scaled weights are exported so: normalized by what they are themselves."""
    model = build(
        "(float[3,4,5] x) => (float[3,4,5] y, float[4] mean, float[4] var) {"
        " y, mean, var = BatchNormalization<training_mode=1, momentum=0.3>(x, s, b, m, v) }",
        **batch_norm(4),
    )
    feeds = draw_feeds(model)
    found = evaluate(folder, model, feeds)
    for name, expected in zip(found, run_plain(model, feeds), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize(
    "pads", [[0, 0, 1, 2, 0, 0, 1, 0], [0, 0, -1, -2, 0, 0, 0, -1], [0, 0, -1, 2, 0, 0, 1, -1]]
)
def test_pads_may_be_negative(folder: Path, mode: str, pads: list[int]) -> None:
    model = build(
        f'(float[1,2,6,7] x) => (float y) {{ y = Pad<mode="{mode}">(x, pads, content) }}',
        pads=np.array(pads),
        content=np.array(3.0, np.float32),
    )
    feeds = draw_feeds(model)
    expected = run_plain(model, feeds)[0]
    np.testing.assert_array_equal(evaluate(folder, model, feeds)["y"], expected)


def test_pads_of_some_axes_and_as_attributes(folder: Path) -> None:
    some = build(
        "(float[1,2,6,7] x) => (float y) { y = Pad(x, pads, , axes) }",
        opset=18,
        pads=np.array([-1, 2, 1, 0]),
        axes=np.array([2, -1]),
    )
    early = build(
        "(float[1,2,6,7] x) => (float y) { y = Pad<pads=[0,0,-1,2,0,0,1,0], value=2.0>(x) }",
        opset=9,
    )
    for model in (some, early):
        feeds = draw_feeds(model)
        expected = run_plain(model, feeds)[0]
        np.testing.assert_array_equal(evaluate(folder, model, feeds)["y"], expected)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", ["", "<axis=1>", "<axis=2>", "<axis=-1>", "<axis=0>"])
@pytest.mark.parametrize("opset", [8, 11, 13, 17])
def test_softmax_at_every_opset(folder: Path, op_type: str, axis: str, opset: int) -> None:
    if opset < 11 and "-" in axis:
        pytest.skip("negative axes need opset 11")
    model = build(f"(float[2,3,4] x) => (float[2,3,4] y) {{ y = {op_type}{axis}(x) }}", opset=opset)
    feeds = draw_feeds(model)
    actual = evaluate(folder, model, feeds)["y"]
    np.testing.assert_allclose(actual, run_plain(model, feeds)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("line", ["Mean(c, x)", "Mean(x, c)", "Mean(c, x, x)", "Mean(x)"])
def test_a_mean_broadcasts_all_operands(folder: Path, line: str) -> None:
    model = build(f"(float[2,3] x) => (float[2,3] y) {{ y = {line} }}", c=normal(1, 3))
    feeds = draw_feeds(model)
    np.testing.assert_allclose(
        evaluate(folder, model, feeds)["y"], run_plain(model, feeds)[0], 1e-6
    )


def test_erf_is_as_exact_as_float64(folder: Path) -> None:
    model = build("(double[5] x) => (double[5] y) { y = Erf(x) }")
    x = np.linspace(-2, 2, 5)
    actual = evaluate(folder, model, {"x": x})["y"]
    np.testing.assert_allclose(actual, [math.erf(number) for number in x], rtol=1e-15)


# --- The evaluation -------------------------------------------------------------------------------

GRAPHS = [
    "(float[N,4] x) => (float[N,4] y) { y = Mul(x, k) }",
    "(float[N,4] x) => (float[N,4] y) { c = Constant<value=float {0.1}>() y = Mul(x, c) }",
    "(float[N,4] x) => (float[N,4] y) { d = Cast<to=10>(x) e = Cast<to=1>(d) y = Mul(e, k) }",
    "(float16[N,4] x) => (float16[N,4] y) { y = Exp(x) }",
    "(float[N,4] x) => (float[N,4] y) "
    "{ s = Shape(x) c = ConstantOfShape<value=float[1] {0.1}>(s) y = Add(x, c) }",
    "(float[N,4] x, bool c) => (float[N,4] y) { y = If(c) <"
    "then_branch = t () => (float[N,4] a) { a = Mul(x, k) }, "
    "else_branch = e () => (float[N,4] b) { u = Constant<value=float {0.1}>() b = Mul(x, u) }> }",
]


@pytest.mark.parametrize("graph", GRAPHS)
def test_everything_is_widened(folder: Path, graph: str) -> None:
    model = build(graph, k=np.full(1, 0.1, np.float32))
    feeds = draw_feeds(model)
    (expected,) = run_float64(model, feeds)
    actual = evaluate(folder, model, feeds)["y"]
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    rounded = run_plain(model, feeds)[0].astype(np.float64)
    np.testing.assert_allclose(actual, rounded, rtol=2e-2)


def test_a_constant_may_be_a_number_or_a_list(folder: Path) -> None:
    model = build(
        "(float[2] x, bool c) => (float[2] y) { k = Constant<value_floats=[0.1, 0.2]>() y = If(c) <"
        "then_branch = t () => (float[2] a) { l = Constant<value_float=0.1>() a = Mul(x, l) }, "
        "else_branch = e () => (float[2] b) { b = Mul(x, k) }> }"
    )
    x = np.array([1, 3], np.float32)
    tenths = np.array([0.1, 0.2], np.float32).astype(float)
    for condition, expected in ((True, x * tenths[0]), (False, x * tenths)):
        feeds = {"x": x, "c": np.array(condition)}
        np.testing.assert_allclose(evaluate(folder, model, feeds)["y"], expected, rtol=1e-12)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(folder: Path, approximate: str) -> None:
    model = build(
        f'(float[9] x) => (float[9] y) {{ y = Gelu<approximate="{approximate}">(x) }}', opset=20
    )
    feeds = {"x": np.linspace(-2, 2, 9, dtype=np.float32)}
    actual = evaluate(folder, model, feeds)["y"]
    np.testing.assert_allclose(actual, run_plain(model, feeds)[0], rtol=1e-5, atol=1e-6)


def test_a_name_in_a_body_shadows_an_outer_one(folder: Path) -> None:
    model = build(
        "(float[2] x, bool c) => (float[2] y) { h = Neg(x) y = If(c) <"
        "then_branch = t () => (float[2] a) { h = Exp(x) a = Mul(h, h) }, "
        "else_branch = e () => (float[2] b) { b = Mul(h, x) }> }"
    )
    x = np.array([1, 2], np.float32)
    for condition, expected in ((True, np.exp(x.astype(float)) ** 2), (False, -(x**2))):
        feeds = {"x": x, "c": np.array(condition)}
        np.testing.assert_allclose(evaluate(folder, model, feeds)["y"], expected, rtol=1e-12)


def test_constants_that_stay_in_the_file_are_read(folder: Path) -> None:
    large = normal(2000)
    constant = helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(large))
    model = build(
        "(float[2000] x, bool c) => (float[2000] y, float[2000] z) { y = Mul(x, k) z = If(c) <"
        "then_branch = t () => (float[2000] a) { a = Mul(x, l) }, "
        "else_branch = e () => (float[2000] b) { b = Neg(x) }> }"
    )
    model.graph.node.insert(0, constant)
    inner = onnx.NodeProto()
    inner.CopyFrom(constant)
    inner.output[0] = "l"
    branches = {attribute.name: attribute.g for attribute in model.graph.node[2].attribute}
    branches["then_branch"].node.insert(0, inner)
    feeds = {"x": normal(2000, seed=1), "c": np.array(True)}
    outputs = evaluate(folder, model, feeds)
    expected = feeds["x"].astype(float) * large.astype(float)
    np.testing.assert_array_equal(outputs["y"], expected)
    np.testing.assert_array_equal(outputs["z"], expected)


def test_external_data_does_not_stay_in_memory(tmp_path: Path) -> None:
    graph = "(float[2,3] x) => (float[4,2] z) { y = Gemm(x, w, b) z = Reshape(y, s) }"
    shape = np.array([4, 2], np.int64)
    model = build(graph, w=normal(3, 4), b=normal(4), s=shape)
    path, feeds = tmp_path / "m.onnx", {"x": normal(2, 3)}
    expected = evaluate(tmp_path, model, feeds)["z"]
    onnx.save_model(model, path, save_as_external_data=True, location="d", size_threshold=0)
    truth = Truth64(path)
    assert np.array_equal(truth.outputs(feeds)["z"], expected)
    tensors = [
        tensor for tensor in weights_of(truth._model) if isinstance(tensor, ir.ExternalTensor)
    ]
    assert len(tensors) == 3
    assert all(tensor.raw is None for tensor in tensors)
    assert np.array_equal(truth.outputs(feeds)["z"], expected)


def test_data_of_constants_is_read_from_the_models_folder(tmp_path: Path) -> None:
    """Of constants in nodes, bodies and functions, from any working directory."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> '
        "graph (float[2] x, bool t) => (float[2] z) { "
        "c = Constant<value = float[2] {1.0, 2.0}>() a = Add(x, c) f = own.twice(a) "
        "z = If (t) <then_branch = g1 () => (float[2] p) "
        "{ d = Constant<value = float[2] {3.0, 4.0}>() p = Add(f, d) }, "
        "else_branch = g2 () => (float[2] q) { q = Identity(f) }> } "
        '<domain: "own", opset_import: ["" : 17]> '
        "twice (a) => (b) { c = Constant<value = float[2] {2.0, 2.0}>() b = Mul(a, c) }"
    )
    nodes = [*model.graph.node, *model.functions[0].node]
    nodes += model.graph.node[-1].attribute[0].g.node
    tensors = [node.attribute[0].t for node in nodes if node.op_type == "Constant"]
    for number, tensor in enumerate(tensors):
        (tmp_path / f"{number}.data").write_bytes(numpy_helper.to_array(tensor).tobytes())
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{number}.data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    feeds = {"x": np.array([1, 1], np.float32), "t": np.array(True)}
    assert Truth64(tmp_path / "m.onnx").outputs(feeds)["z"].tolist() == [7, 10]


def test_functions_are_evaluated(folder: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> '
        "graph (float[4] x) => (float[4] y) { y = own.scale(x) } "
        '<domain: "own", opset_import: ["" : 17]> '
        "scale (a) => (b) { c = Constant<value=float {0.1}>() d = Mul(a, c) b = Erf(d) }"
    )
    x = normal(4)
    expected = [math.erf(float(number) * float(np.float32(0.1))) for number in x]
    np.testing.assert_allclose(evaluate(folder, model, {"x": x})["y"], expected, rtol=1e-13)


def test_functions_may_be_in_any_order(folder: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> '
        "graph (float[4] x) => (float[4] y) { y = own.outer(x) } "
        '<domain: "own", opset_import: ["" : 18, "own" : 1]> outer (a) => (b) { b = own.inner(a) } '
        '<domain: "own", opset_import: ["" : 18]> inner (a) => (b) { b = Relu(a) }'
    )
    x = normal(4)
    np.testing.assert_array_equal(evaluate(folder, model, {"x": x})["y"], np.maximum(x, 0))


def test_missing_functions_are_named(folder: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> '
        "graph (float[4] x) => (float[4] y) { y = own.outer(x) } "
        '<domain: "own", opset_import: ["" : 18, "own" : 1]> outer (a) => (b) { b = own.none(a) }'
    )
    with pytest.raises(NoTruth, match="the function outer"):
        evaluate(folder, model, {"x": normal(4)})


def test_a_constant_that_is_a_parameter_is_not_taken_for_zero(folder: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "own" : 1]> '
        "graph (double[4] x) => (double[4] y) { y = own.shift <by = 2.5> (x) } "
        '<domain: "own", opset_import: ["" : 18]> shift <by> (a) => (b) '
        "{ c = Constant <value_float: float = @by> () d = CastLike(c, a) b = Add(a, d) }"
    )
    x = normal(4, dtype=np.float64)
    np.testing.assert_allclose(evaluate(folder, model, {"x": x})["y"], x + 2.5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn(folder: Path, size: int) -> None:
    model = build(
        f"(float[2,6,3,3] x) => (float[2,6,3,3] y) {{ y = LRN<size={size}, alpha=0.5>(x) }}"
    )
    feeds = draw_feeds(model)
    np.testing.assert_allclose(
        evaluate(folder, model, feeds)["y"], run_plain(model, feeds)[0], rtol=1e-5
    )


def test_lengths_of_sequences_are_not_ignored(folder: Path) -> None:
    model = build(
        "(float[5,2,3] x, int32[2] n) => (float[5,1,2,4] y) "
        "{ y = LSTM<hidden_size=4>(x, w, r, , n) }",
        w=normal(1, 16, 3),
        r=normal(1, 16, 4),
    )
    with pytest.raises(NoTruth, match="sequence_lens in LSTM"):
        evaluate(folder, model, {"x": normal(5, 2, 3), "n": np.array([5, 2], np.int32)})


GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def recurrent(kind: str, attributes: str) -> onnx.ModelProto:
    return build(
        "(float[5,2,3] x) => (float[5,1,2,4] y) "
        f"{{ y = {kind}<hidden_size=4{attributes}>(x, w, r) }}",
        w=normal(1, 4 * GATES[kind], 3),
        r=normal(1, 4 * GATES[kind], 4),
    )


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        *((kind, "") for kind in GATES),
        ("GRU", ', activations=["Sigmoid", "Tanh"]'),
        ("LSTM", ', activations=["Sigmoid", "Tanh", "Tanh"]'),
        ("RNN", ', activations=["Tanh"]'),
    ],
)
def test_plain_recurrent_operators(folder: Path, kind: str, attributes: str) -> None:
    model = recurrent(kind, attributes)
    feeds = draw_feeds(model)
    np.testing.assert_allclose(
        evaluate(folder, model, feeds)["y"], run_plain(model, feeds)[0], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "attributes", "ignored"),
    [
        *((kind, ", clip=3.0", "clip") for kind in GATES),
        ("LSTM", ", input_forget=1", "input_forget"),
        ("LSTM", ', activations=["Sigmoid", "Tanh", "Relu"]', "activations"),
        ("GRU", ', activations=["Tanh", "Sigmoid"]', "activations"),
        ("RNN", ', activations=["Affine"]', "activations"),
        ("GRU", ", activation_alpha=[0.5]", "activation_alpha"),
    ],
)
def test_what_onnx_ignores_in_recurrent_operators_is_not_evaluated(
    folder: Path, kind: str, attributes: str, ignored: str
) -> None:
    with pytest.raises(NoTruth, match=f"{ignored} in {kind}"):
        evaluate(folder, recurrent(kind, attributes), {"x": normal(5, 2, 3)})


def test_the_time_is_limited_within_a_node_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Neg(OpRun):
        def _run(self, x: Array, **_: object) -> tuple[Array]:
            time.sleep(30)
            return (-x,)

    monkeypatch.setattr("bnfold.proof.float64.evaluation._OPERATORS", [Neg])
    monkeypatch.setattr(
        "bnfold.proof.float64.evaluation._shared_operator", _shared_operator.__wrapped__
    )
    monkeypatch.setattr("bnfold.proof.float64.evaluation.is_forked", lambda: True)
    path = folder / "m.onnx"
    onnx.save(build("(float[2] x) => (float[2] y) { y = Neg(x) }"), path)
    before = signal.getsignal(signal.SIGALRM)
    begun = time.monotonic()
    with pytest.raises(NoTruth, match="too long"):
        Truth64(path).outputs({"x": normal(2)}, end=begun + 0.2)
    assert time.monotonic() - begun < 10
    assert signal.getsignal(signal.SIGALRM) is before


def test_inputs_and_initializers_may_be_outputs(folder: Path) -> None:
    model = build(
        "(float[2] x) => (float[2] x, float[2] k, float[2] y) { y = Add(x, k) }",
        k=normal(2),
    )
    outputs = evaluate(folder, model, {"x": np.ones(2, np.float32)})
    assert list(outputs) == ["x", "k", "y"]
    np.testing.assert_allclose(outputs["y"], outputs["x"] + outputs["k"])


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ("(float[N,4] x) => (float[N,4] y) { y = acme.Magic(x) }", "cannot evaluate Magic y"),
        (
            "(float[N,4,8] x) => (float[N,4,4] y, int64[N,4,4] i) "
            "{ y, i = MaxPool<kernel_shape=[2], strides=[2]>(x) }",
            "MaxPool with indices",
        ),
    ],
)
def test_operators_that_cannot_be_evaluated_are_named(folder: Path, graph: str, words: str) -> None:
    model = build(graph)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(NoTruth, match=words):
        evaluate(folder, model, draw_feeds(model))


def test_the_time_is_limited(folder: Path) -> None:
    path = folder / "m.onnx"
    onnx.save(build("(float[2] x) => (float[2] y) { y = Neg(x) }"), path)
    with pytest.raises(NoTruth, match="too long"):
        Truth64(path).outputs({"x": normal(2)}, end=0.0)


def test_the_alarm_may_ring_while_a_node_is_serialized(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What raises there is wrapped in an error of its own."""

    def wraps(_: ir.Node) -> onnx.NodeProto:
        try:
            time.sleep(5)
        except Exception as error:
            raise ir.serde.SerdeError("serialize") from error
        raise AssertionError("the alarm did not ring")

    model = build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    onnx.save(model, folder / "model.onnx")
    truth = Truth64(folder / "model.onnx")
    monkeypatch.setattr(ir.serde, "serialize_node", wraps)
    monkeypatch.setattr("bnfold.proof.float64.evaluation.is_forked", lambda: True)
    with pytest.raises(NoTruth, match="takes too long"):
        truth.outputs(draw_feeds(model), time.monotonic() + 0.1)


def test_the_timer_of_the_host_is_left_alone(folder: Path) -> None:
    model = build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    onnx.save(model, folder / "model.onnx")
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        signal.setitimer(signal.ITIMER_REAL, 50)
        Truth64(folder / "model.onnx").outputs(draw_feeds(model), time.monotonic() + 60)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 40
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_missing_model_has_no_truth(folder: Path) -> None:
    with pytest.raises(NoTruth, match="does not exist"):
        Truth64(folder / "none.onnx")


def test_the_evaluation_is_that_of_onnx(folder: Path) -> None:
    """On a whole network, of operators that onnx's own kernels compute correctly."""
    model = build(
        "(float[N,3,16,16] x) => (float[N,5] y) "
        "{ c = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(c, s, b, m, v) r = Relu(n) "
        "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) g = GlobalAveragePool(p) "
        "f = Flatten(g) y = Gemm(f, h) }",
        opset=17,
        w=normal(4, 3, 3, 3),
        h=normal(4, 5),
        **batch_norm(4),
    )
    feeds = {"x": normal(2, 3, 16, 16, dtype=np.float64)}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(
                onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name
            )
        )
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    expected: Any = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(evaluate(folder, model, feeds)["y"], expected[0], rtol=1e-12)


# --- Errors ---------------------------------------------------------------------------------------


def compared(
    folder: Path,
    feeds: Mapping[str, Array],
    model: onnx.ModelProto,
    original: Array,
    optimized: Array,
) -> Any:
    path = folder / "m.onnx"
    onnx.save(model, path)
    sample = Sample(feeds, {"y": original}, {"y": optimized}, {"y": np.full(original.shape, 1e-3)})
    return compare_with_truth(path, path, [sample, sample], 10)[0]


DOUBLED = build("(float[1000] x) => (float[1000] y) { y = Add(x, x) }")


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_large_models_are_evaluated_at_the_same_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(3, 64)
    paths = folder / "a.onnx", folder / "b.onnx"
    for path, scale in zip(paths, (1, 1 + 1e-3), strict=True):
        weight = normal(64, 64) * np.float32(scale)
        onnx.save(build("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=weight), path)
    sample = Sample({"x": x}, {"y": x @ normal(64, 64)}, {"y": x}, {"y": np.zeros((3, 64))})
    small = compare_with_truth(*paths, [sample], 10)
    outputs = Truth64.outputs
    (folder / "by").mkdir()

    def noted(self: Truth64, *arguments: Any) -> Any:
        (folder / "by" / str(os.getpid())).touch()
        return outputs(self, *arguments)

    monkeypatch.setattr(Truth64, "outputs", noted)
    monkeypatch.setattr("bnfold.proof.truth_errors._LARGE", 64 * 64 * 4 + 1)
    compare_with_truth(*paths, [sample], 10)
    assert os.listdir(folder / "by") == [str(os.getpid())]
    monkeypatch.setattr("bnfold.proof.truth_errors._LARGE", 64 * 64 * 4)
    assert compare_with_truth(*paths, [sample], 10)[0] == small[0]
    assert len(os.listdir(folder / "by")) == 2


@pytest.mark.parametrize("crashes", [False, True])
def test_another_model_that_cannot_be_evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, crashes: bool
) -> None:
    paths = folder / "a.onnx", folder / "b.onnx"
    onnx.save(DOUBLED, paths[0])
    onnx.save(build("(float[1000] x) => (float[1000] y) { y = Mul(x, unknown) }"), paths[1])
    if crashes:
        onnx.save(DOUBLED, paths[1])
        inner = Truth64.outputs
        here = os.getpid()

        def outputs(self: Truth64, *arguments: Any) -> Any:
            return inner(self, *arguments) if os.getpid() == here else kill()

        monkeypatch.setattr(Truth64, "outputs", outputs)
    monkeypatch.setattr("bnfold.proof.truth_errors._LARGE", 0)
    x = normal(1000)
    sample = Sample({"x": x}, {"y": 2 * x}, {"y": 2 * x}, {"y": np.zeros(1000)})
    found, evaluations = compare_with_truth(*paths, [sample], 10)
    assert not evaluations
    assert ("killed" if crashes else "unknown") in found.note


def test_errors_are_relative_root_mean_squares(folder: Path) -> None:
    x = np.ones(1000, np.float32)
    original, optimized = 2 * x + np.float32(2e-4), 2 * x - np.float32(4e-4)
    comparison = compared(folder, {"x": x}, DOUBLED, original, optimized)
    (output,) = comparison.outputs
    assert comparison.samples == 2
    assert output.original == pytest.approx(1e-4, rel=1e-3)
    assert output.optimized == pytest.approx(2e-4, rel=1e-3)
    assert output.computed_exactly == 0
    assert output.noise == pytest.approx(5e-4)


def test_the_steadiest_sample_counts(folder: Path) -> None:
    path = folder / "m.onnx"
    onnx.save(DOUBLED, path)
    x = np.ones(1000, np.float32)
    samples = [
        Sample({"x": x}, {"y": 2 * x + error}, {"y": 2 * x + 3 * error}, {"y": noise * x})
        for error, noise in ((1e-3, 0.0), (1e-4, 1e-5), (1e-5, 1e-2))
    ]
    (output,) = compare_with_truth(path, path, samples, 10)[0].outputs
    assert output.original == pytest.approx(5e-5, rel=1e-2)
    assert output.optimized == pytest.approx(1.5e-4, rel=1e-2)


def test_elements_that_are_not_finite_are_excluded(folder: Path) -> None:
    x = np.ones(1000, np.float32)
    x[5] = np.inf
    y = 2 * x
    y[3] = np.nan
    (output,) = compared(folder, {"x": x}, DOUBLED, y, y).outputs
    assert output.original == 0


def test_evaluations_are_arranged_before_they_are_measured(folder: Path) -> None:
    path = folder / "m.onnx"
    onnx.save(DOUBLED, path)
    x = np.arange(1000, dtype=np.float32)
    backwards = (2 * x)[::-1]
    noise = {"y": np.zeros(1000)}

    def arrange(evaluation: Evaluation) -> Evaluation:
        truth, exact = evaluation.truth["y"][::-1], evaluation.exact["y"][::-1]
        return Evaluation(evaluation.sample, {"y": truth}, {"y": exact})

    sample = Sample({"x": x}, {"y": backwards}, {"y": backwards}, noise)
    assert not compare_with_truth(path, path, [sample], 10)[0].outputs
    (output,) = compare_with_truth(path, path, [sample], 10, arrange=arrange)[0].outputs
    assert output.original == 0


def test_if_onnxruntime_disagrees_there_is_no_truth(folder: Path) -> None:
    x = np.ones(1000, np.float32)
    comparison = compared(folder, {"x": x}, DOUBLED, 3 * x, 3 * x)
    assert not comparison.outputs
    assert "differ by 50.0% in 'y'" in comparison.note
    comparison = compared(folder, {"x": x}, DOUBLED, x[:5], x[:5])
    assert not comparison.outputs
    assert "shapes differ" in comparison.note


def test_float64_outputs_need_no_truth(folder: Path) -> None:
    model = build("(double[2] x) => (double[2] y) { y = Neg(x) }")
    comparison = compared(folder, {"x": np.ones(2)}, model, -np.ones(2), -np.ones(2))
    assert (comparison.outputs, comparison.needless) == ([], True)
    assert "rounds more than float64" in comparison.note


def test_nodes_that_differ_in_names_alone_are_evaluated_by_the_same(folder: Path) -> None:
    """Of a model's nodes, most have the operator and attributes of another one."""
    model = build(
        """(float[2,3] x) => (float[3,2] y, float[2,3] z)
        { a = Mul(x, x)  b = Mul(a, x)  c = Mul(b, b)  d = Clip(c, , k)  e = Clip(b, k)
          y = Transpose<perm=[1,0]>(d)  f = Transpose<perm=[0,1]>(e)  z = Mul(f, d) }""",
        k=np.array(0.5, np.float32),
    )
    x = normal(2, 3)
    _shared_operator.cache_clear()
    outputs = evaluate(folder, model, {"x": x})
    wide = x.astype(np.float64)
    cubed = wide**3
    d, e = np.minimum(cubed**2, 0.5), np.maximum(cubed, 0.5)
    np.testing.assert_allclose(outputs["y"], d.T, rtol=1e-12)
    np.testing.assert_allclose(outputs["z"], e * d, rtol=1e-12)
    assert _shared_operator.cache_info().misses == 6, "two of Mul, of Clip and of Transpose"


# --- Maps without positions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(x, k)",
        "y = Conv<pads=[1,1]>(x, w)",
        "t = Conv(x, k) y = Pad(t, p)",
        "y = ConvTranspose<pads=[2,2]>(x, w)",
        "y = ConvTranspose<pads=[2,3], strides=[2]>(x, k)",
        "t = ConvTranspose<pads=[2,2]>(x, w) y = Pad(t, p)",
        "t = ConvTranspose<pads=[2,2]>(x, w) y = ConvTranspose(t, k)",
        "y = AveragePool<kernel_shape=[5]>(x)",
        "y = AveragePool<kernel_shape=[5], pads=[1,1]>(x)",
        "y = MaxPool<kernel_shape=[5]>(x)",
        "t = MaxPool<kernel_shape=[5]>(x) y = Pad(t, p)",
    ],
)
def test_small_maps_are_evaluated_where_onnxruntime_runs_them(body: str) -> None:
    weights: Parameters = {
        "w": normal(1, 1, 1),
        "k": normal(1, 1, 5),
        "p": np.array([0, 0, 1, 0, 0, 0]),
    }
    read = {name: content for name, content in weights.items() if f", {name})" in body}
    model = build(f"(float[N,1,L] x) => (float[N,1,M] y) {{ {body} }}", **read)
    truth = Truth64(model)
    ran = 0
    for size in range(10):
        feeds = {"x": normal(2, 1, size)}
        try:
            (expected,) = run_plain(model, feeds)
        except RuntimeException:
            with pytest.raises(NoTruth):
                truth.outputs(feeds)
        else:
            np.testing.assert_allclose(truth.outputs(feeds)["y"], expected, rtol=1e-5, atol=1e-5)
            ran += 1
    assert 0 < ran <= 10
