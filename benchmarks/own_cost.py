"""Measures the time and memory of a rewrite, compared with `cp` and other tools.

    python -m benchmarks.own_cost [--folder FOLDER] [--runs 3] [--json FILE] [--only NAME ...]

Each tool rewrites each model in its own process, from start-up to the written file, without
checking the result. The table shows the median seconds and the peak memory in MB (the largest
resident set, mapped files included). Tools that are not installed are skipped. The models have
random weights, and cost as much as trained ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, CommandError, run_alone

MODELS = ("vgg19_bn", "resnet50", "chain_800", "chain_6400", "chain_16700")
"""A chain has a Conv, BatchNormalization and Relu per link."""
LONGEST = 600
"""Seconds after which a tool is stopped."""

TOOLS: Mapping[str, tuple[str | None, list[str]]] = {
    "cp": (None, ["cp", "{model}", "{output}"]),
    "bnfold": (
        "bnfold",
        [
            sys.executable,
            "-m",
            "bnfold",
            "optimize",
            "{model}",
            "{output}",
            "--no-check",
            "--no-bench",
        ],
    ),
    "onnxruntime": (
        "onnxruntime",
        [
            sys.executable,
            "-c",
            "import sys, onnxruntime as o; s = o.SessionOptions(); "
            "s.optimized_model_filepath = sys.argv[2]; "
            "s.graph_optimization_level = o.GraphOptimizationLevel.ORT_ENABLE_BASIC; "
            "o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])",
            "{model}",
            "{output}",
        ],
    ),
    "onnxscript": (
        "onnxscript",
        [
            sys.executable,
            "-c",
            "import sys, onnx, onnxscript.optimizer as o; "
            "onnx.save(o.optimize(onnx.load(sys.argv[1])), sys.argv[2])",
            "{model}",
            "{output}",
        ],
    ),
    "onnxsim": ("onnxsim", [sys.executable, "-m", "onnxsim", "{model}", "{output}"]),
    "onnxslim": ("onnxslim", [sys.executable, "-m", "onnxslim", "{model}", "{output}"]),
}
"""The module that each tool needs, and its command."""


def main() -> None:
    """Parse the command line, make the models, run the tools, and print a table."""
    parser = argparse.ArgumentParser(description="Time and memory of a rewrite, by tool.")
    parser.add_argument("--folder", type=Path, help="where to keep the models for later runs")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--only", nargs="*", default=list(MODELS))
    parser.add_argument("--tools", nargs="*", choices=list(TOOLS), default=list(TOOLS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(exist_ok=True)
        samples = measure(options.only, options.tools, folder, options.runs)
    if options.json is not None:
        options.json.write_text(json.dumps(samples, indent=1) + "\n")
    print(table(samples))


def measure(models: list[str], tools: list[str], folder: Path, runs: int) -> list[dict[str, Any]]:
    """Return one record per run; tools are interleaved, so that all see the same machine."""
    samples = []
    for model in models:
        path = folder / f"{model}.onnx"
        if not path.exists():
            make = [sys.executable, "-m", "benchmarks.own_cost_models", model, str(path)]
            subprocess.run(make, cwd=ROOT, check=True)
        run(["cp", "{model}", "{output}"], path, folder / "output.onnx")  # warms the page cache
        stopped: set[str] = set()
        for _ in range(runs):
            for tool in tools:
                module, command = TOOLS[tool]
                is_installed = module is None or importlib.util.find_spec(module) is not None
                if is_installed and tool not in stopped:
                    sample = run(command, path, folder / "output.onnx")
                    samples.append(
                        {"model": model, "bytes": path.stat().st_size, "tool": tool} | sample
                    )
                    if sample["failure"] or sample["seconds"] > LONGEST / 10:
                        stopped.add(tool)  # once is enough
    return samples


def run(command: list[str], model: Path, output: Path) -> dict[str, Any]:
    """Return the seconds and the peak MB of one process, or why it failed."""
    output.unlink(missing_ok=True)
    os.sync()  # so that this run does not pay for the previous one's writes
    words = [word.format(model=model, output=output) for word in command]
    try:
        cost = run_alone(words, timeout=LONGEST)
    except CommandError as error:
        return {"seconds": None, "megabytes": None, "failure": str(error)}
    return {"seconds": cost.seconds, "megabytes": cost.peak_mb, "failure": ""}


def table(samples: list[dict[str, Any]]) -> str:
    """Return the medians as a Markdown table, with the times in multiples of `cp`."""
    models = list(dict.fromkeys(sample["model"] for sample in samples))
    tools = list(dict.fromkeys(sample["tool"] for sample in samples))
    lines = [f"model | {' | '.join(tools)}", "---|" * len(tools) + "---"]
    for model in models:
        mine = [sample for sample in samples if sample["model"] == model]
        copied = [
            sample["seconds"] for sample in mine if sample["tool"] == "cp" and not sample["failure"]
        ]
        cells = [
            _cell([sample for sample in mine if sample["tool"] == tool], copied) for tool in tools
        ]
        lines.append(f"{model}, {mine[0]['bytes'] / 2**20:.0f} MiB | {' | '.join(cells)}")
    return "\n".join(lines)


def _cell(samples: list[dict[str, Any]], copied: list[float]) -> str:
    if not samples:
        return "–"
    failed = [sample["failure"] for sample in samples if sample["failure"]]
    if failed:
        return f"failed: {failed[0]}"
    seconds = statistics.median(sample["seconds"] for sample in samples)
    times = f" ({seconds / statistics.median(copied):.1f}× cp)" if copied else ""
    return f"{seconds:.2f} s{times}, {max(sample['megabytes'] for sample in samples):.0f} MB"


if __name__ == "__main__":
    main()
