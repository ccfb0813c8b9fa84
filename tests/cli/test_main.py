"""Exit codes, messages, help and the record: what scripts rely on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer.main
from onnx import helper

import bnfold
from bnfold.cli.main import app
from bnfold.errors import INTERNAL_ERROR
from bnfold.record.data import ModelRecord, Record
from bnfold.rewriting.registry import all_passes
from tests.support.cli import (
    MODELS,
    REWRITTEN,
    UNCHANGED,
    Outcome,
    names,
    parse_strictly,
    plant_wrong_pass,
    run,
    untouched,
)
from tests.support.graphs import batch_norm, build, make_overridable, normal, operators
from tests.support.slow import few

COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]

FIXED_OPTIONS = {
    "optimize": (
        "--only --skip --keep-node --provider --check --no-check --input --data --report --json "
        "--force-inference --freeze-initializers --threads -o --bench --no-bench --bench-seconds "
        "--require-speedup --tune"
    ),
    "bench": "--provider --input --data --report --json --threads",
    "check": ("--provider --input --data --samples --seed --rtol --atol --report --json --threads"),
    "explain": "--only --skip --keep-node --json",
    "report": "-o --json",
    "passes": "--json",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model and files that are invalid as models or inputs."""
    shutil.copy(REWRITTEN, tmp_path / "m.onnx")
    np.save(tmp_path / "double.npy", np.zeros((1, 1, 8, 8)))
    np.savez(tmp_path / "other.npz", other=np.zeros(3))
    (tmp_path / "text").write_text("a text\n" * 9)
    (tmp_path / "empty").touch()
    (tmp_path / "broken.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:-30])
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "input_0.pb").write_bytes(b"\x08\x01\xff\xff")
    return tmp_path


def folded_with(lines: str, outputs: str, opset: int = 17) -> onnx.ModelProto:
    """Return a model with a BatchNormalization to fold and these additional lines."""
    return build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z, " + outputs + ") "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) " + lines + " }",
        opset=opset,
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )


def random_model() -> onnx.ModelProto:
    return folded_with("r = RandomNormal <shape = [3]> ()", "float[3] r")


def foreign_model() -> onnx.ModelProto:
    """Return a model with an operator that is unknown to onnxruntime."""
    model = folded_with("f = Neg(x)", "float[N,3,8,8] f")
    model.graph.node[-1].domain = "acme"
    model.graph.node[-1].op_type = "Magic"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    return model


# --- 0: done ------------------------------------------------------------------------------------


def test_a_rewritten_model_is_written(folder: Path) -> None:
    outcome = run("optimize", folder / "m.onnx", folder / "out.onnx")
    assert (outcome.code, outcome.err) == (0, "")
    assert "equivalence: pass" in outcome.out
    assert f"wrote {folder / 'out.onnx'}" in " ".join(outcome.out.split())
    assert "BatchNormalization" not in operators(onnx.load(folder / "out.onnx"))


def test_without_rewrites_the_output_is_identical_to_the_input(tmp_path: Path) -> None:
    outcome = run("optimize", UNCHANGED, tmp_path / "out.onnx")
    assert outcome.code == 0
    assert "equivalence: identical" in outcome.out
    assert (tmp_path / "out.onnx").read_bytes() == UNCHANGED.read_bytes()


@pytest.mark.parametrize("output", ["m.onnx", "link.onnx"])
def test_without_rewrites_an_input_that_is_also_the_output_is_not_touched(
    tmp_path: Path, output: str
) -> None:
    model = tmp_path / "m.onnx"
    shutil.copy(UNCHANGED, model)
    (tmp_path / "link.onnx").symlink_to(model)
    before = untouched(model)
    assert run("optimize", model, tmp_path / output).code == 0
    assert untouched(model) == before


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], "m.bnfold.onnx"),
        (["a.onnx"], "a.onnx"),
        (["-o", "b.onnx"], "b.onnx"),
        (["--output", "c.onnx"], "c.onnx"),
    ],
)
def test_the_path_of_the_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], written: str
) -> None:
    monkeypatch.chdir(folder)
    before = names(folder)
    assert run("optimize", "m.onnx", *arguments).code == 0
    assert names(folder) - before == {written}


# --- 1: not equivalent --------------------------------------------------------------------------


@pytest.mark.parametrize("old", few([None, b"old"], [b"old"]))
def test_a_wrong_rewrite_is_not_written(folder: Path, old: bytes | None) -> None:
    output, report = folder / "out.onnx", folder / "run.json"
    if old is not None:
        output.write_bytes(old)
    with plant_wrong_pass():
        outcome = run("optimize", folder / "m.onnx", output, "--json", "--report", report)
        of_run = run("optimize", folder / "m.onnx", output, "--certify", "off")
    changed = "relu-to-sigmoid at '/2/Relu' changes '/2/Relu_output_0'"
    outcome.failed(1, "not equivalent", "nothing was written", changed, "--drop-culprit")
    of_run.failed(1, "not equivalent", "nothing was written", "'logits'", "times what is allowed")
    assert (output.read_bytes() if output.exists() else None) == old
    assert outcome.record == parse_strictly(report.read_text())
    assert outcome.record["equivalence"]["verdict"] == "fail"
    assert outcome.record["output"]["written"] is False


def test_a_wrong_rewrite_in_place_leaves_the_model_alone(folder: Path) -> None:
    before = untouched(folder / "m.onnx")
    with plant_wrong_pass():
        outcome = run("optimize", folder / "m.onnx", folder / "m.onnx")
    outcome.failed(1, "not equivalent")
    assert untouched(folder / "m.onnx") == before


def test_a_wrong_rewrite_is_written_with_no_check(folder: Path) -> None:
    with plant_wrong_pass():
        outcome = run("optimize", folder / "m.onnx", folder / "out.onnx", "--no-check", "--json")
    assert outcome.code == 0
    assert outcome.record["equivalence"] is None
    assert "Sigmoid" in operators(onnx.load(folder / "out.onnx"))


@pytest.mark.parametrize(
    ("candidate", "options", "code", "verdict"),
    [
        (REWRITTEN, [], 0, "pass"),
        (UNCHANGED, [], 1, "fail"),
        (UNCHANGED, ["--atol", "1e9"], 0, "pass"),
        (UNCHANGED, ["--atol", "1", "--rtol", "0"], 1, "fail"),
    ],
)
def test_check_compares_any_two_models(
    candidate: Path, options: list[str], code: int, verdict: str
) -> None:
    outcome = run("check", REWRITTEN, candidate, "--json", *options)
    assert outcome.code == code
    assert outcome.record["equivalence"]["verdict"] == verdict
    assert outcome.record["candidate"]["path"] == str(candidate)


def test_check_applies_the_requested_tolerance(folder: Path) -> None:
    assert run("optimize", folder / "m.onnx", folder / "out.onnx").code == 0
    exact = run("check", folder / "m.onnx", folder / "out.onnx", "--atol", "0", "--rtol", "0")
    assert exact.code == 1
    assert "equivalence: fail" in exact.out
    assert run("check", folder / "m.onnx", folder / "out.onnx").code == 0


def test_a_different_interface_is_not_equivalent(tmp_path: Path) -> None:
    for name in ("x", "other"):
        onnx.save(
            build(f"(float[4] {name}) => (float[4] y) {{ y = Neg({name}) }}"), tmp_path / name
        )
    outcome = run("check", tmp_path / "x", tmp_path / "other", "--json")
    assert outcome.code == 1
    assert "inputs" in outcome.record["equivalence"]["reason"]


# --- 2: usage -----------------------------------------------------------------------------------

USAGE_ERRORS: dict[str, tuple[list[str], list[str]]] = {
    "unknown pass": (["--only", "fold-batchnrm"], ["did you mean 'fold-batchnorm'", "known: "]),
    "unknown pass to skip": (["--skip", "nope"], ["unknown pass 'nope'", "strip-dropout"]),
    "no pass left": (
        ["--only", "fold-batchnorm", "--skip", "fold-batchnorm"],
        ["--only and --skip leave no pass"],
    ),
    "bad pattern": (["--keep-node", "("], ["--keep-node '('", "regular expression"]),
    "output twice": (["-o", "{folder}/other.onnx"], ["OUTPUT is given twice"]),
    "input without content": (["--input", "images"], ["neither NAME=FILE.npy nor NAME:1,3"]),
    "input without sizes": (["--input", "images:"], ["'images:' is neither"]),
    "negative size": (["--input", "images:-1,3"], ["is neither"]),
    "input without name": (["--input", "=x.npy"], ["is neither"]),
    "missing content": (["--input", "images={folder}/no.npy"], ["no.npy cannot be read"]),
    "content is text": (["--input", "images={folder}/text"], ["text cannot be read"]),
    "wrong type": (["--input", "images={folder}/double.npy"], ["needs float32", "has float64"]),
    "unknown input": (["--input", "image:1,1,8,8"], ["no input 'image'", "it has images"]),
    "missing data": (["--data", "{folder}/no.npz"], ["no.npz cannot be read"]),
    "data is text": (["--data", "{folder}/text"], ["text cannot be read"]),
    "content is empty": (["--input", "images={folder}/empty"], ["empty cannot be read"]),
    "content is an archive": (["--input", "images={folder}/other.npz"], ["use --data"]),
    "size beyond reason": (["--input", "images:" + "9" * 30], ["images:999"]),
    "size beyond memory": (["--input", "images:" + "9" * 9 + ",1,8,8"], ["cannot be made"]),
    "data is empty": (["--data", "{folder}/empty"], ["empty cannot be read"]),
    "data is truncated": (["--data", "{folder}/broken.npz"], ["broken.npz cannot be read"]),
    "data is one array": (["--data", "{folder}/double.npy"], ["use --input NAME="]),
    "data of another model": (["--data", "{folder}/other.npz"], ["its inputs are images"]),
    "data is junk": (["--data", "{folder}/tests"], ["tests cannot be read"]),
    "data without input": (["--data", "{folder}"], ["holds no input_0.pb"]),
    "unknown provider": (["--provider", "tpu"], ["unknown provider 'tpu'", "cpu, cuda"]),
    "no tolerance": (["--atol", "inf"], ["--atol inf", "finite"]),
    "report nowhere": (["--report", "{folder}/no/run.json"], ["--report", "does not exist"]),
    "unknown report": (["--report", "{folder}/run.txt"], ["--report", "run.txt"]),
}


@pytest.mark.filterwarnings(
    "ignore:Exception ignored.*broken:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("case", USAGE_ERRORS)
def test_wrong_usage_is_a_one_line_error_and_writes_nothing(folder: Path, case: str) -> None:
    options, words = USAGE_ERRORS[case]
    before = names(folder)
    outcome = run(
        "optimize",
        folder / "m.onnx",
        folder / "out.onnx",
        "--json",
        *(option.format(folder=folder) for option in options),
    )
    outcome.failed(2, *words)
    assert outcome.out == ""
    assert names(folder) == before


def test_a_report_never_replaces_the_output(folder: Path) -> None:
    output = folder / "out.json"
    outcome = run("optimize", folder / "m.onnx", output, "--report", output)
    outcome.failed(2, f"--report {output}")
    assert not output.exists()
    output.symlink_to(folder / "out.onnx")
    outcome = run("optimize", folder / "m.onnx", folder / "out.onnx", "--report", output)
    outcome.failed(2, "--report", "same file as OUTPUT")
    assert not output.exists()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("{folder}", "is the folder of the model; to replace the model, name it: "),
        ("{folder}/missing/", "this folder does not exist"),
        ("{folder}/record.json", "--json prints the record to standard output"),
        ("{folder}/page.HTML", "page.HTML is the name of a report: that is --report "),
        ("/dev/fd/1", "is an open stream, not a file"),
        ("/dev/null", "is not a regular file"),
        ("{folder}/missing/out.onnx", "No such file or directory"),
        ("{folder}/text/out.onnx", "Not a directory"),
    ],
)
def test_an_output_that_cannot_be_written(folder: Path, output: str, words: str) -> None:
    before = names(folder)
    run("optimize", folder / "m.onnx", output.format(folder=folder)).failed(2, words)
    assert names(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", str(REWRITTEN), "--nope"],
        ["optimize"],
        ["check", str(REWRITTEN)],
        ["check", str(REWRITTEN), str(REWRITTEN), "--samples", "0"],
        ["check", str(REWRITTEN), str(REWRITTEN), "--seed", "-1"],
        ["check", str(REWRITTEN), str(REWRITTEN), "--threads", "0"],
        ["explain", str(REWRITTEN), "extra"],
        ["nope"],
    ],
)
def test_arguments_that_the_parser_rejects(arguments: list[str]) -> None:
    outcome = run(*arguments)
    outcome.failed(2, "--help")
    assert outcome.out == ""


def test_json_takes_no_file(folder: Path) -> None:
    outcome = run("check", REWRITTEN, REWRITTEN, "--json", folder / "record.json")
    outcome.failed(2, "record.json", "--report FILE.json writes the record")


# --- 4: provider not available ------------------------------------------------------------------


@pytest.mark.parametrize("command", ["optimize", "check"])
def test_an_unavailable_provider(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(
        "bnfold.running.installation.installed_runtimes", lambda: ["onnxruntime 1.0"]
    )
    outcome = run(command, REWRITTEN, folder / "m.onnx", "--provider", "cuda")
    outcome.failed(4, "'cuda' is not available", "onnxruntime 1.0", "pip install 'onnxruntime-gpu")
    assert (folder / "m.onnx").read_bytes() == REWRITTEN.read_bytes()


@pytest.mark.parametrize("command", ["optimize", "check"])
def test_without_onnxruntime_nothing_is_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("bnfold.running.runtime.installed_runtimes", list)
    outcome = run(command, REWRITTEN, folder / "m.onnx")
    outcome.failed(4, "onnxruntime is not installed", "pip install onnxruntime")
    assert (folder / "m.onnx").read_bytes() == REWRITTEN.read_bytes()


def test_without_onnxruntime_the_rest_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = run("optimize", folder / "m.onnx", folder / "out.onnx", "--no-check", "--json")
    assert outcome.code == 0
    assert outcome.record["environment"]["onnxruntime"] is None
    assert run("explain", folder / "m.onnx").code == 0


# --- 5: not verified ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (random_model(), "disagrees with itself"),
        (foreign_model(), "onnxruntime cannot load the model"),
    ],
    ids=["random", "foreign"],
)
def test_an_unverified_model_is_written_only_on_request(
    tmp_path: Path, model: onnx.ModelProto, reason: str
) -> None:
    path, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    off = ("--certify", "off")
    outcome = run("optimize", path, output, "--json", "--report", tmp_path / "run.json", *off)
    outcome.failed(5, "could not be verified, so nothing was written", reason, "--no-check")
    assert outcome.record == parse_strictly((tmp_path / "run.json").read_text())
    assert outcome.record["equivalence"]["verdict"] == "not-verified"
    assert not output.exists()

    assert run("optimize", path, output, "--no-check").code == 0
    written = onnx.load(output)
    assert operators(written) == ["Conv", operators(model)[-1]]
    for field in ("domain", "op_type", "input", "output", "attribute"):
        assert getattr(written.graph.node[-1], field) == getattr(model.graph.node[-1], field)
    assert written.opset_import == model.opset_import

    refused = run("optimize", path, tmp_path / "refused.onnx", "--require", "pass")
    refused.failed(5, "every rewrite is certified, but --require pass asks for", reason)
    assert not (tmp_path / "refused.onnx").exists()
    certified = run("optimize", path, tmp_path / "certified.onnx", "--no-bench")
    assert certified.code == 0
    assert "equivalence: certified" in certified.out
    assert (tmp_path / "certified.onnx").read_bytes() == output.read_bytes()


@pytest.mark.parametrize(
    ("path", "reason"), [("training_mode.onnx", "itself"), ("foreign.onnx", "cannot load")]
)
def test_check_reports_that_it_cannot_decide(tmp_path: Path, path: str, reason: str) -> None:
    onnx.save(foreign_model(), tmp_path / "foreign.onnx")
    shutil.copy(MODELS / "training_mode.onnx", tmp_path)
    outcome = run("check", tmp_path / path, tmp_path / path, "--certify", "off")
    assert outcome.code == 5
    assert "equivalence: not-verified" in outcome.out
    assert reason in outcome.out
    certified = run("check", tmp_path / path, tmp_path / path)
    assert certified.code == 0
    assert "equivalence: certified" in certified.out
    assert reason in certified.out


def test_inputs_of_the_wrong_rank_are_a_usage_error(folder: Path) -> None:
    outcome = run("optimize", folder / "m.onnx", folder / "out.onnx", "--input", "images:1,8")
    outcome.failed(2, "1×8", "batch×1×8×8")
    assert not (folder / "out.onnx").exists()


# --- Other errors -------------------------------------------------------------------------------


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("no\nway")


def test_an_unexpected_error_is_one_line_and_no_verdict(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BNFOLD_DEBUG", raising=False)
    monkeypatch.setattr("bnfold.proof.equivalence.compare_models", fail)
    arguments = ("optimize", folder / "m.onnx", folder / "out.onnx")
    run(*arguments).failed(INTERNAL_ERROR, "RuntimeError: no way", "report it")
    monkeypatch.setenv("BNFOLD_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run(*arguments)
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["explain", REWRITTEN], 0),
        (["passes", "fold-batchnorm"], 0),
        (["check", REWRITTEN, REWRITTEN], 0),
        (["check", REWRITTEN, "ä.onnx"], 3),
    ],
)
def test_a_terminal_without_unicode_shows_the_rest(arguments: list[str | Path], code: int) -> None:
    full, plain = run(*arguments), run(*arguments, encoding="ascii")
    assert (full.code, plain.code) == (code, code)
    assert plain.out.encode() == full.out.encode("ascii", "replace")
    assert plain.err.encode() == full.err.encode("ascii", "replace")


# --- Options ------------------------------------------------------------------------------------


def rewrites(*arguments: str | Path) -> set[str]:
    record = run("explain", *arguments, "--json").record
    return {rewrite["pass"] for rewrite in record["rewrites"]}


def test_only_and_skip_choose_the_passes() -> None:
    model = MODELS / "dropout_after_pool.onnx"
    assert rewrites(model) == {"fold-batchnorm", "strip-dropout"}
    assert rewrites(model, "--only", "strip-dropout") == {"strip-dropout"}
    assert rewrites(model, "--skip", "strip-dropout") == {"fold-batchnorm"}
    both = ("--only", "strip-dropout", "--only", "fold-batchnorm")
    assert rewrites(model, *both) == {"fold-batchnorm", "strip-dropout"}


def test_keep_node_keeps_nodes() -> None:
    record = run("explain", REWRITTEN, "--keep-node", "BatchNorm", "--json").record
    assert record["rewrites"] == []
    kept = [refusal for refusal in record["refusals"] if refusal["pass"] == "fold-batchnorm"]
    assert {refusal["reason"] for refusal in kept} == {"KEPT_BY_REQUEST"}
    assert len(kept) == 2


def test_force_inference_is_recorded(tmp_path: Path) -> None:
    arguments = ("optimize", MODELS / "training_mode.onnx", tmp_path / "out.onnx", "--json")
    assert run(*arguments).record["output"]["same"] is True
    record = run(*arguments, "--force-inference").record
    assert record["equivalence"]["verdict"] == "pass"
    assert "semantic" in {rewrite["exactness"] for rewrite in record["rewrites"]}


def test_frozen_initializers_are_no_longer_inputs(tmp_path: Path) -> None:
    onnx.save(make_overridable(folded_with("n = Neg(x)", "float[N,3,8,8] n"), "s"), tmp_path / "m")
    arguments = ("optimize", tmp_path / "m", tmp_path / "out", "--json")
    assert run(*arguments).record["output"]["same"] is True
    outcome = run(*arguments, "--freeze-initializers")
    assert outcome.code == 0
    assert [value.name for value in onnx.load(tmp_path / "out").graph.input] == ["x"]
    assert "freeze-initializers" in {rewrite["pass"] for rewrite in outcome.record["rewrites"]}


def test_all_requested_reports_are_written(folder: Path) -> None:
    reports = [folder / "a.json", folder / "b.json"]
    options = [word for report in reports for word in ("--report", report)]
    outcome = run("check", REWRITTEN, UNCHANGED, *options, "--json")
    assert outcome.code == 1
    assert [parse_strictly(report.read_text()) for report in reports] == [outcome.record] * 2


def test_explain_names_every_candidate_and_writes_nothing(folder: Path) -> None:
    before = names(folder)
    outcome = run("explain", folder / "m.onnx")
    record = run("explain", folder / "m.onnx", "--json").record
    assert names(folder) == before
    assert outcome.code == 0
    assert record["rewrites"]
    assert record["refusals"]
    said = " ".join(outcome.out.split())
    for rewrite in record["rewrites"]:
        line = f"rewritten {rewrite['op_type']} {rewrite['site']} by {rewrite['pass']}"
        assert line in said
    for refusal in record["refusals"]:
        line = f"{refusal['site']}: {refusal['pass']} {refusal['reason']}: {refusal['message']}"
        assert line in said


def test_explain_predicts_what_optimize_does(folder: Path) -> None:
    done = run("optimize", folder / "m.onnx", folder / "out.onnx", "--json").record
    predicted = run("explain", folder / "m.onnx", "--json").record
    for rewrite in done["rewrites"]:
        assert rewrite.pop("certificate")["verdict"] == "certified"
    for rewrite in predicted["rewrites"]:
        assert rewrite.pop("certificate") is None
    assert predicted["rewrites"] == done["rewrites"]
    assert predicted["refusals"] == done["refusals"]


def test_passes_lists_all_as_text_and_json() -> None:
    outcome = run("passes")
    listed = json.loads(run("passes", "--json").out)
    assert [described["name"] for described in listed] == [pass_.name for pass_ in all_passes()]
    for described in listed:
        assert described["name"] in outcome.out
        assert described["exactness"] in {"bitwise", "rounded", "semantic"}
        assert described["documentation"]
        assert all(reason["reason"] and reason["message"] for reason in described["refusals"])


@pytest.mark.parametrize("name", [pass_.name for pass_ in all_passes()])
def test_passes_describes_one(name: str) -> None:
    outcome = run("passes", name)
    (described,) = json.loads(run("passes", name, "--json").out)
    assert outcome.code == 0
    assert described["name"] == name
    assert " ".join(described["documentation"].split()) in " ".join(outcome.out.split())
    assert not [r for r in described["refusals"] if f"{r['reason']}: " not in outcome.out]


def test_passes_rejects_an_unknown_name() -> None:
    run("passes", "strip-dropuot").failed(2, "did you mean 'strip-dropout'", "fold-batchnorm")


# --- The record ---------------------------------------------------------------------------------

TOLERANCE = {"rtol": float, "atol": float}
RECORD = {
    "schema": str,
    "tool": {"version": str},
    "command": [str],
    "model": {
        "path": str,
        "sha256": str,
        "bytes": int,
        "ir_version": int,
        "opset": {"ai.onnx": int},
        "nodes": int,
        "ops": {"Conv": int, "BatchNormalization": int},
    },
    "output": {"same": bool},
    "rewrites": [{"pass": str, "site": str, "nodes": [str], "exactness": str, "detail": str}],
    "refusals": [{"pass": str, "site": str, "reason": str, "message": str}],
    "equivalence": {
        "verdict": str,
        "providers": [
            {
                "provider": str,
                "verdict": str,
                "outputs": [
                    {
                        "name": str,
                        "dtype": str,
                        "shape": [int],
                        "max_abs": float,
                        "max_rel": float,
                        "rms": float,
                        "cosine": float,
                        "worst": {"index": [int], "original": float, "optimized": float},
                        "tolerance": TOLERANCE,
                        "needed": TOLERANCE,
                        "nonfinite": {"original": int, "optimized": int},
                    }
                ],
            }
        ],
        "inputs": {"seed": int, "samples": int, "source": str, "sha256": str},
    },
    "environment": {
        "python": str,
        "onnx": str,
        "onnxruntime": {"package": str, "version": str, "providers": [str]},
        "cpu": str,
    },
}


def assert_shaped(content: Any, expected: Any, where: str = "record") -> None:
    """Assert that the content has at least these fields, of these types, and no empty list."""
    if isinstance(expected, dict):
        for key, shape in expected.items():
            assert key in content, f"{where}.{key}"
            assert_shaped(content[key], shape, f"{where}.{key}")
    elif isinstance(expected, list):
        assert content, where
        for index, element in enumerate(content):
            assert_shaped(element, expected[0], f"{where}[{index}]")
    else:
        assert type(content) is expected, where


def test_the_record_has_the_fields_that_scripts_read(folder: Path) -> None:
    outcome = run("optimize", folder / "m.onnx", folder / "out.onnx", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert_shaped(outcome.record, RECORD)
    assert outcome.record["schema"] == "bnfold.report/1"
    assert outcome.record["tool"]["version"] == bnfold.__version__
    assert outcome.record["command"][1:3] == ["optimize", str(folder / "m.onnx")]


def test_the_record_of_check_has_the_same_fields() -> None:
    record = run("check", REWRITTEN, UNCHANGED, "--json").record
    fixed = {key: value for key, value in RECORD.items() if key not in {"rewrites", "refusals"}}
    assert_shaped(record, {key: value for key, value in fixed.items() if key != "output"})


def test_the_record_of_non_finite_values_is_json(tmp_path: Path) -> None:
    onnx.save(folded_with("n = Log(x)", "float[N,3,8,8] n"), tmp_path / "m")
    outcome = run("optimize", tmp_path / "m", tmp_path / "out", "--json")
    assert outcome.code == 0
    (provider,) = outcome.record["equivalence"]["providers"]
    (logarithm,) = [output for output in provider["outputs"] if output["name"] == "n"]
    assert logarithm["nonfinite"]["original"] > 0
    assert logarithm["nonfinite"]["same"] is True


def test_non_finite_numbers_are_written_as_strings() -> None:
    model = ModelRecord(None, "", 0, 8, {}, 0, {})
    record = Record([], model, {"values": [math.nan, math.inf, -math.inf, 1.5, "é"]})
    content = parse_strictly(record.to_json())
    assert content["environment"]["values"] == ["nan", "inf", "-inf", 1.5, "é"]
    assert set(content) >= {field.name for field in dataclasses.fields(Record)}


# --- Help ---------------------------------------------------------------------------------------


def test_all_commands_exist_and_are_listed() -> None:
    assert set(FIXED_OPTIONS) <= set(COMMANDS)
    outcome = run("--help")
    assert outcome.code == 0
    assert not [name for name in COMMANDS if name not in outcome.out]
    assert "Exit codes: 0 done" in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_an_example_and_explains_everything(command: str) -> None:
    outcomes = [run(command, option) for option in ("-h", "--help")]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].code == 0
    assert f"Example: bnfold {command} " in outcomes[0].out
    assert COMMANDS[command].params
    assert not [param.name for param in COMMANDS[command].params if not param.help]


@pytest.mark.parametrize("command", FIXED_OPTIONS)
def test_the_names_of_options_are_fixed(command: str) -> None:
    known = {
        name for param in COMMANDS[command].params for name in (*param.opts, *param.secondary_opts)
    }
    assert set(FIXED_OPTIONS[command].split()) <= known


@pytest.mark.parametrize("command", COMMANDS)
def test_each_example_has_only_options_that_exist(command: str) -> None:
    known = {name for param in COMMANDS[command].params for name in param.opts}
    words = COMMANDS[command].epilog.split()
    assert {word for word in words if word.startswith("--")} <= known


def test_version() -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"bnfold {bnfold.__version__} (")


def test_without_arguments_the_help_is_shown() -> None:
    outcome = run()
    assert outcome.code == 2
    shown = outcome.out + outcome.err
    assert shown.startswith("Usage: ")
    assert not [name for name in COMMANDS if name not in shown]


# --- As a separate process ----------------------------------------------------------------------


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
    )


def test_python_m_bnfold_is_the_command(folder: Path) -> None:
    process = python("-m", "bnfold", "optimize", folder / "m.onnx", "--no-bench", "--json")
    assert (process.returncode, process.stderr) == (0, "")
    assert parse_strictly(process.stdout)["output"]["written"] is True
    assert (folder / "m.bnfold.onnx").exists()


def test_the_output_of_onnxruntime_itself_is_suppressed(tmp_path: Path) -> None:
    onnx.save(foreign_model(), tmp_path / "m.onnx")
    off = ("--certify", "off")
    process = python("-m", "bnfold", "optimize", tmp_path / "m.onnx", "--json", *off)
    Outcome(process.returncode, process.stdout, process.stderr).failed(5, "acme:Magic")
    assert parse_strictly(process.stdout)["equivalence"]["verdict"] == "not-verified"


def test_help_imports_no_heavy_modules() -> None:
    script = (
        "import sys, bnfold, bnfold.cli.main\n"
        "sys.argv = ['bnfold', '--help']\n"
        "try:\n    bnfold.cli.main.main()\n"
        "finally:\n    print('modules', *sys.modules)\n"
    )
    process = python("-c", script)
    assert process.returncode == 0
    modules = set(process.stdout.split("modules", 1)[1].split())
    assert "bnfold.cli.main" in modules
    assert not modules & {"jinja2", "matplotlib", "numpy", "onnx", "onnx_ir", "onnxruntime"}
