"""Where files are written: never over an input or one another, and never where they cannot be."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

from bnfold.cli.outputs import require_apart
from bnfold.errors import UsageError
from tests.support.cli import REWRITTEN, names, run, untouched
from tests.support.files import raising, save_external
from tests.support.graphs import build, operators

QUICK = ("--no-check", "--no-bench")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with models, inputs and a record, each with the suffix of a report."""
    for name in ("m.json", "m.onnx", "other.html"):
        shutil.copy(REWRITTEN, tmp_path / name)
    np.savez(tmp_path / "data.npz", images=np.zeros((1, 1, 8, 8), np.float32))
    np.save(tmp_path / "images.npy", np.zeros((1, 1, 8, 8), np.float32))
    for name in ("data.npz", "images.npy"):
        (tmp_path / f"{name}.md").symlink_to(tmp_path / name)
    os.link(tmp_path / "m.json", tmp_path / "twin.md")
    (tmp_path / "link.md").symlink_to("m.json")
    save_external(tmp_path / "external").rename(tmp_path / "external" / "e.onnx")
    (tmp_path / "external" / "m.data.md").symlink_to("m.data")
    (tmp_path / "sub").mkdir()
    return tmp_path


SAME = {
    "optimize, model": (["optimize", "m.json", "out", "--report", "m.json"], "MODEL"),
    "optimize, another path": (["optimize", "m.json", "out", "--report", "sub/../m.json"], "MODEL"),
    "optimize, link": (["optimize", "m.json", "out", "--report", "link.md"], "MODEL"),
    "optimize, hard link": (["optimize", "m.json", "out", "--report", "twin.md"], "MODEL"),
    "optimize, output": (["optimize", "m.json", "o.md", "--report", "o.md"], "OUTPUT"),
    "optimize, default output": (["optimize", "m.html", "--report", "m.bnfold.onnx"], "unknown"),
    "optimize, data": (
        ["optimize", "m.json", "out", "--data", "data.npz", "--report", "data.npz.md"],
        "--data",
    ),
    "optimize, output is data": (
        ["optimize", "m.json", "data.npz", "--data", "data.npz"],
        "--data",
    ),
    "optimize, input": (
        ["optimize", "m.json", "o", "--input", "images=images.npy", "--report", "images.npy.md"],
        "--input",
    ),
    "optimize, reports": (["optimize", "m.json", "--report", "a.md", "--report", "./a.md"], "a.md"),
    "check, reference": (["check", "m.json", "m.onnx", "--report", "m.json"], "REFERENCE"),
    "check, candidate": (["check", "m.onnx", "other.html", "--report", "other.html"], "CANDIDATE"),
    "bench, model": (["bench", "m.json", "--report", "m.json"], "MODEL"),
    "bench, candidate": (["bench", "m.onnx", "m.json", "--report", "m.json"], "CANDIDATE"),
    "optimize, data of the model": (
        ["optimize", "external/e.onnx", "out", "--report", "external/m.data.md"],
        "the data of MODEL",
    ),
    "explain, data of the model": (
        ["explain", "external/e.onnx", "--report", "external/m.data.md"],
        "the data of MODEL",
    ),
    "check, data of the candidate": (
        ["check", "m.onnx", "external/e.onnx", "--report", "external/m.data.md"],
        "the data of CANDIDATE",
    ),
    "bench, data of the model": (
        ["bench", "external/e.onnx", "--report", "external/m.data.md"],
        "the data of MODEL",
    ),
    "optimize, data beside the output": (
        ["optimize", "m.onnx", "sub", "--external-data-name", "w.md", "--report", "sub/w.md"],
        "--external-data-name",
    ),
    "optimize, data is data": (
        ["optimize", "m.onnx", "o", "--external-data-name", "data.npz", "--data", "data.npz"],
        "--data",
    ),
    "optimize, saved inputs are a report": (
        ["optimize", "m.onnx", "o", "--save-inputs", "d.md", "--report", "d.md"],
        "--save-inputs",
    ),
    "optimize, saved inputs are the output": (
        ["optimize", "m.onnx", "o", "--save-inputs", "o"],
        "--save-inputs",
    ),
    "optimize, saved inputs are those given": (
        ["optimize", "m.onnx", "o", "--save-inputs", "sub", "--data", "sub"],
        "--data",
    ),
    "check, saved inputs are a report": (
        ["check", "m.onnx", "m.onnx", "--save-inputs", "d.md", "--report", "d.md"],
        "--save-inputs",
    ),
    "check, saved inputs are those given": (
        ["check", "m.onnx", "m.onnx", "--save-inputs", "sub", "--data", "sub"],
        "--data",
    ),
    "report, record": (["report", "m.json", "-o", "m.json"], "RUN.json"),
    "report, outputs": (["report", "m.json", "-o", "a.md", "-o", "sub/../a.md"], "a.md"),
}


@pytest.mark.parametrize("case", SAME)
def test_no_output_replaces_an_input_or_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(folder)
    arguments, other = SAME[case]
    before = {path: untouched(path) for path in folder.rglob("*") if path.is_file()}
    work = raising(AssertionError("the work has started"))
    with (
        mock.patch("bnfold.api.optimize", work),
        mock.patch("bnfold.api.check", work),
        mock.patch("bnfold.api.bench", work),
        mock.patch("bnfold.api.explain", work),
    ):
        run(*arguments).failed(2, other)
    assert {path: untouched(path) for path in folder.rglob("*") if path.is_file()} == before


def test_files_that_are_not_there_yet_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    first, second = ("a", tmp_path / "x"), ("b", tmp_path / "link" / "x")
    require_apart([first, ("b", tmp_path / "y")], [("c", Path("x"))])
    with pytest.raises(UsageError, match=r"b .*x is the same file as a"):
        require_apart([first, second], [])


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and /proc")
@pytest.mark.parametrize(
    "place", ["full.json", "proc.json", "stream.json", "sub.json", "pipe.json"]
)
@pytest.mark.parametrize("command", ["optimize", "check", "bench", "report"])
def test_a_report_that_cannot_be_written_is_known_before_the_work(
    folder: Path, place: str, command: str
) -> None:
    (folder / "full.json").symlink_to("/dev/full")
    (folder / "proc.json").symlink_to("/proc/nothing.json")  # a folder that nobody can write to
    (folder / "stream.json").symlink_to("/dev/fd/1")
    (folder / "sub.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    option = "-o" if command == "report" else "--report"
    arguments: list[str | Path] = [command, folder / "m.onnx", option, folder / place]
    if command in ("optimize", "check"):
        arguments.insert(2, folder / "other.onnx")
    before = names(folder)
    work = raising(AssertionError("the work has started"))
    with (
        mock.patch("bnfold.api.optimize", work),
        mock.patch("bnfold.api.check", work),
        mock.patch("bnfold.api.bench", work),
        mock.patch("bnfold.record.reading.read_record", work),
    ):
        run(*arguments).failed(2, str(folder / place))
    assert names(folder) == before


def test_without_its_work_a_report_leaves_nothing(folder: Path) -> None:
    before = names(folder)
    report = folder / "run.md"
    run("check", folder / "missing", folder / "m.onnx", "--report", report).failed(3, "missing")
    run("bench", folder / "m.onnx", "--report", report, "--input", "x:1").failed(2, "'x'")
    assert names(folder) == before
    report.write_text("old")
    run("check", folder / "missing", folder / "m.onnx", "--report", report).failed(3, "missing")
    assert report.read_text() == "old"
    assert names(folder) == before | {"run.md"}


# --- Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["sub", "sub/", "./sub/."])
def test_a_model_goes_into_a_folder_under_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(folder)
    assert run("optimize", "m.onnx", output, *QUICK).code == 0
    assert names(folder / "sub") == {"m.onnx"}
    assert run("optimize", "m.onnx", "-o", output, *QUICK).code == 0
    run("optimize", "m.onnx", "sub/no/", *QUICK).failed(2, "sub/no/", "does not exist")
    run("optimize", "sub/m.onnx", output, *QUICK).failed(2, "the folder of the model", "name it")


# --- A model that is no earlier result ----------------------------------------------------------


def test_a_model_with_another_interface_is_replaced_only_by_force(folder: Path) -> None:
    model, place = folder / "m.onnx", folder / "place.onnx"
    onnx.save(build("(float[4] x) => (float[4] y) { y = Neg(x) }"), place)
    before = untouched(place)
    run("optimize", model, place, *QUICK).failed(2, str(place), "--force")
    run("optimize", model, place).failed(2, "other inputs or outputs")
    assert untouched(place) == before
    assert run("optimize", model, place, "--force", *QUICK).code == 0
    assert "BatchNormalization" not in operators(onnx.load(place))
    assert run("optimize", model, place, *QUICK).code == 0  # now it is a result of this model


def test_sizes_may_differ_and_what_is_no_model_is_replaced(folder: Path) -> None:
    model, place = folder / "m.onnx", folder / "place.onnx"
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    onnx.save(proto, place)
    assert run("optimize", model, place, *QUICK).code == 0
    place.write_text("old")
    assert run("optimize", model, place, *QUICK).code == 0
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(proto, place)
    run("optimize", model, place, *QUICK).failed(2, "--force")
