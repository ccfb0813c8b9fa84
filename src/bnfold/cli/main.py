"""The command line: its commands, and the start of a run. The work is done in `bnfold.api`."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.batch import batch
from bnfold.cli.bench import bench
from bnfold.cli.check import check
from bnfold.cli.config import ConfiguredCommand
from bnfold.cli.ending import Warnings, run, say
from bnfold.cli.explain import explain
from bnfold.cli.optimize import optimize
from bnfold.cli.report import report
from bnfold.cli.signals import handle_signals
from bnfold.cli.startup import defer_sympy
from bnfold.cli.streams import quiet_streams
from bnfold.cli.tools import doctor, inspect, passes, version_line
from bnfold.errors import UsageError

app = typer.Typer(
    name="bnfold",
    help="Fold BatchNormalization out of exported ONNX models, and verify the result.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 done, 1 not equivalent, 2 usage error, 3 model unreadable or not "
        "supported, 4 provider not available, 5 could not be verified, "
        "6 required speed-up not met."
    ),
)


_COMMANDS: list[tuple[Callable[..., None], str]] = [
    (optimize, "optimize model.onnx model.fast.onnx --report run.html"),
    (check, "check model.onnx model.fast.onnx --samples 10"),
    (bench, "bench model.onnx model.fast.onnx --seconds 30"),
    (batch, "batch models --out fast --resume"),
    (explain, "explain model.onnx --only fold-batchnorm"),
    (report, "report run.json -o run.html -o run.md"),
    (passes, "passes fold-batchnorm"),
    (inspect, "inspect model.onnx model.fast.onnx"),
    (doctor, "doctor --json"),
]
for _command, _example in _COMMANDS:
    app.command(cls=ConfiguredCommand, epilog=f"Example: bnfold {_example}")(_command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print all versions that matter.", is_eager=True)
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Take defaults from [tool.bnfold.COMMAND] of this file, not of the nearest "
            "pyproject.toml.",
        ),
    ] = None,
    no_config: Annotated[
        bool, typer.Option("--no-config", help="Take defaults from no file.")
    ] = False,
) -> None:
    """Fold BatchNormalization out of exported ONNX models, and verify the result."""
    if version:
        print(version_line())
        raise typer.Exit
    if config is not None and no_config:
        raise UsageError("--config and --no-config contradict each other")
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(UsageError.exit_code)


def main() -> None:
    """Run the command; report each failure as one line on stderr and an exit code."""
    defer_sympy()
    gc.set_threshold(
        50_000
    )  # a graph is many long-lived objects: frequent collections only cost time
    for library in ("matplotlib", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    handle_signals()
    with quiet_streams() as out:
        warnings = Warnings()
        logging.getLogger("bnfold").addHandler(warnings)
        try:
            exit_code = run(lambda: app(standalone_mode=False))
        finally:
            logging.getLogger("bnfold").removeHandler(warnings)
        out.flush()
        if out.complaint:
            say(out.complaint)
            if not out.is_spare:  # whoever reads it must not take nothing for an answer
                exit_code = exit_code or UsageError.exit_code
    gc.freeze()  # skip the final collection, which is slow: the process ends anyway
    sys.exit(exit_code)
