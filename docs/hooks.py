"""What MkDocs calls while it builds the site: adds the generated pages and mends links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from bnfold.rewriting.contract import Pass
from bnfold.rewriting.registry import all_passes
from docs.generate.commands import commands
from docs.generate.examples import example_of
from docs.generate.links import PAGES, for_site
from docs.generate.passes import page_of
from docs.generate.record import fields

_LOADED = re.compile(
    r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>"
)

ROOT = Path(__file__).parent.parent

_SOURCES = {page: source for source, page in PAGES.items()}
_GENERATED = {"<!-- commands -->": commands, "<!-- fields -->": fields}


def _own_passes() -> list[Pass]:
    return [pass_ for pass_ in all_passes() if not pass_.origin]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the page of each pass in the navigation, after those that mkdocs.yml lists."""
    navigation: list[dict[str, Any]] = config.nav or []
    (passes,) = [section["Passes"] for section in navigation if "Passes" in section]
    passes += [{pass_.name: f"passes/{pass_.name}.md"} for pass_ in _own_passes()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of each pass, and the repository's files that are pages, too."""
    for pass_ in _own_passes():
        text = page_of(pass_, example_of(pass_.name, check=True))
        files.append(File.generated(config, f"passes/{pass_.name}.md", content=text))
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and turn links to files into links to pages."""
    for marker, generate in _GENERATED.items():
        if marker in markdown:
            markdown = markdown.replace(marker, generate())
    place = page.file.src_uri
    source = _SOURCES.get(place, f"docs/{place}")
    return for_site(markdown, source, place, files.src_uris)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads anything from elsewhere: the site is complete without a network."""
    loaded = _LOADED.search(output)
    if loaded is not None:
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {loaded[0]}")
    return output
