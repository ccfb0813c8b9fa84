"""Certifies the files of two models, while others run them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx.inliner
import onnx_ir as ir

from bnfold.errors import BnfoldError
from bnfold.graph.constants import bytes_of_initializers
from bnfold.graph.memory import remembering
from bnfold.modelfile.protos import node_lists_of
from bnfold.progress import Progress
from bnfold.proof.learned import learned
from bnfold.record.data import ModelCertificate
from bnfold.running.isolation import CrashedError, Forked, isolated
from bnfold.running.sharing import sharing

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_BYTES_AT_ONCE = 2**29
"""Weights of two models that are proven equal while they run."""


class Certifying:
    """Proves the outputs of two models equal, as far as there is time, while others run them.

    It takes memory for both models: that of large ones is only proven when the result is asked for.
    """

    def __init__(self, reference: Path, candidate: Path, seconds: float) -> None:
        self._paths = reference, candidate
        self._seconds = seconds
        self._begun = Forked(self._shared) if self._is_small() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun is not None:
            self._begun.abandon()

    def result(self, progress: Progress) -> ModelCertificate | None:
        """Return what is proven; None if a model is unreadable. To be asked for once."""
        try:
            if self._begun is not None:
                return self._begun.result(progress)
            return isolated(self._work, progress)
        except (CrashedError, BnfoldError):
            return None

    def _is_small(self) -> bool:
        with suppress(Exception):  # whoever runs the models meets it, too, and says it in words
            graphs = [learned(path).ir.graph for path in self._paths]
            return sum(map(bytes_of_initializers, graphs)) < _MOST_BYTES_AT_ONCE
        return False

    def _shared(self, told: Progress) -> ModelCertificate:
        with sharing(2):
            return self._work(told)

    def _work(self, told: Progress) -> ModelCertificate:
        from bnfold.workflow.alignment import Alignment  # slow to import: only the fork needs it

        reference, candidate = map(_without_functions, self._paths)
        with remembering():  # neither graph changes
            return Alignment.of(reference, candidate).certificate(self._seconds, told)


def _without_functions(path: Path) -> ir.Model:
    """Return a model with its functions inlined, by onnx's own inliner."""
    loaded = learned(path)
    if loaded.ir.functions:
        with suppress(Exception):  # it cannot, for example, where an operator set is another one
            proto = loaded.to_proto()
            _write_defaults(proto)
            return learned(onnx.inliner.inline_local_functions(proto)).ir
    return loaded.ir


def _write_defaults(model: onnx.ModelProto) -> None:
    """Let each call say, in place, what it leaves to a default: onnx's inliner forgets these."""
    functions = {(each.domain, each.name, each.overload): each for each in model.functions}
    for nodes in node_lists_of(model):
        for node in nodes:
            function = functions.get((node.domain, node.op_type, node.overload))
            if function is not None:
                said = {attribute.name for attribute in node.attribute}
                node.attribute.extend(
                    each for each in function.attribute_proto if each.name not in said
                )
