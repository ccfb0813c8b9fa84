"""Proves windows in which one side scales what a function of scales reads, the other its result.

    f(s·x) = s·f(x) for s > 0

holds for each element by itself if f is a Relu, LeakyRelu, PRelu or Abs, for all operands together
if it is the larger or smaller of them, and for a maximum or minimum if s is the same for all
elements that it is over. So it is enough that, operator by operator,

- what f reads after is s·x where it reads x before, with one s > 0 for each element, and without a
  shift: then its results are y and s·y for some y, whatever f does with the sign;
- a product reads s·x and t·y, with any s and t other than 0: then its results are z and s·t·z;
- any other operator reads the same, so that its results are the same;
- with y and s·y in the place of what f computes, whatever y is, the results are the same.

All of these are windows of affine models. On random inputs, it shows which s it may be. Nothing is
taken for a function of this kind that has a number of its own, as Elu, HardSwish and the bounds of
a Clip that are not scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from bnfold.graph.schemas import opsets_of
from bnfold.proof.certificates.cuts import Cuts, prove_by_cuts
from bnfold.proof.certificates.kinds import functions_of
from bnfold.proof.certificates.normal_forms.congruence import signature
from bnfold.proof.certificates.normal_forms.kept_axes import keeps_axes
from bnfold.proof.certificates.probing import Differs
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.windows import Window, ints
from bnfold.record.data import Certificate

_ELEMENTWISE = {
    **dict.fromkeys(("Abs", "LeakyRelu", "PRelu", "Relu"), 1),
    **dict.fromkeys(("Clip", "Max", "Min"), None),
}
"""Functions f(s·x) = s·f(x), s > 0, of single elements, with how many operands are x; or all."""

_POOLS = frozenset({"GlobalMaxPool", "MaxPool"})
"""The same over positions, which lie along all axes but the first two."""

EXTREMES = frozenset({"ReduceMax", "ReduceMin"})
"""The same over axes that they name."""


def prove_homogeneous(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of the results, if all functions are shown to be alike; or None."""
    before, after = (functions_of(model) for model in window.models)
    kinds, others = (
        [signature(node, opsets_of(model)) for node in nodes]
        for model, nodes in zip(window.models, (before, after), strict=True)
    )
    names = {node.op_type for node in before}
    if kinds != others or names.isdisjoint(_ELEMENTWISE.keys() | _POOLS | EXTREMES | {"Mul"}):
        return None
    if any(len(node.output) != 1 for node in before):
        return None
    pairs = list(zip(before, after, strict=True))
    try:
        return prove_by_cuts(
            window, chosen, lambda proof: all(_cut(window, proof, *pair) for pair in pairs)
        )
    except Differs:  # it may be equal for another reason
        return None


def _cut(window: Window, proof: Cuts, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
    """Cut both sides at a function; say whether it may compute the same, or the same scaled."""
    kind = one.op_type
    if kind in _ELEMENTWISE and not (kind == "Clip" and one.attribute):  # whose bounds these are
        return proof.cut_at_scale(one, other, _ELEMENTWISE[kind])
    if kind in _POOLS:
        return proof.cut_at_scale(one, other, 1, proof.positions(one.input[0]))
    if kind == "Mul":
        return proof.cut_at_product(one, other)
    if kind in EXTREMES and (axes := named_axes(window, one)):
        return proof.cut_at_scale(one, other, 1, axes, keeps_axes=keeps_axes(one))
    return proof.cut_at_same(one, other)


def named_axes(window: Window, node: onnx.NodeProto) -> list[int]:
    """Return the axes of a reduction, if it names any that are known."""
    content = window.constants.get(node.input[1]) if len(node.input) > 1 else None
    return ints(node, "axes") if content is None else [int(axis) for axis in content.reshape(-1)]
