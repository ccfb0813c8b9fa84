"""Evaluates what depends on constants alone.

Exporters wrap weights and shapes in a few operators: torch's dynamo exporter writes a Conv's
missing bias as ``Expand(CastLike(0, x), Shape(W))``. The result must be what the runtime computes,
so an `Evaluate` that runs onnxruntime is given by the caller; here is one that does without, with
onnx's reference evaluator.

Sizes are known before values: an expression is evaluated only if its shape is known, and if its
content is not much larger than what it is computed from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.asked_sizes import asked_sizes
from bnfold.graph.bare import MOST_AXES
from bnfold.graph.constants import (
    bytes_of_initializers,
    constant,
    forget_bytes,
    is_constant,
    is_deferred,
    record_content,
)
from bnfold.graph.shapes import shape_of
from bnfold.graph.size_terms import compared
from bnfold.graph.walk import all_graphs

Evaluate: TypeAlias = Callable[[onnx.ModelProto, Mapping[str, Array]], Sequence[Array] | None]
"""Computes the outputs of a model from these inputs; None if it cannot."""

OPERATORS = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan"),
        *("Atanh", "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd", "BitwiseNot"),
        *("BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Clip", "Conv", "ConvTranspose", "Cos"),
        *("Cosh", "CumProd", "CumSum", "Det", "DFT", "Div", "Einsum", "Elu", "Equal", "Erf", "Exp"),
        *("Floor", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
        *("Greater", "GreaterOrEqual", "GroupNormalization", "Hardmax", "HardSigmoid", "HardSwish"),
        *("InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less"),
        *("LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool", "LRN", "MatMul", "Max"),
        *("MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg"),
        *("Not", "Or", "Pow", "PRelu", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum"),
        *("ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        *("ReduceSumSquare", "Relu", "RMSNormalization", "Round", "Selu", "Shrink", "Sigmoid"),
        *("Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "STFT", "Sub", "Sum"),
        *("Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
        *("AffineGrid", "BlackmanWindow", "EyeLike", "HammingWindow", "HannWindow"),
        *("MelWeightMatrix", "Range"),
        *("Cast", "CastLike", "CenterCropPad", "Col2Im", "Concat", "ConstantOfShape"),
        *("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
        *("GridSample", "Identity", "NonZero", "OneHot", "Pad", "Reshape", "Resize"),
        *("ReverseSequence", "Scatter", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth"),
        *("Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze"),
        *("Upsample",),
    }
)
"""Operators of which expressions of constants consist: weights, shapes, masks and positions.

All that ONNX defines for tensors of numbers, but those that draw, quantize, score, attend or detect
and what has bodies or a state. A test names these.
"""

_ALIKE_EVERYWHERE = frozenset(
    {
        *("Add", "And", "Concat", "ConstantOfShape", "Equal", "Expand", "Flatten", "Gather"),
        *("Identity", "Mul", "Neg", "Not", "Or", "Reshape", "Sub", "Transpose", "Where"),
    }
)
"""Operators for which a test shows that onnx's reference evaluator returns onnxruntime's bits."""

_SMALL = 2**12
"""Elements up to which an expression is evaluated at once, together with all others."""

_MOST_MORE_BYTES = 2**20
"""How much larger than its operands a content may be."""

_MOST_BYTES_IN_ALL = 2**26
"""How much larger than the model's own constants all contents together may be."""


_FAILED = "bnfold.failed"


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Sequence[Array] | None:
    """Evaluate operators that need no runtime to agree with; None for any other."""
    from onnx.reference import ReferenceEvaluator

    if not all(node.op_type in _ALIKE_EVERYWHERE for node in model.graph.node):
        return None
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(each) for each in ReferenceEvaluator(model).run(None, dict(feeds))]
    except Exception:  # the evaluator lacks some types and versions: then not a constant
        return None


def learn_constants(model: ir.Model, evaluate: Evaluate) -> bool:
    """Find expressions of constants, and evaluate the small ones.

    Shapes must be known, and the nodes of all graphs in order. Return whether a small content is
    new: it may be a shape that others depend on.
    """
    graphs = all_graphs(model)
    small, found = [], False
    spent, budget = 0, -1  # not known yet: most graphs have no expressions
    for node in itertools.chain.from_iterable(graphs):
        results = results_of(node)
        if node.domain != "" or not results or node.meta.get(_FAILED):
            continue
        if all(map(is_constant, results)):
            spent += sum(map(_bytes_of, results))
        elif (known := _known_of_sizes(node)) is not None:
            record_content(results[0], known)
            found = True
        elif _is_expression(node) and (size := _bytes(node)) is not None:
            budget = _budget(graphs) if budget < 0 else budget
            if spent + size > budget:
                continue
            spent += size
            for value in results:
                record_content(value, partial(_evaluated_later, node, value, evaluate))
            if sum(map(_elements, results)) <= _SMALL:
                small.append(node)
    for node, contents in zip(small, _evaluated(small, evaluate), strict=True):
        _record(node, contents)
        found |= contents is not None
    return found


def _known_of_sizes(node: ir.Node) -> Array | None:
    """Return what a node computes from sizes, if it is the same for every input."""
    known = asked_sizes(node)
    return compared(node) if known is None else known


def results_of(node: ir.Node) -> list[ir.Value]:
    """Return what is read of what a node computes; its first output if nothing is."""
    read = [value for value in node.outputs if value.uses() or value.is_graph_output()]
    return read or list(node.outputs[:1])


def _budget(graphs: Iterable[ir.Graph]) -> int:
    """Return how many bytes all contents together may take."""
    return _MOST_BYTES_IN_ALL + sum(map(bytes_of_initializers, graphs))


def _evaluated_later(node: ir.Node, value: ir.Value, evaluate: Evaluate) -> Array | None:
    (contents,) = _evaluated([node], evaluate)
    _record(node, contents)
    return dict(zip(results_of(node), contents or (), strict=False)).get(value)


def _record(node: ir.Node, contents: Sequence[Array] | None) -> None:
    """Record the contents, or that there are none, so that it is not tried again."""
    found = dict(zip(results_of(node), contents or (), strict=False))
    for value in results_of(node):
        record_content(value, found.get(value))
    node.meta[_FAILED] = contents is None


def forget_contents(model: ir.Model) -> None:
    """Clear the contents of expressions, because others may edit the model from now on."""
    for graph in all_graphs(model):
        forget_bytes(graph)
        for node in graph:
            node.meta.pop(_FAILED, None)
            for output in node.outputs:
                record_content(output, None)


def _is_expression(node: ir.Node) -> bool:
    if node.op_type not in OPERATORS or any(a.is_ref() for a in node.attributes.values()):
        return False
    if "broadcast" in node.attributes:
        return False  # before opset 7 it may align axes other than the last: not supported
    if node.op_type == "CastLike":
        like = node.inputs[1] if len(node.inputs) > 1 else None
        if like is None or like.dtype is None:
            return False
    read = [value for value in _operands(node) if value is not None]
    if any(value.dtype == ir.DataType.STRING for value in read):
        return False  # which onnxruntime compares, and casts, otherwise where they are inputs
    return all(map(is_constant, read)) and not _may_trap(node)


def _may_trap(node: ir.Node) -> bool:
    """Say whether a Div may divide the lowest integer by −1, which ends the whole process."""
    divisor = node.inputs[1] if node.op_type == "Div" and len(node.inputs) > 1 else None
    if divisor is None or divisor.dtype is None or divisor.dtype.is_floating_point():
        return False
    content = constant(divisor)
    return content is None or bool((content == -1).any())


def _operands(node: ir.Node) -> Sequence[ir.Value | None]:
    """Return what a node reads the content of. CastLike reads only the type of its second input."""
    return node.inputs[:1] if node.op_type == "CastLike" else node.inputs


def _elements(value: ir.Value) -> int:
    shape = shape_of(value)
    assert shape is not None
    return math.prod(shape.numpy())


def _bytes(node: ir.Node) -> int | None:
    """Return the size of an expression's contents, if it is known and not too large."""
    results = results_of(node)
    for value in results:
        shape, dtype = shape_of(value), value.dtype
        if shape is None or not shape.is_static() or dtype is None or not value.name:
            return None
        if dtype == ir.DataType.STRING or shape.rank() > MOST_AXES:
            return None
    size = sum(map(_bytes_of, results))
    read = [operand for operand in dict.fromkeys(_operands(node)) if operand is not None]
    return size if size <= sum(map(_bytes_of, read)) + _MOST_MORE_BYTES else None


def _bytes_of(value: ir.Value) -> int:
    if value.is_initializer() and value.const_value is not None:
        return value.const_value.nbytes
    shape, dtype = shape_of(value), value.dtype
    if shape is None or not shape.is_static() or dtype is None:
        return 0
    return math.ceil(math.prod(shape.numpy()) * dtype.itemsize)


# --- Evaluation ---------------------------------------------------------------------------------


def _evaluated(nodes: Sequence[ir.Node], evaluate: Evaluate) -> list[Sequence[Array] | None]:
    """Evaluate expressions together; where that fails, each half by itself."""
    if not nodes:
        return []
    contents = _run(nodes, evaluate)
    if contents is not None:
        left = iter(contents)
        return [[next(left) for _ in results_of(node)] for node in nodes]
    if len(nodes) == 1:
        return [None]
    middle = len(nodes) // 2
    # The first half comes first in the graph, so the second one may read its results.
    first = _evaluated(nodes[:middle], evaluate)
    for node, contents in zip(nodes[:middle], first, strict=True):
        _record(node, contents)
    return [*first, *_evaluated(nodes[middle:], evaluate)]


def _run(nodes: Sequence[ir.Node], evaluate: Evaluate) -> Sequence[Array] | None:
    """Evaluate expressions by one model, whose inputs are what they are computed from.

    Return the contents of all results of the first node, then those of the next one.
    """
    try:
        needed, leaves = _needed(nodes)
    except _NotConstantError:
        return None
    graph = onnx.GraphProto(name="constants")
    names = {value: f"i{number}" for number, value in enumerate(leaves)}
    feeds = {names[value]: content for value, content in leaves.items()}
    for name, content in feeds.items():
        dtype = ir.DataType.from_numpy(content.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(name, dtype.value, content.shape))
    for number, node in enumerate(needed):
        for place, value in enumerate(node.outputs):
            names[value] = f"o{number} {place}"
        graph.node.append(_as_proto(node, names))
    graph.output.extend(
        onnx.helper.make_tensor_value_info(
            names[value], (value.dtype or ir.DataType.UNDEFINED).value, None
        )
        for node in nodes
        for value in results_of(node)
    )
    version = nodes[0].graph.opset_imports.get("", 1) if nodes[0].graph is not None else 1
    opsets = [onnx.helper.make_opsetid("", version)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    results = evaluate(model, feeds)
    return results if results is not None else by_reference(model, feeds)


def _as_proto(node: ir.Node, names: Mapping[ir.Value, str]) -> onnx.NodeProto:
    read = [names[value] if value is not None else "" for value in _operands(node)]
    op_type, attributes = node.op_type, ir.serde.serialize_node(node).attribute
    made = [names[value] for value in node.outputs]
    proto = onnx.NodeProto(op_type=op_type, input=read, output=made)
    if op_type == "CastLike":
        like = node.inputs[1]
        assert like is not None
        assert like.dtype is not None
        proto.op_type = "Cast"
        proto.attribute.append(onnx.helper.make_attribute("to", like.dtype.value))
    else:
        proto.attribute.extend(attributes)
    return proto


class _NotConstantError(Exception):
    """An operand turned out not to be constant after all."""


def _needed(nodes: Iterable[ir.Node]) -> tuple[list[ir.Node], dict[ir.Value, Array]]:
    """Return the nodes to run, in order, and the contents to feed them with."""
    order: list[ir.Node] = []
    leaves: dict[ir.Value, Array] = {}
    seen: set[ir.Node] = set()
    pending = [(node, False) for node in reversed(list(nodes))]
    wanted = {node for node, _ in pending}
    while pending:
        node, is_ready = pending.pop()
        if is_ready:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        pending.append((node, True))
        for value in _operands(node):
            if value is None or value in leaves:
                continue
            source = value.producer()
            if source is not None and (source in wanted or is_deferred(value)):
                pending.append((source, False))
                continue
            content = constant(value)
            if content is None:
                raise _NotConstantError
            leaves[value] = content
    return order, leaves
