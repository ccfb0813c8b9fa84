"""The samples: small real networks with the outcomes that models/README.md documents."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold
from bnfold.modelfile.loading import load
from tests.support.cli import SAMPLES
from tests.support.evaluate import run_float64, run_plain

FOLDER = Path(__file__).parent.parent / "models"

# Name: (BatchNormalization before, after, Dropout before, after, reasons of refusals).
OUTCOMES = {
    "conv_bn_relu_pool": (2, 0, 0, 0, {"FUSED_BY_RUNTIME"}),
    "conv_relu_bn_pool": (2, 1, 0, 0, {"FUSED_BY_RUNTIME", "ACTIVATION_SHIFT"}),
    "conv_bn_conv": (4, 0, 0, 0, {"FUSED_BY_RUNTIME", "PADDED_BETWEEN"}),
    "dense_bn_dense": (3, 0, 0, 0, set()),
    "conv_bn_flatten_dense": (1, 0, 0, 0, set()),
    "dropout_after_pool": (2, 0, 2, 0, {"FUSED_BY_RUNTIME"}),
    "dropout_before_pool": (2, 0, 2, 0, {"FUSED_BY_RUNTIME"}),
    "preactivation_resnet": (7, 4, 0, 0, {"SHARED"}),
    "conv_pool_bn_elu": (2, 0, 0, 0, set()),
    "channels_last": (4, 0, 0, 0, {"FUSED_BY_RUNTIME"}),
    "training_mode": (2, 2, 1, 1, {"FUSED_BY_RUNTIME", "TRAINING_MODE"}),
}
DETERMINISTIC = [name for name in OUTCOMES if name != "training_mode"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(FOLDER / "digits.npz") as digits:
        content: np.ndarray = digits["images"]
    return content


@pytest.fixture(scope="module")
def describe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("describe", FOLDER / "describe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_sample_is_listed_and_small() -> None:
    files = {path.stem: path.stat().st_size for path in SAMPLES}
    assert set(files) == set(OUTCOMES)
    assert max(files.values()) <= 300_000


@pytest.mark.parametrize("name", OUTCOMES)
def test_documented_outcome(name: str) -> None:
    record = bnfold.optimize(FOLDER / f"{name}.onnx").record
    assert record.output is not None
    assert record.equivalence is not None
    before, after = record.model.ops, record.output.ops
    counts = (
        before.get("BatchNormalization", 0),
        after.get("BatchNormalization", 0),
        before.get("Dropout", 0),
        after.get("Dropout", 0),
    )
    assert (*counts, {refusal.reason for refusal in record.refusals}) == OUTCOMES[name]
    assert record.equivalence.verdict == ("pass" if record.rewrites else "identical")


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_held_out_digit_is_classified_as_before(name: str, images: np.ndarray) -> None:
    model = onnx.load(FOLDER / f"{name}.onnx")
    optimized = bnfold.optimize(model).to_proto()
    (expected,), (actual,) = (run_plain(proto, {"images": images}) for proto in (model, optimized))
    np.testing.assert_array_equal(expected.argmax(axis=1), actual.argmax(axis=1))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_folding_does_not_move_away_from_float64(name: str, images: np.ndarray) -> None:
    model = onnx.load(FOLDER / f"{name}.onnx")
    optimized = bnfold.optimize(model, check=False).to_proto()
    feeds = {"images": images[:40]}
    (truth,), (before,), (after,) = (
        run_float64(model, feeds),
        run_plain(model, feeds),
        run_plain(optimized, feeds),
    )
    errors = [float(np.sqrt(np.mean((logits - truth) ** 2))) for logits in (before, after)]
    assert errors[1] <= 2 * errors[0]


def test_a_training_mode_export_folds_on_request(images: np.ndarray) -> None:
    result = bnfold.optimize(
        FOLDER / "training_mode.onnx", passes=bnfold.PassOptions(force_inference=True)
    )
    ops = load(result.to_proto()).count_operators()
    assert not {"BatchNormalization", "Dropout"} & set(ops)
    assert {rewrite.exactness for rewrite in result.record.rewrites} == {
        "semantic",
        "rounded",
        "bitwise",
    }


def test_the_page_about_the_samples_is_up_to_date(describe: ModuleType) -> None:
    assert (FOLDER / "README.md").read_text() == describe.page(), "run `make models`"


def test_weights_folded_in_float64_are_nearer_to_the_truth_than_onnxruntimes(
    images: np.ndarray, tmp_path: Path
) -> None:
    """In float64, the only difference left is the rounding of the weights."""
    path, folded = FOLDER / "conv_bn_relu_pool.onnx", tmp_path / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {"images": images[:40]}
    truth, ours, theirs = (
        run_float64(model, feeds)[0]
        for model in (
            onnx.load(path),
            bnfold.optimize(path, check=False).to_proto(),
            onnx.load(folded),
        )
    )
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(folded).graph.node}
    assert np.linalg.norm(ours - truth) < np.linalg.norm(theirs - truth)
