"""Finding the passes, including those of other packages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint

import pytest

from bnfold.errors import UsageError
from bnfold.rewriting.contract import Pass
from bnfold.rewriting.registry import ENTRY_POINT_GROUP, all_passes, choose_passes
from tests.support.cli import REWRITTEN, run, wrong_pass

BUILT_IN = ["fold-batchnorm", "pool-before-activation", "strip-dropout"]

third_party = wrong_pass()
not_a_pass = "text"


def offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    """Install exactly these passes, given as ``module:attribute``."""
    installed = [EntryPoint(value, value, ENTRY_POINT_GROUP) for value in values]

    def entry_points(*, group: str) -> Sequence[EntryPoint]:
        return installed if group == ENTRY_POINT_GROUP else []

    monkeypatch.setattr("bnfold.rewriting.registry.entry_points", entry_points)


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
        (["xyz"], [], "unknown pass 'xyz'; known: cascade-max-pool, "),
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
    ("offered", "words"),
    [
        ([], ["no passes are installed"]),
        (["no_such_module:anything"], ["no_such_module:anything", "cannot be imported"]),
        ([f"{__name__}:no_such_name"], ["no_such_name", "reinstall or uninstall"]),
        ([f"{__name__}:not_a_pass"], ["not_a_pass is offered as a pass but is not one"]),
        ([f"{__name__}:third_party"] * 2, ["two installed packages", "'relu-to-sigmoid'"]),
    ],
    ids=["none", "no module", "no attribute", "no pass", "twice"],
)
def test_broken_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, offered: list[str], words: list[str]
) -> None:
    offer(monkeypatch, *offered)
    run("passes").failed(2, *words)
