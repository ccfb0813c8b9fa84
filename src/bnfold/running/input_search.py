"""Finds inputs that a model accepts: sizes for free dimensions, and samples that show enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from bnfold.arrays import Array
from bnfold.errors import SessionError, UsageError
from bnfold.options import InputOptions, require_inputs
from bnfold.running.hints import Hints
from bnfold.running.input_files import read_data
from bnfold.running.input_overrides import SAMPLES_FOR_SIGNS, with_fitting_overrides, with_overrides
from bnfold.running.input_shapes import candidate_shapes
from bnfold.running.input_sizes import accepts, other_shapes
from bnfold.running.inputs import FEW, Inputs, UnsupportedInput, is_switch
from bnfold.running.integer_limits import (
    LARGEST_INTEGERS,
    accepts_all,
    may_be_negative,
    with_limits_found,
    with_others,
)
from bnfold.running.runtime import Feeds, Session, ValueSpec
from bnfold.running.switches import samples_for

_HUGE = 2**21
"""Elements of one input beyond which a batch of several would take too much memory."""

_SAMPLES_FOR_LEVELS = 8
"""Samples for an input of few numbers to be on both sides of each that it is compared with."""

_OTHER_SHAPES, _OTHER_DRAWS = 2, 8
"""Where nothing runs, so many draws of the first shapes are tried: it may depend on the values."""

_SIZES_TO_TRY = 16
"""At which a model may accept more integers."""

_MOST_FOR_COMPARISONS = 6
"""Samples, at most, for an integer to be each constant that it is compared with, less and more."""

_MOST_FOR_COMBINATIONS = 16
"""The same for several such integers."""


def make_inputs(session: Session, request: InputOptions, hints: Hints | None = None) -> Inputs:
    """Find inputs that the model accepts: free dimensions take the first sizes that work.

    Further samples, if any, use other sizes, too.

    Args:
        session: the model.
        request: the user's options.
        hints: what the graph says of the inputs.

    Raises:
        UsageError: if the request names an unknown input, or one has the wrong type.
        UnsupportedInput: if the model has an input of a type that cannot be created.
        SessionError: if the model accepts none of the sizes tried.
    """
    given = [
        _fitting({**feeds, **request.arrays}, session.inputs, request)
        for feeds in read_data(request.data, session.inputs)
    ]
    for spec in session.inputs:
        if spec.dtype is None:
            raise UnsupportedInput(
                f"input {spec.name!r} has the type {spec.type}, which cannot be made"
            )
    request = _with_small_batches(session.inputs, request)
    _require_batch(session.inputs, given[0], request)
    hints = hints or Hints()
    demanded = _with_sizes(session.inputs, hints.sizes)
    if demanded != session.inputs:
        with suppress(SessionError):  # sizes may depend on one another
            return _found(session, demanded, request, given, hints)
    return _found(session, session.inputs, request, given, hints)


def _with_sizes(
    specs: Sequence[ValueSpec], sizes: Mapping[tuple[str, int], int]
) -> Sequence[ValueSpec]:
    """Return inputs of which some free sizes are known, and those of the same name with them."""
    named = {
        spec.shape[axis]: sizes[spec.name, axis]
        for spec in specs
        for axis in range(len(spec.shape))
        if (spec.name, axis) in sizes and isinstance(spec.shape[axis], str)
    }
    known = [
        tuple(
            named.get(size, size if isinstance(size, int) else sizes.get((spec.name, axis), size))
            for axis, size in enumerate(spec.shape)
        )
        for spec in specs
    ]
    return [replace(spec, shape=shape) for spec, shape in zip(specs, known, strict=True)]


def _found(
    session: Session,
    specs: Sequence[ValueSpec],
    request: InputOptions,
    given: Sequence[Feeds],
    hints: Hints,
) -> Inputs:
    """Return inputs of these types and shapes that the model accepts.

    Raises:
        SessionError: if the model accepts none of the sizes tried.
    """
    everything_given = all(spec.name in given[0] for spec in specs)
    samples = len(given) if everything_given else max(request.samples, len(given))
    if samples > 1 and not everything_given:
        samples = max(samples, _samples_for_numbers(specs, hints), _samples_for_switches(specs))
    written = [size for size in hints.written if size not in request.other_sizes]
    requests = [request, replace(request, other_sizes=written)] if written else [request]
    candidates = [
        [
            shapes
            for each in requests
            for batch_first in (True, False)
            for shapes in candidate_shapes(specs, feeds, each, batch_first=batch_first)
        ]
        for feeds in given
    ]
    plain = replace(hints, rows={})
    first = _first_that_runs(session, specs, request, given, candidates[0], plain)
    if first.hints.words and not accepts_all(session, replace(first, samples=samples)):
        first = replace(first, hints=replace(first.hints, words={}))
    first = with_limits_found(session, first)
    first = replace(first, signed=samples > 1 and may_be_negative(session, first))
    if samples > 1:
        first = _with_others_at_some_size(session, first, candidates[0], samples)
    first = with_overrides(session, first) if samples > 1 else first
    samples = max(samples, SAMPLES_FOR_SIGNS) if first.turns else samples
    samples = max(samples, _SAMPLES_FOR_LEVELS) if samples > 1 and _are_few(first) else samples
    if len(given) > 1:
        return replace(first, shapes=[shapes[0] for shapes in candidates], samples=samples)
    shapes = list(first.shapes)
    if samples > 1 and len(set(request.batch_sizes)) > 1:
        shapes, more = other_shapes(session, first, request)
        varied = replace(first, shapes=shapes, samples=samples + more)
        if first.beside and not accepts_all(session, varied):
            shapes, more = list(first.shapes), 0  # fewer of the integers may be padding there
        samples += more
    found = with_fitting_overrides(session, replace(first, shapes=shapes, samples=samples))
    return _with_rows(session, found, hints.rows) if hints.rows else found


def _with_others_at_some_size(
    session: Session,
    first: Inputs,
    candidates: Sequence[Mapping[str, tuple[int, ...]]],
    samples: int,
) -> Inputs:
    """Return the inputs with integers beside those compared with, at other sizes if need be.

    Where all is padding, a text may be longer than a table of positions allows.
    """
    found = with_others(session, first, samples)
    if found.beside or not first.hints.compared:
        return found
    for shapes in candidates[:_SIZES_TO_TRY]:
        other = with_others(session, replace(first, shapes=[shapes]), samples)
        if other.beside:
            return other
    return found


def _with_small_batches(specs: Sequence[ValueSpec], request: InputOptions) -> InputOptions:
    """Return the request with a batch of one, if the fixed sizes of an input are huge already."""
    sizes = [[size for size in spec.shape[1:] if isinstance(size, int)] for spec in specs]
    is_huge = any(math.prod(fixed) > _HUGE for fixed in sizes)
    return replace(request, batch_sizes=(1, 1)) if is_huge and 1 in request.batch_sizes else request


def _samples_for_numbers(specs: Sequence[ValueSpec], hints: Hints) -> int:
    """Return how many samples it takes for integers to be each number that they are compared with.

    And, of several that are one number each, for each to be that beside the others' numbers.
    """
    most = 3 * max(map(len, hints.compared.values()), default=0)
    if sum(spec.is_single and spec.name in hints.compared for spec in specs) > 1:
        return min(most * most, _MOST_FOR_COMBINATIONS)
    return min(most, _MOST_FOR_COMPARISONS)


def _samples_for_switches(specs: Sequence[ValueSpec]) -> int:
    """Return how many samples switches take; elements of larger booleans differ in each sample."""
    return samples_for(sum(map(is_switch, specs)))


def _first_that_runs(
    session: Session,
    specs: Sequence[ValueSpec],
    request: InputOptions,
    given: Sequence[Feeds],
    candidates: Sequence[Mapping[str, tuple[int, ...]]],
    hints: Hints,
) -> Inputs:
    """Return one sample with the first shapes and the largest integers that the model accepts."""
    unknown = {
        spec.name: spec.dtype.itemsize
        for spec in specs
        if spec.dtype is not None and spec.dtype.kind in "iu" and not hints.limits(spec.name)
    }
    wide = [name for name, itemsize in unknown.items() if itemsize > 1]
    limited = [dict.fromkeys(unknown, limit) for limit in LARGEST_INTEGERS]
    if hints.reach:
        limited.insert(0, limited[0] | {n: hints.reach[n] for n in wide if n in hints.reach})
    if len(wide) < len(unknown):
        limited.insert(0, dict.fromkeys(wide, LARGEST_INTEGERS[0]))
    failures: list[SessionError] = []
    firsts: list[Inputs] = []
    for limit in limited if unknown else limited[-1:]:
        limits = {**hints.largest, **limit}
        for shapes in candidates:
            candidate = Inputs(
                specs,
                [shapes],
                given,
                request.seed,
                1,
                limits,
                hints,
                scales=request.scales,
            )
            try:
                session.run(candidate.sample(0))
            except SessionError as error:
                failures.append(error)
                firsts.append(candidate)
            except UsageError as error:  # too large for memory; smaller shapes may fit
                if len(candidates) == 1:
                    raise
                failures.append(SessionError(str(error)))
            else:
                return candidate
    again = partial(_first_that_runs, session, specs, request, given, candidates)
    if hints.within:  # what the integers are for may limit them further
        return again(replace(hints, within={}))
    if hints.columns:
        largest = {n: most for n, most in hints.largest.items() if n not in hints.columns}
        return again(replace(hints, columns={}, largest=largest))
    if hints.words:  # strings may have to be numbers
        return again(replace(hints, words={}))
    if hints.compared:
        return again(replace(hints, compared={}))
    for first in firsts[:_OTHER_SHAPES]:
        if (other := _of_another_draw(session, first)) is not None:
            return other
    hint = "; provide inputs with --input NAME=FILE.npy"
    if any(shapes != candidates[0] for shapes in candidates):
        tried = (*request.other_sizes, *hints.written)
        hint = f"; tried free dimensions of {tried}: give a shape with --input NAME:1,3,…"
    raise SessionError(f"{failures[0]}{hint}")


def _of_another_draw(session: Session, first: Inputs) -> Inputs | None:
    """Return inputs with another first sample that the model runs on, if a few draws give one."""
    found = first
    for _ in range(_OTHER_DRAWS if first.are_drawn else 0):
        found = found.with_another(0)
        if accepts(session, found, sample=0):
            return found
    return None


def _with_rows(session: Session, found: Inputs, rows: Mapping[str, list[int]]) -> Inputs:
    """Return the inputs with rows of tables that should be looked up, if the model accepts them."""
    more = replace(found, hints=replace(found.hints, rows=rows))
    return more if accepts_all(session, more) else found


def _are_few(first: Inputs) -> bool:
    """Say whether there are few numbers in an input that the model decides something by."""
    deciding = (first.hints.levels.keys() | first.hints.reach.keys()) - first.given[0].keys()
    sizes = (math.prod(first.shapes[0][name]) for name in deciding if name in first.shapes[0])
    return any(size < FEW for size in sizes)


def _fitting(given: Feeds, specs: Sequence[ValueSpec], request: InputOptions) -> Feeds:
    shapes = {name: content.shape for name, content in given.items()}
    # onnxruntime says the same of a scalar as of an input without a declared shape
    require_inputs({**request.shapes, **shapes}, {spec.name: spec.shape or None for spec in specs})
    return {spec.name: _fit(given[spec.name], spec) for spec in specs if spec.name in given}


def _require_batch(specs: Sequence[ValueSpec], given: Feeds, request: InputOptions) -> None:
    """Require that a single batch size, which is mandatory, can be used."""
    if len(request.batch_sizes) > 1:
        return
    (batch,) = request.batch_sizes
    free = [spec for spec in specs if spec.name not in {*given, *request.shapes}]
    firsts = [spec.shape[0] for spec in free if spec.shape]
    if all(isinstance(size, int) and size != batch for size in firsts):
        raise UsageError(f"batch size {batch} cannot be used: no input has a free first dimension")


def _fit(content: Array, spec: ValueSpec) -> Array:
    if spec.dtype is not None and content.dtype != spec.dtype:
        raise UsageError(
            f"input {spec.name!r} needs {spec.dtype}, but the given array has {content.dtype}"
        )
    return content
