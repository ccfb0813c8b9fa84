"""The commands and their options, as the command line declares them."""

from __future__ import annotations

from typing import Any

import typer

from bnfold.cli.main import app

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
    panels: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        described = parameter.get_help_record(context)
        if described is None:
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None)
        title = "Arguments" if is_argument else panel or "Other options"
        panels.setdefault(title, []).append(_row(*described))
    for title in sorted(panels, key=lambda title: (title == "Other options", title != "Arguments")):
        parts.append("\n".join([f"| {title} | |", "|---|---|", *panels[title]]))
    if command.epilog:
        example = command.epilog.removeprefix("Example: ")
        parts.append(f"```\n$ {example}\n```")
    return "\n\n".join(parts)


def _row(name: str, meaning: str) -> str:
    cells = [cell.replace("|", "\\|") for cell in (f"`{name}`", meaning)]
    return f"| {cells[0]} | {cells[1].replace('  [', ' [')} |"
