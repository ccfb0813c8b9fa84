"""How often the check errs: right variants of seeded networks that fail, wrong ones that pass.

    python -m benchmarks.error_rates [--seeds N] [--provider cuda] [--only KIND]

prints the table of docs/equivalence.md. Right variants are what bnfold and what onnxruntime fold a
network to. Wrong ones are off by so many times the network's own rounding noise, in the channel
where that is most: by one weight, one channel, one tap of a kernel, or the border. What passes is
counted once more if certificates prove it, too, as `--certify always` demands.
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


PROVEN = "pass, certified"
COLUMNS = ("pass", PROVEN, "fail", "not-verified")


def outcomes(original: onnx.ModelProto, other: onnx.ModelProto, provider: str) -> list[str]:
    """Return the columns in which a check counts."""
    equivalence = bnfold.check(original, other, providers=provider).equivalence
    assert equivalence is not None
    verdict, certificate = equivalence.verdict, equivalence.certificate
    is_proven = verdict == "pass" and certificate is not None and not certificate.open
    return [verdict, PROVEN] if is_proven else [verdict]


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

    def add(row: str, other: onnx.ModelProto) -> None:
        counts.update((row, column) for column in outcomes(model, other, provider))

    add("right: folded by bnfold", bnfold.optimize(model, check=False).to_proto())
    add("right: folded by onnxruntime", folded_elsewhere(model))
    for change in CHANGES:
        if change == "border" and kind not in ("deep", "gated"):
            continue
        for times in TIMES:
            wrong = wrong_by(model, change, times, feeds, seed)
            if wrong is not None:
                add(f"wrong by {times:g} × the noise", wrong)


def table(counts: Counts) -> str:
    """Return the counts as Markdown."""
    rows = dict.fromkeys(name for name, _ in counts)
    lines = [f"| variant | pairs | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * (len(COLUMNS) + 1)]
    for row in rows:
        pairs = sum(counts[row, column] for column in COLUMNS if column != PROVEN)
        numbers = [pairs, *(counts[row, column] for column in COLUMNS)]
        lines.append(f"| {row} | {' | '.join(map(str, numbers))} |")
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
