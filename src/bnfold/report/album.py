"""All pictures of a record, by the name that the page uses for them."""

from __future__ import annotations

from bnfold.record.data import Equivalence, Record
from bnfold.report import drawing, pictures
from bnfold.report.changes import operator_changes, operators_after, rewrite_groups
from bnfold.report.figures import shown_time_rows
from bnfold.report.sketches import in_words, typical

MOST_OUTPUTS = 6
"""The number of outputs per provider whose error distribution is drawn."""


def album(record: Record) -> dict[str, str]:
    """Return SVG elements by name, such as ``operators``, ``rewrite-0`` or ``truth-0``."""
    drawn: dict[str, str] = {}
    after = operators_after(record)
    if after is not None and after != record.model.ops:
        drawn["operators"] = pictures.operators(
            operator_changes(record.model.ops, after), "operators"
        )
    for index, group in enumerate(rewrite_groups(record.rewrites)):
        example = typical(group.rewrites)
        if example is not None:
            name, words = f"rewrite-{index}", in_words(example)
            drawn[name] = drawing.neighbourhood(example.before, example.after, name, words)
    for index, speed in enumerate(record.speed):
        drawn[f"speed-{index}"] = pictures.speed(speed, f"speed-{index}")
        if speed.profile:
            name = f"times-{index}"
            drawn[name] = pictures.times(shown_time_rows(speed.profile)[:-1], name)
    if record.equivalence is not None:
        drawn |= _of_equivalence(record.equivalence)
    return drawn


def _of_equivalence(equivalence: Equivalence) -> dict[str, str]:
    drawn: dict[str, str] = {}
    for index, provider in enumerate(equivalence.providers):
        if provider.outputs:
            name = f"yardsticks-{index}"
            drawn[name] = pictures.yardsticks(provider, name)
        if provider.truth is not None and provider.truth.outputs:
            drawn[f"truth-{index}"] = pictures.truth(provider.truth.outputs, f"truth-{index}")
        for place, output in enumerate(provider.outputs[:MOST_OUTPUTS]):
            levels = [
                (level.level, other)
                for level in provider.levels
                for other in level.outputs
                if other.name == output.name and any(other.shares)
            ]
            if levels:
                name = f"distribution-{index}-{place}"
                drawn[name] = pictures.distribution(levels, name)
    return drawn
