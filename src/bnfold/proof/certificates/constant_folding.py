"""Replaces what depends on constants alone, or on sizes, by its values."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.errors import SessionError
from bnfold.proof.certificates.submodels import Constants, needed_nodes, rebuilt
from bnfold.proof.certificates.windows import NotShown, Window, is_random
from bnfold.running.learning import infer_small
from bnfold.running.runtime import Level, Session

_SEQUENCES = frozenset({"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SplitToSequence"})
"""Operators whose result no initializer can be."""


_PACKED = (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
"""Types of weights that onnxruntime lays out anew, and then may sum in another order."""


def with_constants_computed(window: Window) -> Window:
    """Replace each expression of constants by what onnxruntime computes for it.

    No constants of both sides have one name, or that of an input.

    Raises:
        NotShown: if onnxruntime cannot.
    """
    inputs = {value.name for value in window.before.graph.input}
    before, after = map(_computed, window.models)
    before = _renamed(before, inputs)
    return Window(before, _renamed(after, inputs | {t.name for t in before.graph.initializer}))


def _renamed(model: onnx.ModelProto, taken: Container[str]) -> onnx.ModelProto:
    """Give the constants whose names are taken others; none is an input, too."""
    if not any(tensor.name in taken for tensor in model.graph.initializer):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {}
    for number, tensor in enumerate(copy.graph.initializer):
        if tensor.name in taken:
            names[tensor.name] = tensor.name = f"constant {number} {tensor.name}"
    for node in copy.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for output in copy.graph.output:
        output.name = names.get(output.name, output.name)
    return copy


def _computed(model: onnx.ModelProto) -> onnx.ModelProto:
    known = {tensor.name for tensor in model.graph.initializer}
    is_constant: list[bool] = []
    contents = Constants(model)
    for node in model.graph.node:
        is_constant.append(
            not is_random(node, contents) and all(not name or name in known for name in node.input)
        )
        if is_constant[-1]:
            known.update(node.output)
    if not any(is_constant):
        return model
    read: set[str] = set()
    for place, node in reversed([*enumerate(model.graph.node)]):
        if node.op_type in _SEQUENCES and not read.isdisjoint(node.output):
            is_constant[place] = False
        if not is_constant[place]:
            read.update(node.input)
    constant_nodes = [*itertools.compress(model.graph.node, is_constant)]
    others = [node for place, node in enumerate(model.graph.node) if not is_constant[place]]
    made = {name for node in constant_nodes for name in node.output if name}
    wanted = dict.fromkeys(name for node in others for name in node.input if name in made)
    wanted |= dict.fromkeys(out.name for out in model.graph.output if out.name in made)
    results = _results_of(rebuilt(model, constant_nodes, [], wanted)) if wanted else {}
    evaluated = {name: np.array(content) for name, content in results.items()}
    outputs = [out.name for out in model.graph.output]
    return rebuilt(model, others, model.graph.input, outputs, evaluated)


def _results_of(model: onnx.ModelProto) -> dict[str, Any]:
    """Compute the outputs, rounded as in a pass: by one thread, of weights that are not packed."""
    given, contents = onnx.ModelProto(), Constants(model)
    given.CopyFrom(model)
    tensors = [t for t in model.graph.initializer if t.data_type in _PACKED]
    given.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors
    )
    feeds = {tensor.name: contents[tensor.name] for tensor in tensors}
    del given.graph.initializer[:]
    given.graph.initializer.extend(t for t in model.graph.initializer if t.name not in feeds)
    try:
        return Session(given.SerializeToString(), "cpu", Level.DISABLED, threads=1).run(feeds)
    except SessionError as error:
        raise NotShown(f"its constants cannot be computed: {error}") from error


def with_sizes(window: Window, shapes: Mapping[str, Sequence[int]]) -> Window:
    """Fix the sizes of the inputs, and compute what depends on these alone."""
    models = []
    for model in window.models:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for value in copy.graph.input:
            if value.name in shapes:
                kind = value.type.tensor_type.elem_type
                fixed = onnx.helper.make_tensor_value_info(value.name, kind, shapes[value.name])
                value.CopyFrom(fixed)
        asks = any(node.op_type == "Shape" for node in copy.graph.node)
        known = {**(sizes_within(copy) if asks else {}), **shapes}
        for value in copy.graph.value_info:
            if value.name in known:
                kind = value.type.tensor_type.elem_type
                fixed = onnx.helper.make_tensor_value_info(value.name, kind, known[value.name])
                value.CopyFrom(fixed)
        for node in copy.graph.node:
            if node.op_type == "Shape" and node.input[0] in known:
                sizes = np.array(known[node.input[0]], np.int64)[_range(node)]
                constant = onnx.helper.make_node("Constant", [], list(node.output), node.name)
                constant.attribute.append(onnx.helper.make_attribute("value_ints", sizes.tolist()))
                node.CopyFrom(constant)
        models.append(copy)
    return _reading_only_needed(with_constants_computed(Window(*models)))


def _reading_only_needed(window: Window) -> Window:
    """Leave out nodes and inputs of which both sides have read the sizes alone."""
    models = []
    for model in window.models:
        outputs = [output.name for output in model.graph.output]
        nodes = needed_nodes(model.graph.node, outputs)
        models.append(rebuilt(model, nodes, model.graph.input, outputs))
    inputs = Window(*models).inputs
    for model in models:
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    return Window(*models)


def sizes_within(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes of all values, where the sizes of the inputs determine them."""
    bare = rebuilt(model, model.graph.node, model.graph.input, [o.name for o in model.graph.output])
    del bare.graph.value_info[:]  # these may be of another size
    known = {}
    inferred = (infer_small(bare) or bare).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        sizes = [size.dim_value for size in tensor.shape.dim]
        if tensor.HasField("shape") and all(
            size.HasField("dim_value") for size in tensor.shape.dim
        ):
            known[value.name] = sizes
    return known


def _range(node: onnx.NodeProto) -> slice:
    """Return which sizes a Shape returns."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return slice(ends.get("start"), ends.get("end"))
