"""Proves windows in which a Where chooses: by the same condition on both sides, whatever it is.

    f(c ? x : y) = c ? f(x) : f(y)

for a function f of each element by itself, such as a scale and a shift. So it is enough that

- what a Where chooses from on the side after is f of what it chooses from before;
- with f of the result of the one in place of that of the other, whatever it is, the results are the
  same.

All of these are windows of affine models. On random inputs, it shows which f it may be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfold.proof.cuts import Cuts, prove_by_cuts
from bnfold.proof.probing import Differs
from bnfold.proof.sizing import Sizing
from bnfold.proof.submodels import Constants
from bnfold.proof.windows import AFFINE, Window, dtype_of, is_float
from bnfold.record.data import Certificate


def prove_choices(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of the results; None if it is not shown that they are the same."""
    before, after = (
        [node for node in model.graph.node if node.op_type == "Where"] for model in window.models
    )
    conditions = [[node.input[0] for node in nodes] for nodes in (before, after)]
    types = {dtype_of(value) for value in window.inputs if value.name not in conditions[0]}
    read = {n for node in window.nodes() for n in node.input[1 if node.op_type == "Where" else 0 :]}
    is_known = (
        window.operators <= AFFINE | {"Where"}
        and all(map(is_float, types))
        and read.isdisjoint(conditions[0])
    )
    if not is_known or len(before) != len(after) or not _are_same(window, *conditions):
        return None

    def cut(proof: Cuts) -> bool:
        for one, other in zip(before, after, strict=True):
            proof.cut_at(one, other, first=1)
        return True

    try:
        return prove_by_cuts(window, chosen, cut)
    except Differs:  # it may be equal for another reason
        return None


def _are_same(window: Window, names: Sequence[str], others: Sequence[str]) -> bool:
    """Say whether conditions on both sides are the same inputs, or constants."""
    constants = [Constants(model) for model in window.models]
    inputs = {value.name for value in window.inputs}
    return all(
        (name == other and name in inputs)
        or (
            name in constants[0]
            and other in constants[1]
            and np.array_equal(constants[0][name], constants[1][other])
        )
        for name, other in zip(names, others, strict=True)
    )
