"""Builds the options of a run from those of the command line."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.options import CheckOptions, ExecutionOptions, PassOptions, StorageOptions
    from bnfold.report.terminal.lines import Detail


def execution_options(
    providers: list[str] | None,
    threads: int | None,
    inputs: list[str] | None,
    data: Path | None,
    samples: int,
    seed: int,
    custom_ops: list[Path] | None,
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
        custom_ops=custom_ops or (),
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


def warn_of_idle(checking: CheckOptions, drop_culprit: bool, custom_ops: bool) -> None:
    """Name the options that do nothing without a check, if any of them is given.

    `custom_ops` says whether libraries are, and no model runs otherwise.
    """
    from bnfold.options import CheckOptions

    options = {
        "--rtol": checking.rtol is not None or bool(checking.rtols),
        "--atol": checking.atol is not None or bool(checking.atols),
        "--truth": checking.truth != CheckOptions.truth,
        "--certify": checking.certify != CheckOptions.certify,
        "--require": checking.require != CheckOptions.require,
        "--save-inputs": checking.save_inputs is not None,
        "--drop-culprit": drop_culprit,
        "--custom-ops": custom_ops,
    }
    if given := [option for option, is_given in options.items() if is_given]:
        logging.getLogger("bnfold").warning("--no-check leaves %s without effect", ", ".join(given))


def storage_options(
    external_data: str, threshold: int | None, name: str | None, *, to_stream: bool
) -> StorageOptions:
    """Build StorageOptions from the command line.

    Raises:
        UsageError: if a choice is unknown, or the model goes to a stream but its data elsewhere.
    """
    from bnfold.options import StorageOptions

    asked = StorageOptions(external_data, threshold, name)
    if not to_stream:
        return asked
    if external_data == "always" or threshold is not None or name is not None:
        raise UsageError("OUTPUT - is one stream, which has no place for external data")
    return StorageOptions("never")
