"""Builds groups of options from the keywords of functions: what is None stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from bnfold.arrays import Array
from bnfold.options import (
    CheckOptions,
    ExecutionOptions,
    InputOptions,
    PassOptions,
    TimingOptions,
)

_Options = TypeVar(
    "_Options", PassOptions, InputOptions, ExecutionOptions, CheckOptions, TimingOptions
)


def given(options: _Options, **keywords: Any) -> _Options:
    """Return the group with the fields replaced that keywords are given for."""
    return replace(options, **{name: each for name, each in keywords.items() if each is not None})


def _names(names: str | Iterable[str]) -> tuple[str, ...] | None:
    """Return names as a tuple, one alone as well; None if there are none."""
    return (names,) if isinstance(names, str) else tuple(dict.fromkeys(names)) or None


def pass_options(
    passes: PassOptions | None, only: str | Iterable[str], skip: str | Iterable[str]
) -> PassOptions:
    """Return the options of passes."""
    return given(passes or PassOptions(), only=_names(only), skip=_names(skip))


def check_options(
    checking: CheckOptions | None,
    rtol: float | Mapping[str, float] | None,
    atol: float | Mapping[str, float] | None,
    truth: str | None,
) -> CheckOptions:
    """Return the options of a check; a tolerance is of all outputs, or by name."""
    checking = given(checking or CheckOptions(), truth=truth)
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        key = f"{name}s" if isinstance(tolerance, Mapping) else name
        checking = given(checking, **{key: tolerance})
    return checking


def execution_options(
    execution: ExecutionOptions | None,
    providers: str | Sequence[str] | None,
    threads: int | None,
    inputs: Mapping[str, Array] | None,
    shapes: Mapping[str, Sequence[int]] | None,
    samples: int | None,
    seed: int | None,
) -> ExecutionOptions:
    """Return the options of what runs models, with those of inputs."""
    execution = execution or ExecutionOptions()
    return given(
        execution,
        providers=_names(providers or ()),
        threads=threads,
        inputs=given(execution.inputs, arrays=inputs, shapes=shapes, samples=samples, seed=seed),
    )
