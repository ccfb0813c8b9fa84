"""Maps through a Where: into what it chooses from, whatever it chooses by."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.reach import NotReached
from bnfold.algebra.weights import NotStorable
from bnfold.rewriting.contract import Common, Refusal
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Parameters, batch_norm, build, draw_feeds, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME, SCALE = "fold-batchnorm", "fold-scale-shift"


def chosen(lines: str, sizes: str = "1,3,2", **weights: Any) -> onnx.ModelProto:
    """Return Convs p and q of 4 channels, lines that choose c by k or l, and its map."""
    read: Parameters = {
        name: array
        for name, array in {
            "v": normal(4, 3, 1, 1),
            "w": normal(4, 3, 1, 1, seed=1),
            **weights,
        }.items()
        if re.search(rf"\b{name}\b", lines)
    }
    batch, height, width = sizes.split(",")
    return build(
        f"(float[{batch},3,{height},{width}] x, bool[{batch},1,{height},{width}] k, "
        f"bool[{width}] l) => (float[d,i,f,g] y) "
        f"{{ {lines} y = BatchNormalization(c, s, b, m, v_) }}".replace("v_", "var"),
        **{("var" if name == "v" else name): array for name, array in batch_norm(4).items()},
        **read,
    )


P, Q = "p = Conv(x, v)", "r = Relu(x) q = Conv(r, w)"
NUMBER = np.float32(0.25)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"{P} {Q} c = Where(k, p, q)", ["Relu", "Conv", "Conv", "Where"]),
        (f"{P} {Q} c = Where(l, q, p)", ["Relu", "Conv", "Conv", "Where"]),
        (f"{P} c = Where(k, p, z)", ["Conv", "Where"]),
        (f"{P} c = Where(k, z, p)", ["Conv", "Where"]),
        (f"{P} c = Where(k, o, p)", ["Conv", "Where"]),
        (f"{P} g = Where(k, o, p) c = AveragePool<kernel_shape=[2,2]>(g)",
         ["Conv", "Where", "AveragePool"]),
        (f"{P} {Q} g = Where(k, p, q) c = Where(l, g, z)",
         ["Relu", "Conv", "Conv", "Where", "Where"]),
        (f"{P} {Q} g = Where(k, p, z) c = Add(g, q)", ["Relu", "Conv", "Where", "Conv", "Add"]),
        (f"{P} t = Transpose<perm=[0,2,3,1]>(p) u = Where(e, t, f) "
         "c = Transpose<perm=[0,3,1,2]>(u)",
         ["Conv", "Transpose", "Where", "Transpose"]),
        (f"{P} {Q} g = GlobalAveragePool(p) c = Where(k, g, q)",
         ["Relu", "Conv", "GlobalAveragePool", "Conv", "Where"]),
    ],
)  # fmt: skip
def test_all_that_is_chosen_from_takes_the_map(lines: str, expected: list[str]) -> None:
    constants: Parameters = {
        "z": np.array(NUMBER),
        "o": normal(1, 4, 1, 1),
        "f": normal(4),
        "e": np.array([[True], [False]]),
    }
    model = chosen(lines, **constants)
    assert_rewritten(model, NAME, expected, certified="(e, t" in lines)


def test_sizes_may_be_free() -> None:
    model = chosen(f"{P} g = Where(k, p, z) c = Where(l, g, z)", "N,H,W", z=np.array(NUMBER))
    assert_rewritten(model, NAME, ["Conv", "Where", "Where"], sizes={"H": 3, "W": 2})
    model = chosen(f"{P} c = Where(k, p, z)", "N,1,1", z=np.array(NUMBER))
    assert_rewritten(model, NAME, ["Conv", "Where"], certified=True)


def test_a_number_that_is_used_elsewhere_gets_an_element_for_each_channel() -> None:
    model = chosen(f"{P} i = Where(k, p, z) c = Where(l, i, z)", z=np.array(NUMBER))
    folded = assert_rewritten(model, NAME, ["Conv", "Where", "Where"])
    shapes = [array.shape for name, array in parameters(folded).items() if name.startswith("z")]
    assert set(shapes) == {(4, 1, 1)}


def test_a_map_that_is_the_same_everywhere_leaves_shapes_as_they_are() -> None:
    model = build(
        "(float[1,3,3,2] x, bool[1,1,3,2] k) => (float[1,4,3,2] y) "
        "{ p = Conv(x, v) c = Where(k, p, z) y = Mul(c, t) }",
        v=normal(4, 3, 1, 1),
        z=np.array(NUMBER),
        t=np.array(3, np.float32),
    )
    folded = assert_rewritten(model, SCALE, ["Conv", "Where"])
    assert [a.tolist() for n, a in parameters(folded).items() if n.startswith("z")] == [0.75]


@pytest.mark.parametrize(
    ("lines", "reason", "subject"),
    [
        ("c = Where(k, o, z)", NotReached.NOT_LINEAR, "Where c"),
        (f"{P} i = Where(k, o, z) c = Where(l, p, i)", NotReached.NOT_LINEAR, "Where i"),
        (f"{P} i = Sigmoid(p) c = Where(k, z, i)", NotReached.NOT_LINEAR, "Sigmoid i"),
        (f"{P} h = Greater(p, z) c = Where(h, p, z)", Common.SHARED, "Conv p"),
        (f"{P} c = Where(k, p, p)", Common.SHARED, "Conv p"),
        (f"{P} {Q} h = Cast<to=1>(k) c = Mul(p, h)", NotReached.NOT_LINEAR, "Mul c"),
        (f"{P} i = Conv(x, n) c = Where(k, p, i)", NotCarried.BROADCAST, "Where c"),
        (f"{P} i = ReduceSum<keepdims=0>(p, axes) c = Where(k, o, i)",
         NotCarried.BROADCAST, "Where c"),
        (f"{P} c = Where(k, p, w)", NotReached.CONSTANT_SHARED, "Where c"),
        (f"{P} c = Where(k, p, big)", NotStorable.NOT_REPRESENTABLE, "Where c"),
    ],
)  # fmt: skip
def test_refused(lines: str, reason: Refusal, subject: str) -> None:
    constants: Parameters = {
        "z": np.array(NUMBER),
        "o": normal(1, 4, 1, 1),
        "n": normal(1, 3, 1, 1),
        "axes": np.array([0, 1]),
        "big": np.array(-np.inf, np.float32),
    }
    if reason is NotReached.CONSTANT_SHARED:
        lines = f"{lines.replace('w)', 'u)')} j = Relu(u)"
        constants["u"] = normal(4, 1, 1)
    model = chosen(lines, **constants)
    if reason is NotReached.CONSTANT_SHARED:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info("j"))
        model.graph.output[-1].type.tensor_type.elem_type = 1
    assert_refused(model, NAME, reason, in_the_way=subject)


def test_what_has_no_channels_is_not_taken_for_some() -> None:
    lines = f"{P} i = ReduceSum<keepdims=0>(p, axes) c = Where(k, o, i)"
    model = chosen(lines, "1,4,4", o=normal(1, 4, 1, 1), axes=np.array([0, 1]))
    assert_refused(model, NAME, NotCarried.BROADCAST, in_the_way="Where c")


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_what_is_folded_is_equal(data: st.DataObject) -> None:
    sizes = {letter: data.draw(st.integers(1, 3)) for letter in "NHW"}
    channels = data.draw(st.integers(1, 4))
    lines, values = ["p = Conv(x, v)", "q = Conv(x, w)"], ["p", "q"]
    weights: Parameters = {"v": normal(channels, 2, 1, 1), "w": normal(channels, 2, 1, 1, seed=1)}
    for step in range(data.draw(st.integers(1, 3))):
        one = values.pop(data.draw(st.integers(0, len(values) - 1)))
        joins = data.draw(st.booleans())
        if values and joins:
            other = values.pop()
        else:
            other = f"o{step}"
            shape = data.draw(st.sampled_from([(), (1,), (channels, 1, 1), (1, 1, 1, 1)]))
            weights[other] = np.asarray(normal(*shape, seed=step))
        swaps = data.draw(st.booleans())
        pair = [other, one] if swaps else [one, other]
        lines.append(f"u{step} = Where({data.draw(st.sampled_from('kl'))}, {', '.join(pair)})")
        values.append(f"u{step}")
    kind = data.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
    weights["t"] = normal(*data.draw(st.sampled_from([(1,), (channels, 1, 1)])), seed=9) + 3
    model = build(
        "(float[N,2,H,W] x, bool[N,1,H,W] k, bool[H,1] l) => (float[d,e,f,g] y) "
        f"{{ {' '.join(lines)} y = {kind}({values[-1]}, t) }}",
        **weights,
    )
    result = run_pass(model, SCALE)
    optimized = result.to_proto()
    assert_equivalent(model, optimized, draw_feeds(model, sizes=sizes), rtol=1e-4, atol=1e-5)
    assert kind not in operators(optimized)
    assert not run_pass(optimized, SCALE).record.rewrites
