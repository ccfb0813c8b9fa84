"""What is said of the shapes that Loops carry holds in onnxruntime, however often they run."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from bnfold.graph.carried import links
from bnfold.graph.shapes import shape_of
from tests.support.evaluate import run_plain
from tests.support.learning import learned

BODIES = {
    "kept": ("g = Relu(h)", ["N", 3]),
    "given on": ("g = Identity(h)", ["N", 3]),
    "kept by a product": ("g = MatMul(h, w)", ["N", 3]),
    "kept by a Gemm": ("g = Gemm(h, w)", ["N", 3]),
    "grows": ("g = Concat<axis=0>(h, h)", [None, 3]),
    "grows along a fixed axis": ("g = Concat<axis=1>(h, h)", ["N", None]),
    "shrinks": ("g = Slice(h, one, big, zero)", [None, None]),
    "turned": ("g = Transpose(h)", [None, None]),
    "one more axis": ("g = Unsqueeze(h, zero)", None),
    "one axis less": ("m = ReduceSum<keepdims=0>(h) g = Relu(m)", None),
    "of another input": ("g = Relu(z)", [None, 3]),
    "of another input, kept": ("a = Add(h, z) g = Sub(a, z)", [None, 3]),
    "computed sizes": ("s = Shape(h) g = Reshape(h, s)", ["N", 3]),
    "unknown": ("s = Identity(given) g = Reshape(h, s)", None),
    "a Loop within": (
        "g = Loop(n, yes, h) <body = b2 (int64 j, bool e, float[] k) => (bool f, float[] l) "
        "{ f = Identity(e) l = Relu(k) }>",
        ["N", 3],
    ),
    "a growing Loop within": (
        "g = Loop(n, yes, h) <body = b2 (int64 j, bool e, float[] k) => (bool f, float[] l) "
        "{ f = Identity(e) l = Concat<axis=0>(k, z) }>",
        [None, 3],
    ),
    "an If within": (
        "g = If(c) <then_branch = t () => (float[] p) { p = Relu(h) }, "
        "else_branch = e () => (float[] q) { q = Neg(h) }>",
        ["N", 3],
    ),
}


def looping(body: str, *, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> '
        "g (float[N,3] x, float[M,3] z, int64 n, int64[k] given) => (float[] y) "
        "<bool yes = {1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] big = {2147483647}, "
        "float[3,3] w = {1,0,0,0,1,0,0,0,1}> { "
        "y = Loop(n, yes, x) <body = b (int64 i, bool c, float[] h) => (bool d, float[] g) "
        f"{{ d = Identity(c) {body} }}> }}"
    )


def told(value: ir.Value | None, names: dict[str, str]) -> list[int | str | None] | None:
    """Return the sizes that are known, and the names of those of the input."""
    shape = shape_of(value)
    if shape is None:
        return None
    return [size if isinstance(size, int) else names.get(size.value or "") for size in shape]


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("opset", [11, 17])
def test_what_a_body_keeps_is_known(kind: str, opset: int) -> None:
    body, expected = BODIES[kind]
    if opset == 11:
        body = body.replace("Unsqueeze(h, zero)", "Unsqueeze<axes=[0]>(h)")
    model = looping(body, opset=opset)
    loaded = learned(model)
    shape = shape_of(loaded.graph.inputs[0])
    assert shape is not None
    assert isinstance(shape[0], ir.SymbolicDim)
    names = {shape[0].value or "": "N"}
    (loop,) = loaded.graph
    (link,) = links(loop)
    assert told(link.result, names) == expected
    assert told(link.within, names) == expected
    for count in (0, 1, 3):
        feeds = {
            "x": np.ones((3, 3), np.float32),
            "z": np.ones((3 if "Add" in body else 2, 3), np.float32),
            "n": np.array(count),
            "given": np.array([3, 3]),
        }
        (result,) = run_plain(model, feeds)
        if expected is not None:
            expected_now = [3 if size == "N" else size for size in expected]
            pairs = zip(expected_now, result.shape, strict=True)
            assert all(size in (None, got) for size, got in pairs)


def test_a_number_that_is_carried_stays_one() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1] x, int64 n, float z) => (float[] y) <bool yes = {1}> {
            s = Squeeze(x)
            y = Loop(n, yes, s) <body = b (int64 i, bool c, float[] h) => (bool d, float[] g)
                { d = Identity(c) g = Add(h, z) }>
        }
    """)
    (_, loop) = learned(model).graph
    assert told(loop.outputs[0], {}) == []


def test_what_changes_places_is_not_taken_for_kept() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N,2] x, float[N,3] z, int64 n) => (float[] y, float[] w, float[] v)
        <bool yes = {1}> {
            y, w, v = Loop(n, yes, x, z) <body = b (int64 i, bool c, float[] h, float[] k) =>
                (bool d, float[] o, float[] p, float[] s) {
                    d = Identity(c) o = Relu(k) p = Relu(h) s = ReduceSum(h)
                }>
        }
    """)
    (loop,) = learned(model).graph
    assert [told(value, {}) for value in loop.outputs[:2]] == [[None, None]] * 2
    assert told(loop.outputs[2], {}) == [None, 1, 1]


@pytest.mark.parametrize("growing", [0, 2, 8])
def test_chains_of_loops_are_known_as_far_as_there_are_rounds(growing: int) -> None:
    step = (
        "v{1} = Loop(n, yes, v{0}) <body = b{0} (int64 i{0}, bool c{0}, float[] h{0}) => "
        "(bool d{0}, float[] g{0}) {{ d{0} = Identity(c{0}) g{0} = {2} }}>"
    )
    grows = ["Concat<axis=0>(h{0}, h{0})"] * growing + ["Relu(h{0})"] * (8 - growing)
    chain = " ".join(step.format(at, at + 1, body.format(at)) for at, body in enumerate(grows))
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[2,3] v0, int64 n) => (float[] v8) '
        f"<bool yes = {{1}}> {{ {chain} }}"
    )
    known = [told(node.outputs[0], {}) for node in learned(model).graph]
    right = [None if growing else 2, 3]
    assert known[:2] == [right] * 2
    assert all(each in (None, right) for each in known)


def test_what_a_scan_and_an_if_read_is_known() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[T,2,5] x, float[2,3] s, bool k) => (float[] y, float[] w, float[] v) {
            y, w = Scan(s, x)
                <num_scan_inputs = 1, body = b (float[] h, float[] e) => (float[] o, float[] p)
                { c = Concat<axis=1>(h, e) a = ReduceMean<axes=[1]>(c) o = Add(h, a) p = Relu(c) }>
            v = If(k) <then_branch = t () => (float[] q) { q = Relu(y) },
                       else_branch = e () => (float[] r) { r = Neg(y) }>
        }
    """)
    loaded = learned(model)
    found = {
        value.name: told(value, {}) for node in loaded.graph.all_nodes() for value in node.outputs
    }
    assert found == {
        "c": [2, 8],
        "a": [2, 1],
        "p": [2, 8],
        "w": [None, 2, 8],
        **{name: [2, 3] for name in "oyqrv"},
    }


def test_a_scan_is_no_loop() -> None:
    """Though what it reads third, and makes second and first, may have one shape."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4,2,3] x, float[2,3] s, float[4,2,3] t) => (float[] y, float[] w) {
            y, w = Scan(s, t, x) <num_scan_inputs = 1, body = b (float[] h, float[] k, float[] e)
                => (float[] o, float[] p) { o = Add(h, e) p = Relu(k) }>
        }
    """)
    (scan,) = learned(model).graph
    assert [told(value, {}) for value in scan.outputs] == [[2, 3], [4, 2, 3]]
