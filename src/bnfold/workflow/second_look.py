"""Compares two models once more, on larger or blank inputs, where a proof leaves a doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bnfold.options import CheckOptions, ExecutionOptions, InputOptions
from bnfold.progress import Progress
from bnfold.proof.equivalence import compare_models
from bnfold.proof.learned import learned
from bnfold.proof.original import SHOWS_NOTHING
from bnfold.record.data import Equivalence

_SMALL = 2**23
"""Bytes of a model up to which all that is not proven is a doubt: to run it takes little time."""

_SCALES = (30.0, 300.0, 100.0)
"""Images may have values up to 255, and what seldom happens does where values are large."""

_SIZES = {True: (420,), False: (840, 510, 255)}
"""Of images, and else: what pads to a multiple of 3, 5, 7, 10, 12 or 14 pads nothing at the first
one, and a table of 512 or 256 positions is used nearly in full."""

_SAMPLES, _FEW = 6, 4

_HUGE = (3e3, 3e5)
"""A limit within a model may be one that only such values reach."""

_BLANK = (0.0, 1e-4)
"""Images of one colour, silence and padding have hardly any variance, or none: only there does it
show what a normalization adds to it, or whether a division by zero is caught."""

_ROWS, _SMALL_ROW, _QUICK = 1024, 2048, 2**24
"""The batch where rows of inputs have so many elements at most, and models so many bytes: in few
rows, an ArgMax has few winners, and few places are looked up in a table."""


def with_second_look(
    equivalence: Equivalence,
    original: Path,
    optimized: Path,
    execution: ExecutionOptions,
    checking: CheckOptions,
    progress: Progress,
) -> Equivalence:
    """Return a verdict of fail instead of pass if other inputs show a difference.

    They are tried where the proof of an output has found one, from values that may never occur, or
    where it is not proven and the models are small; not where inputs were asked for, or fewer
    samples. Where an output is stuck at one number, they may show a difference, too.
    """
    inputs = execution.inputs
    is_drawn = not inputs.are_given and inputs.scales == InputOptions.scales
    is_drawn &= inputs.samples >= InputOptions.samples
    is_open = equivalence.verdict == "pass" or _is_stuck(equivalence)
    if not (is_open and is_drawn and _leaves_a_doubt(equivalence, original, optimized)):
        return equivalence
    checking = replace(checking, save_inputs=None)
    for looks in _others(inputs, original, optimized):
        progress("comparing once more, on other inputs")
        other = replace(execution, inputs=looks)
        again = compare_models(original, optimized, other, checking, progress)
        if again.verdict == "fail" and not _overflows(again, looks.scales):
            return replace(again, certificate=equivalence.certificate)
    return equivalence


def _is_stuck(equivalence: Equivalence) -> bool:
    """Say whether what the original gives is one number throughout, so that it shows nothing."""
    return equivalence.verdict == "not-verified" and equivalence.reason.endswith(SHOWS_NOTHING)


def _others(inputs: InputOptions, original: Path, optimized: Path) -> Iterator[InputOptions]:
    """Yield requests for other inputs."""
    rows = [_ROWS] if _are_within(_QUICK, original, optimized) and _has_small_rows(original) else []
    larger = replace(
        inputs,
        scales=_SCALES,
        samples=max(inputs.samples, _SAMPLES),
        batch_sizes=(*rows, *inputs.batch_sizes),
        other_sizes=(*_SIZES[_reads_images(original)], *inputs.other_sizes),
    )
    yield larger
    yield replace(inputs, scales=_BLANK, samples=_FEW)
    yield replace(larger, scales=_HUGE, samples=_FEW)


def _overflows(equivalence: Equivalence, scales: Sequence[float]) -> bool:
    """Say whether the inputs are none for the models: too large for one, or blank for the original.

    What gives infinities or NaN there need not do the same in both.
    """
    return any(
        output.nonfinite.original or (output.nonfinite.optimized and scales != _BLANK)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
    )


def _leaves_a_doubt(equivalence: Equivalence, original: Path, optimized: Path) -> bool:
    certificate = equivalence.certificate
    if certificate is None or not certificate.open:
        return False
    is_known = any(window.differs for window in certificate.open)
    return is_known or _are_within(_SMALL, original, optimized)


def _are_within(most: int, *paths: Path) -> bool:
    """Say whether no model has more bytes."""
    return max(path.stat().st_size for path in paths) <= most


def _has_small_rows(path: Path) -> bool:
    """Say whether no input has a free size besides the first, or many elements in a row."""
    shapes = [value.shape for value in learned(path).ir.graph.inputs]
    rows = [list(shape)[1:] if shape is not None else [None] for shape in shapes]
    sizes = [[size for size in row if isinstance(size, int)] for row in rows]
    are_known = all(len(row) == len(known) for row, known in zip(rows, sizes, strict=True))
    return are_known and all(math.prod(known) <= _SMALL_ROW for known in sizes)


def _reads_images(path: Path) -> bool:
    """Say whether an input has four axes or more."""
    shapes = [value.shape for value in learned(path).ir.graph.inputs]
    return any(shape is not None and shape.rank() >= 4 for shape in shapes)
