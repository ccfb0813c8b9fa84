"""Right variants of seeded networks pass, and wrong ones fail from three times the noise upward.

`benchmarks/error_rates.py` does this with many more seeds, for the table in the documentation.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

import bnfold
from benchmarks import blocks
from bnfold.proof.original import Original
from tests.support.checks import verdict_and_reason
from tests.support.graphs import draw_feeds
from tests.support.networks import GAINS, NETWORKS, folded_elsewhere, wrong_by
from tests.support.slow import few

SIZES = {"N": 17, "H": 12, "W": 12}
KINDS = ("weight", "channel", "tap")
BORDERS = [("deep", "border"), ("gated", "border")]
CHANGES = [*itertools.product(NETWORKS, KINDS), *BORDERS]
QUICK_CHANGES = [*zip(NETWORKS, itertools.cycle(KINDS)), BORDERS[0]]


def verdict(original: onnx.ModelProto, other: onnx.ModelProto) -> tuple[str, str]:
    return verdict_and_reason(original, other, certify="off", figures=False)


@pytest.mark.parametrize("gain", few(GAINS, [1]))
@pytest.mark.parametrize("kind", NETWORKS)
def test_right_variants_pass(kind: str, gain: float) -> None:
    model = NETWORKS[kind](0, gain)
    folded = bnfold.optimize(model, check=False, figures=False)
    assert folded.record.rewrites or kind in ("recurrent", "attention")
    for other in (folded.to_proto(), folded_elsewhere(model)):
        assert verdict(model, other) == ("pass", "")


@pytest.mark.parametrize(
    ("kind", "change", "gain"),
    few(
        [(*each, gain) for each in CHANGES for gain in GAINS],
        [(*each, 1) for each in QUICK_CHANGES],
    ),
)
def test_wrong_variants_fail(kind: str, change: str, gain: float) -> None:
    model = NETWORKS[kind](0, gain)
    drawn = draw_feeds(model, sizes=SIZES).items()
    feeds = {name: np.asarray(value / 3, np.float32) for name, value in drawn}
    wrong = wrong_by(model, change, 3.0, feeds, seed=0)
    assert wrong is not None
    assert verdict(model, wrong)[0] == "fail"


@pytest.mark.parametrize(
    ("kind", "change", "gain", "seed"),
    [
        ("normalised", "tap", 1.0, 5),
        ("recurrent", "weight", 10.0, 1),
        ("attention", "channel", 10.0, 3),
    ],
)
def test_wrong_variants_that_a_few_samples_let_pass_fail_on_more(
    kind: str, change: str, gain: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their outputs have few values in a channel: more is allowed for chance."""
    model = NETWORKS[kind](seed, gain)
    drawn = draw_feeds(model, seed=seed, sizes=SIZES).items()
    feeds = {name: np.asarray(value / 3, np.float32) for name, value in drawn}
    wrong = wrong_by(model, change, 3.0, feeds, seed)
    assert wrong is not None
    assert verdict(model, wrong)[0] == "fail"
    monkeypatch.setattr(Original, "add_samples", lambda _: False)
    assert verdict(model, wrong)[0] == "pass"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_merged_block_of_many_channels_passes(seed: int) -> None:
    """Of many biases, one is rounded by nearly half a step, and the model is shallow."""
    block = blocks.plain("yolov9_repconvn", channels=64, size=56)
    merged = bnfold.optimize(block, check=False).to_proto()
    equivalence = bnfold.check(block, merged, seed=seed, certify="off").equivalence
    assert equivalence is not None
    assert (equivalence.verdict, equivalence.reason) == ("pass", "")
