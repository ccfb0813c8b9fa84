"""What no proof is known for is compared on samples, and told to be no more than that."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from tests.support.graphs import Array, normal, scalar
from tests.support.windows import MAP, ROW, window

pytestmark = pytest.mark.usefixtures("without_weights")

UNSEEN: dict[str, tuple[str, str, str, dict[str, Array]]] = {
    "where a step is": (
        ROW,
        "a = Add(x, k) y = Floor(a)",
        "a = Add(x, l) y = Floor(a)",
        {"k": scalar(0.3), "l": scalar(0.300001)},
    ),
    "a maximum of what stays the same": (
        MAP,
        "y = Clip(x, a, b)",
        "c = Clip(x, a, b) y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)",
        {"a": scalar(50), "b": scalar(60)},
    ),
    "the order of a pool's elements": (
        "(float[1,4,8] x) => (float[1,4,l] y)",
        "a = Conv(x, w) y = MaxPool<kernel_shape=[2]>(a)",
        "r = Slice(x, f, t, c, d) k = Conv(r, w) p = MaxPool<kernel_shape=[2]>(k) "
        "y = Slice(p, f, t, c, d)",
        {
            "w": normal(4, 4, 1),
            "f": np.array([-1]),
            "t": np.array([-(2**40)]),
            "c": np.array([2]),
            "d": np.array([-1]),
        },
    ),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_probes_do_not_see_is_not_proven(case: str) -> None:
    assert certify(window(*UNSEEN[case])).verdict == "sampled"


def test_a_function_that_is_not_a_number_somewhere_is_sampled() -> None:
    text = "(float[N,4] x, float[N,4] z) => (float[N,4] y)"
    before = "a = Div(x, z) b = Sqrt(a) y = Mul(b, k)"
    after = "a = Div(x, z) b = Sqrt(a) c = Mul(b, l) y = Mul(c, l)"
    certificate = certify(window(text, before, after, {"k": scalar(4)}, {"l": scalar(2)}))
    assert certificate.verdict == "sampled"
