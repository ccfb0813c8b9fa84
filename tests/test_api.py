"""The Python functions: results, records, exceptions, exit codes and exported names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx
import pytest

import bnfold
from bnfold.errors import (
    ModelError,
    NotEquivalentError,
    NotVerifiedError,
    ProviderError,
    UsageError,
)
from bnfold.record.data import RewriteRecord
from tests.support.cli import REWRITTEN, UNCHANGED, names, plant_wrong_pass, run
from tests.support.files import raising, save_external
from tests.support.files import scratch as scratch
from tests.support.graphs import batch_norm, build, normal


def test_a_model_in_memory_is_not_changed() -> None:
    model = onnx.load(REWRITTEN)
    before = model.SerializeToString(deterministic=True)
    result = bnfold.optimize(model)
    assert model.SerializeToString(deterministic=True) == before
    assert isinstance(result, bnfold.Result)
    assert isinstance(result.to_proto(), onnx.ModelProto)
    assert result.record.rewrites
    assert result.record.model.sha256 == hashlib.sha256(before).hexdigest()


def test_a_result_gives_a_model_of_its_own_at_each_call() -> None:
    result = bnfold.optimize(REWRITTEN)
    first = result.to_proto()
    first.graph.ClearField("node")
    assert len(result.to_proto().graph.node) > 0


@pytest.mark.parametrize("sample", [REWRITTEN, UNCHANGED], ids=["rewritten", "unchanged"])
def test_a_path_and_a_model_in_memory_give_the_same(tmp_path: Path, sample: Path) -> None:
    sources: dict[str, str | Path | onnx.ModelProto] = {
        "path": sample,
        "text": str(sample),
        "memory": onnx.load(sample),
    }
    results = {name: bnfold.optimize(source, tmp_path / name) for name, source in sources.items()}
    for result in results.values():
        assert result.to_proto() == results["path"].to_proto()
        assert without_seconds(result) == without_seconds(results["path"])
        assert result.record.refusals == results["path"].record.refusals
        assert result.record.equivalence == results["path"].record.equivalence
    written = [onnx.load(tmp_path / name) for name in sources]
    assert written == [written[0]] * 3


def without_seconds(result: bnfold.Result) -> list[RewriteRecord]:
    """Return the rewrites without how long their certificates took."""
    rewrites = []
    for rewrite in result.record.rewrites:
        assert rewrite.certificate is not None
        rewrites.append(replace(rewrite, certificate=replace(rewrite.certificate, seconds=0.0)))
    return rewrites


def test_the_model_returned_is_the_one_written(tmp_path: Path) -> None:
    result = bnfold.optimize(REWRITTEN, tmp_path / "out.onnx")
    assert result.to_proto() == onnx.load(tmp_path / "out.onnx")


def test_the_model_returned_outlives_its_files_unless_one_is_changed(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = bnfold.optimize(onnx.load(REWRITTEN), output, check=False)
    written = onnx.load(output)
    output.rename(tmp_path / "moved.onnx")
    assert result.to_proto() == written
    with (tmp_path / "moved.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"out\.onnx was changed"):
        _ = result.to_proto()


def test_without_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = bnfold.optimize(REWRITTEN).record
    assert names(tmp_path) == set()
    assert record.output is not None
    assert (record.output.written, record.output.path) == (False, None)


def test_the_record_describes_both_files(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    record = bnfold.optimize(REWRITTEN, output).record
    for path, said in ((REWRITTEN, record.model), (output, record.output)):
        assert said is not None
        content, proto = path.read_bytes(), onnx.load(path)
        assert said.sha256 == hashlib.sha256(content).hexdigest()
        assert said.bytes == len(content)
        assert said.nodes == len(proto.graph.node)
        assert sum(said.ops.values()) == said.nodes


def test_hashes_are_left_out_where_nobody_wants_them(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    record = bnfold.optimize(REWRITTEN, output, hashes=False).record
    assert record.output is not None
    assert (record.model.sha256, record.output.sha256) == (None, None)
    assert bnfold.explain(REWRITTEN, hashes=False).model.sha256 is None


def test_reports_have_hashes_and_the_terminal_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--no-check", "--no-bench")
    record = run("optimize", REWRITTEN, tmp_path / "a.onnx", *options, "--json").record
    report = tmp_path / "report.json"
    run("optimize", REWRITTEN, tmp_path / "b.onnx", *options, "--report", report)
    for content in (record, json.loads(report.read_text())):
        for part, path in (("model", REWRITTEN), ("output", tmp_path / "a.onnx")):
            assert content[part]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("hashlib.sha256", raising(AssertionError("no hash is needed")))
    assert run("optimize", REWRITTEN, tmp_path / "c.onnx", *options).code == 0


def test_what_is_not_equivalent_is_raised_with_its_record(tmp_path: Path) -> None:
    with plant_wrong_pass(), pytest.raises(NotEquivalentError) as raised:
        bnfold.optimize(REWRITTEN, tmp_path / "out.onnx")
    assert raised.value.exit_code == 1
    assert raised.value.record is not None
    assert raised.value.record.equivalence is not None
    assert raised.value.record.equivalence.verdict == "fail"
    assert "relu-to-sigmoid" in {rewrite.pass_name for rewrite in raised.value.record.rewrites}
    assert names(tmp_path) == set()


def test_what_is_not_verified_is_raised_with_its_record() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z, float[3] r) { y = Conv(x, w) "
        "z = BatchNormalization(y, s, b, m, v) r = RandomNormal <shape = [3]> () }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    with pytest.raises(NotVerifiedError) as raised:
        bnfold.optimize(model, certify="off")
    assert raised.value.exit_code == 5
    assert raised.value.record is not None
    assert raised.value.record.output is not None
    assert raised.value.record.output.written is False


@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"passes": bnfold.PassOptions(only=["nope"])}, UsageError, 2),
        ({"passes": bnfold.PassOptions(keep_node="(")}, UsageError, 2),
        ({"output": "missing/folder/out.onnx"}, UsageError, 2),
        ({"providers": "cuda"}, ProviderError, 4),
        ({"providers": ["tpu"]}, UsageError, 2),
        ({"rtol": float("inf")}, UsageError, 2),
    ],
    ids=["pass", "pattern", "output", "provider", "unknown", "anything"],
)
def test_failures_are_exceptions_with_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, options: Any, kind: type[bnfold.BnfoldError], code: int
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(kind) as raised:
        bnfold.optimize(REWRITTEN, **options)
    assert raised.value.exit_code == code
    assert raised.value.record is None


def test_check_takes_models_in_memory_and_paths() -> None:
    for pair in ((onnx.load(REWRITTEN), REWRITTEN), (REWRITTEN, onnx.load(REWRITTEN))):
        record = bnfold.check(*pair)
        assert record.equivalence is not None
        assert record.equivalence.verdict == "pass"


def test_every_name_of_the_package_can_be_imported() -> None:
    assert not [name for name in bnfold.__all__ if getattr(bnfold, name, None) is None]
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = bnfold.nope


# --- What a record says beside its results ------------------------------------------------------


def test_a_record_says_when_the_run_was_and_how_long_it_took() -> None:
    began = datetime.now(timezone.utc).replace(microsecond=0)
    records = [
        bnfold.optimize(REWRITTEN, check=False).record,
        bnfold.check(REWRITTEN, REWRITTEN, truth="off"),
        bnfold.bench(REWRITTEN),
        bnfold.explain(REWRITTEN),
    ]
    ended = datetime.now(timezone.utc)
    seconds = 0.0
    for record in records:
        assert record.started is not None
        started = datetime.strptime(record.started, "%Y-%m-%dT%H:%M:%SZ")
        assert began <= started.replace(tzinfo=timezone.utc) <= ended
        assert record.seconds is not None
        assert record.seconds > 0
        seconds += record.seconds
    assert seconds <= (ended - began).total_seconds()


def test_the_record_of_a_failure_is_dated_too(tmp_path: Path) -> None:
    with plant_wrong_pass(), pytest.raises(NotEquivalentError) as raised:
        bnfold.optimize(REWRITTEN, tmp_path / "out.onnx")
    assert raised.value.record is not None
    assert raised.value.record.seconds
    assert len(raised.value.record.figures) == 2
    with pytest.raises(ModelError) as unread:
        bnfold.explain(tmp_path / "none.onnx")
    assert unread.value.record is None


@pytest.mark.parametrize("source", [REWRITTEN, onnx.load(REWRITTEN)], ids=["path", "proto"])
def test_a_record_has_the_figures_of_both_models(source: Path | onnx.ModelProto) -> None:
    record = bnfold.optimize(source, check=False).record
    before, after = record.figures
    assert before.parameters == bnfold.inspect(REWRITTEN).cost.parameters
    assert before.inputs == after.inputs == {"images": "float32[batch,1,8,8]"}
    assert after.parameters < before.parameters
    assert record.nodes is not None
    assert ["BatchNormalization", "Conv"] in record.nodes.changed.values()
    assert set(record.nodes.gone.values()) == {"Conv"}
    if isinstance(source, Path):
        assert before.bytes == REWRITTEN.stat().st_size


def test_figures_count_external_data_and_are_those_of_what_is_written(tmp_path: Path) -> None:
    model = save_external(tmp_path)
    output = tmp_path / "out.onnx"
    record = bnfold.optimize(model, output, check=False).record
    size = sum(path.stat().st_size for path in (model, model.with_name("m.data")))
    assert record.figures[0].bytes == size
    assert record.figures[1] == bnfold.inspect(output).figures()


def test_figures_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.workflow.inspection.inspect", raising(AssertionError("not asked")))
    for record in (
        bnfold.optimize(REWRITTEN, check=False, figures=False).record,
        bnfold.check(REWRITTEN, REWRITTEN, truth="off", figures=False),
        bnfold.bench(REWRITTEN, figures=False),
    ):
        assert (record.figures, record.nodes) == ([], None)
    assert run("check", REWRITTEN, REWRITTEN, "--truth", "off").code == 0


def test_a_model_that_only_onnxruntime_reads_has_no_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bnfold.workflow.inspection.inspect", raising(ModelError("not supported")))
    record = bnfold.check(REWRITTEN, REWRITTEN, truth="off")
    assert (record.figures, record.nodes) == ([], None)
    assert record.equivalence is not None
    assert record.equivalence.verdict == "pass"
