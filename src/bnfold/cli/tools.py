"""The commands that look at models, passes and this machine, and change nothing."""

from __future__ import annotations

import json as json_module
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bnfold.cli.delivery import new_console
from bnfold.cli.options import (
    Model,
    json_option,
    verbose_option,
)
from bnfold.cli.pipes import Pipes
from bnfold.cli.values import (
    detail_of,
)
from bnfold.errors import ProviderError
from bnfold.version import __version__


def inspect(
    model: Model,
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="OTHER",
            help="A model, or -, to compare with.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    verbose: Annotated[bool, verbose_option("Print all nodes that differ.")] = False,
    json: Annotated[bool, json_option("Print the figures as JSON.")] = False,
) -> None:
    """Show what a model holds and computes, or how two differ.

    Multiply-adds are those of Conv, ConvTranspose, Gemm and MatMul for one image: a free first axis
    counts as one. Nodes are compared by the names of what they compute.
    """
    from bnfold import api
    from bnfold.cli.inspection import as_data, print_difference, print_inspection

    with Pipes() as pipes:
        found = [api.inspect(pipes.incoming(path)) for path in (model, other) if path is not None]
        one, *others = [
            replace(each, model=replace(each.model, path=pipes.shown(each.model.path)))
            for each in found
        ]
    two = others[0] if others else None
    if json:
        print(json_module.dumps(as_data(one, two), indent=2, ensure_ascii=False))
    elif two is None:
        print_inspection(new_console(), one)
    else:
        print_difference(new_console(), one, two, detail_of(False, verbose))


def doctor(json: Annotated[bool, json_option("Print the findings as JSON.")] = False) -> None:
    """Check the packages, the providers and the folders here.

    The exit code is 4 if the CPU provider does not work: nothing could be checked.
    """
    from bnfold.running.diagnosis import diagnose

    findings = list(diagnose())
    if json:
        print(json_module.dumps([vars(each) for each in findings], indent=2, ensure_ascii=False))
    else:
        from bnfold.cli.doctor import print_findings

        print_findings(new_console(), findings)
    if any(each.name == "provider cpu" and not each.works for each in findings):
        raise typer.Exit(ProviderError.exit_code)


def version_line() -> str:
    """Return bnfold's version, and the versions that results depend on."""
    from bnfold.running.diagnosis import versions

    found = versions()
    names = ("onnx", "onnx-ir", "numpy", "onnxruntime", "onnxruntime-gpu", "python")
    others = ", ".join(f"{name} {found[name]}" for name in names if name in found)
    return f"bnfold {__version__} ({others})"


def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A pass.", show_default=False)
    ] = None,
    json: Annotated[bool, json_option("Print the passes as JSON.")] = False,
) -> None:
    """List the passes, or describe one."""
    from bnfold.cli.passes import print_pass, print_passes
    from bnfold.rewriting.registry import all_passes, choose_passes

    chosen = all_passes() if name is None else choose_passes(only=[name])
    if json:
        described = [pass_.to_dict() for pass_ in chosen]
        print(json_module.dumps(described, indent=2, ensure_ascii=False))
    elif name is None:
        print_passes(new_console(), chosen)
    else:
        print_pass(new_console(), chosen[0])
