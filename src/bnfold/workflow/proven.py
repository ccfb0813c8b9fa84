"""One of two models that are compared, or a body of it, and which of its values are proven equal.

Such values have one name on both sides, under which a window reads them.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, MutableMapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from bnfold.graph.constants import digest
from bnfold.graph.walk import captured
from bnfold.proof.certificates.normal_forms.bodies import what_bodies_compute
from bnfold.workflow.determined import content_of, is_constant
from bnfold.workflow.duplicates import equal_values
from bnfold.workflow.slices import Names, Part, Slice, spaceless


class _Names(Names):
    """Names of one side: what is read on both has one name there, all else one of its own."""

    def __init__(self, side: Proven, computed: Container[ir.Value] = ()) -> None:
        super().__init__()
        self._side, self._computed = side, computed

    def __getitem__(self, value: ir.Value) -> str:
        name = None if value in self._computed else self._side.read.get(value)
        own = spaceless(value.name if name is None else name)
        return f"{self._side.label} {own}" if name is None else f"both {own}"


@dataclass
class Proven:
    """A graph of one side: the main one, or a body within it.

    `names` are those of its proven values. A window reads these as they are, whatever computes
    them, but for what depends on constants alone; where the other side has `stored` a constant, it
    reads that. `values` are those that it reads, by their names.
    """

    label: str
    model: ir.Model
    graph: ir.Graph
    names: MutableMapping[ir.Value, str] = field(default_factory=dict)
    read: MutableMapping[ir.Value, str] = field(default_factory=dict)
    values: MutableMapping[str, tuple[ir.Value, ...]] = field(default_factory=dict)
    stored: MutableMapping[ir.Value, ir.TensorProtocol] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = set(self.graph)
        self._alike = equal_values(self.graph)

    def within(self, body: ir.Graph) -> Proven:
        """Return a body of a node of the graph, in which the same is proven."""
        return replace(
            self,
            graph=body,
            names=ChainMap({}, self.names),
            read=ChainMap({}, self.read),
            values=ChainMap({}, self.values),
            stored=ChainMap({}, self.stored),
        )

    def prove(self, value: ir.Value, twin: ir.Value, name: str) -> None:
        """Give a value, and its equals in the graph, the name that its twin has, too."""
        content = None if twin.is_graph_input() else content_of(twin)
        may_be_any = not (is_constant(value) or is_constant(twin))
        for equal in self._alike.get(value, (value,)):
            self.names[equal] = name
            if content is not None:
                self.stored[equal] = content
            if may_be_any or content is not None:
                self.read[equal] = name
                self.values[name] = (*self.values.get(name, ()), equal)

    def slice(self, value: ir.Value) -> Slice:
        """Return what computes a value from what a window reads."""
        stop = self.read
        if value in stop:  # as an equal of another one
            stop = {each: name for each, name in stop.items() if each is not value}
        return Slice.of([value], self._nodes, stop)

    def part(self, cut: Slice) -> Part:
        """Return what is cut out of the graph.

        Raises:
            NotShown: if the type of what it reads is not known, or not what it computes.
        """
        computed = {value for node in cut.nodes for value in node.outputs}
        names = _Names(self, computed.difference(cut.leaves).union(cut.wanted))
        part = cut.part(names, self.model)
        stored = {names[leaf]: self.stored[leaf] for leaf in cut.leaves if leaf in self.stored}
        inputs = [value for value in part.inputs if value.name not in stored]
        return replace(part, constants={**part.constants, **stored}, inputs=inputs)

    def bodies(self, node: ir.Node) -> dict[str, list[str]]:
        """Return what tells the bodies of a node from others, also from those of the other side.

        What they read from outside is named as it is proven, or by its content.
        """
        names = _Names(self)
        outside = {
            value.name or "": self._content(value) or names[value] for value in captured(node)
        }
        proto = ir.serde.serialize_node(node)
        return what_bodies_compute(proto, outside, self.model.opset_imports)

    def _content(self, value: ir.Value) -> str:
        """Return what tells a constant from others; nothing if it is none."""
        content = self.stored.get(value)
        if content is None and not value.is_graph_input():
            content = content_of(value)
        return "" if content is None else digest(content)
