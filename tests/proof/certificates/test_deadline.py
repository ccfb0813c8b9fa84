"""Proofs end when their time does."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from bnfold.proof.certificates import certificate, in_turn
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.deadline import OutOfTime, limited, require_time
from bnfold.proof.certificates.in_turn import certify_all, seconds_for_one
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate
from bnfold.running import isolation
from tests.support.graphs import normal
from tests.support.windows import window

pytestmark = pytest.mark.usefixtures("without_weights")

MAP = "(float[1,{0},{1},{1}] x) => (float[1,c,h,w] y)"


def large() -> Window:
    """Return a window that is no smaller than its map: what varies over it does not shrink."""
    weights = {"g": normal(200, 200), "w": normal(24, 24, 3, 3)}
    body = "a = Mul(x, g) b = Conv(a, w) y = {}(b)"
    text = MAP.format(24, 200)
    return window(text, body.format("Neg"), f"{body.format('Abs')}", weights)


def test_time_is_asked_for() -> None:
    require_time()
    with limited(0):
        time.sleep(1e-3)
        with pytest.raises(OutOfTime, match="more than 0 s"):
            require_time()
        with limited(60):
            require_time()
        with pytest.raises(OutOfTime):
            require_time()
    require_time()


def test_a_proof_ends_soon_after_its_time() -> None:
    begun = time.monotonic()
    found = certify(large(), 0.1)
    assert (found.verdict, "0.1 s" in found.note) == ("open", True)
    assert time.monotonic() - begun < 60  # minutes, if it went on


def test_windows_that_move_elements_and_pools_end_too() -> None:
    for before in ("y = Transpose(x)", "y = MaxPool<kernel_shape=[2,2]>(x)", "y = Sin(x)"):
        text = MAP.format(4, 9)
        pair = window(text, before, f"a = Identity(x) {before.replace('(x)', '(a)')} ")
        after = window(text, before, "a = Neg(x) b = Neg(a) y = Transpose(b)")
        assert certify(Window(pair.before, after.after), 0).verdict == "open"


def test_what_takes_longer_than_others_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn, "_SECONDS_AT_FIRST", 0.0)
    tried: list[str] = []

    def make(name: str) -> Callable[[], list[Window]]:
        def made() -> list[Window]:
            tried.append(name)
            return [window(MAP.format(4, 9), "y = Abs(x)", "a = Neg(x) y = Abs(a)")]

        return made

    monkeypatch.setattr(isolation, "_CAN_FORK", False)
    found = certify_all([make("a"), make("b")], 60)
    assert [each.verdict for each in found] == ["certified", "certified"]
    assert tried == ["a", "b", "a", "b"]


def test_another_way_is_not_tried_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Window] = []

    def late(way: Window) -> Certificate:
        ways.append(way)
        raise OutOfTime("late")

    monkeypatch.setattr(certificate, "_proven", late)
    pair = window(MAP.format(4, 9), "a = Neg(x) y = Sin(a)", "a = Sin(x) y = Neg(a)")
    assert certify(pair, 60).note == "late"
    assert len(ways) == 1


def test_each_of_many_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn, "SECONDS_FOR_A_WINDOW", 0.0)
    pair = window(MAP.format(4, 9), "y = Abs(x)", "a = Neg(x) y = Abs(a)")
    found = certify_all([lambda: [pair], lambda: [pair]], 60)
    assert [each.verdict for each in found] == ["open", "open"]
    assert certify_all([lambda: [pair]], np.inf)[0].verdict == "certified"
    assert (seconds_for_one(-1), seconds_for_one(np.inf)) == (-1, np.inf)
