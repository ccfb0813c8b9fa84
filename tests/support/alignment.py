"""How far two models are certified to be equal."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from bnfold.progress import silent
from bnfold.record.data import ModelCertificate
from bnfold.workflow.certifying import Certifying


def certified(one: onnx.ModelProto, other: onnx.ModelProto, folder: Path) -> ModelCertificate:
    """Certify two models, which are written to a folder, in any time."""
    paths = folder / "one.onnx", folder / "other.onnx"
    for place, made in zip(paths, (one, other), strict=True):
        onnx.save(made, place)
    with Certifying(*paths, math.inf) as certifying:
        found = certifying.result(silent)
    assert found is not None
    return found
