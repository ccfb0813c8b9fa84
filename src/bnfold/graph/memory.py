"""What is remembered about nodes and values during a sweep over a graph.

Searches from different nodes lead through the same part of a graph, again and again. Remembered,
each part is searched once in a sweep.

An edit may make an answer outdated: the engine forgets what concerns the nodes around the edit, and
all answers at the end of the sweep. So remember only answers that, if outdated, keep a pass from
acting: a sweep that has edited is followed by another, and the last one has edited nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import onnx_ir as ir


class Memory:
    """Answers about nodes and values, by question."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[Any, Any]] = {}

    def answers(self, question: str) -> dict[Any, Any]:
        """Return the answers to a question by node or value, to read and to add to."""
        return self._answers.setdefault(question, {})

    def forget(self, subjects: Iterable[ir.Node | ir.Value]) -> None:
        """Forget all answers about these."""
        for subject in subjects:
            for answers in self._answers.values():
                answers.pop(subject, None)


_current: ContextVar[Memory | None] = ContextVar("bnfold.memory", default=None)


def memory() -> Memory:
    """Return the memory of the sweep, or a new one outside a sweep."""
    return _current.get() or Memory()


@contextmanager
def remembering() -> Iterator[Memory]:
    """Remember answers until the end of the block."""
    token = _current.set(Memory())
    try:
        yield memory()
    finally:
        _current.reset(token)
