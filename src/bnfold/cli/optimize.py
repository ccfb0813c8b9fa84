"""The command `bnfold optimize`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.delivery import deliver
from bnfold.cli.help import OUTPUT
from bnfold.cli.options import (
    AbsoluteTolerance,
    Certify,
    CustomOps,
    Data,
    ExternalData,
    ExternalDataName,
    ExternalDataThreshold,
    Force,
    ForceInference,
    FreezeInitializers,
    Input,
    KeepFunctions,
    KeepNode,
    Model,
    Only,
    Provider,
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
    json_option,
    quiet_option,
    verbose_option,
)
from bnfold.cli.outputs import (
    Reports,
    beside,
    input_files,
    output_file,
    require_apart,
    with_data,
)
from bnfold.cli.pipes import STREAM, Pipes
from bnfold.cli.progress import StepProgress
from bnfold.cli.steps import Bench, BenchSeconds, Check, DropCulprit, Tune, TuneSeconds
from bnfold.cli.values import (
    check_options,
    detail_of,
    execution_options,
    pass_options,
    storage_options,
    warn_of_idle,
)
from bnfold.errors import BnfoldError, ModelError, UsageError


def optimize(
    model: Model,
    output: Annotated[
        str | None,
        typer.Argument(
            metavar="OUTPUT",
            help="Default: MODEL's stem + .bnfold.onnx, or - for standard output.",
            show_default=False,
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
    check: Check = True,
    bench: Bench = True,
    bench_seconds: BenchSeconds = None,
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
    save_inputs: SaveInputs = None,
    threads: Threads = None,
    custom_ops: CustomOps = None,
    external_data: ExternalData = "auto",
    external_data_threshold: ExternalDataThreshold = None,
    external_data_name: ExternalDataName = None,
    force: Force = False,
    report: Report = None,
    quiet: Annotated[
        bool, quiet_option("Print the verdict, the speed and the file alone.")
    ] = False,
    verbose: Annotated[bool, verbose_option("Print all outputs, nodes and conditions.")] = False,
    json: Annotated[bool, json_option("Print only the JSON record.")] = False,
) -> None:
    """Rewrite a model, check and time the result, and write it."""
    from bnfold import api
    from bnfold.options import TimingOptions
    from bnfold.report.terminal import print_optimization

    if output is not None and output_option is not None:
        raise UsageError("OUTPUT is given twice: as an argument and with -o")
    output = output or output_option
    to_stream = (output or str(model)) == STREAM
    if to_stream and json:
        raise UsageError("OUTPUT - and --json both go to standard output; use --report FILE.json")
    if not model.name:
        raise ModelError(f"{model} is a directory; name the .onnx file in it")
    passes = pass_options(
        only, skip, keep_node, force_inference, freeze_initializers, keep_functions, set_shape
    )
    execution = execution_options(provider, threads, input, data, samples, seed, custom_ops)
    checking = check_options(rtol, atol, truth, save_inputs, certify, require)
    is_recorded = bool(report) or json
    timing = TimingOptions(
        bench_seconds,
        require_speedup,
        require_speedup_at,
        tune_seconds,
        profile=is_recorded or verbose,
    )
    storage = storage_options(
        external_data, external_data_threshold, external_data_name, to_stream=to_stream
    )
    if not check:
        warn_of_idle(checking, drop_culprit, bool(custom_ops) and not bench and not tune)
    detail = detail_of(quiet, verbose)
    given = input_files(input, data)
    with Pipes() as pipes:
        if to_stream:
            place = pipes.outgoing()
        else:
            place = output_file(model, Path(output) if output else None, output)
        outputs = [("OUTPUT", place), *beside(place, storage.name, save_inputs)]
        require_apart(outputs, given)
        require_apart(outputs[1:], [("MODEL", model)])
        model = pipes.incoming(model)
        files = [*with_data([("MODEL", model)], report), *outputs, *given]
        with Reports(report, files) as reports:
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
                        hashes=is_recorded,
                        figures=is_recorded,
                        execution=execution,
                        checking=checking,
                        timing=timing,
                        storage=storage,
                        progress=progress,
                    )
            except BnfoldError as error:
                if error.record is not None:
                    deliver(
                        pipes.named(error.record),
                        reports,
                        json,
                        print_optimization,
                        detail,
                        stderr=to_stream,
                        exit_code=error.exit_code,
                    )
                raise
            record = pipes.named(result.record)
            if to_stream and record.output is not None:
                record = replace(record, output=replace(record.output, written=pipes.send(place)))
            deliver(record, reports, json, print_optimization, detail, stderr=to_stream)
