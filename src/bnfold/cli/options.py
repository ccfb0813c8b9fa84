"""Options that several commands share, and the objects built from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.options import CheckOptions, ExecutionOptions

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.", show_default=False)]
Only = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Run this pass only (repeatable).")
]
Skip = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Skip this pass (repeatable).")
]
KeepNode = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Do not change nodes whose name matches.")
]
ForceInference = Annotated[
    bool, typer.Option("--force-inference", help="Switch training-mode nodes to inference first.")
]
FreezeInitializers = Annotated[
    bool,
    typer.Option(
        "--freeze-initializers", help="Treat initializers that are also inputs as constants."
    ),
]
KeepFunctions = Annotated[
    bool, typer.Option("--keep-functions", help="Do not inline the functions of the model.")
]
Provider = Annotated[
    list[str] | None, typer.Option(metavar="cpu|cuda", help="Execution provider (repeatable).")
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE.npy|NAME:1,3,224,224",
        help="Content or shape of an input (repeatable).",
    ),
]
Data = Annotated[
    Path | None, typer.Option(metavar="FILE.npz|DIR", help="Inputs, or an ONNX test-data folder.")
]
Samples = Annotated[int, typer.Option(min=1, help="Number of random inputs.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the random inputs.")]
RelativeTolerance = Annotated[
    list[str] | None,
    typer.Option("--rtol", metavar="[NAME=]X", help="Default: by output type (repeatable)."),
]
AbsoluteTolerance = Annotated[
    list[str] | None,
    typer.Option(
        "--atol", metavar="[NAME=]X", help="Default: by output type and magnitude (repeatable)."
    ),
]
Outputs = Annotated[
    str,
    typer.Option(
        "--outputs",
        metavar="declared|all",
        help="all: also find the first value at which the models diverge.",
    ),
]
Truth = Annotated[
    str, typer.Option(metavar="auto|off|always", help="Also evaluate in float64 (auto: 10 s).")
]
Certify = Annotated[
    str,
    typer.Option(metavar="auto|off|always", help="Prove each rewrite by itself (auto: 30 s)."),
]
Require = Annotated[
    str,
    typer.Option(
        metavar="certified|pass",
        help="pass: proven rewrites are not enough where the whole model cannot be checked.",
    ),
]
SaveInputs = Annotated[Path | None, typer.Option(metavar="DIR", help="Save the inputs for --data.")]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="Default: all available CPUs.")]
RequireSpeedup = Annotated[
    float | None,
    typer.Option(
        metavar="X", min=0, help="Fail (exit 6) if the median speed-up at level all is less."
    ),
]
Report = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE.html|.md|.json", help="Write a report in this format (repeatable)."),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace OUTPUT even if it is a model with other inputs or outputs."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print only the JSON record.")]


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
        providers=tuple(dict.fromkeys(providers or ["cpu"])),
        threads=threads,
        inputs=InputOptions(seed, samples, arrays, shapes, data),
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
