"""Proves windows in which operators choose: in the same way on both sides, whatever it is.

    f(c ? x : y) = c ? f(x) : f(y)        f(max(x, y)) = max(f(x), f(y)) if f increases

for a function f of each element by itself, such as a scale and a shift. A Where chooses by the same
condition on both sides, a Max or Min by the operands themselves, and so does a ReduceMax or
ReduceMin if f is the same for all elements that it is over. So it is enough that

- what one chooses from on the side after is f of what it chooses from before;
- with f of the result of the one in place of that of the other, whatever it is, the results are the
  same.

All of these are windows of affine models. On random inputs, it shows which f it may be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.cuts import Cuts, prove_by_cuts
from bnfold.proof.certificates.homogeneous import EXTREMES, named_axes
from bnfold.proof.certificates.normal_forms.congruence import signature
from bnfold.proof.certificates.normal_forms.kept_axes import keeps_axes
from bnfold.proof.certificates.probing import Differs
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.windows import AFFINE, Window, dtype_of, is_float
from bnfold.record.data import Certificate

_OPERANDS = {
    "Where": slice(1, None),
    **dict.fromkeys(("Max", "Min"), slice(None)),
    **dict.fromkeys(EXTREMES, slice(1)),
}
"""Operators that choose, and the operands that they choose from."""


def prove_choices(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of the results; None if it is not shown that they are the same."""
    if window.operators & {"Max", "Min"}:
        window = Window(*map(_with_extremes_alike, window.models))
    before, after = (
        [node for node in model.graph.node if node.op_type in _OPERANDS] for model in window.models
    )
    kinds, others = (
        [signature(node, opsets_of(model)) for node in nodes]
        for model, nodes in zip(window.models, (before, after), strict=True)
    )
    if kinds != others or not kinds:
        return None
    conditions = [
        [node.input[0] for node in nodes if node.op_type == "Where"] for nodes in (before, after)
    ]
    types = {dtype_of(value) for value in window.inputs if value.name not in conditions[0]}
    read = {
        n for node in window.nodes() for n in node.input[_OPERANDS.get(node.op_type, slice(None))]
    }
    is_known = (
        window.operators <= AFFINE | _OPERANDS.keys()
        and all(map(is_float, types))
        and read.isdisjoint(conditions[0])
    )
    if not is_known or not _are_same(window, *conditions):
        return None

    pairs = list(zip(before, after, strict=True))
    try:
        return prove_by_cuts(
            window, chosen, lambda proof: all(_cut(window, proof, *pair) for pair in pairs)
        )
    except Differs:  # it may be equal for another reason
        return None


def _with_extremes_alike(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with constant operands of a Max or Min last, and one for a one-sided Clip."""
    constants, copy = Constants(model), onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type in ("Max", "Min"):
            node.input[:] = sorted(node.input, key=constants.__contains__)
        if node.op_type != "Clip" or len(node.input) == 1:
            continue
        data, low, high = (*node.input, "")[:3]
        for kind, bound, other, free in (("Max", low, high, np.inf), ("Min", high, low, -np.inf)):
            if bound and (not other or np.all(constants.get(other) == free)):
                node.op_type, node.input[:] = kind, [data, bound]
                break
    return copy


def _cut(window: Window, proof: Cuts, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Cut both sides where they choose; say whether they may choose the same, but for f."""
    if not proof.are_of_one_shape(one.output[0], other.output[0]):
        return False
    axes = named_axes(window, one) if one.op_type in EXTREMES else []
    if one.op_type in EXTREMES and (not axes or not _have_same_axes(window, one, other)):
        return False
    if axes and not proof.are_of_one_shape(one.input[0], other.input[0]):
        return False
    scale, _ = proof.cut_at(
        one, other, _OPERANDS[one.op_type], axes, keeps_axes=not axes or keeps_axes(one)
    )
    return one.op_type == "Where" or bool((scale > 0).all())


def _have_same_axes(window: Window, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Say whether two reductions, whose attributes are the same, have the same second operands."""
    contents = [
        Constants(model).get(node.input[1]) if len(node.input) > 1 else None
        for model, node in zip(window.models, (one, other), strict=True)
    ]
    before, after = contents
    if before is None or after is None:
        return before is after
    return np.array_equal(before, after)


def _are_same(window: Window, names: Sequence[str], others: Sequence[str]) -> bool:
    """Say whether conditions on both sides are the same inputs, or constants."""
    constants = [Constants(model) for model in window.models]
    inputs = {value.name for value in window.inputs}
    return all(
        (name == other and name in inputs)
        or (
            name in constants[0]
            and other in constants[1]
            and np.array_equal(constants[0][name], constants[1][other])
        )
        for name, other in zip(names, others, strict=True)
    )
