"""What the commands do, as functions: no printing, no exit, no argument changed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx

from bnfold import runtime
from bnfold.errors import TooSlowError, UsageError
from bnfold.inputs import InputRequest as InputRequest
from bnfold.model_io import ModelSource, describe
from bnfold.optimization import Optimization
from bnfold.optimization import Result as Result
from bnfold.options import PassOptions as PassOptions
from bnfold.options import RunOptions as RunOptions
from bnfold.options import TimingOptions as TimingOptions
from bnfold.progress import Progress, silent
from bnfold.record import Record, environment
from bnfold.tolerance import ToleranceRequest as ToleranceRequest
from bnfold.variants import Variants


def optimize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    *,
    passes: PassOptions | None = None,
    check: bool = True,
    bench: bool = True,
    tune: bool = False,
    drop_culprit: bool = False,
    hashes: bool = True,
    options: RunOptions | None = None,
    timing: TimingOptions | None = None,
    progress: Progress = silent,
) -> Result:
    """Rewrite a model, check the result, time it, and write it to `output` if one is named.

    `tune` leaves out the rewrites without which the model measures faster here, `drop_culprit`
    those with which the check fails. Without `hashes`, the record lacks the SHA-256 of both files,
    which take as long as all else where a large model is neither checked nor timed.

    Raises:
        ModelError: if the model cannot be read, is invalid or is not supported.
        UsageError: if an option makes no sense, or `output` cannot be written.
        ProviderError: if a provider is not available.
        NotEquivalentError: if the check fails; nothing is written. `record` tells all.
        NotVerifiedError: if the check cannot decide; nothing is written. `record` tells all.
        TooSlowError: if a required speed-up is not met; nothing is written. `record` tells all.
    """
    options, timing = options or RunOptions(), timing or TimingOptions()
    bench = bench or timing.require_speedup is not None
    # The CPU is the default, and timing on it a courtesy: without onnxruntime there is none.
    timing_only = not (check or tune) and timing.require_speedup is None
    if not (timing_only and list(options.providers) == ["cpu"]):
        _require_providers(options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-")))
        run = Optimization(
            model,
            output,
            passes or PassOptions(),
            options,
            timing,
            folder,
            stack,
            progress,
            hashes=hashes,
        )
        if tune:
            run.tune()
        run.write()
        if check:
            run.check(drop_culprit=drop_culprit)
        if bench:
            run.time()
        return run.finish()


def check(
    reference: ModelSource,
    candidate: ModelSource,
    *,
    options: RunOptions | None = None,
    progress: Progress = silent,
) -> Record:
    """Compare two models, whoever made the second, and return what was found.

    Raises:
        ModelError: if a model cannot be read.
        UsageError: if an option makes no sense.
        ProviderError: if a provider is not available.
    """
    from bnfold.equivalence import compare_models

    options = options or RunOptions()
    _require_providers(options)
    progress("reading")
    records = [describe(each) for each in (reference, candidate)]
    with _as_files(reference, candidate) as paths:
        equivalence = compare_models(paths[0], paths[1], options, progress)
    return Record(
        command=sys.argv[:],
        model=records[0],
        candidate=records[1],
        environment=environment() | runtime.environment(),
        equivalence=equivalence,
    )


def bench(
    model: ModelSource,
    candidate: ModelSource | None = None,
    *,
    options: RunOptions | None = None,
    timing: TimingOptions | None = None,
    progress: Progress = silent,
) -> Record:
    """Time a model, or one against the other, and return what was found.

    Raises:
        ModelError: if a model cannot be read.
        SessionError: if onnxruntime cannot load or run it.
        UsageError: if an option makes no sense.
        ProviderError: if a provider is not available.
        TooSlowError: if a required speed-up is not met. `record` tells all.
    """
    from bnfold.timing import require_speedup, time_models

    options, timing = options or RunOptions(), timing or TimingOptions()
    if timing.require_speedup is not None and candidate is None:
        raise UsageError("a speed-up can be required of a CANDIDATE only; name one")
    _require_providers(options)
    progress("reading")
    sources = [model] if candidate is None else [model, candidate]
    records = [describe(each) for each in sources]
    with _as_files(*sources) as paths:
        speed = time_models(
            paths[0], paths[1] if candidate is not None else None, options, timing, progress
        )
    record = Record(
        command=sys.argv[:],
        model=records[0],
        candidate=records[1] if candidate is not None else None,
        environment=environment() | runtime.environment(),
        speed=speed,
    )
    try:
        require_speedup(speed, timing.require_speedup)
    except TooSlowError as error:
        error.record = record
        raise
    return record


def explain(
    model: ModelSource, *, passes: PassOptions | None = None, hashes: bool = True
) -> Record:
    """Find out what `optimize` would do to a model and why it would leave the rest.

    Without `hashes`, the record lacks the SHA-256 of the model.

    Raises:
        ModelError: if the model cannot be read, is invalid or is not supported.
        UsageError: if an option makes no sense.
    """
    variant = Variants(model, passes or PassOptions(), Path()).without()
    return Record(
        command=sys.argv[:],
        model=variant.model.source.describe(hashed=hashes),
        environment=environment(),
        rewrites=variant.rewrites,
        refusals=variant.outcome.refusals,
    )


def _require_providers(options: RunOptions) -> None:
    for provider in options.providers:
        runtime.require_provider(provider)


@contextmanager
def _as_files(*models: ModelSource) -> Iterator[list[Path]]:
    """Write those that are no files yet into a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        paths = []
        for number, source in enumerate(models):
            if isinstance(source, onnx.ModelProto):
                path = Path(folder) / f"{number}.onnx"
                path.write_bytes(source.SerializeToString())
                paths.append(path)
            else:
                paths.append(Path(source))
        yield paths
