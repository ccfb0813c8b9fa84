"""Damaged copies of small models, from a seed: bytes that change, and fields that do."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

from tests.support.cli import SAMPLES
from tests.support.graphs import build, normal

_BYTES = [b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x0f", b"\xc3\x28", b"\xed\xa0\x80"]
_NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 7, 16, 17, 100, 2**31 - 1, 2**40, 2**63 - 1]


def seeds() -> list[bytes]:
    """Return the models to damage: small, and of many kinds of fields."""
    models = [
        build(
            "(float[N,3,8,8] x) => (float[N,4,3,3] z) { y = Conv(x, w) r = Relu(y) "
            "b = BatchNormalization(r, s, b0, m, v) p = MaxPool<kernel_shape=[2,2], "
            "strides=[2,2]>(b) z = Dropout(p) }",
            opset=17,
            w=normal(4, 3, 3, 3),
            s=np.ones(4, np.float32),
            b0=np.zeros(4, np.float32),
            m=np.zeros(4, np.float32),
            v=np.ones(4, np.float32),
        ),
        build(
            "(float[2,4] x, bool c) => (float[2,4] y) { k = Constant<value_ints=[2,4]>() "
            "q = Reshape(x, k) t = Transpose<perm=[1,0]>(q) u = Transpose<perm=[1,0]>(t) "
            "y = If(c) <then_branch = g () => (float[2,4] a) { a = Neg(u) }, "
            "else_branch = h () => (float[2,4] a2) { a2 = Identity(u) }> }",
            opset=17,
        ),
    ]
    content = [model.SerializeToString() for model in models]
    content += [path.read_bytes() for path in SAMPLES[:3]]
    return content


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """Yield so many damaged models."""
    generator, originals = random.Random(seed), seeds()
    for number in range(count):
        original = generator.choice(originals)
        yield (_torn if number % 3 == 0 else _changed)(original, generator)


def _torn(content: bytes, generator: random.Random) -> bytes:
    """Change, remove or repeat some bytes."""
    torn = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 5])):
        at = generator.randrange(len(torn))
        end = at + generator.choice([1, 1, 2, 8])
        kind = generator.randrange(4)
        if kind == 0:
            torn[at:end] = generator.choice(_BYTES)
        elif kind == 1:
            del torn[at:end]
        elif kind == 2:
            torn[at:at] = torn[at:end]
        else:
            torn[at] ^= 1 << generator.randrange(8)
    return bytes(torn[: generator.randrange(1, len(torn))] if generator.random() < 0.1 else torn)


def _changed(content: bytes, generator: random.Random) -> bytes:
    """Change fields of the message, which stays one."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(generator.choice([1, 1, 2, 4])):
        fields = list(_fields(model))
        message, field = generator.choice(fields)
        _change(message, field, generator)
    return bytes(model.SerializeToString())


def _fields(message: Message) -> Iterator[tuple[Any, Any]]:
    """Yield each field that is set, with its message, except single bytes of weights."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for inner in value if hasattr(value, "__len__") else [value]:
                yield from _fields(inner)


def _change(message: Any, field: Any, generator: random.Random) -> None:
    value = getattr(message, field.name)
    kind = generator.randrange(3)
    if hasattr(value, "append") or hasattr(value, "extend"):
        at = generator.randrange(len(value))
        if kind == 0:
            del value[at]
        elif kind == 1 or field.message_type is not None:
            value.extend([value[at]])
        else:
            value[at] = _other(value[at], generator)
    elif kind == 0:
        message.ClearField(field.name)
    elif field.message_type is None:
        with contextlib.suppress(ValueError):  # an enumeration has no such value
            setattr(message, field.name, _other(value, generator))


def _other(value: Any, generator: random.Random) -> Any:
    if isinstance(value, float):
        return generator.choice([0.0, -1.0, float("nan"), float("inf"), 1e30])
    if isinstance(value, int):
        return max(-(2**31), min(generator.choice(_NUMBERS), 2**31 - 1))
    if isinstance(value, bytes):
        return value[: len(value) // 2] if generator.random() < 0.5 else value + b"\xff"
    return generator.choice(
        ["", "x", value + "\u202e", value * 50, "\x00", "ai.onnx", "y", "z", "r"]
    )
