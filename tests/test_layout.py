"""Imports go one way: what a part of bnfold may import is a table, and the table is kept."""

from __future__ import annotations

import graphlib
import itertools
import re

import pytest

from tests.support.layout import LIBRARIES, MAY_IMPORT, ROOT, circles, imports, sources, violations

PACKAGES = sorted(
    path.name for path in (ROOT / "src" / "bnfold").iterdir() if (path / "__init__.py").exists()
)
SOURCES = sources()


def test_no_import_breaks_a_rule() -> None:
    assert violations(SOURCES) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(SOURCES) == []
    assert circles(sources({"benchmarks": "benchmarks"})) == []


def test_samples_and_certificates_judge_independently() -> None:
    own = [
        each
        for each in imports(SOURCES)
        if each.importer.count(".") == 2 and each.importer.startswith("bnfold.proof.")
    ]
    assert own
    assert not [each for each in own if each.imported.startswith("bnfold.proof.certificates")]


def test_the_table_itself_has_no_circle() -> None:
    """Of the record, only its data is below; so the rooms are taken as the table names them."""
    graph = {
        room: {
            other
            for other in MAY_IMPORT
            for name in allowed
            if other != room and (other == name or other.startswith(f"{name}."))
        }
        for room, allowed in MAY_IMPORT.items()
    }
    # contract and query are what a pass is written in: below algebra, as rewriting's engine is not
    graph["algebra"].discard("rewriting")
    graphlib.TopologicalSorter(graph).prepare()


def test_every_package_has_its_rules_and_every_rule_its_package() -> None:
    rooms = {room.partition(".")[0] for room in MAY_IMPORT} - {"bnfold_passes"}
    top = {path.stem for path in (ROOT / "src" / "bnfold").glob("*.py")}
    assert rooms == {*PACKAGES, *top}


def planted(room: str, line: str) -> list[str]:
    """Return what is said of a file of this room whose third line is this import."""
    module = room if room == "bnfold_passes" else f"bnfold.{room}"
    text = f'"""A file."""\n\n{line}\n'
    return violations({f"{module}.planted": (f"{room}/planted.py", text)}, SOURCES)


FORBIDDEN = [
    (room, other)
    for room, other in itertools.product(MAY_IMPORT, PACKAGES)
    if room.partition(".")[0] != other
    and not any(name.partition(".")[0] == other for name in MAY_IMPORT[room])
]


@pytest.mark.parametrize(("room", "other"), FORBIDDEN, ids=lambda name: name)
def test_a_planted_import_of_each_forbidden_kind_is_told(room: str, other: str) -> None:
    (told,) = planted(room, f"from bnfold.{other} import anything")
    assert told.startswith(f"{room}/planted.py:3: ")
    assert f"{room} may import" in told
    assert told.endswith(f"not {other}")


def test_the_forbidden_kinds_are_those_that_matter() -> None:
    for room, others in {
        "graph": "rewriting algebra modelfile running proof speed workflow record report cli",
        "algebra": "modelfile record running proof",
        "modelfile": "algebra rewriting running",
        "proof": "rewriting algebra speed",
        "speed": "proof",
        "report": "algebra graph modelfile proof rewriting running speed workflow cli",
        "cli": "modelfile proof speed",
        "bnfold_passes": "modelfile running proof speed workflow record report cli",
    }.items():
        assert {(room, other) for other in others.split()} <= set(FORBIDDEN)


@pytest.mark.parametrize(
    "line",
    [
        "import bnfold.proof.verdict",
        "from bnfold import proof",
        "from bnfold.proof import verdict",
        "from ..proof.verdict import decide",
        "from ..proof import verdict",
        "def later(): import bnfold.proof",
        "if TYPE_CHECKING: from bnfold.proof.verdict import decide",
        "verdict = importlib.import_module('bnfold.proof.verdict')",
    ],
)
def test_an_import_is_seen_wherever_and_however_it_is_written(line: str) -> None:
    (told,) = planted("graph", line)
    assert told.startswith("graph/planted.py:3: graph may import arrays and itself, not proof")


@pytest.mark.parametrize(
    ("room", "other"),
    [("bnfold_passes", "rewriting.engine"), ("algebra", "rewriting.registry")],
)
def test_of_rewriting_passes_and_what_they_compute_with_see_the_contract_alone(
    room: str, other: str
) -> None:
    assert planted(room, f"from bnfold.{other} import anything")
    assert not planted(room, "from bnfold.rewriting.contract import require")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    (told,) = planted("graph", f"import {library}")
    assert f"{library} is imported by" in told
    (told,) = planted("bnfold_passes", f"import {library}")
    assert "a pass imports bnfold, numpy, onnx_ir and the standard library" in told


def test_nothing_imports_a_pass() -> None:
    (told,) = planted("workflow", "from bnfold_passes.strip_slice import strip_slice")
    assert "found by their entry points" in told


def test_a_circle_is_told() -> None:
    first = ("graph/first.py", "from bnfold.graph import second")
    second = ("graph/second.py", "def f():\n    from bnfold.graph.first import x")
    (told,) = circles({**SOURCES, "bnfold.graph.first": first, "bnfold.graph.second": second})
    assert "bnfold.graph.first ↔ bnfold.graph.second" in told


def test_every_package_is_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'"(.*?)"', text.split("\npackages = [", 1)[1].split("]", 1)[0])
    folders = {path.parent for path in (ROOT / "src").rglob("__init__.py")}
    found = {".".join(folder.relative_to(ROOT / "src").parts) for folder in folders}
    assert {*listed} == {*found, "bnfold_passes"}
