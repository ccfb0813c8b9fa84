"""Manifests: TOML files that name models, with options for each.

[options]                       # for all models of the manifest
samples = 5

[[model]]
path = "detector/*.onnx"        # a file, a folder or a pattern, relative to the manifest
name = "detector.onnx"          # where it goes, if it is one file
skip = ["pool-before-conv"]     # options of `bnfold optimize`, without the dashes
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from bnfold.batch.selection import Selected, require_within, select
from bnfold.errors import UsageError, in_words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["flag", "number", "text", "texts"]
"""What an option is in TOML. "texts" may be one text, too."""

_PLACES = ("path", "name")


def read_manifest(path: Path, leave_out: Path, kinds: Mapping[str, Kind]) -> list[Selected]:
    """Return the models that a manifest names; `kinds` are the options that they may have.

    Raises:
        UsageError: if it cannot be read, or says what makes no sense, with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise UsageError(in_words(error, path, "read")) from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(f"{path} is not a manifest: {error}") from error
    return _Reader(path, text, kinds).models(content, leave_out)


class _Reader:
    """Knows the text, to say in which line something is."""

    def __init__(self, path: Path, text: str, kinds: Mapping[str, Kind]) -> None:
        self._path, self._lines, self._kinds = path, text.splitlines(), kinds

    def models(self, content: dict[str, Any], leave_out: Path) -> list[Selected]:
        for key in content:
            if key not in ("options", "model"):
                raise self._wrong(f"unknown {key!r}; known: options, model", None, key)
        general = content.get("options", {})
        entries = content.get("model", [])
        if not isinstance(general, dict):
            raise self._wrong("options is not a table; write [options]", None, "options")
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise self._wrong("model is not a list of tables; write [[model]]", None, "model")
        if not entries:
            raise self._wrong("it names no model; write [[model]] and path = …", None, "")
        defaults = self._options(general, "options")
        return [
            model
            for number, entry in enumerate(entries)
            for model in self._entry(entry, number, defaults, leave_out)
        ]

    def _entry(
        self, entry: dict[str, Any], number: int, defaults: dict[str, Any], leave_out: Path
    ) -> list[Selected]:
        path = entry.get("path")
        if not isinstance(path, str) or not path:
            raise self._wrong('a model needs path = "…"', number, "path")
        own = {key: value for key, value in entry.items() if key not in _PLACES}
        options = self._with_paths(defaults | self._options(own, number))
        try:
            models = select(path, self._path.parent, leave_out)
        except UsageError as error:
            raise self._wrong(str(error), number, "path") from error
        name = entry.get("name", "")
        if name != "" or "name" in entry:
            self._require_name(name, len(models), number)
        return [replace(model, options=options, name=name) for model in models]

    def _with_paths(self, options: dict[str, Any]) -> dict[str, Any]:
        """Let files of inputs be relative to the manifest, as the models are."""
        made, base = dict(options), self._path.parent
        if "data" in made:
            made["data"] = str(base / made["data"])
        if "custom-ops" in made:
            made["custom-ops"] = [str(base / each) for each in made["custom-ops"]]
        pairs = [text.rpartition("=") for text in made.get("input", [])]
        if pairs:
            made["input"] = [
                f"{name}={base / path}" if equals else path for name, equals, path in pairs
            ]
        return made

    def _require_name(self, name: object, models: int, number: int) -> None:
        if not isinstance(name, str):
            raise self._wrong("name is not a text", number, "name")
        if models != 1:
            raise self._wrong(f"one name for {models} models; leave it out", number, "name")
        try:
            require_within(name)
        except UsageError as error:
            raise self._wrong(str(error), number, "name") from error

    def _options(self, table: dict[str, Any], where: int | str) -> dict[str, Any]:
        return {key: self._value(key, value, where) for key, value in table.items()}

    def _value(self, key: str, value: Any, where: int | str) -> Any:
        kind = self._kinds.get(key)
        if kind is None:
            known = ", ".join(self._kinds)
            raise self._wrong(f"unknown option {key!r}; known: {known}", where, key)
        if kind == "texts":
            value = value if isinstance(value, list) else [value]
            value = [str(each) if type(each) in (int, float) else each for each in value]
            fits = all(isinstance(each, str) for each in value)
        elif kind == "number":
            fits = type(value) in (int, float)
        else:
            fits = isinstance(value, bool if kind == "flag" else str)
        if not fits:
            wanted = {"flag": "true or false", "number": "a number", "text": "a text"}
            raise self._wrong(
                f"{key} is not {wanted.get(kind, 'a text or a list of texts')}", where, key
            )
        return value

    def _wrong(self, message: str, where: int | str | None, key: str) -> UsageError:
        line = self._line(where, key)
        return UsageError(f"{self._path}{f', line {line}' if line else ''}: {message}")

    def _line(self, where: int | str | None, key: str) -> int:
        """Return the line of a key in a table, else of the table, counted from 1; 0 if unknown."""
        table, seen, header = None, -1, 0
        for number, line in enumerate(self._lines, 1):
            found = re.match(r"\s*\[+\s*([\w\"'.-]+)\s*\]+", line)
            if found:
                name = found[1].strip("\"'")
                seen += name == "model"
                table = seen if name == "model" else name
                if table == where or (where is None and name == key):
                    header = number
            elif key and table == where and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return header
