"""Certificates decide what no run of a model can, and name a wrong rewrite wherever it hides."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bnfold
from bnfold.errors import BnfoldError, NotEquivalentError, NotVerifiedError
from bnfold.options import CheckOptions
from bnfold.record.data import Record
from bnfold.rewriting.contract import Exactness, Op, Operand, Pass, Replace, Weight
from tests.support.cli import SAMPLES
from tests.support.graphs import Array, Parameters, batch_norm, build, normal
from tests.support.slow import in_turn

Make = Callable[[ir.Node], Op]


def planted(make: Make) -> AbstractContextManager[object]:
    """Run only a pass that replaces the operator whose output is named ``here``."""

    def function(node: ir.Node) -> Replace | None:
        if node.outputs[0].name != "here" or "done" in node.metadata_props:
            return None
        node.metadata_props["done"] = "yes"  # the new one inherits it
        return Replace([node], {node.outputs[0]: make(node)})

    types = (
        "Add",
        "AveragePool",
        "Conv",
        "MaxPool",
        "Mul",
        "Relu",
        "Slice",
        "Softmax",
        "Transpose",
    )
    wrong = Pass("planted", types, Exactness.ROUNDED, (), function, "Wrong.")
    return mock.patch("bnfold.workflow.variants.choose_passes", return_value=[wrong])


def again(
    node: ir.Node, weight: Callable[[Array], Array] | None = None, **attributes: list[int] | int
) -> Op:
    """Return the node with its weight, the second operand, or attributes changed."""
    inputs: list[Operand] = list(node.inputs)
    if weight is not None:
        value = node.inputs[1]
        assert value is not None
        tensor = ir.convenience.get_const_tensor(value)
        assert tensor is not None
        inputs[1] = Weight(weight(tensor.numpy().copy()), tensor.dtype, "changed")
    kept = {
        **node.attributes,
        **{
            name: ir.AttrInt64(name, content)
            if isinstance(content, int)
            else ir.AttrInt64s(name, content)
            for name, content in attributes.items()
        },
    }
    return Op(node.op_type, inputs, list(kept.values()), node)


def negated(array: Array) -> Array:
    return -array


def one_weight(array: Array) -> Array:
    array.flat[array.size // 2] += np.linalg.norm(array) * 1e-3
    return array


def flipped(array: Array) -> Array:
    return np.ascontiguousarray(array[..., ::-1])


def swapped(array: Array) -> Array:
    return array[[1, 0, *range(2, len(array))]]


BODY: dict[str, str] = {
    "conv": "here = Conv<pads=[1,1,1,1]>(x, w)",
    "pool": "here = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "mean": "here = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
    "scale": "here = Mul(x, g)",
    "shift": "here = Add(x, g)",
    "slice": "here = Slice(x, a, b, c)",
    "turn": "here = Transpose<perm=[0,1,3,2]>(x)",
}
WRONG: dict[str, tuple[str, Make]] = {
    "sign": ("conv", lambda node: again(node, negated)),
    "one weight": ("conv", lambda node: again(node, one_weight)),
    "flipped": ("conv", lambda node: again(node, flipped)),
    "swapped": ("conv", lambda node: again(node, swapped)),
    "all by 1e-5": ("conv", lambda node: again(node, lambda array: array * np.float32(1 + 1e-5))),
    "pads": ("conv", lambda node: again(node, pads=[2, 1, 0, 1])),
    "kernel": ("pool", lambda node: again(node, kernel_shape=[3, 1], pads=[1, 0, 1, 0])),
    "border": ("mean", lambda node: again(node, count_include_pad=1)),
    "a mean": (
        "mean",
        lambda node: Op("MaxPool", node.inputs, list(node.attributes.values()), node),
    ),
    "scale": ("scale", lambda node: again(node, negated)),
    "shift": ("shift", lambda node: again(node, swapped)),
    "operator": ("shift", lambda node: Op("Sub", node.inputs, like=node)),
    "turn": ("turn", lambda node: Op("Identity", node.inputs, like=node)),
    "start": ("slice", lambda node: again(node, lambda array: array + 1)),
}
WEIGHTS: Parameters = {
    "w": normal(4, 4, 3, 3),
    "g": normal(4, 1, 1),
    "a": np.array([0]),
    "b": np.array([6]),
    "c": np.array([2]),
    "far": np.array(-1e4, np.float32),
    "one": np.float32(np.diag([1, 0, 0, 0]).reshape(4, 4, 1, 1)),
    "high": np.array([1e6, 0, 0, 0], np.float32).reshape(4, 1, 1),
}
HIDING: dict[str, str] = {
    "nothing": "y = Identity(here)",
    "a dead Relu": "d = Add(here, far) r = Relu(d) y = Add(r, here0)",
    "a saturated Softmax": "d = Add(here, high) y = Softmax<axis=1>(d)",
}


def hidden(body: str, hiding: str) -> onnx.ModelProto:
    tail = HIDING[hiding].replace("here0", "h0")
    same = "" if "h0" not in tail else BODY[body].replace("here", "h0")
    return build(
        f"(float[N,4,6,6] x) => (float[N,c,h,w] y) {{ {BODY[body]} {same} {tail} }}", **WEIGHTS
    )


def test_what_takes_the_name_of_an_output_keeps_its_own_sizes() -> None:
    """In operator set 8, onnx does not know the size that a start before the axis leaves."""
    model = build(
        "(float[N,M] x) => (float[N,1,M] z) { y = Unsqueeze<axes=[1]>(x) r = Relu(y) "
        "z = Slice<axes=[1], starts=[-2], ends=[1]>(r) }",
        opset=8,
    )
    (rewrite,) = bnfold.optimize(model).record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "certified"


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_rewrite_is_named_wherever_it_hides(case: str, hiding: str) -> None:
    body, make = WRONG[case]
    model = hidden(body, hiding)
    with planted(make), pytest.raises(NotEquivalentError, match="planted at 'here'") as raised:
        bnfold.optimize(model)
    record = raised.value.record
    assert record is not None
    assert record.equivalence is not None
    (culprit,) = record.equivalence.culprits
    assert (culprit.pass_name, culprit.site, culprit.output) == ("planted", "here", "here")
    (rewrite,) = record.rewrites
    assert rewrite.certificate is not None
    assert rewrite.certificate.verdict == "differs"


@pytest.mark.parametrize(
    ("case", "hiding"), [("sign", "a dead Relu"), ("one weight", "a saturated Softmax")]
)
def test_the_check_end_to_end_does_not_find_it(case: str, hiding: str) -> None:
    body, make = WRONG[case]
    with planted(make):
        try:
            record: Record | None = bnfold.optimize(hidden(body, hiding), certify="off").record
        except BnfoldError as error:
            record = error.record
    assert record is not None
    assert record.equivalence is not None
    assert record.equivalence.verdict != "fail"


def test_a_branch_that_is_not_taken_does_not_hide_it() -> None:
    model = build(
        "(float[N,4] x) => (float[N,4] y) { s = ReduceMax<keepdims=0>(x) c = Greater(s, big) "
        "here = Relu(x) n = Neg(x) y = If(c) <then_branch = one () => (float[N,4] p) "
        "{ p = Identity(here) }, else_branch = two () => (float[N,4] q) { q = Identity(n) }> }",
        big=np.array(1e9, np.float32),
    )

    def make(node: ir.Node) -> Op:
        return Op("Abs", node.inputs, like=node)

    with planted(make):
        assert bnfold.optimize(model, certify="off").record.rewrites
        with pytest.raises(NotEquivalentError, match="planted at 'here'"):
            bnfold.optimize(model)


# --- Where no run decides -------------------------------------------------------------------------

CONV = "c = Conv(x, w) n = BatchNormalization(c, s, b, m, v)"
FOLDED: Parameters = {"w": normal(4, 3, 3, 3), **batch_norm(4)}


def random_output() -> onnx.ModelProto:
    body = f"{CONV} r = RandomNormalLike(n) y = Add(n, r)"
    text = f"(float[N,3,8,8] x) => (float[N,4,6,6] y) {{ {body} }}"
    return build(text, **FOLDED)


def suppressed() -> onnx.ModelProto:
    text = (
        f"(float[1,3,8,8] x) => (int64[K,3] y) {{ {CONV} f = Reshape(n, to) "
        "t = Slice(f, st, en, ax) r = Slice(f, en, e2, ax) u = ReduceMean<axes=[1]>(r) "
        "l = Reshape(u, one) o = Reshape(t, four) y = NonMaxSuppression(o, l, most, iou, score) }"
    )
    return build(
        text,
        **FOLDED,
        to=np.array([36, 4]),
        st=np.array([0]),
        en=np.array([18]),
        e2=np.array([36]),
        ax=np.array([0]),
        one=np.array([1, 1, 18]),
        four=np.array([1, 18, 4]),
        most=np.array([5]),
        iou=np.array([0.5], np.float32),
        score=np.array([1e9], np.float32),
    )


def foreign() -> onnx.ModelProto:
    model = build(f"(float[N,3,8,8] x) => (float[N,4,6,6] n) {{ {CONV} }}", **FOLDED)
    model.graph.node.append(onnx.helper.make_node("Magic", ["n"], ["y"], domain="acme"))
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    model.graph.output[0].name = "y"
    return model


def stuck() -> onnx.ModelProto:
    text = f"(float[N,3,8,8] x) => (float[N,4,6,6] y) {{ {CONV} d = Add(n, far) y = Relu(d) }}"
    return build(text, **FOLDED, far=np.array(-1e9, np.float32))


UNDECIDED = {
    "a custom operator": foreign,
    "random numbers": random_output,
    "an output that stays 0": stuck,
}


def test_boxes_that_are_all_suppressed_are_compared_before() -> None:
    record = bnfold.optimize(suppressed(), certify="off").record
    assert record.equivalence is not None
    assert record.equivalence.verdict == "pass"
    selection = record.equivalence.providers[0].selection
    assert selection is not None
    assert selection.operators == ["NonMaxSuppression"]


@pytest.mark.parametrize("case", UNDECIDED)
def test_certificates_decide_what_no_run_can(case: str, tmp_path: Path) -> None:
    model = UNDECIDED[case]()
    output = tmp_path / "out.onnx"
    record = bnfold.optimize(model, output).record
    assert record.equivalence is not None
    assert (record.equivalence.verdict, bool(record.equivalence.reason)) == ("certified", True)
    assert record.rewrites
    assert output.exists()


@pytest.mark.parametrize("case", UNDECIDED)
def test_a_pass_may_be_required(case: str, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    with pytest.raises(NotVerifiedError, match="but require pass asks"):
        bnfold.optimize(UNDECIDED[case](), output, checking=CheckOptions(require="pass"))
    assert not output.exists()


@pytest.mark.parametrize("case", UNDECIDED)
def test_without_certificates_nothing_is_decided(case: str) -> None:
    with pytest.raises(NotVerifiedError) as raised:
        bnfold.optimize(UNDECIDED[case](), certify="off")
    assert raised.value.record is not None
    assert all(rewrite.certificate is None for rewrite in raised.value.record.rewrites)


def test_a_certificate_that_is_asked_for_is_needed() -> None:
    model = build("(float[N,4,6,6] x) => (float[N,4,6,6] y) { here = Relu(x) y = Neg(here) }")

    def make(node: ir.Node) -> Op:
        big = [ir.AttrFloat32("alpha", 0.0)]
        return Op("LeakyRelu", [Op("Mul", [node.inputs[0], node.inputs[0]])], big, node)

    def right(node: ir.Node) -> Op:
        half = Weight(np.full(1, 0.5, np.float32), ir.DataType.FLOAT, "half")
        both = Op("Add", [Op("Abs", node.inputs), *node.inputs])
        return Op(
            "Where",
            [Op("Less", [*node.inputs, half]), Op("Mul", [both, half]), Op("Mul", [both, half])],
            like=node,
        )

    with planted(make), pytest.raises(NotEquivalentError):
        bnfold.optimize(model)
    with planted(right):
        record = bnfold.optimize(model).record
        assert record.rewrites[0].certificate is not None
        assert record.rewrites[0].certificate.verdict == "sampled"
        with pytest.raises(NotVerifiedError, match="1 of 1 rewrites could not be certified"):
            bnfold.optimize(model, certify="always")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_rewrite_of_the_samples_is_certified(path: Path) -> None:
    record = bnfold.optimize(path, certify="always").record
    assert bool(record.rewrites) == (path.stem != "training_mode")
    for rewrite in record.rewrites:
        assert rewrite.certificate is not None
        assert rewrite.certificate.verdict == "certified"


SIZES = ["e = Shape<end=1,start=0>(w)", "s = Shape<end=1,start=0>(w) e = Expand(s, one)"]


@pytest.mark.parametrize(
    ("cast", "size"),
    in_turn(
        [
            "k = CastLike(c, x)",
            "k = CastLike(c, w)",
            "t = CastLike(c, x) k = Neg(t)",
            "t = CastLike(c, x) k = CastLike(t, x)",
            "t = Abs(x) k = CastLike(c, t)",
            "k = Cast<to=1>(c)",
        ],
        SIZES,
    ),
)
def test_a_constant_of_the_type_of_something_is_no_input(cast: str, size: str) -> None:
    """As torch's exporter writes the bias that a Conv lacks: it is of the type of the Conv's input.

    Taken for an input of what is certified, it could be anything, and would differ.
    """
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] z) { c = Constant<value=float {0.5}>() "
        f"one = Constant<value_ints=[1]>() {size} {cast} bias = Expand(k, e) "
        "y = Conv(x, w, bias) z = BatchNormalization(y, s0, b0, m0, v0) }",
        opset=20,
        w=normal(4, 3, 3, 3),
        **{f"{name}0": content for name, content in batch_norm(4).items()},
    )
    record = bnfold.optimize(model).record
    assert record.equivalence is not None
    assert (record.equivalence.verdict, record.equivalence.reason) == ("pass", "")
    certificates = [rewrite.certificate for rewrite in record.rewrites]
    assert [each.verdict for each in certificates if each] == ["certified"] * len(certificates)
    assert record.output is not None
    assert set(record.output.ops) == {"Conv"}
