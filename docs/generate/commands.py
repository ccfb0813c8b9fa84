"""The commands and their options, as the command line declares them."""

from __future__ import annotations

from typing import Any

import typer

from bnfold.cli.help import sections
from bnfold.cli.main import app
from docs.generate.tables import cell

_SHOWN = ("optimize", "check", "bench", "explain")
"""The commands that come first; the others follow in their own order."""


def commands() -> str:
    """Return a section for each command: what it does, its usage, arguments and options."""
    group: Any = typer.main.get_command(app)
    names = [*_SHOWN, *(name for name in group.commands if name not in _SHOWN)]
    return "\n\n".join(_section(f"bnfold {name}", group.commands[name]) for name in names)


def _section(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {name}", command.help.strip(), f"```\n{usage}\n```"]
    for title, described in sections(command, context).items():
        rows = [_row(*each) for each in described]
        parts.append("\n".join([f"| {title} | |", "|---|---|", *rows]))
    if command.epilog:
        example = command.epilog.removeprefix("Example: ")
        parts.append(f"```\n$ {example}\n```")
    return "\n\n".join(parts)


def _row(name: str, meaning: str) -> str:
    return f"| {cell(f'`{name}`')} | {cell(meaning).replace('  [', ' [')} |"
