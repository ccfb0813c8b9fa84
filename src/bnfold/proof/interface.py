"""The interface of a model, as its file declares it, and whether another can take its place.

A session is no authority: onnxruntime narrows free sizes where it folds constants, and differently
at each of its optimization levels. Equal declarations are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from bnfold.modelfile.source import Source

Size = int | str | None
"""Of a dimension: fixed, free by a name, or free without one."""


@dataclass(frozen=True)
class Declared:
    """An input or output as the file declares it. `shape` is None where there is none."""

    name: str
    type: str
    """As onnxruntime writes it: ``tensor(float)``."""
    shape: tuple[Size, ...] | None

    def describe(self) -> str:
        """Return the type and shape as text."""
        if self.shape is None:
            return self.type
        return f"{self.type}[{','.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Interface:
    """All inputs that a caller gives or may give, and all outputs."""

    inputs: tuple[Declared, ...]
    overridable: tuple[Declared, ...]
    """Initializers that a caller may override, from IR version 4 on."""
    outputs: tuple[Declared, ...]

    @staticmethod
    def of(path: Path) -> Interface:
        """Read the declarations of a model file.

        Raises:
            ModelError: if it cannot be read.
        """
        return Interface.of_proto(Source.of(path).read.proto)

    @staticmethod
    def of_proto(proto: onnx.ModelProto) -> Interface:
        """Return the declarations of a model."""
        initializers = {tensor.name for tensor in proto.graph.initializer}
        inputs = [_declared(value) for value in proto.graph.input]
        given = tuple(value for value in inputs if value.name not in initializers)
        constant = tuple(value for value in inputs if value.name in initializers)
        overridable = constant if proto.ir_version >= 4 else ()
        return Interface(given, overridable, tuple(map(_declared, proto.graph.output)))

    def kinds(self) -> tuple[list[tuple[str, str, int | None]], ...]:
        """Return the name, type and rank of each input and output: what stays as sizes vary."""
        return tuple(
            [(v.name, v.type, None if v.shape is None else len(v.shape)) for v in values]
            for values in (self.inputs, self.outputs)
        )


def difference(
    original: Interface, other: Interface, shapes: Mapping[str, Iterable[Sequence[int]]]
) -> str:
    """Return why a caller of the original cannot call the other, or nothing.

    Args:
        original: the interface that the caller knows.
        other: that of the model in its place.
        shapes: those that each input and output of the original really had, sample by sample.
    """
    for kind, expected, actual in (
        ("input", original.inputs, other.inputs),
        ("output", original.outputs, other.outputs),
    ):
        names = [[value.name for value in values] for values in (expected, actual)]
        if names[0] != names[1]:
            return f"the {kind}s are {names[1]}, not {names[0]}"
        for one, another in zip(expected, actual, strict=True):
            seen = [tuple(shape) for shape in shapes.get(one.name, ())]
            if not _fits(one, another, seen):
                return f"{kind} {one.name!r} is {another.describe()}, not {one.describe()}"
    kept = {value.name for value in other.overridable}
    if missing := sorted(value.name for value in original.overridable if value.name not in kept):
        return f"a caller can override the initializers {missing} of the original, but not here"
    return ""


def _fits(one: Declared, other: Declared, seen: Sequence[tuple[int, ...]]) -> bool:
    """Say whether a caller who knows one value can work with the other in its place.

    The type must be the same and fixed sizes equal. A fixed size may be free: an exporter may not
    have known it, and the results' shapes are compared on every sample. A free size may be fixed at
    the size that the original had on every sample.
    """
    if one == other:
        return True
    if one.type != other.type:
        return False
    if one.shape is None or other.shape is None:
        return True
    if len(one.shape) != len(other.shape):
        return False
    for axis, (size, another) in enumerate(zip(one.shape, other.shape, strict=True)):
        is_fixed, becomes_fixed = isinstance(size, int), isinstance(another, int)
        if is_fixed and becomes_fixed and size != another:
            return False
        if becomes_fixed and not is_fixed:
            sizes = {shape[axis] for shape in seen if axis < len(shape)}
            if sizes != {another}:
                return False
    return True


def _declared(value: onnx.ValueInfoProto) -> Declared:
    return Declared(value.name, _type_text(value.type), _shape(value.type))


def _type_text(proto: onnx.TypeProto) -> str:
    kind = proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        element = getattr(proto, kind).elem_type
        prefix = "sparse_tensor" if kind == "sparse_tensor_type" else "tensor"
        return f"{prefix}({_element_text(element)})"
    if kind == "sequence_type":
        return f"seq({_type_text(proto.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({_type_text(proto.optional_type.elem_type)})"
    if kind == "map_type":
        key = _element_text(proto.map_type.key_type)
        return f"map({key},{_type_text(proto.map_type.value_type)})"
    return "undefined"


def _element_text(element: int) -> str:
    try:
        name: str = onnx.TensorProto.DataType.Name(element)
    except ValueError:
        return f"type {element}"
    return name.lower()


def _shape(proto: onnx.TypeProto) -> tuple[Size, ...] | None:
    if proto.WhichOneof("value") != "tensor_type" or not proto.tensor_type.HasField("shape"):
        return None
    return tuple(_size(dim) for dim in proto.tensor_type.shape.dim)


def _size(dim: onnx.TensorShapeProto.Dimension) -> Size:
    """Return a declared size; negative ones, which old exporters write, are free."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    return dim.dim_param or None
