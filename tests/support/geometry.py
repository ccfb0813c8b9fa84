"""Random operators of which the shape of the result is not obvious, one or several in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.graphs import Array, ints

Generator = np.random.Generator
Node = tuple[dict[str, Any], list[Array | None]]
"""The attributes of an operator, and its inputs after the first."""


def _between(generator: Generator, low: int, high: int) -> int:
    return int(generator.integers(low, high + 1))


def _several(generator: Generator, count: int, low: int, high: int) -> list[int]:
    return [int(number) for number in generator.integers(low, high + 1, count)]


def _windows(generator: Generator, axes: int, *, dilated: bool = True) -> dict[str, Any]:
    attributes: dict[str, Any] = {"kernel_shape": _several(generator, axes, 1, 4)}
    if generator.random() < 0.7:
        attributes["strides"] = _several(generator, axes, 1, 4)
    if dilated and generator.random() < 0.5:
        attributes["dilations"] = _several(generator, axes, 1, 3)
    choice = generator.random()
    if choice < 0.5:
        attributes["pads"] = _several(generator, 2 * axes, 0, 3)
    elif choice < 0.8:
        attributes["auto_pad"] = str(generator.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    return attributes


def _pool(generator: Generator, shape: Sequence[int]) -> Node:
    attributes = _windows(generator, len(shape) - 2)
    if generator.random() < 0.6:
        attributes["ceil_mode"] = 1
    return attributes, []


def _lp_pool(generator: Generator, shape: Sequence[int]) -> Node:
    attributes, inputs = _pool(generator, shape)
    attributes.pop("dilations", None)
    return attributes, inputs


def _conv(generator: Generator, shape: Sequence[int]) -> Node:
    attributes = _windows(generator, len(shape) - 2)
    return attributes, [np.ones((3, shape[1], *attributes["kernel_shape"]), np.float32)]


def _conv_transpose(generator: Generator, shape: Sequence[int]) -> Node:
    attributes = _windows(generator, len(shape) - 2)
    if generator.random() < 0.4:
        attributes["output_padding"] = _several(generator, len(shape) - 2, 0, 2)
    if generator.random() < 0.4:
        attributes["output_shape"] = _several(generator, len(shape) - 2, 3, 40)
    return attributes, [np.ones((shape[1], 3, *attributes["kernel_shape"]), np.float32)]


_SCALES = (0.1, 0.15, 0.2, 0.3, 1 / 3, 0.6, 0.7, 0.9, 1.1, 1.2, 1.3, 1.4, 2, 2.5)


def _scale(generator: Generator, sizes: Sequence[int]) -> Array:
    if generator.random() < 0.5:
        return np.array([_between(generator, 1, 30) / size for size in sizes], np.float32)
    return generator.choice(_SCALES, len(sizes)).astype(np.float32)


def _resize(generator: Generator, shape: Sequence[int]) -> Node:
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes: dict[str, Any] = {
        "mode": str(generator.choice(["nearest", "linear"])),
        "coordinate_transformation_mode": str(generator.choice(ways)),
    }
    kept = list(shape[:2])
    if generator.random() < 0.4:
        attributes["axes"] = list(range(2, len(shape)))
        kept = []
    if generator.random() < 0.6:
        ones = np.ones(len(kept), np.float32)
        return attributes, [None, np.concatenate([ones, _scale(generator, shape[2:])])]
    if generator.random() < 0.7:
        policies = ["stretch", "not_larger", "not_smaller"]
        attributes["keep_aspect_ratio_policy"] = str(generator.choice(policies))
    sizes = [*kept, *_several(generator, len(shape) - 2, 1, 30)]
    return attributes, [None, None, ints(*sizes)]


def _upsample(generator: Generator, shape: Sequence[int]) -> Node:
    scales = np.maximum(_scale(generator, shape[2:]), 1)
    return {"mode": "nearest"}, [np.concatenate([np.ones(2, np.float32), scales])]


def _slice(generator: Generator, shape: Sequence[int]) -> Node:
    axes = generator.permutation(len(shape))[: _between(generator, 1, len(shape))]
    axes = np.where(generator.random(axes.shape) < 0.4, axes - len(shape), axes)
    far = [2**31 - 1, 2**63 - 1, -(2**63), -(2**31)]
    ends = [
        int(generator.choice(far)) if generator.random() < 0.4 else _between(generator, -25, 25)
        for _ in axes
    ]
    starts = _several(generator, len(axes), -25, 25)
    steps = [int(step) for step in generator.choice([1, 1, 1, 2, 3, -1, -2, -30, 30], len(axes))]
    return {}, [ints(*starts), ints(*ends), ints(*axes), ints(*steps)]


def _pad(generator: Generator, shape: Sequence[int]) -> Node:
    mode = str(generator.choice(["constant", "reflect", "edge"]))
    return {"mode": mode}, [ints(*_several(generator, 2 * len(shape), -2, 4))]


def _reshape(generator: Generator, shape: Sequence[int]) -> Node:
    count = int(np.prod(shape))
    choices = [[0, -1], [-1], [0, 0, -1], [count], [1, count], [-1, 1], [0, shape[1], -1]]
    return {}, [ints(*choices[_between(generator, 0, len(choices) - 1)])]


def _unsqueeze(generator: Generator, shape: Sequence[int]) -> Node:
    count = _between(generator, 1, 3)
    axes = generator.permutation(len(shape) + count)[:count]
    axes = np.where(generator.random(count) < 0.5, axes - len(shape) - count, axes)
    return {}, [ints(*axes)]


def _flatten(generator: Generator, shape: Sequence[int]) -> Node:
    return {"axis": _between(generator, -len(shape), len(shape))}, []


def _reduce(generator: Generator, shape: Sequence[int]) -> Node:
    axes = generator.permutation(len(shape))[:2]
    axes = np.where(generator.random(2) < 0.5, axes - len(shape), axes)
    return {"keepdims": _between(generator, 0, 1)}, [ints(*axes)]


def _tile(generator: Generator, shape: Sequence[int]) -> Node:
    return {}, [ints(*_several(generator, len(shape), 0, 3))]


def _expand(generator: Generator, shape: Sequence[int]) -> Node:
    sizes = [int(generator.choice([1, size])) for size in shape]
    return {}, [ints(_between(generator, 1, 2), *sizes)]


def _depth_to_space(generator: Generator, shape: Sequence[int]) -> Node:
    return {"blocksize": 2}, []


KINDS: dict[str, Callable[[Generator, Sequence[int]], Node]] = {
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _lp_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Resize": _resize,
    "Upsample": _upsample,
    "Slice": _slice,
    "Pad": _pad,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "ReduceMean": _reduce,
    "Tile": _tile,
    "Expand": _expand,
    "SpaceToDepth": _depth_to_space,
}
"""What makes a random node of each kind, for data of a shape."""

OPSETS = {"Upsample": 9, "ReduceMean": 18}
"""The opset of a model with such an operator; 19 for all others."""


def chain(kinds: Sequence[str], seed: int) -> tuple[onnx.ModelProto, list[int]]:
    """Return a model of operators in a row, and the shape of its input x."""
    generator = np.random.default_rng([seed, *(list(KINDS).index(kind) for kind in kinds)])
    space = 1 if generator.random() < 0.4 else 2
    shape = [*_several(generator, 1, 1, 2), *_several(generator, 1, 1, 4)]
    shape += [_between(generator, 3, 20) for _ in range(space)]
    model = onnx.ModelProto(ir_version=8)
    model.opset_import.add(version=OPSETS.get(kinds[0], 19))
    model.graph.name = "chain"
    value, sizes = "x", list(shape)
    for place, kind in enumerate(kinds):
        attributes, operands = KINDS[kind](generator, sizes)
        names = [value]
        for index, operand in enumerate(operands):
            names.append("" if operand is None else f"k{place}_{index}")
            if operand is not None:
                model.graph.initializer.append(numpy_helper.from_array(operand, names[-1]))
        value = f"v{place}"
        model.graph.node.append(helper.make_node(kind, names, [value], **attributes))
        if kind in ("Conv", "ConvTranspose"):
            sizes[1] = 3
    model.graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape))
    model.graph.output.extend(
        helper.make_tensor_value_info(f"v{place}", onnx.TensorProto.FLOAT, None)
        for place in range(len(kinds))
    )
    return model, shape
