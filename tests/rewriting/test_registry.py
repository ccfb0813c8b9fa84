"""Finding the passes, including those of other packages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from bnfold.errors import UsageError
from bnfold.rewriting.contract import Exactness, Op, Pass, Replace
from bnfold.rewriting.registry import ENTRY_POINT_GROUP, all_passes, choose_passes, offered
from tests.support.cli import REWRITTEN, run, wrong_pass

BUILT_IN = ["fold-batchnorm", "pool-before-activation", "strip-dropout"]

third_party = wrong_pass()
not_a_pass = "text"


def offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Install exactly these passes, given as ``module:attribute``."""
    installed = [EntryPoint(value, value, ENTRY_POINT_GROUP) for value in values]
    monkeypatch.setattr("bnfold.rewriting.registry.offered", lambda: installed)


def names(passes: Sequence[Pass]) -> list[str]:
    return [pass_.name for pass_ in passes]


def test_the_built_in_passes_are_installed_like_any_other() -> None:
    assert set(BUILT_IN) <= set(names(all_passes()))
    assert names(all_passes()) == sorted(names(all_passes()))


@pytest.mark.parametrize(
    ("only", "skip", "chosen"),
    [
        ([], [], BUILT_IN),
        (["strip-dropout"], [], ["strip-dropout"]),
        (["strip-dropout", "fold-batchnorm"], [], ["fold-batchnorm", "strip-dropout"]),
        ([], ["fold-batchnorm"], ["pool-before-activation", "strip-dropout"]),
        (["strip-dropout", "fold-batchnorm"], ["fold-batchnorm"], ["strip-dropout"]),
    ],
)
def test_choosing(only: list[str], skip: list[str], chosen: list[str]) -> None:
    assert [name for name in names(choose_passes(only, skip)) if name in BUILT_IN] == chosen


def test_names_may_come_from_an_iterator() -> None:
    assert names(choose_passes(iter(["strip-dropout"]))) == ["strip-dropout"]


@pytest.mark.parametrize(
    ("only", "skip", "message"),
    [
        (["fold-batchnrm"], [], "unknown pass 'fold-batchnrm'; did you mean 'fold-batchnorm'"),
        ([], ["strip_dropout"], "unknown pass 'strip_dropout'; did you mean 'strip-dropout'"),
        (["xyz"], [], "unknown pass 'xyz'; known: cancel-transposes, "),
        (["strip-dropout"], ["strip-dropout"], "leave no pass"),
    ],
)
def test_choosing_unknown_passes(only: list[str], skip: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_passes(only, skip)


def test_a_pass_of_another_package_is_found_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "bnfold_passes.fold_batchnorm:fold_batchnorm", f"{__name__}:third_party")
    assert names(all_passes()) == ["fold-batchnorm", "relu-to-sigmoid"]
    record = run("explain", REWRITTEN, "--only", "relu-to-sigmoid", "--json").record
    assert {rewrite["pass"] for rewrite in record["rewrites"]} == {"relu-to-sigmoid"}
    assert "relu-to-sigmoid" in run("passes").out


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("bnfold_passes.no_such_module:anything", ["no_such_module", "reinstall bnfold"]),
        ("bnfold_passes.fold_pad:no_such_name", ["no_such_name", "reinstall bnfold"]),
    ],
)
def test_a_damaged_installation_is_told(
    monkeypatch: pytest.MonkeyPatch, value: str, words: list[str]
) -> None:
    offer(monkeypatch, value)
    run("passes").failed(2, *words)
    offer(monkeypatch)
    run("passes").failed(2, "no passes are installed")


BROKEN = {
    "raises": ("raise RuntimeError('no\\nway')", "RuntimeError: no way"),
    "exits": ("import sys; sys.exit(3)", "it exits with 3"),
    "is no python": ("this is no Python", "SyntaxError"),
    "is binary": ("\0", "null byte"),
    "offers nothing": ("", "AttributeError"),
    "offers a text": ("offered = 'text'", "is not a pass"),
    "never ends": ("while True: pass", "it takes more than 0.3 s"),
    "has a known name": (
        "from bnfold_passes.fold_pad import fold_pad as offered",
        "bnfold has a pass named 'fold-pad', too",
    ),
}
"""What a module of another package holds, and what is said of it."""


@pytest.mark.parametrize("case", BROKEN)
def test_a_run_goes_on_without_a_broken_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    content, reason = BROKEN[case]
    module = f"plugin_that_{case.replace(' ', '_')}"
    (tmp_path / f"{module}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("bnfold.rewriting.plugins.SECONDS", 0.3)
    own = [entry_point.value for entry_point in metadata.entry_points(group=ENTRY_POINT_GROUP)]
    plugin = f"{module}:offered"
    offer(monkeypatch, *own, plugin)
    expected = run("explain", REWRITTEN, "--skip", plugin)
    assert (expected.code, expected.err) == (0, "")

    outcome = run("explain", REWRITTEN, "--json")
    outcome_line = outcome.err.splitlines()
    assert outcome.code == 0
    assert len(outcome_line) == 1, outcome.err
    assert plugin in outcome_line[0]
    assert reason in outcome_line[0]
    (described,) = outcome.record["environment"]["plugins"]
    assert reason.split()[0] in described

    named = run("explain", REWRITTEN, "--only", "fold-batchnorm")
    assert (named.code, named.err) == (0, "")
    run("explain", REWRITTEN, "--only", plugin).failed(2, plugin, reason)
    assert run("explain", REWRITTEN).out == expected.out


def test_a_plugin_that_prints_leaves_the_record_pure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "print('hello')\nfrom tests.rewriting.test_registry import third_party as offered\n"
    (tmp_path / "plugin_that_prints.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    offer(monkeypatch, "bnfold_passes.fold_batchnorm:fold_batchnorm", "plugin_that_prints:offered")
    outcome = run("explain", REWRITTEN, "--json")
    assert outcome.err == "hello\n"
    assert outcome.record["environment"]["plugins"] == [
        "relu-to-sigmoid of plugin_that_prints:offered"
    ]


def _exits(node: ir.Node) -> None:
    sys.exit(3)


def _raises(node: ir.Node) -> None:
    raise ValueError("no way")


def _never_ends(node: ir.Node) -> None:
    while True:
        pass


def _returns_a_number(node: ir.Node) -> Any:
    return 7


def _returns_nonsense(node: ir.Node) -> Any:
    text: Any = "text"
    return Replace([node], {node.outputs[0]: text})


def _again_and_again(node: ir.Node) -> Replace:
    return Replace([node], {node.outputs[0]: Op("Relu", node.inputs, like=node)})


BAD_CALLS = {
    function: Pass("bad", ("Relu",), Exactness.BITWISE, (), function, "Bad.")
    for function in (
        _exits,
        _raises,
        _never_ends,
        _returns_a_number,
        _returns_nonsense,
        _again_and_again,
    )
}
bad = third_party


@pytest.mark.parametrize("function", BAD_CALLS, ids=lambda function: function.__name__)
def test_a_failing_plugin_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    monkeypatch.setattr(f"{__name__}.bad", BAD_CALLS[function])
    monkeypatch.setattr("bnfold.rewriting.plugins.SECONDS", 0.3)
    offer(monkeypatch, "bnfold_passes.fold_batchnorm:fold_batchnorm", f"{__name__}:bad")
    outcome = run("explain", REWRITTEN)
    outcome.failed(70, f"the pass bad of {__name__}:bad", "--skip bad")
    assert run("explain", REWRITTEN, "--skip", "bad").code == 0


def test_what_is_installed_is_read_once_for_each_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered() is offered()
    package = tmp_path / "late-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nlate-pass = late:offered\n")
    assert "late-pass" not in {entry_point.name for entry_point in offered()}
    monkeypatch.syspath_prepend(tmp_path)
    assert "late-pass" in {entry_point.name for entry_point in offered()}
