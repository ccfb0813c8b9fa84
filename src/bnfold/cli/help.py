"""Help pages with their options in groups, each of 80 columns at most."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

REWRITING = "What to rewrite"
CHECK = "Check"
INPUTS = "Inputs and providers"
SPEED = "Speed"
OUTPUT = "Output"
WORKERS = "Workers"


_OTHERS = "Options"


def sections(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Return what a command takes, each with its meaning: the arguments, then groups of options.

    Those of no group come last.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        described = parameter.get_help_record(context)
        if described is None:
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None)
        name, text = described
        name = name.partition(" <")[0] if is_argument else name  # what it takes is its name
        found.setdefault("Arguments" if is_argument else panel or _OTHERS, []).append((name, text))
    order = ["Arguments", REWRITING, CHECK, INPUTS, SPEED, WORKERS, OUTPUT, _OTHERS]
    return {section: found[section] for section in sorted(found, key=order.index)}


class GroupedCommand(TyperCommand):
    """A command that lists its options by their panel, those without one last."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what a command takes; typer has braces around arguments that must be given."""
        pieces = super().collect_usage_pieces(ctx)
        return [re.sub(r"\{([^{}|]+)\}", r"\1", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then a section for each group of options."""
        for section, rows in sections(self, ctx).items():
            with formatter.section(section):
                formatter.write_dl(rows)
