"""Compares the cost of running two commits of bnfold, in about two minutes.

    python -m benchmarks.regression OLD [NEW] [--seconds 120]

OLD and NEW are git commits; NEW defaults to HEAD. Each is installed into its own folder. Then old,
new and, as a control, old again rewrite the same models, without check or timing: a small one, one
with many nodes, one with large weights. If valgrind is installed, it counts instructions, which are
reproducible to a thousandth. Otherwise, the CPU time of whole processes is measured, interleaved,
for `--seconds`. Run it by hand before landing a change that may be expensive: no test in CI depends
on time.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processes import ROOT, Cost, run_alone
from bnfold.record.data import FEWEST_BLOCKS, SpeedBlock, SpeedSummary
from bnfold.speed.statistics import summarize

TIMEOUT = 300
"""Seconds that one run may take."""

INSTRUCTION_ERROR = 0.003
"""Relative. Repeated counts of the same commit differ by less than a third of this."""

_PROGRAM = """
import inspect, sys, bnfold
known = inspect.signature(bnfold.optimize).parameters
options = {name: False for name in ("check", "bench") if name in known}
bnfold.optimize(sys.argv[1], sys.argv[2], **options)
"""

_COUNT = re.compile(r"I +refs: +([\d,]+)")
_VARIABLES = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_VERDICTS = {
    "slower": "MORE EXPENSIVE",
    "faster": "cheaper",
    "no significant difference": "no significant difference",
}


@dataclass(frozen=True)
class Comparison:
    """The cost of the new commit over that of the old, with an interval; and old over old."""

    old: float
    new: float
    unit: str
    interval: tuple[float, float]
    control: tuple[float, float]
    verdict: str

    def describe(self) -> str:
        """Describe the comparison in one line."""
        (low, high), (control_low, control_high) = self.interval, self.control
        return (
            f"{self.verdict}: {self.old:,.0f} → {self.new:,.0f} {self.unit}, "
            f"× {self.new / self.old:.4f} [{low:.4f}, {high:.4f}] "
            f"(control [{control_low:.4f}, {control_high:.4f}])"
        )


def main() -> None:
    """Measure, and print one line per model; exit with 1 if the new commit is more expensive."""
    parser = argparse.ArgumentParser(description="The cost of two commits of bnfold.")
    parser.add_argument("old", help="a git commit")
    parser.add_argument("new", nargs="?", default="HEAD")
    parser.add_argument("--seconds", type=float, default=120, help="of measuring, in total")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnfold-regression-") as name:
        folder = Path(name)
        old, new = (install(commit, folder) for commit in (options.old, options.new))
        models = workloads(folder)
        for side, model in itertools.product((old, new), models.values()):
            cpu_ms(side, model)  # compiles the modules, and warms the page cache
        if shutil.which("valgrind"):
            comparisons = compare_instructions(old, new, models)
        else:
            comparisons = compare_time(old, new, models, options.seconds)
    for workload, comparison in comparisons.items():
        print(f"{workload}: {comparison.describe()}")
    slower = _VERDICTS["slower"]
    sys.exit(any(comparison.verdict == slower for comparison in comparisons.values()))


def install(commit: str, folder: Path) -> Path:
    """Install a commit of bnfold without its dependencies; return the folder to import from."""
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
    """Return the models to rewrite, by workload."""
    many, large = folder / "many_nodes.onnx", folder / "large_weights.onnx"
    onnx.save(chain(blocks=300, channels=8), many)
    onnx.save(chain(blocks=2, channels=1024), large)
    return {
        "start and a small model": ROOT / "models" / "dropout_before_pool.onnx",
        "many nodes": many,
        "large weights": large,
    }


def chain(blocks: int, channels: int) -> onnx.ModelProto:
    """Make a chain of blocks of Conv, BatchNormalization and Relu."""
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


def compare_instructions(old: Path, new: Path, models: Mapping[str, Path]) -> dict[str, Comparison]:
    """Count instructions for each model with the old commit, the new one, and the old again.

    Sequentially: of two concurrent runs, one counts a tenth less, in onnxruntime's start.
    """
    return {
        workload: judge_instructions(*(instructions(side, model) for side in (old, new, old)))
        for workload, model in models.items()
    }


def judge_instructions(old: float, new: float, again: float) -> Comparison:
    """Compare counts of instructions; `again` is a second count of the old commit."""
    error = max(INSTRUCTION_ERROR, abs(again / old - 1))
    ratio = new / old
    verdict = "no significant difference"
    if abs(ratio - 1) > error:
        verdict = "slower" if ratio > 1 else "faster"
    return Comparison(
        old=old,
        new=new,
        unit="instructions",
        interval=(ratio - error, ratio + error),
        control=(again / old, again / old),
        verdict=_VERDICTS[verdict],
    )


def instructions(installed: Path, model: Path) -> float:
    """Return how many instructions rewriting a model takes, including start-up."""
    with tempfile.TemporaryDirectory(prefix="bnfold-regression-") as name:
        log = Path(name) / "log"
        valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--log-file={log}"]
        place = f"--cachegrind-out-file={Path(name) / 'counts'}"
        _run([*valgrind, place], installed, model)
        count = _COUNT.search(log.read_text())
        assert count is not None, log.read_text()
        return float(count[1].replace(",", ""))


def compare_time(
    old: Path, new: Path, models: Mapping[str, Path], seconds: float
) -> dict[str, Comparison]:
    """Time each model for its share of the seconds: old, new and old again, in every order."""
    sides = {"original": old, "optimized": new, "control": old}
    comparisons = {}
    for workload, model in models.items():
        blocks: list[SpeedBlock] = []  # each run is a process of its own
        end = time.monotonic() + seconds / len(models)
        for order in itertools.cycle(itertools.permutations(sides)):
            blocks.append(SpeedBlock({}, {side: [cpu_ms(sides[side], model)] for side in order}))
            if time.monotonic() >= end and len(blocks) >= FEWEST_BLOCKS:
                break
        comparisons[workload] = judge_time(summarize(blocks))
    return comparisons


def judge_time(summary: SpeedSummary) -> Comparison:
    """Judge CPU times as `bnfold bench` judges run times."""
    assert summary.optimized_ms is not None
    assert summary.ci95 is not None
    assert summary.control_ci95 is not None
    return Comparison(
        old=summary.original_ms,
        new=summary.optimized_ms,
        unit="ms of CPU time",
        interval=(1 / summary.ci95[1], 1 / summary.ci95[0]),
        control=(1 / summary.control_ci95[1], 1 / summary.control_ci95[0]),
        verdict=_VERDICTS[summary.verdict or "no significant difference"],
    )


def cpu_ms(installed: Path, model: Path) -> float:
    """Return the milliseconds of CPU time that rewriting a model takes, including start-up."""
    return 1e3 * _run([], installed, model).cpu_seconds


def _run(wrapper: list[str], installed: Path, model: Path) -> Cost:
    with tempfile.TemporaryDirectory(prefix="bnfold-regression-") as name:
        program = [sys.executable, "-c", _PROGRAM, str(model), str(Path(name) / "result.onnx")]
        variables = {**_VARIABLES, "PYTHONPATH": str(installed)}
        return run_alone([*wrapper, *program], timeout=TIMEOUT, variables=variables)


if __name__ == "__main__":
    main()
