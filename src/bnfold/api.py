"""What the commands do, as functions: no printing, no exit, no argument changed."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from bnfold import runtime
from bnfold.engine import Outcome, run_passes
from bnfold.equivalence import Progress, compare_models
from bnfold.errors import (
    NotEquivalentError,
    NotVerifiedError,
    PassFailedError,
    UsageError,
)
from bnfold.inputs import InputRequest as InputRequest
from bnfold.model_io import (
    LoadedModel,
    ModelSource,
    describe,
    load,
    require_valid,
)
from bnfold.record import Equivalence, OutputRecord, Record, RewriteRecord, environment
from bnfold.registry import choose_passes
from bnfold.semantics import force_inference, freeze_initializers
from bnfold.staging import StagedFile
from bnfold.tolerance import ToleranceRequest as ToleranceRequest


@dataclass(frozen=True)
class Result:
    """An optimized model and the record of how it came about."""

    record: Record
    _optimized: LoadedModel = field(repr=False)

    @property
    def model(self) -> onnx.ModelProto:
        """The optimized model, made anew at each call.

        Raises:
            ModelError: if it exceeds 2 GiB, which one ModelProto cannot hold.
        """
        return self._optimized.to_proto()


@dataclass(frozen=True)
class PassOptions:
    """Which rewrites to make, and which changes of meaning were asked for.

    Raises:
        UsageError: if `keep_node` is no regular expression.
    """

    only: Iterable[str] = ()
    skip: Iterable[str] = ()
    keep_node: str | None = None
    force_inference: bool = False
    freeze_initializers: bool = False

    def keep_pattern(self) -> re.Pattern[str] | None:
        """Return `keep_node` as a pattern."""
        try:
            return re.compile(self.keep_node) if self.keep_node else None
        except re.error as error:
            raise UsageError(
                f"--keep-node {self.keep_node!r} is no regular expression: {error}"
            ) from error


@dataclass(frozen=True)
class CheckOptions:
    """Where, on what and how strictly to compare."""

    providers: Sequence[str] = ("cpu",)
    inputs: InputRequest = field(default_factory=InputRequest)
    tolerances: ToleranceRequest = field(default_factory=ToleranceRequest)
    threads: int | None = None


def _silent(_: str) -> None:
    """Report no progress."""


def optimize(
    model: ModelSource,
    output: str | os.PathLike[str] | None = None,
    *,
    passes: PassOptions | None = None,
    check: bool = True,
    options: CheckOptions | None = None,
    progress: Progress = _silent,
) -> Result:
    """Rewrite a model, check the result against it, and write it to `output` if one is named.

    Raises:
        ModelError: if the model cannot be read, is invalid or is not supported.
        UsageError: if an option makes no sense, or `output` cannot be written.
        ProviderError: if a provider is not available.
        NotEquivalentError: if the check fails; nothing is written. `record` tells all.
        NotVerifiedError: if the check cannot decide; nothing is written. `record` tells all.
    """
    passes, options = passes or PassOptions(), options or CheckOptions()
    if check:
        for provider in options.providers:
            runtime.require_provider(provider)
    progress("reading")
    loaded = load(model)
    loaded.source.start_hashing()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-")))
        requested = _change_meaning(loaded, passes)
        reference = loaded.path
        if check and (requested or reference is None):
            reference = _write_beside(folder / "reference.onnx", loaded, unchanged=not requested)
        progress("rewriting")
        outcome = _run(loaded, passes, requested)
        place = Path(output) if output is not None else folder / "optimized.onnx"
        staged = stack.enter_context(StagedFile(place))
        same = not outcome.rewrites and _can_be_copied(loaded, place)
        progress("writing")
        if same:
            staged.write_blocks(loaded.source.blocks())
        else:
            staged.write_model(loaded)
        equivalence = None if outcome.rewrites else Equivalence("identical")
        if check and outcome.rewrites:
            assert reference is not None
            equivalence = _compare(reference, staged.path, options, progress)
        accepted = equivalence is None or equivalence.verdict in ("pass", "identical")
        ops = loaded.count_operators()
        record = Record(
            command=sys.argv[:],
            model=loaded.record,
            environment=environment() | runtime.environment(),
            output=OutputRecord(
                path=str(output) if output is not None else None,
                same=same,
                written=output is not None and accepted,
                sha256=staged.sha256,
                bytes=staged.path.stat().st_size,
                nodes=sum(ops.values()),
                ops=ops,
                data=staged.data.name if staged.data is not None else None,
                data_bytes=staged.data.stat().st_size if staged.data is not None else 0,
                outgrew_one_file=staged.data is not None and not loaded.has_external_data,
            ),
            rewrites=outcome.rewrites,
            refusals=outcome.refusals,
            equivalence=equivalence,
        )
        if equivalence is not None and not accepted:
            raise _rejection(equivalence, record)
        if output is not None and not (same and _is_source(loaded, place)):
            staged.commit()
        return Result(record, loaded)


def check(
    reference: ModelSource,
    candidate: ModelSource,
    *,
    options: CheckOptions | None = None,
    progress: Progress = _silent,
) -> Record:
    """Compare two models, whoever made the second, and return what was found.

    Raises:
        ModelError: if a model cannot be read.
        UsageError: if an option makes no sense.
        ProviderError: if a provider is not available.
    """
    options = options or CheckOptions()
    for provider in options.providers:
        runtime.require_provider(provider)
    progress("reading")
    records = [describe(each) for each in (reference, candidate)]
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        paths = []
        for number, source in enumerate((reference, candidate)):
            if isinstance(source, onnx.ModelProto):
                path = Path(folder) / f"{number}.onnx"
                path.write_bytes(source.SerializeToString())
                paths.append(path)
            else:
                paths.append(Path(source))
        equivalence = _compare(paths[0], paths[1], options, progress)
    return Record(
        command=sys.argv[:],
        model=records[0],
        candidate=records[1],
        environment=environment() | runtime.environment(),
        equivalence=equivalence,
    )


def explain(model: ModelSource, *, passes: PassOptions | None = None) -> Record:
    """Find out what `optimize` would do to a model and why it would leave the rest.

    Raises:
        ModelError: if the model cannot be read, is invalid or is not supported.
        UsageError: if an option makes no sense.
    """
    passes = passes or PassOptions()
    loaded = load(model)
    outcome = _run(loaded, passes, _change_meaning(loaded, passes))
    return Record(
        command=sys.argv[:],
        model=loaded.record,
        environment=environment(),
        rewrites=outcome.rewrites,
        refusals=outcome.refusals,
    )


def _change_meaning(loaded: LoadedModel, passes: PassOptions) -> list[RewriteRecord]:
    changes = freeze_initializers(loaded.ir) if passes.freeze_initializers else []
    return changes + (force_inference(loaded.ir) if passes.force_inference else [])


def _run(loaded: LoadedModel, passes: PassOptions, requested: list[RewriteRecord]) -> Outcome:
    chosen = choose_passes(passes.only, passes.skip)
    try:
        outcome = run_passes(loaded.ir, chosen, passes.keep_pattern())
    except PassFailedError:
        require_valid(loaded)  # a pass may stumble over what no valid model holds
        raise
    return Outcome([*requested, *outcome.rewrites], outcome.refusals)


def _write_beside(place: Path, loaded: LoadedModel, *, unchanged: bool) -> Path:
    with StagedFile(place) as staged:
        if unchanged:
            staged.write_blocks(loaded.source.blocks())
        else:
            staged.write_model(loaded)
        staged.commit()
    return place


def _can_be_copied(loaded: LoadedModel, place: Path) -> bool:
    """A copy finds its external data only in the folder where the original is."""
    if loaded.path is None or not loaded.has_external_data:
        return True
    return place.resolve().parent == loaded.path.resolve().parent


def _is_source(loaded: LoadedModel, place: Path) -> bool:
    return loaded.path is not None and place.exists() and place.samefile(loaded.path)


def _compare(
    reference: Path, optimized: Path, options: CheckOptions, progress: Progress
) -> Equivalence:
    return compare_models(
        reference,
        optimized,
        providers=options.providers,
        inputs=options.inputs,
        tolerances=options.tolerances,
        threads=options.threads,
        progress=progress,
    )


def _rejection(equivalence: Equivalence, record: Record) -> NotEquivalentError | NotVerifiedError:
    if equivalence.verdict == "fail":
        return NotEquivalentError(
            f"not equivalent, so nothing was written: {equivalence.reason}", record
        )
    return NotVerifiedError(
        f"could not be verified, so nothing was written: {equivalence.reason}; "
        "--no-check writes it all the same",
        record,
    )
