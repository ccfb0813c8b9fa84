"""The sizes of inputs that a model demands, where the file leaves them free."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bnfold.graph.shapes import rank_of, shape_of, size_of
from bnfold.proof.hints.sizes import COMPARISONS, axis_of_input

_BROADCASTING = (
    COMPARISONS | {"Add", "Div", "Max", "Min", "Mod", "Mul", "Pow", "PRelu", "Sub"} | {"Where"}
)
"""Operators that repeat an axis of one element as often as another operand is long there."""

_PER_CHANNEL = {"BatchNormalization": 1, "InstanceNormalization": 1, "LayerNormalization": -1}
"""Operators whose second operand has a number for each place along an axis of the first."""


def demanded_sizes(model: ir.Model) -> dict[tuple[str, int], int]:
    """Return sizes by input and axis, as far as the file declares them free.

    A size of 1 would often run, too, where an operand is repeated; but it shows nothing of what is
    done along that axis.
    """
    found: dict[tuple[str, int], int] = {}
    for node in model.graph:
        for value, axis, size in _demands(node):
            rank = rank_of(value)
            if value is None or rank is None or not -rank <= axis < rank or size == 1:
                continue
            place = axis_of_input(model, value, axis) if size_of(value, axis) is None else None
            if place is not None:
                found[place] = max(size, found.get(place, 0))
    return found


def _demands(node: ir.Node) -> Iterator[tuple[ir.Value | None, int, int]]:
    """Yield operands, axes and the sizes that what is beside them needs there."""
    shapes = [_known_sizes(value) for value in node.inputs]
    if node.op_type in _BROADCASTING:
        for place, shape in enumerate(shapes):
            others = [other for at, other in enumerate(node.inputs) if at != place]
            for axis, size in enumerate(shape):
                yield from ((other, axis - len(shape), size) for other in others)
        return
    for place, shape in enumerate(shapes[:2] if len(shapes) > 1 else []):
        other = node.inputs[1 - place]
        if node.op_type == "MatMul" and shape:
            yield (other, -2, shape[-1]) if place == 0 else (other, -1, shape[-2:][0])
        elif node.op_type == "Gemm" and len(shape) == 2:
            turned = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
            inner = 1 - place  # the axis that is summed over, unless transposed
            yield other, (1 - inner) ^ turned[1 - place], shape[inner ^ turned[place]]
        elif node.op_type == "Conv" and place == 1 and len(shape) > 2:
            yield other, 1, shape[1] * node.attributes.get_int("group", 1)
        elif node.op_type in _PER_CHANNEL and place == 1 and len(shape) == 1:
            yield other, _PER_CHANNEL[node.op_type], shape[0]


def _known_sizes(value: ir.Value | None) -> list[int]:
    """Return the sizes of the axes of a value, 1 where they are free."""
    shape = shape_of(value) if value is not None else None
    return [] if shape is None else [size if isinstance(size, int) else 1 for size in shape]
