"""Text in the cells of a table."""

from __future__ import annotations

import html
import re


def cell(text: str) -> str:
    """Return Markdown for a cell: bars do not end it, and what is in angle brackets is no tag."""
    return "".join(map(_part, re.split(r"(`[^`]*`)", text)))


def _part(text: str) -> str:
    if text.startswith("`") and "|" not in text:
        return text
    escaped = html.escape(text.strip("`"), quote=False).replace("|", "&#124;")
    return f"<code>{escaped}</code>" if text.startswith("`") else escaped
