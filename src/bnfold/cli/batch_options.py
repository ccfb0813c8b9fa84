"""What is asked of one model of a batch, from the command line and its entry in a manifest."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.cli.config import idle, option_words
from bnfold.cli.values import check_options, execution_options, pass_options
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.batch.asked import Asked


def asked_of(values: Mapping[str, Any], model: str = "") -> Asked:
    """Build what is asked of a model from the values of options by name.

    `model` is the one that has options of its own: errors are told with its name.

    Raises:
        UsageError: if an option makes no sense.
    """
    try:
        return _asked_of(values)
    except UsageError as error:
        if not model:
            raise
        raise UsageError(f"{model}: {error.on_command_line}") from error


def _asked_of(values: Mapping[str, Any]) -> Asked:
    from bnfold.batch.asked import Asked
    from bnfold.options import StorageOptions, TimingOptions
    from bnfold.rewriting.registry import choose_passes

    passes = pass_options(
        values["only"],
        values["skip"],
        values["keep_node"],
        values["force_inference"],
        values["freeze_initializers"],
        values["keep_functions"],
        values["set_shape"],
    )
    choose_passes(passes.only, passes.skip)  # an unknown name is known before the work starts
    passes.keep_pattern()
    data = values["data"]
    execution = execution_options(
        values["provider"],
        values["threads"],
        values["input"],
        Path(data).absolute() if data is not None else None,
        values["samples"],
        values["seed"],
        [Path(each).absolute() for each in values["custom_ops"] or ()],
    )
    checking = check_options(
        values["rtol"],
        values["atol"],
        values["truth"],
        None,
        values["certify"],
        values["require"],
    )
    timing = TimingOptions(
        None if values["bench_seconds"] is None else float(values["bench_seconds"]),
        values["require_speedup"],
        values["require_speedup_at"],
        float(values["tune_seconds"]),
    )
    storage = StorageOptions(values["external_data"], values["external_data_threshold"])
    steps = {name: values[name] for name in ("check", "bench", "tune", "drop_culprit")}
    return Asked(passes, execution, checking, timing, storage, **steps)


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Return the options as `bnfold optimize` takes them, without those that are as usual."""
    from bnfold.cli.optimize import optimize

    usual = inspect.signature(optimize).parameters
    given = [name for name, value in values.items() if value not in (None, usual[name].default)]
    lost = idle(values, given.__contains__)
    words: list[str] = []
    for name in given:
        if name in lost:
            continue
        option, value = name.replace("_", "-"), values[name]
        words += option_words(f"--{option}", f"--no-{option}", value)
    return words
