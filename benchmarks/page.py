"""Writes docs/benchmarks/README.md and its plots from the raw data beside it.

python -m benchmarks.page
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import records
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

HEADER = """# bnfold beside other tools

Written by `python -m benchmarks.compare` from the raw data in [data/](data/): one file a model,
with every sample of every timing. To repeat it, on a machine where nothing else runs:

```
pip install '.[cpu,bench]'
python -m benchmarks.suite --build
python -m benchmarks.compare --output FOLDER
```

{machine}

Every tool ran with its defaults, as a process of its own, on {models} models: the light model zoo
of the onnx package with seeded weights, the trained OCR networks of rapidocr-onnxruntime, and
exports of torchvision's and timm's architectures with seeded weights and measured statistics. Where
a tool failed, the original counts as its result. *onnxruntime all* is tied to the machine that it
ran on: its files hold operators of onnxruntime's own, in layouts for this processor."""

SUMMARY_NOTE = """Over the {models} models that all of the tools were run on. What is left are sums;
errors, seconds and memory medians over the models; speed-ups geometric means. *faster / slower*
counts the models where that is significant. The rounding of weights compares where a tool leaves no
more BatchNormalizations than bnfold does; onnxoptimizer's is left to be done at run time, in the
nodes that it adds."""

SPEED_NOTE = """Speed-ups are medians of paired ratios of the original's time over the result's, by
the protocol of `bnfold bench`, with 95 % bootstrap intervals; the control is the original over
itself. *same file*: there was nothing to rewrite. Below {floor} beyond the control's error:
{below}."""

LEFT_NOTE = """BatchNormalizations / Dropouts / nodes, bodies and functions included. Constants do
not count as nodes: they are another way to write an initializer."""

ERROR_NOTE = """The truth is the original evaluated in float64, on one signed input. First, how far
the outputs of onnxruntime without its optimizations are from it, as a multiple of the original's
own error; then the same with the result itself evaluated in float64, which leaves the rounding of
its weights (relative RMS; – where it uses operators that only onnxruntime has). A tool that folds
less rounds less, and onnxoptimizer leaves the folding itself in the graph, as nodes."""

COST_NOTE = """Wall seconds / peak memory in MB, of the whole process: medians of up to three runs.
*bnfold* is `bnfold optimize --no-check --no-bench`, as no other tool checks or times its result;
*bnfold with its proof* is `bnfold optimize --no-bench`."""


def main() -> None:
    """Write the page again."""
    write(FOLDER)


def write(folder: Path) -> None:
    """Write the page and its plots to a folder, from the data in it."""
    from benchmarks import plots  # needs matplotlib

    found = records.load_all(folder / "data")
    (folder / "README.md").write_text(page(found), encoding="utf-8")
    plots.draw(found, folder)


def page(found: Sequence[ModelRecord]) -> str:
    """Return the text of the page."""
    tools = tools_of(found)
    results = [name for name in tools if any(r.tools[name].graph for r in found if name in r.tools)]
    below = ", ".join(below_floor(found)) or "none is"
    shared = compared(found)
    sections = [
        HEADER.format(machine=_machine(found), models=len(found)),
        _versions(found, tools),
        "## Summary\n\n" + _summary([total(shared, tool) for tool in tools]),
        SUMMARY_NOTE.format(models=len(shared)),
        "![Speed-up by model](speed.svg)",
        "## Where bnfold is not the best\n\n" + _not_the_best(shared),
        "## Speed at onnxruntime's best\n\n"
        + SPEED_NOTE.format(floor=FLOOR, below=below)
        + "\n\n"
        + _own_speed(found),
        "### All tools\n\n" + _table(found, results, _speed_cell("all")),
        "### Without onnxruntime's optimizations\n\n"
        + _table(found, results, _speed_cell("disabled")),
        f"## What is left\n\n![BatchNormalizations left](left.svg)\n\n{LEFT_NOTE}\n\n"
        + _table(found, results, _left_cell, original=True),
        f"## Error\n\n{ERROR_NOTE}\n\n" + _table(found, results, _error_cell),
        f"## Cost of the tools\n\n![Seconds and memory](cost.svg)\n\n{COST_NOTE}\n\n"
        + _table(found, tools, _cost_cell),
        "## Failures\n\n" + _failures(found),
    ]
    return "\n\n".join(sections) + "\n"


def _machine(found: Sequence[ModelRecord]) -> str:
    facts = found[0].environment
    return (
        f"Measured on {facts['threads']} cores of {facts['cpu']}, {facts['platform']}, "
        f"Python {facts['python']}."
    )


def _versions(found: Sequence[ModelRecord], tools: Sequence[str]) -> str:
    versions = {
        tool: sorted({r.tools[tool].version for r in found if tool in r.tools}) for tool in tools
    }
    named = [f"{tool} {' and '.join(each)}" for tool, each in versions.items()]
    facts = found[0].environment
    named += [f"onnx {facts['onnx']}", *(f"{k} {v}" for k, v in facts["exporters"].items())]
    return f"Versions: {', '.join(named)}."


def _summary(totals: Sequence[Total]) -> str:
    rows = [
        "| tool | failed | BatchNormalizations left | Dropouts left | nodes left "
        "| output error ÷ original's | weight rounding ÷ bnfold's | speed-up | faster / slower "
        "| speed-up without onnxruntime's optimizations | seconds | peak MB |",
        "|---|" + "---:|" * 11,
    ]
    for each in totals:
        of_results = [
            str(each.batch_normalizations),
            str(each.dropouts),
            str(each.nodes),
            _number(each.run_error, ".2f"),
            _number(each.rounding, ".2f"),
            _number(each.speedup["all"], ".3f"),
            f"{each.faster} / {each.slower}",
            _number(each.speedup["disabled"], ".3f"),
        ]
        cells = [
            each.tool,
            f"{each.failures} of {each.models}",
            *(of_results if each.examined else [""] * len(of_results)),
            _number(each.seconds, ".2f"),
            _number(each.peak_mb, ".0f"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _not_the_best(found: Sequence[ModelRecord]) -> str:
    lines = [
        f"- **{measure}**: {_examples(better, len(found))}"
        for measure, better in not_the_best(found).items()
    ]
    better = worse_than_the_original(found)
    lines.append(
        f"- **error of the outputs, beside the original's**: {_examples(better, len(found))}"
    )
    return "\n".join(lines)


def _examples(found: Sequence[Better], models: int) -> str:
    if not found:
        return "better on no model."
    most = sorted(found, key=lambda each: -abs(each.theirs - each.ours))[:_MOST_EXAMPLES]
    examples = "; ".join(
        f"{each.model} ({each.tool} {each.theirs:.4g}, bnfold {each.ours:.4g})" for each in most
    )
    more = f"; and {len(found) - len(most)} more" if len(found) > len(most) else ""
    return f"better on {len(found)} of {models} models: {examples}{more}."


def _own_speed(found: Sequence[ModelRecord]) -> str:
    rows = [
        f"| model | original, ms | bnfold | {AUTHORS} | control | verdict |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for record in found:
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
    found: Sequence[ModelRecord],
    tools: Sequence[str],
    cell: Callable[[ModelRecord, str], str],
    *,
    original: bool = False,
) -> str:
    columns = [*([ORIGINAL] if original else []), *tools]
    rows = [f"| model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for record in found:
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
    graph = graph_or_original(record, tool)
    return f"{graph.batch_normalizations} / {graph.dropouts} / {graph.nodes}"


def _error_cell(record: ModelRecord, tool: str) -> str:
    rounding = graph_or_original(record, tool).weight_error
    return f"{_number(error_ratio(record, tool), '.2f')} / {_number(rounding, '.1e')}"


def _cost_cell(record: ModelRecord, tool: str) -> str:
    found = cost(record, tool)
    return f"{found[0]:.2f} / {found[1]:.0f}" if found else "–"


def _failures(found: Sequence[ModelRecord]) -> str:
    lines = [
        f"- {name} on {record.name}: {each.failure}"
        for record in found
        for name, each in record.tools.items()
        if each.failure
    ]
    return "\n".join(lines) or "None."


def _ratio(speed: SpeedRecord | None) -> str:
    if speed is None or speed.speedup is None or speed.ci95 is None:
        return "–"
    return _interval(speed.speedup, speed.ci95)


def _interval(value: float, bounds: Sequence[float]) -> str:
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    main()
