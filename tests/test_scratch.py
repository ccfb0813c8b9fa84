"""Temporary folders that are made only if needed, and are gone afterwards, whoever made them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bnfold.scratch import Scratch


def test_a_folder_is_made_when_it_is_needed_and_removed(place: Path) -> None:
    with Scratch() as scratch:
        assert not any(place.iterdir())
        (scratch.folder / "model.onnx").touch()
        assert list(place.iterdir()) == [scratch.folder]
    assert not any(place.iterdir())


def test_who_forked_removes_what_a_fork_made(place: Path) -> None:
    with Scratch() as scratch:
        child = os.fork()
        if not child:
            try:
                (scratch.folder / "model.onnx").touch()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert [path.name for path in place.glob("*/*")] == ["model.onnx"]
    assert not any(place.iterdir())


def test_without_a_folder_for_temporary_files_there_is_nothing_to_remove(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with Scratch():
        pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which is empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
