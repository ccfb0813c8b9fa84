"""Metadata at all levels keep their order and their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import bnfold
from bnfold.modelfile.protos import graphs_of, node_lists_of, tensors_of
from tests.support.graphs import batch_norm, build, normal, operators


def model() -> onnx.ModelProto:
    """Return a model with bodies, functions, tensors and values to hang metadata on."""
    proto = build(
        """(float[N,3,8,8] x, bool c) => (float[N,4,6,6] z, float[N,4,6,6] q) {
            y = Conv(x, w)
            z = BatchNormalization(y, s, b, m, v)
            k = Constant<value = float[1] {2.0}>()
            r = Mul(z, k)
            t = local.Twice(r)
            q = If (c) <
                then_branch = then () => (float[N,4,6,6] a) { e = Exp(t) a = Relu(e) },
                else_branch = other () => (float[N,4,6,6] o) { o = Tanh(t) }
            >
        }""",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    proto.opset_import.append(helper.make_opsetid("local", 1))
    twice = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    proto.functions.append(twice)
    proto.ir_version = 10
    value = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ["N", 4, 6, 6])
    proto.graph.value_info.append(value)
    return proto


def holders(proto: onnx.ModelProto) -> Iterator[tuple[str, Any]]:
    """Yield all that can have metadata, by a name that the optimized model has, too."""
    yield "model", proto
    for graph in graphs_of(proto):
        yield f"graph {graph.name}", graph
        for kind in ("input", "output", "value_info"):
            for value in getattr(graph, kind):
                yield f"{kind} {value.name}", value
    for function in proto.functions:
        yield f"function {function.name}", function
    for nodes in node_lists_of(proto):
        for node in nodes:
            yield f"node {node.op_type} {node.output[0]}", node
    for tensor in tensors_of(proto):
        yield f"tensor {tensor.name}", tensor


keys = st.lists(st.text("abcXYZ012._é", min_size=1, max_size=3), max_size=5, unique=True)


@settings(max_examples=10, deadline=None)
@given(st.lists(keys, min_size=8, max_size=8))
def test_metadata_keep_their_order_at_all_levels(orders: Sequence[Sequence[str]]) -> None:
    proto = model()
    expected = {}
    for number, (name, holder) in enumerate(holders(proto)):
        for key in orders[number % len(orders)]:
            holder.metadata_props.add(key=key, value=f"{name}: {key}")
        expected[name] = list(holder.metadata_props)
    assert len(expected) > 25
    passes = bnfold.PassOptions(only=["fold-batchnorm"], keep_functions=True)
    optimized = bnfold.optimize(proto, passes=passes, check=False, hashes=False).to_proto()
    assert "BatchNormalization" not in operators(optimized)
    kept = 0
    for name, holder in holders(optimized):
        written = list(holder.metadata_props)
        if name in expected:
            assert written == expected[name], name
            kept += 1
        assert len({entry.key for entry in written}) == len(written)
    assert kept > 20


def test_a_tensor_without_metadata_gets_none() -> None:
    optimized = bnfold.optimize(model(), check=False, only="fold-batchnorm").to_proto()
    assert not any(holder.metadata_props for _, holder in holders(optimized))
