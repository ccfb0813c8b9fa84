"""The only code that edits a graph: it turns a pass's `Replace` into nodes, values and names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.graph.constants import may_hold_initializers, note_functions
from bnfold.graph.shapes import record_shape, shape_of
from bnfold.graph.walk import all_graphs, bodies_of
from bnfold.rewriting.contract import Op, Output, Replace, Stored, Weight
from bnfold.rewriting.query import is_used, may_take_over


@dataclass(frozen=True)
class Edit:
    """The nodes that a replacement created and removed, and the values that took over."""

    created: dict[ir.Node, ir.Node | None]
    """The new nodes, each with the old one whose name it inherits, if any."""
    removed: list[ir.Node]
    """The nodes that were no longer needed."""
    values: dict[ir.Value, ir.Value]
    """What is read now in place of each replaced value."""


class Editor:
    """Applies replacements to one model.

    It inserts new nodes before the node whose output they replace. That is not always after all
    that they read, so callers must `sort` the graphs when all replacements are made.

    Every new name is unique in the whole model, including subgraphs and functions, so that no value
    is captured or shadowed by accident.
    """

    def __init__(self, model: ir.Model) -> None:
        self._names: set[str] = set()
        self._numbers: dict[str, itertools.count[int]] = {}
        self._output_places: dict[ir.Graph, dict[ir.Value, list[int]]] = {}
        for graph in all_graphs(model):
            self._names.update(name for name in _value_names(graph))
        note_functions(model)

    def apply(self, replace: Replace) -> Edit:
        """Make the replacement, and remove the pattern's dead nodes."""
        built = _Built(self)
        if replace.hoisted is not None:
            built.in_place_of(replace.nodes[0].outputs[0]).hoist(replace.hoisted)
        substitutes = {
            old: built.in_place_of(old).value_of(new) for old, new in replace.outputs.items()
        }
        values = {old: self._substitute(old, new, built) for old, new in substitutes.items()}
        removed = _remove_dead(replace.nodes)
        for old, new in values.items():
            source = old.producer()
            if not old.name and source is not None and source.graph is not None:
                old.name = self.fresh_name(new.name or "")  # a Split computes each of its outputs
            _drop_unused_initializer(old)
        return Edit(built.nodes, removed, values)

    def drop_unused_initializers(self, model: ir.Model) -> None:
        """Remove all initializers that nothing reads; those that callers may override stay."""
        for graph in all_graphs(model):
            for value in list(graph.initializers.values()):
                _drop_unused_initializer(value)

    def fresh_name(self, stem: str) -> str:
        """Return a name that no value of the model has, and reserve it."""
        name = stem
        if name in self._names:
            numbers = self._numbers.setdefault(stem, itertools.count(1))
            name = next(name for n in numbers if (name := f"{stem}_{n}") not in self._names)
        self._names.add(name)
        return name

    def _substitute(self, old: ir.Value, new: ir.Value, built: _Built) -> ir.Value:
        """Make all readers of `old` read `new`; a graph output keeps its name, type and shape.

        Return what stands for `old` from now on: `new`, or a copy of it with the name of an output.
        """
        is_output = old.is_graph_output()
        is_new = built.made(new) and not new.is_graph_output()  # nor one of two that it replaces
        successor = new
        if not (is_new or may_take_over(new, old)):
            identity = ir.Node("", "Identity", [new])
            successor = built.in_place_of(old).add_node(identity, old.name or "")
        if is_output or is_new:
            _rename(successor, old)
        elif built.stored(new):
            new.name, old.name = old.name, ""
        if is_output:
            self._replace_graph_output(old, successor)
        old.replace_all_uses_with(new)
        return successor

    def _replace_graph_output(self, old: ir.Value, new: ir.Value) -> None:
        graph = old.graph
        assert isinstance(graph, ir.Graph)
        places = self._output_places.get(graph)
        if places is None:
            places = self._output_places[graph] = {}
            for index, output in enumerate(graph.outputs):
                places.setdefault(output, []).append(index)
        moved = places.pop(old)
        for index in moved:
            graph.outputs[index] = new
        places.setdefault(new, []).extend(moved)


class _Built:
    """The nodes and weights made for one replacement, each before the node it replaces."""

    _graph: ir.Graph
    _anchor: ir.Node

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._values: dict[Op | Weight | Stored, ir.Value] = {}
        self._weights: set[ir.Value] = set()
        self._hoisted: dict[ir.Value, ir.Value] = {}
        self.nodes: dict[ir.Node, ir.Node | None] = {}

    def in_place_of(self, old: ir.Value) -> _Built:
        """Insert the following nodes before the node that computes `old`."""
        anchor = old.producer()
        if anchor is not None:  # an initializer is only ever replaced by an existing value
            assert anchor.graph is not None
            self._anchor, self._graph = anchor, anchor.graph
        return self

    def made(self, value: ir.Value) -> bool:
        """Say whether the value is computed by one of the new nodes."""
        return value.producer() in self.nodes

    def stored(self, value: ir.Value) -> bool:
        """Say whether the value is one of the new weights."""
        return value.is_initializer() and value in self._weights

    def value_of(self, operand: ir.Value | Op | Output | Weight | Stored) -> ir.Value:
        """Return the value of an expression, making its nodes if needed."""
        if isinstance(operand, ir.Value):
            return self._hoisted.get(operand, operand)
        if isinstance(operand, Output):
            node = self.value_of(operand.op).producer()
            assert node is not None
            output = node.outputs[operand.index]
            output.name = output.name or self._editor.fresh_name(f"{node.outputs[0].name}.other")
            if operand.like is not None and output.type is None:
                output.type = operand.like.type
                record_shape(output, shape_of(operand.like))
            return output
        if operand not in self._values:
            if isinstance(operand, Weight | Stored):
                self._values[operand] = self._make_weight(operand)
            else:
                self._values[operand] = self._make_node(operand)
        return self._values[operand]

    def add_node(self, node: ir.Node, stem: str, like: ir.Node | None = None) -> ir.Value:
        """Insert a new node, with a fresh name for its output."""
        output = node.outputs[0]
        output.name = self._editor.fresh_name(stem)
        for other in node.outputs[1:]:
            other.name = ""  # unless something reads it
        named = node.name is not None
        self._graph.insert_before(self._anchor, node)
        if not named:
            node.name = None  # the graph named it, but unnamed nodes are common in exports
        self.nodes[node] = like
        return output

    def hoist(self, body: ir.Graph) -> None:
        """Move the nodes and initializers of a body to the graph outside, under fresh names."""
        body.outputs.clear()
        for value in list(body.initializers.values()):
            tensor = value.const_value
            assert tensor is not None
            body.initializers.pop(value.name or "")
            self._hoisted[value] = self._store(tensor, value.name or "")
            value.replace_all_uses_with(self._hoisted[value])
        for node in list(body):
            body.remove(node)
            self._graph.insert_before(self._anchor, node)
            self.nodes[node] = node
            for output in node.outputs:
                output.name = self._editor.fresh_name(output.name) if output.name else ""

    def _make_node(self, op: Op) -> ir.Value:
        inputs = [None if operand is None else self.value_of(operand) for operand in op.inputs]
        like = op.like
        node = ir.Node(
            "",
            op.op_type,
            inputs,
            op.attributes,
            num_outputs=op.outputs,
            name=like.name if like is not None else None,
            doc_string=like.doc_string if like is not None else None,
            metadata_props=dict(like.metadata_props) if like is not None else None,
        )
        if op.type_of is not None and op.type_of.type is not None:
            node.outputs[0].type = op.type_of.type
            record_shape(node.outputs[0], op.shape)
        old_name = like.outputs[0].name if like is not None else self._anchor.outputs[0].name
        return self.add_node(node, f"{old_name}.{op.op_type.lower()}", like)

    def _make_weight(self, weight: Weight | Stored) -> ir.Value:
        if isinstance(weight, Stored):
            tensor = weight.tensor
        else:
            tensor = ir.Tensor(weight.array, dtype=weight.dtype)
        value = self._store(tensor, weight.stem)
        self._weights.add(value)
        return value

    def _store(self, tensor: ir.TensorProtocol, stem: str) -> ir.Value:
        """Store a tensor as an initializer, or as a Constant where there may be none."""
        if not may_hold_initializers(self._graph):
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)])
            return self.add_node(constant, stem)
        value = ir.Value(
            name=self._editor.fresh_name(stem),
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        tensor.name = value.name
        self._graph.register_initializer(value)
        return value


def _rename(new: ir.Value, old: ir.Value) -> None:
    """Give `new` the name and description of `old`, which loses them."""
    new.name, old.name = old.name, ""
    new.type, new.shape, new.doc_string = old.type, old.shape, old.doc_string
    record_shape(new, _known_of_either(shape_of(new), shape_of(old)))
    new.metadata_props.update(old.metadata_props)


def _known_of_either(one: ir.Shape | None, other: ir.Shape | None) -> ir.Shape | None:
    """Return the shape of one value of which two are known, each perhaps in part."""
    if one is None or other is None or one.rank() != other.rank():
        return other if one is None else one
    pairs = zip(one, other, strict=True)
    return ir.Shape(
        [other_size if isinstance(other_size, int) else size for size, other_size in pairs]
    )


def _remove_dead(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Remove nodes that are unused, then everything that only they used; return what is removed.

    A graph's inputs always stay.
    """
    removed: dict[ir.Node, None] = {}
    by_graph: dict[ir.Graph | ir.Function, list[ir.Node]] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        graph = node.graph
        if graph is None or node in removed or any(map(is_used, node.outputs)):
            continue
        by_graph.setdefault(graph, []).append(node)
        inner = [within for body in bodies_of(node) for within in body.all_nodes()]
        removed |= dict.fromkeys([node, *inner])
        inputs = [value for each in (node, *inner) for value in each.inputs if value is not None]
        for each in (node, *inner):
            each.resize_inputs(0)
        for value in inputs:
            source = value.producer()
            if source is not None:
                pending.append(source)
            else:
                _drop_unused_initializer(value)
    for owner, dead in by_graph.items():
        owner.remove(dead)  # all at once: each call looks at all outputs of the graph
    return list(removed)


def _drop_unused_initializer(value: ir.Value) -> None:
    if value.is_initializer() and not is_used(value) and not value.is_graph_input():
        assert value.graph is not None
        value.graph.initializers.pop(value.name or "")


def _value_names(graph: ir.Graph) -> list[str]:
    values = [*graph.inputs, *graph.initializers.values()]
    values += [output for node in graph for output in node.outputs]
    return [value.name for value in values if value.name]
