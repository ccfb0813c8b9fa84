"""What certificates cost and show, beside those of onnxsim on the same pairs of models.

    python -m benchmarks.certificates [--onnxsim PYTHON] MODEL...

prints a row for each model: how many of its rewrites are certified, by which kinds of proof, the
largest bound, the processor's seconds for all of them, and by how many MB the largest resident set
grew. Then, of the original and the rewritten file: whether all outputs are proven, and in how many
seconds, by `bnfold check` and by `onnxsim.certify`. PYTHON is the interpreter of an environment
with onnxsim 0.8 or later and z3-solver. One thread each, so that other work does not count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from bnfold.modelfile.loading import load
from bnfold.progress import silent
from bnfold.proof.certificates.certificate import certify_any
from bnfold.proof.certificates.windows import NotShown
from bnfold.record.data import Certificate
from bnfold.rewriting.engine import run_passes
from bnfold.rewriting.registry import choose_passes
from bnfold.workflow.certifying import Certifying
from bnfold.workflow.windows import Cutter

SECONDS = 60
"""For all proofs of a pair, by either tool."""

ONNXSIM = """
import collections, json, sys, time, onnx
from onnxsim.certify import certify
original, rewritten = map(onnx.load, sys.argv[1:3])
begun = time.process_time()
report = certify(original, rewritten, total_timeout_ms=int(sys.argv[3]) * 1000)
windows = collections.Counter(each.status.split("-")[0] for each in report.windows)
print(json.dumps([report.ok, windows, time.process_time() - begun]))
"""


@dataclass(frozen=True)
class Cost:
    """What the certificates of one model show, and cost."""

    certificates: list[Certificate]
    seconds: float
    megabytes: float

    def row(self, name: str) -> str:
        """Return a row of the table."""
        kinds = Counter(each.kind or each.verdict for each in self.certificates)
        number = sum(each.verdict == "certified" for each in self.certificates)
        bound = max((each.bound for each in self.certificates if each.bound), default=0.0)
        how = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return (
            f"| {name} | {number} of {len(self.certificates)} | {how} | {bound:.1e} "
            f"| {self.seconds:.1f} | {self.megabytes:.0f} |"
        )


def measure(path: Path, rewritten: Path) -> Cost:
    """Rewrite a model and certify each rewrite, in this process."""
    loaded = load(path)
    cutter = Cutter(loaded.ir)
    run_passes(loaded.ir, choose_passes((), ()), watch=cutter.watch)
    before = _largest()
    begun = time.process_time()
    certificates = []
    for cut in cutter.cuts:
        try:
            certificates.append(certify_any(cut.windows()))
        except NotShown as reason:
            certificates.append(Certificate("open", note=str(reason)))
    cost = Cost(certificates, time.process_time() - begun, _largest() - before)
    onnx.save(loaded.to_proto(), rewritten)
    return cost


def _largest() -> float:
    """Return the largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds_of_children() -> float:
    """Return the processor time of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(path: Path, rewritten: Path, python: str) -> str:
    """Return a row that says what either tool proves of a pair of files."""
    begun = _seconds_of_children()
    with Certifying(path, rewritten, SECONDS) as certifying:
        found = certifying.result(silent)
    seconds = _seconds_of_children() - begun
    own = f"{'no' if found is None or found.open else 'yes'} | {seconds:.1f}"
    command = [python, "-c", ONNXSIM, str(path), str(rewritten), str(SECONDS)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=2 * SECONDS
        )
    except subprocess.SubprocessError as error:
        return f"| {path.stem} | {own} | {type(error).__name__} | | |"
    is_proven, windows, seconds = json.loads(done.stdout.splitlines()[-1])
    how = ", ".join(f"{count} {status}" for status, count in windows.items())
    return f"| {path.stem} | {own} | {'yes' if is_proven else 'no'} | {seconds:.1f} | {how} |"


def main() -> None:
    """Measure each model in a process of its own."""
    style = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--onnxsim", metavar="PYTHON", default=sys.executable)
    parser.add_argument("models", nargs="+", type=Path)
    given = parser.parse_args()
    os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        rewritten = {path: Path(folder) / f"{path.stem}.onnx" for path in given.models}
        print("| model | certified | by | largest bound | seconds | MB |")
        print("|---|---|---|---:|---:|---:|")
        for path, result in rewritten.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(measure, (path, result)).row(path.stem), flush=True)
        print("\n| model | bnfold | seconds | onnxsim | seconds | its windows |")
        print("|---|---|---:|---|---:|---|")
        for path, result in rewritten.items():
            print(compare(path, result, given.onnxsim), flush=True)


if __name__ == "__main__":
    main()
