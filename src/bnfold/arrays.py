"""The types of arrays that annotations name."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""Of any shape and type."""

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""Of any shape, in float64."""
