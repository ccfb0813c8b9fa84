"""The sizes at which a window is proven keep all that happens at its borders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.sizes.sizing import require_small, sizings
from bnfold.proof.certificates.windows import NotShown, Window
from tests.support.graphs import Array, Parameters, batch_norm, build, normal
from tests.support.slow import few
from tests.support.windows import usual, window

CONV = "y = Conv<pads=[1,1,1,1], strides=[{0},{0}]>(x, w)"


def of(sizes: str, body: str, **weights: Array) -> Window:
    return window(f"(float[{sizes}] x) => (float[y] y)", body, body, weights)


def shapes(pair: Window) -> list[tuple[int, ...]]:
    return [sizing.shapes["x"] for sizing in usual(pair)]


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_a_map_is_shrunk_to_a_size_with_the_same_rest(stride: int) -> None:
    (found,) = shapes(of("1,4,224,100", CONV.format(stride), w=normal(4, 4, 3, 3)))
    for size, whole in zip(found[2:], (224, 100), strict=True):
        assert 2 + stride <= size < 2 + 2 * stride
        assert (whole - size) % stride == 0


@pytest.mark.parametrize(("stride", "rests"), [(1, 1), (2, 2), (3, 3), (16, 8)])
def test_free_sizes_leave_each_rest(stride: int, rests: int) -> None:
    found = shapes(of("N,4,H,W", CONV.format(stride), w=normal(4, 4, 3, 3)))
    assert len({shape[2] % stride for shape in found}) == rests


@pytest.mark.parametrize(
    ("sizes", "body", "rests"),
    [
        ("M", "y = Slice(x, a, b, a, c)", 6),
        ("N,M", "y = Slice(x, a, b, d, c)", 6),
        ("N,9", "y = Slice(x, a, b, d, c)", 2),
        ("N,4,H,W", f"a = {CONV.format(7)[4:]} y = Transpose(a)", 7),
        ("N,4,H,W", "s = Shape(x) t = Div(s, c) y = Expand(x, t)", 6),
        ("N,4,H,W", "y = Transpose(x)", 2),
    ],
)
def test_free_sizes_leave_each_rest_also_where_positions_mix(
    sizes: str, body: str, rests: int
) -> None:
    numbers = {"a": np.array([0]), "b": np.array([2**62]), "c": np.array([6]), "d": np.array([1])}
    found = shapes(of(sizes, body, w=normal(4, 4, 3, 3), **numbers))
    free = [at for at, size in enumerate(sizes.split(",")) if size in "MHW" or size == sizes]
    for axis in free:
        assert len({shape[axis] % rests for shape in found}) == rests
    assert rests <= len(found) <= rests + 1
    assert not free or any(len({shape[axis] for axis in free}) == len(free) for shape in found)


def test_too_many_rests_have_no_example() -> None:
    with pytest.raises(NotShown, match="leave 17 rests"):
        sizings(of("N,4,H,W", f"a = {CONV.format(17)[4:]} y = Transpose(a)", w=normal(4, 4, 3, 3)))


def test_rows_stay_where_one_is_repeated() -> None:
    text = "(float[2,1,4] x, float[2,3,4] z) => (float[2,3,4] y)"
    body = "a = MatMul(x, w) y = Add(a, z)"
    (found,) = sizings(window(text, body, body, {"w": normal(4, 4)}))
    assert found.shapes == {"x": (1, 1, 4), "z": (1, 3, 4)}


def test_one_sample_of_a_fixed_batch_is_enough_where_samples_do_not_mix() -> None:
    (found,) = sizings(of("8,4,9,9", CONV.format(1), w=normal(4, 4, 3, 3)))
    assert (found.shapes["x"][0], found.batched, found.shrunk) == (1, True, True)
    (found,) = sizings(of("8,4", "y = Mul(x, g)", g=normal(8, 1)))
    assert (found.shapes["x"][0], found.stackable) == (8, False)
    (found,) = sizings(of("8,4", "y = Reshape(x, a)", a=np.array([4, 8])))
    assert (found.shapes["x"][0], found.batched) == (8, False)


def test_small_maps_stay() -> None:
    assert shapes(of("1,4,3,3", CONV.format(1), w=normal(4, 4, 3, 3))) == [(1, 4, 3, 3)]


def test_what_varies_over_the_map_is_not_shrunk() -> None:
    body = CONV.format(1).replace("(x", "(a")
    found = shapes(of("1,4,50,60", f"a = Mul(x, g) {body}", w=normal(4, 4, 3, 3), g=normal(50, 60)))
    assert found == [(1, 4, 50, 60)]


@pytest.mark.parametrize("operator", ["Add", "Sum"])
def test_what_is_added_over_the_map_keeps_its_size(operator: str) -> None:
    assert shapes(of("1,4,5,6", f"y = {operator}(x, g)", g=normal(5, 6))) == [(1, 4, 5, 6)]
    (free, *_) = shapes(of("N,4,H,W", f"y = {operator}(x, g)", g=normal(5, 6)))
    assert free[2:] == (5, 6)


def test_channels_shrink_where_all_are_alike() -> None:
    body = "a = Elu(x) y = MaxPool<kernel_shape=[2,2]>(a)"
    assert shapes(of("1,256,9,9", body))[0][1] == 1
    norm = "a = BatchNormalization(x, s, b, m, v) y = MaxPool<kernel_shape=[2,2]>(a)"
    assert shapes(of("1,256,9,9", norm, **batch_norm(256)))[0][1] == 256


def test_rows_shrink_to_one() -> None:
    assert shapes(of("1,197,4", "y = MatMul(x, w)", w=normal(4, 5))) == [(1, 1, 4)]
    assert shapes(of("1,4,4", "y = MatMul(w, x)", w=normal(4, 4))) == [(1, 4, 4)]


def test_free_sizes_go_beyond_what_is_cut() -> None:
    body = "y = Slice(x, a, b, c)"
    ends = {"a": np.array([-40]), "b": np.array([2**62])}
    assert all(s[1] > 40 and s[0] < 5 for s in shapes(of("N,M", body, **ends, c=np.array([1]))))
    assert all(s[0] > 40 for s in shapes(of("N,M", body, **ends, c=np.array([0]))))
    assert all(s[0] > 40 for s in shapes(of("N,M", body, **ends, c=np.array([-2]))))
    ends["a"] = np.array([9000])
    with pytest.raises(NotShown, match="9000"):
        sizings(of("N,M", body, **ends, c=np.array([1])))


def test_a_batch_has_more_than_one_size_where_samples_may_mix() -> None:
    assert {s[0] for s in shapes(of("N,4", "y = Reshape(x, a)", a=np.array([2, -1])))} == {2, 3}


def test_sizes_of_one_name_are_the_same() -> None:
    text = "(float[N,M] x, float[M,K] z) => (float[N,K] y)"
    for sizing in sizings(window(text, "y = MatMul(x, z)", "y = MatMul(x, z)")):
        assert sizing.shapes["x"][1] == sizing.shapes["z"][0]


def test_a_squeeze_of_any_axes_has_no_example() -> None:
    assert shapes(of("1,4", "y = Squeeze(x)")) == [(1, 4)]
    with pytest.raises(NotShown, match="squeezes"):
        sizings(of("N,4", "y = Squeeze(x)"))


def test_a_rank_that_is_not_known_is_an_answer() -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(NotShown, match="axes"):
        sizings(Window(model, model))


def test_inputs_that_are_too_large_are_an_answer() -> None:
    with pytest.raises(NotShown, match="too large"):
        require_small(sizings(of("1,64,1024,1024", "y = Transpose(x)")))


@pytest.mark.parametrize(
    ("sizes", "body", "found"),
    [
        ("1,C,4,4", "a = Conv<group=2>(x, w) y = Reshape(a, s)", (1, 6, 4, 4)),
        ("N,T,K", "y = MatMul(x, m)", (2, 1, 7)),
        ("1,K,9", "a = MatMul(m, x) y = Reshape(a, s)", (1, 4, 9)),
        ("1,K", "y = Gemm(x, m)", (1, 7)),
        ("1,K", "y = Gemm<transB=1>(x, m)", (1, 4)),
        ("M,1", "y = Gemm<transA=1>(x, m)", (7, 1)),
        ("1,T,K", "y = Add(x, v)", (1, 1, 9)),
        ("1,C,4", "a = BatchNormalization(x, v, v, v, v) y = Reshape(a, s)", (1, 9, 4)),
    ],
)
def test_free_sizes_are_those_that_constants_ask_for(
    sizes: str, body: str, found: tuple[int, ...]
) -> None:
    weights = {"w": normal(4, 3, 1, 1), "m": normal(7, 4), "v": np.ones(9, np.float32)}
    chosen = shapes(of(sizes, body, s=np.array([-1]), **weights))[0]
    free = [at for at, size in enumerate(sizes.split(",")) if size in "CKM"]
    assert [chosen[at] for at in free] == [found[at] for at in free]


UP = "u = Resize(b, , scales) c = Concat<axis=1>(u, a) y = Conv<pads=[1,1,1,1]>(c, w)"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (("1,2,40,60", "1,3,20,30"), [(12, 6), (12, 6)]),
        (("1,2,8,60", "1,3,4,30"), [(8, 4), (12, 6)]),
        (("1,2,H,W", "1,3,h,w"), [(12, 6), (12, 6)]),
    ],
)
def test_inputs_shrink_together(sizes: tuple[str, str], expected: list[tuple[int, int]]) -> None:
    pair = window(
        f"(float[{sizes[0]}] a, float[{sizes[1]}] b) => (float[y] y)",
        UP,
        UP,
        {"scales": np.array([1, 1, 2, 2], np.float32), "w": normal(4, 5, 3, 3)},
    )
    found = sizings(pair)[0].shapes
    assert list(zip(found["a"][2:], found["b"][2:], strict=True)) == expected


def test_inputs_of_sizes_that_do_not_go_together_stay() -> None:
    body = "g = GlobalAveragePool(b) m = Mul(a, g) y = Conv<pads=[1,1,1,1]>(m, w)"
    interface = "(float[1,2,40,60] a, float[1,2,50,60] b) => (float[y] y)"
    found = sizings(window(interface, body, body, {"w": normal(4, 2, 3, 3)}))[0].shapes
    assert found["a"][2] == 40
    assert found["b"][2] == 50
    assert found["a"][3] == found["b"][3] < 10


@pytest.mark.parametrize(
    ("slices", "is_small"),
    [
        (("[1]", "[9223372036854775807]", "[3]", "[2]"), True),
        (("[1]", "[99]", "[3]", "[2]"), False),
        (("[-3]", "[9223372036854775807]", "[3]", "[1]"), False),
        (("[99]", "[-9223372036854775807]", "[3]", "[-1]"), False),
        (("[1]", "[9223372036854775807]", "[1]", "[2]"), False),
    ],
)
def test_slices_to_the_end(slices: tuple[str, ...], *, is_small: bool) -> None:
    body = "s = Slice(x, b, e, a, t) y = Conv<pads=[1,1,1,1]>(s, w)"
    given = {name: np.array(json.loads(text)) for name, text in zip("beat", slices, strict=True)}
    channels = 2 if slices[2] == "[1]" else 4
    (found,) = sizings(of("1,4,60,100", body, w=normal(4, channels, 3, 3), **given))
    assert (found.shapes["x"][3] < 20) == is_small


@pytest.mark.parametrize(
    ("attributes", "is_small"),
    [("strides=[2,2]", True), ("output_shape=[120,200]", False), ('auto_pad="SAME_UPPER"', False)],
)
def test_transposed_convs(attributes: str, *, is_small: bool) -> None:
    body = f"y = ConvTranspose<{attributes}>(x, w)"
    (found,) = sizings(of("1,4,60,100", body, w=normal(4, 3, 3, 3)))
    assert (found.shapes["x"][3] < 20) == is_small
    (free, *_) = sizings(of("N,C,H,W", body, w=normal(4, 3, 3, 3)))
    assert free.shapes["x"][1] == 4


ENDS_FAR: Parameters = {"a": np.array([40]), "b": np.array([-40])}
CUTS = st.integers(-4, 4)
ENDS = st.one_of(CUTS, st.just(2**62))


def test_what_cuts_at_both_ends_leaves_something() -> None:
    assert all(s[0] > 80 for s in shapes(of("N", "y = Slice(x, a, b)", **ENDS_FAR)))


@settings(max_examples=30, deadline=None)
@given(CUTS, ENDS, CUTS, ENDS, st.data())
def test_slices_are_compared_at_sizes_of_which_they_leave_little(
    a: int, b: int, c: int, d: int, data: st.DataObject
) -> None:
    """One Slice may be two at large sizes and not at small ones."""

    def merged(size: int, start: int, end: int) -> bool:
        numbers = np.arange(size)
        return np.array_equal(numbers[a:b][c:d], numbers[start:end])

    assume(np.arange(19)[a:b][c:d].size)
    starts, ends = range(-8, 9), [*range(-8, 9), 2**62]
    same = [(e, f) for e in starts for f in ends if merged(18, e, f) and merged(19, e, f)]
    e, f = data.draw(st.sampled_from(same)) if same else (a, b)
    numbers = dict(zip("abcdef", (np.array([each]) for each in (a, b, c, d, e, f)), strict=True))
    found = certify(
        window(
            "(float[N] x) => (float[M] y)",
            "s = Slice(x, a, b) y = Slice(s, c, d)",
            "y = Slice(x, e, f)",
            numbers,
        )
    )
    assume(found.note != "its output is empty at the sizes that its proof tried")
    is_same = all(merged(size, e, f) for size in range(1, 19))
    assert found.verdict == ("certified" if is_same else "differs")


SPREADING = [
    ("N,4 M,4", "N,4 N,4", "s = Shape(z) a = Expand(x, s) y = Mul(a, x)", "y = Mul(x, x)"),
    (
        "N,M N,M",
        "N,5 N,5",
        "a = Add(x, c) y = ReduceSum(a, i)",
        "a = ReduceSum(x, i) y = Add(a, d)",
    ),
    ("N,M N,M", "N,5 N,5", "a = Add(x, c) y = MatMul(a, w)", "a = MatMul(x, w) y = Add(a, v)"),
    (
        "N,4 M,4",
        "N,4 N,4",
        "a = Add(x, z) y = ReduceSum(a, j)",
        "a = ReduceSum(x, j) b = ReduceSum(z, j) y = Add(a, b)",
    ),
    (
        "N,3,H,W N,3,I,J",
        "N,3,H,W N,3,H,W",
        "a = Add(x, z) y = Conv<pads=[1,1,1,1]>(a, k)",
        "a = Conv<pads=[1,1,1,1]>(x, k) b = Conv<pads=[1,1,1,1]>(z, k) y = Add(a, b)",
    ),
]


@pytest.mark.parametrize(("sizes", "same", "before", "after"), few(SPREADING, SPREADING[::2]))
def test_a_size_of_one_spreads(sizes: str, same: str, before: str, after: str) -> None:
    c, w = normal(5), normal(5, 3)
    weights: Parameters = {"c": c, "d": c.sum(keepdims=True), "w": w, "v": c @ w}
    weights |= {"i": np.array([1]), "j": np.array([0]), "k": normal(3, 3, 3, 3)}

    def verdict(of: str) -> str:
        x, z = of.split()
        text = f"(float[{x}] x, float[{z}] z) => (float[{','.join('ABCD'[: 1 + x.count(',')])}] y)"
        return certify(window(text, before, after, weights)).verdict

    assert verdict(sizes) in ("differs", "open")
    assert verdict(same) == "certified"


def smaller(inputs: str, body: str, **weights: Array) -> list[list[tuple[int, ...]]]:
    pair = window(f"({inputs}) => (float[A,B] y)", body, body, weights)
    return [list(each.shapes.values()) for each in sizings(pair) if each.is_small]


def test_small_sizes_are_of_all_together_and_of_each_alone() -> None:
    body = "a = Add(x, z) y = Transpose(a)"
    assert smaller("float[N,M] x, float[N,4] z", body) == [
        [(1, 1), (1, 4)],
        [(1, 7), (1, 4)],
        [(2, 1), (2, 4)],
    ]
    assert smaller("float[3,M] x", "y = MatMul(x, w)", w=normal(4, 4)) == [[(1, 1)]]
    assert not smaller("float[N,T,4] x", "y = MatMul(x, w)", w=normal(4, 4))
    assert not smaller("float[N,4,9,9] x", CONV.format(1), w=normal(4, 4, 3, 3))


def test_small_maps_are_tried_up_to_what_shows_borders() -> None:
    found = smaller("float[N,4,H,W] x", CONV.format(2), w=normal(4, 4, 3, 3))
    assert [shapes[0][2:] for shapes in found] == [(1, 1), (2, 2), (3, 3), (1, 4), (4, 1)]


def test_of_many_small_sizes_some_are_tried() -> None:
    ends = {name: np.array([end]) for name, end in zip("abcd", (100, 3000, 20, 900), strict=True)}
    found = smaller("float[N] x", "s = Slice(x, a, b) y = Slice(s, c, d)", **ends)
    assert len(found) == 16
    assert (found[0], found[-1]) == ([(1,)], [(3001,)])


def test_the_product_of_sizes_is_that_of_those_that_are_chosen() -> None:
    text = "(float[P,4] h, float[A,B,4] x) => (float[i,j,k] y)"
    pair = window(text, "s = Shape(x) y = Reshape(h, s)", "s = Shape(x) y = Reshape(h, s)")
    for model in pair.models:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "bnfold.product: A × B"
    for sizing in sizings(pair):
        one, other, _ = sizing.shapes["x"]
        assert sizing.shapes["h"] == (one * other, 4)
    assert {sizing.shapes["x"][:2] for sizing in sizings(pair)} >= {(1, 1), (1, 7), (2, 1)}


@pytest.mark.parametrize(
    ("product", "step"),
    [
        ("bnfold.product: bnfold.number: 4 × A", 4),
        ("bnfold.product: bnfold.number: 12 × A", 12),
        ("bnfold.product: A × B", 1),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_multiple_of_sizes_that_no_input_has_is_one(product: str, step: int, axis: int) -> None:
    text = "(float[P,Q,4] x) => (float[i,j,k] y)"
    pair = window(text, "y = ReduceMean<axes=[1]>(x)", "y = ReduceMean<axes=[1]>(x)")
    for model in pair.models:
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = product
    chosen = sizings(pair)
    sizes = {sizing.shapes["x"][axis] for sizing in chosen if not sizing.is_small}
    assert {size % step for sizing in chosen for size in (sizing.shapes["x"][axis],)} == {0}
    assert len(sizes) > 1
    assert min(sizes) > step


def test_multiples_of_one_size_are_chosen_together() -> None:
    text = "(float[P,4] h, float[Q,4] x) => (float[i,j] y)"
    pair = window(text, "y = Concat<axis=0>(h, x)", "y = Concat<axis=0>(h, x)")
    for model in pair.models:
        for value, number in zip(model.graph.input, (4, 6), strict=True):
            size = f"bnfold.product: bnfold.number: {number} × A"
            value.type.tensor_type.shape.dim[0].dim_param = size
    for sizing in sizings(pair):
        if not sizing.is_small:
            assert sizing.shapes["h"][0] * 6 == sizing.shapes["x"][0] * 4


SCALES = {"k": normal(4, 1), "l": np.abs(normal(4)), "one": normal(1, 1, 4)}
SCALES["three"] = normal(4, 1, 1)


@pytest.mark.parametrize(
    ("body", "rank"),
    [
        ("m = Mul(x, l) y = Transpose<perm=[2,0,1]>(m)", 3),
        ("t = Transpose<perm=[0,2,1]>(x) e = Neg(t) y = Mul(e, k)", 3),
        ("e = Neg(x) r = Relu(e) t = Transpose<perm=[0,2,1]>(r) y = Mul(t, k)", 3),
        ("t = Transpose<perm=[0,3,1,2]>(x) y = Mul(t, three)", 4),
        ("e = Neg(x) y = Mul(e, l)", 0),
        ("m = Mul(x, one) y = Transpose<perm=[2,0,1]>(m)", 0),  # x may have two axes
        ("m = Mul(x, l) a = Add(m, one) y = Transpose<perm=[2,0,1]>(a)", 0),
        ("s = Shape(x) c = Add(x, z) y = Transpose<perm=[2,0,1]>(c)", 0),
    ],
)
def test_a_rank_that_a_transpose_says(body: str, rank: int) -> None:
    """And the size that a constant asks of the axis that a Transpose moves to its place."""
    pair = window("(float[] x, float[2,3,4] z) => (float[] y)", body, body, SCALES)
    if rank:
        usual_sizes = [each.shapes["x"] for each in usual(pair)]
        assert all(len(shape) == rank and shape[-1] == 4 for shape in usual_sizes)
        assert certify(pair).verdict == "certified"
    else:
        with pytest.raises(NotShown, match="number of axes"):
            sizings(pair)


def test_a_rank_that_only_a_transpose_after_says_is_not_known() -> None:
    """At other ranks, what is replaced runs, too."""
    twice = "a = Transpose<perm=[0,2,1]>(x) b = Transpose<perm=[0,2,1]>(a) y = Neg(b)"
    pair = window("(float[] x) => (float[] y)", "y = Neg(x)", twice)
    with pytest.raises(NotShown, match="number of axes"):
        sizings(pair)


def test_sizes_are_asked_for_through_single_elements() -> None:
    """A size of 1 spreads, and is tried."""
    text = "(float[a,b,c] x) => (float[d,e,f] y)"
    scaled = window(
        text, "r = Relu(x) m = Mul(r, l) y = Neg(m)", "m = Mul(x, l) r = Relu(m) y = Neg(r)", SCALES
    )
    assert {each.shapes["x"][2] for each in usual(scaled)} == {4}
    assert {each.shapes["x"][2] for each in sizings(scaled)} == {1, 4}
    assert certify(scaled).verdict == "certified"
    wrong = window(
        text,
        "r = Relu(x) m = Mul(r, l) y = Neg(m)",
        "m = Mul(x, l) r = Relu(m) y = Neg(r)",
        SCALES,
        {**SCALES, "l": SCALES["l"] * np.array([1, 1, 1.01, 1], np.float32)},
    )
    assert certify(wrong).verdict == "differs"
