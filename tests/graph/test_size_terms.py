"""What is computed from sizes: what is said of it holds for every input."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from onnx import helper

from bnfold.graph.constants import constant
from bnfold.graph.facts import learn
from bnfold.graph.shapes import is_free, shape_of, size_of
from bnfold.graph.size_terms import Term, factors_of, terms
from bnfold.modelfile.loading import load
from bnfold.running.learning import TOOLS
from tests.support.evaluate import RuntimeException, run_plain
from tests.support.graphs import Parameters, build, named_in, normal

INTEGERS: Parameters = {
    **{name: np.array([number], np.int64) for name, number in
       {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "last": -1}.items()},
    "pairs": np.array([2, 2], np.int64),
    "pair": np.array([2, 3], np.int64),
    "scalar": np.array(2, np.int64),
    "double": np.array(2, np.float32),
    "half": np.array(0.5, np.float32),
    "mask": np.array([True], np.bool_),
}  # fmt: skip
"""Sizes of x: two that callers choose, and two that are known."""


def found(lines: str, *, version: int = 17) -> list[tuple[int, int | None]] | None:
    """Return the factors of v, and of which axis of x each is one."""
    used = named_in(lines, INTEGERS)
    model = load(build(f"(float[N,3,H,5] x) => (v) {{ {lines} }}", opset=version, **used)).ir
    learn(model, TOOLS)
    axes = {Term.of(size): axis for axis, size in enumerate(shape_of(model.graph.inputs[0]) or ())}
    value = next(v for node in model.graph for v in node.outputs if v.name == "v")
    given = terms(value)
    if given is None:
        return None
    return [(t.factor, None if t.size is None else axes[Term(1, t.size)]) for t in given]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("v = Shape(x)", [(1, 0), (3, None), (1, 2), (5, None)]),
        ("v = Shape<start=1, end=-1>(x)", [(3, None), (1, 2)]),
        ("s = Shape(x) v = Gather(s, pair)", [(1, 2), (5, None)]),
        ("s = Shape(x) v = Gather(s, scalar)", [(1, 2)]),
        ("s = Shape(x) v = Slice(s, one, three)", [(3, None), (1, 2)]),
        ("s = Shape(x) g = Gather(s, scalar) v = Mul(g, two)", [(2, 2)]),
        ("s = Shape(x) v = Mul( two, s)", [(2, 0), (6, None), (2, 2), (10, None)]),
        ("s = Shape<start=2>(x) v = Mul(s, pair)", [(2, 2), (15, None)]),
        ("s = Shape<start=2, end=3>(x) v = Add(s, s)", [(2, 2)]),
        ("s = Shape<start=2, end=3>(x) q = Squeeze(s) v = Unsqueeze(q, zero)", [(1, 2)]),
        ("s = Shape<start=2, end=3>(x) v = Reshape(s, last)", [(1, 2)]),
        ("s = Shape<start=0, end=1>(x) v = Concat<axis=0>(s, two)", [(1, 0), (2, None)]),
        (
            "s = Shape<start=2, end=3>(x) f = Cast<to=1>(s) m = Mul(f, double) o = Floor(m) "
            "v = Cast<to=7>(o)",
            [(2, 2)],
        ),
        ("s = Shape<start=2, end=3>(x) v = Identity(s)", [(1, 2)]),
        ("s = Shape<start=2, end=3>(x) f = Cast<to=1>(s) v = Mul(f, half)", None),
        ("s = Shape<start=2, end=3>(x) v = Cast<to=6>(s)", [(1, 2)]),
        ("s = Shape<start=2, end=3>(x) v = Cast<to=3>(s)", None),
        ("s = Shape<start=2, end=3>(x) v = Add(s, two)", None),
        (
            "s = Shape<start=2, end=3>(x) d = Mul(s, s) f = Mul(d, d) e = Mul(f, f) v = Mul(e, s)",
            None,
        ),
        ("s = Shape<start=2, end=3>(x) v = Div(s, two)", None),
        ("s = Shape<start=2, end=3>(x) m = Mul(s, four) v = Div(m, two)", [(2, 2)]),
        ("s = Shape<start=2, end=3>(x) m = Mul(s, two) v = Div(m, four)", None),
        ("s = Shape<start=2, end=3>(x) m = Mul(s, two) v = Div(m, zero)", None),
        ("s = Shape<start=2, end=3>(x) m = Mul(s, two) v = Div(m, s)", [(2, None)]),
        ("s = Shape(x) p = ReduceProd(s) v = Div(p, two)", None),
        (
            "s = Shape<start=2, end=3>(x) f = Cast<to=1>(s) m = Mul(f, double) v = Div(m, double)",
            [(1, 2)],
        ),
        ("s = Shape<start=2, end=3>(x) f = Cast<to=1>(s) v = Div(f, f)", None),
        ("s = Shape(x) v = Slice(s, one, three, zero, two)", None),
        ("s = Shape(x) v = Reshape(s, pairs)", None),
        ("s = Shape(x) v = Mul(s, pair)", None),
        ("v = NonZero(x)", None),
    ],
)
def test_terms(lines: str, expected: list[tuple[int, int | None]] | None) -> None:
    assert found(lines) == expected


def spatial_names(lines: str, inputs: str = "float[N,3,H,W] x") -> list[set[object]]:
    """Return the sizes of the inputs along each spatial axis, and that of the result y."""
    model = build(f"({inputs}) => (y) {{ {lines} }}", w=normal(4, 3, 3, 3), k=normal(1, 4, 1, 1))
    loaded = load(model).ir
    learn(loaded, TOOLS)
    shapes = [shape_of(value) for value in (*loaded.graph.inputs, *loaded.graph.outputs)]
    names = [[getattr(s, "value", s) for s in shape.dims[2:]] for shape in shapes if shape]
    return [set(along) for along in zip(*names, strict=True)]


@pytest.mark.parametrize(
    ("lines", "is_kept"),
    [
        ("y = Conv<pads=[1,1,1,1]>(x, w)", (True, True)),
        ("y = Conv<pads=[2,0,0,2]>(x, w)", (True, True)),
        ("y = Conv<pads=[1,0,1,1]>(x, w)", (True, False)),
        ("y = Conv<dilations=[2,2], pads=[2,1,2,1]>(x, w)", (True, False)),
        ("y = Conv<strides=[2,1], pads=[1,1,1,1]>(x, w)", (False, True)),
        ('y = Conv<auto_pad="SAME_LOWER">(x, w)', (True, True)),
        ('y = Conv<auto_pad="VALID", pads=[1,1,1,1]>(x, w)', (False, False)),
        ("a = MaxPool<kernel_shape=[1,3], pads=[0,2,0,0]>(x) y = Relu(a)", (True, True)),
        ("y = AveragePool<kernel_shape=[2,2], pads=[1,0,0,0]>(x)", (True, False)),
        ("a = Conv<pads=[1,1,1,1]>(x, w) y = Mul(k, a)", (True, True)),
        ("a = Conv<pads=[1,1,1,1]>(x, w) b = Conv<pads=[2,2,0,0]>(x, w) y = Sum(a, k, b)",
         (True, True)),
        ("a = Conv<pads=[1,1,1,1]>(x, w) b = Conv(x, w) y = Add(a, b)", (False, False)),
    ],
)  # fmt: skip
def test_sizes_that_operators_keep_have_one_name(lines: str, is_kept: tuple[bool, bool]) -> None:
    assert tuple(len(names) == 1 for names in spatial_names(lines)) == is_kept


def test_sizes_of_two_inputs_may_differ() -> None:
    inputs = "float[N,3,H,W] x, float[N,3,H,W] z"
    assert [len(names) for names in spatial_names("y = Add(x, z)", inputs)] == [3, 3]


@st.composite
def maps(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw Convs, pools and sums in a row, of free sizes."""
    rank = draw(st.integers(1, 2))
    values, nodes, weights = ["x"], [], {}
    for step in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["Conv", "Conv", "MaxPool", "AveragePool", "Add", "Relu"]))
        name, source = f"v{step}", draw(st.sampled_from(values[-2:]))
        attributes: dict[str, Any] = {}
        inputs = [source]
        if kind == "Add":
            inputs.append(draw(st.sampled_from(values)))
        elif kind != "Relu":
            kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
            dilations = [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)]
            attributes = {"kernel_shape": kernel}
            if draw(st.booleans()):
                attributes["strides"] = [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)]
            if kind != "AveragePool" and draw(st.booleans()):
                attributes["dilations"] = dilations
            spread = [draw(st.integers(0, k - 1)) for k in kernel]
            pads = [*spread, *(k - 1 - s for k, s in zip(kernel, spread, strict=True))]
            padding = draw(st.sampled_from(["", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
            if padding == "pads":
                attributes["pads"] = pads
            elif padding:
                attributes["auto_pad"] = padding
            if kind == "Conv":
                weights[f"w{step}"] = normal(2, 2, *kernel)
                inputs.append(f"w{step}")
                if draw(st.booleans()):
                    del attributes["kernel_shape"]
            elif draw(st.booleans()):
                attributes["ceil_mode"] = 1
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        values.append(name)
    sizes = ["N", 2, *"HW"[:rank]]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, None) for v in values[1:]],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@settings(max_examples=30, deadline=None)
@given(maps(), st.integers(1, 8), st.integers(4, 9))
def test_sizes_of_one_name_are_equal(model: onnx.ModelProto, height: int, width: int) -> None:
    rank = len(model.graph.input[0].type.tensor_type.shape.dim) - 2
    x = np.zeros((3, 2, height, width)[: rank + 2], np.float32)
    try:
        results = run_plain(model, {"x": x})
    except RuntimeException:
        reject()
    loaded = load(model).ir
    learn(loaded, TOOLS)
    named: dict[str, int] = {}
    values = (*loaded.graph.inputs, *loaded.graph.outputs)
    for value, array in zip(values, (x, *results), strict=True):
        for size, actual in zip(shape_of(value) or (), array.shape, strict=False):
            if isinstance(size, int):
                assert size == actual
            elif size.value is not None:
                assert named.setdefault(size.value, actual) == actual


@pytest.mark.parametrize(
    ("line", "x", "expected"),
    [
        ("Reshape(x, t)", "n,3,4", ["n", 2, 6]),
        ("Reshape(x, t)", "6,n,2", ["n", 2, 6]),  # asked for on another axis
        ("Reshape(x, open)", "n,3,4", ["n", 12]),
        ("Reshape(x, open)", "6,n,2", ["n", 12]),
        ("Reshape(x, open)", "6,n", [None, 12]),
        ("Reshape(x, open)", "n,m,12", [None, 12]),
        ("Expand(x, t)", "n,1,6", ["n", 2, 6]),
        ("Expand(x, t)", "n", ["n", 2, 6]),
        ("Expand(x, t)", "m,n,1", [None, 2, 6]),
        ("Tile(x, t)", "1,n,1", ["n", None, 6]),
        ("Tile(x, t)", "n,5,1", [None, 10, 6]),
        ("Tile(x, t)", "n,1,3", [None, 2, 18]),
    ],
)
def test_sizes_that_an_operator_is_given(
    line: str, x: str, expected: list[int | str | None]
) -> None:
    axis = x.split(",").index("n")
    lines = f"s = Shape<start={axis}, end={axis + 1}>(x) t = Concat<axis=0>(s, more) y = {line}"
    weights: Parameters = {"more": np.array([2, 6]), "open": np.array([-1, 12])}
    loaded = load(build(f"(float[{x}] x) => (y) {{ {lines} }}", **weights)).ir
    learn(loaded, TOOLS)
    own, made = (shape_of(value) for value in (loaded.graph.inputs[0], loaded.graph.outputs[0]))
    assert own is not None
    assert made is not None
    found = [size if isinstance(size, int) else "n" if size == own[axis] else None for size in made]
    assert found == expected


CROP = 'coordinate_transformation_mode="tf_crop_and_resize"'


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("Resize(x, , , t)", ["n", 3, "h", "w"]),
        ("Resize<axes=[-1,2]>(x, , , back)", ["n", 3, "h", "w"]),
        ('Resize<keep_aspect_ratio_policy="not_larger">(x, , , t)', [None] * 4),
        (f"Resize<{CROP}>(x, box, , t)", ["n", 3, "h", "w"]),
        ("Resize(x, , scales)", ["n", 3, "2a", "3b"]),
        ("Resize<axes=[3,2]>(x, , two)", ["n", 3, "3a", "2b"]),
        ("Resize(x, , uneven)", ["n", 3, "2a", None]),
        (f"Resize<{CROP}>(x, box, scales)", [None, None, None, None]),
        ("Resize(x, , , fixed)", ["n", 3, 7, "w"]),
    ],
)
def test_sizes_of_a_resize(resize: str, expected: list[int | str | None]) -> None:
    """Those of another map, as in a feature pyramid."""
    weights: Parameters = {
        "zero": np.array([0]), "two_": np.array([2]), "four": np.array([4]),
        "seven": np.array([7]), "three": np.array([3]),
        "scales": np.array([1, 1, 2, 3], np.float32), "two": np.array([2, 3], np.float32),
        "uneven": np.array([1, 1, 2, 1.5], np.float32),
        "box": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
    }  # fmt: skip
    lines = f"""
        s = Shape(x) n = Slice(s, zero, two_) r = Shape(z) h = Slice(r, two_, four)
        hh = Slice(r, two_, three) w = Slice(r, three, four)
        t = Concat<axis=0>(n, h) back = Concat<axis=0>(w, hh)
        fixed = Concat<axis=0>(n, seven, w) y = {resize}
    """
    model = build(f"(float[N,3,A,B] x, float[N,5,H,W] z) => (y) {{ {lines} }}", opset=18, **weights)
    loaded = load(model).ir
    learn(loaded, TOOLS)
    x, z = (list(shape_of(value) or ()) for value in loaded.graph.inputs)
    (made,) = (shape_of(value) for value in loaded.graph.outputs)
    assert made is not None
    named = {"n": Term.of(x[0]), "h": Term.of(z[2]), "w": Term.of(z[3])}
    for letter, axis in (("a", 2), ("b", 3)):
        one = Term.of(x[axis])
        assert one is not None
        named |= {f"{k}{letter}": one.times(Term(k)) for k in (1, 2, 3)}
    wanted = [named[each] if isinstance(each, str) else each for each in expected]
    found = [size if isinstance(size, int) else Term.of(size) for size in made]
    known = [term if isinstance(term, int) or term in named.values() else None for term in found]
    assert known == wanted


@pytest.mark.parametrize(
    ("lines", "x", "expected"),
    [
        ("y = Reshape(x, r4)", "n,6,4", [None, 4]),
        ("r = Reshape(x, r4) y = Reshape(r, r24)", "n,6,4", ["n", 24]),
        ("r = Reshape(x, r4) t = Transpose(r) y = Reshape(t, r24)", "n,6,4", ["n", 24]),
        ("r = Reshape(x, r4) m = Mul(n, six) t = Concat<axis=0>(m, o) y = Reshape(r, t)",
         "n,6,4", [None, 4]),
        ("m = Mul(n, six) t = Concat<axis=0>(m, o) y = Reshape(x, t)", "n,6,4", [None, 4]),
        ("m = Mul(n, six) d = Div(m, six) t = Concat<axis=0>(d, o) y = Reshape(x, t)",
         "n,6,4", ["n", 24]),
        ("t = Concat<axis=0>(n, o) y = Reshape(x, t)", "n,6,4", ["n", 24]),
        ("t = Concat<axis=0>(n, two, o) y = Reshape(x, t)", "n,6,4", ["n", 2, 12]),
        ("t = Concat<axis=0>(o, n) y = Reshape(x, t)", "n,6", [6, "n"]),
        ("t = Concat<axis=0>(two, o) y = Reshape(x, t)", "n,3", [2, None]),
        ("m = Mul(n, six) t = Concat<axis=0>(m, o) y = Reshape(x, t)", "n,3,1", [None, None]),
        ("t = Concat<axis=0>(n, o) y = Reshape(x, t)", "n,m", ["n", None]),
        ("t = Concat<axis=0>(n, n, o) y = Reshape(x, t)", "n,6,4", ["n", "n", None]),
    ],
)  # fmt: skip
def test_a_size_that_is_left_open(lines: str, x: str, expected: list[int | str | None]) -> None:
    weights: Parameters = {
        "r4": np.array([-1, 4]),
        "r24": np.array([-1, 24]),
        "six": np.array([6]),
        "o": np.array([-1]),
        "two": np.array([2]),
    }
    text = f"n = Shape<start=0, end=1>(x) {lines}"
    used = {name: array for name, array in weights.items() if re.search(rf"\b{name}\b", text)}
    model = build(f"(float[{x}] x) => (y) {{ {text} }}", **used)
    loaded = load(model).ir
    learn(loaded, TOOLS)
    own, made = (shape_of(value) for value in (loaded.graph.inputs[0], loaded.graph.outputs[0]))
    assert own is not None
    assert made is not None
    found = [size if isinstance(size, int) else "n" if size == own[0] else None for size in made]
    assert found == expected
    is_copying = "(o, n)" in lines  # where n is 0, a size that onnx takes for n
    for size in (1, 4) if is_copying else (0, 1, 4):
        sizes = {"n": size, "m": 3}
        shape = [int(sizes.get(each, each)) for each in x.split(",")]
        try:
            (result,) = run_plain(model, {"x": np.zeros(shape, np.float32)})
        except RuntimeException:
            continue
        for told, real in zip(found, result.shape, strict=True):
            assert told is None or sizes.get(str(told), told) == real


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sizes_that_an_operator_is_given_are_those_that_it_makes(data: st.DataObject) -> None:
    """Also of an empty input, whose zeros a Reshape takes for sizes to copy.

    Unless one of several is open or copied then: onnx's own inference takes these for zeros, too.
    """
    own = data.draw(st.lists(st.sampled_from(["N", "M", "2", "3", "1"]), min_size=1, max_size=3))
    kind = data.draw(st.sampled_from(["Reshape", "Reshape", "Expand", "Tile", "Resize"]))
    axes = st.sampled_from([str(axis) for axis in range(len(own))])
    fixed = ["1", "2", "6", "-1", "0"] if kind == "Reshape" else ["1", "2"]
    parts = data.draw(
        st.lists(st.one_of(axes.map("a{}".format), st.sampled_from(fixed)), min_size=1, max_size=4)
    )
    weights: Parameters = {}
    lines, names = [], []
    for number, part in enumerate(parts):
        names.append(f"p{number}")
        if part.startswith("a"):
            axis = int(part[1:])
            lines.append(f"p{number} = Shape<start={axis}, end={axis + 1}>(x)")
        else:
            weights[f"p{number}"] = np.array([int(part)])
    read = "x, , , t" if kind == "Resize" else "x, t"
    lines += [f"t = Concat<axis=0>({', '.join(names)})", f"y = {kind}({read})"]
    model = build(f"(float[{','.join(own)}] x) => (y) {{ {' '.join(lines)} }}", **weights)
    loaded = load(model).ir
    learn(loaded, TOOLS)
    before, after = (shape_of(value) for value in (loaded.graph.inputs[0], loaded.graph.outputs[0]))
    assert before is not None
    for n, m in [(0, 5), (1, 1), (4, 6), (6, 4), (0, 0)]:
        shape = [int({"N": n, "M": m}.get(size, size)) for size in own]
        is_one_of_several = len(parts) - len(weights) > 1 or not {"-1", "0"}.isdisjoint(parts)
        if 0 in shape and is_one_of_several:
            continue
        try:
            (result,) = run_plain(model, {"x": np.zeros(shape, np.float32)})
        except RuntimeException:
            continue
        named = {
            size.value: actual
            for size, actual in zip(before, shape, strict=True)
            if not isinstance(size, int)
        }
        for size, actual in zip(after or (), result.shape, strict=after is not None):
            if isinstance(size, int) or size.value in named:
                assert (size if isinstance(size, int) else named[size.value]) == actual


def test_products_of_sizes() -> None:
    two, three = Term(2, "h"), Term(3, "n")
    product = two.times(three)
    assert product == three.times(two) == Term(6, "bnfold.product: h × n")
    assert product is not None
    assert product.over(two) == three
    assert product.over(product) == Term(1)
    assert product.over(Term(4)) is None
    assert product.over(Term(0)) is None
    assert product.over(Term(1, "w")) is None
    assert two.over(product) is None
    square = two.times(two)
    assert square is not None
    assert factors_of(square.size or "") == ["h", "h"]
    assert square.over(two) == two
    assert factors_of("h") == ["h"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("p = Mul(n, h) t = Concat<axis=0>(p, last) r = Reshape(x, t)", 15),
        ("p = Mul(n, h) t = Concat<axis=0>(n, h, last) r = Reshape(x, t)", 15),
        ("p = Mul(n, h) t = Concat<axis=0>(p, three, last) r = Reshape(x, t)", 5),
        ("p = Mul(n, h) t = Concat<axis=0>(p, last) q = Reshape(x, t) "
         "u = Concat<axis=0>(n, h, last) r = Reshape(q, u)", 15),
        ("p = Mul(n, h) t = Concat<axis=0>(p, last) q = Reshape(x, t) "
         "u = Concat<axis=0>(h, n, last) r = Reshape(q, u)", 15),
        ("t = Concat<axis=0>(n, last) r = Reshape(x, t)", None),
        ("t = Concat<axis=0>(h, h, last) r = Reshape(x, t)", None),
        ("p = Mul(n, h) t = Concat<axis=0>(p, two, last) r = Reshape(x, t)", None),
        ("p = Mul(n, h) t = Concat<axis=0>(p, zero, last) r = Reshape(x, t)", None),
    ],
)  # fmt: skip
def test_what_is_left_of_products_is_known(lines: str, expected: int | None) -> None:
    used = {name: array for name, array in INTEGERS.items() if re.search(rf"\b{name}\b", lines)}
    sizes = "n = Shape<start=0, end=1>(x) h = Shape<start=2, end=3>(x)"
    model = load(build(f"(float[N,3,H,5] x) => (r) {{ {sizes} {lines} }}", **used)).ir
    learn(model, TOOLS)
    value = next(v for node in model.graph for v in node.outputs if v.name == "r")
    assert size_of(value, -1) == expected


@pytest.mark.parametrize(("factor", "sizes"), [(1, "n"), (3, "n"), (6, "nm"), (4, "nnm")])
def test_a_multiple_has_a_name(factor: int, sizes: str) -> None:
    term = Term(factor)
    for each in sizes:
        term = term.times(Term(1, each)) or Term(0)
    assert Term.of(ir.SymbolicDim(term.name)) == term


def test_a_product_of_sizes_is_not_one_that_a_caller_chooses() -> None:
    term = Term(1, "bnfold.free.0").times(Term(1, "bnfold.free.1"))
    assert term is not None
    assert not is_free(ir.SymbolicDim(term.size))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("v = Equal(s, last)", [False] * 4),
        ("v = Equal(last, s)", [False] * 4),
        ("c = Concat<axis=0>(n, last, two) v = Equal(c, last)", [False, True, False]),
        ("m = Mul(n, two) v = Equal(m, last)", [False]),
        ("v = Equal(n, n)", [True]),
        ("g = Gather(s, scalar) v = Equal(g, last)", [False]),
        ("v = Equal(n, two)", None),
        ("v = Equal(n, zero)", None),
        ("v = Equal(n, h)", None),
        ("m = Mul(n, two) v = Equal(m, n)", None),
        ("m = Mul(n, last) v = Equal(m, two)", None),
        ("m = Mul(n, last) v = Equal(m, last)", None),
        ("v = Greater(n, last)", None),
    ],
)
def test_what_an_equal_says_for_every_input(lines: str, expected: list[bool] | None) -> None:
    text = f"s = Shape(x) n = Gather(s, zero) h = Shape<start=2, end=3>(x) {lines}"
    used = {name: array for name, array in INTEGERS.items() if f" {name}" in lines + " zero"}
    used |= {name: INTEGERS[name] for name in ("last", "two", "scalar", "zero") if name in text}
    model = build(f"(float[N,3,H,5] x) => (v) {{ {text} }}", **used)
    loaded = load(model).ir
    learn(loaded, TOOLS)
    content = constant(next(v for node in loaded.graph for v in node.outputs if v.name == "v"))
    assert (None if content is None else content.reshape(-1).tolist()) == expected
    for shape in ((0, 3, 0, 5), (1, 3, 2, 5), (2, 3, 4, 5)):
        (result,) = run_plain(model, {"x": np.zeros(shape, np.float32)})
        assert content is None or (result.shape, result.tolist()) == (
            content.shape,
            content.tolist(),
        )
