"""Summarizes the records of all models: totals by tool, and where bnfold is not the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.records import AUTHORS, BNFOLD, Graph, ModelRecord

LEVELS = ("all", "disabled")
ORIGINAL = "original"
"""In place of a tool: the model as it is."""

FLOOR = 0.99
"""No result may be slower than this, beyond the control's error."""

_CLEARLY = 1.1
"""Errors, seconds and MB count as larger only from this factor on."""


@dataclass(frozen=True)
class Total:
    """A tool over all models. If it failed, the original counts, which its user keeps."""

    tool: str
    examined: bool
    """Whether its results were examined: not if another tool writes the same ones."""
    models: int
    failures: int
    batch_normalizations: int
    dropouts: int
    nodes: int
    constants: int
    """Those of the nodes that are Constants."""
    run_error: float | None
    """The median over the models of the result's error over the original's."""
    rounding: float | None
    """The median of `rounding_ratio` over the models."""
    speedup: dict[str, float | None]
    """By level, the geometric mean over the models."""
    faster: int
    slower: int
    """Models by verdict, with all of onnxruntime's optimizations."""
    seconds: float | None
    peak_mb: float | None
    """Medians over the models."""


@dataclass(frozen=True)
class Better:
    """A model on which another tool does better than bnfold by one measure."""

    model: str
    tool: str
    theirs: float
    ours: float


def tools_of(records: Sequence[ModelRecord]) -> list[str]:
    """Return the names of all tools, in the order in which they first appear, bnfold first."""
    names = dict.fromkeys(name for record in records for name in record.tools)
    names.pop(AUTHORS, None)
    return sorted(names, key=lambda name: not name.startswith(BNFOLD))


def compared(records: Sequence[ModelRecord]) -> list[ModelRecord]:
    """Return the models that every tool was run on, over which sums can be compared."""
    tools = [tool for tool in tools_of(records) if not tool.startswith(f"{BNFOLD} ")]
    return [record for record in records if all(tool in record.tools for tool in tools)]


def graph_or_original(record: ModelRecord, tool: str) -> Graph:
    """Return the tool's result, or the original if it failed."""
    tool_record = record.tools.get(tool)
    return tool_record.graph if tool_record and tool_record.graph else record.original


def speedup(record: ModelRecord, tool: str, level: str) -> float | None:
    """Return the speed-up over the original: 1 if the original counts, None if not measured."""
    tool_record = record.tools.get(tool)
    if tool_record is None:
        return None
    if tool_record.failure or tool_record.identical:
        return 1.0
    return tool_record.speed[level].speedup if level in tool_record.speed else None


def error_ratio(record: ModelRecord, tool: str) -> float | None:
    """Return the error of a result's outputs over that of the original's."""
    error, reference = graph_or_original(record, tool).run_error, record.original.run_error
    return error / reference if error is not None and reference else None


def rounding_ratio(record: ModelRecord, tool: str) -> float | None:
    """Return the rounding of a result's weights over that of bnfold's.

    None if the tool folds less than bnfold, as it then rounds less, too.
    """
    theirs, ours = graph_or_original(record, tool), graph_or_original(record, BNFOLD)
    if theirs.weight_error is None or not ours.weight_error:
        return None
    folded = theirs.batch_normalizations <= ours.batch_normalizations
    return theirs.weight_error / ours.weight_error if folded else None


def cost(record: ModelRecord, tool: str) -> tuple[float, float] | None:
    """Return the tool's seconds and MB: medians over its runs."""
    tool_record = record.tools.get(tool)
    if tool_record is None or not tool_record.seconds:
        return None
    return float(np.median(tool_record.seconds)), float(np.median(tool_record.peak_mb))


def total(records: Sequence[ModelRecord], tool: str) -> Total:
    """Summarize the results of a tool."""
    models = [record for record in records if tool in record.tools]
    graphs = [graph_or_original(record, tool) for record in models]
    speeds = [record.tools[tool].speed.get("all") for record in models]
    verdicts = [speed.verdict for speed in speeds if speed]
    costs = [known for known in (cost(record, tool) for record in models) if known]
    return Total(
        tool=tool,
        examined=any(record.tools[tool].graph for record in models),
        models=len(models),
        failures=sum(bool(record.tools[tool].failure) for record in models),
        batch_normalizations=sum(graph.batch_normalizations for graph in graphs),
        dropouts=sum(graph.dropouts for graph in graphs),
        nodes=sum(graph.all_nodes for graph in graphs),
        constants=sum(graph.constants for graph in graphs),
        run_error=_median([error_ratio(record, tool) for record in models]),
        rounding=_median([rounding_ratio(record, tool) for record in models]),
        speedup={
            level: _geometric_mean([speedup(record, tool, level) for record in models])
            for level in LEVELS
        },
        faster=verdicts.count("faster"),
        slower=verdicts.count("slower"),
        seconds=_median([seconds for seconds, _ in costs]),
        peak_mb=_median([peak_mb for _, peak_mb in costs]),
    )


def below_floor(records: Sequence[ModelRecord]) -> list[str]:
    """Name the models that bnfold made slower than `FLOOR` beyond the control's error."""
    names = []
    for record in records:
        speed = record.tools[BNFOLD].speed.get("all") if BNFOLD in record.tools else None
        if speed is None or speed.speedup is None or speed.control_ci95 is None:
            continue
        error = max(abs(1 - bound) for bound in speed.control_ci95)
        if speed.speedup < FLOOR - error:
            names.append(record.name)
    return names


Judge = Callable[[ModelRecord, str], Better | None]


def not_the_best(records: Sequence[ModelRecord]) -> dict[str, list[Better]]:
    """Find the models on which another tool beats bnfold, by measure, with the best such tool."""
    measures: dict[str, Judge] = {
        "BatchNormalizations left": _smaller(lambda r, t: _left(r, t).batch_normalizations),
        "Dropouts left": _smaller(lambda r, t: _left(r, t).dropouts),
        "nodes left": _smaller(lambda r, t: _left(r, t).all_nodes),
        "error of the outputs": _smaller(lambda r, t: _left(r, t).run_error, _CLEARLY),
        "rounding of the weights": _smaller(_rounding, _CLEARLY),
        "speed with onnxruntime's optimizations": _faster("all"),
        "speed without them": _faster("disabled"),
        "seconds of the tool": _smaller(lambda r, t: (cost(r, t) or (None,))[0], _CLEARLY),
        "peak MB of the tool": _smaller(lambda r, t: (cost(r, t) or (0, None))[1], _CLEARLY),
    }
    own = [record for record in records if BNFOLD in record.tools]
    best = {
        measure: [_best(judge, record) for record in own] for measure, judge in measures.items()
    }
    return {measure: [loss for loss in losses if loss] for measure, losses in best.items()}


def worse_than_the_original(records: Sequence[ModelRecord]) -> list[Better]:
    """Find the models whose outputs are clearly further from the truth than the original's."""
    judge = _smaller(lambda r, t: _left(r, t).run_error, _CLEARLY)
    own = [record for record in records if BNFOLD in record.tools]
    return [loss for loss in (judge(record, ORIGINAL) for record in own) if loss]


def _best(judge: Judge, record: ModelRecord) -> Better | None:
    """Return the tool that is furthest ahead of bnfold. Failed tools are ignored."""
    others = [
        name
        for name, tool_record in record.tools.items()
        if not tool_record.failure and name != AUTHORS and not name.startswith(BNFOLD)
    ]
    losses = [loss for loss in (judge(record, tool) for tool in others) if loss]
    return max(losses, key=lambda loss: abs(loss.theirs - loss.ours), default=None)


def _smaller(measure: Callable[[ModelRecord, str], float | None], factor: float = 1) -> Judge:
    def judge(record: ModelRecord, tool: str) -> Better | None:
        theirs, ours = measure(record, tool), measure(record, BNFOLD)
        if theirs is None or ours is None or ours <= theirs * factor:
            return None
        return Better(record.name, tool, theirs, ours)

    return judge


def _faster(level: str) -> Judge:
    """A tool is faster if its interval lies above bnfold's."""

    def interval(record: ModelRecord, tool: str) -> Sequence[float]:
        speed = record.tools[tool].speed.get(level)
        return speed.ci95 if speed and speed.ci95 else [1.0, 1.0]

    def judge(record: ModelRecord, tool: str) -> Better | None:
        theirs, ours = speedup(record, tool, level), speedup(record, BNFOLD, level)
        if theirs is None or ours is None:
            return None
        above = interval(record, tool)[0] > interval(record, BNFOLD)[1]
        return Better(record.name, tool, theirs, ours) if above else None

    return judge


def _left(record: ModelRecord, tool: str) -> Graph:
    return graph_or_original(record, tool)


def _rounding(record: ModelRecord, tool: str) -> float | None:
    """Return the rounding of the weights, if no arithmetic on them is left to run time.

    A tool that folds less rounds less, and so does one that leaves the folding in the graph, as
    nodes: only results with no more nodes than bnfold's are compared.
    """
    graph = graph_or_original(record, tool)
    folded = graph.nodes <= graph_or_original(record, BNFOLD).nodes
    return graph.weight_error if folded else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _geometric_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.exp(np.mean(np.log(known)))) if known else None
