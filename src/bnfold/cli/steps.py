"""Options of the commands that rewrite, check and time: `optimize` and `batch`."""

from __future__ import annotations

from typing import Annotated

import typer

from bnfold.cli.help import CHECK, SPEED

Check = Annotated[
    bool,
    typer.Option(
        "--check/--no-check", help="Compare the result with the original.", rich_help_panel=CHECK
    ),
]
Bench = Annotated[
    bool,
    typer.Option(
        "--bench/--no-bench", help="Time the result against the original.", rich_help_panel=SPEED
    ),
]
BenchSeconds = Annotated[
    float | None,
    typer.Option(
        "--bench-seconds",
        min=0,
        help="Total time for the benchmark (default: 5; 30 with cuda).",
        metavar="SECONDS",
        rich_help_panel=SPEED,
    ),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune", help="Drop rewrites that make the model slower here.", rich_help_panel=SPEED
    ),
]
TuneSeconds = Annotated[
    float,
    typer.Option(
        "--tune-seconds",
        min=0,
        help="Total time for tuning.",
        metavar="SECONDS",
        rich_help_panel=SPEED,
    ),
]
DropCulprit = Annotated[
    bool,
    typer.Option(
        "--drop-culprit",
        help="If the check fails, drop the rewrite at fault.",
        rich_help_panel=CHECK,
    ),
]
