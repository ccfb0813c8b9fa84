"""How often the check errs: right variants of seeded networks that fail, wrong ones that pass.

    python -m benchmarks.error_rates [--seeds N] [--provider cuda] [--only KIND]

prints the table of docs/equivalence.md. Right variants are what bnfold and what onnxruntime fold a
network to. Wrong ones are off by so many times the network's own rounding noise, in the channel
where that is most: by one weight, one channel, one tap of a kernel, or the border.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx

import bnfold
from bnfold.options import PROVIDER_CHOICES
from tests.support.graphs import draw_feeds
from tests.support.networks import GAINS, NETWORKS, folded_elsewhere, wrong_by

TIMES = (1.0, 2.0, 3.0, 5.0, 10.0, 100.0)
CHANGES = ("weight", "channel", "tap", "border")
SIZES = {"N": 17, "H": 12, "W": 12}

Counts = Counter[tuple[str, str]]


def verdict(original: onnx.ModelProto, other: onnx.ModelProto, provider: str) -> str:
    """Return what the check says."""
    equivalence = bnfold.check(original, other, certify="off", providers=provider).equivalence
    assert equivalence is not None
    return equivalence.verdict


def count(seeds: int, provider: str, kinds: Iterable[str]) -> Counts:
    """Check all variants of all networks of these kinds; return how often each came out how."""
    counts: Counts = Counter()
    for kind in kinds:
        network = NETWORKS[kind]
        for gain in GAINS:
            for seed in range(seeds):
                _count_one(counts, kind, network(seed, gain), seed, provider)
            print(f"{kind}, weights × {gain:g}: done", file=sys.stderr, flush=True)
    return counts


def _count_one(counts: Counts, kind: str, model: onnx.ModelProto, seed: int, provider: str) -> None:
    drawn = draw_feeds(model, seed=seed, sizes=SIZES).items()
    feeds = {name: np.asarray(value / 3, np.float32) for name, value in drawn}
    folded = bnfold.optimize(model, check=False).to_proto()
    counts["right: folded by bnfold", verdict(model, folded, provider)] += 1
    elsewhere = folded_elsewhere(model)
    counts["right: folded by onnxruntime", verdict(model, elsewhere, provider)] += 1
    for change in CHANGES:
        if change == "border" and kind not in ("deep", "gated"):
            continue
        for times in TIMES:
            wrong = wrong_by(model, change, times, feeds, seed)
            if wrong is not None:
                counts[f"wrong by {times:g} × the noise", verdict(model, wrong, provider)] += 1


def table(counts: Counts) -> str:
    """Return the counts as Markdown."""
    rows = dict.fromkeys(name for name, _ in counts)
    lines = ["| variant | pairs | pass | fail | not-verified |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        numbers = [counts[row, verdict] for verdict in ("pass", "fail", "not-verified")]
        lines.append(f"| {row} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How often the check errs.")
    parser.add_argument("--seeds", type=int, default=10, help="networks of each kind and scale")
    parser.add_argument("--provider", default="cpu", choices=PROVIDER_CHOICES)
    parser.add_argument("--only", action="append", choices=list(NETWORKS), help="repeatable")
    given = parser.parse_args()
    print(table(count(given.seeds, given.provider, given.only or NETWORKS)))


if __name__ == "__main__":
    main()
