"""Renderings of a `bnfold.record.data.Record`: for a terminal, as HTML, as Markdown, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.record.data import Record

SUFFIXES = (".html", ".md", ".json")
"""What a report's file may end in; it says how the record is rendered."""


def render(record: Record, suffix: str) -> str:
    """Return the record as the text of a file with this suffix, one of `SUFFIXES`."""
    if suffix == ".html":
        from bnfold.report import html

        return html.render(record)
    if suffix == ".md":
        from bnfold.report import markdown

        return markdown.render(record)
    return record.to_json() + "\n"
