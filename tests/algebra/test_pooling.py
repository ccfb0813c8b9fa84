"""The geometry of pools is arithmetic: equal to looking at each window, at any size."""

from __future__ import annotations

import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.algebra.pooling import Pool, reached
from bnfold.graph.shapes import record_shape
from tests.support.work import calls

HUGE = 10**9


def pool(kernel: int, stride: int, dilation: int, pads: tuple[int, int], ceil: bool) -> Pool:
    return Pool((kernel,), (stride,), (dilation,), (pads,), "NOTSET", ceil)


def is_real(geometry: Pool, size: int) -> bool:
    data = ir.Value()
    record_shape(data, ir.Shape([1, 1, size]))
    return geometry.every_window_is_real(data)


def each_window_has_an_element(geometry: Pool, size: int) -> bool:
    """Decide by looking at each tap of each window."""
    kernel, stride, dilation = geometry.kernel[0], geometry.strides[0], geometry.dilations[0]
    before, after = geometry.pads[0]
    last = size + before + after - dilation * (kernel - 1) - 1
    if last < 0:
        return False
    count = (-(-last // stride) if geometry.ceil_mode else last // stride) + 1
    starts = [index * stride - before for index in range(count)]
    return all(any(0 <= start + k * dilation < size for k in range(kernel)) for start in starts)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(1, 8),
    st.integers(1, 9),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
    st.booleans(),
    st.integers(0, 15),
)
def test_windows_by_arithmetic_are_windows_by_looking(
    kernel: int, stride: int, dilation: int, pads: tuple[int, int], ceil: bool, size: int
) -> None:
    geometry = pool(kernel, stride, dilation, pads, ceil)
    assert is_real(geometry, size) == each_window_has_an_element(geometry, size)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(-40, 40),
    st.integers(1, 20),
    st.integers(0, 22),
)
def test_numbers_in_a_sequence_by_remainder(
    count: int, step: int, start: int, modulus: int, least: int
) -> None:
    remainders = [(start + i * step) % modulus for i in range(count)]
    expected = sum(remainder >= least for remainder in remainders)
    assert reached(count, step, start, modulus, least) == expected


def test_huge_windows_and_maps_cost_no_more_than_small_ones() -> None:
    geometries = [
        (pool(HUGE, 1, 1, (HUGE - 1, 0), False), True),
        (pool(HUGE, 1, 1, (HUGE, 0), False), False),
        (pool(2, 2, 3 * HUGE, (2 * HUGE, 3 * HUGE), False), False),
        (pool(HUGE // 2, 1, 2, (HUGE // 3, HUGE // 3), True), True),
    ]
    for geometry, expected in geometries:
        for size in (HUGE, HUGE + 1):

            def decide(geometry: Pool = geometry, size: int = size) -> bool:
                return is_real(geometry, size)

            calls(decide, limit=300)
            assert decide() == expected
