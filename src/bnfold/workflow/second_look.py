"""Compares two models once more, on larger inputs, where a proof leaves a doubt."""

from __future__ import annotations

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
    larger = replace(
        inputs,
        scales=_SCALES,
        samples=max(inputs.samples, _SAMPLES),
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
    sizes = [path.stat().st_size for path in (original, optimized)]
    return any(window.differs for window in certificate.open) or max(sizes) <= _SMALL


def _reads_images(path: Path) -> bool:
    """Say whether an input has four axes or more."""
    shapes = [value.shape for value in learned(path).ir.graph.inputs]
    return any(shape is not None and shape.rank() >= 4 for shape in shapes)
