"""What only says in an attribute what would be so without it is the same operator."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bnfold.workflow.operators import is_same_operator
from tests.support.graphs import build, normal

SCAN = "y = Scan<num_scan_inputs=1{}, body=b (float[4] e) => (float[4] f) {{ f = Relu(e) }}>(x)"


def node(line: str) -> ir.Node:
    model = build(f"(float[1,4,9,9] x) => (float[?,?,?,?] y) {{ {line} }}", w=normal(4, 4, 3, 3))
    return ir.from_proto(model).graph[0]


def is_same(line: str, one: str, other: str) -> bool:
    return is_same_operator(node(line.format(one)), node(line.format(other)))


CONV, TURNED = "y = Conv<group=1{}>(x, w)", "y = ConvTranspose<group=1{}>(x, w)"
POOL = "y = MaxPool<kernel_shape=[2,2]{}>(x)"
MEAN = "y = AveragePool<kernel_shape=[2,2]{}>(x)"


@pytest.mark.parametrize(
    ("line", "one", "other"),
    [
        (CONV, ", strides=[1,1]", ", strides=[2,2]"),
        (CONV, ", dilations=[1,1]", ", dilations=[1,2]"),
        (CONV, ", pads=[0,0,0,0]", ", pads=[0,0,0,1]"),
        (CONV, ', auto_pad="NOTSET"', ', auto_pad="VALID"'),
        (TURNED, ", output_padding=[0,0]", ", output_padding=[1,0]"),
        (TURNED, ", strides=[1,1], pads=[0,0,0,0]", ", strides=[0,0], pads=[1,1,1,1]"),
        (POOL, ", strides=[1,1], pads=[0,0,0,0], dilations=[1,1]", ", strides=[1,2]"),
        (MEAN, ", strides=[1,1], pads=[0,0,0,0]", ", count_include_pad=1"),
        (SCAN, ", scan_input_directions=[0]", ", scan_input_directions=[1]"),
        (SCAN, ", scan_output_directions=[0]", ", scan_output_directions=[1]"),
        (SCAN, ", scan_input_axes=[0]", ", scan_input_axes=[1]"),
        (SCAN, ", scan_output_axes=[0]", ", scan_output_axes=[1]"),
    ],
)
def test_defaults_for_each_axis_may_be_left_out(line: str, one: str, other: str) -> None:
    assert is_same(line, one, "")
    assert is_same(line, "", one)
    assert not is_same(line, other, "")
    assert not is_same(line, one, other)
    assert is_same(line, other, other)
