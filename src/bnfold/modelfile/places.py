"""Where a model holds its weights: in initializers and in node attributes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import onnx_ir as ir

from bnfold.graph.walk import all_graphs


class Place(Protocol):
    """A place that holds one tensor; another with the same content can replace it."""

    tensor: ir.TensorProtocol

    @property
    def is_initializer(self) -> bool:
        """Whether this is an initializer, not an attribute."""
        ...


@dataclass(eq=False)
class _Initializer:
    value: ir.Value
    is_initializer: ClassVar[bool] = True

    @property
    def tensor(self) -> ir.TensorProtocol:
        assert self.value.const_value is not None
        return self.value.const_value

    @tensor.setter
    def tensor(self, tensor: ir.TensorProtocol) -> None:
        self.value.const_value = tensor


@dataclass(eq=False)
class _Attribute:
    node: ir.Node
    name: str
    is_initializer: ClassVar[bool] = False

    @property
    def tensor(self) -> ir.TensorProtocol:
        return self.node.attributes[self.name].as_tensor()

    @tensor.setter
    def tensor(self, tensor: ir.TensorProtocol) -> None:
        old = self.node.attributes[self.name]
        self.node.attributes[self.name] = ir.AttrTensor(self.name, tensor, old.doc_string)


def places_of(model: ir.Model) -> Iterator[Place]:
    """Yield the places of all weights, including those in bodies and functions."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield _Initializer(value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield _Attribute(node, name)


def weights_of(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield all weights, including those in bodies and functions."""
    return (place.tensor for place in places_of(model))
