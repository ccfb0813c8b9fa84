"""Models from standard input and to standard output: `-` in place of a file."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from bnfold import atomic
from tests.support.cli import REWRITTEN, names, plant_wrong_pass, run
from tests.support.files import save_external
from tests.support.files import scratch as scratch
from tests.support.graphs import operators

QUICK = ("--no-check", "--no-bench")
CHECKED = ("--truth", "off", "--certify", "off", "--samples", "1")


def piped(
    monkeypatch: pytest.MonkeyPatch, content: bytes, *arguments: str | Path
) -> tuple[int, bytes, str]:
    """Run the command with this on standard input; return its code, bytes and messages."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    outcome = run(*arguments, encoding="latin-1")
    return outcome.code, outcome.out.encode("latin-1"), outcome.err


@pytest.fixture
def model() -> bytes:
    return REWRITTEN.read_bytes()


@pytest.mark.parametrize("output", [["-"], ["-o", "-"], []])
def test_a_model_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes, output: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "run.json"
    options: list[str | Path] = [*output, *QUICK, "--report", report]
    code, out, err = piped(monkeypatch, model, "optimize", "-", *options)
    assert code == 0, err
    assert run("optimize", REWRITTEN, tmp_path / "file.onnx", *QUICK).code == 0
    assert out == (tmp_path / "file.onnx").read_bytes()
    assert "wrote - (" in err
    record = json.loads(report.read_text())
    assert (record["model"]["path"], record["output"]["path"]) == ("-", "-")
    assert names(tmp_path) == {"file.onnx", "run.json"}


def test_a_real_pipe(tmp_path: Path) -> None:
    """Of processes: standard output has the model, and nothing else."""
    shutil.copy(REWRITTEN, tmp_path / "m.onnx")
    command = f'"{sys.executable}" -m bnfold --no-config'
    quick = "--no-bench --truth off --certify off"
    process = subprocess.run(
        f"{command} optimize - - {quick} <m.onnx | {command} inspect - >said.txt",
        shell=True,
        check=False,
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.returncode == 0, process.stderr
    assert "equivalence: pass" in process.stderr
    said = (tmp_path / "said.txt").read_text()
    assert "Conv" in said
    assert "BatchNormalization" not in said
    assert names(tmp_path) == {"m.onnx", "said.txt"}


def test_every_command_reads_a_model_or_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    report = tmp_path / "run.json"
    for arguments in (
        ("check", "-", REWRITTEN, *CHECKED, "--report", report),
        ("check", REWRITTEN, "-", *CHECKED, "--json"),
        ("bench", "-", REWRITTEN, "--no-memory", "--json"),
        ("bench", REWRITTEN, "-", "--no-memory", "--json"),
        ("explain", "-", "--json"),
        ("inspect", "-", "--json"),
        ("inspect", REWRITTEN, "-", "--json"),
    ):
        code, out, err = piped(monkeypatch, model, *arguments)
        assert code == 0, err
        assert str(tmp_path) not in err
        if "--json" in arguments:
            record = json.loads(out.decode("latin-1"))
            models = [record.get(key) for key in ("model", "candidate", "first", "second")]
            paths = [each.get("path", each.get("model", {}).get("path")) for each in models if each]
            assert "-" in paths
    code, out, err = piped(monkeypatch, report.read_bytes(), "report", "-")
    assert (code, err) == (0, "")
    assert out.startswith(b"#")
    assert b"`-`" in out


def failed(outcome: tuple[int, bytes, str], code: int, *words: str) -> None:
    assert outcome[0] == code, outcome
    assert outcome[1] == b""
    assert outcome[2].count("\n") == 1, outcome[2]
    assert not [word for word in words if word not in outcome[2]], outcome[2]


def test_what_a_pipe_cannot_do_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    def pipe(*arguments: str | Path) -> tuple[int, bytes, str]:
        return piped(monkeypatch, model, *arguments, *(QUICK if "optimize" in arguments else ()))

    failed(pipe("optimize", "-", "-", "--json"), 2, "--json", "--report")
    failed(pipe("optimize", "-", "-", "--external-data", "always"), 2, "external data")
    failed(pipe("optimize", "-", "-", "--external-data-name", "w"), 2, "external data")
    failed(pipe("optimize", "-", "-", "--external-data-threshold", "1"), 2, "external data")
    failed(pipe("optimize", "-", tmp_path), 2, "folder", "name")
    failed(pipe("check", "-", "-"), 2, "standard input", "twice")
    failed(pipe("inspect", "-", "-"), 2, "twice")
    failed(pipe("optimize", "-", "-", "--only", "nope"), 2, "nope")


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 3, ("standard input is empty",)),
        (b"no model at all", 3, ("standard input is not",)),
        (b"version https://git-lfs.github.com/spec/v1", 3, ("standard input is a Git LFS",)),
    ],
)
def test_what_is_no_model_is_said_of_the_stream(
    monkeypatch: pytest.MonkeyPatch, content: bytes, code: int, words: tuple[str, ...]
) -> None:
    for arguments in (("explain", "-"), ("optimize", "-", "-"), ("check", REWRITTEN, "-")):
        failed(piped(monkeypatch, content, *arguments), code, *words)


def test_a_model_whose_data_are_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save_external(tmp_path).read_bytes()
    for arguments in (("explain", "-"), ("optimize", "-", "-", *QUICK)):
        failed(piped(monkeypatch, content, *arguments), 3, "standard input has data at 'm.data'")


def test_external_data_come_into_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_external(tmp_path)
    code, out, err = piped(monkeypatch, b"", "optimize", model, "-", *QUICK)
    assert code == 0, err
    proto = onnx.ModelProto.FromString(out)
    assert not [tensor for tensor in proto.graph.initializer if tensor.external_data]
    assert "BatchNormalization" not in operators(proto)
    assert names(tmp_path) == {"m.onnx", "m.data"}


def test_what_is_rejected_is_not_sent(monkeypatch: pytest.MonkeyPatch, model: bytes) -> None:
    with plant_wrong_pass():
        code, out, err = piped(monkeypatch, model, "optimize", "-", "--no-bench")
    assert (code, out) == (1, b"")
    assert "not equivalent" in err


def test_terminals_and_closed_streams_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    run("explain", "-").failed(2, "standard input is a terminal")
    monkeypatch.setattr(sys, "stdin", None)
    run("explain", "-").failed(2, "standard input is closed")
    monkeypatch.setattr("bnfold.cli.streams.QuietStream.isatty", lambda _: True)
    run("optimize", REWRITTEN, "-").failed(2, "standard output is a terminal")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def filling(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """Let the disk be full for the file in which this stream waits."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    opened, overwrite = Path.open, atomic.overwrite

    def fail_at(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Path, *args: Any, **kwargs: Any) -> Any:
            if stream in path.name:
                raise full
            return call(path, *args, **kwargs)

        return called

    monkeypatch.setattr(Path, "open", fail_at(opened))
    monkeypatch.setattr(atomic, "overwrite", fail_at(overwrite))


@pytest.mark.parametrize(
    ("stream", "words"),
    [("stdin", "standard input cannot be kept"), ("stdout", "standard output cannot be written")],
)
def test_a_full_disk_where_a_model_waits(
    monkeypatch: pytest.MonkeyPatch, scratch: Path, model: bytes, stream: str, words: str
) -> None:
    filling(monkeypatch, stream)
    code, out, err = piped(monkeypatch, model, "optimize", "-", *QUICK)
    assert (code, out) == (2, b"")
    advice = f"it waits in {scratch}: set TMPDIR to another folder"
    assert err == f"bnfold: {words}: No space left on device; {advice}\n"


def test_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Unreadable()))
    run("explain", "-").failed(2, "standard input cannot be read: Input/output error")


def test_a_model_that_does_not_arrive_is_a_failure(tmp_path: Path) -> None:
    arguments: list[Any] = [sys.executable, "-m", "bnfold", "optimize", REWRITTEN, "-", *QUICK]
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            arguments, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert process.returncode == 2
    assert "standard output cannot be written: No space left on device" in process.stderr
    assert "wrote" not in process.stderr
