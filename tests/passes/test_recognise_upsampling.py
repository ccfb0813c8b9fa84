"""recognise-upsampling: repetitions that are written out become a nearest Resize."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common
from tests.support.graphs import Parameters, build, named_in
from tests.support.passes import assert_refused, assert_rewritten, parameters, run_pass

NAME = "recognise-upsampling"

VIEW = "a = Reshape(x, apart) b = Expand(a, wide) y = Reshape(b, whole)"
LAST = (
    "a = Unsqueeze(x, two) b = Expand(a, high) c = Reshape(b, cut) d = Expand(c, both) "
    "y = Reshape(d, end)"
)
SHAPES: Parameters = {
    "apart": np.array([0, 3, 4, 1, 5, 1]),
    "wide": np.array([1, 3, 4, 2, 5, 3]),
    "open": np.array([-1, 3, 8, 15]),
    "wider": np.array([1, 1, 3, 4, 2, 5, 3]),
    "whole": np.array([0, 3, 8, 15]),
    "tall": np.array([0, 3, 4, 30]),
    "tiles": np.array([1, 1, 1, 2, 1, 3]),
    "two": np.array([2]),
    "high": np.array([1, 1, 3, 1, 1]),
    "cut": np.array([0, 9, 4, 1, 5]),
    "both": np.array([1, 1, 1, 2, 1]),
    "end": np.array([0, 9, 8, 5]),
    "three_five": np.array([3, 5]),
}


def model_of(
    lines: str,
    *,
    x: str = "N,3,4,5",
    y: str = "N,a,b,c",
    kind: str = "float",
    opset: int = 17,
    **more: np.ndarray,
) -> onnx.ModelProto:
    used = named_in(lines, SHAPES | more)
    return build(f"({kind}[{x}] x) => ({kind}[{y}] y) {{ {lines} }}", opset=opset, **used)


def scales(model: onnx.ModelProto) -> list[float]:
    (found,) = [
        each for each in parameters(model).values() if each.dtype == np.float32 and each.size
    ]
    numbers: list[float] = found.tolist()
    return numbers


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (VIEW, [1, 1, 2, 3]),
        ("a = Reshape(x, apart) b = Tile(a, tiles) y = Reshape(b, whole)", [1, 1, 2, 3]),
        (
            "a = Unsqueeze(x, three_five) b = Expand(a, wide) y = Reshape(b, whole)",
            [1, 1, 2, 3],
        ),
        (LAST, [1, 3, 2, 1]),  # the channels are last
        ("a = Reshape(x, apart) b = Expand(a, wider) y = Reshape(b, open)", [1, 1, 2, 3]),
    ],
)
def test_one_resize(lines: str, expected: list[float], batch: str) -> None:
    model = model_of(lines, x=f"{batch},3,4,5")
    optimized = assert_rewritten(model, NAME, ["Resize"], rtol=0, atol=0, certified=True)
    assert scales(optimized) == expected


@pytest.mark.parametrize(
    ("kind", "opset"),
    [
        *itertools.product(["float", "int32", "uint8"], [11, 12, 13, 18]),
        *(("int8", opset) for opset in (13, 18)),  # onnxruntime has no Expand for it before
    ],
)
def test_types_and_operator_sets(kind: str, opset: int) -> None:
    assert_rewritten(model_of(VIEW, kind=kind, opset=opset), NAME, ["Resize"], rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "opset"), [("float", 10), ("double", 17), ("int64", 17)])
def test_others_stay(kind: str, opset: int) -> None:
    result = run_pass(model_of(VIEW, kind=kind, opset=opset), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


def test_sizes_that_have_names() -> None:
    """As torch exports `repeat_interleave` along free axes."""
    lines = """
        s = Shape(x) n = Slice(s, zero, one) h = Slice(s, one_, three) w = Slice(s, three, four)
        f = Concat<axis=0>(n, h, one, w, one) a = Reshape(x, f)
        g = Concat<axis=0>(n, h, k, w, k) b = Expand(a, g)
        hh = Slice(h, one, two) cc = Slice(h, zero, one) h2 = Mul(hh, k) w2 = Mul(w, k)
        e = Concat<axis=0>(n, cc, h2, w2) y = Reshape(b, e)
    """
    more = {"zero": 0, "one": 1, "one_": 1, "two": 2, "three": 3, "four": 4, "k": 2}
    weights: Parameters = {name: np.array([number]) for name, number in more.items()}
    model = model_of(lines, x="N,C,H,W", **weights)
    optimized = assert_rewritten(model, NAME, ["Resize"], rtol=0, atol=0, certified=True)
    assert scales(optimized) == [1, 1, 2, 2]


@pytest.mark.parametrize("is_read", [False, True])
def test_sizes_of_what_is_between(is_read: bool) -> None:
    """As torch's TorchScript exporter writes `repeat_interleave`, twice."""
    lines = """
        a = Unsqueeze(x, three) b = Tile(a, across) s = Shape(b)
        n = Slice(s, zero, two) w = Slice(s, four, five) f = Concat<axis=0>(n, open1, w)
        c = Reshape(b, f) d = Unsqueeze(c, four) e = Tile(d, along) t = Shape(e)
        m = Slice(t, zero, three) g = Concat<axis=0>(m, open1) y = Reshape(e, g)
    """
    more: Parameters = {"zero": np.array([0]), "three": np.array([3]), "four": np.array([4])}
    more |= {"five": np.array([5]), "open1": np.array([-1]), "across": np.array([1, 1, 1, 2, 1])}
    more |= {"along": np.array([1, 1, 1, 1, 3])}
    model = model_of(lines + ("z = Mul(s, s)" if is_read else ""), x="N,C,H,W", **more)
    if is_read:
        model.graph.output.add().name = "z"
        assert_refused(model, NAME, Common.SHARED, in_the_way="Tile b")
    else:
        optimized = assert_rewritten(model, NAME, ["Resize"], rtol=0, atol=0, certified=True)
        assert scales(optimized) == [1, 1, 2, 3]


def test_repetitions_of_a_number_that_varies_stay() -> None:
    """Each sample as often as there are samples."""
    lines = """
        s = Shape(x) n = Slice(s, zero, one) r = Slice(s, one_, four)
        f = Concat<axis=0>(n, one, rest) a = Reshape(x, f)
        g = Concat<axis=0>(n, n, wide5) b = Expand(a, g)
        nn = Mul(n, n) e = Concat<axis=0>(nn, end3) y = Reshape(b, e)
    """
    more: Parameters = {"zero": np.array([0]), "one": np.array([1]), "four": np.array([4])}
    more |= {"one_": np.array([1]), "rest": np.array([3, 4, 1, 5, 1])}
    more |= {"wide5": np.array([3, 4, 2, 5, 3]), "end3": np.array([3, 8, 15])}
    assert not run_pass(model_of(lines, **more), NAME).record.rewrites


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        ("a = Reshape(x, apart) b = Expand(a, wide) y = Reshape(b, tall)", "N,3,4,5"),
        ("a = Reshape(x, before) b = Expand(a, tiled) y = Reshape(b, whole)", "N,3,4,5"),
        ("a = Unsqueeze(x, two) b = Expand(a, high) y = Reshape(b, many)", "N,3,4,5"),  # heads
        ("a = Reshape(x, apart) y = Reshape(a, again)", "N,3,4,5"),
        ("a = Relu(x) y = Expand(a, large)", "N,3,1,1"),
        ("a = Reshape(x, same) y = Expand(a, large)", "N,3,1,1"),
        ("a = Tile(x, plain) y = Reshape(a, whole)", "N,3,4,5"),
        ("a = Tile(x, plain)  y = Identity(a)", "N,3,4,5"),
        ("a = Reshape(x, column) b = Expand(a, ones) y = Reshape(b, row)", "N,3"),
        ("a = Reshape(x, apart) b = Tile(a, tiles) y = Reshape(b, other)", "N,3,4,5"),
        (
            "a = Reshape(x, swapped) b = Expand(a, swapped_wide) y = Reshape(b, swapped_whole)",
            "N,3,4,5",
        ),
    ],
)
def test_other_orders_stay(lines: str, x: str) -> None:
    more: Parameters = {
        "before": np.array([0, 3, 1, 4, 1, 5]),
        "tiled": np.array([1, 3, 2, 4, 3, 5]),
        "many": np.array([0, 9, 4, 5]),
        "again": np.array([0, 3, 4, 5]),
        "plain": np.array([1, 1, 2, 3]),
        "column": np.array([0, 3, 1]),
        "ones": np.array([1, 1, 1]),
        "row": np.array([0, 3]),
        "large": np.array([1, 3, 4, 5]),
        "same": np.array([0, 3, 1, -1]),
        "other": np.array([0, 4, 6, 15]),
        "swapped": np.array([0, 3, 5, 1, 4, 1]),  # 4·5 as 5·4
        "swapped_wide": np.array([1, 3, 5, 2, 4, 3]),
        "swapped_whole": np.array([0, 3, 10, 12]),
    }
    result = run_pass(model_of(lines, x=x, **more), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


@pytest.mark.parametrize("value", ["a", "b"])
def test_what_is_read_elsewhere_stays(value: str) -> None:
    model = model_of(f"{VIEW} z = Neg({value})")
    model.graph.output.add().name = "z"
    subject = "Reshape a" if value == "a" else "Expand b"
    assert_refused(model, NAME, Common.SHARED, in_the_way=subject)


def test_the_operators_before_stay() -> None:
    """The chain starts at the map, not before it."""
    lines = f"m = Reshape(v, map) {VIEW.replace('(x,', '(m,')}"
    model = model_of(lines.replace("v", "x", 1), x="N,60", map=np.array([0, 3, 4, 5]))
    assert_rewritten(model, NAME, ["Reshape", "Resize"], rtol=0, atol=0, certified=True)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=3, max_size=5),
    data=st.data(),
    is_tile=st.booleans(),
    is_free=st.booleans(),
)
def test_random_repetitions(
    sizes: list[int], data: st.DataObject, is_tile: bool, is_free: bool
) -> None:
    """Any axes are repeated by any numbers: what is rewritten is equal, all else unchanged."""
    factors = [1, *(data.draw(st.integers(1, 3)) for _ in sizes[1:])]
    order = data.draw(st.permutations(range(2 * len(sizes)))) if data.draw(st.booleans()) else None
    apart = [*itertools.chain(*((size, 1) for size in sizes))]
    wide = [*itertools.chain(*zip(sizes, factors, strict=True))]
    whole = [size * factor for size, factor in zip(sizes, factors, strict=True)]
    if order is not None:  # the repetitions go elsewhere
        apart, wide = ([each[place] for place in order] for each in (apart, wide))
    tiles = [new // old for old, new in zip(apart, wide, strict=True)]
    first = "0" if order is None or order[0] == 0 else str(apart[0])
    apart[0] = int(first) if is_free else apart[0]
    whole[0] = 0 if is_free and first == "0" else whole[0]
    is_first_free = is_free and first == "0"
    weights: Parameters = {
        "apart": np.array(apart), "wide": np.array([1, *wide[1:]] if is_first_free else wide),
        "tiles": np.array(tiles), "whole": np.array(whole),
    }  # fmt: skip
    del weights["wide" if is_tile else "tiles"]
    middle = "Tile(a, tiles)" if is_tile else "Expand(a, wide)"
    x = ",".join(["N" if is_first_free else str(sizes[0]), *map(str, sizes[1:])])
    y = ",".join("abcde"[: len(sizes)])
    lines = f"a = Reshape(x, apart) b = {middle} y = Reshape(b, whole)"
    model = build(f"(float[{x}] x) => (float[{y}] y) {{ {lines} }}", **weights)
    if run_pass(model, NAME).record.rewrites:
        assert_rewritten(model, NAME, ["Resize"], rtol=0, atol=0, certified=True)
    elif order is None:
        axes = [factor > 1 for size, factor in zip(sizes, factors, strict=True) if size > 1]
        assert sum(axes) != len(sizes) - 2 or is_first_free
