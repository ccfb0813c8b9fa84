"""Operators with bodies are the same where these are, whatever the names, and what they read is."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.normal_forms.bodies import CLOSED, with_bodies_closed
from tests.support.windows import window

INTERFACE = "(float[N,3] x, float[N,3] z, bool k, int64 n) => (float[N,3] y)"

INNER = {
    "an If": (
        "{0} = If(k) <then_branch = {0}t () => (float[] {0}p) {{ {0}p = Sub(x, z) }}, "
        "else_branch = {0}e () => (float[] {0}q) {{ {0}q = Abs(x) }}>"
    ),
    "a Loop": (
        "{0} = Loop(n, yes, x) <body = {0}b (int64 {0}i, bool {0}c, float[] {0}h) => "
        "(bool {0}d, float[] {0}g) {{ {0}d = Identity({0}c) {0}g = Sub({0}h, z) }}>"
    ),
    "a Scan": (
        "{0} = Scan(x) <num_scan_inputs = 1, body = {0}b (float[] {0}h) => (float[] {0}g) "
        "{{ {0}a = Sub({0}h, w) {0}g = Abs({0}a) }}>"
    ),
    "an If in a Loop": (
        "{0} = Loop(n, yes, x) <body = {0}b (int64 {0}i, bool {0}c, float[] {0}h) => "
        "(bool {0}d, float[] {0}g) {{ {0}d = Identity({0}c) {0}g = If(k) "
        "<then_branch = {0}t () => (float[] {0}p) {{ {0}p = Sub({0}h, z) }}, "
        "else_branch = {0}e () => (float[] {0}q) {{ {0}q = Abs(x) }}> }}>"
    ),
    "an If with a constant of its own": (
        "{0} = If(k) <then_branch = {0}t () => (float[] {0}p) <float[1] {0}o = {{3}}> "
        "{{ {0}p = Sub(x, {0}o) }}, else_branch = {0}e () => (float[] {0}q) {{ {0}q = Abs(z) }}>"
    ),
    "an If with what is outside as result": (
        "{0} = If(k) <then_branch = {0}t () => (float[N,3] x) {{ }}, "
        "else_branch = {0}e () => (float[] {0}q) {{ {0}q = Sub(z, x) }}>"
    ),
}

WEIGHTS = {"yes": np.array(True), "w": np.array([3, 4, 5], np.float32)}

TAKEN = (
    "r = If(yes) <then_branch = t () => (float[] a) {{ {0} a = Relu(f) }}, "
    "else_branch = e () => (float[] b) {{ b = Neg(x) }}> y = Neg(r)"
)

CHANGES = [
    ("Sub", "Add"),
    ("Abs", "Relu"),
    (r"Sub\((.*?), (.*?)\)", r"Sub(\2, \1)"),
    (r"\{3\}", "{4}"),
    (r"\(k\)", "(m)"),
    (r"(?<![\w(]), x\)", ", z)"),
    ("(then)(.*)(else)", r"\3\2\1"),
]

CHANGED = {
    f"{case}: {old} to {new}": (inner, changed)
    for case, inner in INNER.items()
    for old, new in CHANGES
    if (changed := re.sub(old, new, inner.format("g"))) != inner.format("g")
}


@pytest.mark.parametrize("case", INNER)
def test_a_branch_with_a_body_within_is_the_same_without_its_if(case: str) -> None:
    inner = INNER[case]
    after = f"{inner.format('g')} a = Relu(g) y = Neg(a)"
    found = certify(window(INTERFACE, TAKEN.format(inner.format("f")), after, WEIGHTS))
    assert (found.verdict, found.kind) == ("certified", "constant")


def test_types_within_a_branch_are_known() -> None:
    """Where the branch is taken, a Cast to the type that its operand has is none."""
    inner = "{0}c = Less(x, z) {1} {0} = Where({2}, x, z)"
    before = TAKEN.format(inner.format("f", "d = Cast<to=9>(fc)", "d"))
    after = f"{inner.format('g', '', 'gc')} a = Relu(g) y = Neg(a)"
    assert certify(window(INTERFACE, before, after, WEIGHTS)).kind == "constant"


@pytest.mark.parametrize("case", CHANGED)
def test_another_body_is_not_the_same(case: str) -> None:
    inner, changed = CHANGED[case]
    after = f"{changed} a = Relu(g) y = Neg(a)"
    weights = {**WEIGHTS, "m": np.array(False)}
    found = certify(window(INTERFACE, TAKEN.format(inner.format("f")), after, weights))
    assert found.verdict == "open"
    assert found.note


def test_operands_of_a_body_may_be_computed_otherwise() -> None:
    """Its operands are what is left to prove then, as of any operator."""
    inner = INNER["an If"].replace("Sub(x, z)", "Sub(v, z)").format("y")
    scaled = "{0} u = Mul(x, two) v = Mul(u, half) {1}"
    for half, verdict in ((0.5, "certified"), (0.25, "open")):
        constants = {"two": np.array([2], np.float32), "half": np.array([half], np.float32)}
        before, after = scaled.format("", inner), f"v = Add(x, zero) {inner}"
        constants["zero"] = np.array([0], np.float32)
        assert certify(window(INTERFACE, before, after, constants)).verdict == verdict


@pytest.mark.parametrize(
    "drawing", ["RandomNormalLike(x)", "Dropout(x, ratio, yes)", "Bernoulli(x)"]
)
def test_bodies_that_draw_are_not_the_same(drawing: str) -> None:
    body = f"y = If(k) <then_branch = t () => (float[] p) {{ p = {drawing} }}, "
    body += "else_branch = e () => (float[] q) { q = Abs(x) }>"
    weights = {"ratio": np.array(0.5, np.float32), "yes": np.array(True)}
    found = certify(window(INTERFACE, body, body, weights))
    assert (found.verdict, found.note) == ("open", "it draws random numbers")


def test_a_body_means_what_its_operator_set_says() -> None:
    body = "y = If(k) <then_branch = t () => (float[] p) { p = ReduceMean(x) }, "
    body += "else_branch = e () => (float[] q) { q = Abs(x) }>"
    pair = window(INTERFACE, body, body)
    assert certify(pair).verdict == "certified"
    pair.after.opset_import[0].version = 18
    assert certify(pair).verdict == "open"


def test_operands_are_counted() -> None:
    """The state of a Loop is no value that its body reads from outside."""
    text = "y = Loop(n, yes, x{0}) <body = b (int64 i, bool c, float[] h{1}) => "
    text += "(bool d, float[] g{2}) {{ d = Identity(c) g = Sub(h, z) {3} }}>"
    plain = text.format("", "", "", "")
    carrying = text.format(", z", ", float[] s", ", float[] o", "o = Identity(s)")
    carrying = carrying.replace("y = Loop", "y, u = Loop")
    assert certify(window(INTERFACE, plain, plain, WEIGHTS)).verdict == "certified"
    assert certify(window(INTERFACE, plain, carrying, WEIGHTS)).verdict == "open"


def test_what_has_no_bodies_stays() -> None:
    pair = window("(float[N] x) => (float[N] y)", "y = Relu(x)", "y = Abs(x)")
    assert with_bodies_closed(pair) is pair


def test_what_a_body_reads_is_read_in_order() -> None:
    pair = window(INTERFACE, INNER["an If in a Loop"].format("y"), "y = Abs(x)", WEIGHTS)
    (node,) = with_bodies_closed(pair).before.graph.node
    assert node.domain == CLOSED
    assert list(node.input) == ["n", "yes", "x", "k", "z", "x"]
    assert {each.type for each in node.attribute} == {onnx.AttributeProto.STRINGS}


@pytest.mark.parametrize("within", [False, True])
def test_what_a_body_only_returns_is_an_operand(within: bool) -> None:
    text = (
        "(float[N,3] v) {{ }}, else_branch = {0}e () => (float[] {0}q) {{ {0}q = Abs(z) }}>"
    ).format("a")
    body = f"y = If(k) <then_branch = t () => {text}"
    if within:
        body = f"y = If(k) <then_branch = u () => (float[] w) {{ {body.replace('y =', 'w =')} }}, "
        body += "else_branch = f () => (float[] g) { g = Abs(z) }>"
    for other, verdict in (("Relu(x)", "certified"), ("Neg(x)", "open")):
        pair = window(INTERFACE, f"v = Relu(x) {body}", f"v = {other} {body}")
        assert certify(pair).verdict == verdict
