"""Prints what a model is, in figures; and in which nodes two models differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from bnfold.report.changes import operator_changes
from bnfold.report.terminal.lines import Detail, cell, say, styled, table
from bnfold.workflow.inspection import Inspection, differing_nodes

_MOST_NODES = 10


def as_data(one: Inspection, other: Inspection | None) -> dict[str, Any]:
    """Return one model, or two and how their nodes differ, as plain data."""
    if other is None:
        return one.to_dict()
    nodes = dataclasses.asdict(differing_nodes(one, other))
    return {"first": one.to_dict(), "second": other.to_dict(), "nodes": nodes}


def print_inspection(console: Console, model: Inspection) -> None:
    """Print the figures of one model, and its operators."""
    rows = table("", "", numbers=False)
    for name, *texts in _figures([model]):
        rows.add_row(name, *map(styled, texts))
    console.print(rows)
    _print_interface(console, "inputs", model.inputs)
    _print_interface(console, "outputs", model.outputs)
    counts = table("operators", "count")
    for name, count in sorted(model.model.ops.items(), key=lambda item: (-item[1], item[0])):
        counts.add_row(cell(console, name), str(count))
    console.print()
    console.print(counts)


def print_difference(console: Console, one: Inspection, other: Inspection, detail: Detail) -> None:
    """Print the figures of two models side by side, and what differs."""
    rows = table("", "first", "second", numbers=False)
    for name, *texts in _figures([one, other]):
        rows.add_row(name, *map(styled, texts))
    console.print(rows)
    for title, mine, others in (
        ("inputs", one.inputs, other.inputs),
        ("outputs", one.outputs, other.outputs),
    ):
        if mine != others:
            _print_interface(console, f"{title} of the first", mine)
            _print_interface(console, f"{title} of the second", others)
    counts = table("operators", "first", "second", "change")
    for row in operator_changes(one.model.ops, other.model.ops):
        counts.add_row(cell(console, row.name), str(row.before), str(row.after), row.change)
    console.print()
    console.print(counts)
    nodes = differing_nodes(one, other)
    changed = {
        name: before if before == after else f"{before} → {after}"
        for name, (before, after) in nodes.changed.items()
    }
    _print_nodes(console, "only in the first", nodes.gone, detail)
    _print_nodes(console, "only in the second", nodes.new, detail)
    _print_nodes(console, "with other inputs, attributes or operators", changed, detail)


def _figures(models: Sequence[Inspection]) -> list[list[str]]:
    """Return rows: a name, and a text for each model."""
    sizes = [model.model.bytes + model.data_bytes for model in models]
    opsets = [
        ", ".join(f"{domain} {version}" for domain, version in model.model.opset.items())
        for model in models
    ]
    return [
        ["file", *(str(model.model.path) for model in models)],
        ["bytes", *(f"{size:,}" for size in sizes)],
        ["IR version", *(str(model.model.ir_version) for model in models)],
        ["operator sets", *opsets],
        ["functions", *(str(model.functions) for model in models)],
        ["nodes", *(f"{model.model.nodes:,}" for model in models)],
        ["parameters", *(f"{model.cost.parameters:,}" for model in models)],
        ["multiply-adds", *map(_multiplications, models)],
    ]


def _multiplications(model: Inspection) -> str:
    cost = model.cost
    unknown = f", and {cost.unknown} operators of unknown sizes" if cost.unknown else ""
    return f"{cost.multiplications:,}{unknown}"


def _print_interface(console: Console, title: str, values: Mapping[str, str]) -> None:
    for place, (name, described) in enumerate(values.items()):
        say(console, f"{title if place == 0 else ' ' * len(title)}  {name}: {described}")


def _print_nodes(console: Console, title: str, nodes: Mapping[str, str], detail: Detail) -> None:
    if not nodes:
        return
    console.print()
    say(console, f"{len(nodes):,} {'node' if len(nodes) == 1 else 'nodes'} {title}:")
    shown = list(nodes.items())
    shown = shown if detail == Detail.VERBOSE else shown[:_MOST_NODES]
    for name, operator in shown:
        say(console, f"{operator} {name}", indent=2)
    if len(nodes) > len(shown):
        say(console, f"and {len(nodes) - len(shown):,} more (--verbose)", indent=2)
