"""External data as it is asked for: whether, from which size on, and under which name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.modelfile.loading import load
from bnfold.modelfile.saving import StagedModel
from bnfold.running.runtime import Level, Session
from tests.support.cli import REWRITTEN, UNCHANGED, names, plant_wrong_pass, run, untouched
from tests.support.files import locations, logits, save_external
from tests.support.files import scratch as scratch
from tests.support.graphs import build, normal, operators

QUICK = ("--no-check", "--no-bench")
CHECKED = ("--no-bench", "--truth", "off", "--certify", "off", "--samples", "1")
ALWAYS = ("--external-data", "always")
HUGE = (*ALWAYS, "--external-data-threshold", "1000000000")
ALL = ("--external-data-threshold", "0", "--external-data-name", "w.data")
NAMED = (*ALWAYS, "--external-data-name", "w.data")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def loads(path: Path) -> None:
    """Assert that onnx and onnxruntime load the model, and that it computes what it did."""
    onnx.checker.check_model(str(path), full_check=True)
    assert onnx.load(path).graph.initializer
    for level in Level:
        Session(path, "cpu", level)
    np.testing.assert_allclose(logits(path), logits(REWRITTEN), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("external", "options", "wanted"),
    [
        (False, ALWAYS, True),
        (False, NAMED, "w.data"),
        pytest.param(False, HUGE, False, marks=pytest.mark.slow),
        (True, ("--external-data", "never"), False),
        pytest.param(True, ALL, "w.data", marks=pytest.mark.slow),
    ],
    ids=["always", "named", "none", "never", "all"],
)
def test_weights_are_where_they_were_asked_to_be(
    tmp_path: Path, external: bool, options: tuple[str, ...], wanted: str | bool
) -> None:
    model = save_external(tmp_path / "given") if external else REWRITTEN
    place = tmp_path / "out" / "m.onnx"
    place.parent.mkdir()
    outcome = run("optimize", model, place, *CHECKED, "--json", *options)
    assert outcome.code == 0, outcome.err
    assert outcome.record["equivalence"]["providers"]
    assert outcome.record["output"]["outgrew_one_file"] is False
    found = locations(place)
    assert bool(found) == bool(wanted)
    assert names(place.parent) == {"m.onnx", *found}
    if isinstance(wanted, str):
        assert found == {wanted}
    assert outcome.record["output"]["data"] == (min(found) if found else None)
    loads(place)
    # The same again, and of its own result, in its place and beside it.
    first = contents(place.parent)
    assert run("optimize", model, place, *QUICK, *options).code == 0
    assert contents(place.parent) == first
    before = {path: untouched(path) for path in place.parent.iterdir()}
    assert run("optimize", place, place, *QUICK, *options).code == 0
    assert {path: untouched(path) for path in place.parent.iterdir()} == before
    again = place.with_name("again.onnx")
    assert run("optimize", place, again, *QUICK, *options).code == 0
    assert again.read_bytes() == place.read_bytes()
    assert names(place.parent) == {"m.onnx", "again.onnx", *found}


@pytest.mark.parametrize("options", [NAMED, ("--external-data", "never")])
def test_a_model_without_rewrites_is_stored_so_too(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    model = save_external(tmp_path / "given", UNCHANGED)
    outcome = run("optimize", model, model, "--json", *options)
    assert outcome.code == 0, outcome.err
    assert outcome.record["equivalence"]["verdict"] == "identical"
    assert outcome.record["output"]["same"] is False
    assert locations(model) == ({"w.data"} if options is NAMED else set())
    given = {tensor.name: tensor.raw_data for tensor in onnx.load(UNCHANGED).graph.initializer}
    assert {t.name: t.raw_data for t in onnx.load(model).graph.initializer} == given
    before = {path: untouched(path) for path in model.parent.iterdir()}
    assert run("optimize", model, model, "--json", *options).record["output"]["same"] is True
    assert {path: untouched(path) for path in model.parent.iterdir()} == before


def test_only_another_name_is_asked_for(tmp_path: Path) -> None:
    place = tmp_path / "out.onnx"
    assert run("optimize", REWRITTEN, place, *QUICK, *ALWAYS).code == 0
    (location,) = locations(place)
    assert run("optimize", place, place, *QUICK, *NAMED).code == 0
    assert locations(place) == {"w.data"}
    assert contents(tmp_path)["w.data"] == contents(tmp_path)[location]
    loads(place)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_of_data_are_those_of_what_they_replace_or_of_the_model(tmp_path: Path) -> None:
    place, data = tmp_path / "out.onnx", tmp_path / "w.data"
    place.write_bytes(b"old")
    place.chmod(0o640)
    assert run("optimize", REWRITTEN, place, *QUICK, *NAMED).code == 0
    assert [path.stat().st_mode & 0o777 for path in (place, data)] == [0o640, 0o640]
    data.chmod(0o604)
    assert run("optimize", REWRITTEN, place, *QUICK, *NAMED).code == 0
    assert [path.stat().st_mode & 0o777 for path in (place, data)] == [0o640, 0o604]


def test_large_weights_of_a_data_file_are_not_read_to_be_inlined(tmp_path: Path) -> None:
    model, place = save_external(tmp_path), tmp_path / "out.onnx"
    storage = bnfold.StorageOptions("never")
    result = bnfold.optimize(model, place, storage=storage, only="fold-batchnorm", check=False)
    assert result.to_proto().SerializeToString(deterministic=True) == place.read_bytes()
    assert "BatchNormalization" not in operators(result.to_proto())


def test_the_threshold_is_the_smallest_weight_outside(tmp_path: Path) -> None:
    model = build(
        "(float[N,4] x) => (float[N,2] z) { d = Dropout(x) y = MatMul(d, v) z = MatMul(y, w) }",
        v=normal(4, 8),
        w=normal(8, 2),
    )
    onnx.save(model, tmp_path / "m.onnx")
    for threshold, outside in ((64, {"v", "w"}), (65, {"v"}), (128, {"v"}), (129, set())):
        place = tmp_path / f"{threshold}.onnx"
        options = (*ALWAYS, "--external-data-threshold", str(threshold))
        only = ("--only", "strip-dropout")
        assert run("optimize", tmp_path / "m.onnx", place, *QUICK, *options, *only).code == 0
        proto = onnx.load(place, load_external_data=False)
        assert {t.name for t in proto.graph.initializer if t.external_data} == outside


def test_what_one_file_cannot_hold_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("model", "saving"):
        monkeypatch.setattr(f"bnfold.modelfile.{module}.LARGEST_INLINE", 1000)
    place = tmp_path / "out.onnx"
    arguments = ("optimize", REWRITTEN, place, *QUICK)
    run(*arguments, "--external-data", "never").failed(2, "exceeds 2 GiB", "external data")
    run(*arguments, "--external-data-threshold", "1000000").failed(2, "1000000", "2 GiB")
    assert names(tmp_path) == set()
    assert run(*arguments, "--external-data-threshold", "100").code == 0
    assert locations(place)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--external-data", "maybe"), ("'maybe'", "auto, always, never")),
        (("--external-data", "never", "--external-data-name", "w"), ("without effect",)),
        (("--external-data", "never", "--external-data-threshold", "1"), ("threshold",)),
        (("--external-data-name", "a/b"), ("'a/b' is not the name of a file",)),
        (("--external-data-name", ".."), ("is not the name of a file",)),
        (("--external-data-name", ""), ("is not the name of a file",)),
        (("--external-data-name", "out.onnx"), ("out.onnx", "OUTPUT")),
        (("--external-data-name", "m.onnx"), ("MODEL",)),
        (("--external-data-name", "m.data"), ("m.data", "a file of the model")),
        (("--external-data-name", "other"), ("other exists", "--force")),
        (("--external-data-name", "sub"), ("sub is not a regular file",)),
        (("--external-data-threshold", "-1"), ("--external-data-threshold",)),
    ],
)
def test_a_place_that_is_no_place_for_data(
    tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    model = save_external(tmp_path)
    (tmp_path / "other").write_bytes(b"of somebody")
    (tmp_path / "sub").mkdir()
    before = {path: untouched(path) for path in tmp_path.iterdir() if path.is_file()}
    run("optimize", model, tmp_path / "out.onnx", *QUICK, *options).failed(2, *words)
    assert {p: untouched(p) for p in tmp_path.iterdir() if p.is_file()} == before
    if "other" in options:
        assert run("optimize", model, tmp_path / "out.onnx", *QUICK, *options, "--force").code == 0
        loads(tmp_path / "out.onnx")


def test_the_own_data_of_a_result_is_replaced_with_it(tmp_path: Path) -> None:
    place = tmp_path / "out.onnx"
    assert run("optimize", REWRITTEN, place, *QUICK, *NAMED, "--only", "fold-pad").code == 0
    before = contents(tmp_path)
    with plant_wrong_pass():
        run("optimize", REWRITTEN, place, "--no-bench", *NAMED).failed(1, "not equivalent")
    assert contents(tmp_path) == before
    assert run("optimize", REWRITTEN, place, *QUICK, *NAMED).code == 0
    assert names(tmp_path) == {"out.onnx", "w.data"}
    assert contents(tmp_path)["w.data"] != before["w.data"]
    loads(place)


@pytest.mark.parametrize("has_old", [False, True])
def test_where_the_model_cannot_follow_its_data_the_old_data_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_old: bool
) -> None:
    place = tmp_path / "out.onnx"
    storage = bnfold.StorageOptions("always", name="w.data")
    if has_old:
        bnfold.optimize(REWRITTEN, place, only="fold-pad", check=False, storage=storage)
    before = {path: untouched(path) for path in tmp_path.iterdir()}
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        run("optimize", REWRITTEN, place, *QUICK, *NAMED).failed(2, "out.onnx", os.strerror(5))
    state = {path: untouched(path)[:2] for path in tmp_path.iterdir()}
    assert state == {path: seen[:2] for path, seen in before.items()}


def test_where_files_have_one_name_only_it_works_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    place = tmp_path / "out.onnx"
    for only in (("--only", "fold-pad"), ()):
        assert run("optimize", REWRITTEN, place, *QUICK, *NAMED, *only).code == 0
    loads(place)
    assert names(tmp_path) == {"out.onnx", "w.data"}


def test_a_link_as_output_has_its_data_beside_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "out.onnx"
    link.symlink_to("elsewhere/m.onnx")
    assert run("optimize", REWRITTEN, link, *QUICK, *NAMED).code == 0
    assert names(tmp_path) == {"elsewhere", "out.onnx", "w.data"}
    assert names(tmp_path / "elsewhere") == set()
    loads(link)


def test_a_model_is_staged_again_without_data(tmp_path: Path) -> None:
    """As where a rewrite is dropped, and nothing is left to write but a copy."""
    place = tmp_path / "out.onnx"
    with StagedModel(place, storage=bnfold.StorageOptions("always")) as staged:
        staged.write_model(load(REWRITTEN))
        assert staged.data is not None
        assert names(tmp_path) == {staged.path.parent.name}
        staged.write_blocks([b"copy"])
        assert staged.data is None
        assert names(tmp_path) == {staged.path.name}
        staged.commit()
    assert contents(tmp_path) == {"out.onnx": b"copy"}
