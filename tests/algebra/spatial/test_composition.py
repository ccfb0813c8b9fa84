"""Two operators in a row: composed as arrays, against one after the other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bnfold.algebra.spatial.composition import composed, composed_shape, is_exact
from bnfold.algebra.spatial.convolution import Convolution
from bnfold.arrays import FloatArray
from tests.support.work import calls


def applied(conv: Convolution, data: FloatArray) -> FloatArray | None:
    """Compute it tap by tap, or return None if no window fits."""
    rank, dense = len(conv.size), conv.in_groups(1)
    around = [(0, 0), (0, 0), *zip(conv.before, conv.after, strict=True)]
    padded = np.pad(data, around)
    rooms = [n - r - 1 for n, r in zip(padded.shape[2:], conv.reaches, strict=True)]
    if min(rooms) < 0:
        return None
    counts = [room // s + 1 for room, s in zip(rooms, conv.strides, strict=True)]
    result = np.zeros((data.shape[0], conv.output_channels, *counts))
    for tap in np.ndindex(*conv.size):
        where = (
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, conv.dilations, counts, conv.strides, strict=True)
        )
        read = padded[(slice(None), slice(None), *where)]
        result += np.einsum("oi,ni...->no...", dense.kernel[(..., *tap)], read)
    return result + conv.bias.reshape(-1, *[1] * rank)


@st.composite
def convolutions(draw: st.DrawFn, inputs: int, outputs: int, pads: int) -> Convolution:
    rank = 2
    size = [draw(st.integers(1, 3)) for _ in range(rank)]
    groups = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    around = [tuple(draw(st.integers(0, pads)) for _ in range(rank)) for _ in range(2)]
    return Convolution(
        kernel=generator.standard_normal((outputs, inputs // groups, *size)),
        bias=generator.standard_normal(outputs) * draw(st.integers(0, 1)),
        strides=tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        dilations=tuple(draw(st.integers(1, 3)) if k > 1 else 1 for k in size),
        before=around[0],
        after=around[1],
        groups=groups,
        dtype=ir.DataType.FLOAT,
    )


@settings(max_examples=30, deadline=None)
@given(
    convolutions(12, 24, 3),
    st.integers(0, 2).flatmap(lambda pads: convolutions(24, 12, pads)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_where_it_is_exact(first: Convolution, second: Convolution, sizes: tuple[int, int]) -> None:
    data = np.random.default_rng(0).standard_normal((1, 12, *sizes))
    between = applied(first, data)
    expected = None if between is None else applied(second, between)
    assume(expected is not None)
    assert expected is not None
    product = composed(second, first)
    assert product.kernel.shape == composed_shape(second, first)
    actual = applied(product, data)
    assert actual is not None
    assert actual.shape == expected.shape  # the sizes agree in any case
    if is_exact(second, first, sizes):
        np.testing.assert_allclose(actual, expected, atol=1e-9)
    else:
        assert not is_exact(second, first, (None, None))


@pytest.mark.parametrize("late", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("early", [1, 2, 3, 4, 6, 12])
def test_groups_stay_as_far_as_both_have_them(early: int, late: int) -> None:
    ones, zeros = (1, 1), (0, 0)
    generator = np.random.default_rng(0)
    first, second = (
        Convolution(
            kernel=generator.standard_normal((12, 12 // groups, 2, 1)),
            bias=generator.standard_normal(12),
            strides=ones,
            dilations=ones,
            before=zeros,
            after=zeros,
            groups=groups,
            dtype=ir.DataType.FLOAT,
        )
        for groups in (early, late)
    )
    data = generator.standard_normal((1, 12, 4, 2))
    product = composed(second, first)
    assert product.groups == np.gcd(early, late)
    between = applied(first, data)
    assert between is not None
    actual, expected = applied(product, data), applied(second, between)
    assert actual is not None
    assert expected is not None
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def test_the_work_is_not_the_product_of_both_lengths() -> None:
    """Long filters for audio: numpy calls for each tap of one of the two, not of each pair."""

    def compose(length: int) -> None:
        filters = Convolution(
            *(np.ones((1, 1, length)), np.zeros(1), (1,), (1,), (0,), (0,), 1, ir.DataType.FLOAT)
        )
        np.testing.assert_array_equal(composed(filters, filters).kernel[0, 0, :3], [1, 2, 3])

    once = calls(lambda: compose(200), limit=50_000)
    calls(lambda: compose(400), limit=2.3 * once)
