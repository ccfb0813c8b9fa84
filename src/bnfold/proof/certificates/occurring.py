"""Leaves out sizes that do not occur: what is replaced cannot run, or the graph excludes them.

A block of four slices that are put together again has no odd ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
import onnx

from bnfold.arrays import Array
from bnfold.errors import BnfoldError
from bnfold.proof.certificates.kinds import is_copying
from bnfold.proof.certificates.probing import (
    Run,
    by_onnxruntime,
    evaluator,
    require_equal_bits,
    single,
)
from bnfold.proof.certificates.sizes.joining import with_joins_fitting
from bnfold.proof.certificates.sizes.reshaping import fitting
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.windows import Window, dtype_of
from bnfold.proof.float64.evaluation import NoTruth


def that_occur(window: Window, chosen: Sequence[Sizing]) -> Sequence[Sizing]:
    """Return the sizes that may occur; of small ones, those at which something is computed.

    If none of the usual ones does, others that do are looked for.

    Raises:
        Differs: if at a small size what is replaced computes nothing, and the other side something.
    """
    usual = [with_joins_fitting(window, sizing) for sizing in chosen if not sizing.is_small]
    if len(usual) > 1:
        sides = [Side(window.before, make) for make in (by_onnxruntime, evaluator)]
        usual = next(
            filter(None, (_occurring(each, sides) for each in _others(window, usual))), usual
        )
    return usual + _with_content(window, [sizing for sizing in chosen if sizing.is_small])


def _others(window: Window, usual: list[Sizing]) -> Iterator[list[Sizing]]:
    """Yield the usual sizes, and then others at which the Reshapes can run."""
    yield usual
    for splits in (False, True):
        fits = [fitting(window, sizing, splits=splits) for sizing in usual]
        yield [each for each in fits if each is not None]


def _occurring(chosen: Iterable[Sizing], sides: Iterable[Side]) -> list[Sizing]:
    return [each for each in chosen if any(side.result(each) is not None for side in sides)]


def _with_content(window: Window, small: Sequence[Sizing]) -> list[Sizing]:
    if not small:
        return []
    make = by_onnxruntime if is_copying(window) else evaluator
    before, found = Side(window.before, make), []
    for sizing in small:
        result = before.result(sizing)
        if result is not None and result.size:
            found.append(sizing)
        elif result is not None:
            other = Side(window.after, make).result(sizing)
            if other is not None:
                require_equal_bits(window, result, other)
    return found


class Side:
    """A side of a window that runs on zeros."""

    def __init__(
        self, model: onnx.ModelProto, make: Callable[[onnx.ModelProto], Run] = evaluator
    ) -> None:
        self._model = model
        self._make = make
        self._types = {value.name: dtype_of(value) for value in model.graph.input}

    @cached_property
    def _run(self) -> Run | None:
        """What runs it, made when it is asked for; None if nothing can."""
        with suppress(NoTruth, BnfoldError):
            return self._make(self._model)
        return None

    def result(self, sizing: Sizing) -> Array | None:
        """Return the first result; None if it cannot run, or the graph says that it has others."""
        shapes = single(sizing)
        feeds = {name: np.zeros(shape, self._types[name]) for name, shape in shapes.items()}
        with suppress(NoTruth, BnfoldError):
            made = self._run(feeds) if self._run is not None else None
            return made if made is not None and self._is_as_said(made, sizing) else None
        return None

    def _is_as_said(self, result: Array, sizing: Sizing) -> bool:
        """Say whether a result has the sizes that the graph says."""
        described = {value.name: _sizes(value) for value in self._model.graph.value_info}
        named = {
            name: size
            for value in self._model.graph.input
            if value.name in sizing.shapes
            for name, size in zip(_sizes(value), single(sizing)[value.name], strict=False)
            if name
        }
        said = [
            named.get(size, size) for size in described.get(self._model.graph.output[0].name, [])
        ]
        pairs = zip(said, result.shape, strict=False)
        return all(one == size for one, size in pairs if one and isinstance(one, int))


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return the sizes of a value, or their names; a size of 0 counts as free."""
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
