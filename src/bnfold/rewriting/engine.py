"""Runs passes over a model until none applies, and records what each did or refused."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.errors import BnfoldError, PassFailedError
from bnfold.graph.facts import Tools, learn
from bnfold.graph.memory import Memory, remembering
from bnfold.graph.walk import all_graphs
from bnfold.record.data import ExactnessName, RefusalRecord, RewriteRecord
from bnfold.rewriting.contract import (
    ANY,
    General,
    Pass,
    Refusal,
    Refused,
    Replace,
    Stage,
    Weight,
    every_operand,
)
from bnfold.rewriting.editor import Edit, Editor
from bnfold.rewriting.query import is_op
from bnfold.rewriting.sites import local_site, sites, sketch

Site: TypeAlias = tuple[str, str]
"""The name of a pass, and the site of its rewrite."""


Unwanted: TypeAlias = Callable[[Site], Refusal | None]
"""Returns a reason not to make a rewrite, or None."""


Watch: TypeAlias = Callable[[Replace], Callable[[Edit], None]]
"""Sees each replacement before it is made; what it returns sees what has become of the graph."""


MOST_SKETCHES = 100
"""Maximum number of sketched rewrites per pass: enough to show what is typical."""


EXPLAINED = ("BatchNormalization", "Dropout")
"""The operators of which every node appears in the record, rewritten or refused."""


@dataclass(frozen=True)
class Outcome:
    """What a run rewrote, in the order of the rewrites, and what it refused, in graph order.

    What late passes refused comes last.
    """

    rewrites: list[RewriteRecord]
    refusals: list[RefusalRecord]


def run_passes(
    model: ir.Model,
    passes: Sequence[Pass],
    keep_node: re.Pattern[str] | None = None,
    without: Unwanted = lambda _: None,
    watch: Watch | None = None,
    tools: Tools | None = None,
) -> Outcome:
    """Rewrite `model` in place, to a fixpoint.

    Nodes whose name, or first output's name, matches `keep_node` are not changed, and rewrites for
    which `without` returns a reason are not made. `watch` is called once for each rewrite. `tools`
    infer shapes and evaluate constants.

    Raises:
        PassFailedError: if a pass raises anything but a refusal, or never stops rewriting.
    """
    run = _Run(model, passes, keep_node, without, watch, tools or Tools())
    with np.errstate(all="ignore"):  # values that are not finite are refused when stored
        return run.to_fixpoint()


def is_matched(pattern: re.Pattern[str], node: ir.Node) -> bool:
    """Say whether a pattern matches the name of a node, or of its first output."""
    names = (node.name, node.outputs[0].name if node.outputs else None)
    return any(name and pattern.search(name) for name in names)


class _Run:
    def __init__(
        self,
        model: ir.Model,
        passes: Sequence[Pass],
        keep_node: re.Pattern[str] | None,
        without: Unwanted,
        watch: Watch | None,
        tools: Tools,
    ) -> None:
        self._model = model
        self._tools = tools
        self._without = without
        self._watch = watch
        self._editor = Editor(model)
        self._keep_node = keep_node
        roots = {root for pass_ in passes for root in pass_.roots}
        self._passes_by_root = {
            root: [pass_ for pass_ in passes if {root, ANY} & {*pass_.roots}] for root in roots
        }
        self._passes_for_all = self._passes_by_root.get(ANY, [])
        self._stage = Stage.FIRST
        self._are_all_last = all(pass_.stage is Stage.LAST for pass_ in passes)
        self._gone: set[ir.Node] = set()
        self._rewrites: list[RewriteRecord] = []
        self._sketched: Counter[str] = Counter()
        self._sites = sites(model)
        node_count = sum(len(graph) for graph in all_graphs(model))
        self._most_rewrites = 1000 + 20 * node_count

    def to_fixpoint(self) -> Outcome:
        """Sweep over all roots until a sweep changes nothing; its refusals are the final ones.

        Before each, learn shapes and constants anew, because rewrites make more of them known. A
        later stage has a sweep of its own when those before it have changed nothing.
        """
        while True:
            learn(self._model, self._tools)
            before = len(self._rewrites)
            refusals = self._sweep(Stage.FIRST)
            if len(self._rewrites) == before:
                refusals += self._sweep(Stage.LATE)
            if len(self._rewrites) == before:
                if self._rewrites or self._are_all_last:
                    refusals += self._sweep(Stage.LAST)
                if self._rewrites:
                    self._editor.drop_unused_initializers(self._model)
                return Outcome(self._rewrites, refusals)

    def _sweep(self, stage: Stage) -> list[RefusalRecord]:
        self._stage = stage
        with remembering() as memory:
            return self._swept(memory)

    def _swept(self, memory: Memory) -> list[RefusalRecord]:
        refusals = []
        pending = deque(self._roots_of(node for graph in all_graphs(self._model) for node in graph))
        waiting = set(pending)
        while pending:
            node = pending.popleft()
            waiting.discard(node)
            for pass_ in self._passes_of(node):
                if node.graph is None or node in self._gone:  # also with the body that it was in
                    break
                try:
                    replace = self._try(pass_, node)
                    around = self._apply(pass_, node, replace) if replace is not None else []
                except Refused as refused:
                    refusals.append(self._refusal_record(pass_, node, refused))
                    continue
                except (BnfoldError, OSError, MemoryError):
                    raise
                except Exception as error:
                    raise PassFailedError(
                        f"the pass {pass_.title} failed at {self._site(node)!r} with {error!r}; "
                        f"pass --skip {pass_.name} to leave it out"
                    ) from error
                if replace is not None:
                    memory.forget(around)
                    memory.forget(value for other in around for value in other.outputs)
                    again = [root for root in self._roots_of(around) if root not in waiting]
                    pending.extend(again)
                    waiting.update(again)
        return refusals

    def _passes_of(self, node: ir.Node) -> list[Pass]:
        if node.domain != "":
            return []
        passes = self._passes_by_root.get(node.op_type, self._passes_for_all)
        return [pass_ for pass_ in passes if pass_.stage is self._stage]

    def _roots_of(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        return [node for node in nodes if self._passes_of(node)]

    def _try(self, pass_: Pass, node: ir.Node) -> Replace | None:
        replace = pass_(node)
        if replace is not None:
            unwanted = self._without((pass_.name, self._site(node)))
            if unwanted is not None:
                raise Refused(unwanted)
            for touched in replace.nodes:
                if self._is_kept(touched):
                    raise Refused(General.KEPT_BY_REQUEST, touched)
        return replace

    def _is_kept(self, node: ir.Node) -> bool:
        return self._keep_node is not None and is_matched(self._keep_node, node)

    def _apply(self, pass_: Pass, root: ir.Node, replace: Replace) -> list[ir.Node]:
        """Make the replacement; return the new nodes and their neighbours."""
        if len(self._rewrites) >= self._most_rewrites:
            raise PassFailedError(
                f"the pass {pass_.title} keeps rewriting without end, last at "
                f"{self._site(root)!r}; pass --skip {pass_.name} to leave it out"
            )
        site, nodes = self._site(root), [self._site(node) for node in replace.nodes]
        exactness: ExactnessName = (replace.exactness or pass_.exactness).value
        detail = _with_flushed(replace)
        is_drawn = self._sketched[pass_.name] < MOST_SKETCHES
        self._sketched[pass_.name] += is_drawn
        before = sketch(replace.nodes) if is_drawn else []
        watched = self._watch(replace) if self._watch is not None else None
        edit = self._editor.apply(replace)
        self._gone.update(edit.removed)
        if watched is not None:
            watched(edit)
        for node, predecessor in edit.created.items():
            continued = self._site(predecessor) if predecessor is not None else None
            self._sites[node] = continued or f"{site}/{node.op_type}"
        gone = {
            self._site(node): node.op_type
            for node in edit.removed
            if is_op(node, *EXPLAINED) and node not in {root, *edit.created.values()}
        }
        self._rewrites.append(
            RewriteRecord(
                pass_name=pass_.name,
                site=site,
                op_type=root.op_type,
                nodes=nodes,
                exactness=exactness,
                detail=detail,
                gone=gone,
                before=before,
                after=sketch(edit.created) if is_drawn else [],
            )
        )
        readers = [reader for node in edit.created for reader in node.outputs[0].consumers()]
        read = [value for node in edit.created for value in node.inputs if value is not None]
        sources = [source for value in read if (source := value.producer()) is not None]
        return list(dict.fromkeys([*edit.created, *readers, *sources]))

    def _site(self, node: ir.Node) -> str:
        return self._sites.get(node) or local_site(node)

    def _refusal_record(self, pass_: Pass, node: ir.Node, refused: Refused) -> RefusalRecord:
        also = refused.also
        return RefusalRecord(
            pass_name=pass_.name,
            site=self._site(node),
            op_type=node.op_type,
            reason=refused.reason.name,
            message=_message(refused),
            remedy=refused.reason.remedy or (also.reason.remedy if also is not None else ""),
            in_the_way=self._in_the_way(refused, node),
            also_reason=also.reason.name if also is not None else "",
            also_message=_message(also) if also is not None else "",
            also_in_the_way=self._in_the_way(also, node) if also is not None else "",
        )

    def _in_the_way(self, refused: Refused, root: ir.Node) -> str:
        subject = refused.subject
        is_other = subject is not None and subject is not root
        return f"{subject.op_type} {self._site(subject)}" if subject and is_other else ""


def _message(refused: Refused) -> str:
    return refused.reason.message + (f" ({refused.detail})" if refused.detail else "")


def _with_flushed(replace: Replace) -> str:
    flushed = sum(weight.flushed for weight in _weights(replace))
    note = f"{flushed} subnormal weights set to zero" if flushed else ""
    return "; ".join(text for text in (replace.detail, note) if text)


def _weights(replace: Replace) -> list[Weight]:
    operands = every_operand(replace.outputs.values())
    return [operand for operand in operands if isinstance(operand, Weight)]
