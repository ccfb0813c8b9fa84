"""Free sizes are chosen such that what is computed from several inputs fits together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.sizes import joining
from bnfold.proof.certificates.sizes.joining import with_joins_fitting
from bnfold.proof.certificates.sizes.sizing import Shapes
from bnfold.proof.certificates.windows import Window
from tests.support.graphs import Array, Parameters, batch_norm, normal
from tests.support.slow import few
from tests.support.windows import affine_of, scaled, usual, window

pytestmark = pytest.mark.usefixtures("without_weights")


def parallel(
    kernels: Sequence[int],
    attributes: str = "group=1",
    join: str = "Concat<axis=1>",
    rank: int = 2,
    last: Array | None = None,
) -> Window:
    """Return Convs of inputs of their own, joined, with what follows, and what these fold to."""
    places = range(len(kernels))
    old: Parameters = {f"k{at}": normal(2, 3, *[kernels[at]] * rank, seed=at) for at in places}
    is_joined = join.startswith("Concat")
    old |= batch_norm(2 * len(kernels) if is_joined else 2)
    scale, shift = affine_of(old)
    new: Parameters = {}
    for at in places:
        part = slice(2 * at, 2 * at + 2) if is_joined else slice(0, 2)
        new[f"k{at}"] = scaled(old[f"k{at}"], scale[part])
        added = shift[part] if is_joined or at == 0 else np.zeros(2)
        new[f"d{at}"] = added.astype(np.float32)
    if last is not None:
        new[f"k{places[-1]}"] = last
    inputs = ", ".join(
        f"float[N,3,{','.join(f'S{at}{i}' for i in range(rank))}] x{at}" for at in places
    )
    made = ", ".join(f"c{at}" for at in places)
    convs = [f"c{at} = Conv<{attributes}>(x{at}, k{at}" for at in places]
    return window(
        f"({inputs}) => (float[N,M,{','.join('t' * rank)}] y)",
        f"{') '.join(convs)}) j = {join}({made}) y = BatchNormalization(j, s, b, m, v)",
        f"{' '.join(f'{conv}, d{at})' for at, conv in enumerate(convs))} y = {join}({made})",
        old,
        new,
    )


JOINS = ("Concat<axis=1>", "Sum")
ATTRIBUTES = ("group=1", "strides=[2,2]", "strides=[3,1], pads=[1,0,1,0]", "dilations=[2,2]")
KERNELS = ((3, 5), (1, 3, 4), (5, 3))


@pytest.mark.parametrize(
    ("kernels", "attributes", "join"),
    few(
        itertools.product(KERNELS, ATTRIBUTES, JOINS),
        list(zip(itertools.cycle(KERNELS), [*ATTRIBUTES] * 2, itertools.cycle(JOINS))),
    ),
)
def test_inputs_may_be_padded_each_for_its_own_kernel(
    kernels: tuple[int, ...], attributes: str, join: str
) -> None:
    found = certify(parallel(kernels, attributes, join))
    assert (found.verdict, found.kind) == ("certified", "linear"), found
    for shapes in found.shapes[: len(usual(parallel(kernels, attributes, join)))]:
        assert shapes["x0"][:2] == shapes["x1"][:2]
        assert (shapes["x0"] < shapes["x1"]) == (kernels[0] < kernels[1])
    wrong = normal(2, 3, *[kernels[-1]] * 2, seed=5)
    assert certify(parallel(kernels, attributes, join, last=wrong)).verdict == "differs"


@pytest.mark.parametrize("rank", [1, 3])
def test_along_any_axis(rank: int) -> None:
    assert certify(parallel((1, 3), rank=rank)).verdict == "certified"


def fitted(interface: str, body: str, **weights: Array) -> list[tuple[Shapes, Shapes]]:
    """Return the shapes that were chosen, and those that fit."""
    pair = window(f"({interface}) => (float[A,B,C,D] y)", body, body, weights)
    return [(each.shapes, with_joins_fitting(pair, each).shapes) for each in usual(pair)]


def test_a_pool_beside_a_conv() -> None:
    found = fitted(
        "float[N,2,H,W] x, float[N,2,I,J] z",
        "c = Conv(x, k) p = MaxPool<kernel_shape=[3,3]>(z) y = Concat<axis=1>(c, p)",
        k=normal(2, 2, 2, 4),
    )
    for chosen, fit in found:
        assert fit["x"] == (*chosen["x"][:3], chosen["x"][3] + 1)
        assert fit["z"] == (*chosen["z"][:2], chosen["z"][2] + 1, chosen["z"][3])


def test_a_larger_map_is_made_by_a_larger_stride() -> None:
    for _, fit in fitted(
        "float[N,2,H,W] x, float[N,2,I,J] z",
        "c = Conv<strides=[8,8]>(x, k) y = Add(c, z)",
        k=normal(2, 2, 1, 1),
    ):
        assert [-(-size // 8) for size in fit["x"][2:]] == list(fit["z"][2:])


def test_along_the_axis_of_a_concat_sizes_may_differ() -> None:
    for chosen, fit in fitted(
        "float[N,2,H,W] x, float[N,2,I,J] z",
        "c = Conv(x, k) y = Concat<axis=-2>(c, z)",
        k=normal(2, 2, 2, 2),
    ):
        assert fit["x"] == (*chosen["x"][:3], chosen["x"][3] + 1)
        assert fit["z"] == chosen["z"]


def test_a_constant_says_how_large_what_is_computed_must_be() -> None:
    for _, fit in fitted(
        "float[N,2,H,W] x, float[N,2,I,J] z",
        "c = Conv(x, k) d = Sum(c, w, b) y = Add(d, z)",
        b=normal(1),
        k=normal(2, 2, 2, 2),
        w=normal(1, 2, 19, 19),
    ):
        assert (fit["x"][2:], fit["z"][2:]) == ((20, 20), (19, 19))


def test_inputs_do_not_become_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST_ELEMENTS", 1)
    pair = parallel((1, 3))
    for sizing in usual(pair):
        assert with_joins_fitting(pair, sizing).shapes == sizing.shapes


@pytest.mark.parametrize(
    ("interface", "body"),
    [
        ("float[N,2,H,W] x", "c = Conv(x, k) y = Concat<axis=1>(c, x)"),  # of one input
        ("float[N,2,9,9] x, float[N,2,8,8] z", "c = Conv(x, k) y = Sum(c, z)"),  # known
        ("float[N,2,H,W] x, float[N,2,1,1] z", "c = Conv(x, k) y = Mul(c, z)"),  # spread
        ("float[N,2,H,W] x, float[M,2] z", "c = Conv(x, k) m = MatMul(z, z) y = Add(c, m)"),
        ("float[N,2,H,W] x, float[N,2,I,J] z", "y = Sum(x, z)"),  # they fit
        ("float[N,2,H,W] x, float[N,2,I,J] z", "c = Conv(x, k) y = MatMul(c, z)"),  # by rows
        ("float[N,2,H,W] x, float[N,2,I] z", "y = Concat<axis=1>(x, z)"),  # of other ranks
        (
            "float[N,2,H,W] x, float[N,2,I,J] z",
            "g = GlobalAveragePool(z) y = Mul(x, g)",  # spread, whatever the size
        ),
    ],
)
def test_what_fits_or_cannot_stays(interface: str, body: str) -> None:
    for chosen, fit in fitted(interface, body, k=normal(2, 2, 2, 2)):
        assert fit == chosen


@pytest.mark.parametrize(("shape", "axis"), [("I", 3), ("I,1", 2), ("1,J,1", 2)])
def test_operands_of_fewer_axes_have_the_sizes_of_the_last_ones(shape: str, axis: int) -> None:
    for _, fit in fitted(f"float[N,2,H,W] x, float[{shape}] z", "y = Add(x, z)"):
        assert max(fit["z"]) == fit["x"][axis]


def test_parameters_of_a_normalization_are_no_operands_beside_it() -> None:
    interface = "float[N,C,H,W] x, float[I] z"
    for chosen, fit in fitted(interface, "y = BatchNormalization(x, z, z, z, z)"):
        assert fit == chosen
