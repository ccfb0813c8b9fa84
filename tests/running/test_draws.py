"""The content that is drawn for inputs of which the graph says something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from bnfold.arrays import Array
from bnfold.running.hints import Hints
from bnfold.running.inputs import Inputs
from bnfold.running.runtime import ValueSpec
from bnfold.running.switches import samples_for


def inputs(
    types: Mapping[str, str],
    shape: tuple[int, ...] = (50,),
    *,
    samples: int = 6,
    largest: Mapping[str, int] | None = None,
    signed: bool = False,
    beside: Literal["", "any", "next"] = "",
    overrides: Mapping[str, Array] | None = None,
    turns: bool = False,
    indices: Mapping[str, int] | None = None,
    **hints: Any,
) -> list[Mapping[str, Array]]:
    specs = [ValueSpec(name, f"tensor({kind})", shape) for name, kind in types.items()]
    shapes = [dict.fromkeys(types, shape)]
    known = Hints(dict(indices or {}), **hints)
    made = Inputs(specs, shapes, [{}], 0, samples, largest or {}, known, signed=signed)
    made = replace(made, beside=beside, overrides=overrides or {}, turns=turns)
    return list(made.feeds())


@pytest.mark.parametrize(("kind", "smallest"), [("int64", -27), ("int32", -27), ("uint32", 0)])
def test_what_is_clipped_goes_beyond_both_ends(kind: str, smallest: int) -> None:
    for feeds in inputs({"i": kind}, largest={"i": 100}, clipped={"i"}):
        assert (feeds["i"].min(), feeds["i"].max()) == (smallest, 127)


def test_positions_stay_between_the_ends_and_reach_them() -> None:
    for feeds in inputs({"i": "int64"}, largest={"i": 9}):
        assert (feeds["i"].min(), feeds["i"].max()) == (0, 9)


@pytest.mark.parametrize(
    ("within", "indices", "largest"),
    [
        ([("x", 0, 0)], {}, 50),
        ([("x", 0, 1)], {}, 49),
        ([("x", 0, 1), ("i", 0, 5), ("x", 0, 3)], {}, 45),
        ([("x", 0, 1)], {"i": 9}, 9),
        ([("x", 0, 1)], {"i": 70}, 49),
        ([("x", 0, 60)], {}, 0),
    ],
)
def test_what_sizes_limit_reaches_them(
    within: list[tuple[str, int, int]], indices: dict[str, int], largest: int
) -> None:
    types = {"i": "int64", "x": "float"}
    for feeds in inputs(types, signed=True, indices=indices, within={"i": within}):
        assert (feeds["i"].min(), feeds["i"].max()) == (0, largest)


def test_every_second_sample_is_signed_where_that_is_known_to_work() -> None:
    for signed in (True, False):
        feeds = inputs({"i": "int64", "u": "uint16"}, largest={"i": 9, "u": 9}, signed=signed)
        assert [sample["i"].min() for sample in feeds] == [0, -9 if signed else 0] * 3
        assert {sample["u"].min() for sample in feeds} == {0}


def numbers(feeds: Sequence[Mapping[str, Array]], name: str) -> list[int]:
    return [int(sample[name].reshape(-1)[0]) for sample in feeds]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_number_that_is_compared_takes_each_constant_in_turn(shape: tuple[int, ...]) -> None:
    feeds = inputs({"rate": "int64"}, shape, compared={"rate": [8000, 16000]})
    found = set(numbers(feeds, "rate"))
    assert {8000, 16000} <= found
    assert all(sample["rate"].shape == shape for sample in feeds)
    assert all(sample["rate"].dtype == np.int64 for sample in feeds)


def test_a_number_that_is_compared_takes_those_beside_it_too() -> None:
    feeds = inputs({"rate": "int64"}, (1,), beside="next", compared={"rate": [8, 16]})
    assert sorted(numbers(feeds, "rate")) == [7, 8, 9, 15, 16, 17]
    feeds = inputs({"i": "uint8"}, (1,), beside="next", compared={"i": [0]})
    assert set(numbers(feeds, "i")) == {0, 1}
    specs = [ValueSpec("i", "tensor(int64)", (1,))]
    made = Inputs(
        specs,
        [{"i": (1,)}],
        [{}],
        0,
        6,
        {"i": 8},
        Hints({"i": 8}, compared={"i": [8]}),
        beside="next",
    )
    found = numbers(list(made.feeds()), "i")
    assert set(found[::2]) == {7, 8}
    assert all(0 <= number <= 8 for number in found[1::2])


def test_many_numbers_that_are_compared_are_mixed() -> None:
    for feeds in inputs({"i": "int32"}, (200,), compared={"i": [3, 5]}):
        assert {3, 5} <= set(feeds["i"].tolist())


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_any_two_switches_take_all_combinations(count: int) -> None:
    names = "abcdefgh"[:count]
    samples = samples_for(count)
    feeds = inputs(dict.fromkeys(names, "bool"), (1,), samples=samples)
    states = np.array([[bool(sample[name][0]) for name in names] for sample in feeds])
    for one in range(count):
        for other in range(one):
            assert len({(bool(a), bool(b)) for a, b in states[:, [one, other]]}) == 4
    if count <= 4:
        assert len(np.unique(states, axis=0)) == 2**count
    assert states[0].all()
    assert not states[1].any()


def test_a_ratio_is_between_zero_and_one() -> None:
    for feeds in inputs({"r": "float", "x": "float"}, ratios={"r"}):
        assert 0 < feeds["r"].min() < feeds["r"].max() < 1
        assert feeds["x"].std() > 0.05


def test_overrides_are_in_every_second_sample_and_keep_their_type() -> None:
    content = np.array([1, -2, 4], np.float16)
    feeds = inputs({"x": "float"}, overrides={"w": content})
    assert ["w" in sample for sample in feeds] == [False, True] * 3
    for sample in feeds[1::2]:
        assert sample["w"].dtype == np.float16
        ratio = sample["w"].astype(np.float64) / content
        assert ((ratio > 0.49) & (ratio < 1.51) & (ratio != 1)).all()


def test_overrides_turn_their_signs_in_every_fourth_sample() -> None:
    content = {"w": np.array([1, -2, 0], np.float32), "none": np.zeros((), np.float32)}
    feeds = inputs({"x": "float"}, overrides=content, turns=True)
    signs = [np.sign(sample["w"]).tolist() for sample in feeds[1::2]]
    assert signs == [[1, -1, 0], [-1, 1, 0], [1, -1, 0]]
    for sample in feeds[1::2]:
        assert isinstance(sample["none"], np.ndarray)
        assert sample["none"] != 0


def test_overrides_that_are_no_floats_are_taken_as_they_are() -> None:
    content = {"n": np.array(7), "b": np.array([True, False])}
    for sample in inputs({"x": "float"}, overrides=content)[1::2]:
        assert sample["n"] is content["n"]
        assert sample["b"] is content["b"]


def test_samples_are_drawn_once_unless_they_are_large() -> None:
    specs = [ValueSpec("x", "tensor(float)", (2, 2**22))]
    small, large = (
        Inputs(specs, [{"x": (2, size)}], [{}], 0, 1, {}) for size in (2**20, 2**23 + 1)
    )
    assert next(small.feeds()) is next(small.feeds())
    assert next(replace(small, seed=1).feeds())["x"][0, 0] != next(small.feeds())["x"][0, 0]
    one, other = next(large.feeds()), next(large.feeds())
    assert one is not other
    assert np.array_equal(one["x"], other["x"])


def test_every_second_sample_has_values_near_the_numbers_that_an_input_is_compared_with() -> None:
    feeds = inputs({"x": "float", "z": "float"}, (400,), levels={"x": [-60.0, 200.0]})
    for number, sample in enumerate(feeds):
        near = [np.abs(sample["x"] - level) < 0.5 * abs(level) for level in (-60, 200)]
        shares = [float(each.mean()) for each in near]
        assert sample["x"].dtype == np.float32
        if number % 2:
            assert all(0.08 < share < 0.2 for share in shares)
            for level in (-60, 200):
                assert (sample["x"] > level).any()
                assert (sample["x"] < level).any()
        else:
            assert shares[1] == 0
        assert np.abs(sample["z"]).max() < 100
    (_, sample) = inputs({"x": "float"}, (60,), samples=2, levels={"x": [500.0]})
    assert 20 < np.count_nonzero(sample["x"] > 200) < 40
    (_, sample) = inputs({"x": "float16"}, (400,), samples=2, levels={"x": [0.5]})
    assert 20 < np.count_nonzero(sample["x"] == 0.5) < 80
    (_, sample) = inputs({"x": "float"}, (400,), samples=2, levels={"x": [0.1]})
    is_close = np.abs(sample["x"] - 0.1) < 1e-5
    assert 20 < np.count_nonzero(is_close) < 80
    assert np.abs(sample["x"] - 0.1).min() > 0.1 * 2**-17
    (single, other) = inputs({"x": "float"}, (), samples=2, levels={"x": [100.0]})
    assert single["x"].shape == other["x"].shape == ()
