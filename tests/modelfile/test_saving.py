"""Saving: external data, and the parts of a model that optimization must not change."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.modelfile.loading import load
from bnfold.modelfile.saving import StagedModel
from bnfold.running.runtime import Session
from tests.support.cli import (
    REWRITTEN,
    SAMPLES,
    UNCHANGED,
    names,
    plant_wrong_pass,
    run,
    untouched,
)
from tests.support.files import described_model, locations, logits, save_external
from tests.support.files import scratch as scratch
from tests.support.graphs import Parameters, batch_norm, build, normal, operators


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_same_input_gives_the_same_bytes_and_its_output_stays(
    tmp_path: Path, sample: Path
) -> None:
    places = [tmp_path / name for name in ("first", "second", "again")]
    for source, place in ((sample, places[0]), (sample, places[1]), (places[0], places[2])):
        assert run("optimize", source, place, "--no-check").code == 0
    assert len({place.read_bytes() for place in places}) == 1
    before = untouched(places[0])
    assert run("optimize", places[0], places[0]).code == 0
    assert untouched(places[0]) == before


# --- External data --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["out.onnx", "m.onnx", "../other/out.onnx"])
def test_external_data_is_written_afresh_beside_the_output(tmp_path: Path, place: str) -> None:
    model = save_external(tmp_path / "given")
    (tmp_path / "other").mkdir()
    data, expected = untouched(model.with_name("m.data")), logits(model)
    output = (model.parent / place).resolve()
    before = names(output.parent)
    assert run("optimize", model, output).code == 0
    assert untouched(model.with_name("m.data")) == data
    (location,) = locations(output)
    assert names(output.parent) - before == {output.name, location} - before
    assert location != "m.data"
    assert location.startswith(output.name)
    assert (output.parent / location).is_file()
    assert "BatchNormalization" not in operators(onnx.load(output))
    np.testing.assert_allclose(logits(output), expected, rtol=1e-4, atol=1e-3)


def test_small_weights_stay_in_the_model_file(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    assert run("optimize", model, tmp_path / "out.onnx").code == 0
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    sizes = {
        bool(tensor.external_data): np.prod(tensor.dims) * 4 for tensor in proto.graph.initializer
    }
    assert set(sizes) == {True, False}
    assert sizes[False] < 1024 <= sizes[True]


@pytest.mark.parametrize("folder", [".", "other"])
def test_small_external_weights_come_into_the_model_file(tmp_path: Path, folder: str) -> None:
    w = normal(8, 8)
    proto = build("(float[N,8] x) => (float[N,8] z) { d = Dropout(x) z = MatMul(d, w) }", w=w)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="d", size_threshold=0)
    (tmp_path / "other").mkdir()
    output = tmp_path / folder / "out.onnx"
    assert run("optimize", path, output).code == 0
    assert locations(output) == set()
    (written,) = onnx.load(output).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(written), w)


SCATTERED: Parameters = {
    name: normal(64, 64, seed=seed) for name, seed in (("u", 1), ("v", 2), ("w", 2))
}


def scatter(folder: Path) -> Path:
    """Save a model with data in two files, one of them linked; two weights share data."""
    model = build(
        "(float[N,64] x) => (float[N,64] z) "
        "{ a = MatMul(x, v) b = MatMul(a, w) d = Dropout(b) z = MatMul(d, u) }",
        **SCATTERED,
    )
    u, v, w = model.graph.initializer
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "0").write_bytes(bytes(3) + u.raw_data)
    (folder / "u.data").symlink_to(folder / "blobs" / "0")
    (folder / "v.data").write_bytes(v.raw_data)
    for tensor, location, offset in ((u, "u.data", 3), (v, "v.data", 0), (w, "v.data", 0)):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", 64 * 64 * 4)):
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def scatter_with_constant(folder: Path) -> Path:
    """Make the same model with a Constant in place of the first initializer."""
    model = scatter(folder)
    proto = onnx.load(model, load_external_data=False)
    (u,) = [tensor for tensor in proto.graph.initializer if tensor.name == "u"]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["u"], value=u))
    proto.graph.initializer.remove(u)
    model.write_bytes(proto.SerializeToString())
    return model


def test_scattered_data_is_gathered_and_what_is_shared_stays_shared(tmp_path: Path) -> None:
    model = scatter(tmp_path / "given")
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "out.onnx"
    kept = ("--skip", "merge-duplicates", "--skip", "compose-matmuls")
    outcome = run("optimize", model, output, *kept, "--json")
    assert outcome.code == 0
    (location,) = locations(output)
    assert outcome.record["output"]["data"] == location
    assert outcome.record["output"]["data_bytes"] == (tmp_path / "other" / location).stat().st_size
    assert outcome.record["output"]["outgrew_one_file"] is False
    proto = onnx.load(output, load_external_data=False)
    offsets = {
        tensor.name: int(entry.value)
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    }
    assert offsets["v"] == offsets["w"] != offsets["u"]
    assert all(offset % 4096 == 0 for offset in offsets.values())
    for tensor in onnx.load(output).graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), SCATTERED[tensor.name])


def test_constants_with_external_data_go_along(tmp_path: Path) -> None:
    model = scatter_with_constant(tmp_path / "given")
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "out.onnx"
    kept = ("--no-check", "--skip", "compose-matmuls", "--skip", "store-constants")
    assert run("optimize", model, output, *kept).code == 0
    written = onnx.load(output).graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(written), SCATTERED["u"])


def test_constants_with_external_data_become_initializers_with_it(tmp_path: Path) -> None:
    model = scatter_with_constant(tmp_path / "given")
    output = tmp_path / "out.onnx"
    assert run("optimize", model, output, "--no-check", "--only", "store-constants").code == 0
    written = onnx.load(output)
    assert "Constant" not in [node.op_type for node in written.graph.node]
    for tensor in written.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), SCATTERED[tensor.name])
    assert set(SCATTERED) == {tensor.name for tensor in written.graph.initializer}
    assert locations(output)


def test_weights_too_large_for_one_file_go_beside_it_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnfold.modelfile.model.LARGEST_INLINE", 1000)
    output = tmp_path / "out.onnx"
    outcome = run("optimize", REWRITTEN, output)
    assert outcome.code == 0
    assert "more than one model file may hold" in outcome.out
    (location,) = locations(output)
    assert location in outcome.out
    assert run("optimize", REWRITTEN, output, "--json").record["output"]["outgrew_one_file"] is True
    np.testing.assert_allclose(logits(output), logits(REWRITTEN), rtol=1e-4, atol=1e-3)


def test_a_model_file_that_onnxruntime_cannot_read_is_checked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 2 GiB, protobuf cannot parse it, so onnxruntime cannot, either."""
    size = REWRITTEN.stat().st_size
    monkeypatch.setattr("bnfold.modelfile.model.LARGEST_INLINE", 1000)
    monkeypatch.setattr("bnfold.modelfile.source.LARGEST_MESSAGE", size - 1)
    load_session = Session.__init__

    def load_small(self: Session, path: Path, *rest: Any, **options: Any) -> None:
        assert path.stat().st_size < size
        load_session(self, path, *rest, **options)

    monkeypatch.setattr(Session, "__init__", load_small)
    outcome = run("optimize", REWRITTEN, tmp_path / "out.onnx", "--json")
    assert outcome.code == 0
    assert outcome.record["equivalence"]["verdict"] == "pass"


def test_external_data_is_the_same_each_time_and_stays(tmp_path: Path) -> None:
    model, output = save_external(tmp_path), tmp_path / "out.onnx"
    assert run("optimize", model, output).code == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run("optimize", model, output).code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    assert run("optimize", output, output).code == 0
    assert {path: untouched(path) for path in tmp_path.iterdir()} == before


def test_external_data_of_a_model_without_rewrites_is_shared_in_its_folder(tmp_path: Path) -> None:
    model = save_external(tmp_path, UNCHANGED)
    assert run("optimize", model, tmp_path / "out.onnx").code == 0
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()
    assert names(tmp_path) == {"m.onnx", "m.data", "out.onnx"}


def test_external_data_of_a_model_without_rewrites_goes_along_to_another_folder(
    tmp_path: Path,
) -> None:
    model, output = save_external(tmp_path / "given", UNCHANGED), tmp_path / "other" / "out.onnx"
    output.parent.mkdir()
    outcome = run("optimize", model, output, "--json")
    assert outcome.code == 0
    assert outcome.record["equivalence"]["verdict"] == "identical"
    (location,) = locations(output)
    assert names(output.parent) == {"out.onnx", location}
    given, written = (
        {tensor.name: tensor.raw_data for tensor in onnx.load(path).graph.initializer}
        for path in (model, output)
    )
    assert given == written


def test_a_wrong_rewrite_leaves_no_data_behind(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    with plant_wrong_pass():
        for place in (model, tmp_path / "out.onnx"):
            run("optimize", model, place).failed(1, "not equivalent")
    assert {path: untouched(path) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["u.data", "blobs/0"])
def test_the_data_of_the_model_is_no_place_for_the_output(tmp_path: Path, name: str) -> None:
    model = scatter(tmp_path)
    before = untouched(model), untouched(tmp_path / name)
    run("optimize", model, tmp_path / name).failed(2, name, "holds weights of the model")
    assert (untouched(model), untouched(tmp_path / name)) == before


def test_a_run_that_fails_leaves_the_same_data_of_another_run(tmp_path: Path) -> None:
    model, output = save_external(tmp_path), tmp_path / "out.onnx"
    with StagedModel(output) as failing:
        failing.write_model(load(model))
        with StagedModel(output) as staged:
            staged.write_model(load(model))
            staged.commit()
    onnx.load(output)
    assert names(tmp_path) == {"m.onnx", *locations(model), "out.onnx", *locations(output)}


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such names")
def test_data_cannot_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    model, output = save_external(tmp_path), tmp_path / os.fsdecode(b"\xff.onnx")
    before = names(tmp_path)
    run("optimize", model, output).failed(2, "is not UTF-8")
    assert names(tmp_path) == before


# --- What stays in the model ----------------------------------------------------------------------

KEPT_FIELDS = (
    "producer_name",
    "producer_version",
    "domain",
    "model_version",
    "doc_string",
    "ir_version",
    "opset_import",
)


def test_all_that_is_said_about_the_model_is_kept() -> None:
    model = described_model()
    result = bnfold.optimize(model, passes=bnfold.PassOptions(keep_functions=True))
    optimized = result.to_proto()
    assert [rewrite.pass_name for rewrite in result.record.rewrites] == ["fold-batchnorm"]
    for field in KEPT_FIELDS:
        assert getattr(optimized, field) == getattr(model, field), field
    assert {entry.key: entry.value for entry in optimized.metadata_props} == {
        entry.key: entry.value for entry in model.metadata_props
    }
    for field in ("name", "doc_string", "input", "output"):
        assert getattr(optimized.graph, field) == getattr(model.graph, field), field
    documented = {node.op_type: node.doc_string for node in optimized.graph.node}
    assert documented["Conv"] == "the convolution"
    assert documented["Reshape"] == "the reshape"
    (function,) = optimized.functions
    assert (function.domain, function.name) == ("local", "Twice")
    assert [node.op_type for node in function.node] == ["Add"]
    onnx.checker.check_model(optimized, full_check=True)


@pytest.mark.parametrize("has_rewrite", [True, False])
def test_ir_version_3_becomes_4_only_where_something_is_folded(
    tmp_path: Path, has_rewrite: bool
) -> None:
    graph = "(float[N,3,8,8] x) => (float[N,4,6,6] z) { y = Conv(x, w) z = "
    graph += "BatchNormalization(y, s, b, m, v) }" if has_rewrite else "Relu(y) }"
    parameters = batch_norm(4) if has_rewrite else {}
    model = build(graph, opset=9, ir_version=3, w=normal(4, 3, 3, 3), **parameters)
    onnx.save(model, tmp_path / "m.onnx")
    assert run("optimize", tmp_path / "m.onnx", tmp_path / "out.onnx").code == 0
    optimized = onnx.load(tmp_path / "out.onnx")
    assert optimized.ir_version == (4 if has_rewrite else 3)
    inputs = [value.name for value in optimized.graph.input]
    assert inputs == (["x"] if has_rewrite else ["x", "w"])
    assert optimized.opset_import == model.opset_import
    onnx.checker.check_model(optimized, full_check=True)


@pytest.mark.parametrize("described", [True, False])
def test_values_are_described_where_the_file_described_them(described: bool) -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] q) "
        "{ y = Conv(x, w) z = BatchNormalization(y, s, b, m, v) r = Relu(z) q = Neg(r) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    if described:
        shape: list[str | int | None] = ["N", 4, 6, 6]
        info = helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, shape, "the positive")
        model.graph.value_info.append(info)
    optimized = bnfold.optimize(model).to_proto()
    assert list(optimized.graph.value_info) == list(model.graph.value_info)


# --- Links ----------------------------------------------------------------------------------------


def hugging_face(folder: Path) -> Path:
    """Return a model in a cache of Hugging Face: names are links to blobs in another folder."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    model = save_external(blobs)
    model.rename(blobs / "0a1b")
    (blobs / "m.data").rename(blobs / "2c3d")
    (snapshot / "m.onnx").symlink_to("../../blobs/0a1b")
    (snapshot / "m.data").symlink_to("../../blobs/2c3d")
    return snapshot / "m.onnx"


def linked(folder: Path) -> Path:
    """Return a link to a model, whose data are beside its target."""
    (folder / "link.onnx").symlink_to(save_external(folder / "target"))
    return folder / "link.onnx"


@pytest.mark.parametrize("make", [hugging_face, linked])
def test_external_data_is_found_beside_the_name_or_beside_its_target(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    model, output = make(tmp_path), tmp_path / "out.onnx"
    outcome = run("optimize", model, output, "--no-bench", "--json")
    assert outcome.code == 0, outcome
    assert outcome.record["equivalence"]["verdict"] == "pass"
    assert outcome.record["equivalence"]["providers"][0]["truth"]["outputs"]
    np.testing.assert_allclose(logits(output), logits(REWRITTEN), rtol=1e-4, atol=1e-3)
    compared = run("check", model, output, "--outputs", "all", "--json").record
    assert compared["equivalence"]["verdict"] == "pass"


def test_data_that_a_link_leads_out_of_both_folders_is_refused(tmp_path: Path) -> None:
    model = hugging_face(tmp_path)
    (tmp_path / "secret").write_bytes((tmp_path / "blobs" / "2c3d").read_bytes())
    model.with_name("m.data").unlink()
    model.with_name("m.data").symlink_to("../../secret")
    run("explain", model).failed(3, "outside its folder")
    model.with_name("m.data").unlink()
    run("explain", model).failed(3, "does not exist")


@pytest.mark.parametrize("missing", ["a loop of links", "no file"])
def test_data_that_are_nowhere_are_told_by_every_command(tmp_path: Path, missing: str) -> None:
    model = save_external(tmp_path)
    (tmp_path / "m.data").unlink()
    if missing == "a loop of links":
        (tmp_path / "m.data").symlink_to("n.data")
        (tmp_path / "n.data").symlink_to("m.data")
    before = names(tmp_path)
    words = "does not exist" if missing == "no file" else "cannot be opened: Symlink loop"
    runs: dict[str, list[Path]] = {
        "explain": [model],
        "optimize": [model, tmp_path / "out.onnx"],
        "check": [REWRITTEN, model],
        "bench": [model],
    }
    for command, paths in runs.items():
        run(command, *paths).failed(3, "has data at 'm.data', which", words)
    assert names(tmp_path) == before


@pytest.mark.parametrize("exists", [True, False])
def test_an_output_that_is_a_link_loads_by_its_name(tmp_path: Path, exists: bool) -> None:
    model = save_external(tmp_path / "given")
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "old.onnx", tmp_path / "link.onnx"
    link.symlink_to(target)
    if exists:
        target.write_bytes(b"old")
    assert run("optimize", model, link, "--no-bench").code == 0
    np.testing.assert_allclose(logits(link), logits(REWRITTEN), rtol=1e-4, atol=1e-3)
    assert "BatchNormalization" not in operators(onnx.load(link))
    assert names(tmp_path / "elsewhere") == ({"old.onnx"} if exists else set())
    assert names(tmp_path) == {"given", "elsewhere", "link.onnx", *locations(link)}


def test_the_order_of_metadata_is_kept(tmp_path: Path) -> None:
    model = onnx.load(REWRITTEN)
    for holder in (model, model.graph):
        del holder.metadata_props[:]
        for key in ("z", "a", "Q", "b"):
            holder.metadata_props.add(key=key, value=key * 2)
    onnx.save(model, tmp_path / "m.onnx")
    output = tmp_path / "out.onnx"
    assert run("optimize", tmp_path / "m.onnx", output, "--no-check", "--no-bench").code == 0
    written = onnx.load(output)
    assert "BatchNormalization" not in operators(written)
    assert list(written.metadata_props) == list(model.metadata_props)
    assert list(written.graph.metadata_props) == list(model.graph.metadata_props)
