"""Compares what two commits of bnfold cost to run: CPU time of whole processes, in turns.

    python -m benchmarks.regression OLD [NEW] [--seconds 120]

OLD and NEW are what git calls commits; NEW is HEAD if it is not given. Each is installed into a
folder of its own. Then old, new and, as a control, old again rewrite the same models in turns,
without check or timing: a small one, one of many nodes, one of large weights. For use by hand,
before a change lands that may be expensive: no test of CI depends on time.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processes import ROOT, run_alone
from bnfold.record import SpeedBlock
from bnfold.speed import Summary, summarize

TIMEOUT = 120
"""Seconds that one run may take."""

_PROGRAM = """
import inspect, sys, bnfold
known = inspect.signature(bnfold.optimize).parameters
options = {name: False for name in ("check", "bench") if name in known}
bnfold.optimize(sys.argv[1], sys.argv[2], **options)
"""

_VERDICTS = {"faster": "cheaper", "slower": "MORE EXPENSIVE"}


def main() -> None:
    """Measure, and print one line a model; exit with 1 if the new commit is more expensive."""
    parser = argparse.ArgumentParser(description="The cost of two commits of bnfold.")
    parser.add_argument("old", help="a commit, as git names it")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--seconds", type=float, default=120, help="of measuring, in all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnfold-regression-") as name:
        folder = Path(name)
        old, new = (install(commit, folder) for commit in (options.old, options.new))
        summaries = measure(old, new, workloads(folder), options.seconds)
    for workload, summary in summaries.items():
        print(describe(workload, summary))
    sys.exit(any(summary.verdict == "slower" for summary in summaries.values()))


def install(commit: str, folder: Path) -> Path:
    """Install a commit of bnfold without what it depends on; return the folder to import from."""
    digest = _git("rev-parse", "--short", f"{commit}^{{commit}}")
    target = folder / digest
    if not target.exists():
        with _worktree(digest, folder / f"{digest}-source") as source:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


@contextmanager
def _worktree(commit: str, place: Path) -> Iterator[Path]:
    _git("worktree", "add", "--quiet", "--detach", str(place), commit)
    try:
        yield place
    finally:
        _git("worktree", "remove", "--force", str(place))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"git {arguments[0]} failed")
    return done.stdout.strip()


def workloads(folder: Path) -> dict[str, Path]:
    """Return the models to rewrite, by what each is about."""
    many, large = folder / "many_nodes.onnx", folder / "large_weights.onnx"
    onnx.save(chain(blocks=400, channels=8), many)
    onnx.save(chain(blocks=4, channels=1024), large)
    return {
        "start and a small model": ROOT / "models" / "dropout_before_pool.onnx",
        "many nodes": many,
        "large weights": large,
    }


def chain(blocks: int, channels: int) -> onnx.ModelProto:
    """Make a network of so many Conv, BatchNormalization and Relu in a row."""
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for block in range(blocks):
        kernel = generator.standard_normal((channels, channels, 3, 3), np.float32)
        names = [f"{name}{block}" for name in ("scale", "shift", "mean", "variance")]
        weights.append(numpy_helper.from_array(kernel, f"w{block}"))
        for name in names:
            content = generator.uniform(0.5, 1.5, channels).astype(np.float32)
            weights.append(numpy_helper.from_array(content, name))
        nodes += [
            helper.make_node("Conv", [f"x{block}", f"w{block}"], [f"c{block}"], pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{block}", *names], [f"b{block}"]),
            helper.make_node("Relu", [f"b{block}"], [f"x{block + 1}"]),
        ]
    shape = [1, channels, 8, 8]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("x0", f"x{blocks}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(old: Path, new: Path, models: Mapping[str, Path], seconds: float) -> dict[str, Summary]:
    """Run old, new and old again in every order in turn, on each model, for so many seconds."""
    sides = {"original": old, "optimized": new, "control": old}
    found: dict[str, dict[str, list[float]]] = {
        workload: {side: [] for side in sides} for workload in models
    }
    for workload, model in models.items():
        for folder in (old, new):
            cpu_ms(folder, model)  # compiles the modules, and fills the disk's cache
        print(f"measuring: {workload}", file=sys.stderr)
        end = time.monotonic() + seconds / len(models)
        for order in itertools.cycle(itertools.permutations(sides)):
            for side in order:
                found[workload][side].append(cpu_ms(sides[side], model))
            if time.monotonic() >= end:
                break
    return {workload: summarize([SpeedBlock({}, run_ms)]) for workload, run_ms in found.items()}


def cpu_ms(installed: Path, model: Path) -> float:
    """Return the milliseconds of CPU time that rewriting a model takes, start included."""
    with tempfile.TemporaryDirectory(prefix="bnfold-regression-") as name:
        command = [sys.executable, "-c", _PROGRAM, str(model), str(Path(name) / "result.onnx")]
        variables = {"PYTHONPATH": str(installed), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        return 1e3 * run_alone(command, timeout=TIMEOUT, variables=variables).cpu_seconds


def describe(workload: str, summary: Summary) -> str:
    """Say in a line what the new commit costs, relative to the old one."""
    assert summary.optimized_ms is not None
    assert summary.speedup is not None
    assert summary.ci95 is not None
    low, high = (1 / bound for bound in reversed(summary.ci95))
    control_low, control_high = (1 / bound for bound in reversed(summary.control_ci95))
    verdict = _VERDICTS.get(summary.verdict or "", "no significant difference")
    return (
        f"{workload}: {verdict}: {summary.original_ms:.0f} ms → {summary.optimized_ms:.0f} ms of "
        f"CPU time, × {1 / summary.speedup:.3f} [{low:.3f}, {high:.3f}] "
        f"(control × {1 / summary.control:.3f} [{control_low:.3f}, {control_high:.3f}])"
    )


if __name__ == "__main__":
    main()
