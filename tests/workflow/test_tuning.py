"""Tuning: rewrites that make the model slower are dropped, by pass, by site or all of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from benchmarks.coverage import simulated_blocks
from bnfold.errors import BnfoldError, SessionError
from bnfold.progress import silent
from bnfold.record.data import RewriteRecord, SpeedRecord, TuningRecord
from bnfold.rewriting.engine import Site
from bnfold.speed.statistics import summarize
from bnfold.workflow.tuning import TRIALS_IN_TIME, tune
from tests.support.cli import REWRITTEN, UNCHANGED, run
from tests.support.graphs import build, operators
from tests.support.speeds import fake_compare_speed, speed_record

PASSES = {"fold": "abcdefgh", "move": "st"}
ALL: list[Site] = [(name, site) for name, sites in PASSES.items() for site in sites]


class Machine:
    """Fakes building and timing models in which each rewrite saves or costs milliseconds."""

    def __init__(self, **costs: float) -> None:
        self._costs = {site: costs.get(site, 0.0) for _, site in ALL}
        self.sets: list[frozenset[Site]] = []
        self.discarded: list[Path] = []

    def make(self, without: Collection[Site]) -> Path:
        self.sets.append(frozenset(without))
        return Path(str(len(self.sets) - 1))

    def measure(self, original: Path, optimized: Path, seconds: float) -> SpeedRecord:
        assert not {original, optimized} & set(self.discarded)
        times = [
            100.0
            + sum(self._costs[site] for pass_name, site in ALL if (pass_name, site) not in out)
            for out in (self.sets[int(str(original))], self.sets[int(str(optimized))])
        ]
        return speed_record(times[0], times[1])

    def tune(self, seconds: float = 3600.0) -> tuple[set[str], TuningRecord]:
        rewrites = [RewriteRecord(name, site, "Conv", [site], "rounded", "") for name, site in ALL]
        rewrites.append(RewriteRecord("store-constants", "k", "Constant", ["k"], "bitwise", ""))
        dropped, trials = tune(
            rewrites, self.make, self.measure, self.discarded.append, seconds, silent
        )
        return {site for _, site in dropped}, trials


def test_rewrites_that_pay_are_kept() -> None:
    dropped, tuning = Machine(a=-5, s=-5).tune()
    assert not dropped
    assert not any(trial.dropped for trial in tuning.trials)


def test_what_only_stores_the_model_anew_is_not_tried() -> None:
    _, tuning = Machine().tune()
    assert {name for trial in tuning.trials for name in trial.without} == set(PASSES)


def test_a_pass_that_does_not_pay_is_dropped_whole() -> None:
    machine = Machine(a=-5, s=4, t=1)
    dropped, tuning = machine.tune()
    assert len(set(machine.discarded)) == len(tuning.trials)
    assert dropped == {"s", "t"}
    (drop,) = [trial for trial in tuning.trials if trial.dropped]
    assert drop.without == {"move": ["s", "t"]}
    assert drop.verdict == "faster"
    assert drop.speedup == pytest.approx(100 / 95)


def test_a_single_site_that_does_not_pay_is_dropped() -> None:
    dropped, tuning = Machine(a=-5, f=-5, s=-5, t=3).tune()
    assert dropped == {"t"}
    whole = tuning.trials[1]
    assert (whole.without, whole.verdict) == ({"move": ["s", "t"]}, "slower")


def test_if_the_original_is_faster_everything_is_dropped() -> None:
    machine = Machine()
    speeds = iter([speed_record(100, 100), speed_record(100, 90)])
    machine.measure = lambda *_: next(speeds)  # type: ignore[method-assign]  # measures nothing
    dropped, tuning = machine.tune(seconds=0)
    assert [trial.dropped for trial in tuning.trials] == [False, True]
    assert tuning.trials[-1].without == {name: list(sites) for name, sites in PASSES.items()}
    assert dropped == {site for _, site in ALL}


def test_the_time_bounds_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(tick) for tick in range(1000))
    monkeypatch.setattr("bnfold.workflow.tuning.time.monotonic", lambda: next(clock))
    _, tuning = Machine().tune(seconds=TRIALS_IN_TIME)
    assert 2 <= len(tuning.trials) <= TRIALS_IN_TIME


def test_there_are_no_more_trials_than_the_correction_is_for() -> None:
    """However fast they are."""
    _, tuning = Machine(a=-5, s=-5, t=-5).tune()
    assert len(tuning.trials) == TRIALS_IN_TIME
    assert TRIALS_IN_TIME * (1 - tuning.confidence) == pytest.approx(0.05)


class NoisyMachine(Machine):
    """A machine on which each process is off by one percent, and no rewrite makes a difference."""

    def __init__(self, seed: int, factor: float = 1.0, blocks: int = 5) -> None:
        super().__init__()
        self._generator = np.random.default_rng(seed)
        self._factor, self._blocks = factor, blocks

    def measure(self, original: Path, optimized: Path, seconds: float) -> SpeedRecord:
        samples = simulated_blocks(
            self._generator, self._factor, blocks=self._blocks, turns=5, spread=0.01
        )
        for block in samples:  # a control that is hardly off: the interval alone decides
            block.run_ms["control"] = block.run_ms["original"]
        return replace(speed_record(1, 1), samples=samples, **vars(summarize(samples)))


def test_of_many_trials_few_drop_anything_by_chance() -> None:
    """Five of a hundred runs at most, in all of their trials together."""
    tuned = [NoisyMachine(seed).tune() for seed in range(120)]
    assert sum(bool(dropped) for dropped, _ in tuned) <= 0.05 * len(tuned)
    by_chance = [any((t.ci95 or [0])[0] > 1 for t in tuning.trials) for _, tuning in tuned]
    assert sum(by_chance) > 0.05 * len(tuned)  # without the correction


def test_what_is_slower_beyond_chance_is_dropped_all_the_same() -> None:
    tuned = [NoisyMachine(seed, 1.15).tune() for seed in range(10)]
    assert sum({site for _, site in ALL} == dropped for dropped, _ in tuned) >= 9


def test_the_verdict_of_a_trial_is_by_its_wider_interval() -> None:
    trials = [trial for seed in range(10) for trial in NoisyMachine(seed, 1.04).tune()[1].trials]
    for trial in trials:
        assert trial.ci95 is not None
        assert trial.interval is not None
        assert trial.interval[0] < trial.ci95[0] < trial.ci95[1] < trial.interval[1]
        assert trial.dropped == (trial.interval[0] > 1) == (trial.verdict == "faster")
    assert any(not trial.dropped and (trial.ci95 or [0])[0] > 1 for trial in trials)


def test_what_is_not_measured_is_not_dropped() -> None:
    dropped, tuning = NoisyMachine(0, 2.0, blocks=2).tune()
    assert not dropped
    assert {(trial.verdict, trial.interval) for trial in tuning.trials} == {("not measured", None)}


def test_the_order_of_trials_is_always_the_same() -> None:
    first, second = (Machine(a=-5, f=3, t=1).tune()[1] for _ in range(2))
    assert first == second


# --- In the command -----------------------------------------------------------------------------

TWO_POOLS = build(
    "(float[1,3,16,16] x) => (float[1,3,4,4] z) "
    "{ a = Softplus(x) b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) "
    "c = Dropout(b) d = Softplus(c) z = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d) }"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(TWO_POOLS, path)
    return path


def cost_of_pooling_first(model: onnx.ModelProto) -> float:
    """Pretend that each MaxPool of the graph input costs 30 ms more."""
    return sum(30.0 for node in model.graph.node if node.op_type == "MaxPool" and "x" in node.input)


def test_the_record_says_what_was_dropped_and_why(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = fake_compare_speed(lambda proto: 100 + cost_of_pooling_first(proto))
    monkeypatch.setattr("bnfold.speed.measure.compare_speed", compare)
    outcome = run("optimize", model, "--tune", "--json")
    assert outcome.code == 0
    assert operators(onnx.load(model.with_name("m.bnfold.onnx")))[:2] == ["Softplus", "MaxPool"]
    kept = [refusal for refusal in outcome.record["refusals"] if refusal["reason"] == "SLOWER_HERE"]
    assert [(refusal["pass"], refusal["op_type"]) for refusal in kept] == [
        ("pool-before-activation", "MaxPool"),
        ("pool-before-activation", "MaxPool"),
    ]
    dropped = [trial for trial in outcome.record["tuning"]["trials"] if trial["dropped"]]
    assert [list(trial["without"]) for trial in dropped] == [["pool-before-activation"]]
    assert outcome.record["equivalence"]["verdict"] == "pass"
    assert "tuning, without" in run("optimize", model, "--tune").out


def test_if_nothing_pays_the_output_is_the_input(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = fake_compare_speed(
        lambda proto: 200 - len(proto.graph.node) + cost_of_pooling_first(proto)
    )
    monkeypatch.setattr("bnfold.speed.measure.compare_speed", compare)
    record = run("optimize", model, "--tune", "--json").record
    assert record["output"]["same"]
    assert record["equivalence"]["verdict"] == "identical"
    assert model.with_name("m.bnfold.onnx").read_bytes() == model.read_bytes()


def test_without_rewrites_there_is_nothing_to_tune(tmp_path: Path) -> None:
    outcome = run("optimize", UNCHANGED, tmp_path / "out.onnx", "--tune", "--json")
    assert outcome.code == 0
    assert outcome.record["tuning"] is None


def test_tuning_with_real_measurements(tmp_path: Path) -> None:
    timing = bnfold.TimingOptions(tune_seconds=0)
    record = bnfold.optimize(REWRITTEN, tune=True, timing=timing).record
    assert record.tuning is not None
    assert all(trial.samples for trial in record.tuning.trials)


def test_a_model_that_cannot_be_timed_is_not_tuned(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> SpeedRecord:
        raise SessionError("no way")

    monkeypatch.setattr("bnfold.speed.measure.compare_speed", fail)
    record = run("optimize", model, "--tune", "--no-bench", "--json").record
    assert record["speed_note"] == "not tuned: no way"
    assert record["output"]["written"]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_an_invalid_time_is_an_error(model: Path, seconds: str) -> None:
    run("optimize", model, "--tune", "--tune-seconds", seconds).failed(2)
    assert BnfoldError.exit_code == 2
