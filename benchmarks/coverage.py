"""How often the 95 % interval of a speed-up holds the true one, and what the verdict finds.

Samples are drawn from the model that the protocol of `bnfold bench` assumes, and judged by its own
statistics: each session is off by a constant, each turn by a factor that all models share, each run
by its own noise, and one run in twenty takes 50 % longer. Beside it stands the bootstrap that
earlier versions used. The tables are those of docs/speed.md (5 minutes):

    python -m benchmarks.coverage
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from bnfold.record.data import SpeedBlock
from bnfold.speed.statistics import ratio, summarize

SPREADS = (0.005, 0.01, 0.02)
"""Relative standard deviations between sessions of the same model."""

BLOCKS = (3, 4, 5, 8, 10, 16)

TURNS = 40

FACTOR = 1.05
"""The true speed-up."""

_RESAMPLES = 1000

Interval = Callable[[Sequence[SpeedBlock]], Sequence[float] | None]


def simulated_blocks(
    generator: np.random.Generator,
    factor: float,
    *,
    blocks: int = 5,
    turns: int = TURNS,
    spread: float = 0.005,
) -> list[SpeedBlock]:
    """Return samples of a model `factor` times as fast, with the noise of a shared machine."""
    speeds = np.array([1.0, factor, 1.0])[:, None]
    shape = (blocks, len(speeds), turns)
    ms = 10 * generator.lognormal(0, 0.05, (blocks, 1, turns)) / speeds
    ms *= generator.lognormal(0, spread, (*shape[:2], 1)) * generator.lognormal(0, 0.02, shape)
    ms *= np.where(generator.random(shape) < 0.05, 1.5, 1.0)
    names = ("original", "optimized", "control")
    return [SpeedBlock({}, dict(zip(names, block, strict=True))) for block in ms.tolist()]


def students(blocks: Sequence[SpeedBlock]) -> list[float] | None:
    """Return the interval of `bnfold bench`, by Student's distribution."""
    return ratio(blocks, "optimized")[1]


def covered(
    spread: float,
    blocks: int,
    runs: int,
    *,
    turns: int = TURNS,
    seed: int = 0,
    interval: Interval = students,
) -> float:
    """Return the share of simulated runs whose interval holds the true speed-up."""
    generator = np.random.default_rng([seed, blocks, turns, round(spread * 1e6)])
    hits = 0
    for _ in range(runs):
        bounds = interval(
            simulated_blocks(generator, FACTOR, blocks=blocks, turns=turns, spread=spread)
        )
        hits += bounds is not None and bounds[0] <= FACTOR <= bounds[1]
    return hits / runs


def found(spread: float, blocks: int, factor: float, runs: int, *, seed: int = 0) -> float:
    """Return the share of simulated runs with the verdict *faster* or *slower*."""
    generator = np.random.default_rng([seed, blocks, round(factor * 1e6), round(spread * 1e6)])
    verdicts = [
        summarize(simulated_blocks(generator, factor, blocks=blocks, spread=spread)).verdict
        for _ in range(runs)
    ]
    return sum(verdict in ("faster", "slower") for verdict in verdicts) / runs


def bootstrap(blocks: Sequence[SpeedBlock]) -> list[float]:
    """Return the interval of earlier versions: blocks are resampled, then turns within them."""
    times = np.array([[block.run_ms["original"], block.run_ms["optimized"]] for block in blocks])
    ratios = times[:, 0] / times[:, 1]
    generator = np.random.default_rng(0)
    count, turns = ratios.shape
    chosen = generator.integers(0, count, (_RESAMPLES, count, 1))
    within = generator.integers(0, turns, (_RESAMPLES, count, turns))
    medians = np.median(ratios[chosen, within].reshape(_RESAMPLES, -1), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return [float(low), float(high)]


def coverage_table(runs: int) -> str:
    """Return a table of how often the interval holds the true speed-up, in percent."""

    def row(name: str, runs: int, turns: int, interval: Interval) -> Iterator[str]:
        for spread in SPREADS:
            shares = [
                covered(spread, blocks, runs, turns=turns, interval=interval) for blocks in BLOCKS
            ]
            yield _row([f"{name}, spread {spread:.1%}", *(f"{100 * each:.1f}" for each in shares)])

    return "\n".join(
        [
            *_head("coverage, %"),
            *row(f"{TURNS} turns", runs, TURNS, students),
            *row("1 turn", runs, 1, students),
            *row("bootstrap", max(1, runs // 5), TURNS, bootstrap),
        ]
    )


def verdict_table(runs: int) -> str:
    """Return a table of how often the verdict is *faster* or *slower*, in percent."""
    lines = _head("faster or slower, %")
    for factor in (1.0, 1.02, 1.05, 1.1):
        for spread in SPREADS:
            shares = [found(spread, blocks, factor, runs) for blocks in BLOCKS]
            name = f"{factor:.2f} times as fast, spread {spread:.1%}"
            lines.append(_row([name, *(f"{100 * each:.0f}" for each in shares)]))
    return "\n".join(lines)


def _head(title: str) -> list[str]:
    return [_row([title, *(f"{n} blocks" for n in BLOCKS)]), "|---|" + "---:|" * len(BLOCKS)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="simulated for each figure")
    runs = parser.parse_args().runs
    print(coverage_table(runs), "", verdict_table(runs // 2), sep="\n")


if __name__ == "__main__":
    main()
