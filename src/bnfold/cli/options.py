"""Options that several commands share, and the objects built from them."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.cli.help import CHECK, INPUTS, OUTPUT, REWRITING, SPEED
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.options import CheckOptions, ExecutionOptions, PassOptions
    from bnfold.report.terminal.lines import Detail

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.", show_default=False)]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Run this pass only (repeatable).", rich_help_panel=REWRITING
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Skip this pass (repeatable).", rich_help_panel=REWRITING),
]
KeepNode = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX", help="Do not change nodes whose name matches.", rich_help_panel=REWRITING
    ),
]
ForceInference = Annotated[
    bool,
    typer.Option(
        "--force-inference",
        help="Switch training-mode nodes to inference first.",
        rich_help_panel=REWRITING,
    ),
]
FreezeInitializers = Annotated[
    bool,
    typer.Option(
        "--freeze-initializers",
        help="Treat initializers that are also inputs as constants.",
        rich_help_panel=REWRITING,
    ),
]
SetShape = Annotated[
    list[str] | None,
    typer.Option(
        "--set-shape",
        metavar="NAME:1,3,224,224",
        help="Fix the sizes of an input in the model itself (repeatable).",
        rich_help_panel=REWRITING,
    ),
]
KeepFunctions = Annotated[
    bool,
    typer.Option(
        "--keep-functions",
        help="Do not inline the functions of the model.",
        rich_help_panel=REWRITING,
    ),
]
Provider = Annotated[
    list[str] | None,
    typer.Option(
        metavar="cpu|cuda", help="Execution provider (repeatable).", rich_help_panel=INPUTS
    ),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE.npy|NAME:1,3,224,224",
        help="Content or shape of an input (repeatable).",
        rich_help_panel=INPUTS,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.npz|DIR", help="Inputs, or an ONNX test-data folder.", rich_help_panel=INPUTS
    ),
]
Samples = Annotated[
    int, typer.Option(min=1, help="Number of random inputs.", metavar="N", rich_help_panel=INPUTS)
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of the random inputs.", metavar="N", rich_help_panel=INPUTS)
]
RelativeTolerance = Annotated[
    list[str] | None,
    typer.Option(
        "--rtol",
        metavar="[NAME=]X",
        help="Default: by output type (repeatable).",
        rich_help_panel=CHECK,
    ),
]
AbsoluteTolerance = Annotated[
    list[str] | None,
    typer.Option(
        "--atol",
        metavar="[NAME=]X",
        help="Default: by output type and magnitude (repeatable).",
        rich_help_panel=CHECK,
    ),
]
Outputs = Annotated[
    str,
    typer.Option(
        "--outputs",
        metavar="declared|all",
        help="all: also find the first value at which the models diverge.",
        rich_help_panel=CHECK,
    ),
]
Truth = Annotated[
    str,
    typer.Option(
        metavar="auto|off|always",
        help="Also evaluate in float64 (auto: 10 s).",
        rich_help_panel=CHECK,
    ),
]
Certify = Annotated[
    str,
    typer.Option(
        metavar="auto|off|always",
        help="Prove each rewrite by itself (auto: 30 s).",
        rich_help_panel=CHECK,
    ),
]
Require = Annotated[
    str,
    typer.Option(
        metavar="certified|pass",
        help="pass: proven rewrites are not enough where the whole model cannot be checked.",
        rich_help_panel=CHECK,
    ),
]
SaveInputs = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Save the inputs for --data.", rich_help_panel=INPUTS),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=256, help="Default: all available CPUs.", metavar="N", rich_help_panel=INPUTS
    ),
]
RequireSpeedup = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0,
        help="Fail (exit 6) if the speed-up at level all is less.",
        rich_help_panel=SPEED,
    ),
]
RequireSpeedupAt = Annotated[
    str,
    typer.Option(
        metavar="bound|median",
        help="What must reach it: the 95 % interval's lower bound, or the median.",
        rich_help_panel=SPEED,
    ),
]
Report = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.html|.md|.json",
        help="Write a report in this format (repeatable).",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q",
        "--quiet",
        help="Print the verdict, the speed and the file alone.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Print all outputs, nodes and conditions.", rich_help_panel=OUTPUT
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print only the JSON record.", rich_help_panel=OUTPUT)
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace OUTPUT even if it is a model with other inputs or outputs.",
        rich_help_panel=OUTPUT,
    ),
]


def execution_options(
    providers: list[str] | None,
    threads: int | None,
    inputs: list[str] | None,
    data: Path | None,
    samples: int,
    seed: int,
) -> ExecutionOptions:
    """Build ExecutionOptions from the command line.

    Raises:
        UsageError: if a provider is unknown or an input file cannot be read.
    """
    from bnfold.options import ExecutionOptions, InputOptions
    from bnfold.running.input_files import parse_input_options

    arrays, shapes = parse_input_options(inputs or ())
    return ExecutionOptions(
        providers=providers or ("cpu",),
        threads=threads,
        inputs=InputOptions(seed, samples, arrays, shapes, data),
    )


def pass_options(
    only: list[str] | None,
    skip: list[str] | None,
    keep_node: str | None,
    force_inference: bool,
    freeze_initializers: bool,
    keep_functions: bool,
    set_shape: list[str] | None,
) -> PassOptions:
    """Build PassOptions from the command line.

    Raises:
        UsageError: if a shape to be set is not NAME:1,3,224,224.
    """
    from bnfold.options import PassOptions

    shapes = {}
    for text in set_shape or ():
        name, _, sizes = text.rpartition(":")
        if not name or not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8})*", sizes):
            raise UsageError(f"--set-shape {text!r} is not NAME:1,3,224,224")
        shapes[name] = [int(size) for size in sizes.split(",")]
    return PassOptions(
        only or (),
        skip or (),
        keep_node,
        force_inference,
        freeze_initializers,
        keep_functions,
        shapes,
    )


def check_options(
    rtol: list[str] | None,
    atol: list[str] | None,
    truth: str,
    save_inputs: Path | None,
    certify: str = "auto",
    require: str = "certified",
) -> CheckOptions:
    """Build CheckOptions from the command line.

    Raises:
        UsageError: if a tolerance is not a number, or an option makes no sense.
    """
    from bnfold.options import CheckOptions

    relative, relative_by_name = _tolerances("--rtol", rtol)
    absolute, absolute_by_name = _tolerances("--atol", atol)
    return CheckOptions(
        relative,
        absolute,
        relative_by_name,
        absolute_by_name,
        truth,
        save_inputs,
        certify,
        require,
    )


def _tolerances(option: str, texts: list[str] | None) -> tuple[float | None, dict[str, float]]:
    """Return the tolerance of all outputs, and those of single ones by name."""
    general: float | None = None
    by_name: dict[str, float] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        try:
            tolerance = float(number)
        except ValueError:
            tolerance = -1.0
        if tolerance < 0:
            raise UsageError(f"{option} {text!r} is neither a number from 0 on nor NAME=NUMBER")
        if equals:
            by_name[name] = tolerance
        else:
            general = tolerance
    return general, by_name


def detail_of(quiet: bool, verbose: bool) -> Detail:
    """Return how much to print.

    Raises:
        UsageError: if both less and more than usual is asked for.
    """
    from bnfold.report.terminal.lines import Detail

    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other")
    return Detail.QUIET if quiet else Detail.VERBOSE if verbose else Detail.USUAL


def warn_of_idle(checking: CheckOptions, drop_culprit: bool) -> None:
    """Name the options that do nothing without a check, if any of them is given."""
    from bnfold.options import CheckOptions

    options = {
        "--rtol": checking.rtol is not None or bool(checking.rtols),
        "--atol": checking.atol is not None or bool(checking.atols),
        "--truth": checking.truth != CheckOptions.truth,
        "--certify": checking.certify != CheckOptions.certify,
        "--require": checking.require != CheckOptions.require,
        "--save-inputs": checking.save_inputs is not None,
        "--drop-culprit": drop_culprit,
    }
    if given := [option for option, is_given in options.items() if is_given]:
        logging.getLogger("bnfold").warning("--no-check leaves %s without effect", ", ".join(given))
