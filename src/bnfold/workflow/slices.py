"""The nodes between some values of a graph and what they are computed from."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.graph.shapes import rank_of, shape_of
from bnfold.graph.walk import captured
from bnfold.proof.certificates.normal_forms.bodies import rename_bodies
from bnfold.proof.certificates.windows import NotShown
from bnfold.rewriting.query import is_op
from bnfold.workflow.bodies import are_bodies_plain, is_plain
from bnfold.workflow.determined import between, content_of, filling, from_sizes, is_constant


@dataclass(frozen=True)
class Part:
    """One side: nodes in order, constants by name, and what it reads and computes."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, ir.TensorProtocol]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[str]
    described: list[onnx.ValueInfoProto]
    """The types and shapes of what its nodes compute, where they are known."""
    opsets: Mapping[str, int]
    ir_version: int

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.constants.values())


def spaceless(name: str | None) -> str:
    """Return a name without spaces, which names of values that a proof makes have."""
    return (name or "value").replace("%", "%25").replace(" ", "%20")


class Names:
    """A name of its own for each value of a window: an edit renames values."""

    def __init__(self) -> None:
        self._names: dict[ir.Value, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, value: ir.Value) -> str:
        if value not in self._names:
            name = spaceless(value.name)
            while name in self._taken:
                name += "'"
            self._taken.add(name)
            self._names[value] = name
        return self._names[value]


@dataclass
class Slice:
    """The nodes between some values and what they are computed from, in order."""

    wanted: Sequence[ir.Value]
    pattern: set[ir.Node]
    nodes: list[ir.Node] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    leaves: list[ir.Value] = field(default_factory=list)
    undefined: list[ir.Node] = field(default_factory=list)
    """Nodes of the pattern that ONNX does not define, nor what they compute, then."""

    @staticmethod
    def of(
        wanted: Sequence[ir.Value], pattern: set[ir.Node], stop: Container[ir.Value] = ()
    ) -> Slice:
        """Go back from the values as far as the pattern reaches, and expressions of constants."""
        cut = Slice(wanted, pattern)
        cut._walk(stop)
        return cut

    def expand(
        self, others: set[ir.Value], *, inside: Iterable[ir.Node] = (), sizes: bool = False
    ) -> None:
        """Take in nodes outside the pattern where they compute a leaf from the other side's.

        Nodes that compute a leaf from sizes or types are taken in, too, and one that repeats a
        constant: it cannot be anything. So are those of a leaf of both sides, if `sizes` are to be
        computed in the window, and those `inside` the other side: no value is read there that is
        computed here. What these read may be a leaf of this kind again.
        """
        shared = set(inside)
        computed: set[ir.Value] = set()
        while found := self._expand(others, shared, computed, sizes=sizes):
            computed |= found

    def _expand(
        self, others: set[ir.Value], shared: set[ir.Node], before: set[ir.Value], *, sizes: bool
    ) -> set[ir.Value]:
        """Take in what computes leaves, beside those of `before`; return these leaves."""
        known = others | set(self.leaves)
        wider, computed = set(self.pattern), set[ir.Value]()
        for leaf in self.leaves:
            if leaf in before:
                continue
            node = leaf.producer()
            if leaf in others:
                nodes = from_sizes(leaf) if sizes else set()
            else:
                nodes = between(leaf, known - {leaf}) or from_sizes(leaf) or filling(leaf)
                if not nodes and node in shared:
                    nodes = {node}
            if nodes:
                wider |= nodes
                computed.add(leaf)
        if computed:
            self.pattern = wider
            self._walk(stop=known - before - computed)
        return computed

    def _walk(self, stop: Container[ir.Value] = ()) -> None:
        """Collect nodes, constants and leaves, in an order in which nodes can run."""
        self.nodes, self.constants, self.leaves, self.undefined = [], [], [], []
        seen: set[ir.Value] = set()
        done: set[ir.Node] = set()
        pending = [(value, False) for value in reversed(self.wanted)]
        while pending:
            value, is_ready = pending.pop()
            node = value.producer()
            if is_ready and node is not None:
                if node not in done:
                    done.add(node)
                    self.nodes.append(node)
                continue
            if value in seen:
                continue
            seen.add(value)
            if content_of(value) is not None and not value.is_graph_input():
                self.constants.append(value)
            elif node is None or value in stop or not self._takes(node, value):
                self.leaves.append(value)
                if node in self.pattern and value not in stop:
                    self.undefined.append(node)
            else:
                pending.append((value, True))
                read = [value for value in (*node.inputs, *captured(node)) if value is not None]
                pending += [(value, False) for value in read]

    def _takes(self, node: ir.Node, value: ir.Value) -> bool:
        if not is_plain(node) or not are_bodies_plain(node):
            return False
        return node in self.pattern or is_constant(value)

    def part(self, names: Names, model: ir.Model) -> Part:
        """Return the nodes as protobufs, with names of the window's own.

        Raises:
            NotShown: if the type of what it reads is not known, or not what it computes.
        """
        if self.undefined:
            raise NotShown(f"ONNX does not define all of its {self.undefined[0].op_type}")
        nodes = []
        for node in self.nodes:
            proto = ir.serde.serialize_node(node)
            read = [names[value] if value is not None else "" for value in node.inputs]
            made = [names[value] if value.name else "" for value in node.outputs]
            del proto.input[:], proto.output[:]
            proto.input.extend(read)
            proto.output.extend(made)
            outside = {value.name: names[value] for value in captured(node)}
            rename_bodies(proto, outside, f"within {made[0]}")
            nodes.append(proto)
        constants = {}
        for value in self.constants:
            tensor = content_of(value)
            assert tensor is not None
            constants[names[value]] = tensor
        return Part(
            nodes,
            constants,
            [described(value, names[value]) for value in self.leaves],
            [names[value] for value in self.wanted],
            [
                described(value, names[value])
                for node in self.nodes
                for value in node.outputs
                if value.name and rank_of(value) is not None and _is_tensor(value)
            ],
            dict(model.opset_imports),
            model.ir_version,
        )


def _is_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType)


def described(value: ir.Value, name: str) -> onnx.ValueInfoProto:
    """Return the name, type and shape of a value, with the sizes that are known.

    Raises:
        NotShown: if its type is not known, or not a tensor's.
    """
    tensor = content_of(value)
    dtype = value.dtype or (tensor.dtype if tensor is not None else None)
    if dtype is None or (value.type is not None and not isinstance(value.type, ir.TensorType)):
        raise NotShown(f"the type of {name!r} is not known")
    sizes: list[int | str | None] | None = None
    if (shape := shape_of(value)) is not None:
        sizes = [size if isinstance(size, int) else size.value for size in shape]
    elif tensor is not None:
        sizes = list(tensor.shape.numpy())
    elif permutation := _permutation(value.producer()):
        sizes = [None] * len(permutation)
    return onnx.helper.make_tensor_value_info(name, dtype.value, sizes)


def _permutation(node: ir.Node | None) -> Sequence[int]:
    """Return the order of axes of a Transpose, which says how many there are; nothing of others."""
    if node is None or not is_op(node, "Transpose"):
        return ()
    return node.attributes.get_ints("perm", ())
