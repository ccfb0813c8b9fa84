"""Where the interface alone keeps weights from being constants, the option's name is told."""

from __future__ import annotations

import onnx
import pytest

import bnfold
from bnfold.rewriting.contract import Common
from bnfold.rewriting.overridable import Why
from tests.support.graphs import batch_norm, build, make_overridable, normal


def conv_and_relu(*overridable: str) -> onnx.ModelProto:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z) { y = Conv(x, w, b) z = Relu(y) }",
        w=normal(4, 3, 3, 3),
        b=normal(4),
    )
    return make_overridable(model, *overridable)


@pytest.mark.parametrize("names", [["w"], ["b"], ["w", "b"]])
def test_weights_that_only_the_runtime_would_prepare(names: list[str]) -> None:
    refusals = bnfold.explain(conv_and_relu(*names)).refusals
    assert [(refusal.site, refusal.reason) for refusal in refusals] == [
        (name, Why.OVERRIDABLE.name) for name in names
    ]
    assert "--freeze-initializers" in refusals[0].remedy


def test_nothing_is_told_of_constants_or_of_what_the_option_has_frozen() -> None:
    assert not bnfold.explain(conv_and_relu()).refusals
    passes = bnfold.PassOptions(freeze_initializers=True)
    assert not bnfold.explain(conv_and_relu("w", "b"), passes=passes).refusals


def test_a_reason_of_a_pass_that_names_the_option_is_enough() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    refusals = bnfold.explain(make_overridable(model, "w")).refusals
    assert [refusal.reason for refusal in refusals] == [Common.WEIGHT_OVERRIDABLE.name]


def test_a_threshold_that_callers_choose_is_no_weight() -> None:
    model = build(
        "(float[N] x, float low) => (float[N] z) { y = Clip(x, low) z = Neg(y) }", low=normal()
    )
    assert not bnfold.explain(model).refusals
