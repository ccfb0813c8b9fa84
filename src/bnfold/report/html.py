"""Renders a record as a self-contained HTML file: no network, no script."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bnfold.record.data import (
    SHARES,
    LevelComparison,
    ModelRecord,
    OutputRecord,
    Record,
    RewriteRecord,
)
from bnfold.report import wording
from bnfold.report.certificates import (
    certificate_groups,
    certificate_note,
    is_of_certificate,
    kind_of,
)
from bnfold.report.sketches import in_words, typical
from bnfold.report.summary import (
    counted,
    divergence_note,
    draws_note,
    headline,
    inconclusive_note,
    machine_line,
    no_truth_note,
    operator_changes,
    operators_after,
    output_notes,
    refusal_groups,
    rewrite_groups,
    selection_note,
    share_of_tolerance,
    unit_note,
)

MOST_ROWS = 1000
"""The most rows of a table that are shown; the JSON record has them all."""

_MOST_NODES = 6
_MOST_NOTES = 12


def render(record: Record) -> str:
    """Return the page as text. The same record always gives the same page."""
    pictures = {key: Markup(svg) for key, svg in _pictures(record).items()}
    after = operators_after(record)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            title=record.model.path or "a model in memory",
            css=Markup(files("bnfold.report").joinpath("report.css").read_text(encoding="utf-8")),
            headline=headline(record),
            machine=machine_line(record),
            second="candidate" if record.candidate is not None else "optimized",
            pictures=pictures,
            passes=_passes(record),
            certificates=certificate_groups(record.rewrites),
            refusals=refusal_groups(record.refusals),
            operators=operator_changes(record.model.ops, after) if after is not None else [],
            share_titles=["#0", *(f"#to {share:g}" for share in SHARES[1:]), "#beyond"],
            command=wording.command_line(record.command),
            models=_models(record),
            environment=_facts(record.environment),
            most_rows=MOST_ROWS,
            most_nodes=_MOST_NODES,
            most_notes=_MOST_NOTES,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bnfold.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "at_most": wording.at_most,
        "count_of": wording.count,
        "counted": counted,
        "distinct": _distinct,
        "divergence_note": divergence_note,
        "draws_note": draws_note,
        "inconclusive_note": inconclusive_note,
        "selection_note": selection_note,
        "is_of_certificate": is_of_certificate,
        "kind_of": kind_of,
        "milliseconds": wording.milliseconds,
        "no_truth_note": no_truth_note,
        "number": wording.number,
        "output_notes": output_notes,
        "percent": wording.percent,
        "rows_of_shares": _rows_of_shares,
        "share_of_tolerance": share_of_tolerance,
        "shortened": wording.shortened,
        "sizes": wording.sizes,
        "times": wording.times,
        "unit_note": unit_note,
    }
    environment.globals |= {"certificate_note": certificate_note, "interval": wording.interval}
    return environment


def _pictures(record: Record) -> dict[str, str]:
    """Draw all pictures of the record, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    from bnfold.report.album import album

    return album(record)


# --- What was rewritten ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Identity:
    """The documentation of a pass, in parts."""

    lead: str
    formulas: list[str]
    exactness: str
    conditions: list[str]


@dataclass(frozen=True)
class _Group:
    """Rewrites of the same kind."""

    key: str
    """The name of its picture."""
    title: str
    words: str
    rewrites: list[RewriteRecord]


@dataclass(frozen=True)
class _Pass:
    """A pass and its rewrites."""

    name: str
    exactness: str
    identity: _Identity | None
    groups: list[_Group]


def _passes(record: Record) -> list[_Pass]:
    identities = {entry.name: _identity(entry.documentation) for entry in record.passes}
    passes: dict[str, _Pass] = {}
    for index, group in enumerate(rewrite_groups(record.rewrites)):
        name = group.pass_name
        entry = passes.setdefault(name, _Pass(name, group.exactness, identities.get(name), []))
        times = wording.count(len(group.rewrites), "time")
        title = f"{wording.shortened(group.what, 80)}, {times}, {group.exactness}"
        words = in_words(example) if (example := typical(group.rewrites)) is not None else ""
        entry.groups.append(_Group(f"rewrite-{index}", title, words, group.rewrites))
    return list(passes.values())


def _identity(documentation: str) -> _Identity:
    """Split the docstring of a pass: indented blocks are formulas, the last one is exactness."""
    lead, *blocks = documentation.strip("\n").split("\n\n")
    formulas = [textwrap.dedent(block) for block in blocks if block.startswith("    ")]
    texts = [" ".join(block.split()) for block in blocks if not block.startswith("    ")]
    exactness = [text for text in texts if text.startswith(("BITWISE", "ROUNDED", "SEMANTIC"))]
    conditions = [text for text in texts if text not in exactness]
    return _Identity(" ".join(lead.split()), formulas, " ".join(exactness), conditions)


# --- Rows of tables -------------------------------------------------------------------------------


def _distinct(items: Sequence[Any]) -> list[Any]:
    return [item for index, item in enumerate(items) if item not in items[:index]]


def _rows_of_shares(levels: Sequence[LevelComparison]) -> list[tuple[str, str, list[int]]]:
    return [
        (output.name, level.level, output.shares)
        for level in levels
        for output in level.outputs
        if any(output.shares)
    ]


def _models(record: Record) -> list[tuple[str, ModelRecord | OutputRecord, str]]:
    """Return each model file with its title and opsets; the output has those of the original."""
    models: list[tuple[str, ModelRecord | OutputRecord, str]] = [
        ("original", record.model, _opsets(record.model))
    ]
    if record.candidate is not None:
        models.append(("candidate", record.candidate, _opsets(record.candidate)))
    if record.output is not None:
        models.append(("optimized", record.output, _opsets(record.model)))
    return models


def _opsets(model: ModelRecord) -> str:
    return ", ".join(f"{domain} {version}" for domain, version in model.opset.items())


def _facts(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten the description of the environment."""
    facts = []
    for key, value in content.items():
        if isinstance(value, dict):
            facts += _facts(value, f"{prefix}{key} ")
        else:
            is_list = isinstance(value, (list, tuple))
            facts.append((prefix + key, ", ".join(map(str, value)) if is_list else str(value)))
    return facts
