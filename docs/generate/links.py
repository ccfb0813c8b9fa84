"""Links of the repository's files, turned into links of the site.

A page is written for readers of the repository: its links name files. On the site, a link to a
page goes there, one to the file of a pass goes to its page, and of one to another file only the
text stays.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "models/README.md": "samples.md",
}
"""Files outside ``docs/`` that are pages of the site, too."""

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)\s]+)\)")
_OUTSIDE = re.compile(r"[a-z]+:|#")


def for_site(markdown: str, source: str, page: str, files: Collection[str]) -> str:
    """Return the text of a page with its links turned into those of the site.

    Args:
        markdown: the text.
        source: the path of its file in the repository.
        page: the path of the page, from the folder of the documentation.
        files: the paths of all files of the site.
    """

    def link(match: re.Match[str]) -> str:
        if _OUTSIDE.match(match["target"]):
            return match[0]
        path, hash_, anchor = match["target"].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = _place(target)
        if place not in files:
            return match["text"]
        there = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{match['image']}[{match['text']}]({there}{hash_}{anchor})"

    return _LINK.sub(link, markdown)


def _place(target: str) -> str:
    """Return the path on the site of a file of the repository; it need not be there."""
    if target in PAGES:
        return PAGES[target]
    folder, name = posixpath.split(target)
    if folder == "passes":
        return f"passes/{name.removesuffix('.py').replace('_', '-')}.md"
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
