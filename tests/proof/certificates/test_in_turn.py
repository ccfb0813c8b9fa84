"""Many windows are proven in the time that there is, side by side, whatever crashes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bnfold.proof.certificates.in_turn import certify_all
from bnfold.proof.certificates.windows import NotShown, Window
from tests.support.windows import BIAS, folded

pytestmark = pytest.mark.usefixtures("without_weights")


def test_all_windows_are_proven_in_turn() -> None:
    def none() -> list[Window]:
        raise NotShown("there is none")

    def broken() -> list[Window]:
        raise StopIteration

    def right() -> list[Window]:
        return [folded()]

    certificates = certify_all([right, none, broken, lambda: [folded(d=-BIAS)]], 60)
    assert [certificate.verdict for certificate in certificates] == [
        "certified",
        "open",
        "open",
        "differs",
    ]
    assert certificates[1].note == "there is none"
    assert certificates[2].note == "its proof failed with StopIteration"
    assert [certificate.verdict for certificate in certify_all([right, right], -1)] == [
        "open",
        "open",
    ]


def test_what_crashes_leaves_the_others_proven() -> None:
    def right() -> list[Window]:
        return [folded()]

    def crash() -> list[Window]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    certificates = certify_all([right, crash, right], 60)
    assert [certificate.verdict for certificate in certificates] == [
        "certified",
        "open",
        "certified",
    ]
    assert "was killed" in certificates[1].note
    certificates = certify_all([crash, right], 1e-9)
    assert [certificate.verdict for certificate in certificates] == ["open", "open"]


@pytest.mark.parametrize("processes", [1, 2, 3, 100])
def test_windows_are_proven_side_by_side(processes: int, tmp_path: Path) -> None:
    """Each process proves a share; one that crashes takes nothing of the others with it."""

    def right() -> list[Window]:
        (tmp_path / str(os.getpid())).touch()
        return [folded()]

    def crash() -> list[Window]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    told: list[str] = []
    windows = [right] * 13
    windows[4], windows[7] = crash, lambda: [folded(d=-BIAS)]
    certificates = certify_all(
        windows, 60, lambda doing: told.append(str(doing)), processes=processes
    )
    wanted = ["certified"] * 13
    wanted[4], wanted[7] = "open", "differs"
    assert [certificate.verdict for certificate in certificates] == wanted
    assert "was killed" in certificates[4].note
    if processes > 1:
        assert "certifying rewrite 13 of 13" in told
    shares = min(processes, 3)
    again = [number for number in range(4 % shares, 13, shares) if number not in (4, 7)]
    assert len(list(tmp_path.iterdir())) == shares + len(again)
