"""Draws a small model as an SVG element whose colours are those of the page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise

import numpy as np
import onnx
from onnx import helper, numpy_helper

from docs.generate.layout import layout

_COLUMN, _BEND, _ROW, _WIDTH = 176, 48, 76, 160
_HEIGHT, _TERMINAL_HEIGHT = 46, 28
_DEFAULTS = {"dilations": {1}, "strides": {1}, "pads": {0}, "group": {1}}


@dataclass(frozen=True)
class Box:
    """What is written in a node (its operator, weights and attributes), and its constants."""

    title: str
    lines: tuple[str, ...] = ()
    is_terminal: bool = False
    constants: tuple[bytes, ...] = ()

    @property
    def height(self) -> int:
        """The height of its frame."""
        return _TERMINAL_HEIGHT if self.is_terminal else _HEIGHT


def draw_pair(before: onnx.ModelProto, after: onnx.ModelProto, name: str) -> str:
    """Draw two models side by side, and mark the nodes that only one of them has."""
    old, new = _boxes(before), _boxes(after)
    figures = [
        f"<figure><figcaption>{title}</figcaption>{_draw(model, boxes, changed, title, name)}"
        "</figure>"
        for title, model, boxes, changed in (
            ("before", before, old, _only(old, new)),
            ("after", after, new, _only(new, old)),
        )
    ]
    return f'<div class="graphs">{"".join(figures)}</div>'


def _only(boxes: Mapping[str, Box], others: Mapping[str, Box]) -> set[str]:
    """Return the names of the values that the other model does not compute, or otherwise."""
    return {name for name, box in boxes.items() if others.get(name) != box}


def _draw(
    model: onnx.ModelProto,
    boxes: Mapping[str, Box],
    changed: Collection[str],
    title: str,
    name: str,
) -> str:
    placed = layout(_reads(model, boxes))
    columns = [[_COLUMN if name in boxes else _BEND for name in row] for row in placed.rows]
    width = max(sum(row) for row in columns)
    height = len(placed.rows) * _ROW - (_ROW - _HEIGHT) + 8
    places = {
        name: ((width - sum(widths)) / 2 + end - own / 2, depth * _ROW + _HEIGHT / 2 + 4)
        for depth, (row, widths) in enumerate(zip(placed.rows, columns, strict=True))
        for name, own, end in zip(row, widths, accumulate(widths), strict=True)
    }
    halves = {name: box.height / 2 for name, box in boxes.items()}
    parts = [
        _edge([(*places[name], halves.get(name, _HEIGHT / 2)) for name in edge])
        for edge in placed.edges
    ]
    for node, box in boxes.items():
        kind = "terminal" if box.is_terminal else "changed" if node in changed else "same"
        parts.append(_node(box, kind, *places[node]))
    operators = [box.title for box in boxes.values() if not box.is_terminal]
    label = escape(f"{name}, {title}: {', '.join(operators) or 'no operators'}")
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'style="min-width: {0.6 * width:g}px; max-width: {width}px" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _node(box: Box, kind: str, x: float, y: float) -> str:
    lines = [box.title, *box.lines]
    first = y - (len(lines) - 1) * 6.5
    texts = [
        f'<text x="{x:g}" y="{first + 13 * index + 4:g}" class="{"title" if not index else "more"}"'
        f">{escape(line)}</text>"
        for index, line in enumerate(lines)
    ]
    radius = box.height / 2 if box.is_terminal else 5
    return (
        f'<g class="{kind}"><rect x="{x - _WIDTH / 2:g}" y="{y - box.height / 2:g}" '
        f'width="{_WIDTH}" height="{box.height}" rx="{radius:g}"/>{"".join(texts)}</g>'
    )


def _edge(points: Sequence[tuple[float, float, float]]) -> str:
    """Return a line through points, each with half the height that it passes straight."""
    path = ""
    for (x, y, half), (to_x, to_y, to_half) in pairwise(points):
        start, end = y + half, to_y - to_half
        middle = (start + end) / 2
        path += f"{'L' if path else 'M'}{x:g},{start:g} "
        path += f"C{x:g},{middle:g} {to_x:g},{middle:g} {to_x:g},{end:g} "
    return f'<path d="{path.strip()}"/>'


def _boxes(model: onnx.ModelProto) -> dict[str, Box]:
    """Return what to draw by the name of a value: inputs, nodes by their first result, outputs."""
    graph = model.graph
    weights = _constants(graph)
    boxes = {
        value.name: Box(f"{value.name}  {_shape(value)}", is_terminal=True)
        for value in graph.input
        if value.name not in weights
    }
    for node in graph.node:
        constants = [weights[name].raw_data for name in node.input if name in weights]
        lines = _details(node, weights)
        boxes[node.output[0]] = Box(node.op_type, lines, constants=tuple(constants))
    for value in graph.output:
        boxes[f"{value.name} out"] = Box(f"{value.name}  {_shape(value)}", is_terminal=True)
    return boxes


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers by name, all with their content as raw data."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}


def _reads(model: onnx.ModelProto, boxes: Collection[str]) -> dict[str, list[str]]:
    homes = {name: node.output[0] for node in model.graph.node for name in node.output}
    reads: dict[str, list[str]] = {name: [] for name in boxes}
    for node in model.graph.node:
        sources = [homes.get(name, name) for name in [*node.input, *_captured(node)]]
        reads[node.output[0]] = [name for name in sources if name in boxes]
    for value in model.graph.output:
        reads[f"{value.name} out"] = [homes.get(value.name, value.name)]
    return reads


def _captured(node: onnx.NodeProto) -> list[str]:
    """Return the names that the bodies of a node read."""
    return [
        name
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.GRAPH
        for inner in attribute.g.node
        for name in inner.input
    ]


def _shape(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "×".join(dim.dim_param or str(dim.dim_value) for dim in dims)


def _details(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> tuple[str, ...]:
    """Return up to two lines: the constants that it reads, and its attributes."""
    constants = [_constant(weights[name]) for name in node.input if name in weights]
    attributes = [_attribute(attribute) for attribute in node.attribute]
    lines = [", ".join(filter(None, part)) for part in (constants, attributes)]
    return tuple(line if len(line) <= 30 else f"{line[:29]}…" for line in lines if line)


def _constant(tensor: onnx.TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    numbers = np.ravel(array).tolist()
    if array.size == 1 or (array.size <= 4 and all(number == int(number) for number in numbers)):
        return " ".join(f"{number:.4g}" for number in numbers)
    return "×".join(map(str, array.shape))


def _attribute(attribute: onnx.AttributeProto) -> str:
    content = helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.GRAPH:
        return f"{attribute.name}: {', '.join(node.op_type for node in attribute.g.node)}"
    if attribute.type == onnx.AttributeProto.INTS:
        if set(content) <= _DEFAULTS.get(attribute.name, set()):
            return ""
        uniform = len(set(content)) == 1 and attribute.name in ("pads", "strides", "dilations")
        numbers = content[:1] if uniform else content
        joint = "×" if attribute.name == "kernel_shape" else " "
        return f"{attribute.name.replace('_shape', '')} {joint.join(map(str, numbers))}"
    if attribute.type == onnx.AttributeProto.INT:
        is_default = content in _DEFAULTS.get(attribute.name, ())
        return "" if is_default else f"{attribute.name} {content}"
    if attribute.type == onnx.AttributeProto.FLOAT:
        return f"{attribute.name} {content:.4g}"
    return content.decode() if attribute.name == "mode" and isinstance(content, bytes) else ""
