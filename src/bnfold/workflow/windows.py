"""Cuts, for each rewrite, what it replaced and what replaced it out of the graph, as small models.

Both models compute the replaced values from the same inputs: what both sides read of the graph.
Whatever these are, equal models then mean an equal graph. The cut goes by the graph itself, before
the edit and after it, and takes nothing from a pass but which nodes its pattern has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.rewriting.contract import Operand, Replace, every_operand
from bnfold.rewriting.editor import Edit
from bnfold.rewriting.query import is_op, reads_content
from bnfold.workflow.determined import is_constant
from bnfold.workflow.slices import Names, Part, Slice

_LARGEST = 2**28
"""Bytes of weights in a window; float64 takes twice as many."""


@dataclass(frozen=True)
class Cut:
    """A rewrite's window. Weights are read when it is made into models, and stay out of memory."""

    before: Part | None = None
    after: Part | None = None
    why_none: str = ""
    wider: Cut | None = None
    """The same with what both sides read and sizes determine computed within, if there is any."""

    @property
    def nbytes(self) -> int:
        """The size of the weights of both sides."""
        return sum(part.nbytes for part in (self.before, self.after) if part is not None)

    def windows(self) -> Iterator[Window]:
        """Yield the window, and the wider one if there is one.

        Raises:
            NotShown: if the rewrite has none.
        """
        yield self.window()
        if self.wider is not None:
            yield self.wider.window()

    def window(self) -> Window:
        """Return both models.

        Raises:
            NotShown: if the rewrite has none.
        """
        if self.before is None or self.after is None:
            raise NotShown(self.why_none)
        if self.nbytes > _LARGEST:
            raise NotShown(f"its weights are too large for float64 ({self.nbytes / 1e6:.0f} MB)")
        inputs = {value.name: value for part in (self.before, self.after) for value in part.inputs}
        return Window(self._model(self.before, inputs), self._model(self.after, inputs))

    def _model(self, part: Part, inputs: Mapping[str, onnx.ValueInfoProto]) -> onnx.ModelProto:
        opsets = [onnx.helper.make_opsetid(domain, n) for domain, n in part.opsets.items()]
        model = onnx.ModelProto(ir_version=part.ir_version, opset_import=opsets)
        graph = model.graph
        graph.name = "window"
        graph.node.extend(part.nodes)
        graph.input.extend(inputs.values())
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in part.outputs)
        graph.value_info.extend(part.described)
        for name, tensor in part.constants.items():
            proto = graph.initializer.add()
            if tensor.dtype is ir.DataType.STRING:
                ir.serde.serialize_tensor_into(proto, tensor)
            else:
                proto.data_type, proto.raw_data = tensor.dtype.value, tensor.tobytes()
                proto.dims.extend(tensor.shape.numpy())
            proto.name = name
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()
        return model


class Cutter:
    """Sees all rewrites of a model, and cuts their windows."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self.cuts: list[Cut] = []
        """One for each rewrite so far."""

    def watch(self, replace: Replace) -> Callable[[Edit], None]:
        """Cut the side before out of the graph; return what cuts the side after."""
        names = Names()
        old = list(replace.outputs)
        readers = {value: list(value.uses()) for value in old}
        interface = {value for value in old if value.is_graph_output()}
        read = set(_values_read(replace.outputs.values()))
        try:
            before = Slice.of(old, set(replace.nodes))
            before.expand(read)
            taken = before.part(names, self._model)
        except NotShown as reason:
            self._without(str(reason))
            return lambda _: None
        wide = Slice.of(old, set(replace.nodes))
        wide.expand(read, sizes=True)
        taken_by_it = taken if wide.nodes == before.nodes else self._part_of(wide, names)

        def finish(edit: Edit) -> None:
            # What only the pattern has read may mean something else now.
            seen = [
                (value, what)
                for value in old
                for what in _read_of(value in interface, readers[value])
            ]
            _give(taken, [(names[value], what) for value, what in seen])
            made = [edit.values[value] for value, _ in seen]
            results = [(names[value], what) for value, (_, what) in zip(made, seen, strict=True)]
            try:
                after = Slice.of(made, set(edit.created))
                after.expand(set(before.leaves), inside=before.nodes)
                outputs = after.part(names, self._model)
            except NotShown as reason:
                self._without(str(reason))
                return
            _give(outputs, results)
            wider = None
            if taken_by_it is not taken and taken_by_it is not None:
                _give(taken_by_it, [(names[value], what) for value, what in seen])
                wide_after = Slice.of(made, set(edit.created))
                wide_after.expand(set(wide.leaves), inside=wide.nodes, sizes=True)
                found = self._part_of(wide_after, names)
                if found is not None:
                    _give(found, results)
                    wider = Cut(taken_by_it, found)
            self.cuts.append(Cut(taken, outputs, wider=wider))

        return finish

    def _part_of(self, cut: Slice, names: Names) -> Part | None:
        try:
            return cut.part(names, self._model)
        except NotShown:
            return None

    def _without(self, why: str) -> None:
        self.cuts.append(Cut(why_none=why))


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """Return a model of the same nodes and functions, of which the weights are inputs."""
    opsets = [onnx.helper.make_opsetid(*each) for each in model.opset_imports.items()]
    proto = onnx.ModelProto(ir_version=model.ir_version, opset_import=opsets)
    graph = proto.graph
    graph.name = "model"
    graph.node.extend(ir.serde.serialize_node(node) for node in model.graph)
    read = dict.fromkeys([*(each.name for each in model.graph.inputs), *model.graph.initializers])
    for values, names in (
        (graph.input, list(read)),
        (graph.output, [each.name for each in model.graph.outputs]),
    ):
        values.extend(onnx.helper.make_empty_tensor_value_info(name or "") for name in names)
    proto.functions.extend(map(ir.serde.serialize_function, model.functions.values()))
    return proto


_Read: TypeAlias = Literal["content", "shape", "type"]


def _read_of(is_output: bool, readers: Iterable[tuple[ir.Node, int]]) -> list[_Read]:
    """Return what is read of a value by those of its readers that are still there."""
    there = [use for use in readers if use[0].graph is not None]
    if is_output or any(reads_content(*use) for use in there):
        return ["content"]
    kinds: list[_Read] = ["type" if is_op(node, "CastLike") else "shape" for node, _ in there]
    return list(dict.fromkeys(kinds))


def _give(part: Part, results: Sequence[tuple[str, _Read]]) -> None:
    """Make the outputs of a part what is read of some of its values."""
    del part.outputs[:]
    for name, what in results:
        output = name
        if what == "shape":
            output = f"shape of {name}"
            part.nodes.append(onnx.helper.make_node("Shape", [name], [output]))
        elif what == "type":
            output, zero = f"type of {name}", f"zero for {name}"
            part.nodes.append(onnx.helper.make_node("Constant", [], [zero], value_float=0.0))
            part.nodes.append(onnx.helper.make_node("CastLike", [zero, name], [output]))
        part.outputs.append(output)


def _values_read(operands: Iterable[Operand]) -> list[ir.Value]:
    """Return the values of the graph that expressions read, constants aside."""
    return [
        operand
        for operand in every_operand(operands)
        if isinstance(operand, ir.Value) and not is_constant(operand)
    ]
