"""Proves windows that apply a function to the largest of some elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import Array, FloatArray
from bnfold.proof.certificates.kinds import is_chain, is_same_but_pools
from bnfold.proof.certificates.nudging import NUDGES, with_nudged_constants
from bnfold.proof.certificates.probing import (
    MOST_ROUNDINGS,
    ROUNDING,
    TINY,
    Differs,
    certified,
    evaluator,
    in_float64,
    require_content,
    require_equal_bits,
    single,
)
from bnfold.proof.certificates.sampling import distances
from bnfold.proof.certificates.sizes.padding import spatial_widths
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.submodels import of_pool_inputs
from bnfold.proof.certificates.windows import STEPS, Window, is_float
from bnfold.record.data import Certificate, Difference

_PAIRS = ((-1.0, 1.0), (0.25, 2.0), (-3.0, -0.5))
"""Values, and larger ones, of which one-hot inputs are made."""

_GRID = 2**22
"""Elements of all the constant images that show a function, or of images that run at once."""

_PLAIN = 1e3
"""Of differences, one between smaller values than this is shown."""

_MOST_NAMED = 16
"""Constants, or elements of them, around which a function is evaluated."""

_MOST_DIVISORS = 6
"""Of these, if there are no more, around what each of their sums is divided by each of them."""


def prove_selection(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Show that both are the same function of the largest of the same elements, or None."""
    if len(window.inputs) != 1:
        return None
    has_windows = bool(window.operators & {"MaxPool", "Pad"})
    if has_windows and not all(map(is_chain, window.models)):
        return None
    pads = [node for node in window.nodes() if node.op_type == "Pad"]
    if any(spatial_widths(pad, window.constants) is None for pad in pads):
        return None
    if window.operators & STEPS and not is_same_but_pools(window):
        return None
    probes = 0
    for sizing in chosen:
        if not sizing.batched:
            return None
        run_before, run_after = in_float64(window)
        spread = _spread(window)
        (name,) = sizing.shapes
        shape = single(sizing)[name]
        grid = _grid(window, math.prod(shape))
        flat = np.broadcast_to(grid.reshape(-1, *(1,) * (len(shape) - 1)), (len(grid), *shape[1:]))
        before, after = (run({name: np.array(flat)}) for run in (run_before, run_after))
        _require_same_function(window, before, after, spread({name: np.array(flat)}, before))
        require_content(before)
        probes += len(grid)
        if not has_windows:
            continue
        pooled = [part for model in window.models for part in of_pool_inputs(model)]
        if not all(
            _is_ordered(out) for out in (before, *(_at(part, name, flat) for part in pooled))
        ):
            return None
        is_seen = np.zeros(before.shape[1:], np.bool_)
        for low, high in _PAIRS:
            ends = np.stack([np.full(shape[1:], low), np.full(shape[1:], high)])
            of_ends = run_before({name: ends})
            allowed = _allowed(window, of_ends, spread({name: ends}, of_ends)).max(axis=0)
            is_seen |= of_ends[1] - of_ends[0] > 4 * allowed
            for images in _one_hot(shape, low, high):
                before, after = (run({name: images}) for run in (run_before, run_after))
                _require_same_function(window, before, after, spread({name: images}, before))
                probes += len(images)
        if has_windows and not is_seen.all():
            return None
    return certified("selection", chosen, probes=probes)


def _grid(window: Window, elements: int) -> FloatArray:
    """Return values of the type in order, the special ones among them; all of a float16 if few."""
    if window.unit == "float16" and elements <= 256:
        every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
        return np.unique(every[np.isfinite(every)])
    count = int(np.clip(_GRID // max(elements, 1), 64, 4096)) // 2
    largest = {"float16": 65504.0, "double": 1e300}.get(window.unit, 3.4e38)
    sizes = np.concatenate(
        [[0.0, 1e-45, TINY], np.geomspace(1e-6, 100, count - 5), _named(window), [largest]]
    )
    return np.unique(np.concatenate([-sizes, sizes]))


def _named(window: Window) -> FloatArray:
    """Return numbers at and around which a function may change: constants, sums, and quotients."""
    found = [attribute.f for node in window.nodes() for attribute in node.attribute]
    floats = [each for each in window.constants.values() if is_float(each.dtype)]
    found += [float(each) for content in floats for each in content.flat[:_MOST_NAMED]]
    named = np.array(sorted({abs(each) for each in found if 0 < abs(each) < 1e30})[:_MOST_NAMED])
    sums = np.concatenate([named, *(named[:, None] + np.outer(named, [1, -1]).reshape(1, -1))])
    if len(named) <= _MOST_DIVISORS:
        sums = np.concatenate([sums, np.outer(sums, 1 / named).reshape(-1)])
    return np.unique(np.abs(np.outer(sums, [1 - 2**-10, 1, 1 + 2**-10])))


def _at(model: onnx.ModelProto, name: str, images: FloatArray) -> FloatArray:
    return evaluator(model)({name: np.array(images)})


def _is_ordered(outputs: FloatArray) -> bool:
    """Say whether outputs never fall from one input to the next."""
    return bool((outputs[1:] >= outputs[:-1]).all())


def _one_hot(shape: tuple[int, ...], low: float, high: float) -> Iterator[FloatArray]:
    """Yield images that are low but at one position, in all channels: some at a time."""
    positions = math.prod(shape[2:])
    step = max(1, _GRID // math.prod(shape[1:]))
    for start in range(0, positions, step):
        chosen = np.arange(start, min(start + step, positions))
        images = np.full((len(chosen), *shape[1:]), low)
        flat = images.reshape(len(chosen), shape[1] if len(shape) > 1 else 1, positions)
        flat[np.arange(len(chosen)), :, chosen] = high
        yield images


def _spread(window: Window) -> Callable[[Mapping[str, Array], FloatArray], FloatArray]:
    """Return a function that says how far outputs move when constants are rounded.

    They do not move where both sides have the same constants.
    """
    if is_same_but_pools(window):
        return lambda _, outputs: np.zeros(outputs.shape)
    unit = ROUNDING[window.unit]
    runs = [evaluator(with_nudged_constants(window.before, unit, seed)) for seed in range(NUDGES)]
    return lambda feeds, outputs: np.maximum.reduce(
        [distances(run(feeds), outputs) for run in runs]
    )


def _allowed(window: Window, outputs: FloatArray, spread: FloatArray) -> FloatArray:
    """Return what elements may be off by; nothing where they are infinite."""
    size = ROUNDING[window.unit] * np.maximum(np.abs(outputs), TINY)
    size[np.isinf(outputs)] = 0.0
    allowed: FloatArray = MOST_ROUNDINGS * np.maximum(size, spread)
    return allowed


def _require_same_function(
    window: Window, before: FloatArray, after: FloatArray, spread: FloatArray
) -> None:
    if before.shape != after.shape:
        require_equal_bits(window, before, after)
    with np.errstate(over="ignore"):
        distance = distances(before, after)
        is_off = distance > _allowed(window, before, spread)
        is_plain = np.maximum(np.abs(before), np.abs(after)) < _PLAIN
    if is_off.any():
        worst = np.argmax(np.where(is_off, np.where(is_plain, 1 + distance, 1.0), 0.0))
        at = tuple(int(i) for i in np.unravel_index(int(worst), distance.shape))
        name = window.before.graph.output[0].name
        raise Differs(Difference(name, list(at), float(before[at]), float(after[at])))
