"""Reading without large weights and writing them back, compared with protobuf itself."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import bnfold
from bnfold.errors import ModelError
from bnfold.graph.constants import first_along
from bnfold.modelfile.layout import ModelLayout
from bnfold.modelfile.loading import load
from bnfold.modelfile.model import LoadedModel, serialize
from bnfold.modelfile.places import weights_of
from bnfold.modelfile.protos import tensors_of
from bnfold.modelfile.reading import ReadModel, read_light, read_whole, restore
from bnfold.modelfile.source import Source, in_place
from bnfold.modelfile.stored import OpenFile, StoredTensor
from tests.support.cli import MODELS, SAMPLES
from tests.support.graphs import Array, Parameters, batch_norm, build, normal
from tests.support.slow import few
from tests.support.zoo import OCR_MODELS, light_model, ocr_model

SMALLEST = 16
"""Bytes of the smallest weight of a random model that stays in the file, so that many do."""


@pytest.fixture(autouse=True)
def _small_weights_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat almost all weights as large."""
    monkeypatch.setattr("bnfold.modelfile.source.SMALLEST_STORED", SMALLEST)
    monkeypatch.setattr("bnfold.modelfile.layout.SMALLEST_STORED", SMALLEST)


# --- Random models ------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8"), max_size=6)
TYPES = [
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
    onnx.TensorProto.INT4,
]


@st.composite
def tensors(draw: st.DrawFn) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=draw(NAMES), data_type=draw(st.sampled_from(TYPES)))
    tensor.dims.extend(draw(st.lists(st.integers(0, 9), max_size=3)))
    kind = draw(st.sampled_from(["raw", "raw", "raw", "float", "external", "none"]))
    if kind == "raw":
        tensor.raw_data = draw(st.binary(max_size=200))
    elif kind == "float":
        tensor.float_data.extend(draw(st.lists(st.floats(width=32), max_size=20)))
    elif kind == "external":
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=draw(NAMES))
    if draw(st.booleans()):
        tensor.doc_string = draw(NAMES)
        tensor.metadata_props.add(key="k", value=draw(NAMES))
    return tensor


@st.composite
def graphs(draw: st.DrawFn, depth: int = 2) -> onnx.GraphProto:
    graph = onnx.GraphProto(name=draw(NAMES))
    graph.initializer.extend(draw(st.lists(tensors(), max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        node = graph.node.add(op_type=draw(NAMES), output=[draw(NAMES)])
        for _ in range(draw(st.integers(0, 2))):
            draw_attribute(draw, node.attribute.add(name=draw(NAMES)), depth)
    graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3]))
    graph.value_info.append(helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [2]))
    return graph


def draw_attribute(draw: st.DrawFn, attribute: onnx.AttributeProto, depth: int) -> None:
    kind = draw(st.sampled_from(["t", "g", "graphs", "tensors", "ints", "s", "f"]))
    if kind == "t":
        attribute.t.CopyFrom(draw(tensors()))
    elif kind == "g" and depth:
        attribute.g.CopyFrom(draw(graphs(depth - 1)))
    elif kind == "graphs" and depth:
        attribute.graphs.append(draw(graphs(depth - 1)))
    elif kind == "tensors":
        attribute.tensors.append(draw(tensors()))
    elif kind == "ints":
        attribute.ints.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
    elif kind == "s":
        attribute.s = draw(st.binary(max_size=30))
    else:
        attribute.f = draw(st.floats(width=32))


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=10, producer_name=draw(NAMES), graph=draw(graphs()))
    model.opset_import.add(version=17)
    model.metadata_props.add(key=draw(NAMES), value=draw(NAMES))
    for _ in range(draw(st.integers(0, 2))):
        function = model.functions.add(name=draw(NAMES), domain="f")
        function.node.extend(draw(graphs(1)).node)
    return model


def parsed(content: bytes) -> onnx.ModelProto | None:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return None
    return model


def written(folder: Path, content: bytes) -> OpenFile:
    path = folder / "m.onnx"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return OpenFile(path)


def same(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Compare bytes, as NaN differs from itself in parsed fields."""
    first, second = (model.SerializeToString(deterministic=True) for model in (one, other))
    return bool(first == second)


some = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@some
@given(models())
def test_any_model_is_read_as_protobuf_reads_it(tmp_path: Path, model: onnx.ModelProto) -> None:
    read = read_light(written(tmp_path, model.SerializeToString()), SMALLEST)
    assert read is not None
    large = [len(t.raw_data) for t in tensors_of(model) if len(t.raw_data) >= SMALLEST]
    assert sorted(map(read.raw_size, marked(read))) == sorted(large)
    restore(read.proto, read.markers)
    assert same(read.proto, model)


def marked(read: ReadModel) -> list[onnx.TensorProto]:
    return [t for t in tensors_of(read.proto) if read.markers.get(t.raw_data)]


@some
@given(models(), st.data())
def test_damage_is_told_or_read_as_protobuf_reads_it(
    tmp_path: Path, model: onnx.ModelProto, data: st.DataObject
) -> None:
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    assert_read_alike(tmp_path, bytes(content))


@some
@given(models(), models(), st.integers(0, 2))
def test_messages_that_occur_twice_are_merged_as_protobuf_merges_them(
    tmp_path: Path, one: onnx.ModelProto, other: onnx.ModelProto, order: int
) -> None:
    pieces = [one.SerializeToString(), other.SerializeToString(), one.SerializeToString()]
    assert_read_alike(tmp_path, b"".join(pieces[order:]))


@some
@given(st.binary(max_size=200))
def test_any_bytes_are_told_or_read_as_protobuf_reads_them(tmp_path: Path, content: bytes) -> None:
    assert_read_alike(tmp_path, content)


def assert_read_alike(folder: Path, content: bytes) -> None:
    file, expected = written(folder, content), parsed(content)
    read = read_light(file, SMALLEST)
    if read is not None:
        assert expected is not None
        if len(marked(read)) == len(read.markers):  # else the loader reads the whole file
            restore(read.proto, read.markers)
            assert same(read.proto, expected)
    if expected is None:
        with pytest.raises(ModelError, match=r"is not an ONNX model, or is truncated|Git LFS"):
            read_whole(file)
    else:
        assert same(read_whole(file).proto, expected)
    with contextlib.suppress(ModelError):  # nothing else may be raised
        load(file.path)


# --- Real models --------------------------------------------------------------------------------


def assert_written_alike(path: Path) -> None:
    """Assert that the reader returns the same as protobuf, and the writer the same bytes."""
    loaded = load(path)
    proto = onnx.load(path, load_external_data=False)
    large = [t for t in tensors_of(proto) if len(t.raw_data) >= SMALLEST]
    stored = [t for t in weights_of(loaded.ir) if isinstance(t, StoredTensor)]
    assert len(stored) == len(large)
    assert_same_bytes(loaded)
    restored = read_light(OpenFile(path), SMALLEST)
    assert restored is not None
    restore(restored.proto, restored.markers)
    assert same(restored.proto, proto)


def assert_same_bytes(loaded: LoadedModel) -> None:
    expected = serialize(loaded)
    restore(expected, loaded.markers)
    content = b"".join(ModelLayout(loaded).blocks())
    assert content == expected.SerializeToString(deterministic=True)
    assert content == loaded.to_proto().SerializeToString(deterministic=True)


def loaded_model(result: bnfold.Result) -> LoadedModel:
    assert isinstance(result._model, LoadedModel)
    return result._model


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_written_as_protobuf_writes_them(path: Path) -> None:
    assert_written_alike(path)
    result = bnfold.optimize(path, check=False)
    assert_same_bytes(loaded_model(result))


@pytest.mark.parametrize("name", few(OCR_MODELS, ["ch_ppocr_mobile_v2.0_cls_infer"]))
def test_trained_models_are_written_as_protobuf_writes_them(name: str) -> None:
    assert_written_alike(ocr_model(name))
    assert_same_bytes(loaded_model(bnfold.optimize(ocr_model(name), check=False)))


@pytest.mark.parametrize("name", few(["densenet121", "shufflenet", "squeezenet"], ["squeezenet"]))
def test_zoo_models_are_written_as_protobuf_writes_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(light_model(name), path)
    assert_written_alike(path)
    assert_same_bytes(loaded_model(bnfold.optimize(path, check=False)))


# --- What is left in the file ---------------------------------------------------------------------


def small(folder: Path) -> Path:
    path = folder / "m.onnx"
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    path.write_bytes(model.SerializeToString())
    return path


def large(folder: Path, *, external: bool) -> Path:
    """Save a model whose only large weight is rewritten."""
    path = folder / "m.onnx"
    model = build(
        "(float[N,16,8,8] x) => (float[N,16,6,6] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        w=normal(16, 16, 3, 3),
        **batch_norm(16),
    )
    onnx.save_model(
        model, path, save_as_external_data=external, location="m.data", size_threshold=4096
    )
    return path


def test_a_result_outlives_the_file_it_came_from(tmp_path: Path) -> None:
    path = small(tmp_path)
    expected = load(path).to_proto()
    result = bnfold.optimize(path, path, passes=bnfold.PassOptions(only=["strip-dropout"]))
    onnx.save(build("(float[4] x) => (float[4] y) { y = Neg(x) }"), tmp_path / "other.onnx")
    (tmp_path / "other.onnx").replace(path)
    assert same(result.to_proto(), expected)


def test_an_output_in_the_place_of_the_input_is_made_from_the_input(tmp_path: Path) -> None:
    path = small(tmp_path)
    expected = bnfold.optimize(path, check=False).to_proto()
    result = bnfold.optimize(path, path, check=False)
    assert same(onnx.load(path), expected)
    assert same(result.to_proto(), expected)


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("where", ["file", "memory"])
def test_new_weights_do_not_stay_in_memory(tmp_path: Path, where: str, external: bool) -> None:
    path = large(tmp_path, external=external)
    output = tmp_path / "out.onnx" if where == "file" else None
    result = bnfold.optimize(path, output, check=False)
    assert result.record.rewrites
    assert not [
        tensor
        for tensor in weights_of(loaded_model(result).ir)
        if isinstance(tensor, ir.Tensor) and tensor.nbytes >= SMALLEST
    ]
    expected = bnfold.optimize(onnx.load(path), check=False).to_proto()
    if output is not None:
        for file in tmp_path.iterdir():
            file.unlink()
    assert same(result.to_proto(), expected)


def test_data_outside_stays_outside_though_all_of_it_is_new(tmp_path: Path) -> None:
    record = bnfold.optimize(
        large(tmp_path, external=True), tmp_path / "out.onnx", check=False
    ).record
    assert record.output is not None
    assert record.output.data is not None
    assert not record.output.outgrew_one_file


def test_where_nothing_large_is_left_there_is_no_data_file(tmp_path: Path) -> None:
    path = small(tmp_path)
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    record = bnfold.optimize(path, tmp_path / "out.onnx", check=False).record
    assert record.output is not None
    assert record.output.data is None


@pytest.mark.parametrize("change", ["truncated", "rewritten"])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, change: str) -> None:
    path = small(tmp_path)
    loaded = load(path)
    if change == "truncated":
        os.truncate(path, path.stat().st_size - 100)
    else:
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(0, 0))
    with pytest.raises(ModelError, match="was changed while it was being read"):
        loaded.to_proto()


@pytest.mark.parametrize("how", ["replaced", "removed", "rewritten"])
@pytest.mark.parametrize("command", ["optimize", "check"])
def test_a_file_that_is_replaced_during_the_check_is_no_difference(
    tmp_path: Path, command: str, how: str
) -> None:
    """onnxruntime reads by path, and would compare another model."""
    path, other = small(tmp_path), tmp_path / "other.onnx"
    shutil.copy(MODELS / "conv_bn_conv.onnx", other)
    output = tmp_path / "out.onnx"

    def progress(doing: object) -> None:
        if str(doing).startswith("running") and path.exists() and other.exists():
            if how == "replaced":
                os.replace(other, path)
            elif how == "removed":
                path.unlink()
            else:
                path.write_bytes(other.read_bytes())
                other.unlink()

    second = output if command == "optimize" else shutil.copy(path, tmp_path / "copy.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx was (replaced|changed) while it was "):
        getattr(bnfold, command)(path, second, progress=progress)
    assert not output.exists()


def test_what_fails_where_a_file_has_gone_fails_because_of_that(tmp_path: Path) -> None:
    path = small(tmp_path)
    source = Source.of(path)
    with pytest.raises(ModelError, match="another"), in_place(source):
        raise ModelError("another")
    path.unlink()
    with pytest.raises(ModelError, match="was replaced while it was in use"), in_place(source):
        raise ModelError("does not exist")
    with pytest.raises(ModelError, match="was replaced while it was in use"), in_place(source):
        pass


def test_what_a_file_does_not_have_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    file = OpenFile(tmp_path / "file")
    assert file.read_each([0, 8, 4], 2) == [b"01", b"89", b"45"]
    with pytest.raises(ModelError, match="was changed while it was being read"):
        file.read_each([0, 9], 2)


def test_a_system_may_read_fewer_bytes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    file = OpenFile(tmp_path / "file")
    monkeypatch.setattr(file, "_read_some", lambda at, size: b"0123456789"[at : at + min(size, 3)])
    assert file.read(1, 8) == b"12345678"


@pytest.mark.parametrize("data_type", TYPES)
def test_every_type_reads_the_same_from_the_file(tmp_path: Path, data_type: int) -> None:
    rng = np.random.default_rng(0)
    size = 64 * ir.DataType(data_type).bitwidth // 8
    content = rng.integers(0, 2 if data_type == onnx.TensorProto.BOOL else 256, size)
    model = build("(float[4] x) => (float[4] y) { y = Neg(x) }")
    tensor = model.graph.initializer.add(name="w", data_type=data_type, dims=[8, 8])
    tensor.raw_data = content.astype(np.uint8).tobytes()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    (stored,) = weights_of(load(path).ir)
    assert isinstance(stored, StoredTensor)
    expected = numpy_helper.to_array(tensor)
    assert stored.numpy().dtype == expected.dtype
    assert stored.numpy().tobytes() == expected.tobytes()
    assert stored.tobytes() == tensor.raw_data


@pytest.mark.parametrize("shape", [(3, 2, 5), (4, 700_000), (700_000, 4)])
@pytest.mark.parametrize("axis", [0, 1])
def test_first_elements_are_read_from_the_file(
    tmp_path: Path, shape: tuple[int, ...], axis: int
) -> None:
    content = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = tmp_path / "m.onnx"
    onnx.save(build("(float[4] x) => (float[4] y) { y = Neg(x) }", w=content), path)
    value = load(path).ir.graph.initializers["w"]
    assert isinstance(value.const_value, StoredTensor)
    first = np.moveaxis(content, axis, 0).reshape(shape[axis], -1)[:, 0]
    np.testing.assert_array_equal(first_along(value, axis), first)


@pytest.mark.parametrize(("columns", "share"), [(3, 1.0), (20_000, 0.001)])
def test_what_lies_far_apart_is_read_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int, share: float
) -> None:
    content = normal(100, columns)
    path = tmp_path / "m.onnx"
    onnx.save(build("(float[4] x) => (float[4] y) { y = Neg(x) }", w=content), path)
    value = load(path).ir.graph.initializers["w"]
    read: list[int] = []
    plain = OpenFile.read

    def counted(file: OpenFile, offset: int, length: int) -> bytes:
        read.append(length)
        return plain(file, offset, length)

    monkeypatch.setattr(OpenFile, "read", counted)
    np.testing.assert_array_equal(first_along(value, 0), content[:, 0])
    assert sum(read) <= share * content.nbytes


def test_weights_that_stay_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All passes look at them, but none needs more than their shapes and a few elements."""
    read: list[str | None] = []
    whole = StoredTensor._read

    def noted(self: StoredTensor) -> Array:
        read.append(self.name)
        return whole(self)

    monkeypatch.setattr(StoredTensor, "_read", noted)
    path = tmp_path / "m.onnx"
    weights: Parameters = {name: normal(100, 100, seed=seed) for seed, name in enumerate("uvw")}
    lines = (
        "c = Conv(x, k) r = Relu(c) f = Flatten(r) a = Gemm<transB=1>(f, u, b) s = Relu(a) "
        "d = Dropout(s) m = MatMul(d, v) t = Relu(m) y = Gemm(t, w)"
    )
    text = f"(float[1,3,7,7] x) => (float[1,100] y) {{ {lines} }}"
    weights |= {"k": normal(4, 3, 3, 3), "b": normal(100)}
    onnx.save(build(text, **weights), path)
    bnfold.optimize(path, check=False, figures=False)
    assert not {*"uvw"} & {*read}
