"""Files: what is refused, what is written, and that all else stays as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.atomic import AtomicFile, write_text
from bnfold.cli.main import INTERNAL_ERROR
from bnfold.errors import (
    ModelError,
    NotEquivalentError,
    NotVerifiedError,
    ProviderError,
    UsageError,
)
from bnfold.modelfile.loading import load
from bnfold.modelfile.saving import StagedModel
from bnfold.modelfile.stored import OpenFile
from bnfold.running.runtime import Level, Session
from tests.support.cli import (
    MODELS,
    REWRITTEN,
    UNCHANGED,
    names,
    plant_wrong_pass,
    run,
    untouched,
)
from tests.support.graphs import Parameters, batch_norm, build, normal, operators

SAMPLES = sorted(MODELS.glob("*.onnx"))
DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let temporary folders be made where nothing else is, and assert that none remains."""
    folder = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder
    assert names(folder) == set()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model in which there is something to rewrite."""
    return Path(shutil.copy(REWRITTEN, tmp_path / "m.onnx"))


def small() -> onnx.ModelProto:
    return build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )


def save_external(folder: Path, sample: Path = REWRITTEN) -> Path:
    """Save a sample with all of its weights in the file m.data beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    onnx.save_model(
        onnx.load(sample), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    return path


def locations(path: Path) -> set[str]:
    proto = onnx.load(path, load_external_data=False)
    return {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }


def logits(path: Path) -> np.ndarray[Any, Any]:
    with np.load(MODELS / "digits.npz") as digits:
        feeds = {"images": digits["images"][:20]}
    result: np.ndarray[Any, Any] = Session(path, "cpu", Level.DISABLED).run(feeds)["logits"]
    return result


# --- Models that cannot be read -----------------------------------------------------------------


def with_sparse_weight() -> onnx.ModelProto:
    model = build("(float[4] x) => (float[4] y) { y = Add(x, w) }")
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


def with_training() -> onnx.ModelProto:
    model = small()
    model.training_info.add().algorithm.name = "step"
    return model


def from_the_future() -> onnx.ModelProto:
    model = small()
    model.ir_version = onnx.IR_VERSION + 1
    return model


def without_opset() -> onnx.ModelProto:
    model = small()
    del model.opset_import[:]
    return model


INVALID: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "sparse": (with_sparse_weight, ["sparse initializers", "does not support"]),
    "training": (with_training, ["training information", "does not support"]),
    "future": (from_the_future, [f"IR version {onnx.IR_VERSION + 1}", "upgrade onnx"]),
    "no opset": (without_opset, ["imports no operator set"]),
    "cycle": (
        lambda: build("(float[4] x) => (float[4] y) { a = Add(x, b) b = Neg(a) y = Neg(b) }"),
        ["cycle"],
    ),
    "undefined": (
        lambda: build("(float[4] x) => (float[4] y) { y = Add(x, nothing) }"),
        ["Add", "reads 'nothing', which nothing computes"],
    ),
    "undefined output": (
        lambda: build("(float[4] x) => (float[4] y) { z = Neg(x) }"),
        ["an output reads 'y', which nothing computes"],
    ),
    "defined twice": (
        lambda: build("(float[4] x) => (float[4] y) { a = Neg(x) a = Abs(x) y = Neg(a) }"),
        ["not a valid ONNX model", "'a'"],
    ),
    "no output": (lambda: build("(float[4] x) => () { y = Neg(x) }"), ["no graph with outputs"]),
    "empty": (onnx.ModelProto, ["is empty"]),
}


@pytest.mark.parametrize("command", ["optimize", "explain"])
@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_model_is_told_in_one_line(tmp_path: Path, case: str, command: str) -> None:
    make, words = INVALID[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(make().SerializeToString())
    outcome = run(command, path, "--json")
    outcome.failed(3, str(path), *words)
    assert outcome.out == ""
    assert names(tmp_path) == {"m.onnx"}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_model_in_memory_is_refused_likewise(case: str) -> None:
    make, words = INVALID[case]
    with pytest.raises(ModelError) as raised:
        bnfold.optimize(make())
    assert not [word for word in words if word not in str(raised.value)]


@pytest.mark.parametrize("command", ["optimize", "explain", "check"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\x00" * 100, "is not an ONNX model"),
        (b"\xff\xfe\xfd" * 99, "is not an ONNX model"),
        (b"<html>not found</html>\n", "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not an ONNX model"),
        (b"PK\x03\x04" + b"\x00" * 99, "is not an ONNX model"),
    ],
    ids=["missing", "empty", "zeros", "binary", "html", "git-lfs", "zip"],
)
def test_what_is_no_model(tmp_path: Path, command: str, content: bytes | None, words: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    second = [REWRITTEN] if command == "check" else []
    run(command, path, *second).failed(3, str(path), words)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    run("optimize", tmp_path, tmp_path / "out").failed(3, "is a directory", ".onnx file in it")


@pytest.mark.parametrize("share", range(40))
def test_a_truncated_model_is_never_accepted(tmp_path: Path, share: int) -> None:
    """The last lengths leave off but a few bytes."""
    content = small().SerializeToString()
    length = len(content) - 40 + share if share >= 20 else share * len(content) // 20
    path = tmp_path / "m.onnx"
    path.write_bytes(content[:length])
    run("optimize", path, tmp_path / "out.onnx").failed(3, str(path))
    assert names(tmp_path) == {"m.onnx"}


# --- The output ---------------------------------------------------------------------------------


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


def test_a_link_that_leads_to_itself_is_no_place_for_a_file(model: Path) -> None:
    loop, folder = model.with_name("loop.md"), model.with_name("folder")
    loop.symlink_to(loop)
    folder.symlink_to(folder)
    run("optimize", model, loop).failed(2, "cannot be written")
    run("optimize", model, folder / "out.onnx").failed(2, "cannot be written")
    run("optimize", model, "--report", loop).failed(2, "cannot be written")


def test_a_pipe_is_no_place_for_a_model(model: Path) -> None:
    os.mkfifo(model.with_name("pipe"))
    run("optimize", model, model.with_name("pipe")).failed(2, "is not a regular file")
    assert names(model.parent) == {"m.onnx", "pipe"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_same_input_gives_the_same_bytes_and_its_output_stays(
    tmp_path: Path, sample: Path
) -> None:
    places = [tmp_path / name for name in ("first", "second", "again")]
    for source, place in ((sample, places[0]), (sample, places[1]), (places[0], places[2])):
        assert run("optimize", source, place, "--no-check").code == 0
    assert len({place.read_bytes() for place in places}) == 1
    before = untouched(places[0])
    assert run("optimize", places[0], places[0]).code == 0
    assert untouched(places[0]) == before


# --- Interruptions ------------------------------------------------------------------------------

POINTS = [
    "bnfold.proof.equivalence.compare_models",
    "bnfold.workflow.variants.run_passes",
    "bnfold.atomic.overwrite",
    "bnfold.modelfile.layout.serialize",
    "bnfold.atomic.joined",
    "os.replace",
]


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


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


@pytest.mark.parametrize("point", ["os.fsync", "os.replace", "tempfile.mkstemp"])
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

    def terminate(*_: object, **__: object) -> None:
        assert callable(signal.getsignal(number))
        signal.raise_signal(number)

    before = untouched(model)
    monkeypatch.setattr("bnfold.proof.equivalence.compare_models", terminate)
    assert run("optimize", model, model).code == 128 + number
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


# --- A file staged ------------------------------------------------------------------------------


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


# --- External data ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["out.onnx", "m.onnx", "../other/out.onnx"])
def test_external_data_is_written_afresh_beside_the_output(tmp_path: Path, place: str) -> None:
    model = save_external(tmp_path / "given")
    (tmp_path / "other").mkdir()
    data, expected = untouched(model.with_name("m.data")), logits(model)
    output = (model.parent / place).resolve()
    before = names(output.parent)
    assert run("optimize", model, output).code == 0
    assert untouched(model.with_name("m.data")) == data
    (location,) = locations(output)
    assert names(output.parent) - before == {output.name, location} - before
    assert location != "m.data"
    assert location.startswith(output.name)
    assert (output.parent / location).is_file()
    assert "BatchNormalization" not in operators(onnx.load(output))
    np.testing.assert_allclose(logits(output), expected, rtol=1e-4, atol=1e-3)


def test_small_weights_stay_in_the_model_file(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    assert run("optimize", model, tmp_path / "out.onnx").code == 0
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    sizes = {
        bool(tensor.external_data): np.prod(tensor.dims) * 4 for tensor in proto.graph.initializer
    }
    assert set(sizes) == {True, False}
    assert sizes[False] < 1024 <= sizes[True]


@pytest.mark.parametrize("folder", [".", "other"])
def test_small_external_weights_come_into_the_model_file(tmp_path: Path, folder: str) -> None:
    w = normal(8, 8)
    proto = build("(float[N,8] x) => (float[N,8] z) { d = Dropout(x) z = MatMul(d, w) }", w=w)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="d", size_threshold=0)
    (tmp_path / "other").mkdir()
    output = tmp_path / folder / "out.onnx"
    assert run("optimize", path, output).code == 0
    assert locations(output) == set()
    (written,) = onnx.load(output).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(written), w)


SCATTERED: Parameters = {
    name: normal(64, 64, seed=seed) for name, seed in (("u", 1), ("v", 2), ("w", 2))
}


def scatter(folder: Path) -> Path:
    """Save a model with data in two files, one behind a link; two weights share theirs."""
    model = build(
        "(float[N,64] x) => (float[N,64] z) "
        "{ a = MatMul(x, v) b = MatMul(a, w) d = Dropout(b) z = MatMul(d, u) }",
        **SCATTERED,
    )
    u, v, w = model.graph.initializer
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "0").write_bytes(bytes(3) + u.raw_data)
    (folder / "u.data").symlink_to(folder / "blobs" / "0")
    (folder / "v.data").write_bytes(v.raw_data)
    for tensor, location, offset in ((u, "u.data", 3), (v, "v.data", 0), (w, "v.data", 0)):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", 64 * 64 * 4)):
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_scattered_data_is_gathered_and_what_is_shared_stays_shared(tmp_path: Path) -> None:
    model = scatter(tmp_path / "given")
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "out.onnx"
    outcome = run("optimize", model, output, "--json")
    assert outcome.code == 0
    (location,) = locations(output)
    assert outcome.record["output"]["data"] == location
    assert outcome.record["output"]["data_bytes"] == (tmp_path / "other" / location).stat().st_size
    assert outcome.record["output"]["outgrew_one_file"] is False
    proto = onnx.load(output, load_external_data=False)
    offsets = {
        tensor.name: int(entry.value)
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    }
    assert offsets["v"] == offsets["w"] != offsets["u"]
    assert all(offset % 4096 == 0 for offset in offsets.values())
    for tensor in onnx.load(output).graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), SCATTERED[tensor.name])


def test_constants_with_external_data_go_along(tmp_path: Path) -> None:
    model = scatter(tmp_path / "given")
    proto = onnx.load(model, load_external_data=False)
    (u,) = [each for each in proto.graph.initializer if each.name == "u"]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["u"], value=u))
    proto.graph.initializer.remove(u)
    model.write_bytes(proto.SerializeToString())
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "out.onnx"
    assert run("optimize", model, output, "--no-check").code == 0
    written = onnx.load(output).graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(written), SCATTERED["u"])


def test_weights_too_large_for_one_file_go_beside_it_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnfold.modelfile.model._LARGEST_INLINE", 1000)
    output = tmp_path / "out.onnx"
    outcome = run("optimize", REWRITTEN, output)
    assert outcome.code == 0
    assert "more than one model file may hold" in outcome.out
    (location,) = locations(output)
    assert location in outcome.out
    assert run("optimize", REWRITTEN, output, "--json").record["output"]["outgrew_one_file"] is True
    np.testing.assert_allclose(logits(output), logits(REWRITTEN), rtol=1e-4, atol=1e-3)


def test_a_model_file_that_onnxruntime_cannot_read_is_checked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past 2 GiB, protobuf does not parse it, and so onnxruntime does not."""
    size = REWRITTEN.stat().st_size
    monkeypatch.setattr("bnfold.modelfile.model._LARGEST_INLINE", 1000)
    monkeypatch.setattr("bnfold.modelfile.source.LARGEST_MESSAGE", size - 1)
    load_session = Session.__init__

    def load_small(self: Session, path: Path, *rest: Any, **options: Any) -> None:
        assert path.stat().st_size < size
        load_session(self, path, *rest, **options)

    monkeypatch.setattr(Session, "__init__", load_small)
    outcome = run("optimize", REWRITTEN, tmp_path / "out.onnx", "--json")
    assert outcome.code == 0
    assert outcome.record["equivalence"]["verdict"] == "pass"


def test_external_data_is_the_same_each_time_and_stays(tmp_path: Path) -> None:
    model, output = save_external(tmp_path), tmp_path / "out.onnx"
    assert run("optimize", model, output).code == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run("optimize", model, output).code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    assert run("optimize", output, output).code == 0
    assert {path: untouched(path) for path in tmp_path.iterdir()} == before


def test_external_data_of_a_model_without_rewrites_is_shared_in_its_folder(tmp_path: Path) -> None:
    model = save_external(tmp_path, UNCHANGED)
    assert run("optimize", model, tmp_path / "out.onnx").code == 0
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()
    assert names(tmp_path) == {"m.onnx", "m.data", "out.onnx"}


def test_external_data_of_a_model_without_rewrites_goes_along_to_another_folder(
    tmp_path: Path,
) -> None:
    model, output = save_external(tmp_path / "given", UNCHANGED), tmp_path / "other" / "out.onnx"
    output.parent.mkdir()
    outcome = run("optimize", model, output, "--json")
    assert outcome.code == 0
    assert outcome.record["equivalence"]["verdict"] == "identical"
    (location,) = locations(output)
    assert names(output.parent) == {"out.onnx", location}
    given, written = (
        {each.name: each.raw_data for each in onnx.load(path).graph.initializer}
        for path in (model, output)
    )
    assert given == written


def test_a_wrong_rewrite_leaves_no_data_behind(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    with plant_wrong_pass():
        for place in (model, tmp_path / "out.onnx"):
            run("optimize", model, place).failed(1, "not equivalent")
    assert {path: untouched(path) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["u.data", "blobs/0"])
def test_the_data_of_the_model_is_no_place_for_the_output(tmp_path: Path, name: str) -> None:
    model = scatter(tmp_path)
    before = untouched(model), untouched(tmp_path / name)
    run("optimize", model, tmp_path / name).failed(2, name, "holds weights of the model")
    assert (untouched(model), untouched(tmp_path / name)) == before


def test_a_run_that_fails_leaves_the_same_data_of_another_run(tmp_path: Path) -> None:
    model, output = save_external(tmp_path), tmp_path / "out.onnx"
    with StagedModel(output) as failing:
        failing.write_model(load(model))
        with StagedModel(output) as staged:
            staged.write_model(load(model))
            staged.commit()
    onnx.load(output)
    assert names(tmp_path) == {"m.onnx", *locations(model), "out.onnx", *locations(output)}


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such names")
def test_data_cannot_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    model, output = save_external(tmp_path), tmp_path / os.fsdecode(b"\xff.onnx")
    before = names(tmp_path)
    run("optimize", model, output).failed(2, "no name in UTF-8")
    assert names(tmp_path) == before


def test_explain_reads_external_data_where_it_lies(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    inline, external = (run("explain", path, "--json").record for path in (REWRITTEN, model))
    assert inline["rewrites"] == external["rewrites"]
    assert external["rewrites"]


def remove(model: Path) -> None:
    model.with_name("m.data").unlink()


def truncate(model: Path) -> None:
    data = model.with_name("m.data")
    os.truncate(data, data.stat().st_size - 1)


def empty(model: Path) -> None:
    os.truncate(model.with_name("m.data"), 0)


def relocate(model: Path, location: str) -> None:
    """Move the data next to the model's folder, and let the model say where, by this name."""
    shutil.move(model.with_name("m.data"), model.parent.parent / "m.data")
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    model.write_bytes(proto.SerializeToString())


def link_to_itself(model: Path) -> None:
    data = model.with_name("m.data")
    data.unlink()
    data.symlink_to(data)


def link_twice(model: Path) -> None:
    model.with_name("other.data").hardlink_to(model.with_name("m.data"))


def link_outside(model: Path) -> None:
    relocate(model, "m.data")
    model.with_name("m.data").symlink_to(model.parent.parent / "m.data")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "'m.data', which does not exist"),
        (truncate, "'m.data' is truncated"),
        (empty, "'m.data' is truncated"),
        (lambda model: relocate(model, "../m.data"), "data outside its folder, at '../m.data'"),
        (
            lambda model: relocate(model, str(model.parent.parent / "m.data")),
            "data outside its folder, at '/",
        ),
        (link_outside, "data outside its folder, at 'm.data'"),
        (link_twice, "'m.data', which has several hard links"),
        (link_to_itself, "'m.data', which cannot be opened: "),
        (lambda model: relocate(model, "a\0b"), "'a\\x00b', which cannot be opened: "),
        (lambda model: relocate(model, "a" * 5000), "cannot be opened: File name too long"),
        (lambda model: relocate(model, "."), "'.', which is not a file"),
        (lambda model: relocate(model, "m.onnx/data"), "'m.onnx/data', which does not exist"),
    ],
    ids=[
        *("missing", "truncated", "empty", "outside", "absolute", "link", "hard link", "loop"),
        *("NUL", "long", "folder", "below a file"),
    ],
)
def test_external_data_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    model = save_external(tmp_path / "given")
    damage(model)
    before = names(model.parent)
    run("optimize", model, model.with_name("out.onnx")).failed(3, str(model), words)
    run("explain", model).failed(3, str(model), words)
    assert names(model.parent) == before


# --- What stays in the model --------------------------------------------------------------------

KEPT_FIELDS = (
    "producer_name",
    "producer_version",
    "domain",
    "model_version",
    "doc_string",
    "ir_version",
    "opset_import",
)


def described_model() -> onnx.ModelProto:
    """Return a model with all that a file may say beside what is computed."""
    model = onnx.parser.parse_model("""
        <
            ir_version: 9, opset_import: ["" : 17, "local" : 1, "unused" : 3],
            producer_name: "maker", producer_version: "1.2", domain: "org.example",
            model_version: 7, doc_string: "what it is for",
            metadata_props: ["license" : "Apache-2.0", "classes" : "cat,dog"]
        >
        graph (float[batch, 3, height, 8] x) => (float[batch, 4, out_height, 6] z, float[?] t)
        {
            y = Conv(x, w)
            z = BatchNormalization(y, s, b, m, v)
            flat = Reshape(x, minus_one)
            t = local.Twice(flat)
        }
        <domain: "local", opset_import: ["" : 17]>
        Twice (a) => (c) { c = Add(a, a) }
    """)
    for name, content in {
        "w": normal(4, 3, 3, 3),
        "minus_one": np.array([-1]),
        **batch_norm(4),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    model.graph.doc_string = "the graph"
    model.graph.node[0].doc_string = "the convolution"
    model.graph.node[2].doc_string = "the reshape"
    model.graph.input[0].doc_string = "an image"
    model.graph.output[0].doc_string = "features"
    return model


def test_all_that_is_said_about_the_model_is_kept() -> None:
    model = described_model()
    result = bnfold.optimize(model)
    optimized = result.to_proto()
    assert [each.pass_name for each in result.record.rewrites] == ["fold-batchnorm"]
    for field in KEPT_FIELDS:
        assert getattr(optimized, field) == getattr(model, field), field
    assert {each.key: each.value for each in optimized.metadata_props} == {
        each.key: each.value for each in model.metadata_props
    }
    for field in ("name", "doc_string", "input", "output"):
        assert getattr(optimized.graph, field) == getattr(model.graph, field), field
    documented = {node.op_type: node.doc_string for node in optimized.graph.node}
    assert documented["Conv"] == "the convolution"
    assert documented["Reshape"] == "the reshape"
    (function,) = optimized.functions
    assert (function.domain, function.name) == ("local", "Twice")
    assert [node.op_type for node in function.node] == ["Add"]
    onnx.checker.check_model(optimized, full_check=True)


@pytest.mark.parametrize("has_rewrite", [True, False])
def test_ir_version_3_becomes_4_only_where_something_is_folded(
    tmp_path: Path, has_rewrite: bool
) -> None:
    graph = "(float[N,3,8,8] x) => (float[N,4,6,6] z) { y = Conv(x, w) z = "
    graph += "BatchNormalization(y, s, b, m, v) }" if has_rewrite else "Relu(y) }"
    parameters = batch_norm(4) if has_rewrite else {}
    model = build(graph, opset=9, ir_version=3, w=normal(4, 3, 3, 3), **parameters)
    onnx.save(model, tmp_path / "m.onnx")
    assert run("optimize", tmp_path / "m.onnx", tmp_path / "out.onnx").code == 0
    optimized = onnx.load(tmp_path / "out.onnx")
    assert optimized.ir_version == (4 if has_rewrite else 3)
    assert [each.name for each in optimized.graph.input] == (["x"] if has_rewrite else ["x", "w"])
    assert optimized.opset_import == model.opset_import
    onnx.checker.check_model(optimized, full_check=True)


@pytest.mark.parametrize("described", [True, False])
def test_values_are_described_where_the_file_described_them(described: bool) -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] q) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) r = Relu(z) q = Neg(r) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    if described:
        shape: list[str | int | None] = ["N", 4, 6, 6]
        info = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, shape, "the positive")
        model.graph.value_info.append(info)
    optimized = bnfold.optimize(model).to_proto()
    assert list(optimized.graph.value_info) == list(model.graph.value_info)


# --- From Python --------------------------------------------------------------------------------


def test_a_model_in_memory_is_not_changed() -> None:
    model = onnx.load(REWRITTEN)
    before = model.SerializeToString(deterministic=True)
    result = bnfold.optimize(model)
    assert model.SerializeToString(deterministic=True) == before
    assert isinstance(result, bnfold.Result)
    assert isinstance(result.to_proto(), onnx.ModelProto)
    assert result.record.rewrites
    assert result.record.model.sha256 == hashlib.sha256(before).hexdigest()


def test_a_result_gives_a_model_of_its_own_at_each_call() -> None:
    result = bnfold.optimize(REWRITTEN)
    first = result.to_proto()
    first.graph.ClearField("node")
    assert len(result.to_proto().graph.node) > 0


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="the system cannot fork, or not read so")
def test_a_file_has_no_position_that_forked_processes_could_share(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(100)))
    file = OpenFile(path)
    buffer = bytearray(5)
    assert file.read(10, 3) == bytes([10, 11, 12])
    file.read_into(40, memoryview(buffer))
    assert bytes(buffer) == bytes(range(40, 45))
    assert os.lseek(file._file.fileno(), 0, os.SEEK_CUR) == 0


@pytest.mark.parametrize("sample", [REWRITTEN, UNCHANGED], ids=["rewritten", "unchanged"])
def test_a_path_and_a_model_in_memory_give_the_same(tmp_path: Path, sample: Path) -> None:
    sources: dict[str, str | Path | onnx.ModelProto] = {
        "path": sample,
        "text": str(sample),
        "memory": onnx.load(sample),
    }
    results = {name: bnfold.optimize(source, tmp_path / name) for name, source in sources.items()}
    for result in results.values():
        assert result.to_proto() == results["path"].to_proto()
        assert result.record.rewrites == results["path"].record.rewrites
        assert result.record.refusals == results["path"].record.refusals
        assert result.record.equivalence == results["path"].record.equivalence
    written = [onnx.load(tmp_path / name) for name in sources]
    assert written == [written[0]] * 3


def test_the_model_returned_is_the_one_written(tmp_path: Path) -> None:
    result = bnfold.optimize(REWRITTEN, tmp_path / "out.onnx")
    assert result.to_proto() == onnx.load(tmp_path / "out.onnx")


def test_the_model_returned_outlives_its_files_unless_one_is_changed(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = bnfold.optimize(onnx.load(REWRITTEN), output, check=False)
    written = onnx.load(output)
    output.rename(tmp_path / "moved.onnx")
    assert result.to_proto() == written
    with (tmp_path / "moved.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"out\.onnx was changed"):
        _ = result.to_proto()


def test_without_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = bnfold.optimize(REWRITTEN).record
    assert names(tmp_path) == set()
    assert record.output is not None
    assert (record.output.written, record.output.path) == (False, None)


def test_the_record_describes_both_files(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    record = bnfold.optimize(REWRITTEN, output).record
    for path, said in ((REWRITTEN, record.model), (output, record.output)):
        assert said is not None
        content, proto = path.read_bytes(), onnx.load(path)
        assert said.sha256 == hashlib.sha256(content).hexdigest()
        assert said.bytes == len(content)
        assert said.nodes == len(proto.graph.node)
        assert sum(said.ops.values()) == said.nodes


def test_hashes_are_left_out_where_nobody_wants_them(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    record = bnfold.optimize(REWRITTEN, output, hashes=False).record
    assert record.output is not None
    assert (record.model.sha256, record.output.sha256) == (None, None)
    assert bnfold.explain(REWRITTEN, hashes=False).model.sha256 is None


def test_reports_have_hashes_and_the_terminal_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--no-check", "--no-bench")
    record = run("optimize", REWRITTEN, tmp_path / "a.onnx", *options, "--json").record
    report = tmp_path / "report.json"
    run("optimize", REWRITTEN, tmp_path / "b.onnx", *options, "--report", report)
    for each in (record, json.loads(report.read_text())):
        for part, path in (("model", REWRITTEN), ("output", tmp_path / "a.onnx")):
            assert each[part]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("hashlib.sha256", raising(AssertionError("nobody wants it")))
    assert run("optimize", REWRITTEN, tmp_path / "c.onnx", *options).code == 0


def test_operators_of_bodies_and_functions_are_counted() -> None:
    model = described_model()
    assert load(model).count_operators() == {
        "Add": 1,
        "BatchNormalization": 1,
        "Conv": 1,
        "Reshape": 1,
        "local.Twice": 1,
    }


def test_a_model_in_memory_may_have_no_external_data(tmp_path: Path) -> None:
    proto = onnx.load(save_external(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="give the path of its file instead"):
        bnfold.optimize(proto)


def test_what_is_not_equivalent_is_raised_with_its_record(tmp_path: Path) -> None:
    with plant_wrong_pass(), pytest.raises(NotEquivalentError) as raised:
        bnfold.optimize(REWRITTEN, tmp_path / "out.onnx")
    assert raised.value.exit_code == 1
    assert raised.value.record is not None
    assert raised.value.record.equivalence is not None
    assert raised.value.record.equivalence.verdict == "fail"
    assert "relu-to-sigmoid" in {each.pass_name for each in raised.value.record.rewrites}
    assert names(tmp_path) == set()


def test_what_is_not_verified_is_raised_with_its_record() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z, float[3] r) { y = Conv(x, w) "
        "z = BatchNormalization(y, s, b, m, v) r = RandomNormal <shape = [3]> () }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    with pytest.raises(NotVerifiedError) as raised:
        bnfold.optimize(model)
    assert raised.value.exit_code == 5
    assert raised.value.record is not None
    assert raised.value.record.output is not None
    assert raised.value.record.output.written is False


@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"passes": bnfold.PassOptions(only=["nope"])}, UsageError, 2),
        ({"passes": bnfold.PassOptions(keep_node="(")}, UsageError, 2),
        ({"output": "missing/folder/out.onnx"}, UsageError, 2),
        ({"providers": "cuda"}, ProviderError, 4),
        ({"providers": ["tpu"]}, UsageError, 2),
        ({"rtol": float("inf")}, UsageError, 2),
    ],
    ids=["pass", "pattern", "output", "provider", "unknown", "anything"],
)
def test_failures_are_exceptions_with_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, options: Any, kind: type[bnfold.BnfoldError], code: int
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(kind) as raised:
        bnfold.optimize(REWRITTEN, **options)
    assert raised.value.exit_code == code
    assert raised.value.record is None


def test_check_takes_models_in_memory_and_paths() -> None:
    for pair in ((onnx.load(REWRITTEN), REWRITTEN), (REWRITTEN, onnx.load(REWRITTEN))):
        record = bnfold.check(*pair)
        assert record.equivalence is not None
        assert record.equivalence.verdict == "pass"


def test_every_name_of_the_package_can_be_imported() -> None:
    assert not [name for name in bnfold.__all__ if getattr(bnfold, name, None) is None]
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = bnfold.nope
