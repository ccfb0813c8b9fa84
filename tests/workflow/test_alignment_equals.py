"""Two models are certified where one repeats what the other does once, or writes it otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

import bnfold
from bnfold.record.data import Certificate
from bnfold.workflow.alignment import why_not
from tests.support.alignment import certified
from tests.support.cli import SAMPLES
from tests.support.slow import in_turn
from tests.workflow.test_alignment import (
    CONV,
    FOLDED,
    NORMAL,
    WEIGHTS,
    folded,
    model,
)
from tests.workflow.test_alignment_differences import ROWS, branches, is_certified, made

# --- As other tools write it ----------------------------------------------------------------------


def with_duplicates(original: onnx.ModelProto) -> onnx.ModelProto:
    """Compute each value once for each node that reads it, but for what draws."""
    twice = onnx.ModelProto()
    twice.CopyFrom(original)
    producers = {name: node for node in original.graph.node for name in node.output}
    outputs = {value.name for value in original.graph.output}
    readers: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []

    def again(name: str, number: int) -> str:
        node = producers.get(name)
        if node is None or number == 0 or name in outputs or len(node.output) > 1:
            return name
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = ""
        copy.output[:] = [f"{name} again {number}"]
        nodes.append(copy)
        return f"{name} again {number}"

    for node in original.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            copy.input[index] = again(name, readers[name])
            readers[name] += 1
        nodes.append(copy)
    del twice.graph.node[:]
    twice.graph.node.extend(nodes)
    return twice


def with_identities(original: onnx.ModelProto) -> onnx.ModelProto:
    """Let each node read what it reads through an Identity of its own."""
    longer = onnx.ModelProto()
    longer.CopyFrom(original)
    del longer.graph.node[:]
    stored = {tensor.name for tensor in original.graph.initializer}
    for place, node in enumerate(original.graph.node):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name and name not in stored:
                copy.input[index] = f"{name} at {place} {index}"
                identity = onnx.helper.make_node("Identity", [name], [copy.input[index]])
                longer.graph.node.append(identity)
        longer.graph.node.append(copy)
    return longer


def with_constant_nodes(original: onnx.ModelProto) -> onnx.ModelProto:
    """Let each initializer be a Constant node."""
    written = onnx.ModelProto()
    written.CopyFrom(original)
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in original.graph.initializer
    ]
    del written.graph.initializer[:], written.graph.node[:]
    written.graph.node.extend([*nodes, *original.graph.node])
    return written


def with_functions(original: onnx.ModelProto) -> onnx.ModelProto:
    """Let each node be in a function of its own."""
    calling = onnx.ModelProto()
    calling.CopyFrom(original)
    del calling.graph.node[:]
    for place, node in enumerate(original.graph.node):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [f"i{index}" if name else "" for index, name in enumerate(node.input)]
        copy.output[:] = [f"o{index}" if name else "" for index, name in enumerate(node.output)]
        given, results = (list(filter(None, names)) for names in (copy.input, copy.output))
        name, opsets = f"f{place}", original.opset_import
        function = onnx.helper.make_function("own", name, given, results, [copy], opsets)
        calling.functions.append(function)
        read, made_ = (list(filter(None, names)) for names in (node.input, node.output))
        calling.graph.node.append(onnx.helper.make_node(name, read, made_, domain="own"))
    calling.opset_import.append(onnx.helper.make_opsetid("own", 1))
    return calling


WAYS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "duplicates": with_duplicates,
    "identities": with_identities,
    "constant nodes": with_constant_nodes,
    "functions": with_functions,
}


@pytest.mark.parametrize(
    ("path", "way"), in_turn(SAMPLES, WAYS), ids=lambda each: getattr(each, "stem", None)
)
def test_every_sample_is_certified_however_it_is_written(
    path: Path, way: str, tmp_path: Path
) -> None:
    original = onnx.load(path)
    result = bnfold.optimize(path, check=False).to_proto()
    onnx.checker.check_model(WAYS[way](original))
    for one, other in ((WAYS[way](original), result), (original, WAYS[way](result))):
        found = certified(one, other, tmp_path)
        assert not found.open
        assert found.values


# --- What repeats something -----------------------------------------------------------------------

TWO = "(float[n,3,8,8] y, float[n,3,8,8] z)"


def are_certified(one: str, other: str, folder: Path, outputs: str = TWO) -> bool:
    return not certified(model(one, outputs=outputs), model(other, outputs=outputs), folder).open


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = Relu(x) e = Relu(x) y = Exp(a) c = Tanh(e) z = Add(y, c)",
         "a = Relu(x) y = Exp(a) c = Tanh(a) z = Add(y, c)"),
        ("a = Relu(x) y = Exp(a) e = Relu(x) z = Exp(e)", "a = Relu(x) y = Exp(a) z = Identity(y)"),
        ("y = Relu(x) z = Relu(x)", "y = Relu(x) zero = Sub(x, x) z = Relu(x)"),
        ("y = Relu(x) a = Identity(x) z = Relu(a)", "y = Relu(x) z = Relu(x)"),
        ("k = Constant<value_float=2.0>() y = Mul(x, k) j = Constant<value_float=2.0>() "
         "a = Mul(x, j) z = Exp(a)",
         "k = Constant<value_float=2.0>() y = Mul(x, k) z = Exp(y)"),
        ("y = Identity(x) z = Exp(y)", "y = Identity(x) z = Exp(x)"),
        ("y = Clip(x) z = Exp(x)", "y = Clip(x, ) z = Exp(x)"),
    ],
)  # fmt: skip
def test_what_is_computed_twice_is_one_value(one: str, other: str, tmp_path: Path) -> None:
    assert are_certified(one, other, tmp_path)
    assert are_certified(other, one, tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # The second is another one.
        ("y = Relu(x) e = Relu(x) z = Exp(e)", "y = Relu(x) e = Abs(x) z = Exp(e)"),
        ("y = Relu(x) z = Relu(x)", "y = Relu(x) z = Abs(x)"),
        ("y = Relu(x) z = Relu(x)", "y = Abs(x) z = Relu(x)"),
        ("y = LeakyRelu<alpha=0.1>(x) a = LeakyRelu<alpha=0.1>(x) z = Exp(a)",
         "y = LeakyRelu<alpha=0.1>(x) a = LeakyRelu<alpha=0.2>(x) z = Exp(a)"),
        ("k = Constant<value_float=2.0>() y = Mul(x, k) a = Mul(x, k) z = Exp(a)",
         "k = Constant<value_float=2.0>() y = Mul(x, k) j = Constant<value_float=2.5>() "
         "a = Mul(x, j) z = Exp(a)"),
        ("k = Constant<value_float=2.0>() y = Sub(x, k) a = Sub(x, k) z = Exp(a)",
         "k = Constant<value_float=2.0>() y = Sub(x, k) a = Sub(k, x) z = Exp(a)"),
        ("p = Relu(x) q = Exp(x) y = Sub(p, q) z = Exp(y)",
         "p = Relu(x) q = Exp(x) y = Sub(p, q) a = Sub(q, p) z = Exp(a)"),
        ("y, z = Split<axis=2>(x)", "y, a = Split<axis=2>(x) z = Identity(y)"),
    ],
)  # fmt: skip
def test_what_only_seems_to_be_computed_twice_is_not(one: str, other: str, tmp_path: Path) -> None:
    outputs = TWO.replace("8,8", "a,8")
    assert not are_certified(one, other, tmp_path, outputs)
    assert not are_certified(other, one, tmp_path, outputs)


@pytest.mark.parametrize("draw", ["RandomNormalLike", "Bernoulli"])
def test_what_draws_twice_is_not_one_value(draw: str, tmp_path: Path) -> None:
    once = f"a = {draw}(x) y = Identity(a) z = Sub(a, a)"
    twice = f"a = {draw}(x) e = {draw}(x) y = Identity(a) z = Sub(a, e)"
    assert not are_certified(once, twice, tmp_path)
    assert not are_certified(twice, once, tmp_path)


@pytest.mark.parametrize("draw", ["RandomNormalLike(h)", "Bernoulli(h)", "Dropout(h, half, yes)"])
@pytest.mark.parametrize("kind", ["branch", "loop"])
def test_what_draws_twice_in_a_body_is_not_one_value(kind: str, draw: str, tmp_path: Path) -> None:
    constants = "half = Constant<value_float=0.5>() yes = Constant<value = bool {1}>() "
    one = made(f"{ROWS} {{ {constants} {in_body(f'a = {draw} r = Sub(a, a)', kind)} }}")
    other = made(
        f"{ROWS} {{ {constants} {in_body(f'a = {draw} e = {draw} r = Sub(a, e)', kind)} }}"
    )
    assert not is_certified(one, other, tmp_path)
    assert not is_certified(other, one, tmp_path)


def test_two_results_of_a_body_do_not_share_a_draw(tmp_path: Path) -> None:
    text = (
        f"{ROWS} {{{{ n = Constant<value_ints=[3]>() t = Constant<value = bool {{{{1}}}}>() "
        "y, z = Loop(n, t, x, x) <body = b (int64 i, bool c, float[n,4] h, float[n,4] j) => "
        "(bool d, float[n,4] r, float[n,4] s) {{ d = Identity(c) a = RandomNormalLike(h) "
        "{} r = Add(h, a) s = Add(j, {}) }}> }}"
    ).replace("float[a,b] y)", "float[a,b] y, float[e,f] z)")
    one = made(text.format("", "a"))
    other = made(text.format("e = RandomNormalLike(h)", "e"))
    assert not is_certified(one, other, tmp_path)
    assert not is_certified(other, one, tmp_path)


@pytest.mark.parametrize("slope", ["0.5", "0.25"])
def test_attributes_that_a_call_leaves_out_have_the_functions_default(
    slope: str, tmp_path: Path
) -> None:
    """onnx's inliner forgets them, and the operator's own default would take their place."""
    called = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[N,4] x) => (float[N,4] y) '
        "{ y = own.f(x) } "
        '<domain: "own", opset_import: ["" : 17]> f <al: float = 0.5> (a) => (b) '
        "{ b = LeakyRelu<alpha: float = @al>(a) }"
    )
    plain = made(f"{ROWS} {{ y = LeakyRelu<alpha={slope}>(x) }}")
    assert is_certified(called, plain, tmp_path) == (slope == "0.5")
    assert not is_certified(called, made(f"{ROWS} {{ y = LeakyRelu(x) }}"), tmp_path)


def test_dropouts_in_training_are_not_one_value(tmp_path: Path) -> None:
    constants = "r = Constant<value_float=0.5>() o = Constant<value_int=1>() g = Cast<to=9>(o) "
    once = f"{constants} a = Dropout(x, r, g) y = Identity(a) z = Sub(a, a)"
    twice = f"{constants} a = Dropout(x, r, g) c = Dropout(x, r, g) y = Identity(a) z = Sub(a, c)"
    assert not are_certified(once, twice, tmp_path)
    assert not are_certified(twice, once, tmp_path)


# --- Constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("computed", ["Mul(a, a)", "Constant<value_floats=[1.,4.,9.,16.]>()"])
@pytest.mark.parametrize("root", ["2.0", "2.5"])
def test_a_constant_that_is_an_output_is_what_it_is(
    computed: str, root: str, tmp_path: Path
) -> None:
    """What reads it may have been computed of it, or of what it is computed from."""
    outputs = "(float[N,4] x) => (float[N,4] z, float[4] c)"
    one = made(
        f"{outputs} {{ a = Constant<value_floats=[1.,2.,3.,4.]>() c = Mul(a, a) d = Sqrt(c) "
        "z = Mul(x, d) }"
    )
    other = made(
        f"{outputs} {{ a = Constant<value_floats=[1.,2.,3.,4.]>() c = {computed} "
        f"d = Constant<value_floats=[1.,{root},3.,4.]>() z = Mul(x, d) }}"
    )
    for pair in ((one, other), (other, one)):
        assert is_certified(*pair, tmp_path) == (root == "2.0")


@pytest.mark.parametrize("size", [4, 5])
def test_a_size_that_became_a_constant_is_one_further_on(size: int, tmp_path: Path) -> None:
    text = "(float[3,4] x) => (float[3,4] z, int64[1] s)"
    one = made(f"{text} {{ s = Shape<start=1>(x) f = Cast<to=1>(s) g = Sqrt(f) z = Mul(x, g) }}")
    other = made(
        f"{text} {{ s = Constant<value_ints=[4]>() f = Constant<value_floats=[{size}.]>() "
        "g = Sqrt(f) z = Mul(x, g) }"
    )
    for pair in ((one, other), (other, one)):
        assert is_certified(*pair, tmp_path) == (size == 4)


@pytest.mark.parametrize("word", ["left", "right"])
def test_words_may_be_a_constant_node(word: str, tmp_path: Path) -> None:
    text = f'{ROWS} {{{{ k = Constant<value_strings=["{{}}"]>() e = Equal(k, words) '
    text += "f = Cast<to=1>(e) g = ReduceSum<keepdims=0>(f) y = Mul(x, g) }}"
    one, other = (made(text.format(each), opset=19) for each in ("left", word))
    assert is_certified(one, other, tmp_path)  # either is one of the two


def test_an_initializer_may_be_an_output(tmp_path: Path) -> None:
    outputs = "(float[n,3,8,8] y, float[4] s)"
    one = model(f"{CONV} k = Relu(s) y = Neg(x)", outputs=outputs)
    assert not certified(one, one, tmp_path).open
    other = model(
        f"{CONV} k = Relu(s) y = Neg(x)", {"s": WEIGHTS["s"] * np.float32(1.001)}, outputs
    )
    assert [each.output for each in certified(one, other, tmp_path).open] == ["s"]


# --- Bodies ---------------------------------------------------------------------------------------


def in_body(body: str, kind: str) -> str:
    """Return nodes that compute y with these, of h to r, in a body."""
    if kind == "loop":
        given = "n = Constant<value_ints=[3]>() t = Constant<value = bool {1}>()"
        return (
            f"{given} y = Loop(n, t, x) <body = b (int64 i, bool c, float[n,4] h) => "
            f"(bool d, float[n,4] r) {{ d = Identity(c) {body} }}>"
        )
    taken, other = "then_branch", "else_branch"
    if kind == "other branch":
        taken, other = other, taken
    return (
        "h = Relu(x) m = ReduceMax<keepdims=0>(h) c = Greater(m, one) y = If(c) "
        f"<{taken} = u () => (float[n,4] r) {{ {body} }}, "
        f"{other} = v () => (float[n,4] q) {{ q = Neg(h) }}>"
    )


KINDS = ("branch", "other branch", "loop")

WITHIN = (
    "g = Greater(h, one) f = Cast<to=1>(g) a = ReduceMax<keepdims=0>(f) e = Cast<to=9>(a) "
    "r = If(e) <then_branch = o () => (float[n,4] r1) {{ {} r1 = Mul(h, l) }}, "
    "else_branch = p () => (float[n,4] r2) {{ r2 = Abs(h) }}>"
)

SAME = {
    "a constant evaluated": (
        "k = Constant<value_floats=[1.,2.,3.,4.]>() l = Mul(k, k) r = Mul(h, l)",
        "l = Constant<value_floats=[1.,4.,9.,16.]>() r = Mul(h, l)",
        ("9.", "9.5"),
    ),
    "a product composed": (
        "k = Constant<value_float=2.0>() l = Constant<value_float=3.0>() "
        "p = Mul(h, k) r = Mul(p, l)",
        "k = Constant<value_float=6.0>() r = Mul(h, k)",
        ("6.0", "6.5"),
    ),
    "one of two that are equal": (
        "a = Exp(h) e = Exp(h) p = Tanh(a) f = Sigmoid(e) r = Add(p, f)",
        "a = Exp(h) p = Tanh(a) f = Sigmoid(a) r = Add(p, f)",
        ("Sigmoid(a)", "Sigmoid(h)"),
    ),
    "a body within": (
        WITHIN.format("k = Constant<value_float=2.0>() l = Mul(k, k)"),
        WITHIN.format("l = Constant<value_float=4.0>()"),
        ("Abs(h)", "Neg(h)"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SAME)
def test_bodies_are_proven_as_models_are(case: str, kind: str, tmp_path: Path) -> None:
    before, after, (right, wrong) = SAME[case]
    one, other = (made(f"{ROWS} {{ {in_body(body, kind)} }}") for body in (before, after))
    differs = made(f"{ROWS} {{ {in_body(after.replace(right, wrong), kind)} }}")
    assert after.replace(right, wrong) != after
    assert is_certified(one, other, tmp_path)
    assert is_certified(other, one, tmp_path)
    assert not is_certified(one, differs, tmp_path)
    assert not is_certified(differs, one, tmp_path)


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_a_fold_in_a_branch_is_proven(error: float, tmp_path: Path) -> None:
    head = "p = ReduceMax<keepdims=0>(x) one = Constant<value_float=1.0>() k = Greater(p, one) "
    head += "y = If(k) <then_branch = g () => (float[n,4,8,8] d) { "
    tail = " }, else_branch = h () => (float[n,4,8,8] q) { q = Conv<pads=[1,1,1,1]>(x, u) }>"
    one = model(head + NORMAL + tail)
    other = model(head + FOLDED + tail)
    for made_, weights in ((one, WEIGHTS), (other, folded(error))):
        have = {tensor.name for tensor in made_.graph.initializer}
        for name, content in {**weights, "u": WEIGHTS["w"]}.items():
            if name not in have:
                made_.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    found = certified(one, other, tmp_path)
    assert [each.output for each in found.open] == (["y"] if error else [])
    if not error:
        assert found.bound is not None
        assert found.bound < 3e-6


@pytest.mark.parametrize(
    ("old", "new"),
    [("(bool d, float[n,4] r, float[n,4] s)", "(bool d, float[n,4] s, float[n,4] r)"),
     ("float[n,4] h, float[n,4] j)", "float[n,4] j, float[n,4] h)"),
     ("d = Identity(c)", "d = Not(c)")],
)  # fmt: skip
def test_the_order_of_what_a_body_reads_and_returns_counts(
    old: str, new: str, tmp_path: Path
) -> None:
    text = (
        f"{ROWS} {{ n = Constant<value_ints=[3]>() t = Constant<value = bool {{1}}>() w1 = Exp(x) "
        "y, z = Loop(n, t, x, w1) <body = b (int64 i, bool c, float[n,4] h, float[n,4] j) => "
        "(bool d, float[n,4] r, float[n,4] s) { d = Identity(c) {} r = Sub(h, j) s = Tanh(j) }> }"
    ).replace("float[a,b] y)", "float[a,b] y, float[e,f] z)")
    padded = text.replace("{}", "o = Constant<value_float=1.0>() u = Mul(o, o)")
    assert old in text
    one, other = made(text.replace("{}", "")), made(padded)
    assert is_certified(one, other, tmp_path)
    assert not is_certified(one, made(padded.replace(old, new)), tmp_path)


NESTED = (
    "n = Constant<value_ints=[3]>() t = Constant<value = bool {{1}}>() "
    "y = Loop(n, t, x) <body = b (int64 i, bool c, float[N,4] h) => (bool d, float[N,4] r) "
    "{{ d = Identity(c) r = Loop(n, t, h) <body = a (int64 i2, bool c2, float[N,4] k) => "
    "(bool d2, float[N,4] s) {{ d2 = Identity(c2) s = Sub({}) }}> }}>"
)


@pytest.mark.parametrize("kind", [*KINDS, "nested"])
@pytest.mark.parametrize(
    ("one", "other"), [("h, k", "k, h"), ("h, k", "k, k"), ("h, k", "h, h"), ("h, k", "x, k")]
)
def test_which_of_several_values_a_body_reads_counts(
    kind: str, one: str, other: str, tmp_path: Path
) -> None:
    """Two results of one operator, or the inputs of a body and of one within it."""
    split = "h, k = Split<axis=1, num_outputs=2>(p) r0 = Sub({}) r = Concat<axis=1>(r0, r0)"
    if kind == "nested":
        texts = [NESTED.format(each) for each in (one, other)]
    else:
        other = other.replace("x", "h")
        bodies = [split.format(each).replace("h", "q") for each in (one, other)]
        texts = [in_body(each.replace("(p)", "(h)"), kind) for each in bodies]
    before, after = (made(f"{ROWS} {{ {text} }}", opset=18) for text in texts)
    assert is_certified(before, before, tmp_path)
    assert is_certified(before, after, tmp_path) == (texts[0] == texts[1])


def test_a_constant_of_a_body_may_be_a_node_or_stored_or_outside(tmp_path: Path) -> None:
    node = f"{ROWS} {{ {branches('Mul(x, k)')} }}".replace(
        "{ p =", "{ k = Constant<value_float=1.5>() p ="
    )
    stored = f"{ROWS} {{ {branches('Mul(x, k)')} }}".replace(
        "(float[N,4] p) {", "(float[N,4] p) <float k = {1.5}> {"
    )
    outside = f"{ROWS} {{ k = Constant<value_float=1.5>() {branches('Mul(x, k)')} }}"
    ways = [made(text) for text in (node, stored, outside)]
    wrong = [made(text.replace("1.5", "1.25")) for text in (node, stored, outside)]
    for one in ways:
        for other in ways:
            assert is_certified(one, other, tmp_path)
        for other in wrong:
            assert not is_certified(one, other, tmp_path)


# --- Names that mean something else ---------------------------------------------------------------


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_a_fold_may_have_the_name_of_what_it_is_folded_into(error: float, tmp_path: Path) -> None:
    """Whether the same operator has other weights is seen at once."""
    other = model("c = Conv<pads=[1,1,1,1]>(x,w,b) y = Relu(c)", folded(error))
    one = model(f"{NORMAL} y = Relu(d)")
    assert bool(certified(one, other, tmp_path).open) == bool(error)
    alone = model(CONV.replace("c = ", "y = "))
    wrong = model(CONV.replace("c = ", "y = "), folded())
    (found,) = certified(alone, wrong, tmp_path).open
    assert found.reason == "the same operator has other weights"
    slightly = {"w": WEIGHTS["w"] * np.float32(1.001)}
    (found,) = certified(alone, model(CONV.replace("c = ", "y = "), slightly), tmp_path).open
    assert "the two compute" in found.reason
    rounded = {"w": np.nextafter(WEIGHTS["w"], np.float32(9))}
    assert not certified(alone, model(CONV.replace("c = ", "y = "), rounded), tmp_path).open


# --- Why something is open ------------------------------------------------------------------------


def test_a_reason_has_the_names_of_the_graph(tmp_path: Path) -> None:
    text = "(int64[N] n, float[N] x) => (float[M] z) {{ m = Relu(x) z = {}(m) }}"
    one = made(text.format("Celu"))
    found = certified(one, made(text.format("Elu").replace("Relu(x)", "Abs(x)")), tmp_path)
    (each,) = found.open
    assert not {"both", "reference", "candidate"} & set(each.reason.replace("'", " ").split())


def test_what_was_only_sampled_is_not_shown() -> None:
    """That it was tried at smaller sizes is no reason."""
    found = Certificate("sampled", "sampled", note="at smaller sizes, with all of the border")
    assert why_not(found) == "it is not shown to be equal"
