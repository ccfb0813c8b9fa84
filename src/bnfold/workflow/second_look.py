"""Compares two models once more, on larger or blank inputs, where a proof leaves a doubt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from bnfold.options import CheckOptions, ExecutionOptions, InputOptions
from bnfold.progress import Progress
from bnfold.proof.equivalence import compare_models
from bnfold.proof.learned import learned
from bnfold.record.data import Equivalence

_SMALL = 2**23
"""Bytes of a model up to which all that is not proven is a doubt: to run it takes little time."""

_SCALES = (30.0, 300.0, 100.0)
"""Images may have values up to 255, and what seldom happens does where values are large."""

_SIZES: Mapping[int, tuple[int, ...]] = {4: (420,), 5: ()}
_SIZES_ELSE = (840, 510, 255)
"""By the most axes of an input: what pads to a multiple of 3, 5, 7, 10, 12 or 14 pads nothing at
the first one, and a table of 512 or 256 positions is used nearly in full. Volumes take too long."""

_SAMPLES, _FEW = 6, 4

_HUGE = (3e3, 3e5)
"""A limit within a model may be one that only such values reach."""

_BLANK = (0.0, 1e-4, 1.0, 0.1)
"""Images of one colour, silence and padding have hardly any variance, or none: only there does it
show what a normalization adds to it, or whether a division by zero is caught. Masks are all false
where the rest is not blank, too."""

_COARSE = ("bfloat16", "float16")
"""Rounding units with which squares of such inputs are no numbers any more."""

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
        if again.verdict == "fail" and _counts(again, looks.scales):
            return replace(again, certificate=equivalence.certificate)
    return equivalence


def _is_stuck(equivalence: Equivalence) -> bool:
    """Say whether what the original gives is one number throughout, so that it shows nothing."""
    return equivalence.verdict == "not-verified" and "constant-output" in equivalence.causes


def _others(inputs: InputOptions, original: Path, optimized: Path) -> Iterator[InputOptions]:
    """Yield requests for other inputs."""
    rank = _most_axes(original)
    are_rows = rank < min(_SIZES) and _has_small_rows(original) and _gives_tensors(original)
    rows = [_ROWS] if are_rows and _are_within(_QUICK, original, optimized) else []
    larger = replace(
        inputs,
        scales=_SCALES,
        samples=inputs.samples if rank in _SIZES else max(inputs.samples, _SAMPLES),
        batch_sizes=(*rows, *inputs.batch_sizes),
        other_sizes=(*_SIZES.get(rank, _SIZES_ELSE), *inputs.other_sizes),
    )
    yield larger
    yield replace(inputs, scales=_BLANK, samples=_FEW)
    if _are_within(_SMALL, original, optimized):
        yield replace(inputs, scales=_HUGE, samples=_FEW, batch_sizes=larger.batch_sizes)


def _counts(equivalence: Equivalence, scales: Sequence[float]) -> bool:
    """Say whether a difference on other inputs is one of the models, and not of these inputs.

    What gives infinities or NaN where inputs are too large for it need not do the same in both; nor
    must the original where they are blank, nor increasing functions that tie select the same. Where
    inputs are huge or blank, rounding may be all that is left of a value, in one of the models more
    than in the other: float64 decides.
    """
    outputs = [
        output.nonfinite
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
    ]
    if "other-ties" in equivalence.causes or any(found.original for found in outputs):
        return False
    if any(found.optimized for found in outputs):
        return scales == _BLANK
    return scales == _SCALES or any(
        output.ratio is not None and output.ratio > 1 and output.unit not in _COARSE
        for provider in equivalence.providers
        for output in (provider.truth.outputs if provider.truth is not None else ())
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


def _gives_tensors(path: Path) -> bool:
    """Say whether no output is a sequence, whose elements are compared one by one."""
    return all(isinstance(each.type, ir.TensorType) for each in learned(path).ir.graph.outputs)


def _most_axes(path: Path) -> int:
    """Return the most axes of an input; 5 for more."""
    shapes = [value.shape for value in learned(path).ir.graph.inputs]
    return min(5, max((shape.rank() for shape in shapes if shape is not None), default=0))
