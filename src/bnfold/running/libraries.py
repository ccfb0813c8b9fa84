"""Shared libraries with operators of others, which every session of a run registers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_libraries: ContextVar[tuple[str, ...]] = ContextVar("libraries", default=())


@contextmanager
def custom_operators(libraries: Iterable[str | os.PathLike[str]]) -> Iterator[None]:
    """Let all sessions that are made meanwhile, also in forks, know the operators of libraries."""
    token = _libraries.set(tuple(os.path.abspath(library) for library in libraries))
    try:
        yield
    finally:
        _libraries.reset(token)


def registered() -> tuple[str, ...]:
    """Return the paths of the libraries; a process that is no fork needs to be told."""
    return _libraries.get()


def register(libraries: Iterable[str]) -> None:
    """Let all sessions of this process know the operators of libraries, from now on."""
    _libraries.set(tuple(libraries))
