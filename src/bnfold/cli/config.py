"""Defaults of options from a file: [tool.bnfold.optimize] and so on of a pyproject.toml."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from itertools import permutations
from pathlib import Path
from typing import Any

from bnfold.cli.ending import say
from bnfold.cli.help import GroupedCommand
from bnfold.errors import UsageError, in_words

_NO_DEFAULTS = ("help", "output")
"""Options that a file gives no default for: they are about one run alone."""

_ASKING: Mapping[str, Mapping[str, str | None]] = {
    "check": {"truth": "always", "certify": "always", "require": None},
    "bench": {"require_speedup": None, "bench_seconds": None},
}
"""By step: the options that ask for it, at this value or at any."""

_SAID = ("COMMANDLINE", "DEFAULT_MAP")
"""Where a value comes from that is not the default."""

_given: ContextVar[list[str] | None] = ContextVar("given", default=None)
"""The words after the program's name, if a file has given any of them."""


def command_line() -> list[str]:
    """Return the command line that repeats this run, without a file that has given defaults."""
    words = _given.get()
    return sys.argv[:] if words is None else [sys.argv[0], *words]


def option_words(name: str, off: str | None, value: Any) -> list[str]:
    """Return an option of this value as it stands on a command line; `off` says the opposite."""
    if isinstance(value, bool):
        return [word for word in [name if value else off] if word is not None]
    values = value if isinstance(value, list) else [value]
    return [word for each in values for word in (name, str(each))]


class ConfiguredCommand(GroupedCommand):
    """A command whose options have defaults from a file; what the command line says counts more."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take over the defaults, then parse; help needs none."""
        if not set(args) & set(ctx.help_option_names):
            root = ctx.find_root()
            found = None if root.params.get("no_config") else _read(root.params.get("config"))
            if found is not None:
                path, tables = found
                _require_known(path, "tool.bnfold", tables, root.command.commands, "command")
                ctx.default_map = self._defaults(ctx, path, tables.get(ctx.info_name, {}))
                ctx.meta["bnfold.config"] = path if ctx.default_map else None
        ctx.meta["bnfold.words"] = args[:]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Say where defaults come from, if much is to be said, and run the command."""
        for mine, other in permutations(("quiet", "verbose")):  # the command line wins
            if ctx.params.get(other) and _source(ctx, mine) == "DEFAULT_MAP" != _source(ctx, other):
                ctx.params[mine] = False
        overruled = self._settle_steps(ctx)
        if ctx.params.get("verbose") and ctx.meta.get("bnfold.config") is not None:
            say(f"{ctx.meta['bnfold.config']} gives defaults to {', '.join(ctx.default_map)}")
        words = self._words_of_file(ctx, overruled)
        given = ["--no-config", ctx.info_name, *words, *ctx.meta["bnfold.words"]] if words else None
        before = _given.set(given)
        try:
            return super().invoke(ctx)
        finally:
            _given.reset(before)

    def _settle_steps(self, ctx: Any) -> set[str]:
        """Decide on steps that are both switched off and asked for: the command line wins.

        Return the options that have no effect.

        Raises:
            UsageError: if the command line itself says both.
        """
        lost: set[str] = set()
        for step in _ASKING:
            is_off = _source(ctx, step) == "COMMANDLINE"
            asking = _asking(step, ctx.params, lambda name: _source(ctx, name) in _SAID)
            typed = [name for name in asking if _source(ctx, name) == "COMMANDLINE"]
            if is_off and typed:
                option, value = typed[0].replace("_", "-"), _ASKING[step][typed[0]]
                asks = f"--{option} {value}" if value else f"--{option}"
                raise UsageError(f"--no-{step} and {asks} contradict each other")
            if typed or ("require_speedup" in asking and not is_off):
                ctx.params[step] = True
                lost.add(step)
                continue
            lost.update(asking)
            if "require_speedup" in asking:
                ctx.params["require_speedup"] = None
                say(f"--no-{step} leaves --require-speedup without effect")
        return lost

    def _words_of_file(self, ctx: Any, overruled: Container[str]) -> list[str]:
        """Return the options that the file has given, as they stand on a command line."""
        words: list[str] = []
        for option in self.get_params(ctx):
            if _source(ctx, option.name) != "DEFAULT_MAP" or option.name in overruled:
                continue
            value = ctx.default_map[option.name]
            if value is True and not ctx.params[option.name]:
                continue  # the command line has said the opposite
            off = max(option.secondary_opts, key=len, default=None)
            words += option_words(max(option.opts, key=len), off, value)
        return words

    def _defaults(self, ctx: Any, path: Path, table: Any) -> dict[str, Any]:
        """Return the values of a table by the names of parameters."""
        where = f"tool.bnfold.{ctx.info_name}"
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {where} is not a table of options")
        options = {
            name.removeprefix("--"): option
            for option in self.get_params(ctx)
            for name in option.opts
            if name.startswith("--") and name.removeprefix("--") not in _NO_DEFAULTS
        }
        _require_known(path, where, table, options, "option")
        for key, value in table.items():
            _require_fitting(ctx, f"{path}: {where}.{key}", options[key], value)
        return {options[key].name: value for key, value in table.items()}


def _asking(step: str, values: Mapping[str, Any], is_given: Callable[[str], bool]) -> list[str]:
    """Return the options, of those that are given, that ask for a step that is switched off."""
    if values.get(step) is not False:
        return []
    return [
        name
        for name, value in _ASKING[step].items()
        if name in values and is_given(name) and value in (None, values[name])
    ]


def idle(values: Mapping[str, Any], is_given: Callable[[str], bool]) -> set[str]:
    """Return the options that have no effect beside others: a required speed-up is measured."""
    lost: set[str] = set()
    for step in _ASKING:
        asking = _asking(step, values, is_given)
        lost.update([step] if "require_speedup" in asking else asking)
    return lost


def _source(ctx: Any, name: str) -> str:
    """Return where the value of a parameter comes from."""
    source = ctx.get_parameter_source(name)
    return "" if source is None else str(source.name)


def _read(given: Path | None) -> tuple[Path, dict[str, Any]] | None:
    """Return the file to take defaults from, if there is one, and its tables by command.

    Raises:
        UsageError: if it cannot be read, or was named and has none.
    """
    path = given or _nearest()
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        cause = in_words(error, path, "read") if isinstance(error, OSError) else f"{path}: {error}"
        raise UsageError(f"{cause}; --no-config does without it") from error
    tables: Any = None
    if b"bnfold" in content:  # else it is about other tools, and need not even be valid
        tables = _parsed(path, content).get("tool", {}).get("bnfold")
    if tables is None and given is not None:
        raise UsageError(f"{path} has no [tool.bnfold.optimize] or the like")
    if tables is None:
        return None
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: tool.bnfold is not a table")
    return path, tables


def _nearest() -> Path | None:
    """Return the pyproject.toml of this folder, or of the nearest one above that has one."""
    try:
        here = Path(os.getcwd())
    except OSError:  # it was removed
        return None
    places = (folder / "pyproject.toml" for folder in (here, *here.parents))
    return next((place for place in places if os.path.isfile(place)), None)


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:  # of syntax, or no UTF-8
        raise UsageError(
            f"{path} is not valid TOML: {error}; --no-config does without it"
        ) from error


def _require_known(
    path: Path, where: str, table: Mapping[str, Any], known: Mapping[str, Any], kind: str
) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"{path}: {where}.{key} is no {kind}; {hint}")


def _require_fitting(ctx: Any, where: str, option: Any, value: Any) -> None:
    """Require a value of an option's own type, within its limits."""
    if option.multiple != isinstance(value, list):
        what = "a list" if option.multiple else "one value"
        raise UsageError(f"{where} is {value!r}, but takes {what}")
    try:
        taken = option.process_value(ctx, value)
    except Exception as error:  # typer's own, of several versions
        reason = getattr(error, "message", None) or str(error)
        raise UsageError(f"{where} is {value!r}: {reason}") from error
    pairs = zip(value, taken, strict=True) if option.multiple else [(value, taken)]
    for each, result in pairs:
        kinds, words = _accepted(result)
        if type(each) not in kinds:
            raise UsageError(f"{where} is {value!r}, but takes {words}")


def _accepted(result: Any) -> tuple[tuple[type, ...], str]:
    """Return the types of TOML that a value may have had, by what became of it; and in words."""
    if isinstance(result, bool):
        return (bool,), "true or false"
    if isinstance(result, int):
        return (int,), "a whole number"
    if isinstance(result, float):
        return (int, float), "a number"
    return (str,), "text"
