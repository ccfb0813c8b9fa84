"""How long what is learned of a file is kept, and that nobody changes it."""

from __future__ import annotations

import gc
import os
import weakref
from contextlib import nullcontext
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

import bnfold
from bnfold.modelfile.loading import load
from bnfold.modelfile.model import LoadedModel
from bnfold.proof.learned import learned, learning_once
from bnfold.running.isolation import isolated
from tests.support.cli import MODELS
from tests.support.graphs import build, normal

CONV = "(float[N,2,7,7] x) => (float[N,3,5,5] y) { y = Conv(x, w) }"


def saved(path: Path, seed: int = 0) -> Path:
    onnx.save(build(CONV, w=normal(3, 2, 3, 3, seed=seed)), path)
    return path


def test_a_file_is_read_once_in_a_context_and_by_each_caller_beyond(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx")
    with learning_once():
        kept = learned(path)
        assert learned(path) is kept
        assert isolated(lambda _: learned(path) is kept, lambda _: None), "the fork has it, too"
    assert learned(path) is not kept


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx")
    with learning_once():
        before = learned(path)
        os.replace(saved(tmp_path / "other.onnx", seed=1), path)
        assert learned(path) is not before


def test_no_file_stays_open_after_the_context(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx")
    with learning_once():
        kept = weakref.ref(learned(path))
        assert kept() is not None
    gc.collect()
    assert kept() is None


def test_what_is_no_file_is_learned_for_each_caller() -> None:
    model = build(CONV, w=normal(3, 2, 3, 3))
    with learning_once():
        assert learned(model) is not learned(model)


@pytest.mark.parametrize("name", ["dense_bn_dense", "conv_pool_bn_elu", "preactivation_resnet"])
def test_a_check_changes_nothing_of_what_is_learned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("proof.equivalence", "workflow.certifying"):  # a fork changes nothing here
        monkeypatch.setattr(f"bnfold.{module}.isolated", lambda work, progress: work(progress))
    paths = MODELS / f"{name}.onnx", tmp_path / "optimized.onnx"
    bnfold.optimize(*paths, check=False)
    with learning_once():
        models = [learned(path).ir for path in paths]
        before = [ir.to_proto(model) for model in models]
        monkeypatch.setattr("bnfold.proof.learned.learning_once", nullcontext)
        bnfold.check(*paths)
        assert [learned(path).ir for path in paths] == models, "the check had these"
    assert [ir.to_proto(model) for model in models] == before


def test_a_check_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = saved(tmp_path / "model.onnx"), saved(tmp_path / "other.onnx", seed=1)
    read: list[str] = []

    def read_file(path: str, version: object) -> LoadedModel:
        read.append(path)
        return load(path)

    monkeypatch.setattr("bnfold.proof.learned._file", read_file)
    record = bnfold.check(*paths)
    assert record.figures is not None
    assert read == [str(path) for path in paths]
