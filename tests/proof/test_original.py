"""Samples that a model does not run on are replaced by others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.errors import SessionError
from bnfold.options import ExecutionOptions, InputOptions
from bnfold.progress import silent
from bnfold.proof.original import Original
from bnfold.proof.traits import Traits
from bnfold.record.data import Equivalence
from bnfold.running.input_search import make_inputs
from bnfold.running.runtime import Feeds, Level, Session
from tests.support.checks import compared
from tests.support.graphs import Parameters, build


def limited(least: float, factor: float = 2.0) -> onnx.ModelProto:
    """Return a model that ends in an error where the mean of its input is below a number."""
    return build(
        "(float[N,50] x) => (float[N,50] y) { m = ReduceMean(x) l = Less(m, least) "
        "i = Cast<to=7>(l) r = Gather(table, i) y = Mul(x, r) }",
        least=np.array(least, np.float32),
        table=np.array([factor], np.float32),
    )


def check(one: onnx.ModelProto, other: onnx.ModelProto) -> Equivalence:
    return compared(one, other, certify="off")


def test_a_sample_that_a_model_does_not_run_on_is_replaced() -> None:
    found = check(limited(-1.0), limited(-1.0))
    assert found.verdict == "pass"
    assert found.inputs is not None
    assert found.inputs.samples == len(found.inputs.shapes) == 32
    assert check(limited(-1.0), limited(-1.0, 2.01)).verdict == "fail"


@pytest.mark.parametrize(
    ("fails", "runs"),
    [
        (set(), 3),
        ({1}, 4),
        (set(range(1, 17)), 19),
        (set(range(1, 18)), None),
        ({0}, None),
        ({1, 3}, 5),
    ],
)
def test_a_few_draws_are_tried_for_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: set[int], runs: int | None
) -> None:
    onnx.save(limited(-100.0), tmp_path / "m.onnx")
    traits = Traits.of(tmp_path / "m.onnx")
    original = Original(tmp_path / "m.onnx", traits, "cpu", ExecutionOptions(), silent)
    session = Session(tmp_path / "m.onnx", "cpu", Level.DISABLED)
    original.inputs = make_inputs(session, InputOptions())
    run, numbers = session.run, itertools.count()

    def seldom(feeds: Feeds) -> dict[str, Any]:
        if next(numbers) in fails:
            raise SessionError("it does not run")
        return run(feeds)

    monkeypatch.setattr(session, "run", seldom)
    if runs is None:
        with pytest.raises(SessionError, match="it does not run"):
            original._on_all_samples(session)
    else:
        assert len(original._on_all_samples(session)) == 3
        assert next(numbers) == runs


def test_the_first_sample_is_replaced_too() -> None:
    """Some models run on few inputs: here, on those of which enough numbers are positive."""
    text = (
        "(float[8] x) => (float[4] y) { p = Greater(x, nought) c = Compress<axis=0>(x, p) "
        "y, i = TopK(c, four) }"
    )
    numbers: Parameters = {"nought": np.array(0, np.float32), "four": np.array([4])}
    reasons = []
    for seed in range(8):
        found = bnfold.check(*[build(text, **numbers)] * 2, certify="off", seed=seed).equivalence
        assert found is not None
        reasons.append((found.verdict, "cannot run the model" in found.reason))
    assert ("pass", False) in reasons
    assert reasons.count(("not-verified", True)) <= 1


def test_another_draw_takes_the_place_of_a_sample(tmp_path: Path) -> None:
    onnx.save(limited(-100.0), tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", "cpu", Level.DISABLED)
    first = make_inputs(session, InputOptions())
    second = first.with_another(1)
    third = second.with_another(1)
    fourth = third.with_another(2)
    samples = [list(each.feeds()) for each in (first, second, third, fourth)]
    contents = [[feeds["x"].tobytes() for feeds in each] for each in samples]
    assert [a == b for a, b in zip(contents[0], contents[1], strict=True)] == [True, False, True]
    assert len({each[1] for each in contents[:3]}) == 3
    assert [a == b for a, b in zip(contents[2], contents[3], strict=True)] == [True, True, False]
    assert contents[3][2] not in {each for every in contents[:3] for each in every}
