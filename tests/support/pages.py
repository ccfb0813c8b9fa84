"""Parses an HTML page into its elements and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}
_HIDDEN = {"style", "title", "script"}


@dataclass
class Element:
    """An element of a page, with its children."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in the element, in order, with single spaces."""
        return " ".join(" ".join(self._texts()).split())

    def _texts(self) -> list[str]:
        if self.tag in _HIDDEN:
            return []
        texts = []
        for child in self.children:
            texts += [child] if isinstance(child, str) else child._texts()
        return texts

    def own(self, *tags: str) -> list[Element]:
        """Return the descendants with these tags that are not in a table within this element."""
        nested = {id(inner) for table in self.all("table") for inner in table.all()}
        return [element for element in self.all(*tags) if id(element) not in nested]

    def all(self, *tags: str) -> list[Element]:
        """Return the descendants with these tags, or all of them, in order."""
        descendants = []
        for child in self.children:
            if isinstance(child, Element):
                descendants += [child] if not tags or child.tag in tags else []
                descendants += child.all(*tags)
        return descendants


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> within <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """Parse a page; every tag must be closed in the element where it was opened."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert len(builder.open) == 1, f"<{builder.open[-1].tag}> is never closed"
    return builder.open[0]
