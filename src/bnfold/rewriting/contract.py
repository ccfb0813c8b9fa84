"""The contract of a pass: how it is declared, and what it returns.

A pass is a pure function from a root node to one of three things:

- ``None``: not its pattern, nothing to report;
- a raised `Refused`: its pattern, but not allowed here. Always reported, with a named reason;
- a `Replace`: the values to compute differently, as expressions. Only the engine edits the graph.

Passes use this module, `bnfold.rewriting.query`, `bnfold.algebra`, `bnfold.graph`, `onnx_ir` and
`numpy`, and nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from bnfold.arrays import Array as Array
from bnfold.graph.constants import constant as constant
from bnfold.graph.constants import is_overridable as is_overridable


class Exactness(enum.Enum):
    """How exactly a rewrite preserves the result."""

    BITWISE = "bitwise"
    """Equal bits for every input without NaN, except for the sign of zeros."""
    ROUNDED = "rounded"
    """Equal in the reals; each new weight is rounded once, or a kernel rounds differently."""
    SEMANTIC = "semantic"
    """Changes the meaning, on request."""


FREEZE = "pass --freeze-initializers if no caller does"
"""The remedy where a caller may override a weight."""


class Refusal(enum.Enum):
    """Base of a pass's reasons to refuse: ``NAME = message`` or ``NAME = message, remedy``.

    The message completes "kept, because …"; the remedy says how to enable the rewrite.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy


class General(Refusal):
    """Reasons that any pass may give without declaring them."""

    KEPT_BY_REQUEST = "--keep-node matches it", "drop --keep-node"
    SLOWER_ON_PROVIDER = (
        "models were measured to be slower with it on a provider that is asked for",
        "name the pass with --only to make it all the same",
    )
    SLOWER_HERE = "--tune measured that the model is faster without this rewrite", "drop --tune"
    NOT_EQUIVALENT = "the check failed with this rewrite (--drop-culprit)", "report it as a bug"
    UNDER_SUSPICION = "left out in the search for the rewrite that makes the check fail"
    ATTRIBUTE_BY_REFERENCE = (
        "an attribute is a parameter of the enclosing function, so its value is not known here",
        "inline the function before optimizing",
    )


class Common(Refusal):
    """Reasons that several passes share."""

    CROPPED = "the Resize fills in values from outside its input"
    INDICES_USED = "the Indices of the MaxPool are used"
    NO_GAIN = "the rewritten operators would cost at least as much as these"
    PADDED_BY_SIZE = (
        "the padding of an operator depends on the size of its input (auto_pad)",
        "export the model with fixed spatial sizes",
    )
    PADDING_ONLY_WINDOW = (
        "a window of the pool may hold only padding",
        "export the model with fixed spatial sizes",
    )
    PARAMETER_NOT_CONSTANT = "a parameter of the operator is computed at run time"
    SHAPE_UNKNOWN = (
        "a shape that the rewrite depends on is not known",
        "export the model with inputs of fixed sizes",
    )
    SHARED = "the result of an operator that would change is also used elsewhere"
    TRAINING_MODE = (
        "it runs in training mode, where its result depends on the batch or is random",
        "export the model after model.eval(), or pass --force-inference",
    )
    WEIGHT_NOT_CONSTANT = "a weight of the operator next to it is computed at run time"
    WEIGHT_OVERRIDABLE = (
        "a caller may override a weight of the operator next to it (an initializer that is also a "
        "graph input)",
        FREEZE,
    )


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """Raised by a pass: the pattern is there, but the rewrite is not allowed.

    `subject` is the node that prevents it, if it is not the root itself.
    """

    def __init__(self, reason: Refusal, subject: ir.Node | None = None, detail: str = "") -> None:
        super().__init__(reason.message)
        self.reason = reason
        self.subject = subject
        self.detail = detail
        self.also: Refused | None = None

    def and_also(self, other: Refused) -> Refused:
        """Return this refusal, with that of a second attempt attached."""
        self.also = other
        return self


def require(
    condition: bool, reason: Refusal, subject: ir.Node | None = None, detail: str = ""
) -> None:
    """Raise `Refused` with `reason` unless `condition` holds."""
    if not condition:
        raise Refused(reason, subject, detail)


@dataclass(frozen=True, eq=False)
class Weight:
    """A new constant tensor, named after `stem`. The engine gives it a fresh name."""

    array: Array
    dtype: ir.DataType
    stem: str
    flushed: int = 0
    """How many values were subnormal in `dtype` and became zero."""

    @staticmethod
    def of_integers(numbers: int | Sequence[int], stem: str) -> Weight:
        """Return a number, or a vector of them, as operators read axes, sizes and positions."""
        return Weight(np.array(numbers, np.int64), ir.DataType.INT64, stem)


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of the model that becomes an initializer as it is, unread, named after `stem`."""

    tensor: ir.TensorProtocol
    stem: str


@dataclass(frozen=True, eq=False)
class Op:
    """A node to be created, as an expression over values, weights and other nodes to be created.

    As an operand, it is the first output of the node, which has as many as `outputs` says.
    `like` is the node whose name, documentation and metadata the new one inherits.
    `shape` is that of its output, as far as known, and `type_of` a value of the same type. A node
    that computes a value of `Replace.outputs` takes both from that value, and needs none here.
    """

    op_type: str
    inputs: Sequence[Operand]
    attributes: Sequence[ir.Attr] = ()
    like: ir.Node | None = None
    shape: ir.Shape | None = None
    type_of: ir.Value | None = None
    outputs: int = 1


@dataclass(frozen=True)
class Output:
    """Another output than the first of a node to be created, of the shape and type of a value.

    One that takes the place of a value in `Replace.outputs` takes both from that, and needs none.
    """

    op: Op
    index: int
    like: ir.Value | None = None


Operand: TypeAlias = ir.Value | Weight | Stored | Op | Output | None


def every_operand(operands: Iterable[Operand]) -> Iterator[ir.Value | Weight | Stored | Op]:
    """Yield all values, weights and nodes to be created that expressions consist of, each once."""
    pending, seen = list(operands), set()
    while pending:
        operand = pending.pop()
        operand = operand.op if isinstance(operand, Output) else operand
        if operand is None or operand in seen:
            continue
        seen.add(operand)
        yield operand
        if isinstance(operand, Op):
            pending += operand.inputs


@dataclass(frozen=True, eq=False)
class Replace:
    """The outcome of a pass: compute the values in `outputs` by these expressions instead.

    `nodes` are the nodes of the pattern, in graph order. Those that are no longer used
    are removed, with everything that only they used.
    """

    nodes: Sequence[ir.Node]
    outputs: Mapping[ir.Value, ir.Value | Op | Output | Weight | Stored]
    detail: str = ""
    exactness: Exactness | None = None
    """The exactness of this rewrite, if it differs from that of the pass."""
    hoisted: ir.Graph | None = None
    """A body of the first node, which leaves its nodes and initializers to the graph outside."""


def attributes_with(node: ir.Node, attribute: ir.Attr) -> list[ir.Attr]:
    """Return the attributes of `node`, with another one of its name."""
    others = [each for each in node.attributes.values() if each.name != attribute.name]
    return [*others, attribute]


def same_op(
    node: ir.Node,
    inputs: Sequence[Operand],
    *,
    shape: ir.Shape | None = None,
    type_of: ir.Value | None = None,
) -> Op:
    """Return a copy of `node` with other inputs."""
    attributes = tuple(node.attributes.values())
    return Op(node.op_type, inputs, attributes, node, shape, type_of)


ANY = "*"
"""As a root: any operator of the default domain."""


class Stage(enum.IntEnum):
    """When a pass rewrites."""

    FIRST = 0
    LATE = 1
    """When no pass of the first stage applies, because its results hide what those look for."""
    LAST = 2
    """When the others are done, if they have changed anything: it only stores the model anew."""


PassFunction: TypeAlias = Callable[[ir.Node], Replace | None]


@dataclass(frozen=True)
class Pass:
    """A declared pass. `documentation` is its module's docstring: the identity and conditions."""

    name: str
    roots: tuple[str, ...]
    exactness: Exactness
    refusals: tuple[Refusal, ...]
    function: PassFunction = field(repr=False)
    documentation: str = field(repr=False)
    origin: str = ""
    """The package that offers it, with its version; empty for bnfold's own."""
    slower_on: tuple[str, ...] = ()
    """The providers where models were measured to be slower with its rewrites."""
    stage: Stage = Stage.FIRST

    @property
    def title(self) -> str:
        """The name, and the package of a pass that is not bnfold's own."""
        return f"{self.name} of {self.origin}" if self.origin else self.name

    def __call__(self, node: ir.Node) -> Replace | None:
        return self.function(node)

    def to_dict(self) -> dict[str, Any]:
        """Return the declaration of the pass as plain data."""
        return {
            "name": self.name,
            "roots": list(self.roots),
            "exactness": self.exactness.value,
            "documentation": self.documentation,
            "slower_on": list(self.slower_on),
            "refusals": [
                {"reason": reason.name, "message": reason.message, "remedy": reason.remedy}
                for reason in self.refusals
            ],
        }


def rewrite(
    name: str,
    *,
    roots: Sequence[str],
    exactness: Exactness,
    refusals: Iterable[Refusal],
    slower_on: Sequence[str] = (),
    stage: Stage = Stage.FIRST,
) -> Callable[[PassFunction], Pass]:
    """Declare the decorated function as the pass `name`, for each node of a type in `roots`.

    `refusals` are all reasons that it may raise, except `General` ones; their names are distinct.
    Where models are to run on a provider in `slower_on`, it rewrites only if it is asked for.
    The docstring of its module must state the identity: ``bnfold passes NAME`` prints it.
    """

    def declare(function: PassFunction) -> Pass:
        import inspect

        documentation = inspect.getdoc(inspect.getmodule(function)) or ""
        return Pass(
            name,
            tuple(roots),
            exactness,
            tuple(refusals),
            function,
            documentation,
            slower_on=tuple(slower_on),
            stage=stage,
        )

    return declare
