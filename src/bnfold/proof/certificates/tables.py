"""Proves windows that read rows of constant tables, by an integer for each row.

    Gather(T, i) = [h, 1 − Σh]·T        h: the one-hot vector of i without its last element

is affine in h. The vectors h of all indices are among all vectors: what is equal for all h is equal
for all i. The reverse does not hold, so a difference shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from bnfold.arrays import Array, FloatArray
from bnfold.proof.certificates.kinds import is_multilinear
from bnfold.proof.certificates.linear import DOUBT, FLOAT64, is_affine
from bnfold.proof.certificates.probing import (
    MOST_ROUNDINGS,
    ROUNDING,
    Run,
    certified,
    each_probe,
    in_float64,
    single,
)
from bnfold.proof.certificates.sizes.sizing import Sizing
from bnfold.proof.certificates.submodels import Constants, rebuilt
from bnfold.proof.certificates.windows import AFFINE, NotShown, Window, dtype_of, ints, is_float
from bnfold.record.data import Certificate

MOST_ROWS = 2**10
"""Of a longer table, each index would become too many numbers."""


def with_tables_as_products(window: Window) -> Window:
    """Return the window with vectors in place of indices into matrices.

    Raises:
        NotShown: if it has other integers, or they are for something else, or it is not affine.
    """
    indices = {value.name for value in window.inputs if not is_float(dtype_of(value))}
    if not indices or not window.operators <= AFFINE:
        raise NotShown("it has no table")
    lengths: dict[str, tuple[int, np.dtype[np.generic]]] = {}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in window.inputs
        if value.type.tensor_type.HasField("shape")
    }
    for model in window.models:
        constants = Constants(model)
        for node in model.graph.node:
            for name in indices.intersection(node.input):
                table = constants.get(node.input[0])
                is_rows = node.op_type == "Gather" and ints(node, "axis", [0]) == [0]
                if table is None or not is_rows or not table.ndim or not is_float(table.dtype):
                    raise NotShown("its integers are not rows of a table")
                if table.ndim != 2 and name not in ranks:
                    raise NotShown("it is not known how many axes its integers have")
                length = len(table), table.dtype
                if not 1 < len(table) <= MOST_ROWS or lengths.setdefault(name, length) != length:
                    raise NotShown("its tables are too long, or of several lengths")
    if indices & {output.name for model in window.models for output in model.graph.output}:
        raise NotShown("its integers are an output")
    return Window(*(_with_products(model, lengths, ranks) for model in window.models))


def _with_products(
    model: onnx.ModelProto,
    lengths: Mapping[str, tuple[int, np.dtype[np.generic]]],
    ranks: Mapping[str, int],
) -> onnx.ModelProto:
    """Return the model with products of vectors and matrices; rows that are none are reshaped."""
    constants = Constants(model)
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, Array] = {}
    make = onnx.helper.make_node
    for name, (length, dtype) in lengths.items():
        tensors[f"{name} minus"] = np.full((length - 1, 1), -1, dtype)
        tensors[f"{name} one"] = np.ones(1, dtype)
        nodes.append(make("MatMul", [name, f"{name} minus"], [f"{name} less"]))
        nodes.append(make("Add", [f"{name} less", f"{name} one"], [f"{name} rest"]))
        nodes.append(make("Concat", [name, f"{name} rest"], [f"{name} whole"], axis=-1))
    for node in model.graph.node:
        index = node.input[1] if node.op_type == "Gather" else ""
        if index not in lengths:
            nodes.append(node)
            continue
        (result,), table = node.output, constants[node.input[0]]
        if table.ndim == 2:
            nodes.append(make("MatMul", [f"{index} whole", node.input[0]], [result]))
            continue
        tensors[f"{result} table"] = table.reshape(len(table), -1)
        tensors[f"{result} sizes"] = np.array([0] * ranks[index] + [*table.shape[1:]], np.int64)
        nodes.append(make("MatMul", [f"{index} whole", f"{result} table"], [f"{result} row"]))
        nodes.append(make("Reshape", [f"{result} row", f"{result} sizes"], [result]))
    inputs = [_vectors(value, *lengths.get(value.name, (0, None))) for value in model.graph.input]
    return rebuilt(model, nodes, inputs, [output.name for output in model.graph.output], tensors)


def _vectors(
    value: onnx.ValueInfoProto, length: int, dtype: np.dtype[np.generic] | None
) -> onnx.ValueInfoProto:
    """Return an input of vectors that are shorter than a table by one, in place of indices."""
    if dtype is None:
        return value
    vectors = onnx.ValueInfoProto()
    vectors.CopyFrom(value)
    tensor = vectors.type.tensor_type
    tensor.elem_type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    tensor.shape.dim.add().dim_value = length - 1
    return vectors


def prove_rows(window: Window, chosen: Sequence[Sizing]) -> Certificate | None:
    """Compare all rows, where each element of the output depends on one index; None if unproven.

    The window is one of vectors in place of indices, and affine in them. So an element that depends
    on one vector is a function of one index, whose values are all seen if each index is all rows.
    """
    if len(window.inputs) != 1 or not all(map(is_multilinear, window.models)):
        return None
    (name,), largest, count = [value.name for value in window.inputs], 0.0, 0
    for sizing in chosen:
        shape = single(sizing)[name]
        sides = [_rows(run, name, shape, sizing) for run in in_float64(window)]
        (before, moved_before), (after, moved_after) = sides
        if (
            before.shape != after.shape
            or (moved_before | moved_after).sum(axis=0).max(initial=0) > 1
        ):
            return None
        sizes = np.abs(before).max(axis=0)
        shares = np.abs(after - before) / np.maximum(sizes, np.finfo(np.float64).tiny)
        largest, count = max(largest, float(shares.max(initial=0.0))), count + len(before)
    if not largest <= MOST_ROUNDINGS * ROUNDING[window.unit] + FLOAT64:
        return None
    return certified("linear", chosen, probes=count, bound=largest, doubt=DOUBT * len(chosen))


def _rows(run: Run, name: str, shape: tuple[int, ...], sizing: Sizing) -> tuple[FloatArray, Array]:
    """Return the outputs for each row, and which depend on which vector.

    Raises:
        NotShown: if they are not affine in the vectors.
    """
    generator = np.random.default_rng(len(shape))
    one, other = generator.standard_normal((2, *shape))
    probes = [np.zeros(shape), one + other, one, other]
    for place in np.ndindex(shape[:-1]):
        probes.append(np.zeros(shape))
        probes[-1][place] = one[place]
    outputs = each_probe(sizing, [{name: probe} for probe in probes], run)
    if not (np.isfinite(outputs).all() and is_affine(outputs)):
        raise NotShown("it is not affine in the rows of its table")
    rows = np.eye(shape[-1] + 1, shape[-1])
    picked = each_probe(sizing, [{name: np.broadcast_to(row, shape)} for row in rows], run)
    return picked, outputs[4:] != outputs[0]
