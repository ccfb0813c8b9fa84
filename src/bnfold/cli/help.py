"""Help pages with their options in groups, each of 80 columns at most."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

REWRITING = "What to rewrite"
CHECK = "Check"
INPUTS = "Inputs and providers"
SPEED = "Speed"
OUTPUT = "Output"
WORKERS = "Workers"


class GroupedCommand(TyperCommand):
    """A command that lists its options by their panel, those without one last."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then a section for each group of options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            described = parameter.get_help_record(ctx)
            if described is None:
                continue
            is_argument = parameter.param_type_name == "argument"
            panel = getattr(parameter, "rich_help_panel", None)
            section = "Arguments" if is_argument else panel or "Options"
            name, text = described
            names = name.partition(" <")[0] if is_argument else name  # what it takes is its name
            sections.setdefault(section, []).append((names, text))
        order = ["Arguments", REWRITING, CHECK, INPUTS, SPEED, WORKERS, OUTPUT, "Options"]
        for section in sorted(sections, key=order.index):
            with formatter.section(section):
                formatter.write_dl(sections[section])
