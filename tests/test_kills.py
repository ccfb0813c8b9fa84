"""A process that is killed, with nobody to clean up, leaves whole files: old ones, or new ones."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import REWRITTEN, run
from tests.support.files import logits, save_external

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks this process")

QUICK = ("--no-check", "--no-bench")
CHANGES = {
    "open",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
}
"""Audit events of calls that change what is on disk; of "open", those that may write."""


def inline(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """Return a model, where it goes to, and options: onto another model."""
    shutil.copy(REWRITTEN, folder / "old.onnx")
    return REWRITTEN, folder / "old.onnx", ()


def in_place(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """Return a model that is replaced."""
    _, output, options = inline(folder)
    return output, output, options


def external(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """Return a model with external data that is replaced."""
    model = save_external(folder)
    return model, model, ()


def named(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """Return a model that replaces another, whose data file has the name of its own."""
    options = ("--external-data", "always", "--external-data-name", "w.data")
    place = folder / "out.onnx"
    assert run("optimize", REWRITTEN, place, *QUICK, *options, "--only", "fold-pad").code == 0
    return REWRITTEN, place, options


KINDS = [inline, in_place, external, named]
Kind = Callable[[Path], tuple[Path, Path, tuple[str, ...]]]


def require_whole(output: Path, expected: np.ndarray) -> None:
    """Assert that the model at this place is whole, with the data that belong to it.

    Two files cannot be replaced at once. Where a data file of the same name is replaced, the old
    one keeps a second name until the model has followed.
    """
    whole = _fits(output, expected)
    for kept in output.parent.glob(".*.old"):
        (data,) = output.parent.glob("*.data")
        os.replace(kept, data)
        whole |= _fits(output, expected)
    assert whole


def _fits(output: Path, expected: np.ndarray) -> bool:
    try:
        return np.allclose(logits(output), expected, rtol=1e-4, atol=1e-3)
    except Exception:  # of weights that are not this model's
        return False


def fresh(folder: Path) -> Path:
    """Make a folder."""
    folder.mkdir()
    return folder


def killed_by_itself(number: int, arguments: tuple[str | Path, ...]) -> int:
    """Run the command in a fork that is killed at its n-th change of files; return its status."""
    child = os.fork()
    if child == 0:
        left = number

        def audit(event: str, args: tuple[object, ...]) -> None:
            nonlocal left
            if event in CHANGES and (event != "open" or _may_write(args)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        os._exit(run(*arguments).code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _may_write(args: tuple[object, ...]) -> bool:
    place, flags = str(args[0]), int(str(args[2]))
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and not place.startswith("/dev/")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind is in_place else pytest.mark.slow) for kind in KINDS],
)
def test_a_kill_before_each_change_of_files(tmp_path: Path, kind: Kind) -> None:
    expected = logits(REWRITTEN)
    for number in range(1, 100):
        model, output, options = kind(fresh(tmp_path / str(number)))
        code = killed_by_itself(number, ("optimize", model, output, *QUICK, *options))
        require_whole(output, expected)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert 3 < number < 99


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_random_moments(tmp_path: Path, kind: Kind) -> None:
    expected, generator = logits(REWRITTEN), random.Random(0)
    killed, longest = 0, 1.0
    for number in range(200):
        model, output, options = kind(fresh(tmp_path / str(number)))
        pause = generator.uniform(0, longest)
        child = os.fork()
        if child == 0:
            os._exit(run("optimize", model, output, *QUICK, *options).code)
        time.sleep(pause)
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        require_whole(output, expected)
        if code == 0:  # It had ended by then: no longer pause kills one.
            longest = pause
        else:
            assert code == -signal.SIGKILL
            killed += 1
        if killed == 12:
            break
    assert killed == 12
