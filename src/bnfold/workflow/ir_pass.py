"""The rewrites as a pass of an onnx_ir pipeline."""

from __future__ import annotations

import onnx_ir as ir

from bnfold.graph.facts import forget
from bnfold.modelfile.normalize import prepare
from bnfold.options import PassOptions
from bnfold.rewriting.engine import run_passes
from bnfold.rewriting.inlining import inline_functions
from bnfold.rewriting.meaning import change_meaning
from bnfold.rewriting.registry import choose_passes
from bnfold.running.learning import TOOLS


class RewritePass(ir.passes.InPlacePass):
    """bnfold's rewrites of an in-memory model, without the check.

        >>> pipeline = ir.passes.Sequential(bnfold.RewritePass(), RemoveUnusedNodesPass())
        >>> pipeline(model).modified
        True

    Args:
        options: which rewrites to make; all of them by default.

    Raises:
        ModelError: when called, if a node reads an undefined value, or the graph has a cycle.
        UsageError: when called, if an option is invalid.
        PassFailedError: when called, if a pass has a bug.
    """

    def __init__(self, options: PassOptions | None = None) -> None:
        super().__init__()
        self._options = options or PassOptions()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the model in place."""
        chosen = choose_passes(self._options.only, self._options.skip)
        prepare(model, "the model")
        changes = change_meaning(model, self._options)
        inlined = [] if self._options.keep_functions else inline_functions(model, chosen)[0]
        if inlined:
            prepare(model, "the model")
        changes += inlined
        changes += run_passes(model, chosen, self._options.keep_pattern(), tools=TOOLS).rewrites
        forget(model)
        return ir.passes.PassResult(model, modified=bool(changes))
