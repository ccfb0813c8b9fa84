"""Recognizes HardSigmoid and HardSwish where they are written out as sums, products and clamps.

HardSigmoid(x) = min(1, max(0, α·x + β))          HardSwish(x) = x · HardSigmoid(x; 1/6, 1/2)

Each may be multiplied by a number, and its operators stand in any order that computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bnfold.algebra.clamping import Clamp, clamp, is_scalar
from bnfold.algebra.operand import constant_operand
from bnfold.algebra.rounding import is_for_rounding
from bnfold.arrays import float_limits
from bnfold.rewriting.query import float_attribute, input_of, is_op, shape_of, sole_use

_FAR = 4
"""How many operators in a row are read as one: more than any exporter writes."""


@dataclass(frozen=True, eq=False)
class HardSigmoid:
    """The function ``height · min(1, max(0, alpha·x + beta))`` of a value.

    For a gate, all of it is multiplied by x once more. `nodes` compute it, in graph order.
    """

    data: ir.Value
    alpha: float
    beta: float
    height: float
    nodes: tuple[ir.Node, ...]
    dtype: ir.DataType | None
    """The type of its constants; None if it has none but attributes."""
    is_gate: bool = False

    @property
    def ends_at_one(self) -> bool:
        """Whether the height is 1, but for the rounding of constants such as 1/6."""
        return math.isclose(self.height, 1, rel_tol=self._epsilon)

    @property
    def is_hard_swish(self) -> bool:
        """Whether it is a gate with the α and β of HardSwish."""
        exact = math.isclose(self.alpha, 1 / 6, rel_tol=self._epsilon)
        return self.is_gate and exact and math.isclose(self.beta, 1 / 2, rel_tol=self._epsilon)

    @property
    def is_storable(self) -> bool:
        """Whether α and β are finite numbers, and the function is not a constant."""
        with np.errstate(over="ignore"):
            stored = np.array([self.alpha, self.beta], np.float32)
        return bool(np.isfinite(stored).all()) and bool(stored[0] != 0)

    @property
    def first_shared(self) -> ir.Node | None:
        """The first of its nodes whose result is also used elsewhere."""
        return next((node for node in self.nodes[:-1] if not sole_use(node.outputs[0])), None)

    @property
    def _epsilon(self) -> float:
        """How far, relatively, a constant of its type is from the exact one at most."""
        dtype = self.dtype or ir.DataType.FLOAT
        return float(float_limits(dtype.numpy()).eps) / 2


def hard_activation(root: ir.Node) -> HardSigmoid | None:
    """Read what a node computes as a HardSigmoid of height 1, or as a value times that of itself.

    If a HardSigmoid can be read as one of several values, it is that of the first one of which
    nothing else reads what comes after it.
    """
    for gate in _gates(root):
        if gate.ends_at_one and gate.is_storable:
            return gate
    readings = [r for r in _hard_sigmoids(root.outputs[0], root) if r.ends_at_one and r.is_storable]
    unshared = [reading for reading in readings if reading.first_shared is None]
    best = unshared or readings
    return best[-1] if best else None


@dataclass(frozen=True, eq=False)
class _Affine:
    """The function ``scale·x + shift`` of a value, computed by `nodes`, in graph order."""

    data: ir.Value
    scale: float = 1.0
    shift: float = 0.0
    nodes: tuple[ir.Node, ...] = ()
    dtype: ir.DataType | None = None


def _affines(value: ir.Value, root: ir.Node) -> Iterator[_Affine]:
    """Read a value as a function of itself, then of what it is computed from, and so on."""
    found = _Affine(value)
    yield found
    for _ in range(_FAR):
        node = _source(found.data, root)
        is_of_number = node is not None and any(map(_is_number, node.inputs))
        operand = constant_operand(node) if node is not None and is_of_number else None
        if node is None or operand is None:
            return
        data = input_of(node, 1 - operand.index)
        if data is None or not is_scalar(operand.content, data) or is_for_rounding(node, operand):
            return
        scale, shift = float(operand.scale[0]), float(operand.shift[0])
        dtype = ir.DataType.from_numpy(operand.content.dtype)
        found = _Affine(
            data,
            found.scale * scale,
            found.scale * shift + found.shift,
            (node, *found.nodes),
            dtype,
        )
        yield found


def _scalings(value: ir.Value, root: ir.Node) -> Iterator[_Affine]:
    """Read a value as a multiple of itself, then of what it is computed from, and so on."""
    for affine in _affines(value, root):
        if affine.shift:
            return
        yield affine


def _hard_sigmoids(value: ir.Value, root: ir.Node) -> Iterator[HardSigmoid]:
    """Read a value as a HardSigmoid of each value that it may be one of, the last one first."""
    for outer in _scalings(value, root):
        core = _core(outer.data, root)
        if core is None:
            continue
        for inner in _affines(core.data, root):
            yield HardSigmoid(
                inner.data,
                core.alpha * inner.scale,
                core.alpha * inner.shift + core.beta,
                core.height * outer.scale,
                (*inner.nodes, *core.nodes, *outer.nodes),
                core.dtype or inner.dtype or outer.dtype,
            )
        return


def _core(value: ir.Value, root: ir.Node) -> HardSigmoid | None:
    """Read a HardSigmoid, or clamps from 0 to a number: ``h · min(1, max(0, x/h))``."""
    node = _source(value, root)
    if node is None:
        return None
    if is_op(node, "HardSigmoid"):
        data = input_of(node, 0)
        alpha = float_attribute(node, "alpha", 0.2)
        beta = float_attribute(node, "beta", 0.5)
        return None if data is None else HardSigmoid(data, alpha, beta, 1.0, (node,), None)
    clamped, nodes = clamp(node), [node]
    for _ in range(_FAR):
        source = _source(clamped.data, root) if clamped is not None else None
        first = clamp(source) if source is not None else None
        if clamped is None or source is None or first is None:
            break
        clamped = clamped.after(first)
        nodes.insert(0, source)
    if clamped is None or not _is_from_zero(clamped) or _is_of_integers(clamped):
        return None
    high = float(clamped.high)
    return HardSigmoid(clamped.data, 1 / high, 0.0, high, tuple(nodes), clamped.dtype)


def _is_of_integers(clamped: Clamp) -> bool:
    return clamped.dtype is not None and not clamped.dtype.is_floating_point()


def _is_from_zero(clamped: Clamp) -> bool:
    return clamped.low == 0 and 0 < clamped.high < math.inf


def _gates(root: ir.Node) -> Iterator[HardSigmoid]:
    """Read what a node computes as a value times a HardSigmoid of that value."""
    for outer in _scalings(root.outputs[0], root):
        product = _source(outer.data, root)
        if product is None or not is_op(product, "Mul"):
            continue
        operands = [value for value in product.inputs if value is not None]
        for value, other in zip(operands, reversed(operands), strict=True):
            factors = {factor.data: factor for factor in _scalings(value, root)}
            for gate in _hard_sigmoids(other, root):
                factor = factors.get(gate.data)
                if factor is not None:
                    yield replace(
                        gate,
                        height=gate.height * factor.scale * outer.scale,
                        nodes=(*factor.nodes, *gate.nodes, product, *outer.nodes),
                        dtype=gate.dtype or factor.dtype or outer.dtype,
                        is_gate=True,
                    )


def _is_number(value: ir.Value | None) -> bool:
    """Say whether a value has one element, by its shape: large constants are not read."""
    shape = shape_of(value)
    return shape is not None and all(size == 1 for size in shape.dims)


def _source(value: ir.Value, root: ir.Node) -> ir.Node | None:
    """Return the node of the same graph that computes a value."""
    node = value.producer()
    return node if node is not None and node.graph is root.graph else None
