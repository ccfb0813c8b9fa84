"""Replaces operators by simpler ones where ONNX defines both alike, or arithmetic says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.graph.schemas import opsets_of
from bnfold.proof.submodels import Constants
from bnfold.proof.windows import NotShown, Window, ints, is_float
from bnfold.running.learning import infer_small

_OF_SEVERAL = ("Concat", "Max", "Mean", "Min", "Sum")
"""Operators of any number of operands, which return the first if there is no other."""

_REDUCING = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
"""Operators that return one element as it is."""

_NEUTRAL = {"Add": 0, "Div": 1, "Mul": 1, "Sub": 0}
"""Operators, and the second operand with which they return the first."""

_ALWAYS_INFERENCE = 7
"""The operator set from which on a Dropout is one of inference, unless an input says otherwise."""


def with_definitions(window: Window) -> Window:
    """Take the branch of an If over a constant, the one operand of a Sum, the type of a CastLike.

    And leave out x·1, x/1, a Cast of floats to a wider type and back, reductions over axes of size
    1, for integers x + 0 and x − 0, and a Dropout that says that it is one of inference, as up to
    operator set 6.

    The largest of one element is their mean: MaxPools become AveragePools if all are such.

    No name within a branch is one outside: loaded models are normalized so.

    Raises:
        NotShown: if a Dropout of operator set 6 or earlier is in training, or its mask is read.
    """
    pools = [node for node in window.nodes() if node.op_type == "MaxPool"]
    if pools and window.is_of_floats and all(map(_is_of_one_element, pools)):
        window = Window(*map(_averaged, window.models))
    if not window.operators & {
        "If",
        "Cast",
        "CastLike",
        "Dropout",
        *_OF_SEVERAL,
        *_NEUTRAL,
        *_REDUCING,
    }:
        return window
    return Window(*map(_simplified, window.models))


def _is_of_one_element(pool: onnx.NodeProto) -> bool:
    is_plain = not any(ints(pool, "pads")) and not any(ints(pool, "ceil_mode"))
    return is_plain and set(ints(pool, "kernel_shape")) == {1} and len(pool.output) == 1


def _averaged(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "MaxPool":
            node.op_type = "AveragePool"
            kept = [each for each in node.attribute if each.name in ("kernel_shape", "strides")]
            del node.attribute[:]
            node.attribute.extend(kept)
    return copy


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    while any(_branch(copy, node) is not None for node in copy.graph.node):
        nodes = [each for node in copy.graph.node for each in _in_place_of(copy, node)]
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
    # A branch says nothing of the types within it.
    graph = ((infer_small(copy) or copy) if _has_branches(model) else copy).graph
    described = [*graph.input, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in described}
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in described
        if value.type.tensor_type.HasField("shape")
    }
    ranks = {name: len(sizes) for name, sizes in shapes.items()}
    constants = Constants(copy)
    widened: dict[str, str] = {}
    read = {name for node in copy.graph.node for name in node.input if name}
    read |= {output.name for output in copy.graph.output}
    opsets = opsets_of(model)
    is_old = opsets.get("", opsets.get("ai.onnx", 1)) < _ALWAYS_INFERENCE
    for node in copy.graph.node:
        if node.op_type == "Dropout" and is_old:
            if ints(node, "is_test", [0]) == [0]:
                raise NotShown("it draws random numbers")
            if not read.isdisjoint(node.output[1:]):
                raise NotShown("it reads the mask of a Dropout that is not defined")
            node.CopyFrom(onnx.helper.make_node("Identity", node.input, node.output[:1]))
        if is_old and ints(node, "axis") and node.op_type in _NEUTRAL:
            _spread(copy, node, constants.get(node.input[1]), ranks.get(node.input[0]))
        if node.op_type == "CastLike" and types.get(node.input[1]):
            node.op_type = "Cast"
            node.attribute.append(onnx.helper.make_attribute("to", types[node.input[1]]))
            del node.input[1:]
        of_one = node.op_type in _OF_SEVERAL and len(node.input) == 1
        of_one |= node.op_type in _REDUCING and _is_over_ones(
            node, shapes.get(node.input[0], []), constants
        )
        if of_one or (node.op_type == "Cast" and types.get(node.input[0]) == ints(node, "to")[0]):
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
        elif node.op_type == "Cast":
            source = widened.get(node.input[0], "")
            if types.get(source) == ints(node, "to")[0]:
                node.CopyFrom(onnx.helper.make_node("Identity", [source], node.output))
            elif _is_wider(ints(node, "to")[0], types.get(node.input[0])):
                widened[node.output[0]] = node.input[0]
        for name, other in (node.input, node.input[::-1]) if node.op_type in _NEUTRAL else ():
            is_neutral = _is_neutral(node.op_type, constants.get(other), ranks.get(name, 0))
            if is_neutral and (other == node.input[1] or node.op_type in ("Add", "Mul")):
                node.CopyFrom(onnx.helper.make_node("Identity", [name], node.output))
                break
    return copy


def _is_over_ones(node: onnx.NodeProto, sizes: Sequence[int], constants: Constants) -> bool:
    """Say whether a reduction is over axes of size 1, and keeps them."""
    named = constants.get(node.input[1]) if len(node.input) > 1 else None
    axes = ints(node, "axes") if named is None else named.reshape(-1).tolist()
    is_kept = ints(node, "keepdims", [1]) == [1]
    return bool(axes and sizes) and is_kept and all(sizes[axis] == 1 for axis in axes)


def _is_wider(one: int, other: int | None) -> bool:
    """Say whether a float type has all numbers of another one, and more."""
    if other is None:
        return False
    types = [np.dtype(onnx.helper.tensor_dtype_to_np_dtype(each)) for each in (one, other)]
    return all(map(is_float, types)) and types[0].itemsize > types[1].itemsize


def _spread(
    model: onnx.ModelProto, node: onnx.NodeProto, content: Array | None, rank: int | None
) -> None:
    """Give the second operand the axes after its own, as `axis` counts them before set 7.

    Raises:
        NotShown: if it is not known how many there are.
    """
    if content is None or rank is None:
        raise NotShown(f"it is not known how {node.op_type} spreads its operand")
    missing = rank - ints(node, "axis")[0] % rank - content.ndim
    name = f"{node.input[1]} for {node.output[0]}"
    wide = content.reshape(*content.shape, *[1] * missing)
    model.graph.initializer.append(onnx.numpy_helper.from_array(wide, name))
    node.input[1] = name
    kept = [each for each in node.attribute if each.name not in ("axis", "broadcast")]
    del node.attribute[:]
    node.attribute.extend(kept)


def _is_neutral(op_type: str, content: Array | None, rank: int) -> bool:
    """Say whether an operator with this constant returns its other operand, of at least a rank.

    A float is not, if it is added: −0 + 0 is 0.
    """
    if content is None or content.ndim > rank or content.size != 1:
        return False
    is_exact = content.dtype.kind in "iu" or (content.dtype.kind == "f" and _NEUTRAL[op_type] == 1)
    return is_exact and bool(content.flat[0] == _NEUTRAL[op_type])


def _has_branches(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "If" for node in model.graph.node)


def _branch(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.GraphProto | None:
    constants = Constants(model)
    if node.op_type != "If" or node.domain or node.input[0] not in constants:
        return None
    name = "then_branch" if constants[node.input[0]].item() else "else_branch"
    return next((attribute.g for attribute in node.attribute if attribute.name == name), None)


def _in_place_of(model: onnx.ModelProto, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    branch = _branch(model, node)
    if branch is None:
        yield node
        return
    model.graph.initializer.extend(branch.initializer)
    yield from branch.node
    for output, inner in zip(node.output, branch.output, strict=True):
        yield onnx.helper.make_node("Identity", [inner.name], [output])
