"""Writing files atomically: permissions, links, interruptions and full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.atomic import AtomicFile, shared_permissions, write_text
from bnfold.errors import INTERNAL_ERROR
from tests.support.cli import REWRITTEN, UNCHANGED, names, run, untouched
from tests.support.files import logits, raising, save_external
from tests.support.files import scratch as scratch
from tests.support.graphs import operators

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model that has something to rewrite."""
    return Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))


# --- The output -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--no-check"]])
def test_nothing_but_the_output_is_left(model: Path, options: list[str]) -> None:
    before = untouched(model)
    assert run("optimize", model, model.with_name("out.onnx"), *options).code == 0
    assert names(model.parent) == {"m.onnx", "out.onnx"}
    assert untouched(model) == before


def test_in_place_the_model_is_replaced(model: Path) -> None:
    expected = logits(model)
    assert run("optimize", model, model).code == 0
    assert names(model.parent) == {"m.onnx"}
    assert "BatchNormalization" not in operators(onnx.load(model))
    np.testing.assert_allclose(logits(model), expected, rtol=1e-4, atol=1e-3)


def test_in_place_another_name_of_the_same_file_keeps_the_original(model: Path) -> None:
    twin = model.with_name("twin.onnx")
    os.link(model, twin)
    assert run("optimize", model, model).code == 0
    assert twin.read_bytes() == REWRITTEN.read_bytes() != model.read_bytes()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_a_link(model: Path, exists: bool) -> None:
    (model.parent / "elsewhere").mkdir()
    target, link = model.parent / "elsewhere" / "target.onnx", model.with_name("link.onnx")
    link.symlink_to(target)
    if exists:
        target.write_bytes(b"old")
    assert run("optimize", model, link).code == 0
    assert link.is_symlink()
    assert not target.is_symlink()
    assert "BatchNormalization" not in operators(onnx.load(target))
    assert names(target.parent) == {"target.onnx"}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o604])
def test_an_existing_output_keeps_its_permissions(model: Path, mode: int) -> None:
    output = model.with_name("out.onnx")
    for path in (output, model):
        path.touch()
        path.chmod(mode)
        assert run("optimize", model, path).code == 0
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_new_files_get_the_permissions_of_any_new_file(model: Path, mask: int, mode: int) -> None:
    external = save_external(model.parent / "external")
    external.with_name("m.data").chmod(0o644)  # onnx saves data for their owner alone
    before = names(external.parent)
    old = os.umask(mask)
    try:
        report = model.with_name("run.json")
        codes = [
            run("optimize", model, model.with_name("out.onnx"), "--report", report).code,
            run("optimize", external, external.with_name("out.onnx")).code,
        ]
        assert os.umask(mask) == mask
    finally:
        os.umask(old)
    assert codes == [0, 0]
    new = [model.with_name("out.onnx"), report]
    new += [external.parent / name for name in names(external.parent) - before]
    assert len(new) == 4
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in new} == {
        path.name: mode for path in new
    }


@pytest.mark.parametrize(
    ("modes", "mode"),
    [
        ((0o600, 0o644), 0o600),
        ((0o644, 0o600), 0o600),
        ((0o640, 0o644), 0o640),
        ((0o755, 0o755), 0o644),
        ((0o444, 0o444), 0o644),
        ((0o604, 0o640), 0o600),
    ],
)
@pytest.mark.parametrize("external", ["auto", "never"])
def test_who_may_not_read_the_model_may_not_read_the_output(
    tmp_path: Path, modes: tuple[int, int], mode: int, external: str
) -> None:
    model = save_external(tmp_path)
    before = names(tmp_path)
    for path, given in zip((model, model.with_name("m.data")), modes, strict=True):
        path.chmod(given)
    old = os.umask(0o022)
    try:
        options = ("--no-check", "--no-bench", "--external-data", external)
        assert run("optimize", model, tmp_path / "out.onnx", *options).code == 0
    finally:
        os.umask(old)
    new = [tmp_path / name for name in names(tmp_path) - before]
    assert len(new) == (2 if external == "auto" else 1)
    assert {stat.S_IMODE(path.stat().st_mode) for path in new} == {mode}


def test_what_cannot_be_looked_at_is_private(tmp_path: Path) -> None:
    assert shared_permissions([]) == 0o666
    assert shared_permissions([tmp_path / "none"]) == 0o600


def test_a_link_that_leads_to_itself_is_no_place_for_a_file(model: Path) -> None:
    loop, folder, report = (model.with_name(name) for name in ("loop.onnx", "folder", "loop.md"))
    for link in (loop, folder, report):
        link.symlink_to(link)
    run("optimize", model, loop).failed(2, "cannot be written")
    run("optimize", model, folder / "out.onnx").failed(2, "cannot be written")
    run("optimize", model, "--report", report).failed(2, "cannot be written")


def test_a_pipe_is_no_place_for_a_model(model: Path) -> None:
    os.mkfifo(model.with_name("pipe"))
    run("optimize", model, model.with_name("pipe")).failed(2, "is not a regular file")
    assert names(model.parent) == {"m.onnx", "pipe"}


# --- Interruptions --------------------------------------------------------------------------------

POINTS = [
    "bnfold.proof.equivalence.compare_models",
    "bnfold.workflow.variants.run_passes",
    "bnfold.atomic.overwrite",
    "bnfold.modelfile.layout.serialize",
    "bnfold.atomic.joined",
    "os.replace",
]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("place", ["m.onnx", "old.onnx", "new.onnx"])
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_an_interruption_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, place: str, external: bool
) -> None:
    model = (
        save_external(tmp_path) if external else Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))
    )
    (tmp_path / "old.onnx").write_bytes(b"old")
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(point, raising(KeyboardInterrupt()))
        outcome = run("optimize", model, tmp_path / place)
    assert outcome.code not in (0, 1)
    assert "Traceback" not in outcome.err
    assert {path: untouched(path) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("point", ["os.fsync", "os.replace", "bnfold.atomic.create_file"])
@pytest.mark.parametrize("sample", [REWRITTEN, UNCHANGED], ids=["rewritten", "copied"])
def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, sample: Path
) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"old")
    before = untouched(output)
    with monkeypatch.context() as patch:
        patch.setattr(point, raising(DISK_FULL))
        outcome = run("optimize", sample, output)
    outcome.failed(2, str(output), "cannot be written", "No space left on device")
    assert untouched(output) == before
    assert names(tmp_path) == {"out.onnx"}


@pytest.mark.parametrize("point", ["os.fsync", "os.replace", "bnfold.atomic.overwrite"])
def test_a_disk_too_full_for_external_data_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    model = save_external(tmp_path)
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(point, raising(DISK_FULL))
        outcome = run("optimize", model, model)
    outcome.failed(2, "cannot be written", "No space left on device")
    assert {path: untouched(path) for path in tmp_path.iterdir()} == before


def test_running_out_of_memory_is_told_in_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bnfold.proof.equivalence.compare_models", raising(MemoryError()))
        run("optimize", model, model).failed(INTERNAL_ERROR, "out of memory")
    assert model.read_bytes() == REWRITTEN.read_bytes()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_termination_cleans_up(model: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = getattr(signal, name)
    before_test = signal.signal(number, signal.SIG_DFL)  # ignored, if the tests run under nohup

    def terminate(*_: object, **__: object) -> None:
        assert callable(signal.getsignal(number))
        signal.raise_signal(number)

    before = untouched(model)
    monkeypatch.setattr("bnfold.proof.equivalence.compare_models", terminate)
    try:
        assert run("optimize", model, model).code == 128 + number
    finally:
        signal.signal(number, before_test)
    assert untouched(model) == before
    assert names(model.parent) == {"m.onnx"}


def test_who_asks_for_it_outlives_the_terminal(model: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert run("optimize", model, model, "--no-check", "--no-bench").code == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


KILLED = """
import sys
import bnfold.cli.main, bnfold.proof.equivalence

def wait(*_, **__):
    print("checking", flush=True)
    sys.stdin.read()

bnfold.proof.equivalence.compare_models = wait
sys.argv = ["bnfold", "optimize", sys.argv[1], sys.argv[1]]
bnfold.cli.main.main()
"""


def test_a_process_killed_during_the_check_has_written_nothing(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = untouched(model)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(model)],
        env={**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("killed"))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "checking\n"
    finally:
        process.kill()
        process.communicate(timeout=60)
        watchdog.cancel()
    assert process.returncode == -signal.SIGKILL
    assert untouched(model) == before
    assert run("optimize", model, model).code == 0


# --- A staged file --------------------------------------------------------------------------------


def test_a_staged_file_appears_when_committed(tmp_path: Path) -> None:
    place = tmp_path / "file"
    with AtomicFile(place) as staged:
        staged.write(b"new")
        assert not place.exists()
        assert staged.path.parent == tmp_path
        staged.commit()
    assert place.read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


def test_a_staged_file_that_is_not_committed_is_gone(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"old")
    with AtomicFile(place) as staged:
        staged.write(b"new")
    assert place.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_only_what_replaces_a_file_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    model = save_external(tmp_path) if external else REWRITTEN
    output = tmp_path / "out.onnx"
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    for files in (0, 2 if external else 1):
        synced.clear()
        assert run("optimize", model, output, "--no-check", "--no-bench").code == 0
        assert len(synced) == files


def test_a_file_staged_again_is_as_long_as_it_was_last(tmp_path: Path) -> None:
    place = tmp_path / "file"
    with AtomicFile(place, hashed=True) as staged:
        staged.write(b"longer than the second")
        staged.write(b"second")
        staged.commit()
    assert place.read_bytes() == b"second"
    assert staged.sha256 == hashlib.sha256(b"second").hexdigest()


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    place = tmp_path / ("n" * 250)
    write_text(place, "α")
    assert place.read_bytes() == "α".encode()
    assert names(tmp_path) == {place.name}
