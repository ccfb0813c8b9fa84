"""Every candidate gets exactly one line: rewritten by which pass, or kept and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.modelfile.protos import node_lists_of
from bnfold.record.data import Record
from tests.support.cli import SAMPLES, run
from tests.support.graphs import batch_norm, build, normal
from tests.support.slow import few
from tests.support.zoo import OCR_MODELS, light_model, ocr_model

LIGHT = ("densenet121", "inception_v2", "shufflenet", "squeezenet")
MODELS = [path.stem for path in SAMPLES] + [*OCR_MODELS, *LIGHT]


def load(name: str) -> onnx.ModelProto:
    if name in LIGHT:
        return light_model(name)
    paths = [path for path in SAMPLES if path.stem == name]
    return onnx.load(paths[0] if paths else ocr_model(name))


def lines(record: Record, op_type: str) -> Counter[str]:
    rewritten = [rewrite.site for rewrite in record.rewrites if rewrite.op_type == op_type]
    gone = [
        site
        for rewrite in record.rewrites
        for site, gone_type in rewrite.gone.items()
        if gone_type == op_type
    ]
    kept = [refusal.site for refusal in record.refusals if refusal.op_type == op_type]
    return Counter(rewritten + gone + kept)


@pytest.mark.parametrize("name", few(MODELS, {*MODELS} - {*OCR_MODELS, "inception_v2"}))
def test_each_candidate_has_one_line(name: str) -> None:
    model = load(name)
    record = bnfold.explain(model)
    for op_type in ("BatchNormalization", "Dropout"):
        nodes = [node for node in model.graph.node if node.op_type == op_type]
        assert lines(record, op_type) == Counter(node.name or node.output[0] for node in nodes)


def test_candidates_in_subgraphs_and_functions_count() -> None:
    model = build(
        """(float[N,4,8,8] x, bool cond) => (float[N,4,8,8] z) {
            r = Sigmoid(x)
            z = If (cond) <
                then_branch = then () => (float[N,4,8,8] t) {
                    n = BatchNormalization(r, s, b, m, v)
                    t = Dropout(n)
                },
                else_branch = other () => (float[N,4,8,8] e) {
                    c = Conv(r, w)
                    e = BatchNormalization(c, s, b, m, v)
                }
            >
        }""",
        w=normal(4, 4, 1, 1),
        **batch_norm(4),
    )
    record = bnfold.explain(model)
    assert set(lines(record, "BatchNormalization")) == {"z/then_branch/n", "z/else_branch/e"}
    assert set(lines(record, "Dropout")) == {"z/then_branch/t"}
    counted = sum(
        node.op_type in ("BatchNormalization", "Dropout")
        for nodes in node_lists_of(model)
        for node in nodes
    )
    assert len(record.rewrites) + len(record.refusals) == counted


def test_a_quantized_weight_keeps_the_batch_normalization() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { w = DequantizeLinear(q, scale) "
        "c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }",
        q=np.ones((4, 3, 3, 3), np.int8),
        scale=np.array(0.1, np.float32),
        **batch_norm(4),
    )
    (refusal,) = bnfold.explain(model).refusals
    assert (refusal.reason, refusal.also_reason) == ("WEIGHT_NOT_CONSTANT", "GRAPH_OUTPUT")


def test_a_refusal_names_its_remedy() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ c = Conv(x, w) y = BatchNormalization<training_mode=1>(c, s, b, m, v) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    (refusal,) = bnfold.explain(model).refusals
    assert "model.eval()" in refusal.remedy
    assert "--force-inference" in refusal.remedy


def test_a_candidate_removed_with_another_has_its_own_line() -> None:
    model = build(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w) r = Relu(c) "
        "q = BatchNormalization(r, s, b, m, v) d = Dropout(q) y = Neg(c) }",
        w=normal(4, 3, 3, 3),
        **batch_norm(4),
    )
    record = bnfold.explain(model)
    assert lines(record, "Dropout") == {"d": 1}
    assert lines(record, "BatchNormalization") == {"q": 1}
    assert record.rewrites[-1].gone == {"q": "BatchNormalization"}


def test_an_add_that_replaces_it_is_another_site() -> None:
    model = build(
        "(float[2,1,4,4] x) => (float[2,1,4,1] y) "
        "{ a = MatMul(x, w1) n = BatchNormalization(a, s, b, m, v) y = Conv(n, w2) }",
        w1=normal(4, 1),
        w2=normal(1, 1, 1, 1),
        **batch_norm(1),
    )
    assert [rewrite.site for rewrite in bnfold.explain(model).rewrites] == ["n", "n/Add"]


def upsampled() -> onnx.ModelProto:
    """Return a model with a rewrite that makes models slower on a GPU."""
    return build(
        '(float[1,64,16,16] x) => (float[1,64,32,32] y) { r = Resize<mode="nearest", '
        'nearest_mode="floor", coordinate_transformation_mode="asymmetric">(x, , scales) '
        "y = Conv<pads=[1,1,1,1]>(r, w) }",
        scales=np.array([1, 1, 2, 2], np.float32),
        w=normal(64, 64, 3, 3),
    )


def test_what_is_left_out_on_a_gpu_is_kept_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(upsampled(), path)
    assert run("explain", path, "--exit-code").code == 1
    outcome = run("explain", path, "--exit-code", "--provider", "cuda")
    assert outcome.code == 0
    assert "SLOWER_ON_PROVIDER" in outcome.out
    run("explain", path, "--provider", "gpu").failed(2, "gpu")
    for providers in ("cuda", ["cpu", "cuda"]):
        assert not bnfold.explain(path, providers=providers).rewrites
    assert bnfold.explain(path, providers="cpu").rewrites
