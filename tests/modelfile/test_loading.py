"""Loading: rejected models and external data, and properties of loaded models."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.errors import ModelError
from bnfold.modelfile.loading import load
from bnfold.modelfile.stored import OpenFile
from tests.support.cli import REWRITTEN, names, run
from tests.support.files import described_model, save_external
from tests.support.files import scratch as scratch
from tests.support.graphs import batch_norm, build, normal


def small() -> onnx.ModelProto:
    return build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )


# --- Models that cannot be read -------------------------------------------------------------------


def with_sparse_weight() -> onnx.ModelProto:
    model = build("(float[4] x) => (float[4] y) { y = Add(x, w) }")
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    return model


def with_training() -> onnx.ModelProto:
    model = small()
    model.training_info.add().algorithm.name = "step"
    return model


def from_the_future() -> onnx.ModelProto:
    model = small()
    model.ir_version = onnx.IR_VERSION + 1
    return model


def of_a_later_operator_set() -> onnx.ModelProto:
    model = small()
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    return model


def with_data_at(key: str, value: str) -> onnx.ModelProto:
    model = build("(float[4] x) => (float[4] y) { y = Add(x, w) }", w=np.zeros(4, np.float32))
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for pair in (("location", "w.data"), (key, value)):
        tensor.external_data.add(key=pair[0], value=pair[1])
    return model


def without_opset() -> onnx.ModelProto:
    model = small()
    del model.opset_import[:]
    return model


INVALID: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "sparse": (with_sparse_weight, ["sparse initializers", "does not support"]),
    "training": (with_training, ["training information", "does not support"]),
    "future": (from_the_future, [f"IR version {onnx.IR_VERSION + 1}", "upgrade onnx"]),
    "later opset": (
        of_a_later_operator_set,
        [f"operator set {onnx.defs.onnx_opset_version() + 1}", "upgrade onnx"],
    ),
    "data before the file": (
        lambda: with_data_at("offset", "-4"),
        ["the offset of the external data of 'w' is '-4'"],
    ),
    "data of no length": (
        lambda: with_data_at("length", "many"),
        ["the length of the external data of 'w' is 'many'"],
    ),
    "no opset": (without_opset, ["imports no operator set"]),
    "cycle": (
        lambda: build("(float[4] x) => (float[4] y) { a = Add(x, b) b = Neg(a) y = Neg(b) }"),
        ["cycle"],
    ),
    "undefined": (
        lambda: build("(float[4] x) => (float[4] y) { y = Add(x, nothing) }"),
        ["Add", "reads 'nothing', which nothing computes"],
    ),
    "undefined output": (
        lambda: build("(float[4] x) => (float[4] y) { z = Neg(x) }"),
        ["an output reads 'y', which nothing computes"],
    ),
    "defined twice": (
        lambda: build("(float[4] x) => (float[4] y) { a = Neg(x) a = Abs(x) y = Neg(a) }"),
        ["not a valid ONNX model", "'a'"],
    ),
    "no output": (lambda: build("(float[4] x) => () { y = Neg(x) }"), ["no graph with outputs"]),
    "empty": (onnx.ModelProto, ["is empty"]),
}


@pytest.mark.parametrize("command", ["optimize", "explain"])
@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_model_is_told_in_one_line(tmp_path: Path, case: str, command: str) -> None:
    make, words = INVALID[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(make().SerializeToString())
    outcome = run(command, path, "--json")
    outcome.failed(3, str(path), *words)
    assert outcome.out == ""
    assert names(tmp_path) == {"m.onnx"}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_model_in_memory_is_refused_likewise(case: str) -> None:
    make, words = INVALID[case]
    with pytest.raises(ModelError) as raised:
        bnfold.optimize(make())
    assert not [word for word in words if word not in str(raised.value)]


@pytest.mark.skipif(sys.platform != "linux", reason="names of other bytes")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path, strange = tmp_path / "m.onnx", tmp_path / os.fsdecode(b"m\xff.onnx")
    for each in (path, strange):
        each.write_bytes(small().SerializeToString())
    words = r"m\udcff.onnx' is not UTF-8, and onnx and onnxruntime cannot open it; rename it"
    run("explain", strange).failed(3, words)
    run("check", path, strange).failed(3, words)
    run("check", strange, path).failed(3, words)
    run("optimize", path, tmp_path / os.fsdecode(b"o\xff"), "--force").failed(2, "is not UTF-8")
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("command", ["optimize", "explain", "check"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\x00" * 100, "is not an ONNX model"),
        (b"\xff\xfe\xfd" * 99, "is not an ONNX model"),
        (b"<html>not found</html>\n", "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + b"\x00" * 99, "is not an ONNX model"),
    ],
    ids=["missing", "empty", "zeros", "binary", "html", "git-lfs", "zip"],
)
def test_what_is_no_model(tmp_path: Path, command: str, content: bytes | None, words: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    second = [REWRITTEN] if command == "check" else []
    run(command, path, *second).failed(3, str(path), words)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    run("optimize", tmp_path, tmp_path / "out").failed(3, "is a directory", ".onnx file in it")


@pytest.mark.parametrize("share", range(40))
def test_a_truncated_model_is_never_accepted(tmp_path: Path, share: int) -> None:
    """The last 20 lengths cut off only a few bytes."""
    content = small().SerializeToString()
    length = len(content) - 40 + share if share >= 20 else share * len(content) // 20
    path = tmp_path / "m.onnx"
    path.write_bytes(content[:length])
    run("optimize", path, tmp_path / "out.onnx").failed(3, str(path))
    assert names(tmp_path) == {"m.onnx"}


# --- External data --------------------------------------------------------------------------------


def test_explain_reads_external_data_where_it_lies(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    inline, external = (run("explain", path, "--json").record for path in (REWRITTEN, model))
    assert inline["rewrites"] == external["rewrites"]
    assert external["rewrites"]


def remove(model: Path) -> None:
    model.with_name("m.data").unlink()


def truncate(model: Path) -> None:
    data = model.with_name("m.data")
    os.truncate(data, data.stat().st_size - 1)


def empty(model: Path) -> None:
    os.truncate(model.with_name("m.data"), 0)


def relocate(model: Path, location: str) -> None:
    """Move the data out of the model's folder, and set its location in the model."""
    shutil.move(model.with_name("m.data"), model.parent.parent / "m.data")
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    model.write_bytes(proto.SerializeToString())


def link_to_itself(model: Path) -> None:
    data = model.with_name("m.data")
    data.unlink()
    data.symlink_to(data)


def link_twice(model: Path) -> None:
    model.with_name("other.data").hardlink_to(model.with_name("m.data"))


def link_outside(model: Path) -> None:
    relocate(model, "m.data")
    model.with_name("m.data").symlink_to(model.parent.parent / "m.data")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "'m.data', which does not exist"),
        (truncate, "'m.data' is truncated"),
        (empty, "'m.data' is truncated"),
        (lambda model: relocate(model, "../m.data"), "data outside its folder, at '../m.data'"),
        (
            lambda model: relocate(model, str(model.parent.parent / "m.data")),
            "data outside its folder, at '/",
        ),
        (link_outside, "data outside its folder, at 'm.data'"),
        (link_twice, "'m.data', which has several hard links"),
        (link_to_itself, "'m.data', which cannot be opened: "),
        (lambda model: relocate(model, "a\0b"), "'a\\x00b', which cannot be opened: "),
        (lambda model: relocate(model, "a" * 5000), "cannot be opened: File name too long"),
        (lambda model: relocate(model, "."), "'.', which is not a file"),
        (lambda model: relocate(model, "m.onnx/data"), "'m.onnx/data', which does not exist"),
    ],
    ids=[
        *("missing", "truncated", "empty", "outside", "absolute", "link", "hard link", "loop"),
        *("NUL", "long", "folder", "below a file"),
    ],
)
def test_external_data_that_cannot_be_used(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    model = save_external(tmp_path / "given")
    damage(model)
    before = names(model.parent)
    run("optimize", model, model.with_name("out.onnx")).failed(3, str(model), words)
    run("explain", model).failed(3, str(model), words)
    assert names(model.parent) == before


def test_a_model_in_memory_may_have_no_external_data(tmp_path: Path) -> None:
    proto = onnx.load(save_external(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="give the path of its file instead"):
        bnfold.optimize(proto)


# --- Models that are read -------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="the system cannot fork, or not read so")
def test_a_file_has_no_position_that_forked_processes_could_share(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(100)))
    file = OpenFile(path)
    buffer = bytearray(5)
    assert file.read(10, 3) == bytes([10, 11, 12])
    file.read_into(40, memoryview(buffer))
    assert bytes(buffer) == bytes(range(40, 45))
    assert os.lseek(file._file.fileno(), 0, os.SEEK_CUR) == 0


def test_operators_of_bodies_and_functions_are_counted() -> None:
    model = described_model()
    assert load(model).count_operators() == {
        "Add": 1,
        "BatchNormalization": 1,
        "Conv": 1,
        "Reshape": 1,
        "local.Twice": 1,
    }
