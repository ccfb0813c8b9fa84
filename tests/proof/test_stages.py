"""Models that select several times are compared from one selection to the next."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.options import CheckOptions, ExecutionOptions
from bnfold.progress import silent
from bnfold.proof import stages
from bnfold.proof.candidates import candidates
from bnfold.proof.original import Original
from bnfold.proof.stages import difference_in_stages
from bnfold.proof.tails import are_equal
from bnfold.proof.traits import Traits
from tests.support.graphs import Parameters, build, normal

SELECTIONS = 3
CHECKING = CheckOptions(truth="off")


def selecting(
    *, composed: bool, wrong: int | None = None, selections: int = SELECTIONS
) -> onnx.ModelProto:
    """Return a model that selects rows several times, and multiplies them before and after.

    All scores are 5 but for rounding, which decides. Composed, two matrices are one. A wrong one,
    after so many selections, has a weight that is off by 1 %.
    """
    weights: Parameters = {"five": np.array(5, np.float32)}
    lines = []
    for stage in range(selections + 1):
        one, two = normal(8, 8, seed=2 * stage), normal(8, 8, seed=2 * stage + 1)
        product = one.astype(np.float64) @ two
        if stage == wrong:
            two[3] *= np.float32(1.01)
        if composed:
            weights[f"m{stage}"] = (one.astype(np.float64) @ two).astype(np.float32)
            lines.append(f"p{stage} = MatMul(z{stage}, m{stage})")
        else:
            weights |= {f"c{stage}": one, f"d{stage}": two}
            lines.append(
                f"q{stage} = MatMul(z{stage}, c{stage}) p{stage} = MatMul(q{stage}, d{stage})"
            )
        if stage < selections:
            scores = normal(8, seed=stage)
            weights |= {
                f"v{stage}": scores,
                f"w{stage}": (product @ scores).astype(np.float32),
                f"k{stage}": np.array([60 - 10 * stage]),
            }
            lines.append(
                f"a{stage} = MatMul(p{stage}, v{stage}) b{stage} = MatMul(z{stage}, w{stage}) "
                f"e{stage} = Sub(a{stage}, b{stage}) s{stage} = Add(e{stage}, five) "
                f"t{stage}, i{stage} = TopK(s{stage}, k{stage}) "
                f"z{stage + 1} = Gather(p{stage}, i{stage})"
            )
    interface = f"(float[80,8] z0) => (float[d,8] p{selections})"
    return build(f"{interface} {{ {' '.join(lines)} }}", **weights)


def compared(
    folder: Path, one: onnx.ModelProto, other: onnx.ModelProto
) -> tuple[bool, str | None, int]:
    """Compare two models after the first selection at once, and in stages."""
    paths = folder / "one.onnx", folder / "other.onnx"
    for path, model in zip(paths, (one, other), strict=True):
        onnx.save(model, path)
    cut = candidates(*paths)
    assert cut is not None
    assert cut.tails is not None
    onnx.save(cut.original, folder / "before.onnx")
    traits = Traits.of(paths[0])
    before = Original(
        folder / "before.onnx",
        Traits.of(folder / "before.onnx"),
        "cpu",
        ExecutionOptions(),
        silent,
    )
    before.run()
    at_once = are_equal(cut.tails, before, traits, CHECKING)
    files = set(folder.iterdir())
    with mock.patch.object(stages, "_next_stage", wraps=stages._next_stage) as step:
        in_stages = difference_in_stages(cut.tails, before, traits, CHECKING, folder)
    assert set(folder.iterdir()) == files
    return at_once, in_stages, step.call_count


def test_what_is_selected_again_is_compared_on_the_same_values(tmp_path: Path) -> None:
    found = compared(tmp_path, selecting(composed=False), selecting(composed=True))
    assert found == (False, None, 2)


@pytest.mark.parametrize("wrong", range(1, SELECTIONS + 1))
def test_what_is_wrong_after_a_selection_is_not_equal(tmp_path: Path, wrong: int) -> None:
    models = selecting(composed=False), selecting(composed=True, wrong=wrong)
    at_once, in_stages, _ = compared(tmp_path, *models)
    assert not at_once
    place = ", and before TopK" if wrong < SELECTIONS else ""
    assert in_stages is not None
    assert in_stages.startswith(f"given the same values before a selection{place}: output")


def test_there_may_be_too_many_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_MOST_STAGES", 1)
    found = compared(tmp_path, selecting(composed=False), selecting(composed=True))
    assert found == (False, "", 1)


@pytest.mark.parametrize(
    ("wrong", "expected"), [(None, "pass"), *((at, "fail") for at in range(SELECTIONS + 1))]
)
def test_the_verdict_on_models_that_select_several_times(wrong: int | None, expected: str) -> None:
    models = selecting(composed=False), selecting(composed=True, wrong=wrong)
    equivalence = bnfold.check(*models, providers="cpu", certify="off").equivalence
    assert equivalence is not None
    assert equivalence.verdict == expected, equivalence.reason
    if expected == "pass":
        selection = equivalence.providers[0].selection
        assert selection is not None
        assert selection.operators == ["TopK"]
