"""Optimize real models: trained OCR networks, and model-zoo graphs with seeded weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import bnfold
from bnfold.record.data import Record
from tests.support.slow import few
from tests.support.zoo import LIGHT_MODELS, OCR_MODELS, light_model, ocr_model

# BatchNormalizations before and after.
LIGHT_OUTCOMES = {
    "densenet121": (121, 62),
    "inception_v2": (69, 0),
    "resnet50": (53, 0),
    "shufflenet": (49, 0),
}
OCR_OUTCOMES = {
    "ch_PP-OCRv4_det_infer": (3, 0),
    "ch_PP-OCRv4_rec_infer": (6, 0),
    "ch_ppocr_mobile_v2.0_cls_infer": (35, 0),
}


SLOW = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50")
LIKE_ALEXNET = ("vgg19", "zfnet512")
"""These take minutes, and what is rewritten there are AlexNet's Dropouts, again."""
ZOO = [name for name in LIGHT_MODELS if name not in LIKE_ALEXNET]


def batch_normalizations(record: Record) -> tuple[int, int]:
    assert record.output is not None
    models = record.model, record.output
    before, after = (model.ops.get("BatchNormalization", 0) for model in models)
    return before, after


def verdict(record: Record) -> str:
    assert record.equivalence is not None
    return record.equivalence.verdict


def assert_no_further_from_the_truth(record: Record) -> None:
    """Allow three times the original's error or noise, whichever is larger: rounding is random."""
    assert record.equivalence is not None
    (provider,) = record.equivalence.providers
    assert provider.truth is not None
    (output,) = provider.truth.outputs
    assert output.optimized <= 3 * max(output.original, output.noise)


@pytest.mark.parametrize("name", few(OCR_MODELS, ["ch_ppocr_mobile_v2.0_cls_infer"]))
def test_trained_ocr_models(name: str, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    record = bnfold.optimize(ocr_model(name), once, truth="always").record
    assert batch_normalizations(record) == OCR_OUTCOMES[name]
    assert verdict(record) == "pass"
    assert_no_further_from_the_truth(record)
    assert verdict(bnfold.optimize(once, twice).record) == "identical"
    assert once.read_bytes() == twice.read_bytes()


@pytest.mark.parametrize("name", few(ZOO, {*ZOO} - {*SLOW}))
def test_light_model_zoo(name: str) -> None:
    model = light_model(name)
    result = bnfold.optimize(model, truth="off", figures=False, hashes=False)
    assert batch_normalizations(result.record) == LIGHT_OUTCOMES.get(name, (0, 0))
    assert result.record.output is not None
    assert not {"Dropout", "Mul", "Add"} & set(result.record.output.ops)
    assert verdict(result.record) == ("pass" if result.record.rewrites else "identical")
    again = bnfold.optimize(result.to_proto(), check=False, figures=False, hashes=False).record
    assert not again.rewrites
