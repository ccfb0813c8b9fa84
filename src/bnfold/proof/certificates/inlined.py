"""Proves that functions have been inlined: as onnx's own inliner does it, names aside."""

from __future__ import annotations

import time
from dataclasses import replace

import onnx
import onnx.inliner

from bnfold.graph.schemas import opsets_of
from bnfold.progress import silent
from bnfold.proof.certificates.normal_forms.bodies import with_bodies_closed
from bnfold.proof.certificates.normal_forms.congruence import peeled
from bnfold.proof.certificates.windows import Window
from bnfold.record.data import Certificate
from bnfold.running.isolation import CrashedError, isolated


def certify_inlined(before: onnx.ModelProto, after: onnx.ModelProto) -> Certificate:
    """Prove that a model computes what another one does that calls functions.

    Their weights are inputs. It is the same operators over the same inputs, or nothing is shown.
    """
    begun = time.monotonic()
    try:
        certificate = isolated(lambda _: _certificate(before, after), silent)
    except CrashedError as crash:
        certificate = Certificate("open", note=str(crash))
    return replace(certificate, seconds=time.monotonic() - begun)


def _certificate(before: onnx.ModelProto, after: onnx.ModelProto) -> Certificate:
    try:
        inlined = onnx.inliner.inline_local_functions(before)
        used = [each for each in inlined.opset_import if each.domain in opsets_of(after)]
        del inlined.opset_import[:]  # it keeps those of the functions
        inlined.opset_import.extend(used)
        is_same = not peeled(with_bodies_closed(Window(inlined, after)))
    except Exception as error:  # a model may be anything, and then the whole is still compared
        return Certificate("open", note=f"its proof failed with {type(error).__name__}: {error}")
    if is_same:
        return Certificate("certified", "constant")
    return Certificate("open", note="onnx's inliner makes other operators of the functions")
