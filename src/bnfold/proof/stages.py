"""Compares what comes after a selection in stages, each from one selection to the next.

A detector with two stages selects regions, computes boxes and classes in these, selects among them,
and perhaps computes a mask in each, whose corners are rounded. Given the same values before the
first selection, both models select the same regions; what they compute of these differs by
rounding, and so the next selection may differ again. So what they select from is compared once more
there, and what comes after it is run on the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from google.protobuf.message import EncodeError

from bnfold.arrays import Array
from bnfold.errors import BnfoldError
from bnfold.options import CheckOptions, InputOptions
from bnfold.proof.candidates import candidates
from bnfold.proof.original import Original
from bnfold.proof.runs import ProviderComparison
from bnfold.proof.sides import Side
from bnfold.proof.tails import are_equal
from bnfold.proof.traits import Traits
from bnfold.running.input_files import save_samples
from bnfold.running.runtime import Feeds

_MOST_STAGES = 16


def difference_in_stages(
    tails: Sequence[onnx.ModelProto],
    before: Original,
    traits: Traits,
    checking: CheckOptions,
    folder: Path,
) -> str | None:
    """Compare what both tails compute, stage by stage, given what comes `before` them.

    `traits` are those of the whole original; models and values are written to the folder.

    Returns:
        None if it is the same; else where they differ, or nothing if that is not known.
    """
    try:
        for _ in range(_MOST_STAGES):
            if are_equal(tails, before, traits, checking):
                return None
            with TemporaryDirectory(dir=folder) as place:
                found = _next_stage(tails, before, checking, Path(place))
            if isinstance(found, str):
                return found
            later, before = found
            if later is None:
                return None
            tails = later
    except (OSError, ValueError, EncodeError, BnfoldError):  # too large to be written, for one
        return ""
    return ""


def _next_stage(
    tails: Sequence[onnx.ModelProto], before: Original, checking: CheckOptions, folder: Path
) -> tuple[Sequence[onnx.ModelProto] | None, Original] | str:
    """Compare what both tails select from next; return what comes after that, and what was run.

    What comes after is None if it is the same in both, or nothing is selected any more and all is
    compared. In place of both, where they differ, or nothing if that is not known.
    """
    assert before.inputs is not None
    samples: list[Feeds] = [
        {**feeds, **computed}
        for feeds, computed in zip(before.inputs.feeds(), before.references, strict=True)
    ]
    save_samples(samples, folder)
    whole = [_with_ranks(tail, samples[0]) for tail in tails]
    (folder / "tails").mkdir()
    paths = written(whole[0], whole[1], folder / "tails")
    cut = candidates(*paths, given=1)
    if cut is not None:
        paths = written(cut.original, cut.other, folder)
        deciding, later = cut.deciding, cut.tails
        where = f"given the same values before a selection, and before {', '.join(cut.operators)}"
    else:
        sides = [Side(tail, given=1) for tail in whole]
        if any(side.decides_outputs() for side in sides):  # not from values of one name
            return ""
        deciding, later = sides[0].deciding_inputs | sides[1].deciding_inputs, None
        where = "given the same values before a selection"
    execution = replace(before.execution, inputs=InputOptions(data=folder))
    traits = Traits.beside(*paths)
    stage = Original(paths[0], traits, before.provider, execution, before.progress, deciding)
    result = ProviderComparison(stage, paths[1], checking).result()
    if result.verdict == "pass":
        return later, stage
    return f"{where}: {result.reason}" if result.verdict == "fail" else ""


def written(original: onnx.ModelProto, other: onnx.ModelProto, folder: Path) -> tuple[Path, Path]:
    """Write two models to a folder.

    Raises:
        ValueError: or another error of protobuf, if one of them is too large.
    """
    paths = folder / "original.onnx", folder / "other.onnx"
    for path, model in zip(paths, (original, other), strict=True):
        path.write_bytes(model.SerializeToString())
    return paths


def _with_ranks(tail: onnx.ModelProto, sample: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a tail whose inputs have as many axes as what they are given, all of them free."""
    model = onnx.ModelProto()
    model.CopyFrom(tail)
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in sample and not kind.HasField("shape"):
            kind.shape.dim.extend(
                onnx.TensorShapeProto.Dimension() for _ in range(sample[value.name].ndim)
            )
            kind.shape.SetInParent()
    return model
