"""Checks and times rewrites on a CUDA device, and prints a table.

    python -m benchmarks.cuda [FILES] [--only MODEL] [--batch N] [--float16] [--seconds 30]

Without files, it takes the models of the suite, and makes those that are missing. Times are of
onnxruntime's best level, with inputs and outputs on the device, and with the device's default
precision (TF32 for float32). `--float16` converts the models with onnxruntime's own converter,
which keeps inputs and outputs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx

import bnfold
from benchmarks.models import FOLDER, Model, batched, chosen
from benchmarks.suite import build
from bnfold import Result
from bnfold.errors import BnfoldError
from bnfold.options import TimingOptions


def main() -> None:
    """Print a row for each model as soon as it is measured."""
    parser = argparse.ArgumentParser(description="Check and time rewrites on a CUDA device.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILES")
    parser.add_argument("--only", action="append", metavar="MODEL", help="repeatable")
    parser.add_argument("--batch", type=int, default=1, help="of the models made by torch")
    parser.add_argument("--float16", action="store_true", help="convert the models first")
    parser.add_argument("--seconds", type=float, default=30, help="of timing per model")
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of the models")
    parser.add_argument("--records", type=Path, help="folder for a record of each model")
    given = parser.parse_args()
    print("| model | verdict | nodes | ms | speed-up (95 %) | control |")
    print("|---|---|---|---|---|---|")
    files = given.files or (_made(model, given.batch, given.models) for model in chosen(given.only))
    for path in files:
        with tempfile.TemporaryDirectory(prefix="bnfold-cuda-") as folder:
            try:
                result = _measured(path, given, Path(folder))
            except (BnfoldError, OSError) as error:
                print(f"| {path.stem} | {' '.join(str(error).split())} |", flush=True)
                continue
        print(_row(path.stem, result), flush=True)
        if given.records is not None:
            given.records.mkdir(parents=True, exist_ok=True)
            (given.records / f"{path.stem}.json").write_text(result.record.to_json())


def _made(model: Model, batch: int, folder: Path) -> Path:
    """Return the file of a model of the suite, for so many images if torch makes it."""
    if batch > 1 and model.library in ("timm", "torchvision"):
        model = batched(model, batch)
    build(model, folder)
    return model.path(folder)


def _measured(path: Path, given: argparse.Namespace, folder: Path) -> Result:
    if given.float16:
        converted = folder / path.name
        onnx.save(_in_float16(path), converted)
        path = converted
    return bnfold.optimize(
        path,
        folder / f"{path.stem}.bnfold.onnx",
        providers="cuda",
        check=given.check,
        bench=given.seconds > 0,
        timing=TimingOptions(seconds=given.seconds),
        certify="off",  # proofs do not depend on the device
    )


def _in_float16(path: Path) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    return converted


def _row(name: str, result: Result) -> str:
    record = result.record
    verdict = record.equivalence.verdict if record.equivalence is not None else "–"
    after = record.output.nodes if record.output is not None else record.model.nodes
    cells = [name, verdict, f"{record.model.nodes} → {after}"]
    best = next((speed for speed in record.speed if speed.level == "all"), None)
    if best is not None:
        cells.append(f"{best.original_ms:.3g} → {best.optimized_ms:.3g}")
        interval = best.ci95
        bounds = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
        cells += [f"{best.speedup:.2f}{bounds}", f"{best.control:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
