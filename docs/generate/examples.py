"""The example of each pass: a small model as text, and what the pass makes of it.

A file in ``docs/examples/`` has the name of its pass. It is a model in ONNX's text format, except
that weights without a value are drawn: a tensor that is declared, but neither given nor computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

import bnfold
from bnfold.record.data import Record

FOLDER = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True)
class Example:
    """A model before and after a pass, and the record of the run."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    record: Record


def example_of(pass_name: str, *, check: bool) -> Example:
    """Run a pass on its example, and with `check`, verify and certify the result.

    Raises:
        FileNotFoundError: if there is no example.
        BnfoldError: if the result is not the same, or not proven to be.
    """
    text = (FOLDER / f"{pass_name}.onnxtxt").read_text(encoding="utf-8")
    model = onnx.parser.parse_model(text)
    _draw_weights(model)
    result = bnfold.optimize(model, only=pass_name, check=check, certify="always", truth="off")
    return Example(model, result.to_proto(), result.record)


def _draw_weights(model: onnx.ModelProto) -> None:
    """Make an initializer of each declared float tensor that nothing computes."""
    graph = model.graph
    computed = {name for node in graph.node for name in node.output}
    declared = [value for value in graph.value_info if value.name not in computed]
    generator = np.random.default_rng(0)
    for value in declared:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        low, high = (0.5, 2.0) if value.name == "variance" else (-1.0, 1.0)
        array = generator.uniform(low, high, shape)
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        graph.initializer.append(numpy_helper.from_array(array, value.name))
        graph.value_info.remove(value)
