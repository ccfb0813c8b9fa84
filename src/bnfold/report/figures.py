"""What two models hold and compute, side by side: the rows of a table, and a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnfold.record.data import ModelFigures, ModelProfile, NodeDifference, Record
from bnfold.report.wording import count, milliseconds, shortened

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class FigureRow:
    """A figure of the first model, of the second if there is one, and the change."""

    title: str
    before: str
    after: str
    change: str


def figure_rows(record: Record) -> list[FigureRow]:
    """Return what can be counted of the models, if the record has it."""
    second = record.output or record.candidate
    rows = []
    if second is not None:
        rows.append(_row("nodes", record.model.nodes, second.nodes))
    if not record.figures:
        return rows
    first, other = record.figures[0], record.figures[1] if len(record.figures) > 1 else None
    for title, field in (
        ("parameters", "parameters"),
        ("multiply-adds", "multiplications"),
        ("bytes, with external data", "bytes"),
    ):
        rows.append(_row(title, getattr(first, field), getattr(other, field, None)))
    if any(each.unknown for each in record.figures):
        unknown = other.unknown if other is not None else None
        rows.append(_row("operators of unknown sizes, not counted", first.unknown, unknown))
    return rows


def _row(title: str, before: int, after: int | None) -> FigureRow:
    if after is None:
        return FigureRow(title, f"{before:,}", "–", "–")
    return FigureRow(title, f"{before:,}", f"{after:,}", relative(before, after))


def relative(before: float, after: float) -> str:
    """Format a change in percent, as in "−3.2 %"."""
    if after == before:
        return "0"
    if not before:
        return "new"
    share = (after - before) / before * 100
    if abs(share) < 0.01:
        return "< 0.01 %"
    return f"{share:+.3g} %".replace("-", "−") if abs(share) < 1000 else f"{share:+,.0f} %"


def in_units(*numbers: float) -> str:
    """Format large numbers, before and after, with the unit of the first: 11.7 → 11.68 M."""
    size, unit = next((unit for unit in _UNITS if numbers[0] >= unit[0]), (1.0, ""))
    texts = dict.fromkeys(f"{number / size:.4g}" for number in numbers)
    return f"{' → '.join(texts)} {unit}".rstrip()


def figures_line(record: Record) -> str:
    """Return parameters, multiply-adds and bytes in one line, or nothing if they are not known."""
    if not record.figures:
        return ""
    texts = {
        field: in_units(*(getattr(each, field) for each in record.figures))
        for field in ("parameters", "multiplications", "bytes")
    }
    size = texts["bytes"]
    return (
        f"{texts['parameters']} parameters, {texts['multiplications']} multiply-adds, "
        f"{size}{'B' if size[-1].isalpha() else ' B'}"
    )


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model, with the types and shapes of both models."""

    values: list[tuple[str, str, str, str]]
    """Input or output, its name, and what it is in each model: nothing if there is none."""

    @property
    def is_same(self) -> bool:
        """Whether both models have the same."""
        return all(before == after for *_, before, after in self.values)


def interface(figures: Sequence[ModelFigures]) -> Interface | None:
    """Return inputs and outputs of both models, if they are known."""
    if not figures:
        return None
    first, other = figures[0], figures[-1]
    sides = (("input", first.inputs, other.inputs), ("output", first.outputs, other.outputs))
    return Interface(
        [
            (side, name, before.get(name, ""), after.get(name, ""))
            for side, before, after in sides
            for name in dict.fromkeys([*before, *after])
        ]
    )


def node_changes(nodes: NodeDifference | None) -> list[tuple[str, str, str, str]]:
    """Return the nodes that differ: the value, what has changed, and the operators of both."""
    if nodes is None:
        return []
    changed = [
        (name, "replaced" if len({*operators}) > 1 else "rewired", operators[0], operators[-1])
        for name, operators in nodes.changed.items()
        if operators
    ]
    gone = [(name, "gone", operator, "–") for name, operator in nodes.gone.items()]
    new = [(name, "new", "–", operator) for name, operator in nodes.new.items()]
    return [*changed, *gone, *new]


# --- Where time goes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeRow:
    """The nodes of an operator, and their time in a run, before and after."""

    op_type: str
    nodes: list[int]
    ms: list[float]

    @property
    def change(self) -> str:
        """The difference of the times, in milliseconds."""
        if len(self.ms) < 2:
            return "–"
        difference = self.ms[1] - self.ms[0]
        return f"{difference:+.3g}".replace("-", "−") if difference else "0"


def time_rows(profile: Sequence[ModelProfile]) -> list[TimeRow]:
    """Return the time by operator, the longest first, then that of all nodes."""
    operators = [{each.op_type: each for each in model.operators} for model in profile]
    names = dict.fromkeys(name for model in operators for name in model)
    rows = [
        TimeRow(
            name,
            [model[name].nodes if name in model else 0 for model in operators],
            [model[name].ms if name in model else 0.0 for model in operators],
        )
        for name in names
    ]
    rows.sort(key=lambda row: -max(row.ms))
    nodes = [sum(each.nodes for each in model.operators) for model in profile]
    return [*rows, TimeRow("all nodes", nodes, [model.ms for model in profile])]


def shown_time_rows(profile: Sequence[ModelProfile]) -> list[TimeRow]:
    """Return `time_rows`, with those operators in one row that take less than 1 % of the time."""
    *rows, total = time_rows(profile)
    long = [row for row in rows if max(row.ms) >= max(total.ms) / 100]
    others = rows[len(long) :]
    if len(others) < 2:
        return [*rows, total]
    nodes = [sum(counts) for counts in zip(*(row.nodes for row in others), strict=True)]
    ms = [round(sum(times), 4) for times in zip(*(row.ms for row in others), strict=True)]
    return [*long, TimeRow(count(len(others), "other"), nodes, ms), total]


def time_line(record: Record, most: int = 4) -> str:
    """Return in one line which operators take longest, or nothing if that is not known."""
    profile = next((speed.profile for speed in record.speed if speed.profile), [])
    if not profile:
        return ""
    *rows, total = time_rows(profile)
    parts = [
        f"{shortened(row.op_type, 40)} {' → '.join(map(milliseconds, row.ms))}"
        for row in [*rows[:most], total]
    ]
    return f"{', '.join(parts)} ms"
