"""Rewrites a model repeatedly, each time without some of the rewrites."""

from __future__ import annotations

import gc
import itertools
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from bnfold.errors import ModelError
from bnfold.graph.walk import all_graphs
from bnfold.modelfile.loading import load
from bnfold.modelfile.model import LoadedModel
from bnfold.modelfile.normalize import prepare
from bnfold.modelfile.saving import StagedModel
from bnfold.modelfile.source import ModelSource
from bnfold.options import PassOptions
from bnfold.record.data import PassRecord, RefusalRecord, RewriteRecord
from bnfold.rewriting.contract import FREEZE, General, Pass, Refusal
from bnfold.rewriting.engine import Outcome, Site, Unwanted, is_matched, run_passes
from bnfold.rewriting.inlining import inline_functions
from bnfold.rewriting.meaning import change_meaning
from bnfold.rewriting.overridable import overridable_weights
from bnfold.rewriting.registry import choose_passes, installed
from bnfold.running.learning import TOOLS
from bnfold.scratch import Scratch
from bnfold.workflow.validity import require_valid_apart
from bnfold.workflow.windows import Cut, Cutter, without_weights

_log = logging.getLogger("bnfold")


@dataclass(frozen=True)
class Variant:
    """A rewritten model and its rewrites: the changes of meaning, what functions became, others."""

    model: LoadedModel
    requested: Sequence[RewriteRecord]
    inlined: Sequence[RewriteRecord]
    outcome: Outcome
    chosen: Sequence[Pass] = field(repr=False)
    plugins: Sequence[str] = ()
    """What other packages offer, and what is wrong with it."""
    cuts: Sequence[Cut] = field(default=(), repr=False)
    """The window of each rewrite of `outcome`, if they were asked for."""
    inlining: tuple[onnx.ModelProto, onnx.ModelProto] | None = field(default=None, repr=False)
    """The model without weights, before its functions were inlined and after, if windows are."""

    @property
    def rewrites(self) -> list[RewriteRecord]:
        """All rewrites."""
        return [*self.requested, *self.inlined, *self.outcome.rewrites]

    @property
    def passes(self) -> list[PassRecord]:
        """The passes that have rewritten or refused something."""
        active = {rewrite.pass_name for rewrite in self.outcome.rewrites}
        active |= {refusal.pass_name for refusal in self.outcome.refusals}
        return [
            PassRecord(chosen.name, chosen.exactness.value, chosen.documentation)
            for chosen in self.chosen
            if chosen.name in active
        ]


@dataclass(frozen=True)
class Variants:
    """Makes variants of the model from `source`, and writes some into a scratch folder."""

    source: ModelSource
    passes: PassOptions
    scratch: Scratch = field(default_factory=Scratch, repr=False)
    providers: Sequence[str] = ()
    """Where the model is to run."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def unchanged(self) -> tuple[LoadedModel, list[RewriteRecord]]:
        """Return the model as passes receive it, and the changes of meaning made to it."""
        loaded = load(self.source)
        return loaded, change_meaning(loaded.ir, self.passes)

    def without(self, unwanted: Unwanted = lambda _: None, *, cut: bool = False) -> Variant:
        """Rewrite the model, except where `unwanted` returns a reason not to.

        `cut` keeps the window of each rewrite.

        Raises:
            ModelError: if the model cannot be read, is invalid or is not supported.
            PassFailedError: if a pass fails.
        """
        loaded, requested = self.unchanged()
        chosen = choose_passes(self.passes.only, self.passes.skip)
        inlined: list[RewriteRecord] = []
        kept: list[RefusalRecord] = []
        inlining: tuple[onnx.ModelProto, onnx.ModelProto] | None = None
        if loaded.ir.functions and not self.passes.keep_functions:
            calling = without_weights(loaded.ir) if cut else None
            inlined, kept = inline_functions(loaded.ir, chosen)
            if inlined and calling is not None:
                inlining = calling, without_weights(loaded.ir)
        if inlined:
            prepare(loaded.ir, loaded.source.name)
        slower = {each.name for each in chosen if {*each.slower_on} & {*self.providers}}
        slower -= {*self.passes.only}

        def refusal(site: Site) -> Refusal | None:
            return General.SLOWER_ON_PROVIDER if site[0] in slower else unwanted(site)

        cutter = Cutter(loaded.ir)
        watch = cutter.watch if cut else None
        self._warn_unless_kept(loaded.ir)
        try:
            outcome = run_passes(
                loaded.ir, chosen, self.passes.keep_pattern(), refusal, watch, TOOLS
            )
        except (ModelError, OSError, MemoryError):
            raise
        except Exception:
            require_valid_apart(loaded)  # an invalid model may be why the pass failed
            raise
        kept += outcome.refusals
        if not any(refusal.remedy == FREEZE for refusal in kept):
            kept += overridable_weights(loaded.ir)
        outcome = Outcome(outcome.rewrites, kept)
        plugins = installed(set(self.passes.skip)).plugins()
        return Variant(loaded, requested, inlined, outcome, chosen, plugins, cutter.cuts, inlining)

    def _warn_unless_kept(self, model: ir.Model) -> None:
        """Warn if no node is kept, though some were to be: the pattern may be mistyped."""
        pattern = self.passes.keep_pattern()
        nodes = (node for graph in all_graphs(model) for node in graph)
        if pattern is not None and not any(is_matched(pattern, node) for node in nodes):
            _log.warning("--keep-node %s matches no node", pattern.pattern)

    def write(self, model: LoadedModel) -> Path:
        """Write a model into a new subfolder of the scratch folder."""
        place = self.scratch.folder / f"variant_{next(self._numbers)}" / "model.onnx"
        place.parent.mkdir()
        with StagedModel(place) as staged:
            staged.write_model(model)
            staged.commit()
        return place

    def discard(self, place: Path) -> None:
        """Remove a model that `write` has written.

        Its space is free only when the model that reads weights from there is gone, too, and
        graphs are cyclic: without garbage collection, large variants could fill the disk.
        """
        shutil.rmtree(place.parent)
        gc.collect()
