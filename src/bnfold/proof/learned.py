"""What can be learned of a model file, for all that ask for it, here and in forks.

To read a model and infer its shapes takes a fraction of a second, and a check asks for it often:
for traits, inputs, the float64 evaluation, certificates and figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import onnx

from bnfold.graph.facts import learn
from bnfold.modelfile.loading import ModelSource, load
from bnfold.modelfile.model import LoadedModel
from bnfold.running.learning import TOOLS


def learned(source: ModelSource) -> LoadedModel:
    """Load a model, and learn all about it. It is not the caller's alone: nobody may change it.

    Raises:
        ModelError: if it cannot be read, is invalid or is not supported.
    """
    if isinstance(source, onnx.ModelProto) or not os.path.isfile(source):
        return _loaded(source)
    status = os.stat(source)
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _read.get()(os.fspath(source), version)


@contextmanager
def learning_once() -> Iterator[None]:
    """Read a file once for all that ask within the context; afterwards, none is kept open.

    What is learned before a fork, the fork has, too.
    """
    token = _read.set(lru_cache(maxsize=2)(_file))
    try:
        yield
    finally:
        _read.reset(token)


_Version = tuple[int, int, int, int]
"""Of a file: its device and number there, its bytes, and when it was written last."""


def _file(path: str, version: _Version) -> LoadedModel:
    return _loaded(path)


def _loaded(source: ModelSource) -> LoadedModel:
    loaded = load(source)
    learn(loaded.ir, TOOLS)
    return loaded


_read: ContextVar[Callable[[str, _Version], LoadedModel]] = ContextVar("_read", default=_file)
