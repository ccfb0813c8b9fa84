"""Probes run one by one where they would mix in a batch, and differences are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.probing import Differs, require_equal_bits
from bnfold.proof.certificates.sampling import distances
from tests.support.graphs import Array
from tests.support.windows import window


def test_samples_that_mix_are_not_stacked() -> None:
    weights = {"a": np.array([0]), "b": np.array([1]), "z": np.array(0, np.float32)}
    text = "(float[1,4] x) => (float[1,4] y)"
    before = "f = Slice(x, a, b, a) y = Sub(x, f)"
    found = certify(window(text, before, "y = Mul(x, z)", weights))
    assert (found.verdict, found.kind) == ("certified", "linear")


def test_outputs_whose_number_of_elements_varies_are_left_open() -> None:
    text = "(float[2,4] x) => (int64[2,K] y)"
    found = certify(window(text, "r = Relu(x) y = NonZero(r)", "y = NonZero(x)"))
    assert found.verdict == "open"
    assert found.note == "how many elements it has depends on what they are computed from"


@pytest.mark.parametrize(
    "other",
    [
        np.zeros(3),
        np.zeros((1, 2), np.float32),
        np.array([0, 1], np.float32),
        np.zeros(2, np.int32),
    ],
)
def test_another_type_shape_or_value_differs(other: Array) -> None:
    text = "(float[2] x) => (float[2] y)"
    pair = window(text, "y = Neg(x)", "y = Neg(x)")
    require_equal_bits(pair, np.zeros(2, np.float32), np.zeros(2, np.float32))
    with pytest.raises(Differs):
        require_equal_bits(pair, np.zeros(2, np.float32), other)


def test_what_is_not_a_number_is_far_from_any() -> None:
    one, other = np.array([np.nan, np.nan, np.inf, 1]), np.array([np.nan, 1, np.inf, -np.inf])
    assert distances(one, other)[:3].tolist() == [0, np.inf, 0]
    assert distances(one, other)[3] > 1e300
