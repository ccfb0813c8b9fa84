"""Generates the JSON Schema of a record from its dataclasses.

Run ``python -m bnfold.record.schema > docs/report.schema.json`` (or ``make schema``) after they
change. A test compares the file with this output.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from typing import Any, Literal

from bnfold.record.data import SCHEMA, Record
from bnfold.record.reading import fields_of, is_required

_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    float: {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]},
    Any: {},
}


def record_schema() -> dict[str, Any]:
    """Return the schema of the output of `Record.to_json`."""
    definitions: dict[str, Any] = {}
    schema = _schema_of_dataclass(Record, definitions)
    schema["properties"] = {"schema": {"const": SCHEMA}, **schema["properties"]}
    schema["required"] = ["schema", *schema["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **schema,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema_of_dataclass(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for key, (_, hint) in fields_of(kind).items():
        properties[key] = _schema_of(hint, definitions)
    return {
        "description": inspect.getdoc(kind) or "",
        "type": "object",
        "properties": properties,
        "required": [key for key, (field, _) in fields_of(kind).items() if is_required(field)],
        "additionalProperties": False,
    }


def _schema_of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (other,) = (argument for argument in arguments if argument is not types.NoneType)
        return {"anyOf": [_schema_of(other, definitions), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _schema_of(arguments[0], definitions)}
    if origin is dict:
        contents = _schema_of(arguments[1], definitions)
        return {"type": "object", "additionalProperties": contents}
    if dataclasses.is_dataclass(kind):
        name = typing.cast("type", kind).__name__
        if name not in definitions:
            definitions[name] = _schema_of_dataclass(typing.cast("type", kind), definitions)
        return {"$ref": f"#/$defs/{name}"}
    return _SCALARS[kind]


if __name__ == "__main__":
    print(json.dumps(record_schema(), indent=2, ensure_ascii=False))
