"""Made-up records of runs, one for each case that a report must handle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import numpy as np

from bnfold.record.data import (
    Culprit,
    Equivalence,
    Flip,
    InputsRecord,
    LevelComparison,
    LevelName,
    ModelFigures,
    ModelProfile,
    ModelRecord,
    NodeDifference,
    NodeSketch,
    NodeTime,
    NonFinite,
    OperatorTime,
    OutputComparison,
    OutputRecord,
    ProviderEquivalence,
    Record,
    RefusalRecord,
    RewriteRecord,
    SpeedBlock,
    SpeedRecord,
    Tolerance,
    Truth,
    TruthOutput,
    TuningRecord,
    TuningTrial,
    Unsettled,
    Verdict,
    Worst,
)
from bnfold.speed.statistics import summarize

HOSTILE_NAMES = (
    "<script>document.title = 'taken over'</script>",
    '"><img src=x onerror="document.title=1">',
    "</style><style>body { display: none }",
    "🐍 conv 👩‍👩‍👧",
    "תוֹרָה/conv",
    "left\u202etfel\u2066",
    "bell\x07 and\nnew line\ttab\x1b[31m",
    "`code` | *bold* [link](javascript:alert(1)) <!-- {{ 7*7 }} {% raw %}",
    "$\\alpha$ _{x} $$",
    "n" * 10_000,
    "half \ud83d of a pair",
)
"""Node names of a malicious or careless model."""

ENVIRONMENT = {
    "python": "3.12.4",
    "platform": "Linux-6.1-x86_64",
    "cpu": "Example CPU",
    "processors": 2,
    "affinity": "0-1",
    "load": 0.25,
    "onnx": "1.19.0",
    "onnxruntime": {
        "package": "onnxruntime",
        "version": "1.23.0",
        "providers": ["CPUExecutionProvider"],
    },
}

CONV_BN = [NodeSketch("Conv", [-1]), NodeSketch("BatchNormalization", [0])]
BRANCHES = [NodeSketch("Conv", [-1]), NodeSketch("Conv", [-1]), NodeSketch("Add", [0, 1, -1])]


def model(path: str | None = "models/resnet.onnx", **ops: int) -> ModelRecord:
    """Return the record of a model file."""
    ops = ops or {"Conv": 53, "BatchNormalization": 53, "Relu": 49, "Add": 16, "Gemm": 1}
    nodes = sum(ops.values())
    return ModelRecord(path, "3f" * 32, 102_400_000, 8, {"ai.onnx": 17}, nodes, ops)


def fold(site: str, **changes: Any) -> RewriteRecord:
    """Return the folding of a BatchNormalization into the preceding Conv."""
    made = RewriteRecord(
        pass_name="fold-batchnorm",
        site=site,
        op_type="BatchNormalization",
        nodes=[f"{site}/conv", site],
        exactness="rounded",
        detail="into Conv",
        before=CONV_BN,
        after=[NodeSketch("Conv", [-1])],
    )
    return replace(made, **changes)


def merge(site: str) -> RewriteRecord:
    """Return the merge of three branches."""
    return fold(
        site,
        pass_name="merge-branches",
        op_type="Add",
        nodes=[f"{site}/1", f"{site}/2", site],
        detail="3 branches into Conv",
        before=BRANCHES,
    )


def strip(site: str) -> RewriteRecord:
    """Return the removal of a Dropout, which is not replaced by anything."""
    return fold(
        site,
        pass_name="strip-dropout",
        op_type="Dropout",
        nodes=[site],
        exactness="bitwise",
        detail="",
        before=[NodeSketch("Dropout", [-1])],
        after=[],
    )


def refusal(site: str, **changes: Any) -> RefusalRecord:
    """Return a BatchNormalization that is kept."""
    made = RefusalRecord(
        pass_name="fold-batchnorm",
        site=site,
        op_type="BatchNormalization",
        reason="TRAINING_MODE",
        message="it uses the batch's own statistics",
        remedy="export with model.eval(), or pass --force-inference",
        in_the_way="",
    )
    return replace(made, **changes)


def output(name: str = "logits", share: float = 0.02, **changes: Any) -> OutputComparison:
    """Return the comparison of an output whose worst element uses this share of its tolerance."""
    tolerance = Tolerance(1e-4, 2e-4)
    original = 3.5
    error = share * (tolerance.atol + tolerance.rtol * original)
    made = OutputComparison(
        name=name,
        dtype="float32",
        shape=[2, 1000],
        max_abs=error,
        max_rel=error / original,
        rms=error / 4,
        cosine=1 - error**2,
        worst=Worst(1, [0, 17], original, original + error),
        tolerance=tolerance,
        needed=Tolerance(tolerance.rtol * share, tolerance.atol * share),
        nonfinite=NonFinite(0, 0, same=True),
        shares=[12, 0, 4, 160, 1800, 4023, 1, 0, 0] if share <= 1 else [0, 0, 0, 1, 2, 3, 4, 5, 85],
        top1_agreement=1.0 if share <= 1 else 0.5,
        top5_agreement=1.0,
        flips=[] if share <= 1 else [Flip(1, [0], 17, 4, 0.25)],
    )
    return replace(made, **changes)


def compared(verdict: Verdict = "pass", **changes: Any) -> ProviderEquivalence:
    """Return the verdict on a provider."""
    shares = {"pass": (0.018, 0.024), "fail": (420.0, 420.0)}.get(verdict, ())
    levels = [
        LevelComparison(
            level,
            "pass" if share <= 1 else "fail",
            [output("logits", share), output("features", share / 3)],
        )
        for level, share in zip(get_args(LevelName), shares, strict=False)
    ]
    reasons = {
        "fail": "output 'logits' is 3.731 at [0, 17] of sample 1, not 3.5; "
        "it would pass with --rtol 0.042 --atol 0.084",
        "not-verified": "the original disagrees with itself from run to run",
    }
    made = ProviderEquivalence(
        provider="cpu",
        verdict=verdict,
        reason=reasons.get(verdict, ""),
        outputs=levels[0].outputs if levels else [],
        levels=levels,
        noise_floor=[output("logits", 0.019), output("features", 0.005)] if levels else [],
        unsettled=[Unsettled(2, "features", 0.034)] if levels else [],
        truth=_truth(verdict) if levels else Truth(0, "the original did not run"),
    )
    return replace(made, **changes)


def _truth(verdict: str) -> Truth:
    factor = 1.0 if verdict == "pass" else 1e5
    outputs = [
        TruthOutput("logits", "float32", 4.1e-7, 3.8e-7 * factor, 5.2e-8 * factor, 0.0, 1.64e-6),
        TruthOutput("features", "float32", 2.9e-7, 3.1e-7 * factor, 4.4e-8 * factor, 0.0, 1.16e-6),
    ]
    return Truth(1, "", outputs)


def equivalence(verdict: Verdict = "pass", **changes: Any) -> Equivalence:
    """Return a verdict on one provider, and how the inputs were made."""
    provider = compared(verdict, **changes)
    source = "normal, standard deviations (1.0, 10.0, 0.1) in turn"
    shapes = [{"images": [size, 3, 64, 64]} for size in (2, 1, 3)]
    inputs = InputsRecord(0, 3, source, shapes, {"tokens": 9999}, "ab" * 32)
    reason = f"cpu: {provider.reason}" if provider.reason else ""
    return Equivalence(verdict, reason, [provider], inputs)


def figures(parameters: int = 25_600_000, inputs: str = "images") -> ModelFigures:
    """Return what a model holds and computes."""
    return ModelFigures(
        inputs={inputs: "float32[N,3,224,224]"},
        outputs={"logits": "float32[N,1000]", "features": "float32[N,2048]"},
        parameters=parameters,
        multiplications=4_100_000_000,
        unknown=0,
        bytes=4 * parameters,
    )


def difference(*names: str) -> NodeDifference:
    """Return in which nodes two models differ: for each name, a folded BatchNormalization."""
    return NodeDifference(
        gone={f"{name}/conv_output": "Conv" for name in names},
        new={},
        changed={f"{name}_output": ["BatchNormalization", "Conv"] for name in names},
    )


def profile(factor: float = 1.0, node: str = "/layer1/conv") -> ModelProfile:
    """Return where the time of a model goes that takes 20 ms over this factor."""
    operators = [
        OperatorTime("Conv", 53, round(16 / factor, 4)),
        OperatorTime("Add", 16, 2.4),
        OperatorTime("Gemm", 1, 0.12),
        OperatorTime("Flatten", 1, 0.01),
    ]
    nodes = [NodeTime(f"{node}{number}", "Conv", 1.5 - number / 10) for number in range(10)]
    return ModelProfile(25, sum(each.ms for each in operators), operators, nodes)


@cache
def speed(factor: float = 1.12, level: LevelName = "all", *, alone: bool = False) -> SpeedRecord:
    """Return a timing of a model faster by this factor, with the noise of a real machine."""
    generator = np.random.default_rng(int(factor * 1000))
    blocks = []
    for _ in range(5):
        shared = 20 * generator.lognormal(0, 0.03, 40)
        names = {"original": 1.0, "control": 1.0} | ({} if alone else {"optimized": factor})
        run_ms = {
            name: [float(ms) for ms in shared * generator.lognormal(0, 0.01, 40) / faster]
            for name, faster in names.items()
        }
        blocks.append(SpeedBlock(dict.fromkeys(run_ms, 31.0), run_ms))
    summary = summarize(blocks)
    return SpeedRecord(
        provider="cpu",
        level=level,
        threads=2,
        shapes={"images": [1, 3, 224, 224]},
        note="",
        load_ms=[31.0] if alone else [31.0, 22.0],
        peak_mb=[210.0] if alone else [210.0, 204.0],
        placement=None,
        samples=blocks,
        profile=[profile(), *([] if alone else [profile(factor)])] if level == "all" else [],
        **vars(summary),
    )


def not_measured() -> SpeedRecord:
    """Return a timing with too little time for an interval."""
    samples = speed().samples[:1]
    note = "an interval takes 3 blocks; allow 4 seconds per level"
    return replace(speed(), note=note, samples=samples, **vars(summarize(samples)))


def tuning() -> TuningRecord:
    """Return one trial that kept a pass and one that dropped a site."""
    one = speed(0.95)
    kept = TuningTrial(
        {"fold-batchnorm": ["/bn0", "/bn1"]}, 0.95, [0.94, 0.96], 1.0, [0.99, 1.01], "slower",
        dropped=False, samples=one.samples,
    )  # fmt: skip
    dropped = replace(kept, without={"merge-branches": ["/add0"]}, verdict="faster", dropped=True)
    return TuningRecord(60.0, [replace(kept, interval=[0.93, 0.97]), dropped], 0.99375)


def optimized(verdict: Verdict = "pass", **changes: Any) -> Record:
    """Return the record of an `optimize`."""
    ops = {"Conv": 53, "BatchNormalization": 3, "Relu": 49, "Add": 16, "Gemm": 1}
    made = Record(
        command=["/usr/bin/bnfold", "optimize", "models/resnet.onnx", "out dir/fast.onnx"],
        model=model(),
        environment=ENVIRONMENT,
        output=OutputRecord(
            "out dir/fast.onnx", False, verdict == "pass", "c4" * 32, 102_300_000, 122, ops
        ),
        rewrites=[*(fold(f"/layer{n}/bn") for n in range(48)), merge("/add"), strip("/drop")],
        refusals=[*(refusal(f"/head/bn{n}") for n in range(3))],
        equivalence=equivalence(verdict),
        speed=[speed(1.12), speed(1.31, "disabled")] if verdict == "pass" else [],
        figures=[figures(), figures(25_550_000)],
        nodes=difference(*(f"/layer{n}/bn" for n in range(48))),
        started="2026-03-01T08:30:00Z",
        seconds=72.4,
    )
    return replace(made, **changes)


def not_hashed() -> Record:
    """Return a record without hashes, as made for the terminal only."""
    record = optimized()
    assert record.output is not None
    return replace(
        record,
        model=replace(record.model, sha256=None),
        output=replace(record.output, sha256=None),
    )


def failed() -> Record:
    """Return the record of an `optimize` that failed and found its culprit."""
    culprit = Culprit(
        pass_name="merge-branches",
        site="/add",
        nodes=["/add/1", "/add/2", "/add"],
        detail="3 branches into Conv",
        reason="cpu: output 'logits' is 3.731 at [0, 17] of sample 1, not 3.5",
        output="logits",
        worst=Worst(1, [0, 17], 3.5, 3.731),
        dropped=False,
    )
    return optimized("fail", equivalence=replace(equivalence("fail"), culprits=[culprit]))


def dropped() -> Record:
    """Return the record of an `optimize` that failed, dropped its culprit and continued."""
    failure = failed().equivalence
    assert failure is not None
    culprits = [replace(culprit, dropped=True) for culprit in failure.culprits]
    return optimized(equivalence=replace(equivalence(), culprits=culprits))


def stepped() -> Record:
    """Return the record of an `optimize` of a quantized model with elements that jump."""
    jumping = output("logits", 9.0, excused=3)
    provider = compared(
        levels=[
            LevelComparison("disabled", "pass", [jumping]),
            LevelComparison("all", "pass", [output("logits")], against="all"),
        ],
        outputs=[jumping],
    )
    return optimized(equivalence=replace(equivalence(), providers=[provider]))


def checked() -> Record:
    """Return the record of a `check` of two files."""
    return Record(
        command=["bnfold", "check", "a.onnx", "b.onnx"],
        model=model("a.onnx"),
        environment=ENVIRONMENT,
        candidate=model("b.onnx", Conv=53, Relu=49),
        equivalence=equivalence(),
        figures=[figures(), replace(figures(), inputs={"image": "float16[1,3,224,224]"})],
        nodes=NodeDifference({}, {}, {}),
        started="2026-03-01T08:30:00Z",
        seconds=0.85,
    )


def benched(*, alone: bool = False) -> Record:
    """Return the record of a `bench`."""
    return Record(
        command=["bnfold", "bench", "a.onnx"],
        model=model("a.onnx"),
        environment=ENVIRONMENT,
        candidate=None if alone else model("b.onnx"),
        speed=[speed(alone=alone), speed(1.0, "disabled", alone=alone)],
    )


def explained() -> Record:
    """Return the record of an `explain`."""
    made = optimized(output=None, equivalence=None, speed=[], figures=[], nodes=None)
    return replace(made, seconds=4000.0)


def older() -> Record:
    """Return a record of a version without figures, profiles and dates."""
    timed = [replace(each, profile=[]) for each in optimized().speed]
    return optimized(speed=timed, figures=[], nodes=None, started=None, seconds=None)


def hasty() -> Record:
    """Return a record of a timing too short for an interval, a verdict or a profile."""
    one = replace(speed(), samples=speed().samples[:1], ci95=None, verdict=None)
    return optimized(speed=[replace(one, profile=[], profile_note="the time is too short")])


def large(nodes: int = 3000) -> Record:
    """Return the record of a model with this many nodes, a third of them BatchNormalizations."""
    third = nodes // 3
    sites = [f"/backbone/stages.{n % 4}/blocks.{n}/norm/BatchNormalization" for n in range(third)]
    ops = {"Conv": third, "BatchNormalization": third, "Relu": nodes - 2 * third}
    made = optimized()
    assert made.output is not None
    left = ops | {"BatchNormalization": third - third // 2}
    return replace(
        made,
        model=model("large.onnx", **ops),
        output=replace(made.output, ops=left, nodes=sum(left.values())),
        rewrites=[fold(site) for site in sites[: third // 2]],
        refusals=[refusal(site) for site in sites[third // 2 :]],
    )


def hostile() -> Record:
    """Return a record in which every text tries to break the page."""
    names = list(HOSTILE_NAMES)
    worst = names[0]
    provider = compared(
        "fail",
        outputs=[output(name, 2.0) for name in names],
        levels=[LevelComparison("disabled", "fail", [output(name, 2.0) for name in names])],
        noise_floor=[output(name) for name in names],
        truth=Truth(1, worst, [TruthOutput(name, name, 1e-7, 1e-7, 1e-8) for name in names]),
        reason=" ".join(names),
        unsettled=[Unsettled(0, name, 0.5) for name in names],
    )
    element = Worst(0, [1], 1.0, 2.0)
    culprits = [
        Culprit(worst, name, names, name, name, name, element, dropped=name != worst)
        for name in names
    ]
    failure = Equivalence("fail", " ".join(names), [provider], equivalence().inputs, culprits)
    return optimized(
        command=["bnfold", "optimize", *names],
        model=model(worst, **dict.fromkeys(names, 2)),
        environment={worst: worst, "onnxruntime": {"version": worst}},
        rewrites=[
            fold(name, pass_name=name, op_type=name, detail=name, nodes=names, gone={name: name},
                 before=[NodeSketch(name, [-1])], after=[NodeSketch(name, [-1])])
            for name in names
        ],
        refusals=[
            refusal(name, op_type=name, reason=name, message=name, remedy=name, in_the_way=name,
                    also_reason=name, also_message=name, also_in_the_way=name)
            for name in names
        ],
        equivalence=failure,
        speed=[
            replace(speed(), provider=worst, note=worst, shapes={worst: [1]}, profile=[
                replace(profile(node=name), operators=[OperatorTime(name, 1, 2.0)])
                for name in names[:2]
            ])
        ],
        speed_note=worst,
        figures=[
            replace(figures(), inputs=dict.fromkeys(names, name), outputs={name: name})
            for name in names[:2]
        ],
        nodes=NodeDifference(
            dict.fromkeys(names, worst), dict.fromkeys(names, worst),
            {name: [name, worst] for name in names},
        ),
        started=worst,
    )  # fmt: skip


RECORDS: dict[str, Callable[[], Record]] = {
    "pass": optimized,
    "tuned": lambda: optimized(tuning=tuning()),
    "steps": stepped,
    "fail": failed,
    "culprit dropped": dropped,
    "not-verified": lambda: optimized("not-verified"),
    "identical": lambda: optimized(equivalence=Equivalence("identical"), rewrites=[], speed=[]),
    "not checked": lambda: optimized(equivalence=None, speed_note="not timed: no onnxruntime"),
    "not hashed": not_hashed,
    "check": checked,
    "bench": benched,
    "not measured": lambda: replace(benched(), speed=[not_measured()]),
    "bench alone": lambda: benched(alone=True),
    "explain": explained,
    "large": large,
    "older": older,
    "hasty": hasty,
    "hostile": hostile,
}
"""Every kind of record, by name."""
