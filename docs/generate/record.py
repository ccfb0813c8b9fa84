"""The fields of a record: its JSON Schema, with what the dataclasses say of each field."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bnfold.record import data
from docs.generate.tables import cell

SCHEMA = Path(__file__).parent.parent / "report.schema.json"

_ROOT = "Record"


def fields() -> str:
    """Return a section for each object of a record, the record itself first."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    meanings = _meanings([_ROOT, *schema["$defs"]])
    objects = {_ROOT: schema, **schema["$defs"]}
    return "\n\n".join(
        _section(name, definition, meanings.get(name, {})) for name, definition in objects.items()
    )


def _section(name: str, definition: dict[str, Any], meanings: dict[str, str]) -> str:
    rows = [
        f"| `{field}` | {_type(kind)} | {meanings.get(field, '')} |"
        for field, kind in definition["properties"].items()
    ]
    about = cell(definition["description"])
    return "\n".join([f"### {name}\n\n{about}\n", "| field | type | |", "|---|---|---|", *rows])


def _type(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in kind:
        return f"`{json.dumps(kind['const'])}`"
    if "enum" in kind:
        return ", ".join(f"`{json.dumps(each, ensure_ascii=False)}`" for each in kind["enum"])
    if "anyOf" in kind:
        return " or ".join(_type(each) for each in kind["anyOf"])
    if kind.get("type") == "array":
        return f"list of {_type(kind['items'])}" if kind.get("items") else "list"
    if kind.get("type") == "object" and isinstance(kind.get("additionalProperties"), dict):
        return f"object of {_type(kind['additionalProperties'])} by name"
    return str(kind.get("type", "any"))


def _meanings(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return what is written below each field of a dataclass, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        (node,) = ast.parse(inspect.getsource(getattr(data, name))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                meaning = " ".join(str(text.value.value).split())
                found.setdefault(name, {})[field.target.id] = cell(meaning)
    return found
