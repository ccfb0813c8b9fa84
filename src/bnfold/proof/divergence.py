"""Finds where two models first diverge, whatever their values are called.

What is compared besides the outputs are values within both models that are meant to be the same
(`bnfold.proof.pairing`). From the outputs that differ, the graphs are followed back through values
that agree with none of the other model; where all that a node reads agrees, they diverge.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx.helper
from google.protobuf.message import EncodeError

from bnfold.arrays import Array
from bnfold.errors import ModelError, SessionError, parameter
from bnfold.modelfile.external import load_whole
from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import Progress
from bnfold.proof.cutting import reads
from bnfold.proof.equivalence import compare_models
from bnfold.proof.original import Original
from bnfold.proof.pairing import pairs
from bnfold.proof.tolerance import within_tolerance
from bnfold.proof.traits import Traits
from bnfold.proof.verdict import FEWEST_SAMPLES
from bnfold.record.data import Divergence, OutputComparison
from bnfold.running.input_search import make_inputs
from bnfold.running.inputs import UnsupportedInput
from bnfold.running.isolation import CrashedError, isolated
from bnfold.running.runtime import Level, Session
from bnfold.scratch import Scratch


def find_divergence(
    original: Path,
    other: Path,
    execution: ExecutionOptions,
    checking: CheckOptions,
    progress: Progress,
) -> Divergence | None:
    """Return the first value, in the order of the original's nodes, that the two compute otherwise.

    If all outputs agree, that is a value with one name in both. None if there is no such value
    either, or a model does not run.

    Raises:
        ModelError: if a model exceeds 2 GiB.
        ProviderError: if a provider is not available.
        UsageError: if the request for inputs does not fit the model.
    """
    progress("pairing the values within both models")
    with Scratch() as scratch:
        few = replace(execution.inputs, samples=min(execution.inputs.samples, FEWEST_SAMPLES))
        execution = replace(execution, providers=execution.providers[:1], inputs=few)
        search = _Search(
            _Graph.of(original), _Graph.of(other), execution, checking, progress, scratch
        )
        return search.result()


_Pair: TypeAlias = tuple[str, str]
"""The name of a value of the original, and of one of the other model."""


@dataclass
class _Graph:
    """The main graph of a model: what computes its values, and from what."""

    proto: onnx.ModelProto
    nodes: dict[str, onnx.NodeProto]
    """By the values that they compute, constants aside."""

    @staticmethod
    def of(path: Path) -> _Graph:
        proto = load_whole(path)
        nodes = {
            name: node
            for node in proto.graph.node
            if node.op_type != "Constant"
            for name in node.output
            if name
        }
        return _Graph(proto, nodes)

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self.proto.graph.output]

    def first_not_in(self, agreeing: Collection[str], differing: Sequence[str]) -> str | None:
        """Return the first value on the way to `differing` outputs whose node reads what agrees."""
        seen = set(differing)
        pending = list(differing)
        while pending:
            node = self.nodes.get(pending.pop())
            for name in reads(node) if node is not None else ():
                if name in self.nodes and name not in agreeing and name not in seen:
                    seen.add(name)
                    pending.append(name)
        return next(
            (
                name
                for name, node in self.nodes.items()
                if name in seen and seen.isdisjoint(reads(node))
            ),
            None,
        )


@dataclass
class _Search:
    original: _Graph
    other: _Graph
    execution: ExecutionOptions
    checking: CheckOptions
    progress: Progress
    scratch: Scratch

    def result(self) -> Divergence | None:
        whole = [
            self._expose(graph, {name: name for name in graph.nodes}, f"all-{number}")
            for number, graph in enumerate((self.original, self.other))
        ]
        try:
            paired = isolated(lambda _: self._paired(*whole), self.progress)
        except (CrashedError, SessionError, UnsupportedInput):
            return None
        compared = self._compare(paired)
        outputs = [name for name in self.original.outputs if _differs(compared.get((name, name)))]
        if not outputs:
            same = [(n, n) for n in self.original.nodes if _differs(compared.get((n, n)))]
            return self._divergence(same[0], compared, len(paired)) if same else None
        agreeing = [pair for pair in paired if pair in compared and not _differs(compared[pair])]
        constants = [Traits.of(path).constant for path in whole]
        value = self.original.first_not_in({n for n, _ in agreeing} | constants[0], outputs)
        place = self.other.first_not_in({n for _, n in agreeing} | constants[1], outputs)
        if value is None:
            return None
        if place is not None and (value, place) not in compared:
            compared = self._compare([(value, place)])
        return self._divergence((value, place), compared, len(paired))

    def _paired(self, original: Path, other: Path) -> list[_Pair]:
        """Run both once, each with all of its values as outputs, and pair these."""
        provider, threads = self.execution.providers[0], self.execution.threads
        traits = Traits.beside(original, other)
        whole = Original(original, traits, provider, self.execution, self.progress)
        session = whole.session(Level.DISABLED)
        feeds = next(make_inputs(session, self.execution.inputs, traits.hints).feeds())
        values = session.run(feeds)
        del session
        others = Session(other, provider, Level.DISABLED, threads).run(feeds)
        found = pairs(_arrays(values), _arrays(others))
        return [(one, two) for one, two in found if one in self.original.nodes]

    def _compare(self, paired: Sequence[_Pair]) -> dict[_Pair, OutputComparison]:
        """Compare the outputs, and values of the original with those that they are paired with."""
        fresh = {f"bnfold/pair {number}": pair for number, pair in enumerate(paired)}
        quick = replace(self.checking, truth="off", save_inputs=None)
        found = compare_models(
            self._expose(self.original, {name: one for name, (one, _) in fresh.items()}, "one"),
            self._expose(self.other, {name: two for name, (_, two) in fresh.items()}, "two"),
            self.execution,
            quick,
            self.progress,
            selections=False,
        )
        (provider,) = found.providers
        pairs = {**{name: (name, name) for name in self.original.outputs}, **fresh}
        return {pairs[each.name]: each for each in provider.outputs if each.name in pairs}

    def _divergence(
        self,
        pair: tuple[str, str | None],
        compared: Mapping[_Pair, OutputComparison],
        count: int,
    ) -> Divergence:
        value, place = pair
        node, output = self.original.nodes[value], compared.get((value, place or ""))
        return Divergence(
            value=value,
            op_type=node.op_type,
            node=node.name,
            compared=count,
            max_abs=output.max_abs if output is not None else None,
            worst=output.worst if output is not None else None,
            other_value=place or "",
            other_op_type=self.other.nodes[place].op_type if place is not None else "",
        )

    def _expose(self, graph: _Graph, names: Mapping[str, str], stem: str) -> Path:
        """Write the model with further outputs, each a copy of a value, by their names."""
        proto = onnx.ModelProto()
        proto.CopyFrom(graph.proto)
        described = {value.name: value.type for value in proto.graph.value_info}
        outputs = set(graph.outputs)
        for name, value in names.items():
            if name in outputs:
                continue
            exposed = proto.graph.output.add(name=name)
            if name != value:
                proto.graph.node.append(onnx.helper.make_node("Identity", [value], [name]))
            if value in described and described[value].HasField("tensor_type"):
                exposed.type.tensor_type.elem_type = described[value].tensor_type.elem_type
        path = self.scratch.folder / f"{stem}.onnx"
        try:
            path.write_bytes(proto.SerializeToString())
        except (ValueError, EncodeError) as error:
            message = (
                f"a model exceeds 2 GiB, so {parameter('outputs')} all cannot expose its values"
            )
            raise ModelError(message) from error
        return path


def _differs(output: OutputComparison | None) -> bool:
    return output is not None and not within_tolerance(output)


def _arrays(values: Mapping[str, object]) -> dict[str, Array]:
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
