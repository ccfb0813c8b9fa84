"""Says what a window computes from sizes, and so at which sizes it must be tried.

A window that computes with sizes is proven at some of them. That says something of all others only
where what is computed does the same from some size on, but for rests of divisions:

- a sum, product, quotient or root of sizes is one formula for all of them;
- ⌊s/k⌋ and s mod k are one for each rest of s;
- what compares a size or position with a constant, or takes the smaller or larger of them, is one
  below the constant and one above it, so both are tried.

Nothing else may be computed from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx

from bnfold.arrays import Array
from bnfold.graph.sizes import ENDLESS
from bnfold.proof.certificates.windows import POINTWISE, NotShown, Window, ints

_MOVING = frozenset(
    {"Concat", "ConstantOfShape", "Expand", "Flatten", "Identity", "Reshape", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)

_ANALYTIC = frozenset(
    {"Cos", "CumSum", "Div", "Einsum", "Gemm", "Log", "MatMul", "Mul", "Neg", "Pow", "Reciprocal"}
    | {"ReduceMean", "ReduceSum", "Sin", "Sqrt", "Sum"}
)
"""Operators that are one formula for all operands."""

_COMPARING = frozenset(
    {"Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Relu"}
    | {"Trilu"}
)

_LOGICAL = frozenset({"And", "Not", "Or", "Where", "Xor"})

_PICKING = frozenset({"Gather", "Slice"})

_ROUNDING = frozenset({"Ceil", "Floor", "Round"})

_EXACT_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)

_WIDE_INTEGERS = (
    *(onnx.TensorProto.INT32, onnx.TensorProto.INT64),
    *(onnx.TensorProto.UINT32, onnx.TensorProto.UINT64),
)
"""Types that hold any size; others overflow."""

_MOST_PARTS = 16
"""Of which a number that sizes are multiplied by may be a fraction."""

_Kind = Literal["size", "product", "position", "other"]


@dataclass(frozen=True)
class _Number:
    """What a value is that sizes determine.

    A *size* is one as it is; a *position* is one with a constant added, or counted up to; a
    *product* is one of sizes. `parts` is the number of which it is a multiple of one over; 0 if
    that is not known. It is one formula for each rest of a size by `period`.
    """

    kind: _Kind
    parts: int = 1
    period: int = 1


@dataclass(frozen=True)
class Demands:
    """At which sizes a window must be tried."""

    cuts: frozenset[int]
    """Below, at and beyond these."""
    period: int
    """At so many in a row."""
    asks_within: bool
    """For each rest that a stride leaves, because it asks for sizes of what it computes."""
    compared: int
    """How many comparisons with constants one side makes."""


def demands(window: Window) -> Demands:
    """Return at which sizes a window must be tried because of what it computes from them.

    Raises:
        NotShown: if that may do something else at any size.
    """
    question = "demands", 0
    if question not in window.answers:
        cuts: set[int] = set()
        period, asks_within, compared = 1, False, 0
        for model in window.models:
            reading = _Reading(window.constants, {value.name for value in window.inputs}, cuts)
            for node in model.graph.node:
                reading.read(node)
            period = math.lcm(period, *(number.period for number in reading.numbers.values()))
            asks_within |= reading.asks_within
            compared = max(compared, reading.compared)
        within = frozenset(cut for cut in cuts if cut < ENDLESS)
        window.answers[question] = Demands(within, period, asks_within, compared)
    found: Demands = window.answers[question]
    return found


class _Reading:
    """What the values of a model are that sizes determine, as far as it has been read."""

    def __init__(self, constants: Mapping[str, Array], inputs: set[str], cuts: set[int]) -> None:
        self.numbers: dict[str, _Number] = {}
        self.asks_within = False
        """Whether it reads sizes of what it computes, of which a stride may leave rests, too."""
        self.compared = 0
        """How often it compares sizes with constants, but for those that no size is below."""
        self._constants, self._cuts = constants, cuts
        self._as_inputs = set(inputs)
        """Values of the sizes of an input."""
        self._fixed: set[str] = set()
        """Values that are constant, with a content that is not known."""

    def read(self, node: onnx.NodeProto) -> None:
        """Find out what a node computes, if it is from sizes and constants alone.

        Raises:
            NotShown: if that is one formula for no range of sizes.
        """
        names = [name for name in node.input if name]
        if node.op_type in ("Shape", "Size") and not node.domain:
            kind: _Kind = "size" if node.op_type == "Shape" else "product"
            is_of_input = node.input[0] in self._as_inputs
            self.numbers[node.output[0]] = _Number(kind if is_of_input else "other")
            self.asks_within |= not is_of_input
            return
        if node.op_type in POINTWISE and names[0] in self._as_inputs and len(names) == 1:
            self._as_inputs.update(node.output)
        known = self._constants.keys() | self.numbers.keys() | self._fixed
        if not known >= set(names):
            return
        if self.numbers.keys().isdisjoint(names):
            self._fixed.update(node.output)
            return
        number = None if node.domain else self._number(node, names)
        if number is None:
            raise NotShown(f"what its {node.op_type} of sizes does at other sizes is not known")
        self.numbers.update(dict.fromkeys(filter(None, node.output), number))

    def _number(self, node: onnx.NodeProto, names: Sequence[str]) -> _Number | None:
        operator = node.op_type
        operands = [self.numbers[name] for name in names if name in self.numbers]
        first = operands[0]
        period = math.lcm(*(each.period for each in operands))
        if operator in _MOVING:
            return self._moved(names, operands, period)
        if operator in _PICKING:
            return self._picked(node, names, period)
        if operator == "Range":
            return self._range(names, period)
        if operator == "NonZero":
            return _Number("position", period=period)
        if operator in ("Add", "Sub"):
            return self._shifted(operator, names, operands, period)
        if operator in ("Div", "Mod") and all(each.parts == 1 for each in operands):
            return self._divided(operator, names, operands, period)
        if operator in _ANALYTIC or operator == "ReduceProd":
            is_product = operator in ("Mul", "ReduceProd") and not self._constant_of(names)
            is_product = is_product and all(each.kind in ("size", "product") for each in operands)
            parts = math.prod(each.parts for each in operands) * self._parts(operator, names)
            return _Number("product" if is_product else "other", parts, period)
        if operator == "Cast":
            return self._cast(node, first)
        if operator in _ROUNDING:
            return _rounded(first)
        if operator in _LOGICAL:
            return _Number("other", 0 if operator == "Where" else 1, period)
        if operator in _COMPARING:
            return self._compared(node, names, operands, period)
        return None

    def _constant_of(self, names: Sequence[str]) -> list[Array | None]:
        """Return the contents of the operands that are constant; None for what is not known."""
        return [self._constants.get(name) for name in names if name not in self.numbers]

    def _moved(self, names: Sequence[str], operands: Sequence[_Number], period: int) -> _Number:
        kinds = {each.kind for each in operands}
        kind: _Kind = "other"
        if kinds <= {"size", "product"}:
            kind = "product" if "product" in kinds else "size"
        elif "other" not in kinds:
            kind = "position"
        parts = [each.parts for each in operands]
        return _Number(kind, 0 if 0 in parts else math.lcm(*parts), period)

    def _picked(self, node: onnx.NodeProto, names: Sequence[str], period: int) -> _Number | None:
        """Elements that positions pick out of a table are tried with all of the table."""
        data, *places = names
        if data in self.numbers:
            if self.numbers.keys().isdisjoint(places):
                return self.numbers[data]
            return None
        table = self._constants.get(data)
        if table is None or (
            node.op_type == "Gather" and self.numbers[places[0]].kind != "position"
        ):
            return None
        self._cuts.update(table.shape)
        return _Number("other", 0, period)

    def _range(self, names: Sequence[str], period: int) -> _Number | None:
        operands = [self.numbers.get(name) for name in names]
        if operands[2] is not None or any(each and each.parts != 1 for each in operands):
            return None
        step = self._constants.get(names[2])
        if step is None or not np.all(np.abs(step) == 1):
            return None
        self._cut_at(self._constant_of(names))
        is_plain = all(each is None or each.kind in ("size", "position") for each in operands)
        return _Number("position" if is_plain else "other", 1, period)

    def _shifted(
        self, operator: str, names: Sequence[str], operands: Sequence[_Number], period: int
    ) -> _Number:
        constants = self._constant_of(names)
        self._cut_at(constants)
        is_plain = len(operands) == 1 and operands[0].kind in ("size", "position")
        is_plain = is_plain and (operator == "Add" or names[0] in self.numbers)
        parts = [each.parts for each in operands] + [_parts_of(each) for each in constants]
        whole = 0 if 0 in parts else math.lcm(*parts)
        return _Number("position" if is_plain and whole == 1 else "other", whole, period)

    def _divided(
        self, operator: str, names: Sequence[str], operands: Sequence[_Number], period: int
    ) -> _Number | None:
        """Divide integers, or floats that hold such, by a constant."""
        (divisor,) = self._constant_of(names[1:]) or [None]
        if len(operands) == 1 and divisor is not None and np.all(divisor != 0):
            if divisor.dtype.kind in "iu":
                by = math.lcm(*(abs(each) for each in divisor.reshape(-1).tolist()))
                more = period * by if operator == "Div" else math.lcm(period, by)
                return _Number("other", 1, more)
            if operator == "Div" and _parts_of(divisor) == 1:
                by = math.lcm(*(abs(int(each)) for each in divisor.reshape(-1).tolist()))
                return _Number("other", by if by <= _MOST_PARTS else 0, period)
        is_float = divisor is not None and divisor.dtype.kind not in "iu"
        return _Number("other", 0, period) if operator == "Div" and is_float else None

    def _parts(self, operator: str, names: Sequence[str]) -> int:
        """Return of which part the result is a multiple, if the operands that vary are whole."""
        if operator not in ("Mul", "Neg", "ReduceProd", "ReduceSum", "Sum"):
            return 0
        parts = [_parts_of(each) for each in self._constant_of(names)]
        return math.prod(parts) if math.prod(parts) <= _MOST_PARTS else 0

    def _cast(self, node: onnx.NodeProto, operand: _Number) -> _Number | None:
        (to,) = ints(node, "to")
        if to == onnx.TensorProto.BOOL:
            return operand if operand.kind in ("size", "product") else None
        if to in _EXACT_FLOATS:
            return operand
        return _rounded(operand) if to in _WIDE_INTEGERS else None

    def _compared(
        self,
        node: onnx.NodeProto,
        names: Sequence[str],
        operands: Sequence[_Number],
        period: int,
    ) -> _Number | None:
        """Compare sizes or positions with constants; of products, only with 1 and what is less."""
        constants = self._constant_of(names)
        if node.op_type == "Relu":
            constants = [np.zeros(1)]
        known = [each for each in constants if each is not None]
        if len(operands) > 1 or len(known) < len(constants):
            return None
        if operands[0].kind in ("position", "size"):
            self._cut_at(known)
            self.compared += any(np.any(each > 1) for each in known)
        elif operands[0].kind == "other" or any(np.any(each > 1) for each in known):
            return None
        return _Number("other", 0, period)

    def _cut_at(self, constants: Sequence[Array | None]) -> None:
        for content in constants:
            if content is None:
                raise NotShown("it computes with a constant whose value is not known")
            if content.dtype.kind in "iuf":
                numbers = np.abs(content.astype(np.float64)).reshape(-1)
                finite = numbers[np.isfinite(numbers)]
                self._cuts.update(int(each) for each in np.unique(np.ceil(finite)))


def _rounded(number: _Number) -> _Number | None:
    """Return a number rounded to an integer, if that is one formula for each rest."""
    if number.parts == 1:
        return number
    period = number.period * number.parts
    return replace(number, kind="other", parts=1, period=period) if period else None


def _parts_of(content: Array | None) -> int:
    """Return the number of which all elements are multiples of one over; 0 if it is large."""
    if content is None or content.dtype.kind not in "iuf":
        return 0
    numbers = content.astype(np.float64)
    for parts in range(1, _MOST_PARTS + 1):
        if np.all(numbers * parts == np.round(numbers * parts)):
            return parts
    return 0
