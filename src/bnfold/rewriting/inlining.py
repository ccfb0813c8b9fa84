"""Inlines the functions of a model, so that passes see what is in them and around them.

torch's first dynamo exporters (2.1 to 2.4) wrote each module as a function: a Conv in one, the
BatchNormalization after it in another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from bnfold.graph.walk import all_graphs, has_body
from bnfold.record.data import Certificate, RefusalRecord, RewriteRecord
from bnfold.rewriting.contract import ANY, Exactness, Pass, Refusal
from bnfold.rewriting.editor import Editor
from bnfold.rewriting.sites import sites

NAME = "inline-functions"

Identifier: TypeAlias = tuple[str, str, str]
"""The domain, name and overload of a function."""

_MOST_NODES = 100_000
"""Nodes that a model may have with all calls inlined, or ten times those of its file."""
_MOST_INSTANCES = 4_000_000
"""Of `_instances`: takes some ten seconds, as 2,000 calls of a function of one node do."""


class Why(Refusal):
    """Reasons to keep all functions of a model."""

    BODY_AS_PARAMETER = "a call of a function passes it a graph as an attribute"
    OPSETS_DIFFER = (
        "a function uses another version of an operator set than the model does",
        "convert the model to one version with onnx.version_converter",
    )
    RECURSIVE = "functions call each other in a circle"
    TOO_LARGE = (
        "with all calls inlined, the model would have more than 100,000 nodes, and ten times"
        " as many as its file"
    )
    TOO_MANY_CALLS = "its functions call each other so often that to inline them takes too long"


def inline_functions(
    model: ir.Model, passes: Sequence[Pass]
) -> tuple[list[RewriteRecord], list[RefusalRecord]]:
    """Inline all calls, if that brings an operator into view for one of the passes.

    Return a record of each function called outside of functions, or of why it stays.
    """
    if not model.functions or not _concern(model, passes):
        return [], []
    names = sites(model)
    calls: dict[Identifier, list[str]] = {}
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            if _is_call(model, node):
                calls.setdefault(node.op_identifier(), []).append(names[node])
    reason = _reason_to_keep(model)
    if reason is not None:
        return [], [_refusal(reason, identifier) for identifier in calls]
    domains = {domain for domain, _, _ in model.functions}
    _complete_calls(model)
    InlinePass()(model)
    model.functions.clear()  # those that nothing calls
    used = {node.domain for graph in all_graphs(model) for node in graph}
    for domain in domains - used:
        model.opset_imports.pop(domain, None)
    return [_record(identifier, sites) for identifier, sites in calls.items()], []


def _concern(model: ir.Model, passes: Sequence[Pass]) -> bool:
    """Say whether a function has an operator that a pass starts from, or meets one."""
    roots = {root for pass_ in passes for root in pass_.roots}
    if ANY in roots:
        return True
    functions = list(model.functions.values())
    within = {node.op_type for function in functions for node in function.all_nodes()}
    around = {
        neighbour.op_type
        for graph in all_graphs(model)
        for node in graph
        if _is_call(model, node)
        for neighbour in (*node.predecessors(), *node.successors())
    }
    return bool(roots & (within | around))


def _is_call(model: ir.Model, node: ir.Node) -> bool:
    return node.op_identifier() in model.functions


def _complete_calls(model: ir.Model) -> None:
    """Add the results that calls leave out, under names: the function may read them itself."""
    editor = Editor(model)
    for graph in all_graphs(model):
        for node in graph:
            function = model.functions.get(node.op_identifier())
            if function is None:
                continue
            node.resize_outputs(max(len(node.outputs), len(function.outputs)))
            for output, result in zip(node.outputs, function.outputs, strict=False):
                output.name = output.name or editor.fresh_name(result.name or function.name)


def _reason_to_keep(model: ir.Model) -> Refusal | None:
    calls = {
        identifier: [node.op_identifier() for node in function.all_nodes()]
        for identifier, function in model.functions.items()
    }
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError:
        return Why.RECURSIVE
    sizes: dict[Identifier, int] = {}
    for identifier in order:
        sizes[identifier] = sum(sizes.get(called, 1) for called in calls.get(identifier, ())) or 1
    nodes = [node for graph in (model.graph, *model.graph.subgraphs()) for node in graph]
    in_file = len(nodes) + sum(map(len, calls.values()))
    if sum(sizes.get(node.op_identifier(), 1) for node in nodes) > max(_MOST_NODES, 10 * in_file):
        return Why.TOO_LARGE
    if _instances(order, calls, nodes) > _MOST_INSTANCES:
        return Why.TOO_MANY_CALLS
    everything = [*nodes, *(n for f in model.functions.values() for n in f.all_nodes())]
    if any(_is_call(model, node) and has_body(node) for node in everything):
        return Why.BODY_AS_PARAMETER
    imports = model.opset_imports
    if any(
        imports.get(domain, version) != version
        for function in model.functions.values()
        for domain, version in function.opset_imports.items()
    ):
        return Why.OPSETS_DIFFER
    return None


def _instances(
    order: Sequence[Identifier],
    calls: Mapping[Identifier, Sequence[Identifier]],
    nodes: Iterable[ir.Node],
) -> int:
    """Count the instances of each function, and add up their squares, weighed with their nodes.

    onnx_ir looks for a new name among all that the earlier instances of a function have.
    """
    instances = Counter(node.op_identifier() for node in nodes)
    for identifier in reversed(order):  # callers first
        for called in calls.get(identifier, ()):
            instances[called] += instances[identifier]
    return sum(instances[each] ** 2 * len(calls[each]) for each in calls)


def _record(identifier: Identifier, sites: list[str]) -> RewriteRecord:
    return RewriteRecord(
        pass_name=NAME,
        site=_name(identifier),
        op_type="function",
        nodes=sites,
        exactness=Exactness.BITWISE.value,
        detail="",
        certificate=Certificate("open", note="only runs of the whole model compare it"),
    )


def _refusal(reason: Refusal, identifier: Identifier) -> RefusalRecord:
    return RefusalRecord(
        pass_name=NAME,
        site=_name(identifier),
        op_type="function",
        reason=reason.name,
        message=reason.message,
        remedy=reason.remedy,
        in_the_way="",
    )


def _name(identifier: Identifier) -> str:
    return ".".join(part for part in identifier if part)
