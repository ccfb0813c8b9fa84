"""The command `bnfold explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from bnfold.cli.delivery import deliver
from bnfold.cli.help import OUTPUT
from bnfold.cli.options import (
    ForceInference,
    FreezeInitializers,
    KeepFunctions,
    KeepNode,
    Model,
    Only,
    Provider,
    Report,
    SetShape,
    Skip,
    json_option,
    quiet_option,
    verbose_option,
)
from bnfold.cli.outputs import Reports, with_data
from bnfold.cli.pipes import Pipes
from bnfold.cli.values import (
    detail_of,
    pass_options,
)


def explain(
    model: Model,
    only: Only = None,
    skip: Skip = None,
    keep_node: KeepNode = None,
    force_inference: ForceInference = False,
    freeze_initializers: FreezeInitializers = False,
    keep_functions: KeepFunctions = False,
    set_shape: SetShape = None,
    provider: Provider = None,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code", help="Exit 1 if optimize would change it.", rich_help_panel=OUTPUT
        ),
    ] = False,
    report: Report = None,
    quiet: Annotated[bool, quiet_option("Print the last line alone: the counts.")] = False,
    verbose: Annotated[bool, verbose_option("Also name the file that gave defaults.")] = False,
    json: Annotated[bool, json_option("Print only the JSON record.")] = False,
) -> None:
    """Show what optimize would do, and why; write nothing."""
    from bnfold import api
    from bnfold.report.terminal import print_explanation

    passes = pass_options(
        only, skip, keep_node, force_inference, freeze_initializers, keep_functions, set_shape
    )
    detail = detail_of(quiet, verbose)
    with Pipes() as pipes:
        model = pipes.incoming(model)
        with Reports(report, with_data([("MODEL", model)], report)) as reports:
            record = api.explain(
                model,
                providers=provider or ("cpu",),
                passes=passes,
                hashes=bool(reports) or json,
            )
            deliver(pipes.named(record), reports, json, print_explanation, detail)
    if exit_code and record.rewrites:
        raise typer.Exit(1)
