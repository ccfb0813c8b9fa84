"""Made-up records with something to note about the check: on samples, steps, ties and float64."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnfold.record.data import (
    Certificate,
    CertificateKind,
    Culprit,
    Difference,
    Divergence,
    Equivalence,
    Inconclusive,
    LevelComparison,
    Record,
    Tolerance,
    Truth,
    TruthOutput,
    Worst,
)
from bnfold.record.reading import read_record
from tests.support.records import checked, compared, equivalence, fold, optimized, output


def noted(
    logits: str = "logits", boxes: str = "boxes", mask: str = "mask", node: str = "/net/act"
) -> Record:
    """Return the record of a `check` with every note that there is, under these names."""
    exact = Tolerance(0.0, 0.0)
    levels = [
        LevelComparison(
            "disabled",
            "pass",
            [
                output(logits, 3.0, by_float64=True, samples=2),
                output(boxes, 0.2, exchanged=2, excused=1, samples=3),
                output("labels", 0.0, tolerance=exact, needed=exact, excused=3, samples=3),
            ],
        ),
        LevelComparison(
            "all", "pass", [output(logits, 0.5, samples=2), output(boxes, 0.2, exchanged=2)]
        ),
    ]
    truth = Truth(
        3,
        "",
        [
            TruthOutput(
                logits, "float32", 4.1e-4, 3.8e-4, 5.2e-5, 0.0, 1.6e-3, "float16", 0.25, "[0, 1]"
            ),
            TruthOutput(
                boxes,
                "float32",
                2.9e-7,
                3.1e-7,
                4.4e-8,
                limit=1.2e-6,
                ratio=3.2,
                where="index 3 of axis 1, sample 0",
            ),
        ],
    )
    provider = compared(
        levels=levels,
        outputs=levels[0].outputs,
        truth=truth,
        inconclusive=[Inconclusive(mask, "of the original is 0 throughout")],
        draws=7,
    )
    place = Divergence(boxes, "Sigmoid", node, 12, 0.00125, Worst(1, [0, 4], 0.5, 0.50125))
    return replace(
        checked(), equivalence=replace(equivalence(), providers=[provider], divergence=place)
    )


LINEAR = Certificate(
    "certified",
    "linear",
    "at smaller sizes, with all of the border",
    24,
    9.41e-7,
    1e-9,
    [{"x": [2, 16, 6, 6]}, {"x": [2, 16, 5, 5]}],
    0.25,
)


def exact(kind: CertificateKind, **changes: Any) -> Certificate:
    """Return a proof without a bound."""
    return replace(Certificate("certified", kind, "", 3, seconds=0.01), **changes)


def sampled(**changes: Any) -> Certificate:
    """Return what is found where there is no proof."""
    return replace(Certificate("sampled", "sampled", "", 72, seconds=0.5), **changes)


def unknown(note: str = "its input 'x' is of integers") -> Certificate:
    """Return a certificate that shows nothing."""
    return Certificate("open", note=note)


def differing(output: str = "y", **changes: Any) -> Certificate:
    """Return what is found where a rewrite changes an element."""
    worst = replace(Difference(output, [3, 0], 1.5, 2.25), **changes)
    return Certificate("differs", "sampled", worst=worst, seconds=0.1)


def certified(*certificates: Certificate | None, site: str = "/bn", **changes: Any) -> Record:
    """Return the record of an `optimize` whose rewrites have these certificates."""
    rewrites = [
        fold(f"{site}{number}", certificate=certificate)
        for number, certificate in enumerate(certificates)
    ]
    return optimized(rewrites=rewrites, speed=[], **changes)


def undecided(
    certificates: Sequence[Certificate], why: str = "the original disagrees with itself"
) -> Record:
    """Return the record of an `optimize` that only the certificates decide."""
    found = replace(equivalence("not-verified"), verdict="certified", reason=f"cpu: {why}")
    return certified(*certificates, equivalence=found)


def blamed(dropped: bool = False) -> Record:
    """Return the record of an `optimize` that failed because a certificate differs."""
    reason = "fold-batchnorm at '/bn1' changes 'y' at [3, 0]: 1.5 before, 2.25 after"
    worst = Worst(0, [3, 0], 1.5, 2.25)
    culprit = Culprit(
        "fold-batchnorm",
        "/bn1",
        ["/bn1/conv", "/bn1"],
        "into Conv",
        reason,
        "y",
        worst,
        dropped,
        is_certified=True,
    )
    if dropped:
        return certified(LINEAR, equivalence=replace(equivalence(), culprits=[culprit]))
    failure = Equivalence("fail", reason, culprits=[culprit])
    return certified(LINEAR, differing(), equivalence=failure)


def without_new_fields(record: Record, folder: Path) -> Record:
    """Return the record as an earlier version would have written it, read again."""
    content = json.loads(record.to_json())
    found = content["equivalence"]
    del found["divergence"]
    for provider in found["providers"]:
        del provider["draws"], provider["inconclusive"], provider["truth"]["needless"]
        del provider["cause"]
        for error in provider["truth"]["outputs"]:
            del error["limit"], error["unit"], error["ratio"], error["where"]
        outputs = [*provider["outputs"], *provider["noise_floor"], *provider["tf32"]]
        outputs += [each for level in provider["levels"] for each in level["outputs"]]
        for each in outputs:
            del each["samples"], each["exchanged"], each["by_float64"], each["excused"]
    path = folder / "old.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_record(path)
