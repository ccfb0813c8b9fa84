"""fold-space-to-depth: Focus blocks, SpaceToDepth and what torch writes for pixel_unshuffle."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.spatial.depth import NotInBlocks
from bnfold.rewriting.contract import Common, Refusal
from bnfold_passes.fold_space_to_depth import Why
from tests.support.graphs import (
    Array,
    Parameters,
    build,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, run_pass

NAME = "fold-space-to-depth"
INTERFACE = "(float[N,3,8,12] x) => (float[N,4,h,l] y) "
FOCUS = [(0, 0), (1, 0), (0, 1), (1, 1)]
CONV = "y = Conv<pads=[1,1,1,1]>(d, w)"
NUMBERS: Parameters = {
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "three": np.array([3], np.int64),
    "twos": np.array([2, 2], np.int64),
    "space": np.array([2, 3], np.int64),
    "end": np.array([2**63 - 1], np.int64),
    "seven": np.array([7], np.int64),
    "ends": np.array([2**31 - 1, 2**31 - 1], np.int64),
    **{f"at{i}{j}": np.array([i, j], np.int64) for i, j in FOCUS},
}


def model_of(lines: str, *, interface: str = INTERFACE, **weights: Array) -> onnx.ModelProto:
    used: Parameters = {"w": normal(4, 12, 3, 3), "b": normal(4), **NUMBERS, **weights}
    used = named_in(lines, used)
    return build(interface + "{ " + lines + " }", **used)


def focus(places: list[tuple[int, int]] = FOCUS, conv: str = CONV) -> str:
    slices = [f"p{i}{j} = Slice(x, at{i}{j}, ends, space, twos)" for i, j in places]
    joined = ", ".join(f"p{i}{j}" for i, j in places)
    return " ".join([*dict.fromkeys(slices), f"d = Concat<axis=1>({joined})", conv])


def in_two_steps(places: list[tuple[int, int]] = FOCUS, conv: str = CONV) -> str:
    """As torch writes x[..., i::2, j::2], with Slices along one axis each."""
    name = ["zero", "one"]
    rows = [f"r{i} = Slice(x, {name[i]}, end, two, two)" for i in (0, 1)]
    both = [f"p{i}{j} = Slice(r{i}, {name[j]}, end, three, two)" for i, j in places]
    joined = ", ".join(f"p{i}{j}" for i, j in places)
    return " ".join([*rows, *both, f"d = Concat<axis=1>({joined})", conv])


def unshuffled(perm: str, conv: str = CONV) -> str:
    return f"s = Reshape(x, split) t = Transpose<perm=[{perm}]>(s) d = Reshape(t, deep) {conv}"


SPLIT: Parameters = {
    "split": np.array([2, 3, 4, 2, 6, 2], np.int64),
    "deep": np.array([2, 12, 4, 6], np.int64),
}
FIXED = INTERFACE.replace("N", "2")


@pytest.mark.parametrize("write", [focus, in_two_steps])
@pytest.mark.parametrize("places", [*itertools.permutations(FOCUS)][::5])
def test_a_focus_block(write: object, places: list[tuple[int, int]]) -> None:
    assert callable(write)
    optimized = assert_rewritten(model_of(write(places)), NAME, ["Conv"])
    (conv,) = optimized.graph.node
    attributes = {attribute.name: list(attribute.ints) for attribute in conv.attribute}
    assert attributes == {"kernel_shape": [6, 6], "strides": [2, 2], "pads": [2, 2, 2, 2]}


@pytest.mark.parametrize(
    ("lines", "weights"),
    [
        (focus(conv="y = Conv<strides=[2,1], pads=[0,1,2,0]>(d, w, b)"), {}),
        (focus(conv="y = Conv(d, u)"), {"u": normal(4, 12, 2, 1)}),
        (focus(conv='y = Conv<auto_pad="VALID">(d, w)'), {}),
        (focus(conv='y = Conv<auto_pad="SAME_UPPER">(d, w)'), {}),
        (focus(conv='y = Conv<auto_pad="SAME_LOWER", strides=[2,1]>(d, w)'), {}),
        (focus([*FOCUS, (0, 0)]), {"w": normal(4, 15, 3, 3)}),
        (f"d = SpaceToDepth<blocksize=2>(x) {CONV}", {}),
        (f"d = SpaceToDepth<blocksize=4>(x) {CONV}", {"w": normal(4, 48, 3, 3)}),
    ],
)
def test_other_kernels_strides_and_paddings(lines: str, weights: Parameters) -> None:
    assert_rewritten(model_of(lines, **weights), NAME, ["Conv"])


@pytest.mark.parametrize("perm", ["0,1,3,5,2,4", "0,3,5,1,2,4", "0,5,3,1,2,4", "0,3,1,5,2,4"])
def test_reshapes_around_a_transpose(perm: str) -> None:
    assert_rewritten(model_of(unshuffled(perm), interface=FIXED, **SPLIT), NAME, ["Conv"])


@pytest.mark.parametrize("write", [focus, in_two_steps])
def test_free_sizes(write: object) -> None:
    assert callable(write)
    model = model_of(write(), interface=INTERFACE.replace("8,12", "H,W"))
    assert_rewritten(model, NAME, ["Conv"], sizes={"H": 6, "W": 10})


def test_a_scale_before_folds_as_well() -> None:
    lines = "v = Div(input, k) " + focus().replace("(x,", "(v,")
    interface = INTERFACE.replace(" x)", " input)")
    model = model_of(lines, interface=interface, k=np.array(255, np.float32))
    result = run_pass(model)
    assert operators(result.to_proto()) == ["Conv"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (focus([(0, 0), (0, 0), (0, 1), (0, 1)]), NotInBlocks.PARTIAL),
        (focus([(0, 0), (1, 0)]), NotInBlocks.PARTIAL),
        (focus() + " z = Neg(d)", Common.SHARED),
        (focus(conv="y = Conv<pads=[1,1,1,1], group=2>(d, g)"), Why.READ_IN_GROUPS),
        (focus(conv="y = Conv<dilations=[2,2]>(d, w)"), Why.DILATED),
        (
            focus(conv='y = Conv<auto_pad="SAME_LOWER", dilations=[2,2]>(d, w)'),
            Common.PADDED_BY_SIZE,
        ),
    ],
)
def test_refusals(lines: str, reason: Refusal) -> None:
    channels = 3 * lines.partition("Concat")[2].partition(")")[0].count("p")
    weights: Parameters = {"w": normal(4, channels, 3, 3), "g": normal(4, 6, 3, 3)}
    assert_refused(model_of(lines, **weights), NAME, reason)


def test_refuses_a_weight_that_a_caller_may_override() -> None:
    model = make_overridable(model_of(focus()), "w")
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)


@pytest.mark.parametrize(
    "lines",
    [
        focus().replace("p11 = Slice(x", "n = Neg(x) p11 = Slice(n"),
        in_two_steps().replace("r1 = Slice(x, one, end", "r1 = Slice(x, zero, seven"),
        f"d = Concat<axis=1>(x, x, x, x) {CONV}",
        "p = Slice(x, zero, end, two, two) y = Conv<pads=[1,1,1,1]>(p, v)",
    ],
)
def test_other_maps_stay_without_a_refusal(lines: str) -> None:
    if "seven" in lines:  # rows 0, 2, 4 and 6, as the others: but not to the end
        lines = lines.replace("zero, seven", "zero, end").replace("r1 = Slice(x", "r1 = Slice(x")
        lines = lines.replace("r1 = Slice(x, zero, end, two, two)", "r1 = Neg(r0)")
    record = run_pass(model_of(lines, v=normal(4, 3, 3, 3)), NAME).record
    assert not record.rewrites
    assert not record.refusals


@pytest.mark.parametrize("perm", ["0,1,3,5,4,2", "1,0,3,5,2,4", "0,2,3,5,1,4"])
def test_other_transposes_stay(perm: str) -> None:
    model = model_of(unshuffled(perm), interface=FIXED, **SPLIT)
    record = run_pass(model, NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_slices_that_stop_early_stay() -> None:
    """A Slice to row 6 of 8 leaves three rows; the other starts then must, too."""
    lines = (
        "p = Slice(x, at00, early, space, twos) q = Slice(x, at11, early, space, twos) "
        "d = Concat<axis=1>(p, q) y = Conv<pads=[1,1,1,1]>(d, w)"
    )
    weights: Parameters = {"early": np.array([6, 6], np.int64), "w": normal(4, 6, 3, 3)}
    assert not run_pass(model_of(lines, **weights), NAME).record.rewrites


@st.composite
def depths(draw: st.DrawFn) -> onnx.ModelProto:
    rank = draw(st.integers(1, 3))
    sizes = [draw(st.sampled_from([1, 2, 3])) for _ in range(rank)]
    sizes[draw(st.integers(0, rank - 1))] = draw(st.sampled_from([2, 3]))
    blocks = [draw(st.integers(3, 4)) for _ in range(rank)]
    places = [*itertools.product(*map(range, sizes))]
    places = draw(st.permutations(places)) + draw(st.lists(st.sampled_from(places), max_size=1))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    weights: Parameters = {
        "axes": np.array([axis + 2 for axis in axes], np.int64),
        "steps": np.array([sizes[axis] for axis in axes], np.int64),
        "ends": np.array([2**40] * len(axes), np.int64),
        "w": normal(4, 2 * len(places), *kernel),
    }
    lines = []
    for number, place in enumerate(places):
        weights[f"s{number}"] = np.array([place[axis] for axis in axes], np.int64)
        lines.append(f"p{number} = Slice(x, s{number}, ends, axes, steps)")
    lines.append(f"d = Concat<axis=1>({', '.join(f'p{i}' for i in range(len(places)))})")
    whole = ",".join(str(n * s) for n, s in zip(blocks, sizes, strict=True))
    space = ",".join(f"l{axis}" for axis in range(rank))
    return build(
        f"(float[N,2,{whole}] x) => (float[N,4,{space}] y) "
        f"{{ {' '.join(lines)} y = Conv<strides={strides}, pads={pads}>(d, w) }}",
        **weights,
    )


@settings(max_examples=12, deadline=None)
@given(depths())
def test_random_blocks(model: onnx.ModelProto) -> None:
    assert_rewritten(model, NAME, ["Conv"])


def test_a_block_of_any_size_is_not_listed() -> None:
    model = build(
        "(float[1,1,N,N] x) => (float[1,4,H,W] y) "
        "{ d = SpaceToDepth<blocksize=100000>(x) y = Conv(d, w) }",
        w=normal(4, 4, 1, 1),
    )
    assert not run_pass(model, NAME).record.rewrites


def test_leaves_a_conv_of_other_channels_alone() -> None:
    model = build(
        "(float[N,1,4,4] x) => (float[N,2,2,2] y) "
        "{ d = SpaceToDepth<blocksize=2>(x) y = Conv(d, w) }",
        w=normal(2, 10, 1, 1),
    )
    assert not run_pass(model, NAME).record.rewrites
