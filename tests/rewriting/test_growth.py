"""Rewriting twice as large a graph takes twice the work, and not more, for all kinds of graphs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.growth_models import KINDS
from bnfold.modelfile.loading import load
from bnfold.rewriting.editor import Editor
from bnfold.rewriting.engine import run_passes
from bnfold.rewriting.registry import all_passes
from bnfold.workflow.windows import Cutter
from tests.support.graphs import build
from tests.support.work import calls

SIZES = {"moved": 48, "nested_if": 6, "wide_pool": 1000, "wide_reshape": 1000}
LINEAR = 2.3
"""With a logarithm, or a term that does not matter at larger sizes."""


def work(kind: str, size: int, limit: float, *, cut: bool = False) -> int:
    """Return the number of calls that rewriting takes, with windows for certificates or without."""
    model = load(KINDS[kind][0](size)).ir
    watch = Cutter(model).watch if cut else None
    passes = all_passes()
    return calls(lambda: run_passes(model, passes, watch=watch), limit)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_work_is_linear(kind: str) -> None:
    size = SIZES.get(kind, 24)
    once = work(kind, size, limit=15_000 * min(size, 50))
    work(kind, 2 * size, limit=LINEAR * once)


@pytest.mark.parametrize("kind", ["doubled", "newton_of_constants", "absorbing_readers"])
def test_work_is_linear_with_windows(kind: str) -> None:
    once = work(kind, 24, limit=250_000, cut=True)
    work(kind, 48, limit=LINEAR * once, cut=True)


def test_a_family_of_pools_becomes_one_chain() -> None:
    model = load(KINDS["parallel_pools"][0](40)).ir
    (cascade,) = [pass_ for pass_ in all_passes() if pass_.name == "cascade-max-pool"]
    assert len(run_passes(model, [cascade]).rewrites) == 39
    pools = [node for node in model.graph if node.op_type == "MaxPool"]
    kernels = {tuple(pool.attributes.get_ints("kernel_shape") or ()) for pool in pools}
    assert kernels == {(3, 3)}
    sources = [pool.inputs[0].producer() for pool in pools if pool.inputs[0] is not None]
    assert sum(source in pools for source in sources) == 39


def test_names_of_one_stem_are_counted_on() -> None:
    class Counted(set[str]):
        lookups = 0

        def __contains__(self, name: object) -> bool:
            self.lookups += 1
            return super().__contains__(name)

    model = load(build("(float[4] x) => (float[4] y) { w_3 = Neg(x) w = Neg(w_3) y = Neg(w) }"))
    editor = Editor(model.ir)
    names = editor._names = Counted(editor._names)
    made = [editor.fresh_name("w") for _ in range(50)]
    assert made == [f"w_{n}" for n in range(1, 52) if n != 3]
    assert names.lookups <= 3 * len(made)


def test_what_a_rewrite_makes_constant_is_found_in_the_next_sweep() -> None:
    """A sweep remembers that s is not constant, until a Dropout before it is gone."""
    model = load(
        build(
            "(float[N,3,8,8] x) => (float[N,4,6,6] y, float[4,1,1] z) "
            "{ c = Conv(x, w) k = Dropout(t) s = Neg(k) z = Mul(s, k) y = Mul(c, s) }",
            w=np.ones((4, 3, 3, 3), np.float32),
            t=np.ones((4, 1, 1), np.float32),
        )
    ).ir
    outcome = run_passes(model, all_passes())
    names = [rewrite.pass_name for rewrite in outcome.rewrites]
    assert names[0] == "strip-dropout"
    assert "fold-scale-shift" in names
