"""What a model selects from: scores before a TopK or NonMaxSuppression, logits before an ArgMax.

Which rows are selected is decided by the last bit where scores tie, so the outputs of two right
models may have other rows. But if both select by the same operators, from values that are equal
within rounding, then that is all the difference there is. So the values before the selection are
compared as if they were outputs: none of them is left out, selected or not, and rounding is small.
Of a class, there is more to see before the ArgMax, too: a small error moves hardly any.

Where they have other operators after that, as where one of them was rewritten, the two are cut at
values of one name, and what comes after is run on the same values: see `bnfold.proof.tails`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.errors import ModelError
from bnfold.graph.schemas import opsets_of
from bnfold.modelfile.external import load_whole
from bnfold.proof.cutting import cut_off, tail
from bnfold.proof.increasing import before_increasing
from bnfold.proof.sides import CLASSIFYING, Side, sources

_BY_ORDER = CLASSIFYING | {"NonMaxSuppression", "TopK"}
"""Operators that select by the order of their first operand, or by how boxes overlap."""


@dataclass(frozen=True)
class Candidates:
    """Two models cut off before they select; what they computed there are their outputs now."""

    original: onnx.ModelProto
    other: onnx.ModelProto
    operators: tuple[str, ...]
    """Those that select."""
    tails: tuple[onnx.ModelProto, onnx.ModelProto] | None = None
    """What comes after, of both models, unless it is the same: from what is an output now, and the
    inputs, to the outputs."""
    deciding: frozenset[str] = frozenset()
    """Inputs that decide selections which are given."""
    is_whole: bool = False
    """Whether nothing is cut off: what both select from increases with the same inputs."""


def candidates(
    original: Path, other: Path, given: int = 0, *, earlier: bool = False
) -> Candidates | None:
    """Cut both models off before they select, or before they select once more.

    None where they do not select, cannot be cut at the same values, or are too large to be cut.

    Args:
        original: one model.
        other: the other one.
        given: how many selections, one after another, are the same in both.
        earlier: whether to cut before functions that increase, too. None where there are none.
            If these are of inputs alone, both models are whole.
    """
    try:
        models = [load_whole(path) for path in (original, other)]
    except (OSError, ValueError, ModelError):
        return None
    if any(model.functions for model in models) or not _of_one_version(*models):
        return None
    sides = Side(models[0], given), Side(models[1], given)
    operators = sides[0].deciding()
    if not operators:
        return None
    pairs = _common_tail(*sides, earlier=earlier)
    is_same = bool(pairs)
    if earlier and (pairs is None or pairs == _common_tail(*sides)):
        return None
    if earlier and not pairs:
        return Candidates(models[0], models[1], operators, is_whole=True)
    pairs = pairs or _of_one_name(*sides)
    if not pairs:
        return None
    names = _names(pairs, sides)
    kinds = sides[0].types()
    types = [kinds.get(pair[0], onnx.TensorProto.UNDEFINED) for pair in pairs]
    cut = [
        cut_off(side.model, list(zip(names, [pair[place] for pair in pairs], types, strict=True)))
        for place, side in enumerate(sides)
    ]
    deciding = sides[0].deciding_inputs | sides[1].deciding_inputs
    if is_same:
        return Candidates(cut[0], cut[1], operators, None, deciding)
    if onnx.TensorProto.UNDEFINED in types:
        return None
    tails = [tail(side.model, dict(zip(names, types, strict=True))) for side in sides]
    return Candidates(cut[0], cut[1], operators, (tails[0], tails[1]), deciding)


def _of_one_version(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Say whether both have the same version of each operator set that both import."""
    versions, others = opsets_of(one), opsets_of(other)
    return all(versions[domain] == others[domain] for domain in versions.keys() & others.keys())


def _common_tail(one: Side, other: Side, *, earlier: bool = False) -> list[tuple[str, str]] | None:
    """Return the values from which on both models are the same, in pairs; None if they never are.

    Equal operators of equal operands give equal results, so operands take the results' place: as
    long as these depend on a selection, and past operators that round nothing. If values `earlier`
    are wanted, what is selected from may be other increasing functions of them.
    """
    if one.outputs != other.outputs or not one.decides_outputs():
        return None
    pending = list(zip(one.outputs, other.outputs, strict=True))
    found: dict[tuple[str, str], None] = {}
    for pair in sources(one, other, pending):
        contents = one.content(pair[0]), other.content(pair[1])
        if contents[0] is not None and contents[0] == contents[1]:
            continue
        operands = one.operands(pair[0], other, pair[1])
        is_selected = pair[0] in one.selected or pair[1] in other.selected
        is_class = pair[0] in one.classes and pair[1] in other.classes
        if (
            is_class
            and operands is not None
            and not earlier
            and one.operator(pair[0]) in CLASSIFYING
        ):
            # A Softmax in one of them alone changes the values, and no class.
            of, its = operands[0]
            is_class = one.operator(one.source(of)) == other.operator(other.source(its))
        is_passed = is_selected or is_class or one.is_transparent(pair[0])
        if operands is not None and is_passed and _have_like_parameters(one, other, operands):
            if earlier and (before := _before_increasing(one, other, pair, operands[0])):
                if one.operator(before[0]) != other.operator(before[1]):
                    return None  # a Softmax in one of them is left, for one
                operands[0] = before
            pending += operands
        elif one.place(pair[0]) >= 0 and pair[0] == pair[1]:
            continue
        elif (
            is_selected
            or (contents[0] is not None and contents[1] is not None)
            or _is_expanded_once(one.operator(pair[0]), other.operator(pair[1]))
        ):
            return None
        else:
            found[pair] = None
    is_cut = not found.keys() >= set(zip(one.outputs, other.outputs, strict=True))
    return list(found) if is_cut else None


def _before_increasing(
    one: Side, other: Side, pair: tuple[str, str], operand: tuple[str, str]
) -> tuple[str, str] | None:
    """Return what the operands increase with that two results are positions in; None of others."""
    nodes = one.node(pair[0]), other.node(pair[1])
    if nodes[0] is None or nodes[1] is None or nodes[0].op_type not in _BY_ORDER:
        return None
    if nodes[0].op_type == "TopK" and pair[0] == nodes[0].output[0]:  # the values themselves
        return None
    own, its = (side.source(name) for side, name in zip((one, other), operand, strict=True))
    return before_increasing(one, own, nodes[0]), before_increasing(other, its, nodes[1])


def _is_expanded_once(of: str, its: str) -> bool:
    """Say whether one of two values is expanded, and the other one is broadcast by its reader."""
    return (of == "Expand") != (its == "Expand")


def _have_like_parameters(one: Side, other: Side, operands: Sequence[tuple[str, str]]) -> bool:
    """Say whether all but the first operands are constant in both models, or computed in both.

    A shape that one model computes may be written otherwise in the other one: as 0 or -1.
    """
    contents = [(one.content(of), other.content(its)) for of, its in operands[1:]]
    return all((ours is None) == (theirs is None) for ours, theirs in contents)


def _of_one_name(one: Side, other: Side) -> list[tuple[str, str]]:
    """Return values that both models have under one name, and that all of the outputs come from.

    They are the last ones before a selection, and before operators that round nothing.
    """
    if one.outputs != other.outputs or one.selected.isdisjoint(one.outputs):
        return []
    found: dict[str, None] = {}
    for side, twin in ((one, other), (other, one)):
        seen: set[str] = set()
        pending = list(side.outputs)
        while pending:
            name = pending.pop()
            if name in seen or side.place(name) >= 0 or side.constant(name) is not None:
                continue
            seen.add(name)
            is_selected = name in side.selected or name in twin.selected
            if is_selected or side.is_transparent(name) or not twin.computes(name):
                if side.is_random(name):
                    return []
                pending += side.operands_of(name)
            else:
                found[name] = None
    return [(name, name) for name in found]


def _names(pairs: Iterable[tuple[str, str]], sides: tuple[Side, Side]) -> list[str]:
    """Return a name for each pair of values: the original's, unless the other has it elsewhere."""
    names: list[str] = []
    for one, other in pairs:
        name = one
        while (
            name in names
            or (name != one and sides[0].has(name))
            or (name != other and sides[1].has(name))
        ):
            name += "'"
        names.append(name)
    return names
