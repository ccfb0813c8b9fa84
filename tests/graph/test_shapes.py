"""Sizes that are said to hold for every input do: onnxruntime computes them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfold.graph.inference import infer_here, learn_shapes
from bnfold.graph.shapes import shape_of
from bnfold.modelfile.loading import load
from bnfold.running.isolation import Limits, isolated
from tests.support.evaluate import run_plain
from tests.support.geometry import KINDS, chain
from tests.support.graphs import Array, Parameters, build, ints, named_in
from tests.support.learning import learned
from tests.support.slow import few

MANY = int(os.environ.get("BNFOLD_TEST_GRAPHS", "15"))
"""Models of each kind that are tried beside those of every run; a long run sets more."""

LIMITS = Limits(seconds=10, more_bytes=2**31)

KEEPS_RANK = ("MaxPool", "AveragePool", "Conv", "ConvTranspose", "Resize", "Slice", "Pad")


@pytest.fixture
def shapes_are_inferred_here() -> None:
    """Infer them where the command does: some of these models crash onnx."""


def known_shapes(model: onnx.ModelProto) -> dict[str, list[int | None] | None]:
    """Return the known sizes of what each node of the main graph computes; None for free ones."""
    found: dict[str, list[int | None] | None] = {}
    for node in learned(model).graph:
        for value in node.outputs:
            shape = shape_of(value)
            found[value.name or ""] = (
                None
                if shape is None
                else [size if isinstance(size, int) else None for size in shape]
            )
    return found


def differences(model: onnx.ModelProto, shape: Iterable[int]) -> list[str]:
    """Return what is known of the outputs, but not so in onnxruntime; [] if it rejects them."""
    feeds = {"x": np.zeros(tuple(shape), np.float32)}
    try:
        results = isolated(lambda _: run_plain(model, feeds), lambda _: None, LIMITS)
    except Exception:  # onnxruntime rejects it, or aborts at a negative size
        return []
    known = known_shapes(model)
    wrong = []
    for output, result in zip(model.graph.output, results, strict=True):
        sizes = known[output.name]
        if sizes is not None and (
            len(sizes) != result.ndim
            or any(size not in (None, real) for size, real in zip(sizes, result.shape, strict=True))
        ):
            wrong.append(f"{output.name}: {sizes}, not {list(result.shape)}\n{model.graph.node}")
    return wrong


def set_free(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Make some sizes of the input free, in the ways that exporters write it."""
    generator = np.random.default_rng(seed)
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        way = generator.integers(0, 6)
        if way == 0:
            dim.dim_param = "?"
        elif way == 1:
            dim.dim_value = -1
        elif way == 2:
            dim.dim_value = 0
        elif way == 3:
            dim.Clear()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_that_onnxruntime_computes(kind: str) -> None:
    for seed in range(2):
        model, shape = chain([kind], seed)
        assert differences(model, shape) == []
        assert differences(set_free(model, seed), shape) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_that_onnxruntime_computes_for_many_more(kind: str) -> None:
    for seed in range(2, 2 + MANY):
        model, shape = chain([kind], seed)
        assert differences(model, shape) == []
        assert differences(set_free(model, seed), shape) == []


@pytest.mark.parametrize("seed", few(range(30), range(8)))
def test_a_wrong_size_is_not_passed_on(seed: int) -> None:
    generator = np.random.default_rng(seed)
    model, shape = chain([str(kind) for kind in generator.choice(KEEPS_RANK, 4)], seed)
    assert differences(model, shape) == []
    assert differences(set_free(model, seed), shape) == []


OLD = [
    (9, "y = Slice<starts=[1,-3], ends=[9,-1], axes=[2,-1]>(x)"),
    (9, "y = Slice<starts=[0,1], ends=[1,2]>(x)"),
    (9, "y, i = TopK<k=2, axis=2>(x)"),
    (9, 'y = Upsample<mode="nearest">(x, scales)'),
    (9, "i = Cast<to=7>(x) y = Scatter<axis=1>(x, i, x)"),
    (10, 'y = Resize<mode="nearest">(x, scales)'),
    (10, "y = Slice(x, one, two)"),
    (10, "y, i = TopK<axis=3>(x, two)"),
    (10, "y = Dropout<ratio=0.5>(x)"),
    *(
        (opset, line)
        for opset in (9, 10)
        for line in [
            "y = Pad<pads=[0,0,1,2,0,0,-1,3]>(x)",
            "y = ReduceSum<axes=[1,-1], keepdims=0>(x)",
            "y = ReduceSum<keepdims=0>(x)",
            "y, z = Split<axis=1, split=[1,2]>(x)",
            "y, z, a = Split<axis=1>(x)",
            "y = Squeeze<axes=[0]>(x)",
            "y = Squeeze(x)",
            "y = Unsqueeze<axes=[0,5]>(x)",
            "y = Clip<min=0.0, max=6.0>(x)",
            "y = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,1,1]>(x)",
            'y = AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER", strides=[2,2]>(x)',
            "y = Flatten<axis=2>(x)",
            "y = ArgMax<axis=2, keepdims=0>(x)",
            "y = DepthToSpace<blocksize=1>(x)",
            "y = Softmax<axis=1>(x)",
            "y = Gather<axis=2>(x, one)",
            "y = Expand(x, shape)",
            "y = Tile(x, shape)",
            "y = Where(mask, x, x)",
            "y = ConstantOfShape(shape)",
        ]
    ),
]


@pytest.mark.parametrize(("opset", "line"), OLD)
def test_sizes_in_old_operator_sets(opset: int, line: str) -> None:
    """They are inferred in a later one, whose operators have inputs in place of attributes."""
    weights: Parameters = {
        "scales": np.array([1, 1, 2, 1.5], np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
        "shape": np.array([2, 1, 1, 1]),
        "mask": np.ones((3, 1, 1), np.bool_),
    }
    read = named_in(line, weights)
    model = build(f"(float[1,3,5,7] x) => (float y) {{ {line} }}", opset=opset, **read)
    (output,) = model.graph.output
    output.CopyFrom(onnx.helper.make_empty_tensor_value_info("y"))
    if "x" not in model.graph.node[0].input:
        model.graph.node.add(op_type="Identity", input=["x"], output=["v"])
    (result,) = run_plain(model, {"x": np.zeros((1, 3, 5, 7), np.float32)})
    known = known_shapes(model)["y"]
    assert known == list(result.shape)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "N"
    known = known_shapes(model)["y"]
    native = onnx.shape_inference.infer_shapes(model, data_prop=True)
    (inferred,) = [value for value in native.graph.output if value.name == "y"]
    for size, dim in zip(known or [None] * 6, inferred.type.tensor_type.shape.dim, strict=False):
        assert size in (dim.dim_value, None) or not dim.HasField("dim_value")
        is_known = size is not None or line.startswith("y, i = TopK")
        assert is_known or not dim.HasField("dim_value")


def test_an_attribute_that_a_function_is_given_is_not_known() -> None:
    """Without its axes, a Squeeze or ReduceSum takes all of them."""
    text = """
        <ir_version: 8, opset_import: ["" : 11, "f" : 1]>
        graph (float[3] x) => (float y) { y = f.without<axes=[1]>(x) }
        <domain: "f", opset_import: ["" : 11]>
        without <axes> (a) => (b) {
            c = Constant<value = float[1,1,3] {1, 2, 3}>()
            d = Squeeze<axes: ints = @axes>(c)
            b = Add(a, d)
        }
    """
    model = learned(onnx.parser.parse_model(text))
    (function,) = model.functions.values()
    known = {value.name: shape_of(value) for node in function.graph for value in node.outputs}
    assert known == {"c": (1, 1, 3), "d": None, "b": None}


def integers(**numbers: int) -> Parameters:
    return {name: ints(number) for name, number in numbers.items()}


def sizes(model: onnx.ModelProto, name: str) -> list[int | None] | None:
    return known_shapes(model)[name]


STALE = "(float[N,3,H,W] x) => (float[N,3,h,w] y) { c = Slice(x, z, e, a) y = Relu(c) }"


def test_a_claim_of_the_file_is_not_taken_for_a_size() -> None:
    weights = integers(z=0, e=300, a=2)
    model = build(STALE, **weights)
    model.graph.value_info.append(helper.make_tensor_value_info("c", 1, [1, 3, 300, 300]))
    assert sizes(model, "c") == [None, 3, None, None]
    assert sizes(build(STALE.replace("H,W", "320,W"), **weights), "c") == [None, 3, 300, None]


@pytest.mark.parametrize("free", ["-1", "0", "?"])
def test_sizes_that_old_exporters_write_are_free(free: str) -> None:
    model = build("(float[2,3,4,5] x) => (float[a,b,c,d] y) { c = Relu(x) y = Relu(c) }")
    dim = model.graph.input[0].type.tensor_type.shape.dim[2]
    dim.dim_value, dim.dim_param = (0, free) if free == "?" else (int(free), "")
    if free != "?":
        dim.dim_value = int(free)
    assert sizes(model, "c") == [2, 3, None, 5]


def test_two_free_sizes_of_one_name_may_differ() -> None:
    model = build("(float[N,4] x, float[N,4] w) => (float[a,b] y) { y = Add(x, w) }")
    shapes = [shape_of(value) for value in learned(model).graph.inputs]
    assert shapes[0] is not None
    assert shapes[1] is not None
    assert shapes[0][0] != shapes[1][0]


def test_a_size_passes_on_under_one_name() -> None:
    model = build("(float[N,4] x) => (float[a,b] y) { c = Relu(x) y = Tanh(c) }")
    (x,), (relu, tanh) = learned(model).graph.inputs, list(learned(model).graph)
    assert shape_of(relu.outputs[0]) == shape_of(tanh.outputs[0]) == shape_of(x)


def test_an_overridable_shape_is_not_taken_for_the_one_in_the_file() -> None:
    text = "(float[2,6] x) => (float[a,b] y) { y = Reshape(x, s) }"
    model = build(text, s=np.array([3, 4], np.int64))
    assert sizes(model, "y") == [3, 4]
    model.graph.input.append(helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [2]))
    assert sizes(model, "y") == [None, None]


def test_the_state_of_a_loop_may_grow() -> None:
    model = build(
        "(float[1,4] x) => (float[a,4] y) { y = Loop(n, yes, x) <body = body (int64 i, bool c, "
        "float[1,4] h) => (bool d, float[1,4] g) { d = Identity(c) g = Concat<axis=0>(h, h) }> }",
        n=np.array(3, np.int64),
        yes=np.array(True),
    )
    assert sizes(model, "y") == [None, 4]
    (loop,) = learned(model).graph
    (concat,) = [n for n in loop.attributes["body"].as_graph() if n.op_type == "Concat"]
    shape = shape_of(concat.outputs[0])
    assert shape is not None
    assert not isinstance(shape[0], int)


def test_shapes_that_are_computed_are_known() -> None:
    model = build(
        "(float[2,3,8] x) => (float[a,b] z) "
        "{ h = Mul(two, two) w = Mul(two, three) s = Concat<axis=0>(two, h, w) r = Reshape(x, s) "
        "z = Flatten(r) }",
        two=np.array([2], np.int64),
        three=np.array([3], np.int64),
    )
    assert sizes(model, "r") == [2, 4, 6]


def test_a_negative_size_before_a_slice_does_not_abort() -> None:
    """A kernel larger than the map: onnx infers -5, and aborts at the Slice of it."""
    model = build(
        "(float[1,3,4,4] x) => (float[a,b,c,d] y) { c = Conv(x, w) y = Slice(c, z, e, a) }",
        w=np.ones((2, 3, 10, 10), np.float32),
        **integers(z=0, e=-1, a=2),
    )
    assert known_shapes(model)["y"] is None


def test_an_unsqueeze_of_a_million_axes_is_left_out() -> None:
    model = build(
        "(float[1] x) => (float y) { u = Unsqueeze(x, a) y = Relu(u) }", a=np.arange(2**20)
    )
    assert sizes(model, "u") is None


def test_nodes_in_any_order_are_sorted_first() -> None:
    model = build("(float[2,3] x) => (float[a,b] y) { c = Flatten(x) y = Relu(c) }")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert sizes(model, "y") == [2, 3]


def test_what_aborts_within_a_body_or_a_function_is_inferred_apart() -> None:
    """onnx aborts at a Slice of a negative size, wherever it is."""
    slices = "c = MaxPool<kernel_shape=[9,9]>(h) k = Slice(c, z, e, a)"
    numbers = "z = Constant<value_ints=[0]>() e = Constant<value_ints=[-1]>() "
    numbers += "a = Constant<value_ints=[2]>()"
    text = f"""
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        main (float[1,3,4,4] x, bool b) => (float[a,b,c,d] y) {{
            i = If(b) <then_branch = yes () => (float[p,q,r,s] k) {{
                h = Identity(x) {numbers} {slices}
            }}, else_branch = no () => (float[p,q,r,s] f) {{ f = local.cut(x) }}>
            y = Relu(i)
        }}
        <domain: "local", opset_import: ["" : 17]>
        cut (h) => (k) {{ {numbers} {slices} }}
    """
    model = onnx.parser.parse_model(text)
    assert known_shapes(model)["y"] in (None, [None] * 4)


def believed(model: onnx.ModelProto, **feeds: Array) -> tuple[list[int | None] | None, list[int]]:
    """Return what is known of the output, and what onnxruntime computes."""
    known = known_shapes(model)[model.graph.output[0].name]
    return known, list(run_plain(model, feeds)[0].shape)


def test_numbers_are_not_taken_through_a_cast_that_changes_them() -> None:
    """300 is 44 in uint8."""
    model = build(
        "(float[2,300] x) => (float[a] y) { s = Shape(x) u = Cast<to=2>(s) i = Cast<to=7>(u) "
        "e = Gather(i, one) y = Expand(half, e) }",
        one=np.array([1], np.int64),
        half=np.array([0.5], np.float32),
    )
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    known, real = believed(model, x=np.zeros((2, 300), np.float32))
    assert real == [44]
    assert known in (None, [None], [44])


@pytest.mark.parametrize(
    "rows", ["Unsqueeze(sizes, zero)", "Gather(sizes, places)", "Unsqueeze(s, zero)"]
)
def test_sizes_in_rows_are_not_taken_for_one_row(rows: str) -> None:
    """onnx takes the first row of [[N, 4]] to be N."""
    model = build(
        f"""(float[N,4] x) => (float[a,b] y) {{
            sizes = Shape(x) s = Identity(sizes) rows = {rows}
            first = Gather<axis=0>(rows, zero) size = Squeeze(first, zero) y = Reshape(x, size)
        }}""",
        zero=np.array([0], np.int64),
        places=np.array([[0, 1]], np.int64),
    )
    assert known_shapes(model)["y"] in (None, [None, None], [None, 4])
    assert known_shapes(model)["rows"] == [1, 2]


def test_crops_to_computed_sizes_are_inferred_at_once() -> None:
    """They read the content of shapes, but what they compute is none."""
    crops = " ".join(
        f"s{i} = Shape(x{i}) e{i} = Gather(s{i}, one) p{i} = Pad(x{i}, pads) "
        f"x{i + 1} = Slice(p{i}, zero, e{i}, one)"
        for i in range(8)
    )
    model = build(
        f"(float[N,7,5] x0) => (float[a,b,c] x8) {{ {crops} }}",
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        pads=np.array([0, 0, 0, 0, 2, 0], np.int64),
    )
    inferences = []

    def infer(bare: onnx.ModelProto) -> onnx.ModelProto | None:
        inferences.append(bare)
        return infer_here(bare)

    loaded = load(model).ir
    learn_shapes(loaded, infer)
    assert shape_of(loaded.graph.outputs[0]) is not None
    assert len(inferences) == 1


def test_what_a_loop_carries_in_a_sequence_may_change() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8] x) => (float[a,b,c] y) {
            n = Constant<value_int=3>() first = Constant<value_int=0>() yes = Cast<to=9>(n)
            s = SequenceConstruct(x)
            r = Loop(n, yes, s)
                <body = b (int64 i, bool c, seq(float[]) t) => (bool d, seq(float[]) o) {
                d = Identity(c) z = Constant<value_int=0>() e = SequenceAt(t, z)
                f = Concat<axis=2>(e, e) o = SequenceConstruct(f)
            }>
            y = SequenceAt(r, first)
        }
    """)
    known, real = believed(model, x=np.zeros((1, 3, 8), np.float32))
    assert real == [1, 3, 64]
    assert known in (None, [None] * 3, [1, 3, None])


def test_a_function_is_not_believed_more_than_the_graph() -> None:
    """onnx would take the sizes claimed in its bodies, and infer its own for a ceil_mode."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[1,3,8,8] x) => (float[a,b,c,d] y) { y = f.pool(x) }
        <domain: "f", opset_import: ["" : 19]>
        pool (h) => (k) {
            k = AveragePool<kernel_shape=[3,3], strides=[3,3], pads=[1,1,1,1], ceil_mode=1>(h)
        }
    """)
    model.opset_import[0].version = 19
    known, real = believed(model, x=np.zeros((1, 3, 8, 8), np.float32))
    assert real == [1, 3, 3, 3]
    assert known in (None, [1, 3, 3, 3])


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Shape", [], ["c"]),
        helper.make_node("Shape", ["x"], []),
        helper.make_node("CastLike", ["x"], ["c"]),
        helper.make_node("MaxPool", ["x"], [], kernel_shape=[2, 2]),
        helper.make_node("MaxPool", ["x"], ["c"], kernel_shape=[2, 2], auto_pad=1),
        helper.make_node("Slice", ["x"], []),
        helper.make_node("Resize", [], ["c"]),
        helper.make_node("Constant", [], ["c"], value=1),
        helper.make_node("Cast", ["x"], []),
        helper.make_node("Concat", [], ["c"], axis=0),
    ],
    ids=str,
)
def test_a_malformed_node_is_left_alone(node: onnx.NodeProto) -> None:
    model = build("(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }")
    model.graph.node.insert(0, node)
    assert known_shapes(model)["y"] in (None, [1, 3, 8, 8])


def test_functions_that_call_each_other_twice_end() -> None:
    lines = ['<domain: "f", opset_import: ["" : 17]> f0 (a) => (b) { b = Neg(a) }']
    lines += [
        f'<domain: "f", opset_import: ["" : 17, "f" : 1]> f{i} (a) => (b) '
        f"{{ m = f.f{i - 1}(a) b = f.f{i - 1}(m) }}"
        for i in range(1, 30)
    ]
    text = '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> '
    text += "main (float[N,3] x) => (float[N,3] y) { c = Relu(x) y = f.f29(c) }\n"
    model = onnx.parser.parse_model(text + "\n".join(lines))
    assert "c" in known_shapes(model)


@pytest.mark.parametrize("opset", [10, 13, 17])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("v = Slice(x, zero, e, first, first)", "N?W"),
        ("v = Slice(x, first, last, first)", "N2W"),
        ("v = Slice(x, zero, e, first)", "N?W"),
        ("v = Slice(x, e, one, first)", "N?W"),
        ("v = Slice(x, e, one, minus)", "N?W"),
        ("v = Slice(x, zeros, f, pair)", "??W"),
        ("v = Slice(x, zero, e, zero)", "?3W"),
        ("i = Cast<to=7>(x) v = Slice(i, zero, e, back)", "N3?"),
        ("v = Slice(x, zero, e, e)", "???"),
        ("v = Slice(x, zero, e)", "???"),
    ],
)
def test_a_slice_with_computed_bounds_keeps_the_other_sizes(
    lines: str, expected: str, opset: int
) -> None:
    weights: Parameters = {
        name: np.array(numbers, np.int64)
        for name, numbers in {
            "zero": [0], "one": [1], "first": [1], "last": [3], "minus": [-2], "back": [-1],
            "zeros": [0, 0], "pair": [1, -3],
        }.items()
    }  # fmt: skip
    model = build(
        f"(float[N,3,W] x, int64[1] e, int64[2] f) => (v) {{ {lines} }}", opset=opset, **weights
    )
    loaded = learned(model)
    first, given = shape_of(loaded.graph.outputs[0]), shape_of(loaded.graph.inputs[0])
    assert first is not None
    assert given is not None
    names = {given[0]: "N", given[2]: "W", 3: "3", 2: "2"}
    assert "".join(names.get(size, "?") for size in first) == expected


def test_sizes_cut_from_a_shape_by_computed_bounds_are_not_said_to_be_others() -> None:
    lines = "s = Shape(x) c = Slice(s, zero, e, zero) v = ConstantOfShape(c)"
    model = build(f"(float[2,3,4] x, int64[1] e) => (v) {{ {lines} }}", zero=np.array([0]))
    assert known_shapes(model)["v"] is None
