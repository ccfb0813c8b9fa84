"""Operators of detection models for the float64 evaluation.

Onnx's reference evaluator visits single elements in Python: a NonMaxSuppression of 27,000 boxes
takes it minutes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array, FloatArray


class NonMaxSuppression(OpRun):
    """Picks the boxes with the highest scores, without those that overlap a picked one."""

    def _run(
        self,
        boxes: Array,
        scores: Array,
        most: Array | None = None,
        overlap: Array | None = None,
        least: Array | None = None,
        *,
        center_point_box: int | None = None,
        **_: object,
    ) -> tuple[Array]:
        limit = int(most.reshape(())) if most is not None and most.size else 0
        most_overlap = float(overlap.reshape(())) if overlap is not None and overlap.size else 0.0
        least_score = float(least.reshape(())) if least is not None and least.size else -np.inf
        picked = [
            (batch, category, index)
            for batch in range(scores.shape[0])
            for corners in [_corners(boxes[batch], is_centered=bool(center_point_box))]
            for category in range(scores.shape[1])
            for index in _picked(corners, scores[batch, category], limit, most_overlap, least_score)
        ]
        return (np.array(picked, np.int64).reshape(-1, 3),)


def _corners(boxes: Array, *, is_centered: bool) -> FloatArray:
    """Return the least and the largest coordinates of each box."""
    if is_centered:  # x, y, width, height
        return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    ends = boxes.reshape(-1, 2, 2)
    return np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)


def _picked(
    corners: FloatArray, scores: Array, limit: int, most_overlap: float, least_score: float
) -> list[int]:
    """Return the picked boxes by score; where scores tie, by index.

    Only boxes that begin along one axis before a picked one ends can overlap it. Sorted by where
    they begin, they are few: models keep the boxes of several classes apart by shifting them.
    """
    starts = corners[:, 0]
    by_start = np.argsort(starts, kind="stable")
    x0, y0, x1, y1 = corners[by_start].T
    place = np.empty(len(by_start), np.int64)
    place[by_start] = np.arange(len(by_start))
    areas = (x1 - x0) * (y1 - y0)
    longest = float((x1 - x0).max(initial=0.0))
    # What is compared is sorted, so that where each one's neighbours begin and end is one search.
    first = np.searchsorted(x0, x0 - longest)
    last = np.searchsorted(x0, x1, side="right")
    is_free = scores[by_start] > least_score
    picked: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if len(picked) >= limit:
            break
        at = place[index]
        if not is_free[at]:
            continue
        picked.append(int(index))
        near = slice(first[at], last[at])
        width = np.minimum(x1[near], x1[at]) - np.maximum(x0[near], x0[at])
        height = np.minimum(y1[near], y1[at]) - np.maximum(y0[near], y0[at])
        shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        # shared / union > most_overlap, without a division by 0
        is_free[near] &= ~(
            (shared > most_overlap * (areas[near] + areas[at] - shared)) & (shared > 0)
        )
        is_free[at] = False
    return picked


class RoiAlign(OpRun):
    """Samples each region between the pixels, and pools the samples of each bin.

    Interpolation is a product along each axis, so the mean of a bin is a product of matrices.
    """

    def _run(
        self,
        x: Array,
        regions: Array,
        batches: Array,
        *,
        coordinate_transformation_mode: str | None = None,
        mode: str | None = None,
        output_height: int | None = None,
        output_width: int | None = None,
        sampling_ratio: int | None = None,
        spatial_scale: float | None = None,
        **_: object,
    ) -> tuple[Array]:
        bins = output_height or 1, output_width or 1
        shift = self._shift(coordinate_transformation_mode)
        result = np.zeros((len(regions), x.shape[1], *bins))
        for number, region in enumerate(regions):
            start_x, start_y, end_x, end_y = region * (spatial_scale or 1.0) - shift
            image = x[int(batches[number])]
            along = [
                _samples(start, end, size, count, sampling_ratio or 0, is_shifted=shift > 0)
                for start, end, size, count in (
                    (start_y, end_y, image.shape[1], bins[0]),
                    (start_x, end_x, image.shape[2], bins[1]),
                )
            ]
            pool = _largest if mode == "max" else _mean
            result[number] = pool(image, along, bins)
        return (result,)

    def _shift(self, mode: str | None) -> float:
        if mode is None:  # the attribute came with opset 16
            return 0.5 if self.run_params["opsets"][""] >= 16 else 0.0
        return 0.5 if mode == "half_pixel" else 0.0


_Samples = tuple[Array, Array, FloatArray, FloatArray]


def _samples(
    start: float, end: float, size: int, bins: int, ratio: int, *, is_shifted: bool
) -> _Samples:
    """Return, for the samples along an axis, the pixels around each, and their weights."""
    length = end - start if is_shifted else max(end - start, 1.0)
    count = ratio if ratio > 0 else int(np.ceil(length / bins))
    places = start + (np.arange(bins * max(count, 0)) + 0.5) * length / (bins * max(count, 1))
    is_inside = (places >= -1) & (places <= size)
    places = np.clip(places, 0, size - 1)
    low = np.minimum(places.astype(np.int64), size - 1)
    upper = places - low
    return low, np.minimum(low + 1, size - 1), (1 - upper) * is_inside, upper * is_inside


def _mean(image: Array, along: list[_Samples], bins: tuple[int, int]) -> FloatArray:
    weights = []
    for (low, high, lower, upper), size, count in zip(along, image.shape[1:], bins, strict=True):
        matrix = np.zeros((count, size))
        bin_of = np.arange(len(low)) // max(len(low) // count, 1)
        np.add.at(matrix, (bin_of, low), lower)
        np.add.at(matrix, (bin_of, high), upper)
        weights.append(matrix / max(len(low) // count, 1))
    result: FloatArray = weights[0] @ image @ weights[1].T
    return result


def _largest(image: Array, along: list[_Samples], bins: tuple[int, int]) -> FloatArray:
    """Return the largest product of a pixel and its weight in each bin, as onnxruntime does."""
    (y_low, y_high, y_lower, y_upper), (x_low, x_high, x_lower, x_upper) = along
    if not len(y_low) or not len(x_low):
        return np.zeros((len(image), *bins))
    largest: Any = -np.inf
    for rows, row_weights in ((y_low, y_lower), (y_high, y_upper)):
        for columns, column_weights in ((x_low, x_lower), (x_high, x_upper)):
            weights = row_weights[:, None] * column_weights
            largest = np.maximum(largest, weights * image[:, rows[:, None], columns])
    found: FloatArray = largest.reshape(len(image), bins[0], -1, bins[1], len(x_low) // bins[1])
    pooled: FloatArray = found.max(axis=(2, 4))
    return pooled


class ScatterElements(OpRun):
    """Writes each update to the place along an axis that its index names."""

    def _run(
        self,
        x: Array,
        indices: Array,
        updates: Array,
        *,
        axis: int | None = None,
        reduction: str | None = None,
        **_: object,
    ) -> tuple[Array]:
        axis = (axis or 0) % x.ndim
        where: list[Array] = list(np.indices(indices.shape, sparse=True))
        where[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
        place = tuple(where)
        result = x.copy()
        if reduction in (None, "none"):
            result[place] = updates
        else:
            functions = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
            functions[reduction].at(result, place, updates)
        return (result,)


class GatherND(OpRun):
    """Looks up what the last axis of the indices names, past batch axes."""

    def _run(
        self, x: Array, indices: Array, *, batch_dims: int | None = None, **_: object
    ) -> tuple[Array]:
        batch = batch_dims or 0
        leading: list[Array] = list(np.indices(x.shape[:batch], sparse=True))
        between = indices.ndim - 1 - batch
        where = [each.reshape(*each.shape, *[1] * between) for each in leading]
        return (x[(*where, *np.moveaxis(indices, -1, 0))],)


DETECTION: list[type[OpRun]] = [GatherND, NonMaxSuppression, RoiAlign, ScatterElements]
