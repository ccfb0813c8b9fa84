"""Renderings of a `bnfold.record.data.Record`: for a terminal, as HTML, as Markdown, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.record.data import Record

SUFFIXES = (".html", ".md", ".json")
"""The suffixes of report files, which select the format."""


def render(record: Record, suffix: str) -> str:
    """Render the record in the format of this suffix, one of `SUFFIXES`."""
    if suffix == ".html":
        from bnfold.report import html

        return html.render(record)
    if suffix == ".md":
        from bnfold.report import markdown

        return markdown.render(record)
    return record.to_json() + "\n"


def render_runs(records: Sequence[Record], suffix: str) -> str:
    """Render several records on one page, in the format of this suffix.

    Raises:
        UsageError: if the suffix is that of JSON: a record is of one run.
    """
    if suffix == ".html":
        from bnfold.report import html

        return html.render_runs(records)
    if suffix == ".md":
        from bnfold.report import markdown

        return markdown.render_runs(records)
    raise UsageError("a JSON record is of one run; several make an .html or .md page")
