"""Assertions for tests of passes: equal if rewritten, unchanged if refused, and idempotent."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

import bnfold
from bnfold.options import PassOptions
from bnfold.proof.certificates.certificate import certify_any
from bnfold.record.data import Certificate
from bnfold.rewriting.contract import Refusal
from bnfold.workflow.result import Result
from bnfold.workflow.variants import Variants
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Array, draw_feeds, operators


def run_pass(model: onnx.ModelProto, *names: str) -> Result:
    """Optimize with these passes only, without the check."""
    return bnfold.optimize(model, check=False, only=names, figures=False)


def assert_rewritten(
    model: onnx.ModelProto,
    pass_name: str,
    expected: list[str],
    *,
    sizes: Mapping[str, int] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    certified: bool = False,
) -> onnx.ModelProto:
    """Assert that the pass gives the operators `expected` and equal values, and is idempotent.

    With `certified`, assert also that each rewrite is proven for all inputs.
    """
    result = run_pass(model, pass_name)
    optimized = result.to_proto()
    assert operators(optimized) == expected, result.record.refusals
    assert_equivalent(model, optimized, draw_feeds(model, sizes=sizes), rtol=rtol, atol=atol)
    assert not run_pass(optimized, pass_name).record.rewrites
    if certified:
        proven = certificates(model, pass_name)
        assert [each.verdict for each in proven] == ["certified"] * len(proven), proven
        assert len(proven) == len(result.record.rewrites) > 0
    return optimized


def certificates(model: onnx.ModelProto, *names: str) -> list[Certificate]:
    """Prove each rewrite that these passes make, in this process."""
    cuts = Variants(model, PassOptions(only=names)).without(cut=True).cuts
    return [certify_any(cut.windows()) for cut in cuts]


def assert_refused(
    model: onnx.ModelProto, pass_name: str, reason: Refusal, *, in_the_way: str | None = None
) -> None:
    """Assert that the pass changes nothing, for this reason and no other."""
    result = run_pass(model, pass_name)
    assert [refusal.reason for refusal in result.record.refusals] == [reason.name]
    assert result.record.output is not None
    assert result.record.output.same
    assert result.record.output.sha256 == result.record.model.sha256
    if in_the_way is not None:
        assert result.record.refusals[0].in_the_way == in_the_way


def parameters(model: onnx.ModelProto) -> dict[str, Array]:
    """Return all initializers by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
