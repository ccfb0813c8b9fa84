"""From the least size on, positions do what they do at any size with the same rest."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bnfold.proof.certificates.sizes.reach import sizes_along
from bnfold.proof.float64.evaluation import Truth64
from tests.support.graphs import Array, Parameters, build, normal
from tests.support.windows import window

CONV = "y = Conv<{}>(x, w)"
WEIGHTS: Parameters = {
    "w": normal(1, 1, 3),
    "v": normal(1, 1, 4, seed=1),
    "s": np.array([1, 1, 2], np.float32),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "far": np.array([2**40]),
    "u": normal(1, 1, 1, seed=2),
    "before": np.array([0, 0, 2, 0, 0, 0]),
    "after": np.array([0, 0, 0, 0, 0, 3]),
}


def rows(body: str, size: int) -> set[tuple[float, ...]]:
    """Return what a function of one axis computes at its positions, wherever they are."""
    model = build(f"(float[N,1,L] x) => (float[N,1,l] y) {{ {body} }}", **WEIGHTS)
    ones = np.eye(size).reshape(size, 1, size)
    matrix: Array = Truth64(model).outputs({"x": ones})["y"].reshape(size, -1)
    return {tuple(np.trim_zeros(row).round(9)) for row in matrix.T}


CHAINS = [
    *(CONV.format(f"pads=[{low},{high}]") for low in range(3) for high in range(3)),
    *(CONV.format(f"pads=[1,1], strides=[{stride}]") for stride in (2, 3, 5)),
    CONV.format("dilations=[3], pads=[3,3]"),
    CONV.format('auto_pad="SAME_UPPER", strides=[2]'),
    CONV.format('auto_pad="SAME_LOWER"'),
    "a = Conv<pads=[1,1]>(x, w) y = Conv<pads=[2,1], strides=[2]>(a, v)",
    "a = Conv<pads=[1,1], strides=[2]>(x, w) y = Conv<pads=[2,2], strides=[2]>(a, v)",
    "a = Conv<pads=[1,1], strides=[2]>(x, w) y = AveragePool<kernel_shape=[3], pads=[1,1]>(a)",
    "y = AveragePool<kernel_shape=[3], pads=[1,1], strides=[2], ceil_mode=1>(x)",
    "a = Conv<pads=[1,1]>(x, w) b = Conv<pads=[1,2]>(x, v) y = Add(a, b)",
    *(
        f'y = Resize<mode="{mode}", coordinate_transformation_mode="{where}">(x, , s)'
        for mode in ("nearest", "linear", "cubic")
        for where in ("half_pixel", "asymmetric", "pytorch_half_pixel")
    ),
    'a = Resize<mode="linear">(x, , s) y = Conv<pads=[1,1]>(a, w)',
    'a = Resize<mode="linear">(x, , s) y = Conv<pads=[1,1], strides=[2]>(a, w)',
    'a = Conv<pads=[1,1], strides=[2]>(x, w) y = Resize<mode="linear">(a, , s)',
    *(
        f"y = ConvTranspose<strides=[{stride}], pads=[{low},{high}]>(x, v)"
        for stride in (1, 2, 3)
        for low, high in ((0, 0), (1, 1), (2, 0), (0, 3))
    ),
    *(
        f"a = ConvTranspose<strides=[{stride}], pads=[{low},{high}]>(x, w) {last}"
        for stride, low, high in ((1, 3, 3), (1, 4, 0), (1, 0, 5), (2, 3, 4))
        for last in ("y = Conv<pads=[2,1]>(a, w)", "y = ConvTranspose<pads=[0,3]>(a, v)")
    ),
    *(
        f'y = ConvTranspose<strides=[{stride}], auto_pad="SAME_{side}">(x, v)'
        for stride in (1, 2, 3)
        for side in ("UPPER", "LOWER")
    ),
    "y = ConvTranspose<dilations=[2], strides=[2], output_padding=[1]>(x, w)",
    "a = ConvTranspose<strides=[2], pads=[1,1]>(x, v) y = Conv<pads=[1,1]>(a, w)",
    "a = Conv<pads=[1,1], strides=[2]>(x, w) y = ConvTranspose<strides=[2], pads=[1,1]>(a, v)",
    "a = ConvTranspose<strides=[2]>(x, w) y = ConvTranspose<strides=[2], pads=[1,2]>(a, v)",
    "y = Slice(x, one, far, two, three)",
    "a = Slice(x, zero, far, two, two) y = Conv<pads=[1,1]>(a, w)",
    *(
        f"a = Slice(x, {start}, far, two) y = Conv<pads={pads}>(a, w)"
        for start in ("one", "two", "three")
        for pads in ("[1,0]", "[2,0]", "[2,1]")
    ),
    "a = Conv<pads=[2,1]>(x, w) b = Slice(a, two, far, two, three) y = Conv<pads=[1,1]>(b, w)",
]


@pytest.mark.parametrize("body", CHAINS)
def test_all_that_happens_at_a_large_size_happens_at_the_least(body: str) -> None:
    pair = window("(float[N,1,L] x) => (float[N,1,l] y)", body, body, WEIGHTS)
    sizes = sizes_along(pair, 0)
    for rest in range(sizes.period):
        least = sizes.least + rest
        assert rows(body, least) == rows(body, least + 3 * sizes.period)


def chain(generator: random.Random) -> str:
    """Return up to four operators in a row that pad, crop, skip and repeat positions."""
    lines, read = [], "x"
    for number in range(generator.randint(1, 4)):
        low, high = generator.randint(0, 4), generator.randint(0, 4)
        stride, dilation = generator.choice([1, 1, 2, 3]), generator.choice([1, 1, 2])
        weight = generator.choice("uwv")
        size = generator.randint(2, 4)
        shifts = f"strides=[{stride}], dilations=[{dilation}]"
        start = generator.choice(["zero", "one", "two", "three"])
        made = generator.choice(
            [
                f"Conv<pads=[{low},{high}], {shifts}>({read}, {weight})",
                f"ConvTranspose<pads=[{low},{high}], {shifts}>({read}, {weight})",
                f"Slice({read}, {start}, far, two, {['one', 'two', 'three'][stride - 1]})",
                f"AveragePool<kernel_shape=[{size}], pads=[{low % size},{high % size}], "
                f"strides=[{stride}], ceil_mode={high % 2}>({read})",
                f"Pad({read}, {'before' if low > 2 else 'after'})",
                'Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
                f'nearest_mode="floor">({read}, , s)',
            ]
        )
        read = f"v{number}"
        lines.append(f"{read} = {made}")
    return " ".join([*lines, f"y = Identity({read})"])


@pytest.mark.parametrize("seed", range(80))
def test_all_that_happens_in_a_chain_happens_at_the_least(seed: int) -> None:
    body = chain(random.Random(seed))
    pair = window("(float[N,1,L] x) => (float[N,1,l] y)", body, body, WEIGHTS)
    sizes = sizes_along(pair, 0)
    for rest in range(min(sizes.period, 4)):
        least = sizes.least + rest
        assert rows(body, least) == rows(body, least + 2 * sizes.period), body


@pytest.mark.parametrize(
    ("body", "least"),
    [
        (CONV.format("pads=[1,1]"), 3),
        (CONV.format("pads=[1,1], strides=[2]"), 4),
        ("y = Conv<strides=[2]>(x, k)", 2),
        ("a = Conv<pads=[1,1]>(x, w) y = Conv<pads=[1,1]>(a, w)", 5),
        ("y = Relu(x)", 1),
        ("y = ConvTranspose<pads=[3,3]>(x, v)", 4),
        ("y = Slice(x, two, far, two, three)", 5),
        ("a = Slice(x, two, far, two) y = Conv<pads=[2,1]>(a, w)", 5),
        ("a = ConvTranspose<pads=[2,2]>(x, k) y = Conv<pads=[1,1]>(a, w)", 7),
        (CONV.format('auto_pad="SAME_UPPER"'), 5),  # or SAME_LOWER, on the other side
        ('y = Resize<mode="linear">(x, , s)', 5),
        ('y = Resize<mode="cubic">(x, , s)', 7),
    ],
)
def test_sizes_are_no_larger_than_need_be(body: str, least: int) -> None:
    weights = {**WEIGHTS, "k": normal(1, 1, 1)}
    pair = window("(float[N,1,L] x) => (float[N,1,l] y)", body, body, weights)
    assert sizes_along(pair, 0).least == least


@pytest.mark.parametrize(
    ("body", "ratios"),
    [
        ('u = Resize<mode="nearest">(a, , s) c = Concat<axis=1>(u, b) y = Conv(c, u2)', (1, 2)),
        ("u = Conv<strides=[2]>(a, k) y = Add(u, b)", (2, 1)),
        ("u = Conv<strides=[3]>(a, k) v2 = Conv<strides=[2]>(b, k) y = Add(u, v2)", (1, 1)),
        ("g = GlobalAveragePool(a) u = Conv<strides=[2]>(b, k) y = Mul(g, u)", (1, 1)),
        (
            "u = Conv<strides=[2]>(a, k) v2 = Add(u, b) c = Conv<strides=[2]>(u, k) "
            "y = Concat<axis=1>(v2, c)",
            (1, 1),
        ),
    ],
)
def test_how_many_times_as_large_inputs_are(body: str, ratios: tuple[int, int]) -> None:
    """Three halves, or what contradicts itself, is left alone."""
    weights = {**WEIGHTS, "k": normal(1, 1, 1), "u2": normal(1, 2, 3)}
    pair = window("(float[N,1,L] a, float[N,1,M] b) => (float[N,1,l] y)", body, body, weights)
    assert sizes_along(pair, 0).ratios == dict(zip("ab", ratios, strict=True))


def test_a_size_is_enough_for_both_sides() -> None:
    before, after = CONV.format("pads=[2,0]"), CONV.format("pads=[0,2], strides=[3]")
    sizes = sizes_along(window("(float[N,1,L] x) => (float[N,1,l] y)", before, after, WEIGHTS), 0)
    assert (sizes.least, sizes.period) == (7, 3)


def test_no_mean_of_a_fixed_size_passes_for_that_of_all() -> None:
    before, after = "y = GlobalAveragePool(x)", "y = AveragePool<kernel_shape=[5]>(x)"
    sizes = sizes_along(window("(float[N,1,L] x) => (float[N,1,l] y)", before, after), 0)
    assert sizes.least > 5
