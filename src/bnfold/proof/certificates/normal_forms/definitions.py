"""Replaces operators by simpler ones where ONNX defines both alike, or arithmetic says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array
from bnfold.graph.schemas import CLIP_READS_BOUNDS_SINCE, opsets_of
from bnfold.proof.certificates.submodels import Constants, replace_nodes
from bnfold.proof.certificates.windows import NotShown, Window, ints, is_float
from bnfold.proof.cutting import reads
from bnfold.running.learning import infer_small

_NEUTRAL = {"Add": 0, "And": 1, "Div": 1, "Mul": 1, "Or": 0, "Sub": 0, "Xor": 0}
"""Operators, and the second operand with which they return the first."""

_ONE_SIDED = ("Div", "Sub")
"""Of these, those that do not return the second one."""

_ALWAYS_INFERENCE = 7
"""The operator set from which on a Dropout is one of inference, unless an input says otherwise."""


def with_definitions(window: Window) -> Window:
    """Take the branch of an If over a constant, the one operand of a Sum, the type of a CastLike.

    And leave out Identities, x·1, x/1, for integers x + 0 and x − 0, x and true, x or false, a Not
    before a Where, a Cast of floats to a wider type and back, reductions over axes of size 1, and a
    Dropout that says that it is one of inference, as up to operator set 6.

    What chooses sizes that are known of a shape is a constant, though others are free.

    The larger or smaller of floats and a number is a Clip of them. What is greater comes second.

    The largest of one element is their mean: MaxPools become AveragePools if all are such.

    No name within a branch is one outside: loaded models are normalized so.

    Raises:
        NotShown: if a Dropout of operator set 6 or earlier is in training, or its mask is read.
    """
    pools = [node for node in window.nodes() if node.op_type == "MaxPool"]
    if pools and window.is_of_floats and all(map(_is_of_one_element, pools)):
        window = Window(*map(_averaged, window.models))
    if window.operators.isdisjoint(_SIMPLIFIED.keys() | {"Identity", "If"}):
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
            _keep_attributes(node, "kernel_shape", "strides")
    return copy


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = _with_branches_taken(model)
    known = _Known(copy)
    for node in copy.graph.node:
        if not node.domain and node.op_type in _SIMPLIFIED:
            _SIMPLIFIED[node.op_type](node, known)
    _read_what_identities_read(copy)
    return copy


def _read_what_identities_read(model: onnx.ModelProto) -> None:
    """Leave out, in place, each Identity whose result only operators read, and not their bodies."""
    needed = {output.name for output in model.graph.output}
    needed |= {name for node in model.graph.node for name in reads(node) - set(node.input)}
    sources: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = sources.get(name, name)
        if node.op_type == "Identity" and not node.domain and node.output[0] not in needed:
            sources[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    if sources:
        replace_nodes(model.graph, nodes)


def _with_branches_taken(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    is_taken = False
    while True:
        constants = Constants(copy)
        branches = [_branch(constants, node) for node in copy.graph.node]
        if not any(branch is not None for branch in branches):
            break
        pairs = zip(copy.graph.node, branches, strict=True)
        nodes = [part for node, branch in pairs for part in _in_place_of(node, branch)]
        for branch in branches:
            copy.graph.initializer.extend(branch.initializer if branch is not None else ())
        del copy.graph.node[:]
        copy.graph.node.extend(nodes)
        is_taken = True
    # A branch says nothing of the types within it.
    inferred = infer_small(copy) if is_taken else None
    if inferred is not None:
        del copy.graph.value_info[:]
        copy.graph.value_info.extend(inferred.graph.value_info)
    return copy


def _branch(constants: Mapping[str, Array], node: onnx.NodeProto) -> onnx.GraphProto | None:
    if node.op_type != "If" or node.domain or node.input[0] not in constants:
        return None
    name = "then_branch" if constants[node.input[0]].item() else "else_branch"
    return next((attribute.g for attribute in node.attribute if attribute.name == name), None)


def _in_place_of(node: onnx.NodeProto, branch: onnx.GraphProto | None) -> Iterator[onnx.NodeProto]:
    """Yield the node, or those of the branch that it takes."""
    if branch is None:
        yield node
        return
    yield from branch.node
    for output, inner in zip(node.output, branch.output, strict=True):
        yield onnx.helper.make_node("Identity", [inner.name], [output])


class _Known:
    """What is known of the values of a model, as far as its nodes have been read."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = Constants(model)
        described = [*model.graph.input, *model.graph.value_info]
        self.types = {value.name: value.type.tensor_type.elem_type for value in described}
        self.shapes: Mapping[str, Sequence[int | None]] = {
            value.name: [size.dim_value or None for size in value.type.tensor_type.shape.dim]
            for value in described
            if value.type.tensor_type.HasField("shape")
        }
        opsets = opsets_of(model)
        self.opset = opsets.get("", opsets.get("ai.onnx", 1))
        self.is_old = self.opset < _ALWAYS_INFERENCE
        self.read = {name for node in model.graph.node for name in node.input if name}
        self.read |= {output.name for output in model.graph.output}
        self.widened: dict[str, str] = {}
        """Floats that were cast to a wider type, by what they became."""
        self.negated: dict[str, str] = {}
        """Conditions by their negation."""
        self.asked: dict[str, Sequence[int | None]] = {}
        """Sizes by what reads them."""


def _become_identity(node: onnx.NodeProto, name: str) -> None:
    node.CopyFrom(onnx.helper.make_node("Identity", [name], node.output[:1]))


def _keep_attributes(node: onnx.NodeProto, *names: str) -> None:
    kept = [each for each in node.attribute if each.name in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _dropout(node: onnx.NodeProto, known: _Known) -> None:
    if not known.is_old:
        return
    if ints(node, "is_test", [0]) == [0]:
        raise NotShown("it draws random numbers")
    if not known.read.isdisjoint(node.output[1:]):
        raise NotShown("it reads the mask of a Dropout that is not defined")
    _become_identity(node, node.input[0])


def _cast_like(node: onnx.NodeProto, known: _Known) -> None:
    kind = known.types.get(node.input[1])
    if kind:
        node.op_type = "Cast"
        node.attribute.append(onnx.helper.make_attribute("to", kind))
        del node.input[1:]
        _cast(node, known)


def _cast(node: onnx.NodeProto, known: _Known) -> None:
    (name,), (target,) = node.input, ints(node, "to")
    kind, source = known.types.get(name), known.widened.get(name, "")
    if kind == target:
        _become_identity(node, name)
    elif known.types.get(source) == target:
        _become_identity(node, source)
    elif kind and _is_wider(target, kind):
        known.widened[node.output[0]] = name


def _is_wider(one: int, other: int) -> bool:
    """Say whether a float type has all numbers of another one, and more."""
    types = [np.dtype(onnx.helper.tensor_dtype_to_np_dtype(each)) for each in (one, other)]
    return all(map(is_float, types)) and types[0].itemsize > types[1].itemsize


def _not(node: onnx.NodeProto, known: _Known) -> None:
    known.negated[node.output[0]] = node.input[0]


def _where(node: onnx.NodeProto, known: _Known) -> None:
    condition = known.negated.get(node.input[0])
    if condition is not None:
        node.input[:] = [condition, node.input[2], node.input[1]]


def _greater(node: onnx.NodeProto, _: _Known) -> None:
    """What is greater than another is what the other is less than, and NaN neither."""
    node.op_type = node.op_type.replace("Greater", "Less")
    node.input[:] = node.input[::-1]


def _of_several(node: onnx.NodeProto, known: _Known) -> None:
    if len(node.input) == 1:
        _become_identity(node, node.input[0])


def _extremum(node: onnx.NodeProto, known: _Known) -> None:
    """The larger or smaller of a float and one number is a Clip at that number."""
    _of_several(node, known)
    if len(node.input) != 2 or known.opset < CLIP_READS_BOUNDS_SINCE:
        return
    for data, bound in (node.input, node.input[::-1]):
        content, shape = known.constants.get(bound), known.shapes.get(data, [])
        is_number = content is not None and content.size == 1 and content.ndim <= len(shape)
        if content is None or not is_number or content.dtype.kind != "f" or np.isnan(content).any():
            continue
        sign = 1 if node.op_type == "Max" else -1
        bounds = [content.reshape(()), np.array(sign * np.inf, content.dtype)][::sign]
        names = [f"{node.output[0]} {side}" for side in ("low", "high")]
        known.model.graph.initializer.extend(map(onnx.numpy_helper.from_array, bounds, names))
        node.op_type, node.input[:] = "Clip", [data, *names]
        return


def _reduction(node: onnx.NodeProto, known: _Known) -> None:
    """One element, reduced, is that element."""
    named = known.constants.get(node.input[1]) if len(node.input) > 1 else None
    axes = ints(node, "axes") if named is None else named.reshape(-1).tolist()
    shape = known.shapes.get(node.input[0])
    is_kept = ints(node, "keepdims", [1]) == [1]
    if shape and is_kept and all(shape[axis] == 1 for axis in axes or range(len(shape))):
        _become_identity(node, node.input[0])


def _shape(node: onnx.NodeProto, known: _Known) -> None:
    shape = known.shapes.get(node.input[0])
    if shape is not None:
        (start,), end = ints(node, "start", [0]), ints(node, "end")
        known.asked[node.output[0]] = shape[start : end[0] if end else None]


def _chosen(node: onnx.NodeProto, known: _Known) -> None:
    """Choose known sizes at once."""
    sizes = known.asked.get(node.input[0])
    places = _places(node, len(sizes), known) if sizes is not None else None
    if sizes is None or places is None:
        return
    found = [sizes[place] for place in places.reshape(-1)]
    if None not in found:
        content = np.array(found, np.int64).reshape(places.shape)
        value = onnx.numpy_helper.from_array(content)
        node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, value=value))


def _places(node: onnx.NodeProto, count: int, known: _Known) -> Array | None:
    """Return which of so many sizes a Gather or Slice chooses, if that is constant."""
    given = [known.constants.get(name) for name in node.input[1:]]
    contents = [content for content in given if content is not None]
    if len(contents) < len(given):
        return None
    if node.op_type == "Gather":
        (indices,) = contents
        is_within = bool(((indices >= -count) & (indices < count)).all())
        return np.asarray(np.arange(count)[indices]) if is_within else None
    if not 2 <= len(contents) <= 4 or any(content.size != 1 for content in contents):
        return None
    start, end, *others = (content.item() for content in contents)
    return np.arange(count)[slice(start, end, *others[1:])]


def _arithmetic(node: onnx.NodeProto, known: _Known) -> None:
    if known.is_old and ints(node, "axis"):
        _spread(node, known)
    one, other = node.input
    if _is_neutral(node.op_type, known.constants.get(other), known.shapes.get(one, [])):
        _become_identity(node, one)
    elif node.op_type not in _ONE_SIDED and _is_neutral(
        node.op_type, known.constants.get(one), known.shapes.get(other, [])
    ):
        _become_identity(node, other)


def _spread(node: onnx.NodeProto, known: _Known) -> None:
    """Give the second operand the axes after its own, as `axis` counts them before set 7.

    Raises:
        NotShown: if it is not known how many there are.
    """
    content, shape = known.constants.get(node.input[1]), known.shapes.get(node.input[0])
    if content is None or shape is None:
        raise NotShown(f"it is not known how {node.op_type} spreads its operand")
    missing = len(shape) - ints(node, "axis")[0] % len(shape) - content.ndim
    name = f"{node.input[1]} for {node.output[0]}"
    wide = content.reshape(*content.shape, *[1] * missing)
    known.model.graph.initializer.append(onnx.numpy_helper.from_array(wide, name))
    node.input[1] = name
    _keep_attributes(node)


def _is_neutral(op_type: str, content: Array | None, shape: Sequence[int | None]) -> bool:
    """Say whether an operator with this constant returns its other operand, of such a shape.

    A float is not, if it is added: −0 + 0 is 0.
    """
    if content is None or content.ndim > len(shape):
        return False
    own = shape[len(shape) - content.ndim :]
    if any(size not in (1, other) for size, other in zip(content.shape, own, strict=True)):
        return False
    is_exact = content.dtype.kind in "biu" or (content.dtype.kind == "f" and _NEUTRAL[op_type] == 1)
    return is_exact and bool((content == _NEUTRAL[op_type]).all())


_SIMPLIFIED: Mapping[str, Callable[[onnx.NodeProto, _Known], None]] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Gather": _chosen,
    "Greater": _greater,
    "GreaterOrEqual": _greater,
    "Not": _not,
    "Shape": _shape,
    "Slice": _chosen,
    "Where": _where,
    **dict.fromkeys(("Concat", "Mean", "Sum"), _of_several),
    **dict.fromkeys(("Max", "Min"), _extremum),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), _reduction
    ),
    **dict.fromkeys(_NEUTRAL, _arithmetic),
}
"""By operator, what replaces it in place, if anything does."""
