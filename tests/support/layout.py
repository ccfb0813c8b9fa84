"""Which part of bnfold may import which, and what breaks that."""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_PLAIN = ("arrays", "errors", "options", "progress", "record.data", "version")
"""What any part may import: types, exceptions, requests, and the record's plain data."""

MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    # the top
    "__init__": ("api", "workflow", *_PLAIN),
    "__main__": ("cli",),
    "api": ("keywords", "modelfile", "proof", "running", "scratch", "speed", "workflow", *_PLAIN),
    "arrays": (),
    "atomic": ("errors",),
    "scratch": ("errors",),
    "external_data": ("modelfile",),
    "errors": ("record.data", "text"),
    "keywords": ("arrays", "options"),
    "options": ("arrays", "errors"),
    "progress": (),
    "text": (),
    "version": (),
    # the packages
    "graph": ("arrays",),
    "rewriting": ("graph", *_PLAIN),
    "algebra": ("arrays", "graph", "rewriting.contract", "rewriting.query"),
    "modelfile": ("atomic", "graph", "scratch", *_PLAIN),
    "running": ("graph", *_PLAIN),
    "proof": ("graph", "modelfile", "running", "scratch", "text", *_PLAIN),
    "proof.certificates": (
        "graph",
        "proof.cutting",
        "proof.float64",
        "proof.noise",
        "running",
        *_PLAIN,
    ),
    "proof.float64": ("graph", "modelfile", "proof.learned", "proof.outputs", "running", *_PLAIN),
    "proof.hints": ("graph", "running", *_PLAIN),
    "speed": ("running", *_PLAIN),
    "workflow": (
        "graph",
        "modelfile",
        "proof",
        "rewriting",
        "running",
        "scratch",
        "speed",
        "text",
        *_PLAIN,
    ),
    "record.data": ("version",),
    "record": ("arrays", "errors", "record.data", "version"),
    "report": ("arrays", "errors", "record", "text"),
    "batch": ("api", "atomic", "external_data", "record", "report", "running.environment", *_PLAIN),
    "cli": (
        "api",
        "atomic",
        "batch",
        "external_data",
        "record",
        "report",
        "rewriting",
        "running",
        "scratch",
        "text",
        "workflow.inspection",
        *_PLAIN,
    ),
    # what passes/ are installed as
    "bnfold_passes": ("algebra", "arrays", "graph", "rewriting.contract", "rewriting.query"),
}
"""From a part of bnfold to those that it may import beside itself. The longest name counts."""

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "distributed": ("batch",),
    "jinja2": ("report",),
    "joblib": ("batch",),
    "markupsafe": ("report",),
    "matplotlib": ("report",),
    "onnxruntime": ("running.runtime",),
    "ray": ("batch",),
    "rich": ("cli", "report.terminal"),
    "typer": ("cli",),
}
"""The libraries that only some parts import."""

FOR_PASSES = ("bnfold", "numpy", "onnx_ir")
"""What a pass imports beside the standard library."""


@dataclass(frozen=True)
class Import:
    """An import, wherever it stands: deferred, for type checkers alone, or by a text."""

    path: str
    line: int
    importer: str
    imported: str

    @property
    def where(self) -> str:
        """The place, as compilers write it."""
        return f"{self.path}:{self.line}"


PACKAGES = {"src/bnfold": "bnfold", "passes": "bnfold_passes"}
"""The folders of what is installed, and the packages that they are."""


def sources(packages: Mapping[str, str] = PACKAGES) -> dict[str, tuple[str, str]]:
    """Return the path and text of each module, by module name."""
    found = {}
    for folder, package in packages.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            text = path.read_text(encoding="utf-8")
            found[".".join((package, *parts))] = (str(path.relative_to(ROOT)), text)
    return found


def imports(modules: Mapping[str, tuple[str, str]], known: Iterable[str] = ()) -> Iterator[Import]:
    """Yield all imports of these modules; `known` are the names of others that there are."""
    names = {*modules, *known}
    for importer, (path, text) in modules.items():
        for node in ast.walk(ast.parse(text)):
            for imported in _imported(node, importer, names):
                yield Import(path, getattr(node, "lineno", 0), importer, imported)


def _imported(node: ast.AST, importer: str, modules: Container[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = importer.split(".")[: -node.level] if node.level else []
        base = ".".join([*package, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            is_module = inner in modules or f"{inner}.__init__" in modules
            yield inner if is_module else base
    elif (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and isinstance(node.args[0], ast.Constant)
    ):
        yield str(node.args[0].value)


def violations(modules: Mapping[str, tuple[str, str]], known: Iterable[str] = ()) -> list[str]:
    """Return a line for each import that the tables forbid: file, line, and the rule."""
    found = imports(modules, known)
    return [f"{each.where}: {rule}" for each in found if (rule := _broken(each))]


def _broken(each: Import) -> str:
    """Return the rule that an import breaks, or nothing."""
    importer, imported = _part(each.importer), _part(each.imported)
    library = each.imported.partition(".")[0]
    if importer.startswith("bnfold_passes"):
        if library not in FOR_PASSES and library not in sys.stdlib_module_names:
            return f"a pass imports {', '.join(FOR_PASSES)} and the standard library, not {library}"
    elif library in LIBRARIES and not _within(importer, LIBRARIES[library]):
        return f"{library} is imported by {', '.join(LIBRARIES[library])} alone, not by {importer}"
    if library == "bnfold_passes" and not importer.startswith("bnfold_passes"):
        return f"passes are found by their entry points; {importer} must not import {imported}"
    if library not in ("bnfold", "bnfold_passes"):
        return ""
    room = _room(importer)
    allowed = MAY_IMPORT[room]
    if _within(imported, (room, *allowed)):
        return ""
    names = f"{', '.join(allowed)} and itself" if allowed else "itself"
    return f"{room} may import {names}, not {imported}"


def _part(module: str) -> str:
    """Return a module's name as the tables have it."""
    return module.removeprefix("bnfold.") if module != "bnfold" else "__init__"


def _within(part: str, rooms: tuple[str, ...]) -> bool:
    return any(part == room or part.startswith(f"{room}.") for room in rooms)


def _room(part: str) -> str:
    """Return the longest name in the table that a part is in."""
    return max((room for room in MAY_IMPORT if _within(part, (room,))), key=len)


def circles(modules: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the modules of each circle of imports, deferred ones included."""
    reads: dict[str, set[str]] = {name: set() for name in modules}
    for each in imports(modules):
        for name in (each.imported, f"{each.imported}.__init__"):
            if name in modules and name != each.importer:
                reads[each.importer].add(name)
    found = []
    while True:
        ends = {name for name, read in reads.items() if not read & reads.keys()}
        if not ends:
            break
        reads = {name: read for name, read in reads.items() if name not in ends}
    while True:  # what only leads into a circle is not part of it
        read_by_others = {name for read in reads.values() for name in read}
        starts = reads.keys() - read_by_others
        if not starts:
            break
        reads = {name: read for name, read in reads.items() if name not in starts}
    if reads:
        found.append(" ↔ ".join(sorted(reads)))
    return found
