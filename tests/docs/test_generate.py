"""What is generated besides the pages of passes: commands, the record's fields, links, layouts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import typer

from bnfold.cli.main import app
from docs.generate.commands import commands
from docs.generate.layout import layout
from docs.generate.links import for_site
from docs.generate.record import SCHEMA, fields
from docs.generate.tables import cell


def test_every_command_and_option_is_listed() -> None:
    parts = re.split(r"^## bnfold ([\w-]+)\n", commands(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    group: Any = typer.main.get_command(app)
    assert sorted(sections) == sorted(group.commands)
    assert next(iter(sections)) == "optimize"
    for name, command in group.commands.items():
        assert command.help.strip() in sections[name]
        for parameter in command.params:
            for option in [*parameter.opts, *parameter.secondary_opts]:
                if option.startswith("--"):
                    assert option in sections[name]
                    assert f"{option}`" in sections[name] or f"{option} " in sections[name] or (
                        f"{option}," in sections[name]
                    )  # fmt: skip


def test_a_bar_within_a_cell_does_not_end_it() -> None:
    for line in commands().splitlines():
        if line.startswith("| "):
            assert len(line.split("|")) == 4, line
            assert "\\|" not in line  # which a code span would show as it is


def test_every_field_of_the_record_is_listed_with_its_type() -> None:
    schema = json.loads(SCHEMA.read_text())
    parts = re.split(r"^### (\w+)\n", fields(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    objects = {"Record": schema, **schema["$defs"]}
    assert [*sections] == [*objects]
    for name, definition in objects.items():
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*) \|$", sections[name], re.MULTILINE)
        assert [field for field, _, _ in rows] == [*definition["properties"]]
        assert all(kind.strip() for _, kind, _ in rows)


def test_what_is_written_below_a_field_is_listed_with_it() -> None:
    assert re.search(r"^\| `op_type` \| string \| The operator at the site\. \|$", fields(), re.M)
    assert "| `equivalence` | [Equivalence](#equivalence) or null |" in fields()


FILES = {"index.md", "cuda.md", "passes/README.md", "passes/fold-pad.md", "benchmarks/speed.svg"}


@pytest.mark.parametrize(
    ("source", "page", "link", "expected"),
    [
        ("README.md", "index.md", "[a](docs/cuda.md)", "[a](cuda.md)"),
        ("README.md", "index.md", "[a](docs/cuda.md#install)", "[a](cuda.md#install)"),
        ("README.md", "index.md", "![a](docs/benchmarks/speed.svg)", "![a](benchmarks/speed.svg)"),
        ("README.md", "index.md", "[a](LICENSE)", "a"),
        ("README.md", "index.md", "[a](https://x.org/)", "[a](https://x.org/)"),
        ("README.md", "index.md", "[a](#install)", "[a](#install)"),
        ("docs/cuda.md", "cuda.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/cuda.md", "cuda.md", "[`a`](../src/bnfold/api.py)", "`a`"),
        ("docs/cuda.md", "cuda.md", "[a](passes/README.md)", "[a](passes/README.md)"),
        ("docs/cuda.md", "cuda.md", "[a](nowhere.md)", "a"),
        (
            "docs/passes/README.md",
            "passes/README.md",
            "[`a`](../../passes/fold_pad.py)",
            "[`a`](fold-pad.md)",
        ),
        ("docs/passes/README.md", "passes/README.md", "[a](../cuda.md)", "[a](../cuda.md)"),
    ],
)
def test_links_to_files_become_links_to_pages(
    source: str, page: str, link: str, expected: str
) -> None:
    assert for_site(f"See {link}.", source, page, FILES) == f"See {expected}."


def test_a_node_is_below_all_that_it_reads() -> None:
    reads: dict[str, list[str]] = {"x": [], "a": ["x"], "b": ["a"], "c": ["b", "x"], "d": ["a"]}
    placed = layout(reads)
    depths = {name: depth for depth, row in enumerate(placed.rows) for name in row}
    assert all(depths[name] > depths[source] for name in reads for source in reads[name])
    assert [len(row) for row in placed.rows] == [1, 2, 3, 1]


def test_an_edge_passes_a_bend_in_each_row_that_it_skips() -> None:
    placed = layout({"x": [], "a": ["x"], "b": ["a"], "c": ["b", "x"]})
    rows = {name: depth for depth, row in enumerate(placed.rows) for name in row}
    for edge in placed.edges:
        assert [rows[name] for name in edge] == [*range(rows[edge[0]], rows[edge[-1]] + 1)]
    assert ["x", "c"] in [[edge[0], edge[-1]] for edge in placed.edges]


def test_rows_are_ordered_so_that_edges_do_not_cross() -> None:
    reads: dict[str, list[str]] = {"x": [], "y": [], "of y": ["y"], "of x": ["x"]}
    assert [list(row) for row in layout(reads).rows] == [["x", "y"], ["of x", "of y"]]


def test_a_node_that_reads_several_is_below_their_middle() -> None:
    reads: dict[str, list[str]] = {"a": [], "b": [], "c": [], "sum": ["a", "b"], "of b": ["b"]}
    assert list(layout({**reads, "of a": ["a"]}).rows[1]) == ["of a", "sum", "of b"]


def test_nothing_is_laid_out_as_nothing() -> None:
    assert list(layout({}).rows) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a&#124;b"),
        ("`a` < b & c", "`a` &lt; b &amp; c"),
        ("`--provider cpu|cuda` or `x`", "<code>--provider cpu&#124;cuda</code> or `x`"),
        ("`a < b|c`", "<code>a &lt; b&#124;c</code>"),
        ("`a < b`", "`a < b`"),
    ],
)
def test_text_in_a_cell(text: str, expected: str) -> None:
    assert cell(text) == expected
