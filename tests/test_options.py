"""The keywords of the functions, the groups behind them, and what a result can do."""

from __future__ import annotations

import copy
import inspect
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest

import bnfold
from tests.support.cli import REWRITTEN, SAMPLES, run
from tests.support.graphs import batch_norm, build, normal

FOLDED = build(
    "(float[N,3,H,W] x) => (float[N,4,h,w] y) "
    "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
    w=normal(4, 3, 3, 3),
    **batch_norm(4),
)


# --- Keywords and groups --------------------------------------------------------------------------


def test_one_name_alone_is_one_name() -> None:
    record = bnfold.optimize(FOLDED, check=False, only="fold-batchnorm").record
    assert [rewrite.pass_name for rewrite in record.rewrites] == ["fold-batchnorm"]
    assert not bnfold.explain(FOLDED, skip="fold-batchnorm").rewrites
    record = bnfold.check(FOLDED, FOLDED, providers="cpu")
    assert record.equivalence is not None
    assert [provider.provider for provider in record.equivalence.providers] == ["cpu"]


def test_nothing_is_timed_unless_asked() -> None:
    assert not bnfold.optimize(FOLDED).record.speed
    assert bnfold.optimize(FOLDED, bench=True).record.speed


def test_a_keyword_replaces_the_field_of_its_group_and_leaves_the_others() -> None:
    inputs = bnfold.InputOptions(seed=7, samples=5, shapes={"x": [1, 3, 9, 9]})
    execution = bnfold.ExecutionOptions(inputs=inputs)
    record = bnfold.check(FOLDED, FOLDED, execution=execution, samples=2)
    assert record.equivalence is not None
    assert record.equivalence.inputs is not None
    assert (record.equivalence.inputs.seed, record.equivalence.inputs.samples) == (7, 2)
    assert record.equivalence.inputs.shapes[0] == {"x": [1, 3, 9, 9]}


@pytest.mark.parametrize(
    ("group", "name", "least", "others"),
    [
        (bnfold.InputOptions, "samples", 1, [0.5, 1.5]),
        (bnfold.InputOptions, "seed", 0, [0.5]),
        (bnfold.ExecutionOptions, "threads", 1, [1.5]),
        (bnfold.CheckOptions, "rtol", 0, []),
        (bnfold.CheckOptions, "atol", 0, [float("inf"), float("nan")]),
        (bnfold.TimingOptions, "seconds", 0, [float("inf")]),
        (bnfold.TimingOptions, "tune_seconds", 0, [float("nan")]),
        (bnfold.TimingOptions, "require_speedup", 0, [float("inf")]),
        (bnfold.StorageOptions, "threshold", 0, [0.5]),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    group: type[Any], name: str, least: int, others: list[float]
) -> None:
    for number in (least, np.int64(least), least + 1):
        assert getattr(group(**{name: number}), name) == number
    for wrong in (least - 1, *others):
        with pytest.raises(bnfold.UsageError, match=str(wrong)):
            group(**{name: wrong})


def test_tolerances_by_name_and_sizes_of_batches_are_numbers_that_make_sense() -> None:
    with pytest.raises(bnfold.UsageError, match="rtol -1 is not a number from"):
        bnfold.CheckOptions(rtols={"y": -1})
    with pytest.raises(bnfold.UsageError, match="atol -1 is not a number from"):
        bnfold.CheckOptions(atols={"y": -1})
    with pytest.raises(bnfold.UsageError, match="batch 0 is not a number from 1 on"):
        bnfold.TimingOptions(batches=[1, 0])


def test_tolerances_and_truth_are_heeded() -> None:
    other = copy.deepcopy(FOLDED)
    content = onnx.numpy_helper.to_array(other.graph.initializer[0]) * np.float32(1.01)
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(content, "w"))
    for options, verdict in (
        ({}, "fail"),
        ({"rtol": 0.1, "atol": 1.0, "truth": "off"}, "pass"),
        ({"checking": bnfold.CheckOptions(rtol=0.1, atol=1.0, truth="off")}, "pass"),
        ({"checking": bnfold.CheckOptions(rtol=0.1, truth="off"), "atol": 1e-9, "rtol": 0}, "fail"),
    ):
        record = bnfold.check(FOLDED, other, **options)
        assert record.equivalence is not None
        assert record.equivalence.verdict == verdict


def test_content_of_inputs() -> None:
    content = np.ones((1, 3, 5, 5), np.float32)
    record = bnfold.optimize(FOLDED, inputs={"x": content}).record
    assert record.equivalence is not None
    assert record.equivalence.inputs is not None
    assert record.equivalence.inputs.source == "given"


def test_a_timing_takes_keywords_and_a_group() -> None:
    record = bnfold.bench(FOLDED, seconds=0, shapes={"x": [1, 3, 8, 8]})
    assert record.speed[0].shapes == {"x": [1, 3, 8, 8]}
    batched = bnfold.bench(FOLDED, seconds=0, batches=[1, 4]).speed
    assert {speed.shapes["x"][0] for speed in batched} == {1, 4}
    timing = bnfold.TimingOptions(seconds=0, memory=True)
    assert bnfold.bench(FOLDED, timing=timing).speed[0].peak_mb is not None


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (bnfold.check, {"providers": "tpu"}, "unknown provider 'tpu'; known: cpu, cuda"),
        (bnfold.check, {"rtol": float("nan")}, "would let anything pass"),
        (bnfold.check, {"atol": float("inf")}, "would let anything pass"),
        (bnfold.check, {"truth": "perhaps"}, "unknown truth 'perhaps'"),
        (bnfold.bench, {"seconds": float("inf")}, "seconds inf is not a number from 0.0 on"),
        (bnfold.bench, {"require_speedup": float("nan")}, "nan is not a number from 0.0"),
    ],
)
def test_options_that_make_no_sense(
    function: object, options: dict[str, object], words: str
) -> None:
    assert callable(function)
    with pytest.raises(bnfold.UsageError, match=words):
        function(FOLDED, FOLDED, **options)


@pytest.mark.parametrize(
    ("group", "options", "in_python", "on_command_line"),
    [
        (bnfold.CheckOptions, {"rtol": float("nan")}, "rtol nan", "--rtol nan"),
        (bnfold.CheckOptions, {"atols": {"y": -1}}, "atol -1", "--atol -1"),
        (bnfold.CheckOptions, {"require": "x"}, "unknown require 'x'", "unknown --require 'x'"),
        (
            bnfold.TimingOptions,
            {"require_speedup_at": "mean"},
            "unknown require_speedup_at 'mean'",
            "unknown --require-speedup-at 'mean'",
        ),
        (bnfold.TimingOptions, {"seconds": np.inf}, "seconds inf", "--bench-seconds inf"),
        (bnfold.TimingOptions, {"tune_seconds": -1}, "tune_seconds -1", "--tune-seconds -1"),
        (bnfold.StorageOptions, {"threshold": -1}, "threshold -1", "--external-data-threshold -1"),
        (bnfold.StorageOptions, {"name": "a/b"}, "name 'a/b'", "--external-data-name 'a/b'"),
        (
            bnfold.StorageOptions,
            {"name": "w", "external_data": "never"},
            "external_data 'never' leaves name",
            "--external-data 'never' leaves --external-data-name",
        ),
    ],
)
def test_an_error_names_the_parameter_in_python_and_the_option_on_the_command_line(
    group: type[Any], options: dict[str, Any], in_python: str, on_command_line: str
) -> None:
    with pytest.raises(bnfold.UsageError) as caught:
        group(**options)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert str(error).startswith(in_python)
        assert error.on_command_line.startswith(on_command_line)


def test_a_model_that_is_not_replaced_names_force_as_the_caller_does(tmp_path: Path) -> None:
    onnx.save(FOLDED, tmp_path / "m.onnx")
    other = shutil.copy(REWRITTEN, tmp_path / "force.onnx")
    with pytest.raises(bnfold.UsageError, match=r"force\.onnx is a model .*; force replaces it$"):
        bnfold.optimize(FOLDED, other)
    run("optimize", tmp_path / "m.onnx", other).failed(2, "force.onnx is a", "; --force replaces")


def test_every_keyword_is_documented() -> None:
    for function in (bnfold.optimize, bnfold.bench):
        documentation = inspect.getdoc(function) or ""
        missing = [
            n for n in inspect.signature(function).parameters if f"{n}: " not in documentation
        ]
        assert not missing, (function, missing)


# --- Records and results --------------------------------------------------------------------------


def test_a_library_call_has_no_command_line() -> None:
    with mock.patch.object(sys, "argv", ["host.py", "--secret", "hunter2"]):
        for record in (
            bnfold.optimize(FOLDED).record,
            bnfold.check(FOLDED, FOLDED),
            bnfold.bench(FOLDED, seconds=0),
            bnfold.explain(FOLDED),
        ):
            assert record.command == []
            assert "hunter2" not in record.to_json()


def test_a_result_outlives_its_output(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    model = Path(shutil.copy(REWRITTEN, folder / "m.onnx"))
    result = bnfold.optimize(model, folder / "out.onnx")
    expected = onnx.load(folder / "out.onnx")
    shutil.rmtree(folder)
    assert result.to_proto() == expected


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_result_can_be_pickled_and_copied(path: Path) -> None:
    result = bnfold.optimize(path, check=False)
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert other.record == result.record
        assert other.to_proto() == result.to_proto()
        assert pickle.loads(pickle.dumps(other)).to_proto() == result.to_proto()


def test_a_pass_with_a_bug_is_no_usage_error() -> None:
    assert bnfold.PassFailedError.exit_code == 70
    assert not issubclass(bnfold.PassFailedError, bnfold.UsageError)


def test_all_exceptions_are_exported() -> None:
    from bnfold import errors

    names = {name for name, value in vars(errors).items() if isinstance(value, type)}
    exceptions = {name for name in names if issubclass(getattr(errors, name), Exception)}
    assert exceptions <= set(bnfold.__all__)


def test_each_provider_has_its_usual_seconds_or_an_equal_share_of_what_is_asked() -> None:
    usual = bnfold.TimingOptions()
    assert usual.seconds_on(["cpu"]) == {"cpu": 5.0}
    assert usual.seconds_on(["cpu", "cuda"]) == {"cpu": 5.0, "cuda": 30.0}
    asked = bnfold.TimingOptions(seconds=8.0)
    assert asked.seconds_on(["cpu", "cuda"]) == {"cpu": 4.0, "cuda": 4.0}
