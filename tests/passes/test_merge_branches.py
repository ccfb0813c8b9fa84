"""merge-branches: which parallel branches can be aligned, and which cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.operators import NotOneConv as Why
from bnfold.rewriting.contract import Common
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "merge-branches"
INTERFACE = "(float[N,4,9,9] x) => (float[N,4,h,w] y) "


def branches(lines: str, **weights: Array) -> onnx.ModelProto:
    used: Parameters = {"u": normal(4, 4, 3, 3), "p": normal(4, 4, 1, 1), **weights}
    used = {name: array for name, array in used.items() if f" {name}" in lines}
    return build(INTERFACE + "{ " + lines + " }", **used)


MERGED = [
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Add(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Add(b, a)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Sub(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Sub(b, a)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) b = Conv(x, p, d) y = Add(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, p) y = Sum(a, x, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) y = Add(a, x)",
    "a = Conv<pads=[1,1,1,1]>(x, u, d) y = Sub(x, a)",
    "a = Conv(x, p) b = Mul(x, k) y = Add(a, b)",
    "a = Conv(x, p) b = Mul(x, e) y = Sub(b, a)",
    "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, u) b = Conv<strides=[2,2]>(x, p) y = Add(a, b)",
    "a = Conv<pads=[2,2,0,0]>(x, u) b = Conv(x, p) y = Add(a, b)",
    "a = Conv(x, u) b = Conv(x, u2) y = Add(a, b)",
    'a = Conv<auto_pad="VALID">(x, u) b = Conv(x, u2) y = Add(a, b)',
    "a = Conv<dilations=[2,2]>(x, u) b = Conv<dilations=[2,2]>(x, u2) y = Add(a, b)",
    "a = Conv<group=2>(x, g) b = Conv<group=2>(x, g2) y = Add(a, b)",
    "a = Conv<group=2>(x, g) b = Mul(x, k) y = Add(a, b)",
    "a = Conv<group=4, pads=[3,3,3,3]>(x, q) b = Conv<group=4, pads=[1,1,1,1]>(x, q2) "
    "c = Add(a, b) y = Add(c, x)",
    "a = Conv(x, p) b = Conv<group=2>(x, g) y = Add(a, b)",
    "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv<group=4, pads=[1,1,1,1]>(x, q2) y = Sub(b, a)",
    "a = Conv<group=4, pads=[1,1,1,1]>(x, q2) b = Conv<group=2, pads=[1,1,1,1]>(x, h) "
    "y = Sum(a, x, b)",
]
WEIGHTS: Parameters = {
    "u2": normal(4, 4, 3, 3, seed=1),
    "d": normal(4),
    "k": normal(4, 1, 1),
    "e": np.array(1.7, np.float32),
    "g": normal(4, 2, 1, 1),
    "g2": normal(4, 2, 1, 1, seed=1),
    "h": normal(4, 2, 3, 3),
    "q": normal(4, 1, 7, 7),
    "q2": normal(4, 1, 3, 3),
}


@pytest.mark.parametrize("lines", MERGED)
def test_branches_become_one_conv(lines: str) -> None:
    assert_rewritten(branches(lines, **WEIGHTS), NAME, ["Conv"])


def test_a_repvgg_block_becomes_one_conv() -> None:
    model = build(
        INTERFACE + "{ a = Conv<pads=[1,1,1,1]>(x, u) m1 = BatchNormalization(a, s, b, m, v) "
        "c = Conv(x, p) m2 = BatchNormalization(c, s, m, b, v) "
        "m3 = BatchNormalization(x, b, s, m, v) t = Add(m1, m2) y = Add(t, m3) }",
        u=normal(4, 4, 3, 3),
        p=normal(4, 4, 1, 1),
        **batch_norm(4),
    )
    result = run_pass(model)
    assert operators(result.to_proto()) == ["Conv"]
    (last,) = [rewrite for rewrite in result.record.rewrites if rewrite.gone]
    assert last.gone == {"m3": "BatchNormalization"}


def test_the_shift_of_a_map_parallel_to_a_padded_conv_is_exact_at_the_border() -> None:
    model = branches(
        "a = Conv<pads=[1,1,1,1]>(x, u) c = BatchNormalization(x, s, b, m, v) y = Add(a, c)",
        **batch_norm(4),
    )
    assert_rewritten(model, NAME, ["Conv"])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("a = Conv(x, p) b = Conv(x, p2) y = Add(a, b) z = Neg(a)", Common.SHARED),
        (
            "a = Conv(x, p) b = Conv<group=4, pads=[3,3,3,3]>(x, q) y = Add(a, b)",
            Why.COSTLIER,
        ),
        (
            "a = Conv<strides=[4,4]>(x, p) b = Conv<strides=[3,3]>(x, p2) y = Add(a, b)",
            Why.OTHER_STRIDES,
        ),
        (
            "a = Conv<pads=[1,1,1,1], dilations=[2,2]>(x, u) b = Conv(x, u2) y = Add(a, b)",
            Why.COSTLIER,
        ),
        (
            "a = Conv<strides=[2,2]>(x, u) b = Conv<strides=[2,2]>(x, two) y = Add(a, b)",
            Why.NOT_ALIGNED,
        ),
        ("a = Conv(x, one) y = Add(a, x)", Why.NOT_ALIGNED),
        ('a = Conv<auto_pad="SAME_UPPER">(x, u) y = Add(a, x)', Common.PADDED_BY_SIZE),
        (
            "a = Conv<pads=[0,1,0,1]>(x, wide) b = Conv<pads=[1,0,1,0]>(x, high) y = Add(a, b)",
            Why.COSTLIER,
        ),
        ("a = Conv(x, p) b = Mul(x, column) y = Add(a, b)", Why.NOT_ALIGNED),
    ],
)
def test_refusals(lines: str, reason: Why) -> None:
    extra: Parameters = {
        "p2": normal(4, 4, 1, 1, seed=1),
        "one": normal(1, 4, 1, 1),
        "wide": normal(4, 4, 1, 3),
        "high": normal(4, 4, 3, 1),
        "column": normal(9),
        "two": normal(4, 4, 2, 2),
    }
    model = branches(lines, **WEIGHTS | extra)
    assert_refused(model, NAME, reason)


def test_refuses_a_weight_that_a_caller_may_override() -> None:
    model = branches("a = Conv(x, p) y = Add(a, x)")
    assert_refused(make_overridable(model, "p"), NAME, Common.WEIGHT_OVERRIDABLE)


@pytest.mark.parametrize(
    "lines",
    [
        "r = Relu(x) a = Conv(x, p) y = Add(a, r)",
        "r = Relu(x) a = Conv(x, p) b = Conv(r, p) y = Add(a, b)",
        "a = Mul(x, k) y = Add(a, x)",
        "a = Conv(x, p) y = Add(a, k)",
    ],
)
def test_other_sums_stay_without_a_refusal(lines: str) -> None:
    record = run_pass(branches(lines, **WEIGHTS), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_the_branches_may_read_the_result_of_a_conv() -> None:
    model = branches("x1 = Conv(x, p) a = Conv<pads=[1,1,1,1]>(x1, u) y = Add(a, x1)")
    assert_rewritten(model, NAME, ["Conv", "Conv"])


@st.composite
def parallel_convs(draw: st.DrawFn) -> onnx.ModelProto:
    stride = draw(st.integers(1, 2))
    lines: list[str] = []
    weights: Parameters = {}
    for index in range(draw(st.integers(1, 3))):
        groups = draw(st.sampled_from([1, 2, 4]))
        sizes = [draw(st.sampled_from([1, 2, 3, 5])) for _ in range(2)]
        starts = [draw(st.integers(0, size - 1)) for size in sizes]
        pads = [*starts, *(size - 1 - start for size, start in zip(sizes, starts, strict=True))]
        weights[f"w{index}"] = normal(4, 4 // groups, *sizes, seed=index)
        lines.append(
            f"c{index} = Conv<group={groups}, strides={[stride] * 2}, pads={pads}>(x, w{index})"
        )
    operands = [f"c{index}" for index in range(len(lines))]
    if stride == 1 and draw(st.booleans()):
        operands.append(draw(st.sampled_from(["x", "k"])))
    if "k" in operands:
        lines.append("k = BatchNormalization(x, s, b, m, v)")
        weights |= batch_norm(4)
    total = operands[0]
    for index, operand in enumerate(operands[1:]):
        lines.append(f"t{index} = {draw(st.sampled_from(['Add', 'Sub']))}({total}, {operand})")
        total = f"t{index}"
    lines.append(f"y = Neg({total})")
    return build(INTERFACE + "{ " + " ".join(lines) + " }", **weights)


@settings(max_examples=25, deadline=None)
@given(parallel_convs())
def test_random_branches(model: onnx.ModelProto) -> None:
    result = run_pass(model, NAME)
    assert_rewritten(model, NAME, operators(result.to_proto()))


@pytest.mark.parametrize("outside", ["b = Mul(x, k)", "b = Conv(x, p2)"])
def test_a_branch_outside_the_body_is_out_of_reach(outside: str) -> None:
    used: Parameters = {"k": normal(4, 1, 1)} if "k" in outside else {"p2": normal(4, 4, 1, 1)}
    model = build(
        f"""(float[N,4,9,9] x, bool c) => (float[N,4,9,9] y) {{
            {outside}
            y = If (c) <
                then_branch = t () => (float[N,4,9,9] o) {{ a = Conv(x, p) o = Add(a, b) }},
                else_branch = e () => (float[N,4,9,9] q) {{ q = Neg(b) }}
            >
        }}""",
        p=normal(4, 4, 1, 1),
        **used,
    )
    assert not run_pass(model, NAME).record.rewrites
    result = run_pass(model)
    assert_equivalent(model, result.to_proto(), {**draw_feeds(model), "c": np.array(True)})


def test_the_dilation_of_a_single_tap_does_not_matter() -> None:
    model = branches("a = Conv<dilations=[2,2]>(x, p) b = Mul(x, k) y = Add(a, b)", **WEIGHTS)
    assert_rewritten(model, NAME, ["Conv"])
