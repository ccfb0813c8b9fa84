"""Proves windows in which something is done with what a Cast has rounded to the results' type.

Let d = Cast(c) be what is cast before, and g how far a result moves with it. Float64 shows that

- after, s·c + t is cast instead, for each element by itself;
- the results are the same if s·d + t takes the place of d, whatever d is.

So a result moves by g·s⁻¹ with what is cast after, whose rounding is one of g·d + g·s⁻¹·t; that of
g·d, the side before has, too. If after only adds, averages or moves what it casts, g·s⁻¹ is at most
1, and what is left is no more than the rounding of the constant t. Nothing is infinite after that
is not before, or within two steps of it, where |s|·m + |t| is at most two steps more than the
largest number m.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx

from bnfold.arrays import float_limits
from bnfold.proof.certificates.cuts import Cuts, prove_by_cuts
from bnfold.proof.certificates.kinds import after_casts, rounding_types, target_of, types_of_results
from bnfold.proof.certificates.linear import linear_bound
from bnfold.proof.certificates.probing import Differs
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.submodels import rebuilt
from bnfold.proof.certificates.windows import AFFINE, COPYING, Window
from bnfold.record.data import Certificate

_ADDING = COPYING | frozenset(
    {"Add", "AveragePool", "Cast", "GlobalAveragePool", "Neg", "Pad", "ReduceMean", "ReduceSum"}
    | {"Resize", "Sub", "Sum", "Upsample"}
)
"""Operators whose results are sums of what they read, each once at most."""

_STEPS = 2
"""How near to the largest number a value counts as beyond it: one more than passes allow."""


def prove_casts(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of the results; None if it is not shown that they round alike.

    Raises:
        Differs: if they are others, rounded or not.
    """
    types = rounding_types(window)
    is_known = window.operators <= AFFINE and len(types) == 1 and types == types_of_results(window)
    if not is_known or not _adds(window.after, types):
        return None
    before, after = (
        [node for node in model.graph.node if node.op_type == "Cast" and target_of(node) in types]
        for model in window.models
    )
    if len(before) != len(after):
        return None
    unit = _unit_of_constants(window.after)
    limits = float_limits(types.pop())
    largest = float(limits.max)
    allowed = largest * (1 + _STEPS * float(limits.eps))

    def cut(proof: Cuts) -> bool:
        for one, other in zip(before, after, strict=True):
            scale, shift = proof.cut_at(one, other)
            if (np.abs(scale) * largest + np.abs(shift) > allowed).any():
                return False
        return True

    try:
        return prove_by_cuts(window, chosen, cut, unit)
    except Differs:
        linear_bound(window, chosen)  # raises it if that is more than rounding
        return None


def _unit_of_constants(model: onnx.ModelProto) -> str:
    """Return the coarsest float type of a model's constants, to which what is new is rounded."""
    return Window(rebuilt(model, [], [], []), rebuilt(model, model.graph.node, [], [])).unit


def _adds(model: onnx.ModelProto, types: set[np.dtype[np.generic]]) -> bool:
    """Say whether a model adds up what it casts to some types, and reads nothing of it twice."""
    nodes = list(after_casts(model, types))
    reads = Counter(name for node in nodes for name in node.input if name)
    made = {name for node in model.graph.node for name in node.output}
    is_cubic = any(attribute.s == b"cubic" for node in nodes for attribute in node.attribute)
    return (
        not is_cubic
        and all(node.op_type in _ADDING for node in nodes)
        and all(count == 1 for name, count in reads.items() if name in made)
    )
