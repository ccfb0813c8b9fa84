"""Two tools that fold in float32 round weights several times: certificates show that it is that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.proof.verdict import beyond_truth, is_narrow
from bnfold.record.data import Equivalence, ProviderEquivalence, Truth, TruthOutput
from bnfold.report.notes import narrow_note
from bnfold.workflow import certified
from tests.support.checks import compared
from tests.support.graphs import build, draw_feeds, normal
from tests.support.networks import NETWORKS, wrong_by


def prepared(seed: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a Conv of images less 128, and the same with that in its bias, by float32 sums."""
    weight, bias = normal(4, 3, 3, 3, seed=seed) / 5, normal(4, seed=seed + 1)
    interface = "(uint8[N,3,H,W] x) => (float[N,4,h,w] y)"
    middle = np.array(128, np.float32)
    one = build(
        f"{interface} {{ f = Cast<to=1>(x) c = Sub(f, m) y = Conv(c, k, b) }}",
        m=middle, k=weight, b=bias,
    )  # fmt: skip
    folded = bias - middle * weight.sum(axis=(1, 2, 3), dtype=np.float32)
    other = build(f"{interface} {{ f = Cast<to=1>(x) y = Conv(f, k, b) }}", k=weight, b=folded)
    return one, other


def test_a_fold_in_float32_passes_if_it_is_proven() -> None:
    narrow = 0
    for seed in range(4):
        pair = prepared(seed)
        found = compared(*pair)
        assert found.verdict == "pass"
        assert not found.reason
        (provider,) = found.providers
        assert bool(narrow_note(provider)) == provider.narrow
        narrow += provider.narrow
        alone = compared(*pair, certify="off")
        assert alone.verdict == ("fail" if provider.narrow else "pass")
        assert not alone.providers[0].narrow
    assert narrow


def test_what_is_off_by_more_than_rounding_fails() -> None:
    one, other = prepared(0)
    (bias,) = (each for each in other.graph.initializer if each.name == "b")
    content = onnx.numpy_helper.to_array(bias) * np.float32(1 + 2e-6)
    bias.CopyFrom(onnx.numpy_helper.from_array(content, "b"))
    assert compared(one, other).verdict == "fail"


def test_a_channel_that_is_off_by_twice_the_noise_is_no_rounding() -> None:
    """Certificates show that it is close, but not as close as that."""
    model = NETWORKS["deep"](0, 0.1)
    drawn = draw_feeds(model, sizes={"N": 17, "H": 12, "W": 12}).items()
    feeds = {name: np.asarray(value / 3, np.float32) for name, value in drawn}
    wrong = wrong_by(model, "channel", 2.0, feeds, 0)
    assert wrong is not None
    found = compared(model, wrong)
    assert found.verdict == "fail"
    assert certified.may_be_narrow(found)
    assert found.certificate is not None
    assert not found.certificate.open


def test_the_bound_of_the_certificate_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = next(s for s in range(4) if compared(*prepared(s)).providers[0].narrow)
    monkeypatch.setattr(certified, "_CLOSE", -1.0)
    assert compared(*prepared(seed)).verdict == "fail"


def provider(**changes: Any) -> ProviderEquivalence:
    """Return a narrow failure, changed."""
    output = TruthOutput("y", "float32", 1e-7, 1e-7, 1e-7, 1e-7, 1e-6, "float32", 1.5, "[0]")
    output = replace(output, **changes)
    truth = Truth(3, "", [output])
    return ProviderEquivalence("cpu", "fail", beyond_truth(truth), [], [], [], truth=truth)


def test_what_is_a_narrow_failure() -> None:
    assert is_narrow(provider())
    assert is_narrow(provider(ratio=2.9))
    assert not is_narrow(provider(ratio=3.1))
    assert not is_narrow(provider(ratio=1.0))
    assert not is_narrow(provider(optimized=1e-5))
    assert not is_narrow(replace(provider(), reason="another output has another shape"))
    assert not is_narrow(replace(provider(), truth=None))
    assert not is_narrow(replace(provider(), verdict="pass"))


def test_a_second_provider_that_fails_otherwise_counts() -> None:
    other = replace(provider(), provider="cuda", reason="other")
    both = Equivalence("fail", "why", [provider(), other], None)
    assert not certified.may_be_narrow(both)
    assert certified.may_be_narrow(replace(both, providers=[provider(), provider()]))
    assert not certified.may_be_narrow(replace(both, verdict="pass", providers=[provider()]))
