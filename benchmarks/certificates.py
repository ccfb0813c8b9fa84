"""What certificates cost: seconds, and memory above that of the rewritten model.

    python -m benchmarks.certificates MODEL...

prints a row for each model: how many of its rewrites are certified, by which kinds of proof, the
largest bound, the seconds for all of them, and by how many MB the largest resident set grew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bnfold.modelfile.loading import load
from bnfold.proof.certificate import certify
from bnfold.proof.windows import NotShown
from bnfold.record.data import Certificate
from bnfold.rewriting.engine import run_passes
from bnfold.rewriting.registry import choose_passes
from bnfold.workflow.windows import Cutter


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


def measure(path: Path) -> Cost:
    """Rewrite a model and certify each rewrite, in this process."""
    model = load(path).ir
    cutter = Cutter(model)
    run_passes(model, choose_passes((), ()), watch=cutter.watch)
    before = _largest()
    begun = time.monotonic()
    certificates = []
    for cut in cutter.cuts:
        try:
            certificates.append(certify(cut.window()))
        except NotShown as reason:
            certificates.append(Certificate("open", note=str(reason)))
    return Cost(certificates, time.monotonic() - begun, _largest() - before)


def _largest() -> float:
    """Return the largest resident set so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each model in a process of its own."""
    style = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("models", nargs="+", type=Path)
    print("| model | certified | by | largest bound | seconds | MB |\n|---|---|---|---:|---:|---:|")
    for path in parser.parse_args().models:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (path,)).row(path.stem), flush=True)


if __name__ == "__main__":
    main()
