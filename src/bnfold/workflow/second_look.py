"""Compares two models once more, on larger inputs, where a proof leaves a doubt."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from bnfold.options import CheckOptions, ExecutionOptions, InputOptions
from bnfold.progress import Progress
from bnfold.proof.equivalence import compare_models
from bnfold.proof.learned import learned
from bnfold.record.data import Equivalence

_SMALL = 2**20
"""Bytes of two models up to which all that is not proven is a doubt: to run them takes no time."""

_SCALES = (30.0, 300.0, 100.0)
"""Images may have values up to 255, and what seldom happens does where values are large."""

_SIZES = {True: (420,), False: (840, 510, 255)}
"""Of images, and else: what pads to a multiple of 3, 5, 7, 10, 12 or 14 pads nothing at the first
one, and a table of 512 or 256 positions is used nearly in full."""

_SAMPLES = 6

_ROWS, _SMALL_ROW = 1024, 2048
"""The batch of small models where rows of inputs have at most so many elements: in few rows, an
ArgMax has few winners, and few places are looked up in a table."""


def with_second_look(
    equivalence: Equivalence,
    original: Path,
    optimized: Path,
    execution: ExecutionOptions,
    checking: CheckOptions,
    progress: Progress,
) -> Equivalence:
    """Return a verdict of fail instead of pass if larger inputs show a difference.

    They are tried where the proof of an output has found one, from values that may never occur, or
    where it is not proven and the models are small; not where inputs were asked for, or fewer
    samples.
    """
    inputs = execution.inputs
    is_drawn = not inputs.are_given and inputs.scales == InputOptions.scales
    is_drawn &= inputs.samples >= InputOptions.samples
    if equivalence.verdict != "pass" or not is_drawn:
        return equivalence
    if not _leaves_a_doubt(equivalence, original, optimized):
        return equivalence
    progress("comparing once more, on larger inputs")
    rows = [_ROWS] if _are_small(original, optimized) and _has_small_rows(original) else []
    larger = replace(
        inputs,
        scales=_SCALES,
        samples=max(inputs.samples, _SAMPLES),
        batch_sizes=(*rows, *inputs.batch_sizes),
        other_sizes=(*_SIZES[_reads_images(original)], *inputs.other_sizes),
    )
    execution = replace(execution, inputs=larger)
    again = compare_models(
        original, optimized, execution, replace(checking, save_inputs=None), progress
    )
    if again.verdict != "fail" or _overflows(again):
        return equivalence
    return replace(again, certificate=equivalence.certificate)


def _overflows(equivalence: Equivalence) -> bool:
    """Say whether a model gives infinities or NaN: the inputs are too large for it."""
    return any(
        output.nonfinite.original or output.nonfinite.optimized
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
    )


def _leaves_a_doubt(equivalence: Equivalence, original: Path, optimized: Path) -> bool:
    certificate = equivalence.certificate
    if certificate is None or not certificate.open:
        return False
    return any(window.differs for window in certificate.open) or _are_small(original, optimized)


def _are_small(*paths: Path) -> bool:
    return max(path.stat().st_size for path in paths) <= _SMALL


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
