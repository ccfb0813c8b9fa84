"""One of two models that are compared, or a body of it, and which of its values are proven equal.

Such values have one name on both sides, under which a window reads them.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, MutableMapping
from dataclasses import dataclass, field, replace

import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.graph.constants import digest
from bnfold.graph.shapes import shape_of
from bnfold.graph.walk import captured
from bnfold.proof.certificates.normal_forms.bodies import what_bodies_compute
from bnfold.rewriting.query import is_op
from bnfold.workflow.determined import content_of, is_constant
from bnfold.workflow.duplicates import equal_values
from bnfold.workflow.slices import Names, Part, Slice, described, spaceless


class _Names(Names):
    """Names of one side: what is read on both has one name there, all else one of its own."""

    def __init__(self, side: Proven, computed: Container[ir.Value] = ()) -> None:
        super().__init__()
        self._side, self._computed = side, computed

    def __getitem__(self, value: ir.Value) -> str:
        is_own = value in self._computed or self._side.is_turned(value)
        name = None if is_own else self._side.read.get(value)
        own = spaceless(value.name if name is None else name)
        return f"{self._side.label} {own}" if name is None else f"both {own}"


@dataclass
class Proven:
    """A graph of one side: the main one, or a body within it.

    `names` are those of its proven values. A window reads these as they are, whatever computes
    them, but for what depends on constants alone; where the other side has `stored` a constant, it
    reads that. `values` are those that it reads, by their names. What a Transpose makes a proven
    value of is `turned`: a window reads the proven value, and transposes it back.
    """

    label: str
    model: ir.Model
    graph: ir.Graph
    names: MutableMapping[ir.Value, str] = field(default_factory=dict)
    read: MutableMapping[ir.Value, str] = field(default_factory=dict)
    values: MutableMapping[str, tuple[ir.Value, ...]] = field(default_factory=dict)
    stored: MutableMapping[ir.Value, ir.TensorProtocol] = field(default_factory=dict)
    turned: MutableMapping[ir.Value, ir.Value] = field(default_factory=dict)
    twins: MutableMapping[ir.Value, ir.Value] = field(default_factory=dict)
    """Those of the other side, whose sizes are known to be the same."""

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
            turned=ChainMap({}, self.turned),
            twins=ChainMap({}, self.twins),
        )

    def prove(self, value: ir.Value, twin: ir.Value, name: str) -> None:
        """Give a value, and its equals in the graph, the name that its twin has, too."""
        content = None if twin.is_graph_input() else content_of(twin)
        may_be_any = not (is_constant(value) or is_constant(twin))
        for equal in self._alike.get(value, (value,)):
            self.names[equal], self.twins[equal] = name, twin
            if content is not None:
                self.stored[equal] = content
            if may_be_any or content is not None:
                self.read[equal] = name
                self.values[name] = (*self.values.get(name, ()), equal)
                self._turn(equal, name)

    def _turn(self, value: ir.Value, name: str) -> None:
        """Let windows read what a Transpose makes a proven value of: each determines the other."""
        node = value.producer()
        if node is None or not is_op(node, "Transpose") or not node.attributes.get_ints("perm", ()):
            return
        (data,) = node.inputs
        if data is not None and data not in self.read and not is_constant(data):
            self.read[data], self.turned[data] = name, value

    def is_turned(self, value: ir.Value) -> bool:
        """Say whether a window computes a value from what a Transpose makes of it."""
        return value in self.turned and value not in self.names

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
        turned = {names[leaf]: self.turned[leaf] for leaf in cut.leaves if self.is_turned(leaf)}
        shared = _Names(self)  # names that both sides have, even if this side computes it here
        back = [
            _turned_back(shared[value], value.producer(), name) for name, value in turned.items()
        ]
        more = [described(value, shared[value]) for value in turned.values()]
        for value, info in zip((*cut.leaves, *turned.values()), (*part.inputs, *more), strict=True):
            _refine(info, self.twins.get(value))
        inputs = {each.name: each for each in (*part.inputs, *more) if each.name not in turned}
        read = {leaf: names[leaf] for leaf in cut.leaves}
        read |= {value: shared[value] for value in turned.values()}
        stored = {name: self.stored[value] for value, name in read.items() if value in self.stored}
        return replace(
            part,
            nodes=[*back, *part.nodes],
            constants={**part.constants, **stored},
            inputs=[each for name, each in inputs.items() if name not in stored],
        )

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


def _turned_back(turned: str, node: ir.Node | None, name: str) -> onnx.NodeProto:
    """Return the node that computes what a Transpose has made a value of."""
    assert node is not None
    order = node.attributes.get_ints("perm", ())
    back = sorted(range(len(order)), key=order.__getitem__)
    return onnx.helper.make_node("Transpose", [turned], [name], perm=back)


def _refine(info: onnx.ValueInfoProto, twin: ir.Value | None) -> None:
    """Write the sizes into a description, in place, that the other side knows of the same value."""
    sizes = shape_of(twin) if twin is not None else None
    axes = info.type.tensor_type.shape.dim
    for axis, size in zip(axes, sizes if sizes is not None else (), strict=False):
        if isinstance(size, int) and not axis.HasField("dim_value"):
            axis.dim_value = size
