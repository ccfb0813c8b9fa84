"""The published schema matches the dataclasses, and rejects invalid records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bnfold.record.schema import record_schema
from tests.support.cli import by_schema
from tests.support.records import RECORDS, optimized

PUBLISHED = Path(__file__).parent.parent.parent / "docs" / "report.schema.json"


def test_the_published_schema_matches_the_dataclasses() -> None:
    assert json.loads(PUBLISHED.read_text()) == record_schema(), "run `make schema`"


def test_the_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(record_schema())


@pytest.mark.parametrize("name", RECORDS)
def test_every_kind_of_record_is_valid(name: str) -> None:
    by_schema().validate(json.loads(RECORDS[name]().to_json()))


def spoil(content: dict[str, Any], path: str, value: object) -> None:
    """Set the value at a path such as ``rewrites.0.exactness``."""
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    parent: Any = content
    for key in parents:
        parent = parent[key]
    parent[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "bnfold.report/2"),
        ("novelty", 1),
        ("model.novelty", 1),
        ("model.bytes", 1.5),
        ("model.ops.Conv", "many"),
        ("rewrites.0.exactness", "roughly"),
        ("rewrites.0.before.0.reads", None),
        ("equivalence.verdict", "maybe"),
        ("equivalence.providers.0.verdict", "identical"),
        ("equivalence.providers.0.outputs.0.max_abs", "large"),
        ("speed.0.verdict", "fast"),
        ("speed.0.samples", {}),
    ],
)
def test_the_schema_rejects_an_invalid_record(path: str, value: object) -> None:
    content = json.loads(optimized().to_json())
    spoil(content, path, value)
    with pytest.raises(jsonschema.ValidationError):
        by_schema().validate(content)
