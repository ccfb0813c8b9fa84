"""Evaluates models in float64 with onnx's reference evaluator, practically without rounding.

Every float is widened: inputs, weights, constants, and the outputs of Cast and random operators.
Nodes are evaluated one by one, so that a value is kept only until its last consumer has run, a
weight is widened only for its consumer, and the time can be limited. What is small is kept for the
next inputs: certificates evaluate small models on many.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bnfold.arrays import Array
from bnfold.errors import BnfoldError
from bnfold.graph.constants import bytes_of_initializers
from bnfold.graph.walk import has_body
from bnfold.modelfile.external import data_folders
from bnfold.modelfile.loading import ModelSource
from bnfold.modelfile.markers import Markers
from bnfold.proof.float64.max_pool_tap import MaxPoolTap
from bnfold.proof.float64.operators import OPERATORS
from bnfold.proof.float64.recurrent import RECURRENT
from bnfold.proof.float64.widening import (
    Contents,
    widened,
    widened_content,
    widened_function,
    widened_node,
)
from bnfold.proof.learned import learned
from bnfold.proof.outputs import flat
from bnfold.running.isolation import is_forked
from bnfold.running.runtime import Feeds

_TOO_LONG = "it takes too long; --truth always waits for it"
_KEPT_BYTES = 2**16
"""The size up to which a widened weight, or a node with its attributes, is kept."""

_Evaluate = Callable[[Sequence[Any]], Any]
"""Computes the outputs of a node from the distinct values that it reads."""

_OPERATORS: list[type[OpRun]] = [*OPERATORS, *RECURRENT, MaxPoolTap]


class NoTruth(Exception):  # noqa: N818 - an answer, not an error
    """The model cannot be evaluated in float64; the message is the reason."""


class Truth64:
    """A model that can be evaluated in float64.

    Raises:
        NoTruth: if it cannot be read.
    """

    def __init__(self, source: ModelSource) -> None:
        try:
            loaded = learned(source)
        except BnfoldError as error:
            raise NoTruth(str(error)) from error
        folders = data_folders(loaded.path) if loaded.path is not None else []
        self._set(loaded.ir, Contents(loaded.markers, folders))

    @classmethod
    def of_part(cls, model: onnx.ModelProto) -> Truth64:
        """Return the evaluation of a part of a model that has been loaded, without its checks."""
        truth = cls.__new__(cls)
        truth._set(ir.from_proto(model), Contents(Markers(), []))
        return truth

    def _set(self, model: ir.Model, contents: Contents) -> None:
        self._model, self._contents = model, contents
        self._opsets = dict(model.opset_imports)
        self._functions = self._evaluators()
        self._reads = {node: _reads(node) for node in model.graph}
        self._ready: dict[ir.Node, _Evaluate] = {}
        self._weights: dict[str, Array] = {}

    def _evaluators(self) -> list[ReferenceEvaluator]:
        """Return evaluators of the functions, each after those that it calls."""
        evaluators: list[ReferenceEvaluator] = []
        pending = [
            widened_function(ir.serde.serialize_function(function), self._contents)
            for function in self._model.functions.values()
        ]
        while pending:
            waiting: list[tuple[onnx.FunctionProto, Exception]] = []
            for proto in pending:
                try:
                    evaluator = ReferenceEvaluator(
                        proto, functions=list(evaluators), new_ops=_OPERATORS
                    )
                except Exception as error:  # it calls one that is not ready yet, or missing
                    waiting.append((proto, error))
                else:
                    evaluators.append(evaluator)
            if len(waiting) == len(pending):
                first, reason = waiting[0]
                raise NoTruth(f"onnx cannot evaluate the function {first.name}: {reason}")
            pending = [proto for proto, _ in waiting]
        return evaluators

    @property
    def bytes(self) -> int:
        """The size of its weights, as stored."""
        return bytes_of_initializers(self._model.graph)

    def outputs(
        self,
        feeds: Feeds,
        end: float = math.inf,
        before_each: Callable[[], None] = lambda: None,
    ) -> dict[str, Array]:
        """Return all outputs by name, as `flat` does; give up at `end`, by `time.monotonic`.

        `before_each` is called before each node, and may raise an exception of its own.

        Raises:
            NoTruth: if it takes longer, or an operator is missing or fails.
        """
        with _time_limit(end):
            return self._outputs(feeds, end, before_each)

    def _outputs(
        self, feeds: Feeds, end: float, before_each: Callable[[], None]
    ) -> dict[str, Array]:
        values: dict[str, Any] = {name: widened(content) for name, content in feeds.items()}
        readers = Counter(name for names in self._reads.values() for name in names)
        wanted = [value.name or "" for value in self._model.graph.outputs]
        readers.update(wanted)
        for node in self._model.graph:
            if time.monotonic() > end:
                raise NoTruth(_TOO_LONG)
            before_each()
            names = self._reads[node]
            results = self._evaluate(node, {name: self._value(name, values) for name in names})
            values |= results
            for name in names:
                readers[name] -= 1
                if not readers[name]:
                    values.pop(name, None)
        return flat({name: self._value(name, values) for name in wanted})

    def _value(self, name: str, values: dict[str, Any]) -> Any:
        if name in values:
            return values[name]
        if name in self._weights:
            return self._weights[name]
        initializer = self._model.graph.initializers.get(name)
        if initializer is None or initializer.const_value is None:
            raise NoTruth(f"{name!r} has no known value")
        content = widened_content(initializer.const_value)
        if content.nbytes <= _KEPT_BYTES:
            content.flags.writeable = False
            self._weights[name] = content
        return content

    def _evaluate(self, node: ir.Node, inputs: dict[str, Any]) -> dict[str, Any]:
        evaluate = self._ready.get(node) or self._evaluator(node, list(inputs))
        with _failure_is_no_truth(node):
            results = evaluate(list(inputs.values()))
        names = [output.name for output in node.outputs if output.name]
        return {name: widened(value) for name, value in zip(names, results, strict=True)}

    def _evaluator(self, node: ir.Node, inputs: Sequence[str]) -> _Evaluate:
        """Return what evaluates a node, which is kept unless it holds much."""
        proto = widened_node(ir.serde.serialize_node(node), self._contents)
        is_small = proto.ByteSize() <= _KEPT_BYTES
        with _failure_is_no_truth(node):
            if is_small and not self._functions and not has_body(node):
                names = _number_names(proto, inputs)
                content = proto.SerializeToString(deterministic=True)
                evaluate = _shared_operator(content, len(names), tuple(self._opsets.items()))
            else:
                evaluator = _evaluator_of(proto, inputs, self._opsets, self._functions)
                evaluate = partial(_run, evaluator, inputs)
        if is_small:
            self._ready[node] = evaluate
        return evaluate


def _number_names(node: onnx.NodeProto, inputs: Sequence[str]) -> list[str]:
    """Name what a node reads and computes by numbers, so that equal operators are equal bytes."""
    numbers = {name: str(number) for number, name in enumerate(inputs)} | {"": ""}
    node.input[:] = [numbers[name] for name in node.input]
    node.output[:] = [name and f"r{number}" for number, name in enumerate(node.output)]
    for field in ("name", "doc_string", "metadata_props"):
        node.ClearField(field)
    return [numbers[name] for name in inputs]


@lru_cache(maxsize=256)
def _shared_operator(content: bytes, inputs: int, opsets: Sequence[tuple[str, int]]) -> _Evaluate:
    """Return what evaluates an operator with its attributes, which many nodes of a model share.

    The operator runs by itself: what the evaluator does around it takes as long on a small value.
    """
    node = onnx.NodeProto.FromString(content)
    names = [str(number) for number in range(inputs)]
    (operator,) = _evaluator_of(node, names, dict(opsets), []).rt_nodes_
    read = [int(name) if name else None for name in node.input]
    made = [at for at, name in enumerate(node.output) if name]

    def evaluate(contents: Sequence[Any]) -> Any:
        results = operator.run(*(None if at is None else contents[at] for at in read))
        return [results[at] for at in made]

    return evaluate


def _run(evaluator: ReferenceEvaluator, inputs: Sequence[str], contents: Sequence[Any]) -> Any:
    """Return what an evaluator makes of its inputs."""
    return evaluator.run(None, dict(zip(inputs, contents, strict=True)))


def _evaluator_of(
    node: onnx.NodeProto,
    inputs: Iterable[str],
    opsets: dict[str, int],
    functions: Sequence[ReferenceEvaluator],
) -> ReferenceEvaluator:
    described = onnx.helper.make_empty_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "node",
        [described(name) for name in inputs],
        [described(name) for name in node.output if name],
    )
    return ReferenceEvaluator(graph, opsets=opsets, functions=list(functions), new_ops=_OPERATORS)


@contextmanager
def _failure_is_no_truth(node: ir.Node) -> Iterator[None]:
    """Raise `NoTruth` for whatever the evaluator, or one of its operators, raises at a node."""
    try:
        with np.errstate(all="ignore"):
            yield
    except NoTruth:
        raise
    except Exception as error:
        site = f"{node.op_type} {node.name or node.outputs[0].name}"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise NoTruth(f"onnx cannot evaluate {site} in float64: {reason[:200]}") from error


@contextmanager
def _time_limit(end: float) -> Iterator[None]:
    """Raise `NoTruth` at `end`, even within a node if the system has alarms.

    Alarms belong to the process: they are set only in one that bnfold has forked, and the time is
    checked between nodes elsewhere. What an alarm strikes may make another exception of it.
    """
    if end == math.inf or not is_forked():
        yield
        return
    is_over = threading.Event()

    def give_up(*_: object) -> None:
        is_over.set()
        raise NoTruth(_TOO_LONG)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, end - time.monotonic()))
    try:
        yield
    except Exception:
        if is_over.is_set():
            raise NoTruth(_TOO_LONG) from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _reads(node: ir.Node) -> list[str]:
    """Return the distinct values of its graph that a node reads, also in its bodies."""
    names = {value.name: None for value in node.inputs if value is not None}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            names |= dict.fromkeys(_captured(attribute.as_graph()))
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                names |= dict.fromkeys(_captured(body))
    return [name for name in names if name is not None]


def _captured(body: ir.Graph) -> Iterator[str]:
    """Yield the outer names that a body reads. Inner names never shadow outer ones."""
    graphs = [body, *body.subgraphs()]
    own: set[ir.Value] = set()
    for graph in graphs:
        own.update(graph.inputs, graph.initializers.values())
        own.update(output for node in graph for output in node.outputs)
    for graph in graphs:
        read = [value for node in graph for value in node.inputs if value is not None]
        for value in [*read, *graph.outputs]:
            if value not in own and value.name is not None:
                yield value.name
