"""Types of arrays for annotations, the limits of floats, and what messages call an array."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""Of any shape and type."""

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""Of any shape, in float64."""

IntArray: TypeAlias = npt.NDArray[np.int64]
"""Of any shape, in int64."""


def float_limits(dtype: np.dtype[Any]) -> Any:
    """Return what numpy's `finfo` tells of a float type, also of those that numpy lacks."""
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]  # has no types


def type_and_shape(values: Array) -> str:
    """Return what messages say of an array: ``float32[2,3]``."""
    return f"{values.dtype.name}[{','.join(map(str, values.shape))}]"
