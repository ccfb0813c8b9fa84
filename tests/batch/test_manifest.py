"""Manifests: the models that they name, their options, and in which line something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfold.batch.manifest import Kind, read_manifest
from bnfold.cli.batch import OPTIONS
from bnfold.errors import UsageError

KINDS: dict[str, Kind] = {name.replace("_", "-"): kind for name, kind in OPTIONS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.onnx", "b/x.onnx", "b/y.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str) -> list[tuple[str, str, dict[str, object]]]:
    manifest = folder / "models.toml"
    manifest.write_text(text)
    models = read_manifest(manifest, folder / "out", KINDS)
    return [
        (str(model.path.relative_to(folder)), model.name, dict(model.options)) for model in models
    ]


def test_models_with_options_of_their_own(folder: Path) -> None:
    text = """
        [options]
        samples = 5
        skip = "strip-dropout"

        [[model]]
        path = "b"
        bench = false
        rtol = [0.001, "y=0.1"]

        [[model]]
        path = "a.onnx"
        name = "first/a.onnx"
        samples = 1
        data = "inputs.npz"
        input = ["x=x.npy", "y:1,2"]
    """
    of_b = {"samples": 5, "skip": ["strip-dropout"], "bench": False, "rtol": ["0.001", "y=0.1"]}
    of_a = {
        "samples": 1,
        "skip": ["strip-dropout"],
        "data": str(folder / "inputs.npz"),
        "input": [f"x={folder / 'x.npy'}", "y:1,2"],
    }
    assert read(folder, text) == [
        ("b/x.onnx", "", of_b),
        ("b/y.onnx", "", of_b),
        ("a.onnx", "first/a.onnx", of_a),
    ]


WRONG = {
    "not TOML": ("[[model]]\npath = \n", "is not a manifest: Invalid value (at line 2"),
    "nothing": ("", ": it names no model; write [[model]]"),
    "no path": ('[[model]]\nname = "x"\n', "line 1: a model needs path ="),
    "no table": ("model = 3\n", "line 1: model is not a list of tables; write [[model]]"),
    "unknown table": ("[[models]]\n", "line 1: unknown 'models'; known: options, model"),
    "unknown key": (
        '[[model]]\npath = "a.onnx"\n[[model]]\npath = "b"\nsample = 3\n',
        "line 5: unknown option 'sample'; known: only,",
    ),
    "no number": ('[options]\n\nsamples = "3"\n', "line 3: samples is not a number"),
    "no flag": ('[[model]]\npath = "b"\n"bench" = 1\n', "line 3: bench is not true or false"),
    "no text": ('[[model]]\npath = "b"\ntruth = 1\n', "line 3: truth is not a text"),
    "no texts": ('[[model]]\npath = "b"\nskip = [true]\n', "line 3: skip is not a text or a list"),
    "no such model": ('[[model]]\npath = "c.onnx"\n', "line 2: c.onnx does not exist"),
    "no match": ('# x\n[[model]]\npath = "c*.onnx"\n', "line 3: no .onnx file matches"),
    "one name": ('[[model]]\npath = "b"\nname = "x"\n', "line 3: one name for 2 models"),
    "a name outside": ('[[model]]\nname = "../x"\npath = "a.onnx"\n', "line 2: the name '../x'"),
    "a name of no text": ('[[model]]\npath = "a.onnx"\nname = 3\n', "line 3: name is not a text"),
    "options of options": ("options = 3\n", "line 1: options is not a table"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_line(folder: Path, case: str) -> None:
    text, message = WRONG[case]
    if text.startswith("[options]"):
        text += '[[model]]\npath = "b"\n'
    with pytest.raises(UsageError) as raised:
        read(folder, text)
    assert str(raised.value).startswith(str(folder / "models.toml"))
    assert message in str(raised.value)


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"models\.toml cannot be read: No such file"):
        read_manifest(tmp_path / "models.toml", tmp_path, KINDS)
    (tmp_path / "models.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not a manifest"):
        read_manifest(tmp_path / "models.toml", tmp_path, KINDS)
