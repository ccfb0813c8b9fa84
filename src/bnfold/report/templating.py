"""The templates of pages, and what all of them share."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bnfold.report import wording


def templates() -> Environment:
    """Return an environment with the templates: text is escaped, and nothing may be undefined."""
    environment = Environment(
        loader=PackageLoader("bnfold.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shortened": wording.shortened, "count_of": wording.count}
    return environment


def style() -> Markup:
    """Return the style sheet."""
    sheet = files("bnfold.report").joinpath("templates", "report.css")
    return Markup(sheet.read_text(encoding="utf-8"))
