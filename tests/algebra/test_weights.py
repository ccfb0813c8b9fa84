from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.algebra.weights import NotStorable, stored
from bnfold.rewriting.contract import Refused

NODE = ir.Node("", "Conv", [])
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def store(value: float, dtype: ir.DataType) -> np.generic:
    array = stored(np.array([value]), dtype, "w", NODE).array
    element: np.generic = array[0]
    return element


def neighbours(value: np.generic) -> list[float]:
    """Return the bfloat16 value and its two neighbours."""
    bits = int(np.asarray(value).view(np.uint16))
    near = [np.array(bits + step, np.uint16).view(BFLOAT16) for step in (-1, 0, 1)]
    return [float(number) for number in near if np.isfinite(float(number))]


@given(st.floats(min_value=1e-30, max_value=1e30), st.booleans())
def test_bfloat16_is_rounded_once_to_nearest(magnitude: float, negative: bool) -> None:
    value = -magnitude if negative else magnitude
    rounded = store(value, ir.DataType.BFLOAT16)
    error = abs(Fraction(float(rounded)) - Fraction(value))
    assert all(error <= abs(Fraction(near) - Fraction(value)) for near in neighbours(rounded))


def test_bfloat16_is_not_rounded_through_float32() -> None:
    """Just above a bfloat16 tie: through float32 it would become the tie, and round down."""
    value = 1 + 2**-8 + 2**-40
    assert float(store(value, ir.DataType.BFLOAT16)) == 1 + 2**-7
    assert float(np.float32(value).astype(BFLOAT16)) == 1


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (ir.DataType.FLOAT16, 65520.0),
        (ir.DataType.BFLOAT16, 3.4e38),
        (ir.DataType.FLOAT, 3.5e38),
        (ir.DataType.DOUBLE, np.inf),
        (ir.DataType.FLOAT, np.nan),
    ],
)
def test_values_that_are_not_finite_are_refused(dtype: ir.DataType, value: float) -> None:
    with pytest.raises(Refused) as refused:
        store(value, dtype)
    assert refused.value.reason is NotStorable.NOT_REPRESENTABLE


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(ir.DataType.FLOAT, 1e-40), (ir.DataType.BFLOAT16, 1e-40), (ir.DataType.DOUBLE, 1e-310)],
)
def test_subnormals_become_zero(dtype: ir.DataType, value: float) -> None:
    weight = stored(np.array([value, 1.0]), dtype, "w", NODE)
    assert weight.flushed == 1
    assert weight.array[0] == 0


def test_half_keeps_its_subnormals() -> None:
    assert float(store(3e-6, ir.DataType.FLOAT16)) == pytest.approx(3e-6, rel=0.01)


@given(
    st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple),
    st.sampled_from([ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16]),
    st.integers(0, 2**32 - 1),
)
def test_blocks_do_not_change_the_result(
    shape: tuple[int, ...], dtype: ir.DataType, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.array(rng.normal(size=shape) * 10.0 ** rng.integers(-42, 3, shape), np.float32)
    scale = np.array(rng.normal(size=[size if rng.random() < 0.5 else 1 for size in shape]))
    shift = np.array(rng.normal(size=[size if rng.random() < 0.5 else 1 for size in shape]))
    whole = stored(values.astype(np.float64) * scale + shift, dtype, "w", NODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnfold.algebra.weights._BLOCK", 4)
        blocks = stored(values, dtype, "w", NODE, scale=scale, shift=shift)
    assert blocks.array.dtype == whole.array.dtype
    assert blocks.array.tobytes() == whole.array.tobytes()
    assert blocks.flushed == whole.flushed


def test_values_that_are_not_finite_are_refused_in_any_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bnfold.algebra.weights._BLOCK", 4)
    for row in range(3):
        values = np.ones((3, 4))
        values[row, 3] = 1e39
        with pytest.raises(Refused) as refused:
            stored(values, ir.DataType.FLOAT, "w", NODE)
        assert refused.value.reason is NotStorable.NOT_REPRESENTABLE
