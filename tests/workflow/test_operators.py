"""When two nodes are the same operator: defaults count, and so do versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper
import onnx.numpy_helper
import onnx_ir as ir
import pytest

from bnfold.workflow.operators import is_same_operator


def node(op_type: str, *, domain: str = "", inputs: int = 1, **attributes: Any) -> ir.Node:
    names = [f"x{number}" for number in range(inputs)]
    proto = onnx.helper.make_node(op_type, names, ["y"], domain=domain, **attributes)
    return ir.serde.deserialize_node(proto)


NORMAL = node("BatchNormalization", inputs=5)


def within(node: ir.Node, version: int | None) -> ir.Node:
    """Put a node into a graph of an operator set."""
    imports = {} if version is None else {node.domain: version}
    ir.Graph([], [], nodes=[node], opset_imports=imports)
    return node


@pytest.mark.parametrize(
    ("one", "other", "versions", "is_same"),
    [
        (node("Relu"), node("Relu"), (17, 17), True),
        (node("Relu"), node("Abs"), (17, 17), False),
        (node("Relu"), node("Relu"), (14, 20), True),
        (node("Relu"), node("Relu"), (13, 14), True),
        (node("Add", inputs=2), node("Add", inputs=2), (7, 17), True),
        (node("Add", inputs=2), node("Add", inputs=2), (6, 7), False),
        (node("Reshape", inputs=2), node("Reshape", inputs=2), (13, 19), True),
        (node("Reshape", inputs=2, allowzero=1), node("Reshape", inputs=2), (19, 13), False),
        (node("Shape"), node("Shape"), (13, 17), True),
        (node("Shape", start=1), node("Shape"), (17, 13), False),
        (
            node("BatchNormalization", inputs=5),
            node("BatchNormalization", inputs=5),
            (14, 15),
            True,
        ),
        (
            node("BatchNormalization", inputs=5),
            node("BatchNormalization", inputs=5),
            (13, 14),
            False,
        ),
        (
            node("LSTM", inputs=3, hidden_size=2),
            node("LSTM", inputs=3, hidden_size=2),
            (13, 17),
            True,
        ),
        (node("Hardmax"), node("Hardmax"), (11, 13), False),
        (node("DepthToSpace", blocksize=2), node("DepthToSpace", blocksize=2), (10, 11), False),
        (node("Cast", to=1), node("Cast", to=1), (13, 19), False),
        (node("Softmax"), node("Softmax"), (11, 11), True),
        (node("Softmax"), node("Softmax"), (11, 13), False),
        (node("Softmax", axis=1), node("Softmax"), (11, 11), True),
        (node("Softmax", axis=1), node("Softmax"), (13, 13), False),
        (node("Softmax", axis=-1), node("Softmax"), (13, 13), True),
        (node("Elu"), node("Elu", alpha=1.0), (17, 17), True),
        (node("Elu"), node("Elu", alpha=0.5), (17, 17), False),
        (
            node("MaxPool", kernel_shape=[2, 2]),
            node("MaxPool", kernel_shape=[2, 3]),
            (17, 17),
            False,
        ),
        (
            node("MaxPool", kernel_shape=[2, 2], auto_pad="NOTSET", storage_order=0),
            node("MaxPool", kernel_shape=[2, 2], ceil_mode=0),
            (17, 20),
            True,
        ),
        (
            node("MaxPool", kernel_shape=[2, 2], pads=[0] * 4),
            node("MaxPool", kernel_shape=[2, 2]),
            (17, 17),
            False,
        ),
        (node("Clip", inputs=2), node("Clip", inputs=3), (17, 17), False),
        (node("Own", domain="x"), node("Own", domain="x"), (1, 1), True),
        (node("Own", domain="x"), node("Own", domain="x"), (1, 2), False),
        (node("Own", domain="x", a=1), node("Own", domain="x"), (1, 1), False),
        (node("Own", domain="x"), node("Own", domain="z"), (1, 1), False),
        (node("Own"), node("Own"), (None, None), True),
    ],
)
def test_the_same_operator(
    one: ir.Node, other: ir.Node, versions: tuple[int | None, int | None], is_same: bool
) -> None:
    nodes = [within(each, version) for each, version in zip((one, other), versions, strict=True)]
    assert is_same_operator(*nodes) == is_same
    assert is_same_operator(*nodes[::-1]) == is_same


@pytest.mark.parametrize("what", ["axes", "directions"])
@pytest.mark.parametrize("which", ["input", "output"])
def test_a_scan_may_leave_out_its_axes_and_directions(which: str, what: str) -> None:
    def scan(*numbers: int) -> ir.Node:
        said: dict[str, Any] = {f"scan_{which}_{what}": numbers} if numbers else {}
        return within(node("Scan", inputs=2, num_scan_inputs=2, **said), 17)

    for zeros in ((0, 0), ()):
        assert is_same_operator(scan(*zeros), scan())
        assert is_same_operator(scan(), scan(*zeros))
        for other in ((0, 1), (1, 0), (1, 1)):
            assert not is_same_operator(scan(*zeros), scan(*other))
            assert not is_same_operator(scan(*other), scan(*zeros))
            assert is_same_operator(scan(*other), scan(*other))


@pytest.mark.parametrize(("number", "is_same"), [(1.0, True), (2.0, False)])
def test_tensors_are_compared_by_their_content(number: float, is_same: bool) -> None:
    one, other = (
        within(
            node(
                "ConstantOfShape", value=onnx.numpy_helper.from_array(np.array([each], np.float32))
            ),
            17,
        )
        for each in (1.0, number)
    )
    assert is_same_operator(one, other) == is_same


def test_an_attribute_that_a_function_passes_on_is_unknown() -> None:
    reference = ir.RefAttr("alpha", "alpha", ir.AttributeType.FLOAT)
    one, other = (
        within(ir.Node("", "Elu", [ir.Value(name="x")], [reference]), 17) for _ in range(2)
    )
    assert not is_same_operator(one, other)
