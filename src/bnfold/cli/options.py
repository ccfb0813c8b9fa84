"""The options that several commands share, and what they become."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.errors import UsageError
from bnfold.report import SUFFIXES

if TYPE_CHECKING:
    from bnfold.options import ExecutionOptions

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.", show_default=False)]
Only = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Run this pass only (repeatable).")
]
Skip = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Leave this pass out (repeatable).")
]
KeepNode = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Leave the nodes alone whose name this finds.")
]
ForceInference = Annotated[
    bool, typer.Option("--force-inference", help="Switch training-mode nodes to inference first.")
]
FreezeInitializers = Annotated[
    bool,
    typer.Option("--freeze-initializers", help="Let callers no longer override initializers."),
]
Provider = Annotated[
    list[str] | None, typer.Option(metavar="cpu|cuda", help="Where to check (repeatable).")
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE.npy|NAME:1,3,224,224",
        help="Content, or the shape, of an input (repeatable).",
    ),
]
Data = Annotated[
    Path | None, typer.Option(metavar="FILE.npz|DIR", help="Inputs, or an onnx test-data folder.")
]
Samples = Annotated[int, typer.Option(min=1, help="How many inputs to draw.")]
Seed = Annotated[int, typer.Option(min=0, help="The seed to draw them from.")]
RelativeTolerance = Annotated[
    float | None, typer.Option("--rtol", min=0, help="Default: by type of output.")
]
AbsoluteTolerance = Annotated[
    float | None,
    typer.Option("--atol", min=0, help="Default: by type and largest magnitude of output."),
]
Truth = Annotated[
    str, typer.Option(metavar="auto|off|always", help="Evaluate in float64, too (auto: 10 s).")
]
SaveInputs = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Save the inputs there, for --data.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="Default: all that this process may use.")
]
RequireSpeedup = Annotated[
    float | None,
    typer.Option(
        metavar="X", min=0, help="Fail (exit 6) if the median speed-up at optimization all is less."
    ),
]
Report = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.html|.md|.json", help="Write what was found, as a page or data (repeatable)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the record, and nothing else.")]


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
        UsageError: if a provider is unknown, or a file of inputs cannot be read.
    """
    from bnfold.options import ExecutionOptions, InputOptions
    from bnfold.running.input_files import parse_input_options

    arrays, shapes = parse_input_options(inputs or ())
    return ExecutionOptions(
        providers=tuple(dict.fromkeys(providers or ["cpu"])),
        threads=threads,
        inputs=InputOptions(seed, samples, arrays, shapes, data),
    )


def report_files(
    reports: list[Path] | None, output: Path | None = None, option: str = "--report"
) -> list[Path]:
    """Check where the reports go before the work starts.

    Raises:
        UsageError: if one cannot go there, or how to render it is not known.
    """
    for path in reports or ():
        if path.suffix not in SUFFIXES:
            raise UsageError(f"{option} {path}: a report ends in {', '.join(SUFFIXES)}")
        place = os.path.realpath(path)  # unlike resolve(), no error where a link leads to itself
        if not os.path.isdir(os.path.dirname(place)):
            raise UsageError(f"{option} {path}: the folder does not exist")
        if output is not None and place == os.path.realpath(output):
            raise UsageError(f"{option} {path} is where the model is to be written")
    return reports or []
