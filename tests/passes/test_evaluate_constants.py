"""evaluate-constants: what depends on constants and known sizes alone is computed in advance."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx.defs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bnfold
from bnfold.graph.expressions import OPERATORS
from tests.support.evaluate import assert_equal_outputs, run_plain
from tests.support.graphs import (
    Parameters,
    build,
    draw_feeds,
    ints,
    normal,
    operators,
    scalar,
)
from tests.support.passes import certificates, run_pass

NAME = "evaluate-constants"


def assert_evaluated(model: onnx.ModelProto, *expected: str) -> onnx.ModelProto:
    """Assert the remaining operators, equal bits in onnxruntime, and a fixpoint."""
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == list(expected)
    onnx.checker.check_model(optimized, full_check=True)
    assert_equal_outputs(model, optimized, draw_feeds(model))
    assert not run_pass(optimized, NAME).record.rewrites
    return optimized


SPLIT: Parameters = {
    "w": normal(2, 4, seed=3),
    "s": ints(2, 2),
    "t": ints(1, 1, 2),
    "k": ints(2),
}


def assert_left_alone(model: onnx.ModelProto) -> None:
    record = run_pass(model, NAME).record
    assert record.output is not None
    assert record.output.same


def test_bounds_of_a_relu6_as_the_dynamo_exporter_writes_them() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,3,8,8] z) "
        "{ a = CastLike(low, x) b = CastLike(high, x) z = Clip(x, a, b) }",
        opset=18,
        low=np.array(0, np.int64),
        high=np.array(6, np.int64),
    )
    optimized = assert_evaluated(model, "Clip")
    assert {tensor.data_type for tensor in optimized.graph.initializer} == {onnx.TensorProto.FLOAT}
    assert [list(tensor.dims) for tensor in optimized.graph.initializer] == [[], []]


def test_the_type_of_a_constant_node_is_known_without_its_being_told() -> None:
    """As the dynamo exporter writes an arange."""
    text = (
        "(int64[3] x) => (int64[3] z) { n = Constant<value_int=3>() zero = Constant<value_int=0>() "
        "step = Constant<value_float=1.0>() a = CastLike(zero, n) b = CastLike(step, n) "
        "r = Range(a, n, b) z = Add(x, r) }"
    )
    optimized = assert_evaluated(build(text, opset=18), "Add")
    assert [list(tensor.dims) for tensor in optimized.graph.initializer] == [[3]]


@pytest.mark.parametrize(("results", "mode"), [("n", ""), ("n, m, v", "<training_mode=1>")])
def test_a_weight_that_is_standardized_when_the_model_runs(results: str, mode: str) -> None:
    """As the ScaledStdConv of NFNets: a BatchNormalization of the weight, over its channels."""
    weights: Parameters = {"g": normal(8), "zeros": np.zeros(8, np.float32)}
    model = build(
        "(float[N,3,9,9] x) => (float[N,8,7,7] y) { p = Reshape(w, flat) e = ReduceMean<axes=[0,2]"
        f", keepdims=0>(p) o = Abs(g) {results} = BatchNormalization{mode}(p, o, zeros, e, o) "
        "u = Reshape(n, whole) y = Conv(x, u) }",
        w=normal(8, 3, 3, 3),
        flat=ints(1, 8, 27),
        whole=ints(8, 3, 3, 3),
        **weights,
    )
    assert_evaluated(model, "Conv")


def test_statistics_that_are_read_stay() -> None:
    model = build(
        "(float[N,8] x) => (float[1,8,27] y, float[N,8] z) { n, m, v = BatchNormalization"
        "<training_mode=1>(p, o, o, o, o) y = Identity(n) z = Add(x, m) }",
        p=normal(1, 8, 27),
        o=np.ones(8, np.float32),
    )
    assert "BatchNormalization" in operators(run_pass(model, NAME).to_proto())


def test_a_convolution_of_constants() -> None:
    model = build(
        "(float[N,4,7,7] x) => (float[N,4,7,7] y) { c = Conv(p, w) y = Mul(x, c) }",
        p=normal(1, 3, 9, 9),
        w=normal(4, 3, 3, 3),
    )
    assert_evaluated(model, "Mul")


def test_one_rewrite_for_all_readers() -> None:
    model = build(
        "(float[2,12] x) => (float[3,8] y, float[3,8] z) "
        "{ a = Unsqueeze(n, zero) s = Concat<axis=0>(a, a8) y = Reshape(x, s) z = Reshape(x, s) }",
        n=np.array(3, np.int64),
        zero=ints(0),
        a8=ints(8),
    )
    assert_evaluated(model, "Reshape", "Reshape")
    assert len(run_pass(model, NAME).record.rewrites) == 1


@pytest.mark.parametrize(
    ("graph", "kept", "rank"),
    [
        ("b = Mul(begins, i1) z = Pad(x, b)", "Pad", 3),
        ("b = Unsqueeze(one, i0) e = Unsqueeze(two, i0) z = Slice(x, b, e, b)", "Slice", 3),
        ("b = Neg(i1) z = Unsqueeze(x, b)", "Unsqueeze", 4),
        ("b = Sub(i1, i1) z = Squeeze(x, b)", "Squeeze", 2),
        ("b = Concat<axis=0>(i1, i1, i3) z = Tile(x, b)", "Tile", 3),
        ("b = Concat<axis=0>(i3, i1, i1) z = Expand(x, b)", "Expand", 3),
        ("b = Neg(i1) z = ReduceSum(x, b)", "ReduceSum", 3),
        ("b = Concat<axis=0>(f1, f1, f2) z = Resize(x, , b)", "Resize", 3),
        ("b = Sqrt(f) z = Mul(b, x)", "Mul", 3),
        ("b = Div(f, f) c = Sqrt(b) z = Add(x, c)", "Add", 3),
    ],
)
def test_operands(graph: str, kept: str, rank: int) -> None:
    shape = ",".join("abcd"[:rank])
    model = build(
        f"(float[1,4,3] x) => (float[{shape}] z) {{ {graph} }}",
        i0=ints(0),
        i1=ints(1),
        i3=ints(3),
        begins=ints(1, 2, 3, 3, 2, 1),
        one=np.array(1, np.int64),
        two=np.array(2, np.int64),
        f=scalar(3.7),
        f1=np.ones(1, np.float32),
        f2=np.full(1, 2, np.float32),
    )
    assert_evaluated(model, kept)


@pytest.mark.parametrize(
    ("lines", "opset"),
    [
        ("p, q = Split<axis=1>(w, s)", 17),
        ("p, q = Split<axis=1, num_outputs=2>(w)", 18),
        ("p, q = Split<axis=1, split=[1, 3]>(w)", 11),
        ("p, q, r = Split<axis=1>(w, t)", 17),
        ("q, i = TopK<axis=1>(w, k) p = Cast<to=1>(i)", 17),
    ],
)
def test_all_results_of_an_operator(lines: str, opset: int) -> None:
    read = {name: c for name, c in SPLIT.items() if f", {name})" in lines or name == "w"}
    text = f"(float[2,1] x) => (float[2,n] y) {{ {lines} a = Mul(x, p) y = Add(a, q) }}"
    model = build(text, opset=opset, **read)
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    model.graph.output[0].type.tensor_type.shape.dim.add(dim_param="n")
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Mul", "Add"]
    assert_equal_outputs(model, optimized, draw_feeds(model))
    assert not run_pass(optimized, NAME).record.rewrites


def test_an_operator_of_which_one_result_is_constant_in_an_expression() -> None:
    model = build(
        "(float[2,2] x) => (float[2,2] y) "
        "{ p, q = Split<axis=1>(w) e = Exp(p) f = Mul(x, e) y = Add(f, q) }",
        w=normal(2, 4),
    )
    assert_evaluated(model, "Mul", "Add")
    (first, second) = run_pass(model, NAME).record.rewrites
    assert (first.exactness, second.exactness) == ("bitwise", "rounded")


def test_results_that_are_outputs_keep_their_names() -> None:
    model = build(
        "(float[2] x) => (float[1] p, float[3] q, float[2] y) "
        "{ p, q = Split<axis=0>(w, s) y = Neg(x) }",
        w=normal(4),
        s=ints(1, 3),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert [output.name for output in optimized.graph.output] == ["p", "q", "y"]
    assert sorted(operators(optimized)) == ["Identity", "Identity", "Neg"]
    assert_equal_outputs(model, optimized, draw_feeds(model))


def test_results_count_together_towards_what_a_file_may_grow() -> None:
    for size, kept in ((2**13, ["Mul", "Mul", "Add"]), (2**13 + 1, ["Split", "Mul", "Mul", "Add"])):
        model = build(
            f"(float[{size}] x, float u) => (float[{size}] y, float[{2 * size}] z) "
            "{ p, q = Split<axis=0>(w) a = Mul(x, p) y = Add(a, q) z = Mul(u, w) }",
            w=normal(2 * size),
        )
        assert sorted(operators(run_pass(model, NAME).to_proto())) == sorted(kept)


def test_in_bodies_and_functions() -> None:
    model = build(
        """(float[N,4] x, bool c) => (float[N,4] z) {
            y = local.f(x)
            z = If (c) <
                then_branch = t () => (float[N,4] a) { l = CastLike(k, x) a = Clip(y, l) },
                else_branch = e () => (float[N,4] b) { b = Neg(y) }
            >
        }
        <domain: "local", opset_import: ["" : 18]> f (p) => (q) {
            k = Constant<value_int=1>()
            l = Cast<to=1>(k)
            q = Mul(p, l)
        }""",
        opset=18,
        k=np.array(0, np.int64),
    )
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    passes = bnfold.PassOptions(only=[NAME], keep_functions=True)
    optimized = bnfold.optimize(model, check=False, passes=passes).to_proto()
    (branch,) = [
        attribute.g
        for attribute in optimized.graph.node[1].attribute
        if attribute.name == "then_branch"
    ]
    assert [node.op_type for node in branch.node] == ["Clip"]
    assert [node.op_type for node in optimized.functions[0].node] == ["Constant", "Mul"]
    feeds = {"x": np.array([[-1, 2, -3, 4]], np.float32), "c": np.array(True)}
    assert_equal_outputs(model, optimized, feeds)


SHAPE_OF_X = (
    "({type} x) => (float[n,m] z) "
    "{{ s = Shape<end=1>(x) t = Concat<axis=0>(s, rest) z = Reshape(x, t) }}"
)


def test_a_shape_is_constant_if_all_inputs_have_fixed_shapes() -> None:
    model = build(SHAPE_OF_X.format(type="float[2,3,4]"), opset=18, rest=ints(12))
    assert_evaluated(model, "Reshape")


def test_a_shape_is_not_constant_if_an_input_has_a_free_dimension() -> None:
    """A tool that frees an input's dimension may leave stale shapes of downstream values."""
    model = build(
        "(float[N,3,4] x) => (float[n,m] z) "
        "{ y = Neg(x) s = Shape<end=1>(y) t = Concat<axis=0>(s, rest) z = Reshape(y, t) }",
        opset=18,
        rest=ints(12),
    )
    model.graph.value_info.append(
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3, 4])
    )
    assert_left_alone(model)


@pytest.mark.parametrize(
    "graph",
    [
        "z = Clip(x, low, low)",
        "l = Constant<value_float=0.0>() z = Clip(x, l)",
        "l, m, n = DynamicQuantizeLinear(low) z = Clip(x, m)",
        "l = ReduceMax<keepdims=0>(x) z = Clip(x, l)",
        "l = RandomNormal<shape=[1]>() z = Mul(x, l)",
        "s = Shape(x) c = ConstantOfShape(s) z = Add(x, c)",
    ],
    ids=["weight", "constant", "not listed", "run time", "random", "free size"],
)
def test_what_stays(graph: str) -> None:
    assert_left_alone(build(f"(float[33,N] x) => (float z) {{ {graph} }}", opset=18, low=scalar(2)))


@pytest.mark.parametrize(
    ("graph", "kept", "exactness"),
    [
        ("l = Exp(low) z = Mul(x, l)", ["Mul"], "rounded"),
        ("a = Sqrt(low) b = Mul(a, low) z = Max(x, b)", ["Max"], "bitwise"),
        ("a = Sqrt(low) b = Sin(a) c = Neg(b) z = Max(x, c)", ["Max"], "rounded"),
        ("a = Transpose(large) z = Mul(x, a)", ["Mul"], "bitwise"),
        (
            "a = Sqrt(low) b = Exp(low) c = Add(a, b) d = Mul(x, c) z = Div(d, a)",
            ["Mul", "Div"],
            "",
        ),
    ],
)
def test_functions_that_runtimes_approximate_are_evaluated_too(
    graph: str, kept: list[str], exactness: str
) -> None:
    read: Parameters = {"large": np.ones((32, 33), np.float32)} if "large" in graph else {}
    model = build(f"(float[33,32] x) => (float[a,b] z) {{ {graph} }}", low=scalar(2), **read)
    assert_evaluated(model, *kept)
    found = {rewrite.exactness for rewrite in run_pass(model, NAME).record.rewrites}
    assert found == ({exactness} if exactness else {"bitwise", "rounded"})


@pytest.mark.parametrize(("wide", "kept"), [(128, ["Mul"]), (129, ["Expand", "Mul"])])
def test_a_file_does_not_grow_by_more_than_64_kib_for_one_content(
    wide: int, kept: list[str]
) -> None:
    model = build(
        f"(float[128,{wide}] x) => (float[a,b] z) {{ e = Expand(low, s) z = Mul(x, e) }}",
        low=scalar(2),
        s=ints(128, wide),
    )
    assert_evaluated(model, *kept) if kept == ["Mul"] else assert_left_alone(model)


@pytest.mark.parametrize(("wide", "kept"), [(256, ["Mul"]), (257, ["Expand", "Mul"])])
def test_a_large_file_may_grow_by_a_sixteenth_for_one_content(wide: int, kept: list[str]) -> None:
    model = build(
        f"(float[128,{wide}] x, float[1024,512] y) => (float[a,b] z, float[c,d] u) "
        "{ e = Expand(low, s) z = Mul(x, e) u = Add(y, two_mib) }",
        low=scalar(2),
        s=ints(128, wide),
        two_mib=np.ones((1024, 512), np.float32),
    )
    assert operators(run_pass(model, NAME).to_proto()) == [*kept, "Add"]


@pytest.mark.parametrize(
    ("other_reader", "evaluated"), [("", True), ("u = Gather(table, i)", False)]
)
def test_a_large_constant_that_stays_is_not_stored_twice(
    other_reader: str, evaluated: bool
) -> None:
    """A language model's table of embeddings, transposed, is its last weight."""
    outputs = "float[a,b] z, float[c,d] u" if other_reader else "float[a,b] z"
    model = build(
        f"(float[2,64] x, int64[3] i) => ({outputs}) "
        f"{{ t = Transpose(table) z = MatMul(x, t) {other_reader} }}",
        table=np.arange(300 * 64, dtype=np.float32).reshape(300, 64),
    )
    assert ("Transpose" not in operators(run_pass(model, NAME).to_proto())) == evaluated


@pytest.mark.parametrize(
    ("sizes", "indices"),
    [("3", 1), ("3,4", [1, 2]), ("3,4", [-1]), ("3,4", -2)],
)
def test_sizes_that_are_known_beside_one_that_is_not(sizes: str, indices: Any) -> None:
    result = "int64[n]" if isinstance(indices, list) else "int64"
    model = build(
        f"(float[N,{sizes}] x) => ({result} z) {{ s = Shape(x) g = Gather(s, i) z = Neg(g) }}",
        i=np.array(indices, np.int64),
    )
    assert_evaluated(model, "Identity")


@pytest.mark.parametrize("indices", [0, [1, 0], 3, -4])
def test_the_size_of_a_batch_is_not_known(indices: Any) -> None:
    model = build(
        "(float[N,3,4] x) => (int64 z) { s = Shape(x) g = Gather(s, i) z = Neg(g) }",
        i=np.array(indices, np.int64),
    )
    assert_left_alone(model)


@pytest.mark.parametrize(
    ("bounds", "opset", "known"),
    [
        ((1, 3), 17, True),
        ((-2, 99), 17, True),
        ((0, 2), 17, False),
        ((1, 3), 9, True),
        ((0, 1), 9, False),
    ],
)
def test_a_slice_of_the_sizes(bounds: tuple[int, int], opset: int, known: bool) -> None:
    start, end = bounds
    taken = f"Slice<starts=[{start}], ends=[{end}]>(s)" if opset < 10 else "Slice(s, b, e)"
    weights: Parameters = {} if opset < 10 else {"b": ints(start), "e": ints(end)}
    model = build(
        f"(float[N,3,4] x) => (int64[n] z) {{ s = Shape(x) g = {taken} z = Neg(g) }}",
        opset=opset,
        **weights,
    )
    assert_evaluated(model, "Identity") if known else assert_left_alone(model)


def test_what_a_caller_may_override_stays() -> None:
    model = build(
        "(float[N,4] x, float low) => (float[N,4] z) { l = Neg(low) z = Clip(x, l) }", low=scalar(2)
    )
    assert_left_alone(model)
    frozen = bnfold.PassOptions(only=[NAME], freeze_initializers=True)
    result = bnfold.optimize(model, check=False, passes=frozen)
    assert operators(result.to_proto()) == ["Clip"]


def test_text_stays() -> None:
    model = build(
        "(int64[2] s) => (string[a,b] z) { n = Unsqueeze(names, zero) z = Expand(n, s) }",
        zero=ints(0),
    )
    names = np.array(["a", "b", "c"], object)
    model.graph.initializer.append(onnx.numpy_helper.from_array(names, "names"))
    assert_left_alone(model)


@pytest.mark.parametrize(("dividend", "expected"), [(-7, -3), (7, 3)])
def test_integers_are_divided_towards_zero(dividend: int, expected: int) -> None:
    graph = "{ q = Div(a, two) s = Unsqueeze(q, zero) z = Slice(x, s, end) }"
    model = build(
        f"(float[9] x) => (float[n] z) {graph}",
        a=np.array(dividend, np.int64),
        two=np.array(2, np.int64),
        zero=ints(0),
        end=ints(9),
    )
    optimized = assert_evaluated(model, "Slice")
    (start,) = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in optimized.graph.initializer
        if tensor.name == optimized.graph.node[0].input[1]
    ]
    assert start.tolist() == [expected]


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_random_expressions(data: st.DataObject) -> None:
    """A shape concatenated from random pieces reshapes as before."""
    sizes = data.draw(st.permutations([2, 3, 4, 5]))
    lines: list[str] = []
    names: list[str] = []
    weights: Parameters = {}
    for place, size in enumerate(sizes):
        how = data.draw(st.sampled_from(["weight", "unsqueeze", "add", "cast", "gather", "div"]))
        weights[f"w{place}"] = np.array(size, np.int64)
        weights["zero"], weights["seven"] = ints(0), np.array(7, np.int64)
        step = {
            "weight": f"a{place} = Unsqueeze(w{place}, zero)",
            "unsqueeze": f"u{place} = Unsqueeze(w{place}, zero) a{place} = Squeeze(u{place}) "
            f"b{place} = Unsqueeze(a{place}, zero)",
            "add": f"p{place} = Add(w{place}, seven) q{place} = Sub(p{place}, seven) "
            f"b{place} = Unsqueeze(q{place}, zero)",
            "cast": f"p{place} = Cast<to=1>(w{place}) q{place} = Cast<to=7>(p{place}) "
            f"b{place} = Unsqueeze(q{place}, zero)",
            "gather": f"p{place} = Unsqueeze(w{place}, zero) b{place} = Gather(p{place}, zero)",
            "div": f"p{place} = Mul(w{place}, seven) q{place} = Div(p{place}, seven) "
            f"b{place} = Unsqueeze(q{place}, zero)",
        }[how]
        lines.append(step)
        names.append(f"a{place}" if how == "weight" else f"b{place}")
    lines.append(f"s = Concat<axis=0>({', '.join(names)}) z = Reshape(x, s)")
    model = build(f"(float[6,20] x) => (float[a,b,c,d] z) {{ {' '.join(lines)} }}", **weights)
    assert_evaluated(model, "Reshape")


@pytest.mark.parametrize(
    ("graph", "exactness"),
    [
        ('c = Resize<mode="nearest">(m, , , grid) z = Mul(x, c)', "rounded"),
        ('c = Resize<mode="linear">(m, , , grid) z = Mul(x, c)', "rounded"),
        ("c = Resize(m, , twice) z = Mul(x, c)", "rounded"),
        ("p = AveragePool<kernel_shape=[2,2]>(m) z = Mul(x, p)", "rounded"),
        ("p = MaxPool<kernel_shape=[2,2]>(m) z = Mul(x, p)", "bitwise"),
        ("p = GlobalMaxPool(m) z = Mul(x, p)", "bitwise"),
        ("p = GlobalAveragePool(m) z = Mul(x, p)", "rounded"),
        ("p = ConvTranspose(m, m) z = Mul(x, p)", "rounded"),
        ("p = InstanceNormalization(m, one, one) z = Mul(x, p)", "rounded"),
        ("p = LayerNormalization(m, one) z = Mul(x, p)", "rounded"),
        ("p = LpNormalization(m) z = Mul(x, p)", "rounded"),
        ("p = LogSoftmax(m) z = Mul(x, p)", "rounded"),
        ("p = Softplus(m) z = Mul(x, p)", "rounded"),
        ("p = LeakyRelu(m) z = Mul(x, p)", "rounded"),
        ("p = PRelu(m, one) z = Mul(x, p)", "rounded"),
        ("p = ReduceLogSumExp(m) z = Mul(x, p)", "rounded"),
        ("p = HannWindow(four) z = Mul(x, p)", "rounded"),
        ("p = MelWeightMatrix(four, eight, rate, low, high) z = Mul(x, p)", "rounded"),
        ('b = BitShift<direction="LEFT">(bits, bits) p = Cast<to=1>(b) z = Mul(x, p)', "bitwise"),
        ("p = GridSample(m, grids) z = Mul(x, p)", "rounded"),
        ("p = AffineGrid(theta, size) q = ReduceMax(p) z = Mul(x, q)", "rounded"),
    ],
)  # fmt: skip
def test_functions_of_constants(graph: str, exactness: str) -> None:
    """As of positions, masks, windows and filters, which exporters write as expressions."""
    weights: Parameters = {
        "m": normal(1, 1, 2, 2),
        "grid": ints(1, 1, 4, 4),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "one": np.ones(1, np.float32),
        "four": np.array(4, np.int64),
        "eight": np.array(8, np.int64),
        "rate": np.array(16000, np.int64),
        "low": scalar(100),
        "high": scalar(8000),
        "bits": np.array([1, 2], np.uint8),
        "grids": normal(1, 4, 4, 2),
        "theta": normal(1, 2, 3),
        "size": ints(1, 1, 4, 4),
    }
    read = {name: w for name, w in weights.items() if re.search(rf"[( ]{name}[,)]", graph)}
    text = f"(float[N,1,1,1] x) => (float[N,a,b,c] z) {{ {graph} }}"
    assert_evaluated(build(text, opset=20, **read), "Mul")
    model = build(text, opset=20, **read)
    found = {rewrite.exactness for rewrite in run_pass(model, NAME).record.rewrites}
    assert found == {exactness}


NOT_EVALUATED = {
    "draws": {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
              "RandomUniformLike", "Dropout"},
    "quantizes": {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger",
                  "QLinearConv", "QLinearMatMul", "QuantizeLinear"},
    "scores": {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"},
    "attends": {"Attention", "LinearAttention", "RotaryEmbedding", "SwiGLU", "TensorScatter"},
    "detects": {"DeformConv", "MaxRoiPool", "MaxUnpool", "NonMaxSuppression", "RoiAlign"},
    "has bodies": {"If", "Loop", "Scan", "SequenceMap"},
    "has a state": {"CausalConvWithState", "GRU", "LSTM", "RNN"},
    "is of strings or sequences": {
        "ConcatFromSequence", "ImageDecoder", "Optional", "OptionalGetElement",
        "OptionalHasElement", "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
        "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence", "StringConcat",
        "StringNormalizer",
        "StringSplit", "TfIdfVectorizer"},
    "is none": {"BitCast", "Constant"},
    "has as many results as its content says": {"Compress", "Unique"},
    "is of sizes": {"Shape", "Size"},
}  # fmt: skip
"""Operators by why they are not evaluated."""


def test_each_operator_is_evaluated_or_has_a_reason_not_to_be() -> None:
    defined = {each.name for each in onnx.defs.get_all_schemas_with_history() if not each.domain}
    reasons = [name for names in NOT_EVALUATED.values() for name in names]
    assert defined - OPERATORS <= set(reasons)
    assert OPERATORS.isdisjoint(reasons)
    assert defined >= OPERATORS
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize(
    ("carried", "start", "last", "opset"),
    [
        ("seq(float[2,4])", "SequenceEmpty()", "SequenceInsert(s, a)", 17),
        ("float[m,j]", "Identity(x)", "Concat<axis=0>(s, a)", 17),
        ("float[m,j]", "Identity(x)", "Concat<axis=0>(s, a)", 11),
    ],
)
def test_in_bodies_whose_other_shapes_are_not_known(
    carried: str, start: str, last: str, opset: int
) -> None:
    """As torch.jit.script writes an LSTMCell: its weights are put in order in each iteration."""
    ends = (
        "<axes=[0]>(r) v = Squeeze<axes=[0]>(u)" if opset < 13 else "(r, zero) v = Squeeze(u, zero)"
    )
    model = build(
        f"(float[2,4] x, int64 n, bool c) => ({carried} z) {{ e = {start} z = Loop(n, c, e) <"
        f"body = b (int64 i, bool k, {carried} s) => (bool o, {carried} t) {{ "
        "p = Slice(w, zero, two) q = Slice(w, two, four, zero) r = Concat<axis=0>(q, p) "
        f"u = Unsqueeze{ends} "
        f"h = Gather(s0, i) g = Mul(x, h) a = MatMul(g, v) t = {last} o = Identity(k) }}> }}",
        opset=opset,
        w=normal(4, 4),
        s0=normal(5),
        zero=ints(0),
        two=ints(2),
        four=ints(4),
    )
    optimized = run_pass(model, NAME).to_proto()
    (loop,) = (node for node in optimized.graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in loop.attribute)
    kept = ["Gather", "Mul", "MatMul", last.partition("(")[0].partition("<")[0], "Identity"]
    assert [node.op_type for node in body.node] == kept
    feeds = {"x": normal(2, 4), "n": np.array(3, np.int64), "c": np.array(True)}
    for one, other in zip(run_plain(model, feeds), run_plain(optimized, feeds), strict=True):
        for each, again in zip(one, other, strict=True):
            np.testing.assert_array_equal(each, again)
    assert {each.verdict for each in certificates(model, NAME)} == {"certified"}


@pytest.mark.parametrize("line", ["Equal(a, b)", "Equal(a, a)", "Cast<to=1>(c)"])
def test_what_reads_strings_stays(line: str) -> None:
    """onnxruntime 1.32 says of two lists of strings that are inputs what is not so."""
    model = build(f"(float[N,2] x) => (float[N,2] y) {{ e = {line} f = Cast<to=1>(e) "
                  "y = Add(x, f) }", opset=19)  # fmt: skip
    for name, texts in (("a", ["cat", "dog"]), ("b", ["cat", "frog"]), ("c", ["1", "2.5"])):
        if f"({name}" in line or f" {name})" in line:
            content = onnx.numpy_helper.from_array(np.array(texts, object), name)
            model.graph.initializer.append(content)
    optimized = run_pass(model, NAME).to_proto()
    feeds = {"x": np.zeros((1, 2), np.float32)}
    np.testing.assert_array_equal(run_plain(optimized, feeds)[0], run_plain(model, feeds)[0])
    assert operators(optimized) == operators(model)


def test_a_split_of_which_one_part_is_evaluated_has_names_for_all() -> None:
    """What is made of the other part is too large to be stored; without a name it is not computed.

    onnxruntime crashes on such a Split.
    """
    model = build(
        "(float[4] x) => (float[4] y, float[8192,4] z) { a, b = Split<axis=0>(c, h) "
        "y = Add(x, a) e = Expand(b, s) z = Add(e, x) }",
        c=normal(8),
        h=np.array([4, 4]),
        s=np.array([8192, 4]),
    )
    optimized = run_pass(model, NAME).to_proto()
    assert operators(optimized) == ["Split", "Add", "Expand", "Add"]
    assert all(optimized.graph.node[0].output)
    assert "a" in {tensor.name for tensor in optimized.graph.initializer}
    feeds = {"x": normal(4)}
    assert_equal_outputs(model, optimized, feeds)
