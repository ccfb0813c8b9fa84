"""Says where the operators of a window do the same: at each position, sample, row or channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from bnfold.proof.certificates.sizes.padding import spatial_widths
from bnfold.proof.certificates.sizes.resizing import RESIZING, text, whole_scales
from bnfold.proof.certificates.sizes.slicing import spatial_steps
from bnfold.proof.certificates.windows import POINTWISE, Window, ints

_LOCAL = (
    POINTWISE
    | {"AveragePool", "Concat", "Conv", "DepthToSpace", "GlobalAveragePool", "MaxPool", "Pad"}
    | {"ConvTranspose", "Resize", "Slice", "Sum", "Upsample"}
) - {"Cast"}
"""Operators that do the same to each sample of a batch and, borders aside, at each position."""

_ROWWISE = (POINTWISE | {"Gemm", "MatMul", "Sum"}) - {"BatchNormalization"}
"""Operators that do the same to each row, along the last axis."""


def kind_of(window: Window, known: Mapping[str, Sequence[int | str]]) -> str:
    """Say along which axes the operators do the same everywhere."""
    ranks = {len(sizes) for sizes in known.values()}
    outputs = {value.name for model in window.models for value in model.graph.output}
    if len(ranks) != 1 or not outputs.isdisjoint(window.constants):
        return ""  # a constant result has a size of its own
    (rank,) = ranks
    if (
        window.operators <= _LOCAL
        and rank >= 3
        and all(_is_local(node, window) for node in window.nodes())
    ):
        return "local" if _spreads_over(window, rank, range(2, rank)) else ""
    is_rows = window.operators <= _ROWWISE and rank >= 1
    if is_rows and all(_is_rowwise(node, window) for node in window.nodes()):
        return "rows" if _spreads_over(window, rank, range(rank - 1)) else ""
    return ""


def _is_local(node: onnx.NodeProto, window: Window) -> bool:
    if node.op_type in ("Conv", "ConvTranspose") and node.input[1] not in window.constants:
        return False
    if node.op_type == "ConvTranspose":
        return text(node, "auto_pad", "NOTSET") == "NOTSET" and not ints(node, "output_shape")
    if node.op_type == "Slice":
        return spatial_steps(node, window.constants) is not None
    if node.op_type == "Pad":
        return spatial_widths(node, window.constants) is not None
    if node.op_type == "Concat":
        is_constant = any(name in window.constants for name in node.input)
        return ints(node, "axis", [0]) == [1] and not is_constant
    if node.op_type in RESIZING:
        return bool(whole_scales(node, window.constants))
    return node.op_type != "MaxPool" or len([name for name in node.output if name]) == 1


def _is_rowwise(node: onnx.NodeProto, window: Window) -> bool:
    if node.op_type == "Gemm":
        return ints(node, "transA", [0]) == [0] and node.input[1] in window.constants
    if node.op_type == "MatMul":
        weight = window.constants.get(node.input[1])
        return weight is not None and weight.ndim == 2
    return True


def _spreads_over(window: Window, rank: int, axes: Iterable[int]) -> bool:
    """Say whether all constants of elementwise operators are of one value along axes."""
    for node in window.nodes():
        if node.op_type not in POINTWISE | {"Sum"} or node.op_type == "BatchNormalization":
            continue
        for name in node.input:
            shape = window.constants[name].shape if name in window.constants else ()
            aligned = (1,) * (rank - len(shape)) + shape
            if len(shape) > rank or any(aligned[axis] != 1 for axis in axes):
                return False
    return True


def is_alike_in_channels(window: Window) -> bool:
    """Say whether it does the same in each channel."""
    scalars = all(content.size == 1 for content in window.constants.values())
    mixes = window.operators & {"Concat", "DepthToSpace"}
    return scalars and len(window.inputs) == 1 and not mixes
