"""Which values of a graph are constant, and their content.

Constants are initializers that no caller can override (not graph inputs; before IR version 4 the
loader has removed them from the inputs), Constant nodes, and expressions of these with the few
operators in which exporters wrap weights. torch's dynamo exporter writes a Conv's missing bias as
``Expand(CastLike(0, x), Shape(W))``. onnx's reference evaluator evaluates the expressions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array
from bnfold.graph.memory import memory
from bnfold.graph.walk import all_graphs

_OPERATORS = frozenset(
    {
        *("Add", "Div", "Exp", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"),
        *("Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Reshape", "Slice"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    }
)

_OF_THE_FIRST = frozenset({"CastLike", "Identity", "Shape"})
"""Operators of which only the first input, if any, must be constant."""


_LARGEST = 2**26
"""Maximum number of elements of an expression that is evaluated."""


_CACHE = "bnfold.constant"
"""Where a value keeps the content of its expression."""

_Failed: TypeAlias = dict[ir.Value, bool]
"""The expressions that are not constant. Later in the sweep, a rewrite may make them constant."""


def constant(value: ir.Value | None) -> Array | None:
    """Return the value's content if it can never change, else None.

    Each expression on the way is evaluated once, those that it reads first.
    """
    if value is None or not _is_expression(value):
        return _content(value)
    failed = memory().answers("not constant")
    pending = [(value, _unknown_sources(value, failed))]
    while pending:
        expression, sources = pending[-1]
        source = next(sources, None)
        if source is not None:
            pending.append((source, _unknown_sources(source, failed)))
        else:
            _settle(expression, failed)
            pending.pop()
    return _content(value)


def is_overridable(value: ir.Value | None) -> bool:
    """Say whether the value is an initializer that a caller may replace at run time."""
    return value is not None and value.is_initializer() and value.is_graph_input()


def forget_contents(model: ir.Model) -> None:
    """Clear the cached content of expressions, because others may edit the model from now on."""
    for graph in all_graphs(model):
        for node in graph:
            for output in node.outputs:
                output.meta.pop(_CACHE, None)


def _is_expression(value: ir.Value) -> bool:
    """Say whether the value is computed by an operator that may be evaluated."""
    node = value.producer()
    return (
        node is not None
        and node.domain == ""
        and (node.op_type in _OPERATORS or node.op_type in _OF_THE_FIRST)
        and not value.is_initializer()
    )


def _is_known(value: ir.Value, failed: _Failed) -> bool:
    return not _is_expression(value) or _CACHE in value.meta or value in failed


def _unknown_sources(value: ir.Value, failed: _Failed) -> Iterator[ir.Value]:
    """Yield the operands of an expression that must be known before it, one after the other."""
    node = value.producer()
    if node is None or _is_known(value, failed):
        return
    for source in node.inputs[:1] if node.op_type in _OF_THE_FIRST else node.inputs:
        if source is not None:
            if not _is_known(source, failed):
                yield source
            if _content(source) is None:
                return  # the expression is not constant, whatever the others are


def _settle(value: ir.Value, failed: _Failed) -> None:
    """Evaluate an expression whose operands are known, or remember that it is not constant."""
    node = value.producer()
    if node is None or _is_known(value, failed):
        return
    content = _evaluate(node)
    if content is None:
        failed[value] = True
    else:
        value.meta[_CACHE] = content


def _content(value: ir.Value | None) -> Array | None:
    """Return the content of a constant, or of an expression that has been evaluated."""
    if value is None:
        return None
    if value.is_initializer():
        tensor = value.const_value
        return None if tensor is None or value.is_graph_input() else tensor.numpy()
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Constant":
        return _constant_node_content(node)
    cached: Array | None = value.meta.get(_CACHE)
    return cached


_CONSTANT_ATTRIBUTES: Mapping[str, type[np.generic] | None] = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def _constant_node_content(node: ir.Node) -> Array | None:
    for name, dtype in _CONSTANT_ATTRIBUTES.items():
        attribute = node.attributes.get(name)
        if attribute is None or attribute.is_ref():
            continue
        if dtype is None:
            return attribute.as_tensor().numpy()
        return np.array(attribute.value, dtype)
    return None


def _evaluate(node: ir.Node) -> Array | None:
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Identity":
        return _content(first)
    if node.op_type == "CastLike":
        content, like = _content(first), node.inputs[1]
        if content is None or like is None or like.dtype is None:
            return None
        return content.astype(like.dtype.numpy())
    if node.op_type == "Shape":
        return _shape(node, first)
    if node.op_type not in _OPERATORS or any(a.is_ref() for a in node.attributes.values()):
        return None
    if "broadcast" in node.attributes:
        return None  # before opset 7 it may align axes other than the last: not supported
    contents = []
    for value in node.inputs:
        content = _content(value)
        if value is not None and content is None:
            return None
        contents.append(content)
    if _result_size(node, contents) > _LARGEST:
        return None
    return _run(node, contents)


def _shape(node: ir.Node, value: ir.Value | None) -> Array | None:
    """Return the shape of a value, which may be known although the value is not constant."""
    content = _content(value)
    dims: tuple[object, ...] | None = None
    if content is not None:
        dims = content.shape
    elif value is not None and value.shape is not None:
        dims = value.shape.dims
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    if dims is None:
        return None
    sizes = dims[start:end]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return np.array(sizes, np.int64)


def _result_size(node: ir.Node, contents: list[Array | None]) -> int:
    """Bound the number of elements of the result, by a shape input or by broadcasting."""
    sizes = [content.size for content in contents if content is not None]
    if node.op_type in ("ConstantOfShape", "Expand"):
        shape = contents[-1]
        requested = math.prod(int(size) for size in shape) if shape is not None else 0
        return requested if node.op_type == "ConstantOfShape" else requested * sizes[0]
    multiplies = node.op_type in ("Add", "Div", "Gather", "Mul", "Pow", "Sub")
    return math.prod(sizes) if multiplies else sum(sizes)


def _run(node: ir.Node, contents: list[Array | None]) -> Array | None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    assert node.graph is not None
    proto = ir.to_proto(node)
    names = ["" if content is None else f"i{n}" for n, content in enumerate(contents)]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("result")
    unknown = [
        onnx.helper.make_empty_tensor_value_info(name) for name in (*names, "result") if name
    ]
    graph = onnx.helper.make_graph([proto], "constant", unknown[:-1], unknown[-1:])
    opset = onnx.helper.make_opsetid("", node.graph.opset_imports.get("", 1))
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    feeds = {name: content for name, content in zip(names, contents, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the evaluator lacks some types and versions: then not a constant
        return None
    return np.asarray(result)
