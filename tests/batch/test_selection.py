"""Which models a batch has, and where each of them goes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.batch.selection import (
    INDEX_FILES,
    Selected,
    distinct,
    name_all,
    pages_of,
    require_within,
    select,
)
from bnfold.errors import UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a/model.onnx",
        "b/model.ONNX",
        "b/deep/x.onnx",
        "b/notes.txt",
        "out/a/model.onnx",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def chosen(tree: Path, *arguments: str) -> list[str]:
    found = [model for each in arguments for model in select(each, tree, tree / "out")]
    return [str(model.path.relative_to(tree)) for model in distinct(found)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a/model.onnx"], ["a/model.onnx"]),
        (["out"], ["out/a/model.onnx"]),
        (["b/notes.txt"], ["b/notes.txt"]),
        (["b"], ["b/model.ONNX", "b/deep/x.onnx"]),
        (["."], ["a/model.onnx", "b/model.ONNX", "b/deep/x.onnx"]),
        (["*/*.onnx"], ["a/model.onnx"]),
        (["**/*.onnx"], ["a/model.onnx", "b/deep/x.onnx"]),
        (["*"], ["a/model.onnx", "b/model.ONNX", "b/deep/x.onnx"]),
        (["a", "a/model.onnx", "**/model.*"], ["a/model.onnx", "b/model.ONNX"]),
    ],
)
def test_files_folders_and_patterns(tree: Path, arguments: list[str], expected: list[str]) -> None:
    """A folder counts with all below it, and results of a batch do not count at all."""
    assert chosen(tree, *arguments) == expected


def test_a_file_whose_name_is_a_pattern(tree: Path) -> None:
    (tree / "[x].onnx").touch()
    assert chosen(tree, "[x].onnx") == ["[x].onnx"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("c.onnx", "c.onnx does not exist; name an .onnx file, a folder or a pattern"),
        ("*.onnx", "no .onnx file matches '*.onnx'"),
        ("empty", "no .onnx file is in empty"),
    ],
)
def test_an_argument_without_models(tree: Path, argument: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("*", r"\*")):
        chosen(tree, argument)


def selected(path: str, root: str = "", name: str = "") -> Selected:
    return Selected(Path(path), Path(root) if root else Path(path).parent, name=name)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([selected("/m/x.onnx")], ["x.onnx"]),
        ([selected("/m/a/x.onnx"), selected("/m/b/x.onnx")], ["a/x.onnx", "b/x.onnx"]),
        ([selected("/m/a/b/x.onnx", "/m")], ["a/b/x.onnx"]),
        ([selected("/m/a/x.onnx", "/m/a"), selected("/n/x.onnx")], ["m/a/x.onnx", "n/x.onnx"]),
        ([selected("/m/x.onnx"), selected("/m/X.onnx")], ["x.onnx", "X-2.onnx"]),
        ([selected("/m/index"), selected("/m/index.onnx")], ["index-2", "index.onnx"]),
        ([selected("/m/x"), selected("/m/x.json")], ["x", "x-2.json"]),
        (
            [selected("/m/x.onnx"), selected("/m/y.onnx", name="x.onnx")],
            ["x-2.onnx", "x.onnx"],
        ),
        (
            [selected("/m/x.onnx", "/m"), selected("/m/x.onnx.html/y.onnx", "/m")],
            ["x-2.onnx", "x.onnx.html/y.onnx"],
        ),
        ([selected(f"/m/{'n' * 210}.onnx")], ["n" * 210 + ".onnx"]),
    ],
)
def test_names_mirror_the_tree_and_are_unique(models: list[Selected], expected: list[str]) -> None:
    assert name_all(models) == expected


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "A", "x.onnx", "index", "index.html", "x", "x.json",
                                  "x.html", "Ä"]),
                 min_size=1, max_size=3),
        min_size=1, max_size=8,
    )
)  # fmt: skip
def test_no_two_models_share_a_file(paths: list[list[str]]) -> None:
    models = distinct(selected("/m/" + "/".join(path)) for path in paths)
    names = name_all(models)
    files = [each.casefold() for name in names for each in (name, *pages_of(name))]
    assert len({*files, *INDEX_FILES}) == len(files) + len(INDEX_FILES)
    folders = {str(folder).casefold() for name in names for folder in PurePosixPath(name).parents}
    assert not folders & set(files)
    for name in names:
        require_within(name)


@pytest.mark.parametrize("name", ["/x", "../x", "a/../../x", "", ".", "a\\x", "C:/x\\y", "a\0"])
def test_a_name_that_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(UsageError, match="leads out of the folder"):
        require_within(name)
    if name:
        with pytest.raises(UsageError, match="leads out of the folder"):
            name_all([selected("/m/x.onnx", name=name)])


def test_names_that_are_asked_for_twice() -> None:
    models = [selected("/m/x.onnx", name="z"), selected("/m/y.onnx", name="Z")]
    with pytest.raises(UsageError, match="'Z' is taken"):
        name_all(models)


@pytest.mark.parametrize("names", [["a.onnx", "a.onnx/b.onnx"], ["a.onnx.html/b.onnx", "a.onnx"]])
def test_a_name_that_is_asked_for_and_is_a_folder_of_another(names: list[str]) -> None:
    models = [selected(f"/m/{number}.onnx", name=name) for number, name in enumerate(names)]
    with pytest.raises(UsageError, match="is taken"):
        name_all(models)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/m/.bnfold/x.onnx", "what is not finished; give it another name"),
        ("/m/.BNFOLD/x.onnx", "what is not finished"),
        (f"/m/{'n' * 211}.onnx", "no room for those of its pages; give it another name"),
        (f"/m/{'ü' * 108}/x.onnx", "no room"),
    ],
)
def test_a_place_that_a_batch_cannot_write_to(path: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        name_all([selected(path, "/m")])
    with pytest.raises(UsageError, match=words):
        name_all([selected("/m/y.onnx", name=path.removeprefix("/m/"))])
    assert name_all([selected(path, "/m", name="z.onnx")]) == ["z.onnx"]


@pytest.mark.parametrize(
    ("models", "kept"),
    [
        (["x", "x"], [1]),
        (["x:p", "x:q"], [0, 1]),
        (["x:p", "x:p"], [0]),
        (["x:p", "x"], [0]),
        (["x", "x:p"], [1]),
        (["x", "x!"], [1]),
        (["x!", "x"], [0]),
        (["x!", "x:p"], [0, 1]),
        (["x!", "x!"], [0]),
        (["x", "y", "x:p"], [1, 2]),
    ],
)
def test_a_model_that_is_named_several_times(models: list[str], kept: list[int]) -> None:
    """After a colon, the name that was asked for; with an exclamation mark, an option was."""
    given = []
    for text in models:
        path, _, name = text.rstrip("!").partition(":")
        options = {"samples": 2} if text.endswith("!") else {}
        given.append(Selected(Path(f"/m/{path}"), Path("/m"), options, name))
    found = distinct(given)
    assert [next(i for i, each in enumerate(given) if each is one) for one in found] == kept
