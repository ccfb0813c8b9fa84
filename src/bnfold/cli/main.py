"""The command line: parses options and returns exit codes. The work is done in `bnfold.api`."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from bnfold.cli.help import CHECK, OUTPUT, SPEED, GroupedCommand
from bnfold.cli.options import (
    AbsoluteTolerance,
    Certify,
    Data,
    Force,
    ForceInference,
    FreezeInitializers,
    Input,
    Json,
    KeepFunctions,
    KeepNode,
    Model,
    Only,
    Outputs,
    Provider,
    Quiet,
    RelativeTolerance,
    Report,
    Require,
    RequireSpeedup,
    RequireSpeedupAt,
    Samples,
    SaveInputs,
    Seed,
    SetShape,
    Skip,
    Threads,
    Truth,
    Verbose,
    check_options,
    detail_of,
    execution_options,
    pass_options,
    warn_of_idle,
)
from bnfold.cli.outputs import Reports, input_files, output_file, require_apart
from bnfold.cli.progress import StepProgress
from bnfold.cli.signals import handle_signals, received
from bnfold.cli.startup import defer_sympy
from bnfold.cli.streams import quiet_streams
from bnfold.cli.tools import doctor, inspect, new_console, version_line
from bnfold.errors import (
    BnfoldError,
    ModelError,
    NotEquivalentError,
    NotVerifiedError,
    UsageError,
    error_line,
    in_words,
)

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.record.data import Record
    from bnfold.report.terminal.lines import Detail

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

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: a bug in bnfold, or out of memory."""

_EXIT_CODES = {
    "pass": 0,
    "certified": 0,
    "identical": 0,
    "fail": NotEquivalentError.exit_code,
    "not-verified": NotVerifiedError.exit_code,
}


@app.command(
    cls=GroupedCommand,
    epilog="Example: bnfold optimize model.onnx model.fast.onnx --report run.html",
)
def optimize(
    model: Model,
    output: Annotated[
        str | None,
        typer.Argument(
            metavar="OUTPUT", help="Default: MODEL's stem + .bnfold.onnx", show_default=False
        ),
    ] = None,
    output_option: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="OUTPUT", help="Same as the argument.", rich_help_panel=OUTPUT
        ),
    ] = None,
    only: Only = None,
    skip: Skip = None,
    keep_node: KeepNode = None,
    force_inference: ForceInference = False,
    freeze_initializers: FreezeInitializers = False,
    keep_functions: KeepFunctions = False,
    set_shape: SetShape = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Compare the result with the original.",
            rich_help_panel=CHECK,
        ),
    ] = True,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench/--no-bench",
            help="Time the result against the original.",
            rich_help_panel=SPEED,
        ),
    ] = True,
    bench_seconds: Annotated[
        float,
        typer.Option(
            "--bench-seconds",
            min=0,
            help="Total time for the benchmark.",
            metavar="SECONDS",
            rich_help_panel=SPEED,
        ),
    ] = 5.0,
    require_speedup: RequireSpeedup = None,
    require_speedup_at: RequireSpeedupAt = "bound",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="Drop rewrites that make the model slower here.", rich_help_panel=SPEED
        ),
    ] = False,
    tune_seconds: Annotated[
        float,
        typer.Option(
            "--tune-seconds",
            min=0,
            help="Total time for tuning.",
            metavar="SECONDS",
            rich_help_panel=SPEED,
        ),
    ] = 60.0,
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
    drop_culprit: Annotated[
        bool,
        typer.Option(
            "--drop-culprit",
            help="If the check fails, drop the rewrite at fault.",
            rich_help_panel=CHECK,
        ),
    ] = False,
    save_inputs: SaveInputs = None,
    threads: Threads = None,
    force: Force = False,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Rewrite a model, check and time the result, and write it."""
    from bnfold import api
    from bnfold.options import TimingOptions
    from bnfold.report.terminal import print_optimization

    if output is not None and output_option is not None:
        raise UsageError("OUTPUT is given twice: as an argument and with -o")
    if not model.name:
        raise ModelError(f"{model} is a directory; name the .onnx file in it")
    output = output or output_option
    place = output_file(model, Path(output) if output else None, output)
    passes = pass_options(
        only, skip, keep_node, force_inference, freeze_initializers, keep_functions, set_shape
    )
    execution = execution_options(provider, threads, input, data, samples, seed)
    checking = check_options(rtol, atol, truth, save_inputs, certify, require)
    timing = TimingOptions(bench_seconds, require_speedup, require_speedup_at, tune_seconds)
    if not check:
        warn_of_idle(checking, drop_culprit)
    detail = detail_of(quiet, verbose)
    given = input_files(input, data)
    require_apart([("OUTPUT", place)], given)
    with Reports(report, [("MODEL", model), ("OUTPUT", place), *given]) as reports:
        try:
            with StepProgress() as progress:
                result = api.optimize(
                    model,
                    place,
                    passes=passes,
                    check=check,
                    bench=bench,
                    tune=tune,
                    drop_culprit=drop_culprit,
                    force=force,
                    hashes=bool(reports) or json,
                    execution=execution,
                    checking=checking,
                    timing=timing,
                    progress=progress,
                )
        except BnfoldError as error:
            if error.record is not None:
                _deliver(error.record, reports, json, print_optimization, detail)
            raise
        _deliver(result.record, reports, json, print_optimization, detail)


@app.command(
    cls=GroupedCommand, epilog="Example: bnfold check model.onnx model.fast.onnx --samples 10"
)
def check(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="The model to trust.", show_default=False)
    ],
    candidate: Annotated[
        Path, typer.Argument(metavar="CANDIDATE", help="The model to judge.", show_default=False)
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
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Compare any two models numerically."""
    from bnfold import api
    from bnfold.report.terminal import print_comparison

    execution = execution_options(provider, threads, input, data, samples, seed)
    checking = check_options(rtol, atol, truth, save_inputs, certify)
    detail = detail_of(quiet, verbose)
    models = [("REFERENCE", reference), ("CANDIDATE", candidate)]
    with Reports(report, [*models, *input_files(input, data)]) as reports:
        with StepProgress() as progress:
            record = api.check(
                reference,
                candidate,
                outputs=outputs,
                execution=execution,
                checking=checking,
                progress=progress,
            )
        _deliver(record, reports, json, print_comparison, detail)
    assert record.equivalence is not None
    raise typer.Exit(_EXIT_CODES[record.equivalence.verdict])


@app.command(
    cls=GroupedCommand, epilog="Example: bnfold bench model.onnx model.fast.onnx --seconds 30"
)
def bench(
    model: Model,
    candidate: Annotated[
        Path | None,
        typer.Argument(
            metavar="CANDIDATE", help="A second model to compare with.", show_default=False
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
        float,
        typer.Option(
            "--seconds",
            "--bench-seconds",
            min=0,
            metavar="SECONDS",
            help="Total time.",
            rich_help_panel=SPEED,
        ),
    ] = 20.0,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory/--no-memory", help="Also measure peak memory.", rich_help_panel=SPEED
        ),
    ] = True,
    require_speedup: RequireSpeedup = None,
    require_speedup_at: RequireSpeedupAt = "bound",
    threads: Threads = None,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Time a model, or one against another."""
    from bnfold import api
    from bnfold.options import TimingOptions
    from bnfold.report.terminal import print_speed

    execution = execution_options(provider, threads, input, data, 1, seed)
    timing = TimingOptions(
        seconds, require_speedup, require_speedup_at, batches=tuple(batch or ()), memory=memory
    )
    detail = detail_of(quiet, verbose)
    models = [("MODEL", model), *([("CANDIDATE", candidate)] if candidate else [])]
    with Reports(report, [*models, *input_files(input, data)]) as reports:
        try:
            with StepProgress() as progress:
                record = api.bench(
                    model, candidate, execution=execution, timing=timing, progress=progress
                )
        except BnfoldError as error:
            if error.record is not None:
                _deliver(error.record, reports, json, print_speed, detail)
            raise
        _deliver(record, reports, json, print_speed, detail)


@app.command(cls=GroupedCommand, epilog="Example: bnfold explain model.onnx --only fold-batchnorm")
def explain(
    model: Model,
    only: Only = None,
    skip: Skip = None,
    keep_node: KeepNode = None,
    force_inference: ForceInference = False,
    freeze_initializers: FreezeInitializers = False,
    keep_functions: KeepFunctions = False,
    set_shape: SetShape = None,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code", help="Exit 1 if optimize would change it.", rich_help_panel=OUTPUT
        ),
    ] = False,
    report: Report = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Show what optimize would do, and why; write nothing."""
    from bnfold import api
    from bnfold.report.terminal import print_explanation

    passes = pass_options(
        only, skip, keep_node, force_inference, freeze_initializers, keep_functions, set_shape
    )
    detail = detail_of(quiet, verbose)
    with Reports(report, [("MODEL", model)]) as reports:
        record = api.explain(model, passes=passes, hashes=bool(reports) or json)
        _deliver(record, reports, json, print_explanation, detail)
    if exit_code and record.rewrites:
        raise typer.Exit(1)


@app.command(cls=GroupedCommand, epilog="Example: bnfold report run.json -o run.html -o run.md")
def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.json", help="A record from --report FILE.json.", show_default=False
        ),
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.html|.md|.json",
            help="Output file (repeatable). Default: print Markdown.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Render the record of a run as HTML, Markdown or JSON."""
    from bnfold.record.reading import read_record
    from bnfold.report import render

    with Reports(output, [("RUN.json", run)], option="-o") as reports:
        record = read_record(run)
        reports.write(record)
    if json or not output:
        print(render(record, ".json" if json else ".md"), end="")


@app.command(cls=GroupedCommand, epilog="Example: bnfold passes fold-batchnorm")
def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A pass.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the passes, or describe one."""
    from bnfold.cli.passes import print_pass, print_passes
    from bnfold.rewriting.registry import all_passes, choose_passes

    chosen = all_passes() if name is None else choose_passes(only=[name])
    if json:
        import json as json_module

        described = [pass_.to_dict() for pass_ in chosen]
        print(json_module.dumps(described, indent=2, ensure_ascii=False))
    elif name is None:
        print_passes(new_console(), chosen)
    else:
        print_pass(new_console(), chosen[0])


app.command(cls=GroupedCommand, epilog="Example: bnfold inspect model.onnx model.fast.onnx")(
    inspect
)
app.command(cls=GroupedCommand, epilog="Example: bnfold doctor --json")(doctor)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print all versions that matter.", is_eager=True)
    ] = False,
) -> None:
    """Fold BatchNormalization out of exported ONNX models, and verify the result."""
    if version:
        print(version_line())
        raise typer.Exit
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
        warnings = _Warnings()
        logging.getLogger("bnfold").addHandler(warnings)
        try:
            exit_code = _run()
        finally:
            logging.getLogger("bnfold").removeHandler(warnings)
        out.flush()
        if out.complaint:
            _say(out.complaint)
    gc.freeze()  # skip the final collection, which is slow: the process ends anyway
    sys.exit(exit_code)


class _Warnings(logging.Handler):
    """Shows each warning once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._shown:
            self._shown.add(message)
            _say(message)


def _run() -> int:
    try:
        return app(standalone_mode=False) or 0
    except BaseException as error:
        if os.environ.get("BNFOLD_DEBUG"):
            raise
        message, exit_code = _told(error)
        if message:
            _say(message)
        return exit_code


def _told(error: BaseException) -> tuple[str, int]:
    """Return what to say of the end of a run, and the exit code."""
    number = received()
    if number is not None:  # whatever a library has made of it
        return f"ended by {signal.Signals(number).name}", 128 + number
    if isinstance(error, BnfoldError):
        return str(error), error.exit_code
    if isinstance(error, TyperException):
        return f"{error.format_message().rstrip('.')}; see --help", UsageError.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, OSError):
        return in_words(error), UsageError.exit_code
    if isinstance(error, ImportError):
        return f"a module cannot be imported: {error}; reinstall bnfold", UsageError.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", INTERNAL_ERROR
    if isinstance(error, SystemExit):
        return "", error.code if isinstance(error.code, int) else INTERNAL_ERROR
    return (
        f"unexpected {type(error).__name__}: {error}; please report it with the traceback that "
        "BNFOLD_DEBUG=1 shows",
        INTERNAL_ERROR,
    )


def _say(message: str) -> None:
    print(f"bnfold: {error_line(message)}", file=sys.stderr)


def _deliver(
    record: Record,
    reports: Reports,
    json: bool,
    render: Callable[[Console, Record, Detail], None],
    detail: Detail,
) -> None:
    record = replace(record, command=sys.argv[:])
    reports.write(record)
    if json:
        print(record.to_json())
    else:
        render(new_console(), record, detail)
