"""Einsums of a value and a constant become MatMuls."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.rewriting.contract import Common, Refusal
from bnfold_passes.replace_einsum import Why
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import (
    Array,
    Parameters,
    batch_norm,
    build,
    draw_feeds,
    make_overridable,
    named_in,
    normal,
    operators,
)
from tests.support.passes import assert_refused, assert_rewritten, certificates, run_pass

NAME = "replace-einsum"


def einsum(
    equation: str,
    read: str,
    made: str,
    weight: Array,
    *,
    is_first: bool = False,
    kind: str = "float",
) -> onnx.ModelProto:
    """Return an Einsum of x and a constant w, or of w and x."""
    operands = "w, x" if is_first else "x, w"
    return build(
        f"({kind}[{read}] x) => ({kind}[{made}] y) "
        f'{{ y = Einsum<equation="{equation}">({operands}) }}',
        w=weight,
    )


MATMULS = [
        ("bij,jk->bik", "N,L,4", "N,L,3", (4, 3), ["MatMul"]),
        ("bij,kj->bik", "N,L,4", "N,L,3", (3, 4), ["MatMul"]),
        (" b i j , k j ", "N,L,4", "N,L,3", (3, 4), ["MatMul"]),
        ("...j,jk->...k", "N,L,2,4", "N,L,2,3", (4, 3), ["MatMul"]),
        ("b...j,jk", "N,L,2,4", "a,b,c,3", (4, 3), ["MatMul", "Transpose"]),
        ("bji,kj->bki", "N,4,L", "N,3,L", (3, 4), ["MatMul"]),
        ("bji,jk->bki", "N,4,L", "N,3,L", (4, 3), ["MatMul"]),
        ("bji,jk->bik", "N,4,L", "N,L,3", (4, 3), ["MatMul", "Transpose"]),
        ("bthd,hdk->btk", "N,L,2,4", "N,L,3", (2, 4, 3), ["Reshape", "MatMul"]),
        ("bthd,dkh->btk", "N,L,2,4", "N,L,3", (4, 3, 2), ["Reshape", "MatMul"]),
        ("btj,jhd->bthd", "N,L,4", "N,L,3,2", (4, 3, 2), ["MatMul", "Reshape"]),
        ("btj,jhd->bhtd", "N,L,4", "N,3,L,2", (4, 3, 2), ["MatMul", "Reshape", "Transpose"]),
        ("bij,j->bi", "N,L,4", "N,L", (4,), ["MatMul"]),
        ("bij,ij->b", "N,2,4", "N", (2, 4), ["Reshape", "MatMul"]),
        ("j,jk->k", "4", "3", (4, 3), ["MatMul"]),
    ]  # fmt: skip


@pytest.mark.parametrize(("equation", "read", "made", "weight", "expected"), MATMULS)
def test_it_becomes_a_matmul(
    equation: str, read: str, made: str, weight: tuple[int, ...], expected: list[str]
) -> None:
    model = einsum(equation, read, made, normal(*weight))
    is_certified = equation in ("bji,jk->bik", "bthd,dkh->btk", "btj,jhd->bhtd")
    sizes = {"N": 2, "L": 3}
    assert_rewritten(model, NAME, expected, sizes=sizes, certified=is_certified)


@pytest.mark.parametrize(
    ("equation", "read", "made", "weight", "expected"),
    [
        ("jk,bij->bik", "N,L,4", "N,L,3", (4, 3), ["MatMul"]),
        ("jk,bji", "N,4,L", "N,L,3", (4, 3), ["MatMul", "Transpose"]),
        ("dkh,bthd->btk", "N,L,2,4", "N,L,3", (4, 3, 2), ["Reshape", "MatMul"]),
    ],
)
def test_the_constant_may_come_first(
    equation: str, read: str, made: str, weight: tuple[int, ...], expected: list[str]
) -> None:
    model = einsum(equation, read, made, normal(*weight), is_first=True)
    assert_rewritten(model, NAME, expected, sizes={"N": 2, "L": 3})


@pytest.mark.parametrize(("kind", "dtype"), [("double", np.float64), ("float16", np.float16)])
def test_other_types(kind: str, dtype: npt.DTypeLike) -> None:
    model = einsum("bij,kj->bik", "N,2,4", "N,2,3", normal(3, 4, dtype=dtype), kind=kind)
    if kind == "float16":  # for which onnxruntime has no Einsum
        assert operators(run_pass(model, NAME).to_proto()) == ["MatMul"]
    else:
        assert_rewritten(model, NAME, ["MatMul"], certified=True)


@pytest.mark.parametrize(
    ("equation", "read", "made", "weight", "reason"),
    [
        ("bij,bjk->bik", "2,3,4", "2,3,3", (2, 4, 3), Why.NOT_A_PRODUCT),  # of a batch
        ("bij,jk->bk", "2,3,4", "2,3", (4, 3), Why.NOT_A_PRODUCT),  # a sum over i
        ("bij,jk->bi", "2,3,4", "2,3", (4, 3), Why.NOT_A_PRODUCT),  # a sum over k
        ("bij,j->bij", "2,3,4", "2,3,4", (4,), Why.NOT_A_PRODUCT),  # a scale
        ("bi,k->bik", "2,3", "2,3,4", (4,), Why.NOT_A_PRODUCT),  # an outer product
        ("bii,ik->bk", "2,4,4", "2,3", (4, 3), Why.NOT_A_PRODUCT),  # a diagonal
        ("bij,jj->bi", "2,3,4", "2,3", (4, 4), Why.NOT_A_PRODUCT),
        ("bij,...j->bi...", "2,3,4", "2,3,3", (3, 4), Why.NOT_A_PRODUCT),
        ("jbi,jk->bik", "4,2,3", "2,3,3", (4, 3), Why.NOT_LAST_AXES),
        ("bjid,jkd->bik", "2,4,3,5", "2,3,3", (4, 3, 5), Why.NOT_LAST_AXES),
        ("bjdi,jdk->bik", "2,4,5,3", "2,3,3", (4, 5, 3), Why.NOT_LAST_AXES),
        ("bji,jkl->bkli", "2,4,3", "2,3,2,3", (4, 3, 2), Why.NOT_LAST_AXES),
        ("bij,jk->bik", "2,3,J", "2,3,3", (4, 3), Common.SHAPE_UNKNOWN),
        ("bij,jk->bik", "2,3,1", "2,3,3", (4, 3), Common.SHAPE_UNKNOWN),  # it is repeated
    ],
)
def test_refused(
    equation: str, read: str, made: str, weight: tuple[int, ...], reason: Refusal
) -> None:
    assert_refused(einsum(equation, read, made, normal(*weight)), NAME, reason)


def test_an_overridable_constant_is_refused() -> None:
    model = make_overridable(einsum("bij,jk->bik", "2,3,4", "2,3,3", normal(4, 3)), "w")
    assert_refused(model, NAME, Common.WEIGHT_OVERRIDABLE)


@pytest.mark.parametrize(
    "line",
    [
        'y = Einsum<equation="ij,jk->ik">(x, z)',
        'y = Einsum<equation="ij->ji">(x)',
        'y = Einsum<equation="ij,jk,kl->il">(x, w, w)',
        'y = Einsum<equation="ij,jk->ik">(n, i)',
    ],
)
def test_others_are_left_alone(line: str) -> None:
    weights: Parameters = {"w": normal(3, 3), "i": np.ones((3, 3), np.int64)}
    read = named_in(line, weights)
    kind = "int64" if "(n," in line else "float"
    interface = f"(float[3,3] x, float[3,3] z, int64[3,3] n) => ({kind}[a,b] y)"
    record = run_pass(build(f"{interface} {{ {line} }}", **read), NAME).record
    assert not record.rewrites
    assert not record.refusals


def test_a_constant_that_fits_is_not_stored_twice() -> None:
    model = einsum("bij,jk->bik", "2,3,4", "2,3,3", normal(4, 3))
    optimized = run_pass(model, NAME).to_proto()
    assert [tensor.name for tensor in optimized.graph.initializer] == ["w"]


def test_what_is_done_with_a_matmul_is_done() -> None:
    model = build(
        "(float[N,6] x) => (float[N,5] y) "
        '{ a = Einsum<equation="bi,ji->bj">(x, w) c = Add(a, d) '
        "y = BatchNormalization(c, s, b, m, v) }",
        w=normal(5, 6),
        d=normal(5),
        **batch_norm(5),
    )
    passes = NAME, "fold-batchnorm", "fold-scale-shift"
    optimized = run_pass(model, *passes).to_proto()
    assert operators(optimized) == ["Gemm"]
    assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-5, atol=1e-5)
    assert {each.verdict for each in certificates(model, *passes)} == {"certified"}


@pytest.mark.parametrize("size", [1, 3])
def test_a_product_that_is_one_number_is_certified(size: int) -> None:
    model = build(
        '(float[SIZE] x) => (float z) { z = Einsum<equation="u,u->">(w, x) }'.replace(
            "SIZE", str(size)
        ),
        w=normal(size),
    )
    assert [each.verdict for each in certificates(model, NAME)] == ["certified"]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_subscripts(data: st.DataObject) -> None:
    """What is rewritten is equal; what is a product of the last axes is rewritten."""
    sizes = {letter: data.draw(st.integers(1, 3)) for letter in "abcdef"}
    own = data.draw(st.permutations("abcd"))[: data.draw(st.integers(1, 4))]
    summed = own[data.draw(st.integers(0, len(own) - 1)) :]
    added = list("ef")[: data.draw(st.integers(0, 2))]
    other = data.draw(st.permutations([*summed, *added]))
    kept = own[: len(own) - len(summed)]
    made = data.draw(st.permutations([*kept, *added])) or kept
    if not made:
        return
    read, result = (",".join(str(sizes[each]) for each in labels) for labels in (own, made))
    weight = normal(*(sizes[letter] for letter in other))
    equation = f"{''.join(own)},{''.join(other)}->{''.join(made)}"
    model = einsum(equation, read, result, weight)
    optimized = run_pass(model, NAME).to_proto()
    assert "Einsum" not in operators(optimized)
    assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-5, atol=1e-5)
