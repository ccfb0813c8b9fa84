"""The models of the suite: the light model zoo, rapidocr's OCR networks, torchvision's and timm's.

    python -m benchmarks.suite --build [--models DIR] [--only MODEL]

Models are made once, in `benchmarks/.models/`, from fixed seeds. Only this needs torch and its
libraries.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import onnx

from benchmarks.models import FOLDER, Model, chosen
from benchmarks.variants import VARIANTS
from tests.support import zoo


def build(model: Model, folder: Path) -> None:
    """Make the files of a model that are missing."""
    wanted = [model.path(folder), *([model.twin_path(folder)] if model.twin else [])]
    if all(path.exists() for path in wanted):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if model.library == "light":
        onnx.save(zoo.light_model(model.architecture), model.path(folder))
    elif model.library == "rapidocr":
        shutil.copyfile(zoo.ocr_model(model.architecture), model.path(folder))
    else:
        from benchmarks import exports  # needs torch

        exports.export(model, folder)
    if model.variant:
        made = onnx.load(model.path(folder))
        VARIANTS[model.variant](made)
        onnx.save(made, model.path(folder))


def main() -> None:
    """Build what is missing, or list the suite."""
    parser = argparse.ArgumentParser(description="The models of the benchmarks.")
    parser.add_argument("--build", action="store_true", help="make the files that are missing")
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of the files")
    parser.add_argument("--only", action="append", metavar="MODEL", help="repeatable")
    options = parser.parse_args()
    failed = False
    for model in chosen(options.only):
        if options.build:
            try:
                build(model, options.models)
            except Exception as error:  # exporters may raise anything
                failed = True
                reason = str(error).partition("\n")[0]
                print(f"{model.name}: {type(error).__name__}: {reason}", file=sys.stderr)
        status = "built" if model.path(options.models).exists() else "missing"
        print(f"{status}  {model.name}  {model.library} {model.architecture}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
