"""Renders one record or several as a self-contained HTML file: no network, no script."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from bnfold.record.data import (
    SHARES,
    LevelComparison,
    ModelRecord,
    OutputRecord,
    ProviderEquivalence,
    Record,
)
from bnfold.report import certificates, figures, notes, runs, wording
from bnfold.report.changes import operator_changes, operators_after, refusal_groups
from bnfold.report.outputs import output_rows
from bnfold.report.rewrites import rewrite_rows
from bnfold.report.summary import headline, machine_line, share_of_tolerance, tone_of
from bnfold.report.templating import style, templates
from bnfold.report.turns import turns_note

MOST_ROWS = 1000
"""The most rows of a table that are shown; the JSON record has them all."""

_MOST_NODES = 6
_MOST_NOTES = 12


def render(record: Record) -> str:
    """Return the page of a run as text. The same record always gives the same page."""
    first = headline(record)
    pictures = _pictures(record)
    body = _body(record, pictures)
    title = f"{first.verdict}: {wording.shortened(_title(record))}"
    return _page(title, first.tone, body, 1, bool(pictures))


def render_runs(records: Sequence[Record]) -> str:
    """Return a page with a table of several runs and, folded below it, each of them."""
    rows = runs.run_rows(records)
    pictures = [_pictures(record) for record in records]
    bodies = [
        (row, _body(record, drawn, row.anchor, top=1))
        for row, record, drawn in zip(rows, records, pictures, strict=True)
    ]
    template = _environment().get_template("runs.html.j2")
    verdicts = runs.verdicts_of(rows)
    content = template.render(_frame({}, "", 1), rows=rows, bodies=bodies, verdicts=verdicts)
    tone = runs.tone_of_all(rows)
    return _page(runs.title_of(rows), tone, Markup(content), len(records), any(pictures))


def _page(title: str, tone: str, content: Markup, number: int, has_pictures: bool) -> str:
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            tone=tone,
            content=content,
            runs=number,
            has_pictures=has_pictures,
            css=style(),
        )
    )


def _frame(pictures: Mapping[str, str], prefix: str, top: int) -> dict[str, Any]:
    """Return what the macros need: a run's anchors begin with `prefix`, its title is h(top + 1)."""
    return {
        "pictures": {key: Markup(svg) for key, svg in pictures.items()},
        "prefix": prefix,
        "top": top,
        "most_rows": MOST_ROWS,
        "most_nodes": _MOST_NODES,
        "most_notes": _MOST_NOTES,
    }


def _body(record: Record, pictures: Mapping[str, str], prefix: str = "", *, top: int = 0) -> Markup:
    """Return all that a page has of one run."""
    after = operators_after(record)
    context = _frame({key: _apart(svg, prefix) for key, svg in pictures.items()}, prefix, top) | {
        "record": record,
        "title": _title(record),
        "when": wording.when(record.started, record.seconds),
        "headline": headline(record),
        "second": "candidate" if record.candidate is not None else "optimized",
        "rewrites": rewrite_rows(record),
        "rewrites_title": f"What {'was' if record.output else 'would be'} rewritten",
        "certificates": certificates.certificate_groups(record.rewrites),
        "refusals": refusal_groups(record.refusals),
        "operators": operator_changes(record.model.ops, after) if after is not None else [],
        "models_title": "The models, before and after" if after is not None else "The model",
        "figures": figures.figure_rows(record),
        "figures_line": figures.figures_line(record),
        "interface": figures.interface(record.figures),
        "node_changes": figures.node_changes(record.nodes),
        "share_titles": ["#0", *(f"#to {share:g}" for share in SHARES[1:]), "#beyond"],
        "command": wording.command_line(record.command),
        "models": _models(record),
        "machine": machine_line(record),
        "environment": _facts(record.environment),
    }
    sections = (
        ("equivalence", "Equivalence", record.equivalence),
        ("speed", "Speed", record.speed or record.speed_note),
        ("rewrites", context["rewrites_title"], context["rewrites"]),
        ("kept", "What was kept, and why", context["refusals"]),
        ("models", context["models_title"], context["operators"] or context["figures"]),
        ("environment", "Environment", True),
    )
    context["contents"] = [(anchor, title) for anchor, title, is_there in sections if is_there]
    return Markup(_environment().get_template("run.html.j2").render(context))


def _apart(svg: str, prefix: str) -> str:
    """Return a picture whose ids begin with a prefix: they are unique on a page of several runs."""
    if not prefix:
        return svg
    return re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{prefix}", svg)


def _title(record: Record) -> str:
    return record.model.path or "a model in memory"


@cache
def _environment() -> Environment:
    environment = templates()
    environment.filters |= {
        "after_shapes": _after_shapes,
        "at_most": wording.at_most,
        "counted": notes.counted,
        "distinct": _distinct,
        "divergence_note": notes.divergence_note,
        "draws_note": notes.draws_note,
        "narrow_note": notes.narrow_note,
        "inconclusive_note": notes.inconclusive_note,
        "kind_of": certificates.kind_of,
        "is_change_of_meaning": certificates.is_change_of_meaning,
        "labelled": _labelled,
        "milliseconds": wording.milliseconds,
        "no_truth_note": notes.no_truth_note,
        "number": wording.number,
        "output_notes": notes.output_notes,
        "output_rows": output_rows,
        "level_titles": _level_titles,
        "percent": wording.percent,
        "rows_of_shares": _rows_of_shares,
        "selection_note": notes.selection_note,
        "share_of_tolerance": share_of_tolerance,
        "sizes": wording.sizes,
        "shown_time_rows": figures.shown_time_rows,
        "times": wording.times,
        "tone": tone_of,
        "turns_note": turns_note,
        "unit_note": notes.unit_note,
    }
    environment.globals |= {
        "certificate_note": certificates.certificate_note,
        "interval": wording.interval,
    }
    return environment


def _pictures(record: Record) -> dict[str, str]:
    """Draw all pictures of the record, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    from bnfold.report.album import album

    return album(record)


# --- Tables ---------------------------------------------------------------------------------------


def _labelled(rows: str, columns: Sequence[str]) -> Markup:
    """Give each cell the title of its column, which a phone shows beside it.

    Cells of a table within a row have theirs already.
    """
    titles = [str(title).lstrip("#") for title in columns]
    place = 0

    def label(found: re.Match[str]) -> str:
        nonlocal place
        tag, attributes = found["tag"], found["attributes"] or ""
        if tag == "tr":
            place = 0
        elif not re.search('data-label|colspan|scope="col"', attributes):
            place += 1
            return f'<{tag} data-label="{escape(titles[place - 1])}"{attributes}>'
        return found[0]

    return Markup(re.sub(r"<(?P<tag>t[rdh])\b(?P<attributes>[^>]*)>", label, rows))


def _distinct(items: Sequence[Any]) -> list[Any]:
    return [item for index, item in enumerate(items) if item not in items[:index]]


def _level_titles(provider: ProviderEquivalence) -> list[str]:
    return [f"#optimization {level.level}" for level in provider.levels]


def _after_shapes(shapes: Mapping[str, Sequence[int]]) -> str:
    return "".join(f", {wording.sizes(shape)}" for shape in shapes.values())


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
