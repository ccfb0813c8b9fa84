"""Normalization for the passes does not leak into the model's declarations and metadata."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

import bnfold
from bnfold.errors import ModelError
from bnfold.modelfile.loading import load
from tests.support.graphs import batch_norm, build, normal, operators

TEXT = "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
CONV = "{ c = Conv(x, w) d = Dropout(c) y = BatchNormalization(d, s, b, m, v) }"


def model(ir_version: int = 8, opset: int = 17, graph: str = CONV) -> onnx.ModelProto:
    weights = {"w": normal(4, 3, 3, 3), **(batch_norm(4) if "Batch" in graph else {})}
    return build(TEXT + graph, ir_version=ir_version, opset=opset, **weights)


def optimized(proto: onnx.ModelProto) -> onnx.ModelProto:
    result = bnfold.optimize(proto, check=False)
    assert result.record.rewrites
    return result.to_proto()


@pytest.mark.parametrize("field", ["shape", "elem_type"])
def test_an_output_declares_no_more_than_before(field: str) -> None:
    proto = model()
    proto.graph.output[0].type.tensor_type.ClearField(field)
    assert list(optimized(proto).graph.output) == list(proto.graph.output)


def test_no_value_is_described_that_was_not() -> None:
    proto = model()
    assert not optimized(proto).graph.value_info
    info = helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, ["N", 4, 6, 6])
    graph = "{ c = Conv(x, w) y2 = Dropout(c) y = Neg(y2) }"
    proto = model(graph=graph)
    proto.graph.value_info.append(info)
    assert operators(optimized(proto)) == ["Conv", "Neg"]


def test_nodes_without_names_stay_without() -> None:
    assert [node.name for node in optimized(model()).graph.node] == [""]


def test_the_long_name_of_the_default_domain_means_the_same() -> None:
    proto = model()
    proto.opset_import[0].domain = "ai.onnx"
    result = optimized(proto)
    assert operators(result) == ["Conv"]
    assert [(opset.domain, opset.version) for opset in result.opset_import] == [("ai.onnx", 17)]


def test_ir_version_3_stays_where_no_weight_is_new() -> None:
    proto = model(ir_version=3, opset=8, graph="{ c = Conv(x, w) y = Dropout(c) }")
    result = optimized(proto)
    assert operators(result) == ["Conv"]
    assert result.ir_version == 3
    assert list(result.graph.input) == list(proto.graph.input)


def test_ir_version_3_becomes_4_where_a_weight_is_new() -> None:
    result = optimized(model(ir_version=3, opset=8))
    assert result.ir_version == 4
    assert [value.name for value in result.graph.input] == ["x"]


def test_metadata_of_weights_is_neither_lost_nor_doubled() -> None:
    proto = model(graph="{ c = Conv(x, w) y = Dropout(c) }")
    proto.graph.initializer[0].metadata_props.add(key="from", value="conv1.weight")
    (weight,) = optimized(proto).graph.initializer
    metadata = [(entry.key, entry.value) for entry in weight.metadata_props]
    assert metadata == [("from", "conv1.weight")]


def test_quantization_annotations_are_not_supported() -> None:
    proto = model()
    proto.graph.quantization_annotation.add(tensor_name="y")
    with pytest.raises(ModelError, match="quantization annotations"):
        bnfold.optimize(proto)


def test_a_function_defined_twice_is_no_valid_model() -> None:
    proto = model()
    for _ in range(2):
        proto.functions.add(name="f", domain="local", opset_import=proto.opset_import)
    with pytest.raises(ModelError, match="defines a function twice"):
        bnfold.optimize(proto)


def test_a_described_size_that_a_free_input_contradicts_is_dropped() -> None:
    proto = model(graph="{ c = Conv(x, w) r = Relu(c) d = Dropout(r) y = Neg(d) }")
    described: dict[str, list[int | str | None]] = {"c": [1, 4, 6, 6], "r": ["N", 4, 6, "M"]}
    for name, sizes in described.items():
        proto.graph.value_info.append(helper.make_tensor_value_info(name, 1, sizes))
    found = {
        info.name: [dim.dim_value or dim.dim_param for dim in info.type.tensor_type.shape.dim]
        for info in optimized(proto).graph.value_info
    }
    assert found == {"c": ["", 4, 6, 6], "r": ["N", 4, 6, "M"]}


def test_names_that_a_foreign_operator_demands_stay() -> None:
    """BeamSearch finds the inputs of its decoder by name, also where a value outside has it."""
    body = helper.make_graph(
        [helper.make_node("Relu", ["input_ids"], ["inner"])],
        "decoder",
        [helper.make_tensor_value_info("input_ids", onnx.TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [2])],
    )
    proto = build("(float[2] x) => (float[2] y) { input_ids = Relu(x) y = Neg(input_ids) }")
    for domain, kept in (("com.microsoft", True), ("", False)):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        changed.opset_import.add(domain="com.microsoft", version=1)
        node = helper.make_node("BeamSearch", ["x"], ["z"], domain=domain, decoder=body)
        changed.graph.node.append(node)
        loaded = load(changed).ir
        inner = list(loaded.graph)[-1].attributes["decoder"].as_graph()
        assert (inner.inputs[0].name == "input_ids") == kept


@pytest.mark.parametrize("bits", [onnx.TensorProto.FLOAT6E2M3, onnx.TensorProto.FLOAT4E2M1])
def test_large_weights_of_any_type_are_kept(tmp_path: Path, bits: int) -> None:
    proto = model()
    proto.ir_version = 14
    extra = onnx.TensorProto(name="extra", data_type=bits, dims=[8 * 2000])
    extra.raw_data = bytes(range(250)) * (48 if bits == onnx.TensorProto.FLOAT6E2M3 else 32)
    proto.graph.initializer.append(extra)
    proto.graph.output.append(helper.make_tensor_value_info("extra", bits, extra.dims))
    onnx.save(proto, tmp_path / "m.onnx")
    bnfold.optimize(tmp_path / "m.onnx", tmp_path / "out.onnx", check=False)
    found = {tensor.name: tensor for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert found["extra"].raw_data == extra.raw_data


def test_maps_are_kept() -> None:
    proto = model()
    proto.opset_import.add(domain="ai.onnx.ml", version=1)
    node = helper.make_node(
        "ZipMap", ["flat"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=list(range(144))
    )
    proto.graph.node.extend([helper.make_node("Flatten", ["y"], ["flat"]), node])
    value = proto.graph.output.add(name="maps")
    inner = value.type.sequence_type.elem_type.map_type
    inner.key_type = onnx.TensorProto.INT64
    inner.value_type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    inner.value_type.tensor_type.shape.SetInParent()
    result = optimized(proto)
    assert operators(result) == ["Conv", "Flatten", "ZipMap"]
    assert list(result.graph.output) == list(proto.graph.output)
