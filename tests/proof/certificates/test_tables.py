"""Rows of constant tables: proven for all indices, and never for wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.proof.certificates import tables
from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.tables import with_tables_as_products
from bnfold.proof.certificates.windows import NotShown, Window
from tests.support.evaluate import run_plain
from tests.support.graphs import Array, Parameters, batch_norm, build, normal
from tests.support.windows import affine_of, window

INTERFACE = "(int64[N,3] i) => (float[N,4,3] y)"
BEFORE = "e = Gather(t, i) f = Transpose<perm=[0,2,1]>(e) y = BatchNormalization(f, s, b, m, v)"
AFTER = "e = Gather(t, i) y = Transpose<perm=[0,2,1]>(e)"


def folded(table: Array, parameters: Parameters) -> Array:
    scale, shift = affine_of(parameters)
    return (table.astype(np.float64) * scale + shift).astype(np.float32)


def pair(after: str = AFTER, change: Any = None, **parameters: Array) -> Window:
    """Return a BatchNormalization of rows, and the rows of a table that is folded and changed."""
    table, parameters = normal(6, 4), {**batch_norm(4), **parameters}
    new = folded(table, parameters)
    if change is not None:
        change(new)
    return window(INTERFACE, BEFORE, after, {"t": table, **parameters}, {"t": new})


def test_a_table_that_took_the_map_is_proven_for_all_indices() -> None:
    found = certify(pair())
    assert (found.verdict, found.kind) == ("certified", "linear")


def test_a_shift_beside_which_the_rows_hardly_differ() -> None:
    """Their differences are the rounding of the table, which is as fine as the rows need."""
    found = certify(pair(s=np.full(4, 1e-3, np.float32)))
    assert found.verdict == "certified"


def one_row(table: Array) -> None:
    table[5] *= np.float32(1.001)


def first_row(table: Array) -> None:
    table[0, 3] += np.float32(1e-3)


def swapped(table: Array) -> None:
    table[[1, 2]] = table[[2, 1]]


@pytest.mark.parametrize("change", [first_row, swapped])
def test_a_wrong_table_is_not_certified(change: Any) -> None:
    assert certify(pair(change=change)).verdict != "certified"


@pytest.mark.parametrize(
    ("of", "row", "change"),
    [
        ("", (4, 2), None),
        ("N", (), None),
        ("", (), one_row),
        ("N", (4, 2, 3), one_row),
    ],
)
def test_rows_of_any_rank(of: str, row: tuple[int, ...], change: Any) -> None:
    table, k = (
        normal(6, *row),
        np.array([3, -2, 0.5, 7], np.float32).reshape(4, *[1] * len(row[1:])),
    )
    k = k if row else k[:1].reshape(())
    new = table * k
    if change is not None:
        change(new)
    sizes = ",".join([*filter(None, [of]), *map(str, row)])
    found = certify(
        window(
            f"(int64{f'[{of}]' if of else ''} i) => (float[{sizes}] y)",
            "e = Gather(t, i) y = Mul(e, k)",
            "y = Gather(t, i)",
            {"t": table, "k": k},
            {"t": new},
        )
    )
    assert (found.verdict == "certified") == (change is None)


@pytest.mark.parametrize(
    "after",
    [
        "e = Gather(t, i) g = Transpose<perm=[0,2,1]>(e) h, k = Split<axis=2>(g, parts) "
        "y = Concat<axis=2>(k, h)",
        "e = Gather(t, i) g = ReduceMean<axes=[1]>(e) h = Transpose<perm=[0,2,1]>(g) "
        "y = Concat<axis=2>(h, h, h)",
    ],
)
def test_rows_at_other_places_are_not_certified(after: str) -> None:
    """At each place the same row: there they are equal."""
    made = pair()
    new = {"t": folded(normal(6, 4), batch_norm(4))}
    if "parts" in after:
        new["parts"] = np.array([1, 2])
    wrong = window(INTERFACE, BEFORE, after, {"t": normal(6, 4), **batch_norm(4)}, new)
    feeds = {"i": np.full((2, 3), 4)}
    (one,), (other,) = (run_plain(model, feeds) for model in (made.before, wrong.after))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert certify(wrong).verdict != "certified"


def test_another_input_beside_the_rows() -> None:
    scale, shift = affine_of(batch_norm(4))
    found = certify(
        window(
            "(int64[N] i, float[N,4] x) => (float[N,4] y)",
            "e = Gather(t, i) f = Add(e, x) y = BatchNormalization(f, s, b, m, v)",
            "e = Gather(u, i) f = Mul(x, k) y = Add(e, f)",
            {"t": normal(6, 4), **batch_norm(4)},
            {
                "u": (normal(6, 4).astype(np.float64) * scale + shift).astype(np.float32),
                "k": scale.astype(np.float32),
            },
        )
    )
    assert found.verdict == "certified"


@pytest.mark.parametrize(
    ("lines", "table", "reason"),
    [
        ("y = Gather<axis=1>(t, i)", normal(6, 4), "not rows"),
        ("y = Gather(t, i)", np.array(2, np.float32), "not rows"),
        ("e = Gather(t, i) z = Relu(e) y = Neg(z)", normal(6, 4), "no table"),
        ("e = Gather(t, i) c = Cast<to=1>(i) r = Reshape(c, one) y = Add(e, r)", normal(6, 4),
         "not rows"),
        ("y = Gather(t, i)", normal(9, 4), "too long"),
        ("e = Gather(t, i) f = Gather(u, i) y = Add(e, f)", normal(6, 4), "several lengths"),
    ],
)  # fmt: skip
def test_other_uses_of_integers(
    lines: str, table: Array, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 8)
    weights: Parameters = {"t": table}
    if "one" in lines:
        weights["one"] = np.array([-1, 1])
    if "(u, " in lines:
        weights["u"] = normal(5, 4)
    model = build(f"(int64[N] i) => (float[a] y) {{ {lines} }}", **weights)
    with pytest.raises(NotShown, match=reason):
        with_tables_as_products(Window(model, model))


def test_the_product_is_what_is_picked() -> None:
    made = with_tables_as_products(pair()).after
    (vectors,) = made.graph.input
    assert [dim.dim_value for dim in vectors.type.tensor_type.shape.dim][1:] == [3, 5]
    for output in made.graph.output:
        output.CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    index = np.array([[0, 5, 2]])
    hot = np.eye(6, 5, dtype=np.float32)[index]
    (expected,) = run_plain(pair().after, {"i": index})
    (found,) = run_plain(made, {"i": hot})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
