"""Times a model against what bnfold makes of it, or against another model, on onnxruntime's CPU.

    python benchmarks/speed.py MODEL [CANDIDATE] [--shape 1,3,224,224] [--seconds 10]

Three sessions without spinning threads take turns, in alternating order: the original, the
candidate, and the original again as a control. Printed are medians of paired ratios, with 95 %
bootstrap intervals: a speed-up counts only beyond what the control shows for a model against
itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import bnfold
from bnfold.inputs import InputRequest, make_inputs
from bnfold.runtime import Feeds, Level, Session

WARM_UP = 5
RESAMPLES = 1000


def main() -> None:
    """Parse the command line, measure, and print one line."""
    parser = argparse.ArgumentParser(description="Speed of a model against bnfold's or another.")
    parser.add_argument("model", type=Path)
    parser.add_argument("candidate", type=Path, nargs="?")
    parser.add_argument("--shape", help="of the first input, as 1,3,224,224")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        candidate = options.candidate
        if candidate is None:
            candidate = Path(folder) / "optimized.onnx"
            bnfold.optimize(options.model, candidate, check=False)
        paths = {"original": options.model, "candidate": candidate, "control": options.model}
        sessions = {name: Session(path, "cpu", Level.ALL) for name, path in paths.items()}
        original = sessions["original"]
        sizes = [int(size) for size in options.shape.split(",")] if options.shape else None
        request = InputRequest(shapes={original.inputs[0].name: sizes} if sizes else {})
        feeds = next(make_inputs(original, request).feeds())
        ratios = measure(sessions, feeds, options.seconds)
    print(
        f"{options.model.stem}: speed-up {describe(ratios['candidate'])}, "
        f"control {describe(ratios['control'])}, {len(ratios['control'])} pairs"
    )


def measure(sessions: dict[str, Session], feeds: Feeds, seconds: float) -> dict[str, list[float]]:
    """Return how much faster each session is than "original", turn by turn."""
    for session in sessions.values():
        for _ in range(WARM_UP):
            session.run(feeds)
    ratios: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.monotonic() + seconds
    order = list(sessions)
    while time.monotonic() < end:
        order.reverse()
        times = {name: duration(sessions[name], feeds) for name in order}
        for name in sessions:
            ratios[name].append(times["original"] / times[name])
    return ratios


def duration(session: Session, feeds: Feeds) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def describe(ratios: list[float]) -> str:
    """Return the median with its 95 % interval."""
    generator = np.random.default_rng(0)
    samples = generator.choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(samples, axis=1), [2.5, 97.5])
    return f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
