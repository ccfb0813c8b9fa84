"""What the commands do, as functions: they do not print, exit or modify their arguments.

Each takes keywords for what is common, and groups of options for the rest. A keyword that is given
beside its group replaces the group's field.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import onnx

from bnfold.arrays import Array
from bnfold.errors import TooSlowError, UsageError, in_words, parameter
from bnfold.keywords import check_options, execution_options, given, pass_options
from bnfold.modelfile.external import require_data
from bnfold.modelfile.source import ModelSource, Source, in_place
from bnfold.options import (
    OUTPUT_CHOICES,
    CheckOptions,
    ExecutionOptions,
    PassOptions,
    StorageOptions,
    TimingOptions,
)
from bnfold.progress import Progress, silent
from bnfold.record.data import Record
from bnfold.running import runtime
from bnfold.running.environment import environment, load_average
from bnfold.running.libraries import custom_operators
from bnfold.scratch import Scratch
from bnfold.workflow.dating import dated
from bnfold.workflow.inspection import inspect as inspect
from bnfold.workflow.inspection import with_figures
from bnfold.workflow.result import Result

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _in_words(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what the system refuses be a UsageError: the file, and the cause."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise UsageError(in_words(error)) from error

    return call


@_in_words
@dated
def optimize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    *,
    only: str | Iterable[str] = (),
    skip: str | Iterable[str] = (),
    check: bool = True,
    bench: bool = False,
    tune: bool = False,
    drop_culprit: bool = False,
    force: bool = False,
    require_speedup: float | None = None,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    inputs: Mapping[str, Array] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    rtol: float | Mapping[str, float] | None = None,
    atol: float | Mapping[str, float] | None = None,
    truth: str | None = None,
    certify: str | None = None,
    passes: PassOptions | None = None,
    execution: ExecutionOptions | None = None,
    checking: CheckOptions | None = None,
    timing: TimingOptions | None = None,
    storage: StorageOptions | None = None,
    hashes: bool = True,
    figures: bool = True,
    progress: Progress = silent,
) -> Result:
    """Rewrite a model, check the result, time it, and write it to `output` if one is named.

    Args:
        model: a path, or a ModelProto.
        output: where to write the result; None to keep it in memory.
        only: the names of the passes to run.
        skip: the names of passes to leave out.
        check: whether to compare the result with the original.
        bench: whether to time both.
        tune: drop rewrites that make the model slower here.
        drop_culprit: where the check fails, drop the rewrite that it fails with, and go on.
        force: whether to replace an `output` that is a model with other inputs or outputs.
        require_speedup: the least speed-up at onnxruntime's best; implies `bench`.
        providers: ``"cpu"`` (the default), ``"cuda"``, or both.
        threads: of onnxruntime's pool; by default as many as this process may use.
        inputs: content by input name, instead of what would be drawn.
        shapes: shape by input name, where dimensions are free.
        samples: how many inputs to draw (3).
        seed: the seed to draw them from (0).
        rtol: the relative tolerance, of all outputs or by name; by default by the output's type.
        atol: the absolute tolerance, likewise; by default by the output's type and magnitude.
        truth: whether to evaluate in float64, too: ``"auto"``, ``"always"`` or ``"off"``.
        certify: whether to prove each rewrite by itself, likewise; part of the check.
        passes: which rewrites to make.
        execution: where and on what to run models.
        checking: how strictly to compare them.
        timing: how long to time them.
        storage: whether weights go to a file beside `output`, which, and its name.
        hashes: whether the record has the SHA-256 of both files, which take as long as all else
            where a large model is neither checked nor timed.
        figures: whether the record has what both models hold and compute, and in which nodes they
            differ, for which both are read again.
        progress: called with a few words on what is being done.

    Raises:
        ModelError: if the model cannot be read, is invalid or is not supported.
        UsageError: if an option makes no sense, or `output` cannot be written.
        ProviderError: if a provider is not available.
        NotEquivalentError: if the check fails; nothing is written.
        NotVerifiedError: if the check cannot decide; nothing is written.
        TooSlowError: if a required speed-up is not met; nothing is written.
        PassFailedError: if a pass has a bug.

    An error that ends a finished run carries its `record`.
    """
    from bnfold.workflow.optimization import Optimization

    passes = pass_options(passes, only, skip)
    execution = execution_options(execution, providers, threads, inputs, shapes, samples, seed)
    checking = check_options(checking, rtol, atol, truth)
    checking = given(checking, certify=certify if check else "off")
    timing = given(timing or TimingOptions(), require_speedup=require_speedup)
    bench = bench or timing.require_speedup is not None
    # The CPU is the default, and timing on it a courtesy: without onnxruntime there is none.
    timing_only = not (check or tune) and timing.require_speedup is None
    needs_none = timing_only and list(execution.providers) == ["cpu"]
    with ExitStack() as stack:
        if not needs_none or execution.custom_ops:
            stack.enter_context(_runtime_of(execution))
        scratch = stack.enter_context(Scratch())
        run = Optimization(
            model,
            output,
            passes=passes,
            execution=execution,
            checking=checking,
            timing=timing,
            storage=storage or StorageOptions(),
            scratch=scratch,
            stack=stack,
            progress=progress,
            hashes=hashes,
            figures=figures,
            force=force,
        )
        run.begin()
        if tune:
            run.tune()
        run.write()
        if check:
            run.check(drop_culprit=drop_culprit)
        if bench:
            run.time()
        return run.finish()


@_in_words
@dated
def check(
    reference: ModelSource,
    candidate: ModelSource,
    *,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    inputs: Mapping[str, Array] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    samples: int | None = None,
    seed: int | None = None,
    rtol: float | Mapping[str, float] | None = None,
    atol: float | Mapping[str, float] | None = None,
    truth: str | None = None,
    certify: str | None = None,
    outputs: str = "declared",
    execution: ExecutionOptions | None = None,
    checking: CheckOptions | None = None,
    figures: bool = True,
    progress: Progress = silent,
) -> Record:
    """Compare two models, from any tool. The keywords are those of `optimize`.

    With `outputs` of ``"all"``, the record also says at which value the two first diverge: of those
    within them that have the same name. The verdict is in ``record.equivalence``: a difference is
    not an exception here.

    Raises:
        ModelError: if a model cannot be read.
        UsageError: if an option makes no sense.
        ProviderError: if a provider is not available.
    """
    from bnfold.proof.equivalence import compare_models
    from bnfold.proof.learned import learning_once
    from bnfold.workflow.certified import may_be_narrow, with_certificate
    from bnfold.workflow.certifying import Certifying
    from bnfold.workflow.second_look import with_second_look
    from bnfold.workflow.validity import require_valid_unless_loaded

    if outputs not in OUTPUT_CHOICES:
        raise UsageError(
            f"unknown {parameter('outputs')} {outputs!r}; known: {', '.join(OUTPUT_CHOICES)}"
        )
    execution = execution_options(execution, providers, threads, inputs, shapes, samples, seed)
    checking = given(check_options(checking, rtol, atol, truth), certify=certify)
    with _runtime_of(execution), learning_once(), _as_files(reference, candidate) as paths:
        progress("reading")
        sources = _read(reference, candidate)
        for source in sources:
            source.start_hashing()
        proves = checking.certify != "off"
        seconds = checking.seconds_to_certify
        with Certifying(paths[0], paths[1], seconds) if proves else nullcontext() as certifying:
            with in_place(*sources):
                equivalence = compare_models(paths[0], paths[1], execution, checking, progress)
            require_valid_unless_loaded(paths[0], equivalence)
            if certifying is not None and (
                equivalence.verdict != "fail" or may_be_narrow(equivalence)
            ):
                certificate = certifying.result(progress)
                equivalence = with_certificate(equivalence, certificate, checking, execution.inputs)
        equivalence = with_second_look(
            equivalence, paths[0], paths[1], execution, checking, progress
        )
        if outputs == "all":
            from bnfold.proof.divergence import find_divergence

            divergence = find_divergence(paths[0], paths[1], execution, checking, progress)
            equivalence = replace(equivalence, divergence=divergence)
        record = Record(
            command=[],
            model=sources[0].describe(),
            candidate=sources[1].describe(),
            environment=environment(),
            equivalence=equivalence,
        )
        return with_figures(record, *paths) if figures else record


@_in_words
@dated
def bench(
    model: ModelSource,
    candidate: ModelSource | None = None,
    *,
    seconds: float | None = None,
    batches: Sequence[int] | None = None,
    require_speedup: float | None = None,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    inputs: Mapping[str, Array] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int | None = None,
    execution: ExecutionOptions | None = None,
    timing: TimingOptions | None = None,
    figures: bool = True,
    progress: Progress = silent,
) -> Record:
    """Time a model, or one against the other.

    Args:
        model: a path, or a ModelProto.
        candidate: another model, to be timed against it.
        seconds: how long, in all (5; 30 with CUDA).
        batches: the sizes of the first dimension to time, where it is free.
        require_speedup: the least speed-up at onnxruntime's best.
        providers: as in `optimize`, and so are the keywords from here to `execution`.
        threads: of onnxruntime's pool.
        inputs: content by input name.
        shapes: shape by input name.
        seed: the seed that inputs are drawn from.
        execution: where and on what to run the models.
        timing: how long to time them.
        figures: as in `optimize`.
        progress: called with a few words on what is being done.

    Raises:
        ModelError: if a model cannot be read.
        SessionError: if onnxruntime cannot load or run it.
        UsageError: if an option makes no sense.
        ProviderError: if a provider is not available.
        TooSlowError: if a required speed-up is not met. It carries the `record`.
    """
    from bnfold.speed.cases import require_speedup as require
    from bnfold.speed.profile import time_and_profile

    execution = execution_options(execution, providers, threads, inputs, shapes, None, seed)
    timing = given(
        timing or TimingOptions(),
        seconds=seconds,
        batches=batches,
        require_speedup=require_speedup,
    )
    if timing.require_speedup is not None and candidate is None:
        raise UsageError("a speed-up can be required of a CANDIDATE only; name one")
    load = load_average()
    models = [model] if candidate is None else [model, candidate]
    with _runtime_of(execution), _as_files(*models) as paths, Scratch() as scratch:
        progress("reading")
        records = [source.describe() for source in _read(*models)]
        second = paths[1] if candidate is not None else None
        speed = time_and_profile(paths[0], second, execution, timing, scratch.folder, progress)
        record = Record(
            command=[],
            model=records[0],
            candidate=records[1] if candidate is not None else None,
            environment=environment(load=load),
            speed=speed,
        )
        record = with_figures(record, *paths) if figures else record
    try:
        require(speed, timing.require_speedup, timing.require_speedup_at)
    except TooSlowError as error:
        error.record = record
        raise
    return record


@_in_words
@dated
def explain(
    model: ModelSource,
    *,
    only: str | Iterable[str] = (),
    skip: str | Iterable[str] = (),
    providers: str | Sequence[str] = ("cpu",),
    passes: PassOptions | None = None,
    hashes: bool = True,
) -> Record:
    """Find out what `optimize` would do to each candidate, and why. The keywords are its own.

    Nothing runs, so that the `providers` need not be there.

    Raises:
        ModelError: if the model cannot be read, is invalid or is not supported.
        UsageError: if an option makes no sense.
        PassFailedError: if a pass has a bug.
    """
    from bnfold.workflow.variants import Variants

    named = (providers,) if isinstance(providers, str) else providers
    known = ExecutionOptions(providers=named).providers
    variant = Variants(model, pass_options(passes, only, skip), providers=known).without()
    return Record(
        command=[],
        model=variant.model.source.describe(hashed=hashes),
        environment=environment(variant.plugins),
        rewrites=variant.rewrites,
        refusals=variant.outcome.refusals,
        passes=variant.passes,
    )


@contextmanager
def _runtime_of(execution: ExecutionOptions) -> Iterator[None]:
    """Require that the runtime can do what is asked of it, and let it know custom operators."""
    for provider in execution.providers:
        runtime.require_provider(provider)
    with custom_operators(execution.custom_ops):
        if execution.custom_ops:
            runtime.require_libraries()
        yield


def _read(*models: ModelSource) -> list[Source]:
    """Read models that are only run, so that onnxruntime finds all that it needs.

    Raises:
        ModelError: if one cannot be read, or its external data are not there.
    """
    sources = [Source.of(model) for model in models]
    for source in sources:
        require_data(source)
    return sources


@contextmanager
def _as_files(*models: ModelSource) -> Iterator[list[Path]]:
    """Write those that are no files yet into a folder that goes away."""
    with Scratch() as scratch:
        paths = []
        for number, source in enumerate(models):
            if isinstance(source, onnx.ModelProto):
                path = scratch.folder / f"{number}.onnx"
                path.write_bytes(source.SerializeToString())
                paths.append(path)
            else:
                paths.append(Path(source))
        yield paths
