"""Proves that two small models compute the same for all inputs, or shows where they do not.

Nothing here knows what made them. A proof goes by what their operators are:

- *constant*: what depends on constants alone is computed by onnxruntime. Then both are the same
  operators over the same bits.
- *copying*: the outputs are elements of the inputs. Inputs of distinct values show which.
- *linear*: both are affine. Gaussian probes in float64 bound each row of the difference.
- *selection*: maxima over windows, and functions of one element. One-hot inputs show which elements
  a maximum is over; a grid shows that the functions are the same, and increasing.
- *sampled*: anything else. Nothing is proven, but what differs is found.

The derivation of the bounds is in docs/certificates.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import Array, FloatArray
from bnfold.errors import BnfoldError
from bnfold.progress import Progress, silent
from bnfold.proof.structure import (
    float_casts,
    is_chain,
    is_multilinear,
    is_same_but_pools,
    of_one_output,
    of_pool_inputs,
    peeled,
    with_constants_computed,
    with_sizes,
    without_shared,
)
from bnfold.proof.taps import tapped, with_pools_first
from bnfold.proof.truth import NoTruth, Truth64
from bnfold.proof.windows import (
    AFFINE,
    COPYING,
    POINTWISE,
    STEPS,
    NotShown,
    Shapes,
    Sizing,
    Window,
    dtype_of,
    is_float,
    is_random,
    sizings,
)
from bnfold.record.data import Certificate, Difference
from bnfold.running.isolation import CrashedError, isolated
from bnfold.running.runtime import Level, Session

PROBES = 24
"""Gaussian inputs of a linear window."""

DOUBT = 1e-9
"""The probability that a stated bound does not hold."""

ROUNDING = {"float": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "double": 2.0**-53}
"""Half a step of each type, relative: how far a new weight is from the exact one."""

MOST_ROUNDINGS = 16.0
"""At a probe, a row may be off by so many roundings, in units of its norm. Where each weight of a
row is rounded once, the difference's norm is at most one, and of a million normal values the
largest is at five; norms are estimated, too."""

_AFFINE = 1e-9
"""Relative: an affine model, in float64, is affine to this."""

_FLOAT64 = 2.0**-45
"""Relative: what rounding in float64 may come to over a sum."""

_TINY = 2.0**-126
"""The smallest normal float32: below, new weights are set to zero."""

_PAIRS = ((-1.0, 1.0), (0.25, 2.0), (-3.0, -0.5))
"""Values, and larger ones, of which one-hot inputs are made."""

_WIDTHS = (1.0, 0.1, 10.0)
"""Standard deviations of the inputs where samples must do."""

_GRID = 2**22
"""Elements of all the constant images that show a function, or of images that run at once."""

_PLAIN = 1e3
"""Of differences, one between smaller values than this is shown."""

_NUDGES = 3
"""Ways to round the constants of a function."""

_MOST_NAMED = 16
"""Constants, of one element each, around which a function is evaluated."""


class _Differs(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, difference: Difference) -> None:
        super().__init__()
        self.difference = difference


def certify_all(
    windows: Sequence[Callable[[], Window]], seconds: float, progress: Progress = silent
) -> list[Certificate]:
    """Prove windows in a process of its own, one after another, in the time that there is.

    Args:
        windows: each makes a window when it is its turn; it raises NotShown if there is none.
        seconds: for all of them; those that are left are open.
        progress: called with what is being done.
    """

    def work(told: Progress) -> list[Certificate]:
        end = time.monotonic() + seconds
        certificates = []
        for number, window in enumerate(windows, 1):
            if time.monotonic() > end:
                late = "there was no time left; --certify always takes it"
                certificates.append(Certificate("open", note=late))
                continue
            told(f"certifying rewrite {number} of {len(windows)}")
            try:
                certificates.append(certify(window()))
            except NotShown as reason:
                certificates.append(Certificate("open", note=str(reason)))
        return certificates

    try:
        return isolated(work, progress)
    except CrashedError as crash:
        return [Certificate("open", note=str(crash))] * len(windows)


def certify(window: Window) -> Certificate:
    """Prove a window, or find a difference."""
    begun = time.monotonic()
    certificate = _certify(window)
    return replace(certificate, seconds=time.monotonic() - begun)


def _certify(window: Window) -> Certificate:
    try:
        computed = with_constants_computed(window)
        if "Shape" in computed.operators:
            return _at_sizes(computed)
        rest = peeled(without_shared(with_pools_first(computed)))
        if not rest:
            return Certificate("certified", "constant")
        try:
            certificates = [_of_one(each) for each in rest]
        except (_Differs, NotShown, NoTruth, BnfoldError):  # operands may differ, results need not
            certificates = [_of_one(each) for each in of_one_output(computed)]
    except (NotShown, NoTruth, BnfoldError) as reason:
        return Certificate("open", note=str(reason))
    except _Differs as differs:
        return Certificate("differs", "sampled", worst=differs.difference)
    except Exception as error:  # a model may be anything, and then the whole is still compared
        return Certificate("open", note=f"{type(error).__name__}: {error}")
    doubts = [found.doubt for found in certificates if found.doubt is not None]
    worst = max(certificates, key=lambda found: (found.verdict != "certified", found.bound or 0.0))
    return replace(worst, doubt=sum(doubts) if doubts else None)


def _at_sizes(window: Window) -> Certificate:
    """Prove a window that computes with sizes at each of a choice of them."""
    certificates = []
    for sizing in sizings(window):
        fixed = with_sizes(window, sizing.shapes)
        if "Shape" in fixed.operators:
            raise NotShown("it computes with the sizes of what is within it")
        certificates.append(_certify(fixed))
        if certificates[-1].verdict == "differs":
            return certificates[-1]
    return max(certificates, key=lambda found: found.verdict != "certified")


def _of_one(window: Window) -> Certificate:
    """Prove a window of one output.

    Raises:
        NotShown: if it is neither equal nor different.
    """
    if any(is_random(node, window.constants) for node in window.nodes()):
        raise NotShown("it draws random numbers")
    if float_casts(window.before) != float_casts(window.after):
        raise NotShown("only one side rounds to another type")
    chosen = sizings(window)
    is_wide = all(dtype_of(value).name != "bfloat16" for value in window.inputs)
    if window.operators <= COPYING and is_wide and all(map(is_multilinear, window.models)):
        return _copying(window, chosen)
    if not window.unit:
        raise NotShown("it computes with integers")
    if not window.is_of_floats:
        return _sampled(window, chosen)
    proofs: list[tuple[frozenset[str], Callable[[Window, Sequence[Sizing]], Certificate | None]]]
    proofs = [
        (AFFINE, _linear),
        (POINTWISE | {"MaxPool"}, _selection),
        (AFFINE | {"MaxPool"}, _maximum),
    ]
    for operators, prove in proofs:
        if window.operators <= operators and (certificate := prove(window, chosen)) is not None:
            return certificate
    return _sampled(window, chosen)


def _certificate(kind: str, chosen: Sequence[Sizing], **found: float) -> Certificate:
    shrunk = any(sizing.shrunk for sizing in chosen)
    return Certificate(
        "sampled" if kind == "sampled" else "certified",
        kind,  # type: ignore[arg-type]
        shapes=[{name: list(shape) for name, shape in sizing.shapes.items()} for sizing in chosen],
        note="at smaller sizes, with all of the border" if shrunk else "",
        **found,  # type: ignore[arg-type]
    )


# --- Running --------------------------------------------------------------------------------------

_Run = Callable[[Mapping[str, Array]], Array]


def _in_float64(window: Window) -> tuple[_Run, _Run]:
    """Return functions that evaluate each side in float64.

    Raises:
        NoTruth: when called, if an operator cannot be evaluated.
    """
    return tuple(map(_evaluator, window.models))  # type: ignore[return-value]


def _evaluator(model: onnx.ModelProto) -> _Run:
    truth = Truth64(model)
    return lambda feeds: next(iter(truth.outputs(feeds).values()))


def _by_onnxruntime(model: onnx.ModelProto) -> _Run:
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for value in free.graph.input:
        value.type.tensor_type.ClearField("shape")  # it may be run at another size
    session = Session(free.SerializeToString(), "cpu", Level.DISABLED)
    return lambda feeds: next(iter(session.run(feeds).values()))


def _each_probe(sizing: Sizing, probes: Sequence[Mapping[str, Array]], run: _Run) -> Array:
    """Return the output for each probe, stacked: in one run if samples do not mix."""
    if sizing.batched:
        return _stacked(probes, run)
    if sizing.stackable:
        try:
            together = _stacked(probes, run)
        except (NoTruth, ValueError):  # it computes with its sizes
            together = np.zeros(0)
        tried = [len(probes) // 2, len(probes) - 1]
        if len(together) and all(_is_same(together[at], run(probes[at])) for at in tried):
            return together
    return np.stack([run(probe) for probe in probes])


def _stacked(probes: Sequence[Mapping[str, Array]], run: _Run) -> Array:
    """Run all probes as one batch, and return a part of the output for each.

    Raises:
        ValueError: if it has no such parts.
    """
    whole = run({name: np.concatenate([probe[name] for probe in probes]) for name in probes[0]})
    return whole.reshape(len(probes), len(whole) // len(probes), *whole.shape[1:])


def _is_same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and np.allclose(one, other, 1e-9, 1e-12, equal_nan=True)


def _single(sizing: Sizing) -> Shapes:
    """Return the shapes of one sample."""
    if not sizing.batched:
        return sizing.shapes
    return {name: (1, *shape[1:]) for name, shape in sizing.shapes.items()}


# --- Copying --------------------------------------------------------------------------------------


def _copying(window: Window, chosen: Sequence[Sizing]) -> Certificate:
    """Give each element of the inputs a number, digit by digit, and see where it goes.

    At last all of these change, so that none is taken for a constant.
    """
    runs = 0
    for sizing in chosen:
        count = sum(math.prod(shape) for shape in sizing.shapes.values())
        base = min(_digits(dtype_of(value)) for value in window.inputs)
        digits = max(1, math.ceil(math.log(max(count, 2), base)))
        for digit, change in [*((digit, 0) for digit in range(digits)), (0, 1)]:
            feeds, at = {}, 0
            for value in window.inputs:
                shape = sizing.shapes[value.name]
                numbers = (np.arange(at, at + math.prod(shape)) // base**digit + change) % base
                feeds[value.name] = numbers.reshape(shape).astype(dtype_of(value))
                at += math.prod(shape)
            before, after = (_by_onnxruntime(model)(feeds) for model in window.models)
            _require_equal_bits(window, before, after)
            _require_content(before)
            runs += 1
    return _certificate("copying", chosen, probes=runs)


def _digits(dtype: np.dtype[np.generic]) -> int:
    if dtype.kind == "b":
        return 2
    return 100 if dtype.itemsize < 2 else 1000


def _require_equal_bits(window: Window, before: Array, after: Array) -> None:
    name = window.before.graph.output[0].name
    if before.shape != after.shape or before.dtype != after.dtype:
        raise _Differs(
            Difference(name, [], None, None, f"{_shaped(before)} becomes {_shaped(after)}")
        )
    is_float = before.dtype.kind == "f"
    if not np.array_equal(before, after, equal_nan=is_float):
        at = tuple(int(i) for i in np.argwhere(before != after)[0])
        raise _Differs(Difference(name, list(at), float(before[at]), float(after[at])))


def _require_content(output: Array) -> None:
    if not output.size:
        raise NotShown("its output is empty at the sizes that were tried")


def _shaped(values: Array) -> str:
    return f"{values.dtype.name}[{','.join(map(str, values.shape))}]"


# --- Linear ---------------------------------------------------------------------------------------


def bound_factor(probes: int, rows: int) -> float:
    """Return how many times the largest |d·x| of some probes bounds ‖d‖, for each of many rows.

    For x ~ N(0, I), d·x ~ N(0, ‖d‖²), and |d·x| ≤ t has a probability of less than 0.8·t/‖d‖. So
    all probes stay below t with less than (0.8·t/‖d‖)^k, which is `DOUBT`/rows at the bound.
    """
    return float(0.8 / (DOUBT / 2 / rows) ** (1 / probes))


def norm_factor(probes: int, rows: int) -> float:
    """Return how many times its own estimate of a norm may exceed it, for each of many rows.

    The sum of k squares of normal values is beyond k·f with a probability of at most
    (f·e^(1−f))^(k/2), by Chernoff's bound; it is `DOUBT`/rows at f.
    """
    low, high = 1.0, 1e3
    wanted = math.log(DOUBT / 2 / rows) * 2 / probes
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.log(middle) + 1 - middle > wanted else (low, middle)
    return math.sqrt(high)


def _linear(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of two affine models; None if one of them is not affine."""
    bound = _linear_bound(window, chosen)
    if bound is None:
        return None
    doubt = DOUBT * len(chosen)
    return _certificate("linear", chosen, probes=PROBES, bound=bound, doubt=doubt)


def _maximum(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Bound the difference of two maxima of affine functions, each by itself, or None."""
    windows = tapped(window)
    if windows is None:
        return None
    largest, count = 0.0, 0
    try:
        for each in windows:
            bound = _linear_bound(each, chosen)
            if bound is None:
                return None
            largest, count = max(largest, bound), count + 1
    except _Differs:  # the elements may have another order
        return None
    doubt = DOUBT * count * len(chosen)
    return _certificate("maximum", chosen, probes=PROBES * count, bound=largest, doubt=doubt)


def _linear_bound(window: Window, chosen: Sequence[Sizing]) -> float | None:
    """Bound the difference of two affine models; None if one of them is not affine."""
    if not all(map(is_multilinear, window.models)):
        return None
    largest = 0.0
    for sizing in chosen:
        shapes = _single(sizing)
        generator = np.random.default_rng(len(shapes))
        gaussian = [
            {name: generator.standard_normal(shape) for name, shape in shapes.items()}
            for _ in range(PROBES)
        ]
        zero = {name: np.zeros(shape) for name, shape in shapes.items()}
        both = {name: gaussian[0][name] + gaussian[1][name] for name in shapes}
        probes = [zero, both, *gaussian]
        before, after = (_each_probe(sizing, probes, run) for run in _in_float64(window))
        if before.shape != after.shape:
            _require_equal_bits(window, before, after)
        _require_content(before)
        defined = np.asarray(~np.isnan(before).any(axis=0))
        if not (_is_defined_at(before, defined) and _is_defined_at(after, defined)):
            return None
        if not (_is_affine(before) and _is_affine(after)):
            return None
        before, after = (np.where(defined, outputs, 0.0) for outputs in (before, after))
        largest = max(largest, _difference(window, before, after))
    return largest


def _is_defined_at(outputs: FloatArray, defined: Array) -> bool:
    """Say whether outputs are finite at some elements, and NaN, as padding, at all others."""
    return bool((np.isfinite(outputs) == defined).all() and not np.isinf(outputs).any())


def _is_affine(outputs: FloatArray) -> bool:
    """Say whether f(a + b) − f(a) − f(b) + f(0) is zero, up to rounding in float64."""
    zero, both, one, other = outputs[:4]
    size = np.nanmax(np.abs(outputs[:4]), initial=0.0)
    residual = np.abs(both - one - other + zero)
    return bool(((residual <= _AFFINE * size) | np.isnan(residual)).all())


def _difference(window: Window, before: FloatArray, after: FloatArray) -> float:
    """Return a bound on each row of the difference, as a share of the row's own norm.

    Raises:
        _Differs: if a row, or the constant part, differs by more than rounding.
    """
    unit = ROUNDING[window.unit]
    constant = before[0] - after[0]
    rows = before[2:] - before[0]
    norms = np.sqrt((rows**2).mean(axis=0))
    differences = np.abs(rows - (after[2:] - after[0]))
    largest = differences.max(axis=0)
    tiny = _TINY * math.sqrt(sum(map(math.prod, [row.shape for row in rows[:1]])) + 1)
    sizes = np.maximum(np.abs(before[0]), norms)
    allowed = MOST_ROUNDINGS * unit * norms + _FLOAT64 * sizes + tiny
    shift = (MOST_ROUNDINGS * unit + _FLOAT64) * sizes + tiny
    excess = np.maximum(largest / allowed, np.abs(constant) / shift)
    if (excess.size and float(excess.max()) > 1) or not np.isfinite(excess).all():
        at = np.unravel_index(int(np.nan_to_num(excess, nan=np.inf).argmax()), excess.shape)
        is_constant = np.abs(constant[at]) / shift[at] >= largest[at] / allowed[at]
        probe = 0 if is_constant else 2 + int(differences[(slice(None), *at)].argmax())
        raise _Differs(
            Difference(
                window.before.graph.output[0].name,
                [int(i) for i in at[1:]],
                float(before[(probe, *at)]),
                float(after[(probe, *at)]),
            )
        )
    factor = bound_factor(PROBES, excess.size or 1) * norm_factor(PROBES, excess.size or 1)
    counts = largest > tiny + _FLOAT64 * sizes
    shares = np.divide(largest, norms, out=np.zeros(norms.shape), where=counts)
    return factor * float(shares.max(initial=0.0))


# --- Selection ------------------------------------------------------------------------------------


def _selection(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Show that both are the same function of the largest of the same elements, or None."""
    if len(window.inputs) != 1:
        return None
    has_pools = "MaxPool" in window.operators
    if has_pools and not all(map(is_chain, window.models)):
        return None
    if window.operators & STEPS and not is_same_but_pools(window):
        return None
    probes = 0
    for sizing in chosen:
        if not sizing.batched:
            return None
        run_before, run_after = _in_float64(window)
        spread = _spread(window)
        (name,) = sizing.shapes
        shape = _single(sizing)[name]
        grid = _grid(window, math.prod(shape))
        flat = np.broadcast_to(grid.reshape(-1, *(1,) * (len(shape) - 1)), (len(grid), *shape[1:]))
        before, after = (run({name: np.array(flat)}) for run in (run_before, run_after))
        _require_same_function(window, before, after, spread({name: np.array(flat)}, before))
        _require_content(before)
        probes += len(grid)
        if not has_pools:
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
        if has_pools and not is_seen.all():
            return None
    return _certificate("selection", chosen, probes=probes)


def _grid(window: Window, elements: int) -> FloatArray:
    """Return values of the type in order, the special ones among them; all of a float16 if few."""
    if window.unit == "float16" and elements <= 256:
        every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
        return np.unique(every[np.isfinite(every)])
    count = int(np.clip(_GRID // max(elements, 1), 64, 4096)) // 2
    largest = {"float16": 65504.0, "double": 1e300}.get(window.unit, 3.4e38)
    sizes = np.concatenate(
        [[0.0, 1e-45, _TINY], np.geomspace(1e-6, 100, count - 5), _named(window), [largest]]
    )
    return np.unique(np.concatenate([-sizes, sizes]))


def _named(window: Window) -> FloatArray:
    """Return numbers at and around which a function may change: its constants, and their sums."""
    found = [attribute.f for node in window.nodes() for attribute in node.attribute]
    found += [float(each.flat[0]) for each in window.constants.values() if each.size == 1]
    named = np.array(sorted({abs(each) for each in found if 0 < abs(each) < 1e30})[:_MOST_NAMED])
    sums = np.concatenate([named, *(named[:, None] + np.outer(named, [1, -1]).reshape(1, -1))])
    return np.unique(np.abs(np.outer(sums, [1 - 2**-10, 1, 1 + 2**-10])))


def _at(model: onnx.ModelProto, name: str, images: FloatArray) -> FloatArray:
    return _evaluator(model)({name: np.array(images)})


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
    runs = [_evaluator(_nudged(window.before, unit, seed)) for seed in range(_NUDGES)]
    return lambda feeds, outputs: np.maximum.reduce(
        [_distance(run(feeds), outputs) for run in runs]
    )


def _allowed(window: Window, outputs: FloatArray, spread: FloatArray) -> FloatArray:
    """Return what elements may be off by; nothing where they are infinite."""
    size = ROUNDING[window.unit] * np.maximum(np.abs(outputs), _TINY)
    size[np.isinf(outputs)] = 0.0
    allowed: FloatArray = MOST_ROUNDINGS * np.maximum(size, spread)
    return allowed


def _require_same_function(
    window: Window, before: FloatArray, after: FloatArray, spread: FloatArray
) -> None:
    if before.shape != after.shape:
        _require_equal_bits(window, before, after)
    with np.errstate(over="ignore"):
        distance = _distance(before, after)
        is_off = distance > _allowed(window, before, spread)
        is_plain = np.maximum(np.abs(before), np.abs(after)) < _PLAIN
    if is_off.any():
        worst = np.argmax(np.where(is_off, np.where(is_plain, 1 + distance, 1.0), 0.0))
        at = tuple(int(i) for i in np.unravel_index(int(worst), distance.shape))
        name = window.before.graph.output[0].name
        raise _Differs(Difference(name, list(at), float(before[at]), float(after[at])))


# --- Anything else --------------------------------------------------------------------------------


def _sampled(window: Window, chosen: Sequence[Sizing]) -> Certificate:
    """Compare on Gaussian inputs, with what rounding of the constants explains."""
    probes = 0
    run_before, run_after = _in_float64(window)
    unit = ROUNDING[window.unit]
    nudged = _evaluator(_nudged(window.before, unit, 0))
    for sizing in chosen:
        shapes = _single(sizing)
        generator = np.random.default_rng(len(shapes))
        for width in _WIDTHS:
            feeds = [
                {
                    value.name: _drawn(generator, value, shapes[value.name]) * width
                    for value in window.inputs
                }
                for _ in range(PROBES // len(_WIDTHS))
            ]
            before, after, moved = (
                _each_probe(sizing, feeds, run) for run in (run_before, run_after, nudged)
            )
            if before.shape != after.shape or before.dtype.kind != "f":
                _require_equal_bits(window, before, after)
                continue
            _require_content(before)
            noise = _rms(_distance(moved, before))
            size = _rms(before)
            error = _distance(after, before)
            if not error.max() <= 10 * MOST_ROUNDINGS * max(noise, unit * size):
                at = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
                name = window.before.graph.output[0].name
                raise _Differs(Difference(name, list(at[1:]), float(before[at]), float(after[at])))
            probes += len(feeds)
    return _certificate("sampled", chosen, probes=probes)


def _distance(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return how far elements are from each other; NaN is as far from NaN as 1 from 1."""
    is_same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        return np.where(is_same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf))


def _rms(values: FloatArray) -> float:
    """Return the root mean square of those values that are finite."""
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0


def _drawn(
    generator: np.random.Generator, value: onnx.ValueInfoProto, shape: tuple[int, ...]
) -> Array:
    dtype = dtype_of(value)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(np.bool_)
    if not is_float(dtype):
        raise NotShown(f"its input {value.name!r} is of integers")
    return generator.standard_normal(shape)


def _nudged(model: onnx.ModelProto, unit: float, seed: int) -> onnx.ModelProto:
    """Return the model with each float constant off by one rounding, up or down; no scale is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    generator = np.random.default_rng(seed)
    resizing = [node for node in copy.graph.node if node.op_type in ("Resize", "Upsample")]
    scales = {name for node in resizing for name in node.input[1:]}
    for tensor in copy.graph.initializer:
        content = onnx.numpy_helper.to_array(tensor)
        if is_float(content.dtype) and tensor.name not in scales:
            signs = generator.choice([-1.0, 1.0], content.shape)
            moved = content.astype(np.float64) * (1 + unit * signs)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    return copy
