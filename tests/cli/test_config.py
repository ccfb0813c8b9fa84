"""Defaults of options from a pyproject.toml: the command line counts more, mistakes are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import REWRITTEN, Outcome, run

QUICK = ("--no-check", "--no-bench")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, content: str, name: str = "pyproject.toml") -> Path:
    (folder / name).write_text(content)
    return folder / name


def record_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return outcome.record


def test_a_file_gives_defaults_and_the_command_line_counts_more(folder: Path) -> None:
    write(
        folder,
        """
        [tool.bnfold.check]
        samples = 2
        seed = 7
        truth = "off"
        certify = "off"
        json = true
        atol = ["1e9"]
        """,
    )
    check = ("check", REWRITTEN, REWRITTEN)
    inputs = record_of(run(*check))["equivalence"]["inputs"]
    assert (inputs["samples"], inputs["seed"]) == (2, 7)
    inputs = record_of(run(*check, "--seed", "1"))["equivalence"]["inputs"]
    assert (inputs["samples"], inputs["seed"]) == (2, 1)
    plain = run("--no-config", *check, "--json", "--truth", "off").record["equivalence"]
    assert (plain["inputs"]["samples"], plain["inputs"]["seed"]) == (3, 0)


def test_the_record_has_the_command_line_that_repeats_the_run_without_the_file(
    folder: Path,
) -> None:
    place = write(
        folder,
        """
        [tool.bnfold.check]
        samples = 2
        seed = 7
        json = true
        verbose = false
        certify = "off"
        provider = ["cpu"]
        atol = ["1e9"]
        """,
    )
    record = run("--config", place, "check", REWRITTEN, REWRITTEN, "--seed", "1").record
    options = ["--atol", "1e9", "--provider", "cpu", "--certify", "off"]
    options += ["--samples", "2", "--json"]
    given = ["check", str(REWRITTEN), str(REWRITTEN), "--seed", "1"]
    words = record["command"][1:]
    assert words[:2] == ["--no-config", "check"]
    assert sorted(words[2:]) == sorted([*options, *given[1:]])
    place.unlink()
    assert run(*words).record["equivalence"] == record["equivalence"]


def test_what_the_command_line_overrules_is_not_in_the_command_line(folder: Path) -> None:
    write(folder, "[tool.bnfold.explain]\nquiet = true\nskip = ['fold-batchnorm']\n")
    record = run("explain", REWRITTEN, "--verbose", "--skip", "pool-before-conv", "--json").record
    assert "--quiet" not in record["command"]
    assert "fold-batchnorm" not in record["command"]


def test_without_a_file_the_record_has_the_command_line_as_it_was(folder: Path) -> None:
    record = run("explain", REWRITTEN, "--json").record
    assert "--no-config" not in record["command"]


@pytest.mark.parametrize("option", ["only", "skip"])
def test_a_list_on_the_command_line_replaces_that_of_the_file(folder: Path, option: str) -> None:
    write(folder, f'[tool.bnfold.explain]\n{option} = ["fold-batchnorm"]\njson = true\n')
    record = run("explain", REWRITTEN).record
    passes = {each["pass"] for each in record["rewrites"]}
    assert ("fold-batchnorm" in passes) == (option == "only")
    record = run("explain", REWRITTEN, f"--{option}", "pool-before-conv").record
    passes = {each["pass"] for each in record["rewrites"]}
    assert ("fold-batchnorm" in passes) == (option == "skip")


def test_switches_with_two_names_are_one_key(folder: Path) -> None:
    write(folder, "[tool.bnfold.optimize]\ncheck = false\nbench = false\njson = true\n")
    assert run("optimize", REWRITTEN, "a.onnx").record["equivalence"] is None
    assert run("optimize", REWRITTEN, "a.onnx", "--check").record["equivalence"] is not None


def test_the_nearest_file_above_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "[tool.bnfold.passes]\njson = true\n")
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert run("passes").out.startswith("[")
    write(folder / "a", "[project]\nname = 'bnfold-user'\n")
    assert not run("passes").out.startswith("[")
    write(inner, "this is no TOML, and about other tools")
    assert run("passes").code == 0
    assert run("--config", "../../pyproject.toml", "passes").out.startswith("[")


def test_the_file_is_named_where_much_is_said(folder: Path) -> None:
    path = write(folder, '[tool.bnfold.explain]\nskip = ["fold-pad"]\n')
    outcome = run("explain", REWRITTEN, "--verbose")
    assert outcome.err == f"bnfold: {path} gives defaults to skip\n"
    assert run("explain", REWRITTEN).err == ""
    assert run("--no-config", "explain", REWRITTEN, "--verbose").err == ""
    write(folder, '[tool.bnfold.optimize]\nskip = ["fold-pad"]\n')
    assert run("explain", REWRITTEN, "--verbose").err == ""


@pytest.mark.parametrize("asked", ["verbose", "quiet"])
def test_the_command_line_decides_how_much_is_said(folder: Path, asked: str) -> None:
    other = {"verbose": "quiet", "quiet": "verbose"}[asked]
    expected = run("explain", REWRITTEN, f"--{asked}").out
    write(folder, f"[tool.bnfold.explain]\n{other} = true\n")
    assert run("explain", REWRITTEN, f"--{asked}").out == expected
    write(folder, "[tool.bnfold.explain]\nquiet = true\nverbose = true\n")
    outcome = run("explain", REWRITTEN)
    assert outcome.code == 2
    assert "--quiet and --verbose contradict" in outcome.err


# --- Steps that are switched off and asked for ----------------------------------------------------

ASKING = [
    ("check", "--certify", "always"),
    ("check", "--truth", "always"),
    ("check", "--require", "pass"),
    ("bench", "--require-speedup", "0"),
    ("bench", "--bench-seconds", "0.1"),
]


@pytest.mark.parametrize(("step", "option", "value"), ASKING)
@pytest.mark.parametrize("command", ["optimize", "batch"])
def test_to_ask_for_a_step_and_switch_it_off_is_a_usage_error(
    folder: Path, command: str, step: str, option: str, value: str
) -> None:
    out = ("out.onnx",) if command == "optimize" else ("--out", "out")
    outcome = run(command, REWRITTEN, *out, f"--no-{step}", option, value)
    outcome.failed(2, f"--no-{step} and {option}", "contradict each other")
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("option", "value"), [("--certify", "off"), ("--truth", "auto")])
def test_what_asks_for_no_check_does_not_contradict_it(
    folder: Path, option: str, value: str
) -> None:
    assert run("optimize", REWRITTEN, "out.onnx", *QUICK, option, value).code == 0


@pytest.mark.parametrize(("step", "option", "value"), ASKING)
def test_the_command_line_asks_for_a_step_that_a_file_switches_off(
    folder: Path, step: str, option: str, value: str
) -> None:
    write(folder, f"[tool.bnfold.optimize]\n{step} = false\nseed = 1\n")
    other = {"check": "--no-bench", "bench": "--no-check"}[step]
    record = run("optimize", REWRITTEN, "o", other, option, value, "--json").record
    assert record["equivalence"] if step == "check" else record["speed"]
    words = ["--no-config", "optimize", "--seed", "1", str(REWRITTEN), "o", other, option, value]
    assert record["command"][1:] == [*words, "--json"]


@pytest.mark.parametrize(("step", "option", "value"), ASKING)
def test_the_command_line_switches_off_a_step_that_a_file_asks_for(
    folder: Path, step: str, option: str, value: str
) -> None:
    content = value if step == "bench" else f'"{value}"'
    write(folder, f"[tool.bnfold.optimize]\n{option.removeprefix('--')} = {content}\nseed = 1\n")
    outcome = run("optimize", REWRITTEN, "o", *QUICK, "--json")
    record = record_of(outcome)
    assert (record["equivalence"], record["speed"]) == (None, [])
    is_said = f"--no-{step} leaves {option} without effect" in outcome.err
    assert is_said == (option != "--bench-seconds")
    words = ["--no-config", "optimize", "--seed", "1", str(REWRITTEN), "o", *QUICK, "--json"]
    assert record["command"][1:] == words


def test_what_a_file_requires_counts_more_than_what_it_switches_off(folder: Path) -> None:
    write(folder, "[tool.bnfold.optimize]\nbench = false\nrequire-speedup = 0\nseed = 1\n")
    record = run("optimize", REWRITTEN, "o", "--no-check", "--json").record
    assert record["speed"]
    assert "--no-bench" not in record["command"]
    assert "--require-speedup" in record["command"]


MISTAKES = {
    "unknown option": ("optimize.sample = 3", "tool.bnfold.optimize.sample", "'samples'"),
    "unknown command": ("optimise.samples = 3", "tool.bnfold.optimise", "'optimize'"),
    "no command": ("samples = 3", "tool.bnfold.samples", "known: optimize"),
    "no table": ("optimize = 3", "tool.bnfold.optimize", "not a table"),
    "text for a number": ('optimize.samples = "3"', "optimize.samples", "a whole number"),
    "a switch for a number": ("optimize.samples = true", "optimize.samples", "a whole number"),
    "a fraction": ("optimize.samples = 2.5", "optimize.samples", "2.5"),
    "out of range": ("optimize.samples = 0", "optimize.samples", "0"),
    "a number for text": ("optimize.truth = 1", "optimize.truth", "text"),
    "a number for a switch": ("optimize.check = 1", "optimize.check", "true or false"),
    "one for many": ('optimize.only = "fold-pad"', "optimize.only", "a list"),
    "many for one": ('optimize.truth = ["off"]', "optimize.truth", "one value"),
    "numbers in a list": ("optimize.only = [1]", "optimize.only", "text"),
    "a number for a path": ("optimize.data = 1", "optimize.data", "1"),
    "a switch for seconds": ("optimize.bench-seconds = true", "bench-seconds", "a number"),
    "the output": ('optimize.output = "x"', "optimize.output", "no option"),
    "an argument": ('optimize.model = "x"', "optimize.model", "no option"),
    "two spellings": ("optimize.bench_seconds = 1", "bench_seconds", "'bench-seconds'"),
    "no TOML": ("optimize.", "pyproject.toml", "TOML", "--no-config"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_that_names_file_and_key(folder: Path, case: str) -> None:
    line, *words = MISTAKES[case]
    path = write(folder, f"[tool.bnfold]\n{line}\n")
    outcome = run("optimize", REWRITTEN, "a.onnx", *QUICK)
    outcome.failed(2, str(path), *words)
    assert outcome.out == ""
    assert not (folder / "a.onnx").exists()
    assert run("--no-config", "optimize", REWRITTEN, "a.onnx", *QUICK).code == 0
    assert run("optimize", "--help").code == 0
    assert run("--help").code == 0


def test_a_number_may_be_whole_where_a_fraction_may_be(folder: Path) -> None:
    write(folder, "[tool.bnfold.bench]\nseconds = 0\nmemory = false\njson = true\n")
    assert run("bench", REWRITTEN).record["speed"]
    write(folder, "[tool.bnfold.bench]\nbench-seconds = 0.5\nmemory = false\njson = true\n")
    assert run("bench", REWRITTEN).record["speed"]


def test_files_that_are_named_must_be_of_use(folder: Path) -> None:
    write(folder, "[project]\n", "other.toml")
    run("--config", "other.toml", "passes").failed(2, "other.toml has no [tool.bnfold")
    run("--config", "none.toml", "passes").failed(2, "none.toml cannot be read", "--no-config")
    run("--config", "other.toml", "--no-config", "passes").failed(2, "contradict")
    write(folder, "[tool]\nbnfold = 3\n")
    run("passes").failed(2, "tool.bnfold is not a table")


def test_a_folder_that_was_removed_has_no_file(tmp_path: Path) -> None:
    script = 'rmdir ../gone && exec "$0" -m bnfold passes fold-pad'
    (tmp_path / "gone").mkdir()
    process = subprocess.run(
        ["sh", "-c", script, sys.executable],
        check=False,
        capture_output=True,
        cwd=tmp_path / "gone",
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, b"")
