"""Chooses free sizes such that Reshapes to known sizes get as many elements as they ask for.

A free size may be the product of others, as of what a Reshape before the window has flattened.
Elements then fit the target of a Reshape at few sizes only.
"""

from __future__ import annotations

import math
from dataclasses import replace

import onnx

from bnfold.graph.kept_sizes import COUNT_KEEPING
from bnfold.proof.certificates.constant_folding import sizes_within, with_sizes
from bnfold.proof.certificates.sizes.sizing import Shapes, Sizing
from bnfold.proof.certificates.submodels import Constants
from bnfold.proof.certificates.windows import POINTWISE, Window

_KEEPING = COUNT_KEEPING | POINTWISE
"""Operators whose result has as many elements as their first input, unless it spreads."""

_MOST_CHANGES = 4

MOST_ELEMENTS = 2**22
"""Of an input: what is larger takes too long to prove."""


def fitting(window: Window, sizing: Sizing, *, splits: bool = False) -> Sizing | None:
    """Return the choice with other free sizes, at which the Reshapes of what is replaced can run.

    The smallest; or, if one `splits`, the free size is the product of all that are asked for, so
    that the one left open is what the input has already. None if nothing is to be changed, or no
    few sizes would do.
    """
    shapes, changes = sizing.shapes, _changes(window, sizing.shapes, splits=splits)
    for _ in range(_MOST_CHANGES):
        if not changes:
            break
        following = [(each, _changes(window, each, splits=splits)) for each in changes]
        shapes, changes = min(following, key=lambda pair: (bool(pair[1]), elements(pair[0])))
    if shapes is sizing.shapes:
        return None
    return replace(sizing, shapes=shapes, stackable=False, batched=False)


def elements(shapes: Shapes) -> int:
    """Return how many elements the largest input has."""
    return max(map(math.prod, shapes.values()))


def _changes(window: Window, shapes: Shapes, *, splits: bool) -> list[Shapes]:
    """Return other shapes for the input of the first Reshape that cannot run, one free size each.

    The smallest size that fits: as many elements as the target has, or a multiple of its known
    sizes.
    """
    free = free_axes(window)
    model = with_sizes(window, shapes).before
    constants = Constants(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    sizes = {**sizes_within(model), **shapes}
    described = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in window.before.graph.value_info
    }
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = [int(size) for size in constants[node.input[1]].reshape(-1)]
        source, own = _source(node.input[0], makers), sizes.get(node.input[0], ())
        target = [own[at] if not t and at < len(own) else t for at, t in enumerate(target)]
        if (said := described.get(node.output[0])) is not None:
            target = [at or t if t == -1 else t for at, t in zip(said, target, strict=False)]
        if source not in shapes or 0 in target:
            continue
        total, asked = math.prod(shapes[source]), math.prod(s for s in target if s > 0)
        if total == asked or (-1 in target and total % asked == 0):
            continue
        found = []
        for symbol, axis in free.get(source, {}).items():
            rest = total // shapes[source][axis]
            new = asked // (1 if splits and -1 in target else math.gcd(rest, asked))
            if -1 in target or rest * new == asked:
                found.append(with_size(shapes, free, symbol, new))
        return [each for each in found if elements(each) <= MOST_ELEMENTS]
    return []


def _source(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """Return what has the same elements, as far back as can be told."""
    while name in makers and makers[name].op_type in _KEEPING:
        name = makers[name].input[0]
    return name


def free_axes(window: Window) -> dict[str, dict[str, int]]:
    """Return the axes of free sizes by input and by the name of the size, the last of one name."""
    return {
        value.name: {
            size.dim_param or f"{value.name}[{axis}]": axis
            for axis, size in enumerate(value.type.tensor_type.shape.dim)
            if size.dim_value <= 0
        }
        for value in window.inputs
    }


def with_size(shapes: Shapes, free: dict[str, dict[str, int]], symbol: str, new: int) -> Shapes:
    """Return the shapes with another size for all axes whose size has this name."""
    changed = {name: list(shape) for name, shape in shapes.items()}
    for name, axes in free.items():
        if symbol in axes:
            changed[name][axes[symbol]] = new
    return {name: tuple(shape) for name, shape in changed.items()}
