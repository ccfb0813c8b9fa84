"""Runs both sides of a window on probes, and says where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper

from bnfold.arrays import Array, type_and_shape
from bnfold.proof.certificates.deadline import require_time
from bnfold.proof.certificates.sizes.sizing import Shapes, Sizing
from bnfold.proof.certificates.windows import NotShown, Window
from bnfold.proof.float64.evaluation import NoTruth, Truth64
from bnfold.record.data import Certificate, CertificateKind, Difference
from bnfold.running.runtime import Level, Session

ROUNDING = {"float": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "double": 2.0**-53}
"""Half a step of each type, relative: how far a new weight is from the exact one."""

MOST_ROUNDINGS = 16.0
"""At a probe, a row may be off by so many roundings, in units of its norm. Where each weight of a
row is rounded once, the difference's norm is at most one, and of a million normal values the
largest is at five; norms are estimated, too."""

TINY = 2.0**-126
"""The smallest normal float32: below, new weights are set to zero."""


_MOST_TOGETHER = 2**22
"""Elements of the inputs of one run."""


class Differs(Exception):  # noqa: N818 - an answer, not an error
    """The two sides of a window compute different values."""

    def __init__(self, difference: Difference) -> None:
        super().__init__()
        self.difference = difference


def certified(
    kind: CertificateKind,
    chosen: Sequence[Sizing],
    probes: int,
    bound: float | None = None,
    doubt: float | None = None,
) -> Certificate:
    """Return the certificate of a proof of a kind, at a choice of sizes."""
    shrunk = any(sizing.shrunk for sizing in chosen)
    return Certificate(
        "sampled" if kind == "sampled" else "certified",
        kind,
        probes=probes,
        bound=bound,
        doubt=doubt,
        shapes=[{name: list(shape) for name, shape in sizing.shapes.items()} for sizing in chosen],
        note="at smaller sizes, with all of the border" if shrunk else "",
    )


Run = Callable[[Mapping[str, Array]], Array]


def in_float64(window: Window) -> tuple[Run, Run]:
    """Return functions that evaluate each side in float64.

    Raises:
        NoTruth: when called, if an operator cannot be evaluated.
    """
    key = "in float64", 0
    if key not in window.answers:
        window.answers[key] = evaluator(window.before), evaluator(window.after)
    runs: tuple[Run, Run] = window.answers[key]
    return runs


def evaluator(model: onnx.ModelProto) -> Run:
    """Return a function that evaluates a side in float64."""
    truth = Truth64.of_part(model)
    return lambda feeds: next(iter(truth.outputs(feeds, before_each=require_time).values()))


def by_onnxruntime(model: onnx.ModelProto) -> Run:
    """Return a function that runs a side with onnxruntime, without its optimizations."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    for value in free.graph.input:
        value.type.tensor_type.ClearField("shape")  # it may be run at another size
    session = Session(free.SerializeToString(), "cpu", Level.DISABLED)

    def run(feeds: Mapping[str, Array]) -> Array:
        require_time()
        return np.asarray(next(iter(session.run(feeds).values())))

    return run


def each_probe(sizing: Sizing, probes: Sequence[Mapping[str, Array]], run: Run) -> Array:
    """Return the output for each probe, stacked: some in one run if samples do not mix.

    Raises:
        NotShown: if they differ in shape.
    """
    if sizing.batched:
        return _stacked(probes, run)
    if sizing.stackable:
        try:
            together = _stacked(probes, run)
        except (NoTruth, ValueError):  # it computes with its sizes
            together = np.zeros(0)
        tried = [len(probes) // 2, len(probes) - 1]
        if len(together) and all(_is_same(together[at], run(probes[at])) for at in tried):
            return together
    outputs = [run(probe) for probe in probes]
    if len({output.shape for output in outputs}) > 1:
        raise NotShown("how many elements it has depends on what they are computed from")
    return np.stack(outputs)


def _stacked(probes: Sequence[Mapping[str, Array]], run: Run) -> Array:
    """Run probes as batches of a size at which a run is short; return each one's output.

    Raises:
        ValueError: if an output has no part for each.
    """
    together = max(1, _MOST_TOGETHER // max(1, sum(array.size for array in probes[0].values())))
    stacked = []
    for start in range(0, len(probes), together):
        some = probes[start : start + together]
        whole = run({name: np.concatenate([probe[name] for probe in some]) for name in some[0]})
        if not whole.ndim:
            raise ValueError("one number is of all probes together")
        stacked.append(whole.reshape(len(some), len(whole) // len(some), *whole.shape[1:]))
    return np.concatenate(stacked)


def _is_same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and np.allclose(one, other, 1e-9, 1e-12, equal_nan=True)


def single(sizing: Sizing) -> Shapes:
    """Return the shapes of one sample."""
    if not sizing.batched:
        return sizing.shapes
    return {name: (1, *shape[1:]) for name, shape in sizing.shapes.items()}


def require_equal_bits(window: Window, before: Array, after: Array) -> None:
    """Raise `Differs` unless both have the same type, shape and bits."""
    name = window.before.graph.output[0].name
    if before.shape != after.shape or before.dtype != after.dtype:
        change = f"{type_and_shape(before)} becomes {type_and_shape(after)}"
        raise Differs(Difference(name, [], None, None, change))
    is_float = before.dtype.kind == "f"
    if not np.array_equal(before, after, equal_nan=is_float):
        at = tuple(int(i) for i in np.argwhere(before != after)[0])
        raise Differs(Difference(name, list(at), float(before[at]), float(after[at])))


def require_content(output: Array) -> None:
    """Raise `NotShown` if an output is empty."""
    if not output.size:
        raise NotShown("its output is empty at the sizes that its proof tried")
