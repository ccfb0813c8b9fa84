"""Measures how the time of rewriting grows with the size of the graph, for many kinds of graphs.

    python -m benchmarks.growth [--kinds NAME ...] [--factor 1] [--runs 1] [--json FILE]

Each graph is rewritten in a process of its own, in sizes 1×, 2×, 4× and 8×, without reading it from
a file, checking, timing or writing it. The table has the CPU seconds of the rewriting at each size
(the fewest of the runs), the peak memory of the process at the largest, and the exponent e for
which seconds grow as sizeᵉ: the slope of a line through the logarithms of the last three sizes.
At the smallest size, much of the time does not depend on the size.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

MULTIPLES = (1, 2, 4, 8)
LONGEST = 60
"""Seconds after which a process is stopped, and larger sizes are not tried."""


def main() -> None:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(description="How rewriting grows with the graph.")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of graphs")
    parser.add_argument("--factor", type=float, default=1, help="of all sizes")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SIZE"), help="measure here, as JSON")
    options = parser.parse_args()
    if options.one is not None:
        kind, size = options.one
        print(json.dumps(rewriting(kind, int(size))))
        return
    samples = measure(options.kinds, options.factor, options.runs)
    if options.json is not None:
        options.json.write_text(json.dumps(samples, indent=1) + "\n")


def measure(kinds: Sequence[str] | None, factor: float, runs: int) -> list[dict[str, Any]]:
    """Measure all sizes of all kinds, each in its own process; print a row for each kind."""
    from benchmarks.growth_models import KINDS

    print("\n".join(heading()), flush=True)
    samples = []
    for kind in kinds or KINDS:
        base = max(1, round(KINDS[kind][1] * factor))
        mine = []
        for multiple in MULTIPLES:
            attempts = [alone(kind, base * multiple) for _ in range(runs)]
            done = [attempt for attempt in attempts if attempt["seconds"] is not None]
            mine.append(min(done, key=lambda sample: sample["seconds"]) if done else attempts[0])
            if not done:
                break
        samples += mine
        print(row(kind, base, mine), flush=True)
    return samples


def alone(kind: str, size: int) -> dict[str, Any]:
    """Measure one graph in a new process."""
    command = [sys.executable, "-m", "benchmarks.growth", "--one", kind, str(size)]
    result: dict[str, Any] = {"kind": kind, "size": size, "seconds": None}
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return result | {"failure": f"> {LONGEST} s"}
    if done.returncode:
        lines = done.stderr.splitlines()
        return result | {"failure": lines[-1] if lines else f"exit code {done.returncode}"}
    measured: dict[str, Any] = json.loads(done.stdout)
    return result | measured


def rewriting(kind: str, size: int) -> dict[str, Any]:
    """Rewrite one graph in this process; return what it took and what it came to."""
    import resource
    import time

    from benchmarks.growth_models import KINDS
    from bnfold.graph.walk import all_graphs
    from bnfold.modelfile.loading import load
    from bnfold.rewriting.engine import run_passes
    from bnfold.rewriting.registry import choose_passes
    from bnfold.running.learning import TOOLS

    model, passes = KINDS[kind][0](size), choose_passes()
    start = time.process_time()
    loaded = load(model)
    nodes = sum(len(graph) for graph in all_graphs(loaded.ir))
    read = time.process_time()
    outcome = run_passes(loaded.ir, passes, tools=TOOLS)
    done = time.process_time()
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "nodes": nodes,
        "rewrites": len(outcome.rewrites),
        "loading": read - start,
        "seconds": done - read,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
    }


def exponent(samples: Sequence[dict[str, Any]]) -> float | None:
    """Return the slope of log seconds over log size, by least squares, of the last three sizes."""
    points = [
        (math.log(sample["size"]), math.log(sample["seconds"]))
        for sample in samples[1:]
        if sample["seconds"] is not None
    ]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in points)
    slope: float = covariance / sum((x - mean_x) ** 2 for x, _ in points)
    return slope


def heading() -> list[str]:
    """Return the first two lines of the table."""
    sizes = " | ".join(f"{multiple}×" for multiple in MULTIPLES)
    columns = ["graph", "size", "nodes at 8×", "rewrites", sizes, "exponent", "peak"]
    return [f"| {' | '.join(columns)} |", "|---" * (len(columns) + len(MULTIPLES) - 1) + "|"]


def row(kind: str, base: int, samples: Sequence[dict[str, Any]]) -> str:
    """Return the line of one kind of graph."""
    last = samples[-1]
    seconds = [
        f"{sample['seconds']:.2f} s" if sample["seconds"] is not None else sample["failure"]
        for sample in samples
    ]
    seconds += ["–"] * (len(MULTIPLES) - len(samples))
    slope = exponent(samples)
    cells = [
        kind.replace("_", " "),
        str(base),
        str(last.get("nodes", "–")),
        str(last.get("rewrites", "–")),
        *seconds,
        "–" if slope is None else f"{slope:.2f}",
        f"{last['peak_mb']:.0f} MB" if "peak_mb" in last else "–",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
