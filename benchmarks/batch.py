"""Measures what `bnfold batch` costs beside the work itself.

    python -m benchmarks.batch [--models 200] [--runs 3] [--workers 1 2] [--plain] [--json FILE]

Small models are generated: three times Conv, BatchNormalization, Relu, with weights of their own.
One process calls `bnfold.optimize` for each in turn and writes its page and its record: this is the
work alone. `bnfold batch` does the same with 1 and 2 workers. Nothing is timed within, so that the
whole is work and overhead. The ways take turns, and the table has the medians: of the seconds that
passed, and of the processor time of all processes together, which a busy machine disturbs less.
Starting Python and importing is in both, once a process. With ``--plain``, there is no float64
evaluation, no certificate and no picture: the least work, beside which overhead shows most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.processes import ROOT, run_alone

LONGEST = 3600
"""Seconds after which a run is stopped."""

ALONE = """
import sys
from pathlib import Path
import bnfold
from bnfold.report import render

for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    place = Path(sys.argv[2]) / path.name
    way = {"truth": "off", "certify": "off"} if "plain" in sys.argv else {}
    record = bnfold.optimize(path, place, threads=1, **way).record
    for suffix in (".html", ".json"):
        place.with_name(place.name + suffix).write_text(render(record, suffix))
"""

WITHOUT_PICTURES = """
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name == "matplotlib" else find_spec(name, *rest)
)
"""
"""Read by each process as it starts: what bnfold asks about matplotlib is answered with no."""


def main() -> None:
    """Parse the command line, run all ways in turns, and print a table."""
    parser = argparse.ArgumentParser(description="The overhead of a batch.")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--plain", action="store_true", help="with the least work in a model")
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    options = parser.parse_args()
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary) / "models"
        make(models, options.models)
        site = Path(temporary) / "site" if options.plain else None
        if site is not None:
            site.mkdir()
            (site / "sitecustomize.py").write_text(WITHOUT_PICTURES)
        for _ in range(options.runs):
            for way in ("alone", *map(str, options.workers)):
                samples.append(measure(way, models, Path(temporary) / "out", site))
                print(samples[-1], file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(samples, indent=1) + "\n")
    print(table(samples))


def make(folder: Path, number: int) -> None:
    """Write this many small models."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(number):
        onnx.save(small_model(random), folder / f"{index:04}.onnx")


def small_model(random: np.random.Generator) -> onnx.ModelProto:
    """Return three times Conv, BatchNormalization, Relu, with random weights."""
    lines, value = [], "x"
    weights: dict[str, Any] = {}
    for layer in range(3):
        lines.append(f"c{layer} = Conv <pads = [1, 1, 1, 1]> ({value}, w{layer})")
        names = ", ".join(f"{part}{layer}" for part in "sbmv")
        lines.append(f"n{layer} = BatchNormalization (c{layer}, {names})")
        value = f"r{layer}"
        lines.append(f"{value} = Relu (n{layer})")
        weights[f"w{layer}"] = random.normal(0, 0.2, (8, 3 if layer == 0 else 8, 3, 3))
        for part in "sbm":
            weights[f"{part}{layer}"] = random.normal(size=8)
        weights[f"v{layer}"] = random.uniform(0.5, 2, size=8)
    model: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"g (float[N,3,16,16] x) => (float[N,8,16,16] {value}) {{ {' '.join(lines)} }}"
    )
    for name, content in weights.items():
        tensor = numpy_helper.from_array(content.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


def measure(way: str, models: Path, out: Path, site: Path | None) -> dict[str, Any]:
    """Run one way, and return what it took; `site` is on the path of a plain run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.sync()  # so that this run does not pay for the previous one's writes
    if way == "alone":
        command = ["-c", ALONE, str(models), str(out), *(["plain"] if site else [])]
    else:
        command = ["-m", "bnfold", "batch", str(models), "--out", str(out), "--no-bench", "--quiet"]
        command += ["--jobs", way, "--threads", "1"]
        command += ["--truth", "off", "--certify", "off"] if site else []
    variables = {"PYTHONPATH": str(site)} if site else {}
    cost = run_alone([sys.executable, *command], timeout=LONGEST, variables=variables)
    number = len(list(models.glob("*.onnx")))
    assert len(list(out.glob("*.onnx"))) == number
    return {
        "way": way,
        "models": number,
        "seconds": cost.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "load": os.getloadavg()[0],
    }


def table(samples: list[dict[str, Any]]) -> str:
    """Return the medians as a Markdown table."""
    ways = list(dict.fromkeys(sample["way"] for sample in samples))
    number = samples[0]["models"]
    medians = {
        way: {
            what: statistics.median(each[what] for each in samples if each["way"] == way) / number
            for what in ("seconds", "cpu_seconds")
        }
        for way in ways
    }
    load = statistics.median(sample["load"] for sample in samples)
    lines = [
        f"{number} models, {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} processors, load {load:.0f}",
        "",
        "| way | seconds a model | processor seconds a model | overhead in processor time |",
        "|---|---:|---:|---:|",
    ]
    alone = medians["alone"]["cpu_seconds"]
    for way, each in medians.items():
        name = "optimize alone" if way == "alone" else f"batch, {way} worker(s)"
        overhead = "" if way == "alone" else f"{(each['cpu_seconds'] / alone - 1) * 100:+.1f} %"
        lines.append(
            f"| {name} | {each['seconds']:.3f} | {each['cpu_seconds']:.3f} | {overhead or '–'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
