"""Reads a record back from its JSON.

Missing fields get their defaults and unknown fields are ignored, so a record of another version of
bnfold can be read if the version of the schema is the same.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from bnfold.errors import UsageError, in_words
from bnfold.record.data import SCHEMA, Record, json_key


def read_record(path: Path) -> Record:
    """Read a record from a file.

    Raises:
        UsageError: if the file cannot be read or is not a record.
    """
    try:
        content = json.loads(path.read_bytes())  # UTF-8, or UTF-16 as PowerShell writes it
    except OSError as error:
        raise UsageError(in_words(error, path, "read")) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a bnfold record (invalid JSON); {_HINT}") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        actual = f"has schema {schema!r}" if schema else "has no schema"
        raise UsageError(f"{path} {actual}, expected {SCHEMA!r}; {_HINT}")
    try:
        record = _read(content, Record, "record")
    except (_Misfit, OverflowError) as misfit:
        raise UsageError(f"{path} is not a valid record: {misfit}; {_HINT}") from misfit
    assert isinstance(record, Record)
    return record


def read_as(content: Any, kind: type, hint: str) -> Any:
    """Convert JSON content to a record class.

    Raises:
        UsageError: if it does not fit; the message begins with `hint`.
    """
    try:
        return _read(content, kind, kind.__name__.lower())
    except (_Misfit, OverflowError) as misfit:
        raise UsageError(f"{hint} ({misfit})") from misfit


_HINT = "expected a file written by --report FILE.json or --json"

_NOT_IN_JSON = ("nan", "inf", "-inf")


class _Misfit(Exception):  # noqa: N818 - the message says what is wrong with the file
    """The content does not have the type of its field."""


@functools.cache
def fields_of(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return the fields of a record class and their types, by JSON key."""
    hints = typing.get_type_hints(kind)
    return {json_key(f.name): (f, hints[f.name]) for f in dataclasses.fields(kind)}


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field has no default."""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _read(content: Any, kind: Any, where: str) -> Any:
    """Convert JSON content to a value of this type."""
    if kind is Any:
        return content
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(content, typing.cast("type", kind), where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:  # a later version may know more values
        origin, kind = None, str
    if origin in (types.UnionType, typing.Union):
        (other,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if content is None else _read(content, other, where)
    if origin is list and isinstance(content, list):
        return [_read(value, arguments[0], f"{where}[{n}]") for n, value in enumerate(content)]
    if origin is dict and isinstance(content, dict):
        return {key: _read(value, arguments[1], f"{where}.{key}") for key, value in content.items()}
    if kind is float and (type(content) in (int, float) or content in _NOT_IN_JSON):
        return float(content)
    if origin is None and type(content) is kind:
        return content
    raise _Misfit(f"{where} is {type(content).__name__}, not {getattr(kind, '__name__', kind)}")


def _read_dataclass(content: Any, kind: type, where: str) -> Any:
    if not isinstance(content, dict):
        raise _Misfit(f"{where} is {type(content).__name__}, not {kind.__name__}")
    values = {}
    for key, (field, hint) in fields_of(kind).items():
        if key in content:
            values[field.name] = _read(content[key], hint, f"{where}.{key}")
        elif is_required(field):
            raise _Misfit(f"{where} has no {key!r}")
    return kind(**values)
