"""Finds the value within two models at which they first diverge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from bnfold.errors import ModelError
from bnfold.modelfile.external import load_whole
from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Progress
from bnfold.proof.equivalence import compare_models
from bnfold.proof.tolerance import within_tolerance
from bnfold.record.data import Divergence
from bnfold.scratch import Scratch


def find_divergence(
    original: Path,
    other: Path,
    execution: ExecutionOptions,
    checking: CheckOptions,
    progress: Progress,
) -> Divergence | None:
    """Return the first value, in the order of the original's nodes, that the two compute otherwise.

    Compared are the values of the main graphs that have one name in both. None if all of them are
    within their tolerance, or the original does not run.

    Raises:
        ModelError: if a model exceeds 2 GiB.
        ProviderError: if a provider is not available.
        UsageError: if the request for inputs does not fit the model.
    """
    progress("comparing all values with the same name")
    nodes = [_computed(onnx.load(path, load_external_data=False)) for path in (original, other)]
    shared = [name for name in nodes[0] if name in nodes[1]]
    first_provider = replace(execution, providers=execution.providers[:1])
    with Scratch() as scratch:
        exposed = [
            _expose(path, shared, scratch.folder / f"{number}.onnx")
            for number, path in enumerate((original, other))
        ]
        quick = replace(checking, truth="off", save_inputs=None)
        found = compare_models(
            exposed[0], exposed[1], first_provider, quick, progress, selections=False
        )
    (provider,) = found.providers
    differing = {out.name: out for out in provider.outputs if not within_tolerance(out)}
    for name in shared:
        if name in differing:
            node = nodes[0][name]
            output = differing[name]
            return Divergence(
                value=name,
                op_type=node.op_type,
                node=node.name,
                compared=len(shared),
                max_abs=output.max_abs,
                worst=output.worst,
            )
    return None


def _computed(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the nodes of the main graph by the values that they compute, constants aside."""
    return {
        name: node
        for node in proto.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name
    }


def _expose(path: Path, names: list[str], place: Path) -> Path:
    """Write the model with these values among its outputs."""
    proto = load_whole(path)
    outputs = {value.name for value in proto.graph.output}
    described: Mapping[str, onnx.ValueInfoProto] = {
        value.name: value for value in proto.graph.value_info
    }
    for name in names:
        if name not in outputs:
            element = described[name].type if name in described else onnx.TypeProto()
            exposed = proto.graph.output.add(name=name)
            if element.WhichOneof("value") == "tensor_type":
                exposed.type.tensor_type.elem_type = element.tensor_type.elem_type
    try:
        place.write_bytes(proto.SerializeToString())
    except (ValueError, EncodeError) as error:
        message = f"{path} exceeds 2 GiB, so --outputs all cannot expose its values"
        raise ModelError(message) from error
    return place
