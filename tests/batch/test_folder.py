"""The folder of a batch: what comes into it as bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bnfold.batch.folder import unpack


def test_models_that_came_as_bytes_are_as_private_as_those_that_were_sent(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        sent = {"m.onnx": b"1", "m.onnx.data": b"2", "m.onnx.html": b"3", "m.onnx.json": b"4"}
        folder = unpack(tmp_path / "received", sent, 0o600)
    finally:
        os.umask(old)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == sent
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "m.onnx": 0o600,
        "m.onnx.data": 0o600,
        "m.onnx.html": 0o644,
        "m.onnx.json": 0o644,
    }
