"""Changes of a model's meaning, made only on request, before any pass runs.

Checks compare with the changed model: the passes must preserve the changed meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from bnfold.graph.constants import constant, is_overridable
from bnfold.graph.walk import all_graphs
from bnfold.options import PassOptions, require_inputs
from bnfold.record.data import RewriteRecord
from bnfold.rewriting.contract import Exactness
from bnfold.rewriting.query import input_of, is_used, opset
from bnfold.rewriting.sites import sites


def change_meaning(model: ir.Model, options: PassOptions) -> list[RewriteRecord]:
    """Make the changes of meaning that the options request."""
    changes = set_shapes(model, options.set_shapes)
    changes += freeze_initializers(model) if options.freeze_initializers else []
    return changes + (force_inference(model) if options.force_inference else [])


def set_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> list[RewriteRecord]:
    """Fix the sizes of inputs, by name; and sizes of the same name in other inputs and outputs.

    A name that would get several sizes, as old exporters give ``?`` to all, is left elsewhere.

    Raises:
        UsageError: if there is no such input, or it has another rank or other fixed sizes.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    sizes: dict[str, set[int]] = {}
    require_inputs(shapes, {name: _sizes(value) for name, value in inputs.items()})
    for name, shape in shapes.items():
        for size, free in zip(shape, inputs[name].shape or (), strict=False):
            if isinstance(free, ir.SymbolicDim) and free.value is not None:
                sizes.setdefault(free.value, set()).add(size)
        inputs[name].shape = ir.Shape(shape)
    fixed = {name: min(found) for name, found in sizes.items() if len(found) == 1}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_fixed(dim, fixed) for dim in value.shape])
    return [_record("set-shape", name, "input") for name in shapes]


def _fixed(dim: int | ir.SymbolicDim, fixed: Mapping[str, int]) -> int | ir.SymbolicDim:
    return fixed.get(dim.value or "", dim) if isinstance(dim, ir.SymbolicDim) else dim


def _sizes(value: ir.Value) -> list[int | str | None] | None:
    """Return the sizes that the file declares for an input; None if it declares no shape."""
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def force_inference(model: ir.Model) -> list[RewriteRecord]:
    """Switch each Dropout and BatchNormalization that runs in training mode to inference.

    Nodes whose other outputs (the statistics of a batch) are used do not change.
    """
    names = sites(model)
    switched = []
    for graph in all_graphs(model):
        for node in graph:
            switch = _SWITCHES.get(node.op_type) if node.domain == "" else None
            if switch is not None and switch(node):
                switched.append(_record("force-inference", names[node], node.op_type))
    return switched


def _switch_batch_normalization(node: ir.Node) -> bool:
    if any(map(is_used, node.outputs[1:])):
        return False
    if opset(node) >= 14:
        return _drop_extra_outputs(node) | _set_int(node, "training_mode", 0, default=0)
    if opset(node) >= 7:
        return _drop_extra_outputs(node)
    return _drop_extra_outputs(node) | _set_int(node, "is_test", 1, default=0)


def _switch_dropout(node: ir.Node) -> bool:
    if opset(node) < 7:
        return _set_int(node, "is_test", 1, default=0)
    mode = input_of(node, 2)
    training = constant(mode)
    if mode is None or (training is not None and not training.any()):
        return False
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    return True


_SWITCHES: Mapping[str, Callable[[ir.Node], bool]] = {
    "BatchNormalization": _switch_batch_normalization,
    "Dropout": _switch_dropout,
}


def _drop_extra_outputs(node: ir.Node) -> bool:
    if len(node.outputs) == 1:
        return False
    node.resize_outputs(1)
    return True


def _set_int(node: ir.Node, name: str, value: int, *, default: int) -> bool:
    attribute = node.attributes.get(name)
    is_known = attribute is None or not attribute.is_ref()
    if is_known and node.attributes.get_int(name, default) == value:
        return False
    node.attributes.add(ir.AttrInt64(name, value))
    return True


def freeze_initializers(model: ir.Model) -> list[RewriteRecord]:
    """Remove initializers from the main graph's inputs, so that no caller can override them."""
    inputs = model.graph.inputs
    frozen = [value for value in inputs if is_overridable(value)]
    kept = [value for value in inputs if not is_overridable(value)]
    inputs.clear()
    inputs.extend(kept)
    return [_record("freeze-initializers", value.name or "", "initializer") for value in frozen]


def _record(pass_name: str, site: str, op_type: str) -> RewriteRecord:
    return RewriteRecord(pass_name, site, op_type, [site], Exactness.SEMANTIC.value, "")
