"""Windows are cut out of the graph around each rewrite, and compute what it computes there."""

from __future__ import annotations

import itertools
from collections.abc import Container
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bnfold.graph.facts import learn
from bnfold.modelfile.loading import load
from bnfold.options import PassOptions
from bnfold.proof.certificates.certificate import certify, certify_any
from bnfold.proof.certificates.in_turn import certify_all
from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.rewriting.contract import Op, Replace
from bnfold.rewriting.editor import Editor
from bnfold.running.learning import TOOLS
from bnfold.workflow import determined, slices
from bnfold.workflow.variants import Variant, Variants
from bnfold.workflow.windows import Cut, Cutter
from tests.support.evaluate import run_plain
from tests.support.graphs import Parameters, batch_norm, build, draw_feeds, normal, operators


def rewritten(model: onnx.ModelProto, folder: Path) -> Variant:
    onnx.save(model, folder / "m.onnx")
    source = folder / "m.onnx"
    return Variants(source, PassOptions()).without(cut=True)


def windows(model: onnx.ModelProto, folder: Path) -> list[Window]:
    variant = rewritten(model, folder)
    assert len(variant.cuts) == len(variant.outcome.rewrites)
    return [cut.window() for cut in variant.cuts]


def conv_bn(**changed: object) -> onnx.ModelProto:
    weights: Parameters = {"w": normal(4, 3, 3, 3), **batch_norm(4), **changed}
    return build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { a = Abs(x) c = Conv(a, w) "
        "n = BatchNormalization(c, s, b, m, v) y = Sqrt(n) }",
        **weights,
    )


def test_a_window_has_the_pattern_and_what_replaced_it(tmp_path: Path) -> None:
    (found,) = windows(conv_bn(), tmp_path)
    assert [operators(model) for model in found.models] == [
        ["Conv", "BatchNormalization"],
        ["Conv"],
    ]
    (value,) = found.inputs
    assert [size.dim_value for size in value.type.tensor_type.shape.dim][1:] == [3, 8, 8]


def test_both_sides_run_and_agree(tmp_path: Path) -> None:
    (found,) = windows(conv_bn(), tmp_path)
    (value,) = found.inputs
    feeds = {value.name: draw_feeds(conv_bn())["x"]}
    before, after = (run_plain(model, feeds)[0] for model in found.models)
    np.testing.assert_allclose(before, after, 1e-4, 1e-5)


def test_values_that_others_read_are_outputs(tmp_path: Path) -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] y, float[N,4] z) { d = Dropout(x) y = Relu(d) z = Neg(d) }"
    )
    (found,) = windows(model, tmp_path)
    assert certify(found).verdict == "certified"


def test_weights_in_a_file_of_their_own_are_read(tmp_path: Path) -> None:
    onnx.save(
        conv_bn(), tmp_path / "e.onnx", save_as_external_data=True, location="e", size_threshold=0
    )
    source = tmp_path / "e.onnx"
    (cut,) = Variants(source, PassOptions()).without(cut=True).cuts
    assert certify(cut.window()).verdict == "certified"


def test_names_that_an_edit_reuses_stay_apart(tmp_path: Path) -> None:
    (found,) = windows(conv_bn(), tmp_path)
    named = [{tensor.name for tensor in model.graph.initializer} for model in found.models]
    assert not named[0] & named[1]


@pytest.mark.parametrize("op", ["RandomUniformLike", "RandomNormalLike", "Bernoulli"])
def test_what_draws_from_a_constant_is_no_constant(op: str, tmp_path: Path) -> None:
    model = build(
        f"(float[N,4] x) => (float[N,4] y) {{ r = {op}(k) "
        "a = Add(x, r) d = Dropout(a) y = Neg(d) }",
        k=np.full((1, 4), 0.5, np.float32),
    )
    for found in windows(model, tmp_path):
        assert not {node.op_type for node in found.nodes()} & {op}


def test_what_is_computed_from_sizes_is_no_input_of_a_window(tmp_path: Path) -> None:
    chain = " ".join(f"m{n + 1} = Mul(m{n}, t)" for n in range(100))
    model = build(
        "(float[1,4,8] x, float[1,4,8] z) => (float[1,4,8] y) { h = Shape(x) g = Gather(h, i) "
        f"m0 = Cast<to=1>(g) {chain} r = Sqrt(m100) y = Mul(z, r) }}",
        i=np.array(2),
        t=np.array(1.01, np.float32),
    )
    for found in windows(model, tmp_path):
        assert certify(found).verdict == "certified"


@pytest.mark.parametrize("between", ["Identity", "Relu"])
def test_no_side_computes_what_the_other_one_reads(between: str) -> None:
    """A zero of any shape is taken in, and so is what reads its shape on the other side."""
    model = build(
        f"(float[N,2] x) => (int64[m] y) {{ h = Shape(x) z = ConstantOfShape(h) q = {between}(z) "
        "a = Shape(q) here = Shape(q) y = Concat<axis=0>(a, here) }",
        opset=17,
    )
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    kept, node = list(loaded.graph)[-3:-1]
    replace = Replace([node], {node.outputs[0]: kept.outputs[0]})
    cutter.watch(replace)(Editor(loaded).apply(replace))
    for found in cutter.cuts[0].windows():
        read = {value.name for value in found.inputs}
        assert read.isdisjoint(name for each in found.nodes() for name in each.output)
        assert certify(found).verdict == "certified"


def test_a_value_within_a_long_pattern_is_computed_on_both_sides() -> None:
    chain = " ".join(f"r{n + 1} = Abs(r{n})" for n in range(20))
    inputs = "(float[N,2] x) => (float[N,2] last, float[N,2] y)"
    model = build(f"{inputs} {{ r0 = Neg(x) {chain} last = Neg(r20) y = Neg(r12) }}")
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    nodes = list(loaded.graph)[1:21]
    replace = Replace(nodes, {nodes[-1].outputs[0]: Op("Abs", [nodes[11].outputs[0]])})
    cutter.watch(replace)(Editor(loaded).apply(replace))
    assert certify(cutter.cuts[0].window()).verdict == "certified"


def test_what_both_sides_read_and_sizes_determine_is_known(tmp_path: Path) -> None:
    """As TensorFlow pads: by a number that a size gives, half of it before, and the rest after."""
    model = build(
        "(float[N,4,9,9] x) => (float[N,4,a,b] y) { h = Shape<start=2, end=3>(x) "
        "f = Sub(h, eight) t = Div(f, two) r = Sub(f, t) l = Add(r, t) "
        "p = Concat<axis=0>(zeros, r, t, zeros, t, l) y = Pad(x, p) }",
        eight=np.array([8]),
        two=np.array([2]),
        zeros=np.zeros(2, np.int64),
    )
    variant = rewritten(model, tmp_path)
    found = [certify_any(cut.windows()) for cut in variant.cuts]
    assert found
    assert {each.verdict for each in found} == {"certified"}


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ("here = Relu(x) s = Shape(here) y = Cast<to=1>(s)", True),
        ("here = Transpose(x) s = Shape(here) y = Cast<to=1>(s)", False),
        ("here = Flatten<axis=0>(x) s = Shape(here) y = Cast<to=1>(s)", False),
        ("here = Unsqueeze(x, zero) s = Size(here) y = Cast<to=1>(s)", False),  # as Shape may say
        ("here = Cast<to=1>(x) y = CastLike(k, here)", True),
        ("here = Relu(x) y = CastLike(k, here)", True),
        ("here = Cast<to=10>(x) c = CastLike(k, here) y = Cast<to=1>(c)", False),
        ("here = Transpose(x) c = CastLike(k, here) s = Shape(here) y = CastLike(s, c)", False),
        ("here = Transpose(x) c = CastLike(k, here) y = Cast<to=1>(c)", True),
        ("here = Identity(x) z = Shape(here) c = Cast<to=1>(z) y = Add(here, c)", True),
        ("here = Transpose(x) z = Shape(here) t = CastLike(z, x) y = Mul(t, two)", False),
    ],
)
@pytest.mark.parametrize("size", ["N", "3"])
def test_of_a_value_what_is_read_is_compared(body: str, right: bool, size: str) -> None:
    """Nothing of its content, where only its shape or its type is read."""
    model = build(
        f"(float[{size},2] x) => (float[m] y) {{ {body} }}",
        opset=17,
        k=np.array([3]),
        zero=np.array([0]),
        two=np.array(2, np.float32),
    )
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    (node,) = (node for node in loaded.graph if node.outputs[0].name == "here")
    assert node.inputs[0] is not None
    replace = Replace([node], {node.outputs[0]: node.inputs[0]})
    cutter.watch(replace)(Editor(loaded).apply(replace))
    (cut,) = cutter.cuts
    found = certify_any(cut.windows())
    assert (found.verdict == "certified") == right, found


@pytest.mark.parametrize("between", ["Identity(n)", "Transpose<perm=[0,1,3,2]>(n)"])
def test_a_fold_past_readers_of_shapes_is_proven(between: str, tmp_path: Path) -> None:
    model = build(
        "(float[N,2,H,W] x) => (float[N,3,a,b] y, int64[4] p, int64[4] q) { r = Relu(x) "
        f"n = BatchNormalization(r, s, b, m, v) t = {between} "
        "y = Conv(t, w) p = Shape(n) q = Shape(t) }",
        w=normal(3, 2, 1, 1),
        **batch_norm(2),
    )
    variant = rewritten(model, tmp_path)
    assert "fold-batchnorm" in {each.pass_name for each in variant.outcome.rewrites}
    assert {certify_any(cut.windows()).verdict for cut in variant.cuts} == {"certified"}


@pytest.mark.parametrize("right", [True, False])
def test_a_wider_window_compares_shapes_alone_too(right: bool) -> None:
    axis = 0 if right else 1
    model = build(
        "(float[N,2] x) => (int64[m] y) { h = Shape(x) a = Gather<axis=0>(h, k) "
        "q = Concat<axis=0>(a, two) here = Expand(x, q) y = Shape(here) }",
        k=np.array([axis]),
        two=np.array([2]),
        opset=17,
    )
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    node = loaded.graph[-2]
    replace = Replace([node], {node.outputs[0]: Op("Reshape", node.inputs)})
    cutter.watch(replace)(Editor(loaded).apply(replace))
    (cut,) = cutter.cuts
    assert cut.wider is not None
    assert certify(cut.window()).verdict != "certified"
    assert (certify_any(cut.windows()).verdict == "certified") == right


FOLD = "d = MatMul({0}, w) f = BatchNormalization(d, s, b, m, v)"
BODIES = {
    "a Loop": (
        "y = Loop(n, yes, x) <body = b (int64 i, bool c, float[] h) => (bool e, float[] g) "
        f"{{ e = Identity(c) {FOLD.format('h')} g = Tanh(f) }}>"
    ),
    "a Scan": (
        "z, u = Scan(x, r) <num_scan_inputs=1, body = b (float[] h, float[] j) => "
        f"(float[] f, float[] k) {{ a = Add(h, j) {FOLD.format('a')} k = Tanh(f) }}> y = Abs(z)"
    ),
    "an If after a Loop": (
        "l = Loop(n, yes, x) <body = b (int64 i, bool c, float[] h) => (bool e, float[] g) "
        "{ e = Identity(c) g = Tanh(h) }> "
        f"y = If(q) <then_branch = t () => (float[] f) {{ {FOLD.format('l')} }}, "
        "else_branch = o () => (float[] p) { p = Relu(l) }>"
    ),
    "an If within a Loop": (
        "y = Loop(n, yes, x) <body = b (int64 i, bool c, float[] h) => (bool e, float[] g) "
        "{ e = Identity(c) g = If(q) <then_branch = t () => (float[] f) "
        f"{{ {FOLD.format('h')} }}, else_branch = o () => (float[] p) {{ p = Relu(h) }}> }}>"
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_folds_in_bodies_are_proven(case: str, tmp_path: Path) -> None:
    model = build(
        "(float[N,2] x, float[T,N,2] r, int64 n, bool q) => (float[] y) { " + BODIES[case] + " }",
        w=normal(2, 2),
        yes=np.array(True),
        **batch_norm(2),
    )
    variant = rewritten(model, tmp_path)
    assert [each.pass_name for each in variant.outcome.rewrites] == ["fold-batchnorm"]
    assert certify_any(variant.cuts[0].windows()).verdict == "certified"


@pytest.mark.parametrize(("op", "verdict"), [("Relu", "certified"), ("my.Draw", "open")])
def test_what_onnx_does_not_define_is_in_no_window(op: str, verdict: str, tmp_path: Path) -> None:
    model = build(
        "(float[N,2] x, bool k) => (float[N,2] y) { r = If(yes) <then_branch = t () => (float[] a) "
        f"{{ a = If(k) <then_branch = u () => (float[] p) {{ p = {op}(x) }}, "
        "else_branch = o () => (float[] q) { q = Abs(x) }> }, "
        "else_branch = e () => (float[] b) { b = Relu(x) }> y = Neg(r) }",
        yes=np.array(True),
        opset=17,
    )
    model.opset_import.add(domain="my", version=1)
    variant = rewritten(model, tmp_path)
    (rewrite,) = variant.outcome.rewrites
    assert rewrite.pass_name == "take-branch"
    (found,) = certify_all([cut.windows for cut in variant.cuts], 60)
    assert found.verdict == verdict
    assert found.note == ("ONNX does not define all of its If" if verdict == "open" else "")


@pytest.mark.parametrize("sizes", ["", "h = Shape(a) "])
def test_where_nothing_reads_what_was_replaced_nothing_is_left_to_prove(sizes: str) -> None:
    model = build(f"(float[N] x) => (float[N] y) {{ a = Relu(x) {sizes}b = Neg(a) y = Abs(x) }}")
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    *nodes, _ = loaded.graph
    operand = nodes[0].inputs[0]
    assert operand is not None
    replace = Replace(nodes, {nodes[0].outputs[0]: operand})
    cutter.watch(replace)(Editor(loaded).apply(replace))
    found = certify_any(cutter.cuts[0].windows())
    assert (found.verdict, found.kind) == ("certified", "constant")


@pytest.mark.parametrize("right", [True, False])
def test_of_values_from_sizes_one_may_be_computed_from_the_other(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are read by what replaces their reader, as where positions are divided by the last."""
    model = build(
        "(float[N,2,W] x) => (float[1,W] y) { s = Shape<start=2>(x) q = Squeeze(s) "
        "r = Range(origin, q, next) c = Cast<to=1>(r) e = Unsqueeze(c, zero) "
        "l = Slice(e, last, end, unit) a = Add(l, small) t = Tile(e, times) y = Div(t, a) }",
        origin=np.array(0),
        next=np.array(1),
        zero=np.array([0]),
        unit=np.array([1]),
        last=np.array([-1]),
        end=np.array([2**60]),
        small=np.full(1, 1e-6, np.float32),
        times=np.array([1, 1]),
    )
    walk, walks = slices.Slice._walk, itertools.count()

    def counted(cut: slices.Slice, stop: Container[ir.Value] = ()) -> None:
        assert next(walks) < 50
        walk(cut, stop)

    monkeypatch.setattr(slices.Slice, "_walk", counted)
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    *_, tile, last = loaded.graph
    _, by = last.inputs
    replace = Replace(
        [last], {last.outputs[0]: Op("Div" if right else "Mul", [tile.inputs[0], by])}
    )
    cutter.watch(replace)(Editor(loaded).apply(replace))
    (cut,) = cutter.cuts
    assert cut.wider is not None
    assert cut.wider.before is not None
    assert len(cut.wider.before.inputs) == 1  # what both are computed from
    assert (certify_any(cut.windows()).verdict == "certified") == right


@pytest.mark.parametrize("right", [True, False])
def test_a_wider_window_decides_where_a_value_cannot_be_anything(right: bool) -> None:
    """Half of a free number, rounded down, is not 0; half of 1 is."""
    model = build(
        "(float[N,4,9,9] x) => (int64[1] y) { a = Shape<start=2, end=3>(x) f = Sub(a, k) "
        "t = Div(f, two) y = Sub(f, t) }",
        k=np.array([8 if right else 7]),
        two=np.array([2]),
        opset=17,
    )
    loaded = load(model).ir
    learn(loaded, TOOLS)
    cutter = Cutter(loaded)
    last = loaded.graph[-1]
    operand = last.inputs[0]
    assert operand is not None
    replace = Replace([last], {last.outputs[0]: operand}, "x − 0")
    finish = cutter.watch(replace)
    finish(Editor(loaded).apply(replace))
    (cut,) = cutter.cuts
    assert cut.wider is not None
    assert certify(cut.window()).verdict != "certified"
    assert (certify_any(cut.windows()).verdict == "certified") == right


@pytest.mark.parametrize("opset", [10, 13, 17])
def test_a_transpose_says_how_many_axes_there_are(opset: int, tmp_path: Path) -> None:
    """As before an adapter in attention, where onnx does not infer what a Reshape gives."""
    model = build(
        "(float[N,8,H,W] x) => (float[N,L,8] y) { r = Relu(x) s = Shape(r) "
        "l = Slice(s, zero, two, zero) h = Concat<axis=0>(l, last) f = Reshape(r, h) "
        "t = Transpose<perm=[0,2,1]>(f) a = MatMul(t, w) b = MatMul(t, d) c = MatMul(b, u) "
        "y = Add(a, c) }",
        opset=opset,
        w=normal(8, 8),
        d=normal(8, 4),
        u=normal(4, 8),
        zero=np.array([0]),
        two=np.array([2]),
        last=np.array([-1]),
    )
    variant = rewritten(model, tmp_path)
    assert any(each.pass_name == "merge-matmuls" for each in variant.outcome.rewrites)
    assert {certify_any(cut.windows()).verdict for cut in variant.cuts} == {"certified"}


@pytest.mark.parametrize("asks_for_sizes", [True, False])
def test_each_value_is_looked_at_a_few_times(
    asks_for_sizes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is constant, or of sizes alone: not all of the graph before it for each cut."""
    looked_at = 0
    decide = determined._is_of_constants

    def counted(value: ir.Value) -> bool | None:
        nonlocal looked_at
        looked_at += 1
        return decide(value)

    monkeypatch.setattr(determined, "_is_of_constants", counted)
    counts = []
    for length in (50, 200):
        step = "s{0} = Shape(v{0}) r{0} = Reshape(v{0}, s{0}) " if asks_for_sizes else ""
        step += f"d{{0}} = Dropout({'r' if asks_for_sizes else 'v'}{{0}}) v{{1}} = Relu(d{{0}})"
        chain = " ".join(step.format(n, n + 1) for n in range(length))
        text = f"(float[N,4] x) => (float[N,4] y) {{ v0 = Neg(x) {chain} y = Neg(v{length}) }}"
        looked_at = 0
        assert len(rewritten(build(text), tmp_path).cuts) >= length
        counts.append(looked_at)
    assert counts[1] < 5 * counts[0]


def test_a_cut_without_sides_says_why() -> None:
    with pytest.raises(NotShown, match="a reason"):
        Cut(why_none="a reason").window()


def test_nothing_is_cut_unless_asked(tmp_path: Path) -> None:
    onnx.save(conv_bn(), tmp_path / "m.onnx")
    variants = Variants(tmp_path / "m.onnx", PassOptions())
    assert not variants.without().cuts
