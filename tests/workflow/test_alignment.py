"""Two models, from any tool, certified by the values that have one name in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

import bnfold
from bnfold.arrays import Array
from bnfold.progress import Progress, silent
from bnfold.record.data import Certificate, ModelCertificate
from bnfold.running.isolation import Forked
from bnfold.workflow import alignment, certifying
from bnfold.workflow.alignment import Alignment
from bnfold.workflow.certifying import Certifying
from tests.support.alignment import certified
from tests.support.cli import SAMPLES
from tests.support.graphs import Parameters, build
from tests.support.learning import learned
from tests.support.slow import few

GENERATOR = np.random.default_rng(0)
WEIGHTS = {
    "w": GENERATOR.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "b": GENERATOR.standard_normal(4).astype(np.float32),
    "s": GENERATOR.uniform(0.5, 2, 4).astype(np.float32),
    "t": GENERATOR.standard_normal(4).astype(np.float32),
    "m": GENERATOR.standard_normal(4).astype(np.float32),
    "v": GENERATOR.uniform(0.5, 2, 4).astype(np.float32),
}
HEAD = '<ir_version: 8, opset_import: ["" : 17, "x" : 1]> g (float[n,3,8,8] x) => '


IMAGE = "(float[n,4,8,8] y)"


def model(
    body: str, weights: Mapping[str, Array] | None = None, outputs: str = IMAGE
) -> onnx.ModelProto:
    """Return a model of this body, with the weights that it reads."""
    made = onnx.parser.parse_model(f"{HEAD}{outputs} {{ {body} }}")
    read = {name for node in made.graph.node for name in node.input}
    for name, content in {**WEIGHTS, **(weights or {})}.items():
        if name in read:
            made.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    return made


def folded(scale_error: float = 0.0) -> dict[str, Array]:
    """Return the weights of a Conv with its BatchNormalization folded in."""
    wide = {name: content.astype(np.float64) for name, content in WEIGHTS.items()}
    scale = wide["s"] / np.sqrt(wide["v"] + 1e-5) * (1 + scale_error)
    return {
        "w": (wide["w"] * scale[:, None, None, None]).astype(np.float32),
        "b": ((wide["b"] - wide["m"]) * scale + wide["t"]).astype(np.float32),
    }


CONV = "c = Conv<pads=[1,1,1,1]>(x,w,b)"
NORMAL = f"{CONV} d = BatchNormalization(c,s,t,m,v)"
FOLDED = "d = Conv<pads=[1,1,1,1]>(x,w,b)"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_is_certified_against_its_result(path: Path, tmp_path: Path) -> None:
    result = bnfold.optimize(path, check=False).to_proto()
    found = certified(onnx.load(path), result, tmp_path)
    assert not found.open
    assert found.values
    assert found.bound is None or found.bound < 3e-6


def test_a_model_is_certified_against_itself(tmp_path: Path) -> None:
    one = model(f"{NORMAL} y = Softmax(d)")
    found = certified(one, one, tmp_path)
    assert (found.values, found.bound, found.open) == (3, None, [])


@pytest.mark.parametrize("tail", ["y = Relu(d)", "y = Softmax(d)", "y = x.Own(d)"])
def test_what_follows_a_fold_alike_needs_no_proof(tail: str, tmp_path: Path) -> None:
    found = certified(model(f"{NORMAL} {tail}"), model(f"{FOLDED} {tail}", folded()), tmp_path)
    assert not found.open
    assert found.bound is not None
    assert found.bound < 3e-6


@pytest.mark.parametrize("error", [1e-4, -1e-3, 0.1])
def test_a_wrong_fold_is_not_certified(error: float, tmp_path: Path) -> None:
    wrong = model(f"{FOLDED} y = Relu(d)", folded(error))
    found = certified(model(f"{NORMAL} y = Relu(d)"), wrong, tmp_path)
    assert [each.output for each in found.open] == ["y"]
    assert "from some values of what is proven before it, the two compute" in found.open[0].reason


def test_a_name_may_change_its_meaning_within(tmp_path: Path) -> None:
    """The BatchNormalization is folded, and its result has the name of the Conv's."""
    other = model("c = Conv<pads=[1,1,1,1]>(x,w,b) y = Relu(c)", folded())
    found = certified(model(f"{NORMAL} y = Relu(d)"), other, tmp_path)
    assert not found.open


def renamed(made: onnx.ModelProto, name: Callable[[int], str]) -> onnx.ModelProto:
    """Return the model with other names for what its nodes compute, but its outputs."""
    outputs = {value.name for value in made.graph.output}
    inner = [each for node in made.graph.node for each in node.output if each not in outputs]
    names = {old: name(place) for place, old in enumerate(dict.fromkeys(inner))}
    for node in made.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(each, each) for each in values]
    del made.graph.value_info[:]
    return made


RENAMED = {
    "as numbers": lambda place: str(place),
    "as other numbers": lambda place: str(place + 1),
    "from the end": lambda place: str(1000 - place),
}


@pytest.mark.parametrize("way", few(RENAMED, ["from the end"]))
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_is_certified_whatever_its_values_are_called(
    path: Path, way: str, tmp_path: Path
) -> None:
    original = renamed(onnx.load(path), str)
    result = renamed(bnfold.optimize(path, check=False).to_proto(), RENAMED[way])
    found = certified(original, result, tmp_path)
    assert not found.open
    assert found.values


@pytest.mark.parametrize(
    ("name", "error"),
    [*zip(RENAMED.values(), [1e-4, -1e-3, 0.1], strict=True)],
    ids=list(RENAMED),
)
def test_a_wrong_fold_is_not_certified_under_other_names(
    name: Callable[[int], str], error: float, tmp_path: Path
) -> None:
    tail = "e = Relu(d) f = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(e) y = Sigmoid(f)"
    one = renamed(model(f"{NORMAL} {tail}"), str)
    right = renamed(model(f"{FOLDED} {tail}", folded()), name)
    assert not certified(one, right, tmp_path).open
    wrong = renamed(model(f"{FOLDED} {tail}", folded(error)), name)
    assert [each.output for each in certified(one, wrong, tmp_path).open] == ["y"]


def test_what_is_proven_under_another_name_is_one_value_on_both_sides(tmp_path: Path) -> None:
    """The same names stand for each other's values, and the last operator takes both."""
    body = "{} = Relu(x) {} = Sigmoid(x) {} = Concat<axis=1>(p, q) y = Conv<pads=[1,1,1,1]>(r, v)"
    weights = {"v": GENERATOR.standard_normal((4, 6, 3, 3)).astype(np.float32)}
    one = model(body.format("p", "q", "r"), weights)
    swapped = model(body.format("q", "p", "r"), weights)
    assert [each.output for each in certified(one, swapped, tmp_path).open] == ["y"]
    reordered = model(body.format("q", "p", "r").replace("(p, q)", "(q, p)"), weights)
    assert not certified(one, reordered, tmp_path).open


def test_exports_of_other_operator_sets_with_defaults_written_out_are_certified(
    tmp_path: Path,
) -> None:
    one = renamed(model(f"{NORMAL} r = Relu(d) y = MaxPool<kernel_shape=[1,1]>(r)"), str)
    other = renamed(
        model(f"{FOLDED} r = Relu(d) y = MaxPool<kernel_shape=[1,1], ceil_mode=0>(r)", folded()),
        RENAMED["from the end"],
    )
    other.opset_import[0].version = 20
    found = certified(one, other, tmp_path)
    assert not found.open
    assert found.values == 2


def test_a_pool_between_convolutions_keeps_their_windows_small(tmp_path: Path) -> None:
    """Two Convs and a MaxPool in one window would take long, and need not."""
    body = "e = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(d) y = Conv<pads=[1,1,1,1]>(e, k)"
    weights = {"k": GENERATOR.standard_normal((4, 4, 3, 3)).astype(np.float32)}
    one = renamed(model(f"{NORMAL} {body}", weights), str)
    other = renamed(model(f"{FOLDED} {body}", {**folded(), **weights}), lambda place: f"n{place}")
    found = certified(one, other, tmp_path)
    assert not found.open
    assert found.values >= 2


def test_an_output_is_not_proven_by_an_inner_value(tmp_path: Path) -> None:
    """What y is computed from is equal to the original's c; the output c is something else."""
    outputs = "(float[n,3,8,8] c, float[n,3,8,8] y)"
    one = model("c = Relu(x) y = Sigmoid(c)", outputs=outputs)
    other = model("d = Relu(x) c = Abs(x) y = Sigmoid(d)", outputs=outputs)
    assert "c" in [each.output for each in certified(one, other, tmp_path).open]


def test_values_behind_an_operator_of_another_domain_are_matched_by_structure(
    tmp_path: Path,
) -> None:
    other = model("q = x.Own(x) y = Conv<pads=[1,1,1,1]>(q,w,b)")
    found = certified(model("p = x.Own(x) y = Conv<pads=[1,1,1,1]>(p,w,b)"), other, tmp_path)
    assert not found.open
    wrong = model("q = x.Own<a=1>(x) y = Conv<pads=[1,1,1,1]>(q,w,b)")
    found = certified(model("p = x.Own(x) y = Conv<pads=[1,1,1,1]>(p,w,b)"), wrong, tmp_path)
    assert [each.output for each in found.open] == ["y"]


def test_the_same_operator_with_another_attribute_or_body_is_no_proof(tmp_path: Path) -> None:
    one, other = (model(f"{CONV} y = LeakyRelu<alpha={alpha}>(c)") for alpha in (0.1, 0.2))
    assert certified(one, other, tmp_path).open


@pytest.mark.parametrize("which", [0, 1])
def test_what_only_one_model_says_of_an_operator_is_no_proof(which: int, tmp_path: Path) -> None:
    one, other = (model("q = x.Own(x) y = Conv<pads=[1,1,1,1]>(q,w,b)") for _ in range(2))
    assert not certified(one, other, tmp_path).open
    body = onnx.helper.make_node("Neg", ["a"], ["b"])
    opset = [onnx.helper.make_opsetid("", 17)]
    own = onnx.helper.make_function("x", "Own", ["a"], ["b"], [body], opset)
    (one, other)[which].functions.append(own)
    assert [each.output for each in certified(one, other, tmp_path).open] == ["y"]


def test_of_two_outputs_one_may_be_open(tmp_path: Path) -> None:
    outputs = "(float[n,4,8,8] c, float[n,4,8,8] y)"
    one, other = (model(f"{CONV} y = {op}(c)", outputs=outputs) for op in ("Relu", "Abs"))
    assert [each.output for each in certified(one, other, tmp_path).open] == ["y"]


def test_where_no_run_decides_the_certificate_does(tmp_path: Path) -> None:
    tail = "r = RandomNormalLike(d) y = Add(d, r)"
    one, other = model(f"{NORMAL} {tail}"), model(f"{FOLDED} {tail}", folded())
    record = bnfold.check(one, other)
    assert record.equivalence is not None
    assert record.equivalence.verdict == "certified"
    off = bnfold.check(one, other, certify="off").equivalence
    assert off is not None
    assert (off.verdict, off.certificate) == ("not-verified", None)


def test_a_pass_may_be_asked_to_be_certified() -> None:
    """No proof knows Max of two values, though it is the same as Relu on all samples."""
    one = model(f"{CONV} y = Relu(c)")
    other = model(f"{CONV} z = Sub(c, c) y = Max(c, z)")
    auto = bnfold.check(one, other).equivalence
    assert auto is not None
    assert auto.verdict == "pass"
    assert auto.certificate is not None
    assert [each.output for each in auto.certificate.open] == ["y"]
    always = bnfold.check(one, other, certify="always").equivalence
    assert always is not None
    assert always.verdict == "not-verified"
    assert "'y' could not be certified" in always.reason


# --- While the models run -------------------------------------------------------------------------


def saved(folder: Path, one: onnx.ModelProto, other: onnx.ModelProto) -> tuple[Path, Path]:
    paths = folder / "one.onnx", folder / "other.onnx"
    for path, made in zip(paths, (one, other), strict=True):
        onnx.save(made, path)
    return paths


@pytest.mark.parametrize("at_once", [True, False])
def test_large_models_are_proven_only_when_they_have_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    paths = saved(
        tmp_path, one=model(NORMAL + " y = Relu(d)"), other=model(NORMAL + " y = Relu(d)")
    )
    read = {name for node in model(NORMAL).graph.node for name in node.input} & set(WEIGHTS)
    both = 2 * sum(WEIGHTS[name].nbytes for name in read)
    monkeypatch.setattr(certifying, "_MOST_BYTES_AT_ONCE", both + at_once)
    begun: list[object] = []

    def begin(work: Callable[[Progress], ModelCertificate]) -> Forked[ModelCertificate]:
        begun.append(work)
        return Forked(work)

    monkeypatch.setattr(certifying, "Forked", begin)
    with Certifying(*paths, 30) as under_way:
        assert len(begun) == at_once
        found = under_way.result(silent)
    assert found is not None
    assert not found.open


def test_an_unreadable_model_is_not_certified(tmp_path: Path) -> None:
    path, broken = saved(tmp_path, *[model(NORMAL + " y = Relu(d)")] * 2)
    broken.write_bytes(b"no model")
    with Certifying(path, broken, 30) as under_way:
        assert under_way.result(silent) is None


def test_models_that_differ_are_not_proven_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned: list[object] = []

    class Watched(Forked[object]):
        def abandon(self) -> None:
            abandoned.append(self)
            super().abandon()

        def result(self, progress: object) -> object:
            raise AssertionError

    monkeypatch.setattr(certifying, "Forked", Watched)
    one = model(NORMAL + " y = Relu(d)")
    paths = saved(tmp_path, one=one, other=model(NORMAL + " y = Neg(d)"))
    found = bnfold.check(*paths).equivalence
    assert found is not None
    assert found.verdict == "fail"
    assert found.certificate is None
    assert abandoned


def test_what_fails_while_it_is_learned_is_told_by_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise RecursionError

    monkeypatch.setattr(certifying, "learned", fail)
    paths = saved(tmp_path, *[model(NORMAL + " y = Relu(d)")] * 2)
    with Certifying(*paths, 30) as under_way, pytest.raises(RecursionError):
        under_way.result(silent)


def chain(names: str) -> ir.Model:
    """Return a model of several operators, one after another, whose results have these names."""
    operators = ("Neg", "Abs", "Exp", "Sqrt", "Tanh", "Sin", "Cos", "Erf")[-len(names) :]
    lines, last = [], "x"
    for operator, name in zip(operators, names, strict=True):
        lines.append(f"{name} = {operator}({last})")
        last = name
    text = f"(float[N,3] x) => (float[N,3] {names[-1]}) {{ {' '.join(lines)} }}"
    return ir.from_proto(build(text))


@pytest.mark.parametrize(
    ("slow", "tried"),
    [
        ({}, "aa bb cc dd ee ff gg yy ab ba"),
        # after a quarter of the time by structure, then by names again
        ({"aa": 3}, "aa ab ba cc dd ee ff gg yy bb"),
        # after half of it by names again
        ({"aa": 3, "ab": 3}, "aa ab bb cc dd ee ff gg yy"),
        ({"aa": 3, "ab": 3, "bb": 5}, "aa ab bb"),
        # what takes all the time that there is for one, and more, is not tried again
        ({"cc": 5}, "aa bb cc ab ba dd ee ff gg yy"),
    ],
)
def test_a_way_is_left_if_it_loses_time(
    monkeypatch: pytest.MonkeyPatch, slow: dict[str, int], tried: str
) -> None:
    """Of two models, the names of the first two values are exchanged."""
    clock = [0.0]
    order: list[str] = []

    def certify(_: Alignment, value: ir.Value, twin: ir.Value, seconds: float) -> Certificate:
        pair = f"{value.name}{twin.name}"
        order.append(pair)
        clock[0] += slow.get(pair, 0)
        return Certificate("open")

    monkeypatch.setattr(alignment, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Alignment, "_certify", certify)
    Alignment.of(chain("abcdefgy"), chain("bacdefgy")).certificate(10, silent)
    assert " ".join(order) == tried


def test_a_value_of_another_shape_is_left_at_once() -> None:
    """As of a tool that keeps the names of what it computes of matrices."""
    weights: Parameters = {
        "w": np.ones((5, 4), np.float32),
        "rows": np.array([-1, 5]),
        "back": np.array([2, 3, 4]),
    }
    interface = "(float[2,3,5] x) => (float[2,3,4] y)"
    one = build(f"{interface} {{ h = MatMul(x, w) y = Erf(h) }}", w=weights["w"])
    other = build(
        f"{interface} {{ r = Reshape(x, rows) h = MatMul(r, w) g = Erf(h) y = Reshape(g, back) }}",
        **weights,
    )
    pair = Alignment.of(learned(one), learned(other))
    value, twin = (
        next(node.outputs[0] for node in model.graph if node.op_type == "MatMul")
        for model in (side.model for side in pair._sides)
    )
    found = pair._certify(value, twin, 5)
    assert (found.verdict, found.note) == ("open", "it has another shape there")
    assert not pair.certificate(30, silent).open
