"""Sizes that do not occur are left out."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Parameters, normal
from tests.support.windows import window

pytestmark = pytest.mark.usefixtures("without_weights")


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_size_at_which_nothing_runs_is_left_out(off: float) -> None:
    """Every second position and those between are as many only where their number is even."""
    kernel = normal(2, 2, 3)
    spread = np.zeros((2, 1, 6), np.float32)
    spread[:, 0, 0::2], spread[:, 0, 1::2] = kernel[:, 0], kernel[:, 1] + np.float32(off)
    steps: Parameters = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "far": np.array([2**40]),
    }
    certificate = certify(
        window(
            "(float[N,1,L] x) => (float[N,2,l] y)",
            "a = Slice(x, zero, far, two, two) b = Slice(x, one, far, two, two) "
            "c = Concat<axis=1>(a, b) y = Conv<pads=[1,1]>(c, w)",
            "y = Conv<pads=[2,2], strides=[2]>(x, w)",
            {"w": kernel, **steps},
            {"w": spread},
        )
    )
    assert certificate.verdict == ("differs" if off else "certified")
