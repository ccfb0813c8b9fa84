"""Renderings of a `bnfold.record.data.Record`: for a terminal, as HTML, as Markdown, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
