"""The command `bnfold check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.delivery import EXIT_CODES, deliver
from bnfold.cli.options import (
    AbsoluteTolerance,
    Certify,
    CustomOps,
    Data,
    Input,
    Outputs,
    Provider,
    RelativeTolerance,
    Report,
    Samples,
    SaveInputs,
    Seed,
    Threads,
    Truth,
    json_option,
    quiet_option,
    verbose_option,
)
from bnfold.cli.outputs import Reports, input_files, require_apart, with_data
from bnfold.cli.pipes import Pipes
from bnfold.cli.progress import StepProgress
from bnfold.cli.values import (
    check_options,
    detail_of,
    execution_options,
)


def check(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="The model to trust, or - for standard input.",
            show_default=False,
            readable=False,
        ),
    ],
    candidate: Annotated[
        Path,
        typer.Argument(
            metavar="CANDIDATE",
            help="The model to judge, or -.",
            show_default=False,
            readable=False,
        ),
    ],
    provider: Provider = None,
    input: Input = None,
    data: Data = None,
    samples: Samples = 3,
    seed: Seed = 0,
    rtol: RelativeTolerance = None,
    atol: AbsoluteTolerance = None,
    truth: Truth = "auto",
    certify: Certify = "auto",
    outputs: Outputs = "declared",
    save_inputs: SaveInputs = None,
    threads: Threads = None,
    custom_ops: CustomOps = None,
    report: Report = None,
    quiet: Annotated[bool, quiet_option("Print the verdict alone.")] = False,
    verbose: Annotated[
        bool, verbose_option("Print all outputs and notes, and how inputs were made.")
    ] = False,
    json: Annotated[bool, json_option("Print only the JSON record.")] = False,
) -> None:
    """Compare any two models numerically."""
    from bnfold import api
    from bnfold.report.terminal import print_comparison

    execution = execution_options(provider, threads, input, data, samples, seed, custom_ops)
    checking = check_options(rtol, atol, truth, save_inputs, certify)
    detail = detail_of(quiet, verbose)
    with Pipes() as pipes:
        reference, candidate = pipes.incoming(reference), pipes.incoming(candidate)
        models = [("REFERENCE", reference), ("CANDIDATE", candidate)]
        saved = [("--save-inputs", save_inputs)] if save_inputs is not None else []
        given = [*models, *input_files(input, data)]
        require_apart(saved, given)
        with Reports(report, [*with_data(models, report), *given, *saved]) as reports:
            with StepProgress() as progress:
                record = api.check(
                    reference,
                    candidate,
                    outputs=outputs,
                    execution=execution,
                    checking=checking,
                    figures=bool(reports) or json,
                    progress=progress,
                )
            assert record.equivalence is not None
            exit_code = EXIT_CODES[record.equivalence.verdict]
            named = pipes.named(record)
            deliver(named, reports, json, print_comparison, detail, exit_code=exit_code)
    raise typer.Exit(exit_code)
