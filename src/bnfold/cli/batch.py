"""The command `bnfold batch`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnfold.cli.config import command_line
from bnfold.cli.help import OUTPUT, SPEED, WORKERS
from bnfold.cli.options import (
    AbsoluteTolerance,
    Certify,
    CustomOps,
    Data,
    ExternalData,
    ExternalDataThreshold,
    ForceInference,
    FreezeInitializers,
    Input,
    KeepFunctions,
    KeepNode,
    Only,
    Provider,
    RelativeTolerance,
    Require,
    RequireSpeedup,
    RequireSpeedupAt,
    Samples,
    Seed,
    SetShape,
    Skip,
    Threads,
    Truth,
    json_option,
    quiet_option,
)
from bnfold.cli.steps import Bench, BenchSeconds, Check, DropCulprit, Tune, TuneSeconds
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.batch.engine import Engine
    from bnfold.batch.folder import Folder
    from bnfold.batch.run import Job
    from bnfold.batch.starts import Ledger


def batch(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODELS",
            help="Files, folders, patterns, or manifests (.toml).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the models, their pages, and the index.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ],
    only: Only = None,
    skip: Skip = None,
    keep_node: KeepNode = None,
    force_inference: ForceInference = False,
    freeze_initializers: FreezeInitializers = False,
    keep_functions: KeepFunctions = False,
    set_shape: SetShape = None,
    check: Check = True,
    bench: Bench = True,
    bench_seconds: BenchSeconds = None,
    bench_on: Annotated[
        str,
        typer.Option(
            "--bench-on",
            metavar="any|each",
            help="each: time every model on every kind of machine.",
            rich_help_panel=SPEED,
        ),
    ] = "any",
    require_speedup: RequireSpeedup = None,
    require_speedup_at: RequireSpeedupAt = "bound",
    tune: Tune = False,
    tune_seconds: TuneSeconds = 60.0,
    provider: Provider = None,
    input: Input = None,
    data: Data = None,
    samples: Samples = 3,
    seed: Seed = 0,
    rtol: RelativeTolerance = None,
    atol: AbsoluteTolerance = None,
    truth: Truth = "auto",
    certify: Certify = "auto",
    require: Require = "certified",
    drop_culprit: DropCulprit = False,
    threads: Threads = None,
    custom_ops: CustomOps = None,
    external_data: ExternalData = "auto",
    external_data_threshold: ExternalDataThreshold = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "-j",
            "--jobs",
            min=1,
            metavar="N",
            help="Processes on this machine. Default: CPUs / threads.",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            metavar="loky|dask|ray",
            help="loky: processes on this machine; or a cluster.",
            rich_help_panel=WORKERS,
        ),
    ] = "loky",
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Of the Dask scheduler or Ray cluster.", rich_help_panel=WORKERS
        ),
    ] = None,
    send: Annotated[
        str,
        typer.Option(
            metavar="auto|path|bytes",
            help="How models reach workers (auto: by path where they see it).",
            rich_help_panel=WORKERS,
        ),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip what is up to date in DIR.", rich_help_panel=OUTPUT),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace files in DIR that are not of a batch.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    quiet: Annotated[
        bool, quiet_option("Print the counts and the place of the index alone.")
    ] = False,
    json: Annotated[bool, json_option("Print only the index, as JSON.")] = False,
) -> None:
    """Optimize many models in worker processes, with an index.

    Each model is rewritten and checked side by side with others, then timed with nothing beside it.
    The exit code is the gravest of all models', in this order: 1 not equivalent, 70 a bug,
    5 could not be verified, 3 unreadable, 4 provider not available, 2 usage error, 6 too slow, 0.
    """
    given = {name: value for name, value in locals().items() if name in OPTIONS}
    from bnfold.batch.engine import BACKENDS
    from bnfold.batch.folder import Folder
    from bnfold.batch.run import SENDING, Manner, run_batch
    from bnfold.cli.batch_progress import BatchProgress
    from bnfold.cli.batch_summary import print_index
    from bnfold.cli.delivery import new_console
    from bnfold.cli.streams import spare_output
    from bnfold.scratch import Scratch

    for option, value, known in (
        ("--bench-on", bench_on, ("any", "each")),
        ("--backend", backend, BACKENDS),
        ("--send", send, SENDING),
    ):
        if value not in known:
            raise UsageError(f"unknown {option} {value!r}; known: {', '.join(known)}")
    each = bench_on == "each"
    if each and not bench:
        raise UsageError("--bench-on each times models, which --no-bench leaves out")
    if backend == "loky" and scheduler is not None:
        raise UsageError("--scheduler is of a cluster; name it with --backend dask or ray")
    if backend == "dask" and scheduler is None:
        raise UsageError("--backend dask needs --scheduler ADDRESS, such as tcp://host:8786")
    if backend != "loky" and jobs is not None:
        raise UsageError(f"--jobs is of this machine; the workers of --backend {backend} are given")
    place = Folder(out)
    selected = jobs_of(models, place, out, given)
    if each and any(job.asked.timing.require_speedup is not None for job in selected):
        raise UsageError("--require-speedup is for one kind of machine, not for --bench-on each")
    place.require_free([job.name for job in selected], [job.model for job in selected], force)
    with Scratch() as scratch:
        local = scratch.folder if backend == "loky" else None
        processes = min(jobs or default_jobs(threads), len(selected))
        engine = engine_of(backend, scheduler, processes, local)
        try:
            with place, BatchProgress(quiet=quiet) as progress:
                manner = Manner(resume, send, each, local, command=command_line())
                index = run_batch(selected, place, engine, manner, progress)
        finally:
            engine.close()
    spare_output()  # the index holds what is printed
    if json:
        print(index.to_json(), end="")
    else:
        print_index(new_console(), index, out, quiet=quiet)
    raise typer.Exit(index.exit_code)


OPTIONS: Mapping[str, Any] = {
    "only": "texts",
    "skip": "texts",
    "keep_node": "text",
    "force_inference": "flag",
    "freeze_initializers": "flag",
    "keep_functions": "flag",
    "set_shape": "texts",
    "check": "flag",
    "bench": "flag",
    "bench_seconds": "number",
    "require_speedup": "number",
    "require_speedup_at": "text",
    "tune": "flag",
    "tune_seconds": "number",
    "provider": "texts",
    "input": "texts",
    "data": "text",
    "samples": "number",
    "seed": "number",
    "rtol": "texts",
    "atol": "texts",
    "truth": "text",
    "certify": "text",
    "require": "text",
    "drop_culprit": "flag",
    "threads": "number",
    "custom_ops": "texts",
    "external_data": "text",
    "external_data_threshold": "number",
}
"""The options that each model may have for itself in a manifest, and what they are there."""


def jobs_of(models: list[str], place: Folder, out: Path, given: Mapping[str, Any]) -> list[Job]:
    """Return a job for each model, with a place in the folder.

    Raises:
        UsageError: if there are no models, or an option makes no sense.
    """
    from bnfold.batch.manifest import read_manifest
    from bnfold.batch.run import Job
    from bnfold.batch.selection import distinct, name_all, select
    from bnfold.cli.batch_options import asked_of, words_of

    here, kinds = Path.cwd(), {name.replace("_", "-"): kind for name, kind in OPTIONS.items()}
    found = []
    for argument in models:
        if argument.lower().endswith(".toml"):
            found += read_manifest(Path(argument), place.path, kinds)
        else:
            found += select(argument, here, place.path)
    found = distinct(found)
    made: dict[str, Any] = {}
    jobs = []
    for model, name in zip(found, name_all(found), strict=True):
        own = {key.replace("-", "_"): value for key, value in model.options.items()}
        values = {**given, **own}
        asked = made.get(repr(values))
        shown = _shown(model.path, here)
        if asked is None:
            asked = made[repr(values)] = asked_of(values, shown if own else "")
        command = ["bnfold", "optimize", shown, str(out / name), *words_of(values)]
        jobs.append(Job(model.path, shown, name, asked, command))
    return jobs


def _shown(path: Path, here: Path) -> str:
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def default_jobs(threads: int | None) -> int:
    """Return how many models this machine can work on side by side."""
    from bnfold.running.environment import available_threads

    return max(1, available_threads() // (threads or 1))


def engine_of(backend: str, scheduler: str | None, jobs: int, local: Path | None) -> Engine:
    """Return the workers.

    Raises:
        UsageError: if a package is missing, or no cluster answers.
    """
    if backend == "loky":
        from bnfold.batch.engine import Loky

        return Loky(jobs, _ledger(local))
    from bnfold.batch.clusters import Dask, Ray

    return Dask(str(scheduler)) if backend == "dask" else Ray(scheduler)


def _ledger(folder: Path | None) -> Ledger:
    from bnfold.batch.starts import Ledger

    return Ledger(folder)
