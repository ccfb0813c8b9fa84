"""Writes docs/benchmarks/README.md and its plots from the raw data next to it.

python -m benchmarks.page
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path

from benchmarks import records
from benchmarks.models import FRESH, SUITE
from benchmarks.processes import ROOT
from benchmarks.records import AUTHORS, BNFOLD, ModelRecord
from benchmarks.summary import (
    FLOOR,
    ORIGINAL,
    Better,
    Total,
    below_floor,
    compared,
    cost,
    error_ratio,
    graph_or_original,
    not_the_best,
    speedup,
    tools_of,
    total,
    worse_than_the_original,
)
from bnfold.record.data import SpeedRecord

FOLDER = ROOT / "docs" / "benchmarks"
_MOST_EXAMPLES = 4
_TIED = "onnxruntime all"
"""Its files run on this kind of machine only."""
_FRESH = {model.name for model in FRESH}

HEADER = """# bnfold compared with other tools

Written by `python -m benchmarks.compare` from the raw data in [data/](data/): one file per model,
with every sample of every timing. To repeat it, on an otherwise idle machine:

```
pip install '.[cpu,bench]'
python -m benchmarks.suite --build
python -m benchmarks.compare --output FOLDER
```

{machine}

Every tool ran with its defaults, in its own process, on {models} models{options}:
the light model zoo of the onnx package with seeded weights, the trained OCR networks of
rapidocr-onnxruntime, and exports of torchvision's and timm's architectures with seeded weights and
measured statistics; {fresh} of these are of families on which no pass was tried before they came
into the suite. If a tool failed, the original counts as its result. *onnxruntime all* is tied to
the machine that it ran on: its files hold onnxruntime's own operators, in layouts for this
processor."""

SUMMARY_NOTE = """Over the {models} models that all tools were run on. Counts are sums; errors,
seconds and memory are medians over the models; speed-ups are geometric means. *faster / slower*
counts the models with a significant difference. The rounding of weights is compared where a tool
leaves no more BatchNormalizations than bnfold does; onnxoptimizer defers that arithmetic to run
time, in the nodes that it adds."""

SPEED_NOTE = """Speed-ups are the original's time over the result's, by the protocol of
`bnfold bench` on {threads}, with 95 % intervals; the control is the original over itself. The
results of all tools took the same turns. *same file*: there was nothing to rewrite. Below {floor}
beyond the control's error: {below}."""

LEFT_NOTE = """BatchNormalizations / Dropouts / nodes, subgraphs and functions included; in
parentheses, how many of the nodes are Constants, which are another way to write an initializer."""

ERROR_NOTE = """The reference is the original evaluated in float64, on one signed input. The first
number is the error of the outputs of onnxruntime without its optimizations, as a multiple of the
original's own error. The second is the error of the result evaluated in float64, which leaves only
the rounding of its weights (relative RMS; – if it uses operators that only onnxruntime has). A tool
that folds less rounds less, and onnxoptimizer leaves the folding in the graph, as nodes."""

COST_NOTE = """Wall seconds / peak memory in MB, of the whole process: medians of up to three runs.
*bnfold* is `bnfold optimize --no-check --no-bench`, as no other tool checks or times its result."""

_PROOF_NOTE = " *bnfold with its proof* is `bnfold optimize --no-bench`."


def main() -> None:
    """Rewrite the page."""
    write(FOLDER)


def write(folder: Path) -> None:
    """Write the page and its plots to a folder, from the data in it."""
    from benchmarks import plots  # needs matplotlib

    models = records.load_all(folder / "data")
    (folder / "README.md").write_text(page(models), encoding="utf-8")
    plots.draw(models, folder)


def page(models: Sequence[ModelRecord]) -> str:
    """Return the text of the page."""
    tools = tools_of(models)
    results = [
        name for name in tools if any(r.tools[name].graph for r in models if name in r.tools)
    ]
    below = ", ".join(below_floor(models)) or "none"
    shared = compared(models)
    sections = [
        HEADER.format(
            machine=_machine(models),
            models=len(models),
            fresh=sum(record.name in _FRESH for record in models),
            options=_options({record.name for record in models}),
        ),
        _versions(models, tools),
        "## Summary\n\n" + _summary([total(shared, tool) for tool in tools]),
        SUMMARY_NOTE.format(models=len(shared)),
        "![Speed-up by model](speed.svg)\n\n"
        "Of the models that bnfold changes, those that some tool makes faster or slower.",
        "## Where bnfold is not the best\n\n" + _not_the_best(shared),
        "## Speed with onnxruntime's optimizations\n\n"
        + SPEED_NOTE.format(floor=FLOOR, below=below, threads=_threads(models))
        + "\n\n"
        + _own_speed(models),
        "### All tools\n\n" + _table(models, results, _speed_cell("all")),
        "### Without onnxruntime's optimizations\n\n"
        + _table(models, results, _speed_cell("disabled")),
        f"## What is left\n\n![BatchNormalizations left](left.svg)\n\n{LEFT_NOTE}\n\n"
        + _table(models, results, _left_cell, original=True),
        f"## Error\n\n{ERROR_NOTE}\n\n" + _table(models, results, _error_cell),
        f"## Cost of the tools\n\n![Seconds and memory](cost.svg)\n\n{_cost_note(tools)}\n\n"
        + _table(models, tools, _cost_cell),
        "## Failures\n\n" + _failures(models),
    ]
    return "\n\n".join(sections) + "\n"


def _options(names: Container[str]) -> str:
    """Say on which of these models bnfold had options, and why."""
    asked = [
        f"`{' '.join(model.options)}` on {model.name}"
        for model in SUITE
        if model.options and model.name in names
    ]
    if not asked:
        return ""
    return (
        f" (bnfold with {', '.join(asked)},\nwhose weights a caller may replace: "
        "onnxsim and OnnxSlim freeze these unasked)"
    )


def _machine(models: Sequence[ModelRecord]) -> str:
    """Say on what it was measured."""
    facts = models[0].environment
    return (
        f"Measured on {facts['threads']} cores of {facts['cpu']}, {facts['platform']}, "
        f"Python {facts['python']}."
    )


def _cost_note(tools: Sequence[str]) -> str:
    return COST_NOTE + (_PROOF_NOTE if f"{BNFOLD} with its proof" in tools else "")


def _threads(models: Sequence[ModelRecord]) -> str:
    """Say on how many threads results were timed."""
    timed = [t.speed[level] for r in models for t in r.tools.values() for level in t.speed]
    counts = sorted({speed.threads for speed in timed})
    return " and ".join("one thread" if count == 1 else f"{count} threads" for count in counts)


def _versions(models: Sequence[ModelRecord], tools: Sequence[str]) -> str:
    """Name the versions of tools and exporters."""
    versions = {
        tool: sorted({r.tools[tool].version for r in models if tool in r.tools}) for tool in tools
    }
    named = [f"{tool} {' and '.join(labels)}" for tool, labels in versions.items()]
    facts = models[0].environment
    named += [f"onnx {facts['onnx']}", *(f"{k} {v}" for k, v in facts["exporters"].items())]
    return f"Versions: {', '.join(named)}."


def _summary(totals: Sequence[Total]) -> str:
    rows = [
        "| tool | failed | BatchNormalizations left | Dropouts left | nodes left "
        "| of them Constants "
        "| output error ÷ original's | weight rounding ÷ bnfold's | speed-up | faster / slower "
        "| speed-up without onnxruntime's optimizations | seconds | peak MB |",
        "|---|" + "---:|" * 12,
    ]
    for tool in totals:
        of_results = [
            str(tool.batch_normalizations),
            str(tool.dropouts),
            str(tool.nodes),
            str(tool.constants),
            _number(tool.run_error, ".2f"),
            _number(tool.rounding, ".2f"),
            _number(tool.speedup["all"], ".3f"),
            f"{tool.faster} / {tool.slower}",
            _number(tool.speedup["disabled"], ".3f"),
        ]
        cells = [
            tool.tool,
            f"{tool.failures} of {tool.models}",
            *(of_results if tool.examined else [""] * len(of_results)),
            _number(tool.seconds, ".2f"),
            _number(tool.peak_mb, ".0f"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _not_the_best(models: Sequence[ModelRecord]) -> str:
    lines = [
        f"- **{measure}**: {_examples(losses, len(models))}"
        for measure, losses in not_the_best(models).items()
    ]
    portable = not_the_best([record.without(_TIED) for record in models])
    lines += [
        f"- **{measure}, by portable tools**: {_examples(portable[measure], len(models))}"
        for measure in ("BatchNormalizations left", "nodes left")
    ]
    losses = worse_than_the_original(models)
    lines.append(
        f"- **error of the outputs, against the original's**: {_examples(losses, len(models))}"
    )
    return "\n".join(lines)


def _examples(losses: Sequence[Better], models: int) -> str:
    """Say on how many models another tool is better, with those on which it is most."""
    if not losses:
        return "better on no model."
    most = sorted(losses, key=lambda loss: -abs(loss.theirs - loss.ours))[:_MOST_EXAMPLES]
    examples = "; ".join(
        f"{loss.model} ({loss.tool} {loss.theirs:.4g}, bnfold {loss.ours:.4g})" for loss in most
    )
    more = f"; and {len(losses) - len(most)} more" if len(losses) > len(most) else ""
    return f"better on {len(losses)} of {models} models: {examples}{more}."


def _own_speed(models: Sequence[ModelRecord]) -> str:
    rows = [
        f"| model | original, ms | bnfold | {AUTHORS} | control | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for record in models:
        ours = record.tools.get(BNFOLD)
        speed = ours.speed.get("all") if ours else None
        twin = record.tools.get(AUTHORS)
        limit = _ratio(twin.speed.get("all")) if twin else ""
        if speed:
            control = _interval(speed.control, speed.control_ci95)
            cells = [f"{speed.original_ms:.2f}", _ratio(speed), limit, control]
            cells.append(f"{speed.verdict}{f' ({speed.note})' if speed.note else ''}")
        else:
            reason = "same file" if ours and ours.identical else "–"
            cells = ["", reason, limit, "", ""]
        rows.append(f"| {record.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _table(
    models: Sequence[ModelRecord],
    tools: Sequence[str],
    cell: Callable[[ModelRecord, str], str],
    *,
    original: bool = False,
) -> str:
    """Return a table with a row a model and a column a tool."""
    columns = [*([ORIGINAL] if original else []), *tools]
    rows = [f"| model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for record in models:
        cells = [_left_cell(record, ORIGINAL)] if original else []
        for tool in tools:
            failed = tool in record.tools and record.tools[tool].failure
            missing = tool not in record.tools
            cells.append("failed" if failed else "" if missing else cell(record, tool))
        rows.append(f"| {record.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _speed_cell(level: str) -> Callable[[ModelRecord, str], str]:
    def cell(record: ModelRecord, tool: str) -> str:
        if record.tools[tool].identical:
            return "same file"
        return _number(speedup(record, tool, level), ".3f")

    return cell


def _left_cell(record: ModelRecord, tool: str) -> str:
    """Return what a tool leaves in a model."""
    graph = graph_or_original(record, tool)
    constants = f" ({graph.constants})" if graph.constants else ""
    return f"{graph.batch_normalizations} / {graph.dropouts} / {graph.all_nodes}{constants}"


def _error_cell(record: ModelRecord, tool: str) -> str:
    rounding = graph_or_original(record, tool).weight_error
    return f"{_number(error_ratio(record, tool), '.2f')} / {_number(rounding, '.1e')}"


def _cost_cell(record: ModelRecord, tool: str) -> str:
    costs = cost(record, tool)
    return f"{costs[0]:.2f} / {costs[1]:.0f}" if costs else "–"


def _failures(models: Sequence[ModelRecord]) -> str:
    """List what tools failed on, and why."""
    lines = [
        f"- {name} on {record.name}: {tool_record.failure}"
        for record in models
        for name, tool_record in record.tools.items()
        if tool_record.failure
    ]
    return "\n".join(lines) or "None."


def _ratio(speed: SpeedRecord | None) -> str:
    if speed is None or speed.speedup is None:
        return "–"
    return _interval(speed.speedup, speed.ci95)


def _interval(value: float, bounds: Sequence[float] | None) -> str:
    if bounds is None:
        return "–"
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _number(value: float | None, form: str) -> str:
    """Return a number, or a dash for none."""
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    main()
