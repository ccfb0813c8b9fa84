"""The command `bnfold bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.delivery import deliver
from bnfold.cli.help import SPEED
from bnfold.cli.options import (
    CustomOps,
    Data,
    Input,
    Model,
    Provider,
    Report,
    RequireSpeedup,
    RequireSpeedupAt,
    Seed,
    Threads,
    json_option,
    quiet_option,
    verbose_option,
)
from bnfold.cli.outputs import Reports, input_files, with_data
from bnfold.cli.pipes import Pipes
from bnfold.cli.progress import StepProgress
from bnfold.cli.values import (
    detail_of,
    execution_options,
)
from bnfold.errors import BnfoldError


def bench(
    model: Model,
    candidate: Annotated[
        Path | None,
        typer.Argument(
            metavar="CANDIDATE",
            help="A second model, or -, to compare with.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    provider: Provider = None,
    input: Input = None,
    data: Data = None,
    seed: Seed = 0,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Batch size, if the first dimension is free (repeatable).",
            rich_help_panel=SPEED,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            "--bench-seconds",
            min=0,
            metavar="SECONDS",
            help="Total time (default: 20; 120 with cuda).",
            rich_help_panel=SPEED,
        ),
    ] = None,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory/--no-memory", help="Also measure peak memory.", rich_help_panel=SPEED
        ),
    ] = True,
    require_speedup: RequireSpeedup = None,
    require_speedup_at: RequireSpeedupAt = "bound",
    threads: Threads = None,
    custom_ops: CustomOps = None,
    report: Report = None,
    quiet: Annotated[bool, quiet_option("Print the speed alone.")] = False,
    verbose: Annotated[
        bool, verbose_option("Also print load times, and the time by operator.")
    ] = False,
    json: Annotated[bool, json_option("Print only the JSON record.")] = False,
) -> None:
    """Time a model, or one against another."""
    from bnfold import api
    from bnfold.options import TimingOptions
    from bnfold.report.terminal import print_speed

    execution = execution_options(provider, threads, input, data, 1, seed, custom_ops)
    is_recorded = bool(report) or json
    if seconds is None:  # a command of its own may take longer than a part of another
        seconds = 4 * sum(TimingOptions().seconds_on(execution.providers).values())
    timing = TimingOptions(
        seconds,
        require_speedup,
        require_speedup_at,
        batches=tuple(batch or ()),
        memory=memory,
        profile=is_recorded or verbose,
    )
    detail = detail_of(quiet, verbose)
    with Pipes() as pipes:
        model = pipes.incoming(model)
        models = [("MODEL", model)]
        if candidate is not None:
            candidate = pipes.incoming(candidate)
            models.append(("CANDIDATE", candidate))
        with Reports(report, [*with_data(models, report), *input_files(input, data)]) as reports:
            try:
                with StepProgress() as progress:
                    record = api.bench(
                        model,
                        candidate,
                        execution=execution,
                        timing=timing,
                        figures=is_recorded,
                        progress=progress,
                    )
            except BnfoldError as error:
                if error.record is not None:
                    named, exit_code = pipes.named(error.record), error.exit_code
                    deliver(named, reports, json, print_speed, detail, exit_code=exit_code)
                raise
            deliver(pipes.named(record), reports, json, print_speed, detail)
