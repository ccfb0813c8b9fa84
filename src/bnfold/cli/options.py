"""Options that several commands share, and the options of `optimize` on files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bnfold.cli.help import CHECK, INPUTS, OUTPUT, REWRITING, SPEED


def quiet_option(meaning: str) -> Any:
    """Return the option for less output; what is left differs by command."""
    return typer.Option("-q", "--quiet", help=meaning, rich_help_panel=OUTPUT)


def verbose_option(meaning: str) -> Any:
    """Return the option for more output; what is more differs by command."""
    return typer.Option("-v", "--verbose", help=meaning, rich_help_panel=OUTPUT)


def json_option(meaning: str) -> Any:
    """Return the option for output that is JSON alone; what it says differs by command."""
    return typer.Option("--json", help=meaning, rich_help_panel=OUTPUT)


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="An .onnx file, or - for standard input.",
        show_default=False,
        readable=False,  # checked where it is read, as what is in it is: exit code 3
    ),
]
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
CustomOps = Annotated[
    list[Path] | None,
    typer.Option(
        "--custom-ops",
        metavar="LIB",
        help="Library of operators for onnxruntime (repeatable).",
        rich_help_panel=INPUTS,
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
        help="Also evaluate in float64 (auto: 10 s, 60 s in doubt).",
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
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Replace OUTPUT even if it is a model with other inputs or outputs.",
        rich_help_panel=OUTPUT,
    ),
]
ExternalData = Annotated[
    str,
    typer.Option(
        "--external-data",
        metavar="auto|always|never",
        help="Large weights in a file beside OUTPUT (auto: as in MODEL, or above 2 GiB).",
        rich_help_panel=OUTPUT,
    ),
]
ExternalDataThreshold = Annotated[
    int | None,
    typer.Option(
        "--external-data-threshold",
        min=0,
        metavar="BYTES",
        help="Of the smallest weight that goes there (1024).",
        rich_help_panel=OUTPUT,
    ),
]
ExternalDataName = Annotated[
    str | None,
    typer.Option(
        "--external-data-name",
        metavar="NAME",
        help="Of that file. Default: by its content.",
        rich_help_panel=OUTPUT,
    ),
]
