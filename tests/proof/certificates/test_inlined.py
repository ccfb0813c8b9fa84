"""Inlined functions are compared with what onnx's inliner makes of them."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from bnfold.proof.certificates.inlined import certify_inlined
from tests.support.graphs import build

FUNCTIONS = """
    <domain: "local", opset_import: ["" : 17, "local" : 1]> outer <slope: float> (p, q) => (r) {
        c = Conv(p, q)
        r = local.inner<slope: float = @slope>(c)
    }
    <domain: "local", opset_import: ["" : 17]> inner <slope: float> (p) => (r) {
        k = Constant<value_float: float = @slope>()
        n = LeakyRelu<alpha: float = @slope>(p)
        r = Mul(n, k)
    }
"""
HEAD = "(float[N,4,6,6] x, float[5,4,1,1] w, bool b) => (float[N,5,6,6] z)"


def calling(body: str) -> onnx.ModelProto:
    model = build(f"{HEAD} {{ {body} }} {FUNCTIONS}")
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("", "", True),
        ("alpha=0.3", "alpha=0.2", False),
        ("alpha=0.1", "alpha=0.3", False),
        ("Mul(f, g)", "Mul(f, h)", False),
        ("LeakyRelu<alpha=0.1>(d)", "LeakyRelu<alpha=0.1>(c)", False),
        ("Conv(x, w)", "Conv(x, x)", False),
        ("z = Mul(i, h)", "j = Mul(i, h) z = Neg(j)", False),
    ],
)
def test_inlined_functions(old: str, new: str, is_same: bool) -> None:
    before = calling("y = local.outer<slope=0.3>(x, w) z = local.inner<slope=0.1>(y)")
    body = """
        c = Conv(x, w) g = Constant<value_float=0.3>() f = LeakyRelu<alpha=0.3>(c) d = Mul(f, g)
        h = Constant<value_float=0.1>() i = LeakyRelu<alpha=0.1>(d) z = Mul(i, h)
    """
    assert not old or old in body
    found = certify_inlined(before, build(f"{HEAD} {{ {body.replace(old, new)} }}"))
    assert (found.verdict == "certified") == is_same
    assert is_same or found.note


BODY = """
    y = Conv(x, w)
    z = If(b) <then_branch = t () => (r) {{ {} }}, else_branch = e () => (s) {{ s = Neg(y) }}>
"""


@pytest.mark.parametrize(("slope", "is_same"), [("0.5", True), ("0.4", False)])
def test_calls_within_a_body(slope: str, is_same: bool) -> None:
    before = calling(BODY.format("r = local.inner<slope=0.5>(y)"))
    inside = f"k = Constant<value_float=0.5>() n = LeakyRelu<alpha={slope}>(y) r = Mul(n, k)"
    found = certify_inlined(before, build(f"{HEAD} {{ {BODY.format(inside)} }}"))
    assert (found.verdict == "certified") == is_same


def test_what_onnx_cannot_inline_is_open() -> None:
    before = calling("z = local.inner<slope=0.1>(x)")
    before.functions[1].node[1].op_type = "inner"
    before.functions[1].node[1].domain = "local"
    assert certify_inlined(before, before).verdict == "open"
