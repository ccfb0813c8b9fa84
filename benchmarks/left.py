"""Writes a page on what each tool leaves in the models of the suite, where nothing was timed.

    python -m benchmarks.left [FOLDER]

The data are those that ``python -m benchmarks.compare --seconds 0 --output FOLDER`` writes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchmarks import records
from benchmarks.models import FRESH
from benchmarks.page import (
    FOLDER,
    LEFT_NOTE,
    examples,
    failures,
    left_cell,
    machine,
    number,
    table,
    versions,
)
from benchmarks.records import BNFOLD, ModelRecord
from benchmarks.summary import not_the_best, tools_of, total

_TIED = "onnxruntime all"
"""Its files run on this kind of machine only."""

HEADER = """# What each tool leaves

Written by `python -m benchmarks.left` from the data in [data/](data/), one file a model. To repeat
it:

```
pip install '.[cpu,bench]'
python -m benchmarks.suite --build
python -m benchmarks.compare --seconds 0 --output FOLDER
python -m benchmarks.left FOLDER
```

{machine}

Every tool ran with its defaults, in its own process, on {models} models. Nothing was timed here:
[the comparison in speed](../README.md) has fewer models. {fresh} of these are of families on which
no pass was tried before they came into the suite. If a tool failed, the original counts as its
result."""


SUMMARY_NOTE = f"""Sums over the models; {_TIED} writes files for this kind of machine only. The
error is the median over the models of that of the outputs in onnxruntime, over the original's."""


def main() -> None:
    """Write the page beside the data."""
    parser = argparse.ArgumentParser(description="What each tool leaves.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER / "left")
    folder: Path = parser.parse_args().folder
    text = page(records.load_all(folder / "data"))
    (folder / "README.md").write_text(text, encoding="utf-8")


def page(models: Sequence[ModelRecord]) -> str:
    """Return the text of the page."""
    tools = [tool for tool in tools_of(models) if not tool.startswith(f"{BNFOLD} ")]
    fresh = {model.name for model in FRESH}
    portable = [_without(record, _TIED) for record in models]
    sections = [
        HEADER.format(
            machine=machine(models),
            models=len(models),
            fresh=sum(record.name in fresh for record in models),
        ),
        versions(models, tools),
        "## Summary\n\n" + _summary(models, tools),
        SUMMARY_NOTE,
        "## Where another portable tool leaves less\n\n" + _losses(portable),
        f"## Each model\n\n{LEFT_NOTE}\n\n" + table(models, tools, left_cell, original=True),
        "## Failures\n\n" + failures(models),
    ]
    return "\n\n".join(sections) + "\n"


def _without(record: ModelRecord, tool: str) -> ModelRecord:
    left = {name: each for name, each in record.tools.items() if name != tool}
    return dataclasses.replace(record, tools=left)


def _summary(models: Sequence[ModelRecord], tools: Sequence[str]) -> str:
    rows = [
        "| tool | failed | BatchNormalizations | Dropouts | nodes | error ÷ original's |",
        "|---|" + "---:|" * 5,
    ]
    originals = [record.original for record in models]
    norms = sum(graph.batch_normalizations for graph in originals)
    dropouts = sum(graph.dropouts for graph in originals)
    nodes = sum(graph.nodes for graph in originals)
    rows.append(f"| original | | {norms} | {dropouts} | {nodes} | 1.00 |")
    for each in (total(models, tool) for tool in tools):
        rows.append(
            f"| {each.tool} | {each.failures} of {each.models} | {each.batch_normalizations} "
            f"| {each.dropouts} | {each.nodes} | {number(each.run_error, '.2f')} |"
        )
    return "\n".join(rows)


def _losses(models: Sequence[ModelRecord]) -> str:
    found = not_the_best(models)
    return "\n".join(
        f"- **{measure}**: {examples(found[measure], len(models))}"
        for measure in ("BatchNormalizations left", "Dropouts left", "nodes left")
    )


if __name__ == "__main__":
    main()
