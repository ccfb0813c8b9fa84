"""Operators of detection models in float64: they agree with onnxruntime, and take little time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.arrays import Array
from bnfold.proof.float64.evaluation import Truth64
from tests.support.evaluate import run_plain
from tests.support.graphs import build, normal


def agree(folder: Path, model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    path = folder / "model.onnx"
    onnx.save(model, path)
    actual = Truth64(path).outputs(feeds)
    names = [output.name for output in model.graph.output]
    for name, expected in zip(names, run_plain(model, feeds), strict=True):
        assert actual[name].shape == expected.shape
        np.testing.assert_allclose(actual[name], expected, rtol=1e-4, atol=1e-5)


def some_boxes(*leading: int, seed: int = 0) -> Array:
    corner = np.abs(normal(*leading, 2, seed=seed)) * 3
    return np.concatenate([corner, corner + np.abs(normal(*leading, 2, seed=seed + 1))], -1)


def suppression(**attributes: int) -> onnx.ModelProto:
    listed = ", ".join(f"{name}={number}" for name, number in attributes.items())
    return build(
        "(float[B,N,4] boxes, float[B,C,N] scores) => (int64[K,3] picked) {"
        f" picked = NonMaxSuppression{f'<{listed}>' if listed else ''}"
        "(boxes, scores, most, overlap, least) }",
        most=np.array([20]),
        overlap=np.array([0.3], np.float32),
        least=np.array([0.1], np.float32),
    )


@pytest.mark.parametrize("seed", range(5))
def test_non_max_suppression(tmp_path: Path, seed: int) -> None:
    feeds = {"boxes": some_boxes(2, 90, seed=seed), "scores": np.abs(normal(2, 3, 90, seed=seed))}
    agree(tmp_path, suppression(), feeds)


def test_boxes_may_be_given_by_any_two_corners_or_by_their_center(tmp_path: Path) -> None:
    boxes, scores = some_boxes(1, 90), np.abs(normal(1, 2, 90))
    agree(tmp_path, suppression(), {"boxes": boxes[..., [2, 1, 0, 3]], "scores": scores})
    agree(tmp_path, suppression(center_point_box=1), {"boxes": boxes, "scores": scores})


def test_of_boxes_whose_scores_tie_the_first_is_picked(tmp_path: Path) -> None:
    boxes = some_boxes(1, 90).round(0)
    agree(tmp_path, suppression(), {"boxes": boxes, "scores": np.ones((1, 1, 90), np.float32)})


def test_empty_boxes_suppress_none(tmp_path: Path) -> None:
    boxes = np.zeros((1, 6, 4), np.float32)
    agree(tmp_path, suppression(), {"boxes": boxes, "scores": np.abs(normal(1, 2, 6))})


def test_without_a_limit_nothing_is_picked(tmp_path: Path) -> None:
    model = build(
        "(float[1,6,4] boxes, float[1,1,6] scores) => (int64[K,3] picked) {"
        " picked = NonMaxSuppression(boxes, scores) }"
    )
    agree(tmp_path, model, {"boxes": some_boxes(1, 6), "scores": np.abs(normal(1, 1, 6))})


def test_many_boxes_take_seconds_at_most(tmp_path: Path) -> None:
    """As many as SSDLite keeps, of 90 classes that are shifted apart: it took minutes."""
    shift = np.repeat(np.arange(90), 300)[:, None] * 8.0
    boxes = (some_boxes(1, 27000) + shift).astype(np.float32)
    onnx.save(suppression(), tmp_path / "model.onnx")
    model = Truth64(tmp_path / "model.onnx")
    begun = time.monotonic()
    model.outputs({"boxes": boxes, "scores": np.abs(normal(1, 1, 27000))}, begun + 20)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(tmp_path: Path, mode: str, ratio: int, coordinates: str) -> None:
    model = build(
        "(float[2,3,9,7] x, float[N,4] rois, int64[N] batches) => (float[N,3,5,4] y) {"
        f' y = RoiAlign<mode="{mode}", output_height=5, output_width=4, sampling_ratio={ratio},'
        f' spatial_scale=0.5, coordinate_transformation_mode="{coordinates}">(x, rois, batches) }}'
    )
    regions = some_boxes(12) * 4
    regions[3] = [5, 5, 5.2, 5.1]
    regions[4] = [-6, -2, 3, 25]  # beyond the image
    batches = np.arange(12) % 2
    agree(tmp_path, model, {"x": normal(2, 3, 9, 7), "rois": regions, "batches": batches})


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reduction", ["none", "add", "mul"])
def test_scatter_elements(tmp_path: Path, axis: int, reduction: str) -> None:
    model = build(
        "(float[5,6,7] x, int64[2,4,3] at, float[2,4,3] values) => (float[5,6,7] y) {"
        f' y = ScatterElements<axis={axis}, reduction="{reduction}">(x, at, values) }}'
    )
    at = np.argsort(normal(2, 4, 3), axis=axis)
    at[0, 0, 0] -= 0 if at[0, 0, 0] < 0 else [5, 6, 7][axis]
    agree(tmp_path, model, {"x": normal(5, 6, 7), "at": at, "values": normal(2, 4, 3)})


@pytest.mark.parametrize(
    ("batch", "shape"),
    [(0, (3, 2)), (0, (4, 2, 3)), (1, (5, 4, 1)), (1, (5, 2)), (2, (5, 6, 2, 1))],
)
def test_gather_nd(tmp_path: Path, batch: int, shape: tuple[int, ...]) -> None:
    sizes = ",".join(map(str, shape))
    model = build(
        f"(float[5,6,7] x, int64[{sizes}] at) => (float y) {{"
        f" y = GatherND<batch_dims={batch}>(x, at) }}"
    )
    at = np.random.default_rng(0).integers(-5, 5, shape)
    agree(tmp_path, model, {"x": normal(5, 6, 7), "at": at})
