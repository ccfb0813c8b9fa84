"""How runs are compared and which samples decide; what a crash means; how noise is drawn."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.arrays import Array
from bnfold.errors import SessionError
from bnfold.options import CheckOptions
from bnfold.progress import EVALUATING
from bnfold.proof.noise import Noise
from bnfold.proof.original import Original
from bnfold.proof.rescue import is_rescued
from bnfold.proof.runs import ProviderComparison
from bnfold.proof.tolerance import within_tolerance
from bnfold.proof.traits import Traits
from bnfold.proof.truth_slices import Evaluation, Sample
from bnfold.record.data import ProviderEquivalence
from bnfold.running.runtime import Feeds, Level, Session
from tests.support.checks import compared_on_cpu
from tests.support.graphs import batch_norm, build, normal

# --- Comparisons of made-up results ---------------------------------------------------------------


def comparison(
    references: Sequence[Array],
    best: Sequence[Array] | None = None,
    unsettled: Sequence[int] = (),
    ordered: bool = False,
    **asked: Any,
) -> ProviderComparison:
    """Return the comparison with an original whose one output is known."""
    traits = Traits(ordered=frozenset(["y"] if ordered else []))
    settled = [sample for sample in range(len(references)) if sample not in unsettled]
    original = SimpleNamespace(
        references=[{"y": values} for values in references],
        best=[{"y": values} for values in best or references],
        names=["y"],
        traits=traits,
        draws=[],
        noise={"y": Noise(references)},
        unit=lambda _: "float32",
        settled=lambda _: settled,
    )
    return ProviderComparison(cast(Original, original), Path(), CheckOptions(**asked))


def results(*values: Array) -> list[dict[str, Any]]:
    return [{"y": each} for each in values]


ONE, OTHER = normal(20, 30), normal(20, 30, seed=1)


@pytest.mark.parametrize(
    ("plain", "best", "verdicts", "against"),
    [
        (ONE, ONE, ["pass", "pass"], "disabled"),
        (ONE, 2 * ONE, ["pass", "pass"], "all"),
        (2 * ONE, 2 * ONE, ["fail", "pass"], "all"),
        (ONE, 3 * ONE, ["pass", "fail"], "disabled"),
    ],
)
def test_with_optimizations_the_optimized_original_counts_too(
    plain: Array, best: Array, verdicts: list[str], against: str
) -> None:
    found = comparison([ONE], [2 * ONE]).judge.levels(results(plain), results(best))
    assert [level.level for level in found] == ["disabled", "all"]
    assert [level.verdict for level in found] == verdicts
    assert found[0].against == "disabled"
    assert found[1].against == against


def test_only_settled_samples_are_compared_and_counted() -> None:
    wrong = results(ONE, 2 * ONE)
    for unsettled, passes in (([], False), ([0], False), ([1], True)):
        (found,) = comparison([ONE, ONE], unsettled=unsettled).judge.compare(wrong)
        assert within_tolerance(found) is passes
        assert found.samples == 2 - len(unsettled)
    assert comparison([ONE, ONE], unsettled=[0, 1]).judge.compare(wrong) == []


def test_rows_of_unsettled_samples_are_not_matched() -> None:
    row = np.arange(20, dtype=np.float32)
    ties = np.repeat(row[:10], 2) + np.tile(np.array([0, 1e-6], np.float32), 10)
    turned = ties.reshape(10, 2)[:, ::-1].reshape(20)
    for unsettled in ([], [1]):
        subject = comparison([ties, ties], unsettled=unsettled, ordered=True)
        given = results(ties, turned)
        found, _ = subject.judge.in_order(given, subject.original.references)
        assert len(found) == 2
        if unsettled:
            assert np.array_equal(found[1]["y"], turned)


def test_rows_in_float64_are_brought_into_the_order_of_the_originals_type() -> None:
    """Those of the original whatever their order, those of the other model where scores tie."""
    row = np.arange(10, dtype=np.float32) + 1
    ties = np.repeat(row, 2) * np.tile(np.array([1, 1 + 1e-6], np.float32), 10)
    labels = np.arange(20)
    subject = comparison([ties, ties], unsettled=[0], ordered=True)
    original = cast(Any, subject.original)
    original.names, original.traits.ordered = ["y", "z"], frozenset(["y", "z"])
    original.references[0]["z"] = original.references[1]["z"] = labels
    original.noise["z"] = Noise([labels, labels])
    turned = np.arange(20).reshape(10, 2)[:, ::-1].reshape(20)
    backwards = np.arange(20)[::-1]
    for order, of_truth, is_tie in (
        (turned, labels, True),
        (backwards, labels, False),
        (turned, backwards, True),
    ):
        wide = ties.astype(np.float64)
        sample = Sample(
            {}, {"y": ties, "z": labels}, {"y": ties[order], "z": labels[order]}, {}, number=0
        )
        given = Evaluation(
            sample,
            {"y": wide[of_truth], "z": labels[of_truth]},
            {"y": wide[order], "z": labels[order]},
        )
        found = subject.judge.in_the_originals_order(given)
        assert np.array_equal(found.truth["y"], wide)
        assert np.array_equal(found.truth["z"], labels)
        for values in (found.exact, found.sample.optimized):
            assert np.array_equal(values["z"], labels) is is_tie


def evaluation(number: int) -> Evaluation:
    sample = Sample(
        feeds={},
        original={"y": ONE},
        optimized={"y": ONE},
        noise={"y": np.zeros(ONE.shape)},
        number=number,
    )
    truth = ONE.astype(np.float64) * (1 + 1e-3)
    return Evaluation(sample, {"y": truth}, {"y": truth})


@pytest.mark.parametrize(
    ("numbers", "unsettled", "options", "rescued"),
    [
        ([0, 1], [], {}, True),
        ([1, 0], [], {}, True),
        ([0], [], {}, False),
        ([], [], {}, False),
        ([0], [1], {}, True),
        ([1], [1], {}, False),
        ([0, 1], [], {"atol": 1e-6}, False),
        ([0, 1], [], {"rtol": 1e-6}, True),
    ],
)
def test_float64_decides_where_it_was_evaluated_on_all_settled_samples(
    numbers: list[int], unsettled: list[int], options: dict[str, Any], rescued: bool
) -> None:
    """The original is off the truth by a thousandth, and the other model by as much."""
    subject = comparison([ONE, ONE], unsettled=unsettled, **options)
    near = results(ONE * np.float32(1.002), ONE * np.float32(1.002))
    (output,) = subject.judge.compare(near)
    assert not within_tolerance(output)
    known = [evaluation(number) for number in numbers]
    found = is_rescued(subject.judge, output, near, subject.original.references, known)
    assert found is rescued


def test_float64_does_not_rescue_what_is_further_off() -> None:
    subject = comparison([ONE])
    for factor, rescued in ((1.002, True), (1.02, False)):
        other = results(ONE * np.float32(factor))
        (output,) = subject.judge.compare(other)
        known = [evaluation(0)]
        found = is_rescued(subject.judge, output, other, subject.original.references, known)
        assert found is rescued
    poisoned = ONE.copy()
    poisoned[3, 3] = np.inf
    (output,) = subject.judge.compare(results(poisoned))
    assert not is_rescued(
        subject.judge, output, results(poisoned), subject.original.references, [evaluation(0)]
    )


# --- Draws ----------------------------------------------------------------------------------------

CONV = (
    "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
    "{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"
)
WEIGHTS: dict[str, Any] = batch_norm(4) | {"w": normal(4, 3, 3, 3)}


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.doc_string = "another file"
    return other


@pytest.mark.parametrize(("steps", "most"), [("", 7), ("Round", 9)])
def test_draws_are_taken_only_before_a_model_fails(steps: str, most: int) -> None:
    """With optimizations; then six that are moved, and two more by wider moves past a step."""
    text = CONV.replace("y =", "n =").replace(" }", f" y = {steps or 'Neg'}(n) }}")
    model = build(text, **WEIGHTS)
    assert compared_on_cpu(model, copy(model)).draws == 1
    wrong = build(text, **WEIGHTS | {"w": 2 * WEIGHTS["w"]})
    assert compared_on_cpu(model, wrong).draws == most


def sines(factor: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the sine of so many times x twice, with the factor multiplied in one step and two."""
    text = "(float[N,64] x) => (float[N,64] y) { k = Mul(x, factor) y = Sin(k) }"
    twice = text.replace("k = Mul(x, factor)", "t = Mul(x, three) k = Mul(t, factor)")
    one = build(text, factor=np.full(1, factor, np.float32))
    third, three = (np.full(1, each, np.float32) for each in (factor / 3, 3))
    return one, build(twice, factor=third, three=three)


def test_no_more_draws_are_taken_than_it_takes() -> None:
    """The other order of the factors is off by more than the tolerance, as two draws are."""
    found = compared_on_cpu(*sines(300))
    assert (found.verdict, found.draws) == ("pass", 3)


def test_inputs_alone_are_moved_where_moved_weights_do_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Original.session

    def exact(self: Original, level: Level, weights: Feeds | None = None) -> Session:
        if weights:
            raise SessionError("a scale of a Resize that no size fits")
        return session(self, level, weights)

    monkeypatch.setattr(Original, "session", exact)
    one, two = (build(CONV, **WEIGHTS | {"w": factor * WEIGHTS["w"]}) for factor in (1, 2))
    assert compared_on_cpu(one, two).draws == 7


def test_more_samples_that_do_not_run_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a chaotic model are not settled, which only draws show: so there are more."""
    run_again = Original._run_again

    def fails(self: Original, session: Session) -> None:
        if self.references:
            raise SessionError("out of memory")
        run_again(self, session)

    monkeypatch.setattr(Original, "_run_again", fails)
    found = compared_on_cpu(*sines(3e7))
    assert (found.verdict, found.reason) == ("not-verified", "out of memory")


@pytest.mark.parametrize(
    ("kind", "end"),
    [("float", "Identity"), ("double", "Cast<to=11>"), ("double", "CastLike")],
)
@pytest.mark.parametrize("factor", [1.0, 1 + 6e-5])
def test_float64_is_compared_whatever_type_an_output_is_written_in(
    kind: str, end: str, factor: float
) -> None:
    """It rounds as what it is computed in does: less than the tolerances is still a difference."""
    like = ", zero" if end == "CastLike" else ""
    text = (
        f"(float[N,8] x) => ({kind}[N,4] y) "
        f"{{ p = MatMul(x, a) q = Tanh(p) r = MatMul(q, b) y = {end}(r{like}) }}"
    )
    one, two, zero = normal(8, 16), normal(16, 4, seed=1), np.zeros(1)
    changed = one.copy()
    changed[:, 3] *= np.float32(factor)
    original, other = (build(text, opset=15, a=a, b=two, zero=zero) for a in (one, changed))
    found = compared_on_cpu(original, other)
    assert found.truth is not None
    assert found.truth.outputs
    assert found.verdict == ("pass" if factor == 1 else "fail")


def test_more_samples_take_the_same_draws(tmp_path: Path) -> None:
    found = drawn(tmp_path, build("(float[N,3] x) => (float[N,3] y) { y = Exp(x) }"))
    draws = len(found.draws)
    assert found.add_samples()
    assert len(found.references) == 32
    assert [len(draw) for draw in found.draws] == [32] * draws
    assert not found.add_samples()


def test_samples_on_which_it_does_not_run_are_not_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = drawn(tmp_path, build("(float[N,3] x) => (float[N,3] y) { y = Exp(x) }"))
    found.unsettled[0, "y"] = 0.5
    before = {name: value for name, value in vars(found).items() if name != "unsettled"}
    run = Session.run
    runs = 0

    def fails_late(self: Session, feeds: Feeds) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        if runs > 32 + 7:  # with onnxruntime's optimizations
            raise SessionError("an index out of range")
        return run(self, feeds)

    monkeypatch.setattr(Session, "run", fails_late)
    assert not found.add_samples()
    assert runs == 40
    assert {name: value for name, value in vars(found).items() if name != "unsettled"} == before
    assert found.unsettled == {(0, "y"): 0.5}


def test_no_more_samples_than_there_is_time_for(tmp_path: Path) -> None:
    found = drawn(tmp_path, build("(float[N,3] x) => (float[N,3] y) { y = Exp(x) }"))
    found._seconds = 0.25 / 5.5
    assert found.add_samples()
    assert len(found.references) == 5


def test_given_inputs_are_all_that_there_is(tmp_path: Path) -> None:
    model = build("(float[2,3] x) => (float[2,3] y) { y = Exp(x) }")
    found = drawn(tmp_path, model, arrays={"x": normal(2, 3)})
    assert not found.add_samples()


def drawn(tmp_path: Path, model: onnx.ModelProto, **inputs: Any) -> Original:
    """Return an original that has run, with its draws."""
    onnx.save(model, tmp_path / "m.onnx")
    path = tmp_path / "m.onnx"
    execution = bnfold.ExecutionOptions(inputs=bnfold.InputOptions(**inputs))
    found = Original(path, Traits.of(path), "cpu", execution, lambda _: None)
    found.run()
    assert found.draw()
    return found


def test_each_draw_differs_and_weights_count(tmp_path: Path) -> None:
    """The inputs are given as zeros, which do not move: only weights make a difference."""
    model = build(
        "(float[1,4] x) => (float[1,4] y) { z = Mul(x, zero) y = Add(z, w) }",
        zero=np.zeros(1, np.float32),
        w=normal(1, 4),
    )
    found = drawn(tmp_path, model)
    off = [np.abs(draw[0]["y"] - found.references[0]["y"]).max() for draw in found.draws]
    assert off[0] == 0  # optimizations
    assert off[1] == 0  # moved inputs alone
    assert 0 < off[2] < 1e-6  # moved weights
    assert found.draw()
    assert len({draw[0]["y"].tobytes() for draw in found.draws[2:]}) > 3  # of 16


def test_draws_move_by_the_coarsest_unit(tmp_path: Path) -> None:
    """The input is rounded to float16 at once: its last float32 bits are not seen."""
    text = (
        "(float[4,50] x) => (float[4,50] y, float[4,50] z) "
        "{ h = Cast<to=10>(x) c = Cast<to=1>(h) y = Exp(c) z = Neg(x) }"
    )
    found = drawn(tmp_path, build(text))
    share = found.noise["z"].share(0)
    assert 2**-11 < share < 2**-9
    assert found.noise["y"].share(0) > 1e-4


def runs_to_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: onnx.ModelProto, samples: int
) -> list[Feeds]:
    """Return on which inputs the original runs without onnxruntime's optimizations."""
    seen: list[Feeds] = []
    run = Session.run

    def counted(self: Session, feeds: Feeds) -> dict[str, Any]:
        seen.append(feeds)
        return run(self, feeds)

    onnx.save(model, tmp_path / "m.onnx")
    path = tmp_path / "m.onnx"
    execution = bnfold.ExecutionOptions(inputs=bnfold.InputOptions(samples=samples))
    original = Original(path, Traits.of(path), "cpu", execution, lambda _: None)
    with monkeypatch.context() as patched:
        patched.setattr(Session, "run", counted)
        original._run_first()
    return seen


def test_the_run_that_finds_inputs_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is one of the two that show whether a model repeats itself."""
    model = build("(float[4,50] x) => (float[4,50] y) { y = Exp(x) }")
    seen = runs_to_begin(monkeypatch, tmp_path, model, samples=3)
    assert len(seen) == 4
    assert np.array_equal(seen[0]["x"], seen[1]["x"])


def test_a_first_run_on_other_inputs_is_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last one that is tried has negative integers, which the first sample has not."""
    model = build("(int64[4,50] x) => (int64[4,50] y) { y = Neg(x) }")
    tried, negative, once, *samples = runs_to_begin(monkeypatch, tmp_path, model, samples=2)
    assert negative["x"].min() < 0
    assert np.array_equal(tried["x"], once["x"])
    assert len(samples) == 2


def test_a_slow_first_run_is_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bnfold.proof.first_run.SLOW", 0.0)
    model = build("(float[4,50] x) => (float[4,50] y) { y = Exp(x) }")
    assert len(runs_to_begin(monkeypatch, tmp_path, model, samples=3)) == 2 + 3


def test_a_slow_first_run_does_not_say_how_long_a_run_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There would be time for few samples only."""
    run, slow = Session.run, [0.2]

    def first_is_slow(self: Session, feeds: Feeds) -> dict[str, Any]:
        time.sleep(slow.pop() if slow else 0)
        return run(self, feeds)

    monkeypatch.setattr(Session, "run", first_is_slow)
    found = drawn(tmp_path, build("(float[4,50] x) => (float[4,50] y) { y = Exp(x) }"))
    assert 0 < found._seconds < 0.1


# --- Crashes --------------------------------------------------------------------------------------


def abort() -> None:
    faulthandler.disable()
    os.abort()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("during", "end", "verdict"),
    [
        ("running the optimized model (optimization all)", abort, "fail"),
        ("loading the optimized model (cpu, optimization all)", abort, "fail"),
        ("running the optimized model (optimization all)", kill, "not-verified"),
        ("running the original", abort, "not-verified"),
        ("starting", abort, "not-verified"),
    ],
)
def test_a_crash_is_a_verdict(during: str, end: Callable[[], None], verdict: str) -> None:
    """Of the other model if it crashed, unless for lack of memory; else nothing is known."""

    def crash(self: ProviderComparison) -> ProviderEquivalence:
        if during != "starting":
            self.original.progress(during)
        end()
        raise AssertionError

    model = build(CONV, **WEIGHTS)
    with mock.patch.object(ProviderComparison, "result", crash):
        found = compared_on_cpu(model, copy(model))
    assert found.verdict == verdict
    assert found.reason.endswith(during)


@pytest.mark.parametrize(
    ("truth", "verdict"), [("auto", "pass"), ("always", "not-verified"), ("off", "pass")]
)
def test_a_float64_evaluation_that_takes_too_much_memory_is_left_out(
    truth: str, verdict: str
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        kill()

    model = build(CONV, **WEIGHTS)
    with mock.patch("bnfold.proof.runs.compare_with_truth", crash):
        found = compared_on_cpu(model, copy(model), truth=truth)
    assert found.verdict == verdict
    assert found.truth is None
    assert (EVALUATING in found.reason) is (verdict != "pass")


# --- What a graph says of its outputs -------------------------------------------------------------


def traits(folder: Path, text: str, **weights: Any) -> Traits:
    onnx.save(build(text, **weights), folder / "m.onnx")
    return Traits.of(folder / "m.onnx")


def test_what_depends_on_sizes_alone_is_constant(tmp_path: Path) -> None:
    text = (
        "(float[N,4] x) => (int64[2] a, int64 b, float[N,4] c, float[4] d, float[N,4] e) "
        "{ a = Shape(x) b = Size(x) c = ConstantOfShape(a) d = Identity(w) e = Add(x, c) "
        "}"
    )
    found = traits(tmp_path, text, w=normal(4))
    assert found.constant == {"a", "b", "c", "d"}


def test_comparisons_of_sizes_are_no_steps(tmp_path: Path) -> None:
    text = (
        "(float[N,4] x) => (float[N,4] y, float[N,4] z) { h = Shape(x) g = Greater(h, one) "
        "f = Cast<to=1>(g) r = ReduceSum<keepdims=0>(f) y = Mul(x, r) k = Greater(x, half) "
        "i = Cast<to=1>(k) z = Add(x, i) }"
    )
    found = traits(tmp_path, text, one=np.array([1]), half=np.array(0.5, np.float32))
    assert found.steps == {"z"}


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("y = Neg(x)", "float32"),
        ("h = Cast<to=10>(x) e = Exp(h) y = Cast<to=1>(e)", "float16"),
        ("h = Cast<to=10>(x) e = Exp(h) c = Cast<to=1>(e) n = Neg(c) y = Identity(n)", "float16"),
        ("h = Cast<to=16>(x) c = Cast<to=1>(h) y = Neg(c)", "bfloat16"),
        ("d = Cast<to=11>(x) e = Exp(d) y = Cast<to=1>(e)", "float32"),
        ("h = Cast<to=10>(x) s = Shape(h) o = ConstantOfShape(s) y = Add(x, o)", "float32"),
        ("c = Cast<to=1>(half) y = Mul(x, c)", "float16"),
    ],
)
def test_the_unit_is_the_coarsest_on_the_way(tmp_path: Path, line: str, unit: str) -> None:
    text = f"(float[N,4] x) => (float[N,4] y) {{ {line} }}"
    found = traits(tmp_path, text, half=np.array([0.3], np.float16))
    assert found.units == {"y": unit}


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        ("i = Cast<to=7>(x) y = Cast<to=1>(i)", {"y"}),
        ("i = Cast<to=2>(x) y = Cast<to=1>(i)", {"y"}),
        ("h = Cast<to=10>(x) y = Cast<to=1>(h)", set()),
        ("t = Tanh(x) y = Floor(t)", {"y"}),
        ("y = Relu(x)", set()),
    ],
)
def test_casts_to_integers_are_steps(tmp_path: Path, line: str, steps: set[str]) -> None:
    assert traits(tmp_path, f"(float[N,4] x) => (float[N,4] y) {{ {line} }}").steps == steps


# --- Samples --------------------------------------------------------------------------------------


def test_more_samples_are_drawn_where_an_output_shows_nothing() -> None:
    """The first three samples have no number below -45, but the fifth has."""
    text = "(float[N,64] x) => (float[N,64] y) { n = Neg(x) a = Sub(n, k) y = Relu(a) }"
    for k, verdict, samples in ((0, "pass", [3]), (45, "pass", [7]), (1e6, "not-verified", [])):
        model = build(text, k=np.full(1, k, np.float32))
        found = compared_on_cpu(model, copy(model))
        assert found.verdict == verdict
        assert [output.samples for output in found.outputs] == samples


@pytest.mark.parametrize(
    ("interface", "samples"),
    [
        ("(float[1,16] x) => (int64[1] y)", 32),
        ("(float[N,16] x) => (int64[N] y)", 32),
        ("(float[30,16] x) => (int64[30] y)", 9),
        ("(float[100,16] x) => (int64[100] y)", 3),
    ],
)
def test_more_samples_are_drawn_of_few_classes(interface: str, samples: int) -> None:
    model = build(f"{interface} {{ y = ArgMax<axis=1, keepdims=0>(x) }}")
    found = compared_on_cpu(model, copy(model))
    assert [output.samples for output in found.outputs] == [samples]


def test_more_samples_are_drawn_where_few_are_settled() -> None:
    """A verdict rests on two at least: here samples of larger numbers are not settled."""
    settled = []
    for factor in (10, 2e5):
        found = compared_on_cpu(*sines(factor))
        settled.append(sum(output.samples for output in found.outputs) + len(found.unsettled))
        assert found.draws in (3, 7)  # of all samples, those that came later, too
        counted = [output.samples for output in found.outputs]
        assert [output.samples for output in found.noise_floor] == counted
    assert settled == [3, 7]
