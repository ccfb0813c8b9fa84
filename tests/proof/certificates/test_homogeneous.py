"""Scales move through functions f(s·x) = s·f(x): the right ones are proven, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.proof.certificates.certificate import certify
from bnfold.proof.certificates.homogeneous import prove_homogeneous
from bnfold.proof.certificates.windows import Window
from bnfold.proof.float64.evaluation import Truth64
from tests.support.graphs import Array, Parameters, normal
from tests.support.slow import few, in_turn
from tests.support.windows import usual, window

MAP = "(float[1,4,4,4] x) => (float[N,o,h,w] y)"
SCALE = np.array([0.25, 1.5, 3, 0.7])
SHIFT = normal(4, seed=1).astype(np.float64)
FILTERS = normal(3, 4, 1, 1).astype(np.float64)
BOUND = normal(4, seed=2).astype(np.float64)
SLOPE = normal(4, 1, 1, seed=3)


def wide(values: Array) -> Array:
    """Let values lie along the channels of a map."""
    return values.reshape(-1, 1, 1).astype(np.float32)


def pair(function: str, other: str = "", *, body: str = "", **changed: Array) -> Window:
    """Return a function of s·x + b before a Conv, and of x + b/s before one that scales.

    What is read after has names that end in 2; some of it may be changed.
    """
    old: Parameters = {
        "s": wide(SCALE),
        "b": wide(SHIFT),
        "b2": wide(SHIFT / SCALE),
        "u": FILTERS.astype(np.float32),
        "u2": (FILTERS * SCALE.reshape(1, 4, 1, 1)).astype(np.float32),
        "k": wide(BOUND),
        "k2": wide(BOUND / SCALE),
        "p": SLOPE,
        "p2": SLOPE,
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "axes": np.array([2, 3]),
    }
    old |= changed
    after = (other or function).replace("k)", "k2)").replace("p)", "p2)")
    return window(
        MAP,
        f"{body or 'm = Mul(x, s) c = Add(m, b)'} {function} y = Conv(t, u)",
        f"c = Add(x, b2) {after} y = Conv(t, u2)",
        old,
    )


def verdict(pair: Window) -> str:
    return certify(pair).verdict


HOMOGENEOUS = [
    *("t = Relu(c)", "t = LeakyRelu(c)", "t = LeakyRelu<alpha=-2.0>(c)", "t = Abs(c)"),
    *("t = PRelu(c, p)", "t = Clip(c, zero)", "t = Max(c, k)", "t = Min(zero, c)"),
    "n = Neg(c) t = Max(c, n, k)",
    "r = Relu(c) t = MaxPool<kernel_shape=[2,2], pads=[1,0,0,1]>(r)",
    "r = MaxPool<kernel_shape=[2,3], strides=[2,1]>(c) t = LeakyRelu(r)",
    "r = Relu(c) t = AveragePool<kernel_shape=[3,3]>(r)",
    *("r = Relu(c) t = GlobalAveragePool(r)", "r = GlobalMaxPool(c) t = Abs(r)"),
    "r = ReduceMax<axes=[2,-1]>(c) t = Relu(r)",
    "r = ReduceMin<axes=[2,3], keepdims=0>(c) a = Abs(r) t = Unsqueeze(a, axes)",
    "r = Relu(c) q = Transpose<perm=[0,2,3,1]>(r) a = Abs(q) t = Transpose<perm=[0,3,2,1]>(a)",
    "r = Relu(c) i = Concat<axis=2>(r, c) t = LeakyRelu(i)",
]


@pytest.mark.parametrize("function", HOMOGENEOUS)
def test_positive_scales(function: str) -> None:
    assert verdict(pair(function)) == "certified"


def negative(values: Array) -> Array:
    return wide(values * [1, 1, -1, 1])


ROW = (SCALE / SCALE[[1, 0, 2, 3]]).reshape(1, 4, 1, 1)
WRONG: dict[str, Parameters] = {
    "a scale too large": {"u2": FILTERS * SCALE.reshape(1, 4, 1, 1) * 1.001},
    "scales of others": {"u2": FILTERS * SCALE[[1, 0, 2, 3]].reshape(1, 4, 1, 1)},
    "scales of filters": {"u2": FILTERS * SCALE[:3].reshape(3, 1, 1, 1)},
    "no scale": {"u2": FILTERS},
    "one that is negative": {"s": negative(SCALE), "b2": negative(SHIFT / SCALE)},
    "one that is 0": {"s": wide(SCALE * [1, 0, 1, 1])},
    "a shift that is not scaled": {"b2": wide(SHIFT)},
    "a shift of others": {"b2": wide((SHIFT / SCALE)[[1, 0, 2, 3]])},
    "a scale along the rows": {"s": SCALE.reshape(4, 1).astype(np.float32)},
    "a scale along the columns": {"s": SCALE.astype(np.float32)},
}


@pytest.mark.parametrize(
    ("wrong", "function"), in_turn(WRONG, [HOMOGENEOUS[at] for at in (0, 1, 4, 6, 9)])
)
def test_wrong_scales(wrong: str, function: str) -> None:
    changed = {name: content.astype(np.float32) for name, content in WRONG[wrong].items()}
    assert verdict(pair(function, **changed)) != "certified"


@pytest.mark.parametrize("scale", [negative(SCALE), wide(-SCALE)])
def test_a_negative_scale_is_none_of_a_relu_even_if_it_is_moved(scale: Array) -> None:
    signs = np.sign(scale)
    u = (FILTERS * (SCALE.reshape(4, 1, 1) * signs)).astype(np.float32)
    for function in ("t = Relu(c)", "t = LeakyRelu(c)", "t = MaxPool<kernel_shape=[2,2]>(c)"):
        wrong = pair(function, s=scale, b2=wide(SHIFT / SCALE) * signs, u2=u)
        assert verdict(wrong) != "certified"


OTHERS = [
    *("Elu", "Celu", "Selu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus"),
    *("Softsign", "Exp", "Erf", "ThresholdedRelu", "Sign", "Softmax<axis=1>"),
]


@pytest.mark.parametrize(
    ("other", "function"),
    in_turn(OTHERS, ["t = {}(c)", "r = Relu(c) t = {}(r)", "r = {}(c) t = Relu(r)"]),
)
def test_functions_with_numbers_of_their_own(other: str, function: str) -> None:
    assert verdict(pair(function.format(other))) != "certified"


@pytest.mark.parametrize(
    "function", ["t = Clip(c, zero, six)", "r = Relu(c) t = Min(r, six)", "t = Max(c, p)"]
)
def test_bounds_that_are_not_scaled(function: str) -> None:
    wrong = pair(function, zero=np.array(0, np.float32), six=np.array(0.5, np.float32))
    assert verdict(wrong) != "certified"


def test_bounds_of_an_older_clip_are_attributes() -> None:
    old = {"s": np.array(2, np.float32), "u": FILTERS.astype(np.float32)}
    new = {"u": (FILTERS * 2).astype(np.float32)}
    function = "r = Relu(c) t = Clip<min=0.0, max=0.5>(r)"
    before = f"c = Mul(x, s) {function} y = Conv(t, u)"
    after = f"c = Identity(x) {function} y = Conv(t, u)"
    assert verdict(window(MAP, before, after, old, new, opset=10)) != "certified"


def test_slopes_of_other_channels() -> None:
    assert verdict(pair("t = PRelu(c, p)", p2=SLOPE[[1, 0, 2, 3]])) != "certified"
    assert verdict(pair("t = PRelu(c, p)", p2=SLOPE * wide(SCALE))) != "certified"


@pytest.mark.parametrize("function", ["t = ReduceMax<axes=[1]>(c)", "t = ReduceMin<axes=[1]>(c)"])
def test_a_maximum_over_channels_of_several_scales(function: str) -> None:
    filters = normal(3, 1, 1, 1)
    wrong = pair(function, u=filters, u2=filters * np.float32(SCALE.mean()))
    assert verdict(wrong) != "certified"


@pytest.mark.parametrize("pool", ["MaxPool<kernel_shape=[2,1]>", "AveragePool<kernel_shape=[2,1]>"])
def test_a_pool_over_positions_of_several_scales(pool: str) -> None:
    s = np.array([0.5, 1, 2, 3], np.float32).reshape(4, 1)
    body = f"{{}} r = Relu(c) p = {pool}(r) t = Abs(p) {{}}"
    wrong = window(
        MAP,
        body.format("c = Mul(x, s)", "y = Neg(t)"),
        body.format("c = Identity(x)", "n = Neg(t) y = Mul(n, s)"),
        {"s": s},
        {"s": s[:3]},
    )
    assert verdict(wrong) != "certified"


def test_channels_last() -> None:
    """As Keras exports a DenseNet: the scale of a normalization has moved into the next Conv."""
    old = {"s": SCALE.astype(np.float32), "b": SHIFT.astype(np.float32)}
    old["u"] = FILTERS.astype(np.float32)
    new = {
        "b": (SHIFT / SCALE).astype(np.float32),
        "u": (FILTERS * SCALE.reshape(1, 4, 1, 1)).astype(np.float32),
    }
    after = "r = Relu(c) t = Transpose<perm=[0,3,1,2]>(r) y = Conv(t, u)"
    text = "(float[1,5,5,4] x) => (float[N,o,h,w] y)"
    before = f"m = Mul(x, s) c = Add(m, b) {after}"
    assert verdict(window(text, before, f"c = Add(x, b) {after}", old, new)) == "certified"
    swapped = new | {"u": new["u"][:, [1, 0, 2, 3]]}
    assert verdict(window(text, before, f"c = Add(x, b) {after}", old, swapped)) != "certified"
    other = after.replace("0,3,1,2", "0,3,2,1")
    assert verdict(window(text, before, f"c = Add(x, b) {other}", old, new)) != "certified"


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("last", ["", "h = Tanh(y0) y = Abs(h)"])
def test_a_batch_normalization_after_a_relu(shift: float, last: str) -> None:
    """Its scale moves before the Relu; its shift, if there is any, stays."""
    bn = {"g": SCALE.astype(np.float32), "e": np.full(4, shift, np.float32)}
    bn |= {"m": np.zeros(4, np.float32), "v": np.ones(4, np.float32)}
    w = normal(4, 4, 1, 1, seed=7)
    scale = bn["g"].astype(np.float64) / np.sqrt(1 + np.float64(np.array(1e-5, np.float32)))
    new = {"w": (w * scale.reshape(4, 1, 1, 1)).astype(np.float32), "e": wide(bn["e"])}
    result = "y0" if last else "y"
    before = f"c = Conv(x, w) r = Relu(c) {result} = BatchNormalization(r, g, e, m, v) {last}"
    after = f"c = Conv(x, w) r = Relu(c) {result} = Add(r, e) {last}"
    assert verdict(window(MAP, before, after, {"w": w, **bn}, new)) == "certified"
    new["w"][2] *= -1
    assert verdict(window(MAP, before, after, {"w": w, **bn}, new)) != "certified"
    bn["g"][2] *= -1
    assert verdict(window(MAP, before, after, {"w": w, **bn}, new)) != "certified"


def test_another_function_reads_the_same_or_nothing_is_shown() -> None:
    """A gate beside the Relu is computed otherwise, but from the same."""
    s, half = wide(SCALE), np.array(0.5, np.float32)
    text = "(float[1,4,4,4] x) => (float[1,4,h,w] y)"
    before = "c = Mul(x, s) r = Relu(c) g = Mul(x, h) e = Exp(g) q = Neg(r) y = Sub(q, e)"
    after = "r = Relu(x) g = Div(x, h) e = Exp(g) q = Mul(r, s) y = Sub(q, e)"
    right = {"s": -s, "h": np.array(2, np.float32)}
    assert verdict(window(text, before, after, {"s": s, "h": half}, right)) == "certified"
    wrong = {"s": -s, "h": np.array(1.99, np.float32)}
    other = window(text, before, after, {"s": s, "h": half}, wrong)
    assert certify(other).verdict != "certified"
    assert prove_homogeneous(other, usual(other)) is None


def test_other_functions() -> None:
    other = pair("t = Relu(c)", "t = Abs(c)")
    assert prove_homogeneous(other, usual(other)) is None


def test_a_channel_without_weights_is_scaled_with_its_shift() -> None:
    w, s, b = normal(4, 4, 1, 1, seed=7), wide(SCALE), wide(SHIFT)
    w[1] = 0
    before = "i = Conv(x, w) m = Mul(i, s) c = Add(m, b) r = Relu(c) y = Neg(r)"
    after = "n = Neg(x) i = Conv(n, w) c = Sub(b, i) r = Relu(c) y = Mul(r, s)"
    old, new = {"w": w, "s": s, "b": b}, {"w": w, "s": -s, "b": wide(SHIFT / SCALE)}
    assert verdict(window(MAP, before, after, old, new)) == "certified"


FUNCTIONS = ["Relu", "LeakyRelu<alpha=0.3>", "Abs", "PRelu", "MaxPool<kernel_shape=[2,1]>", "Clip"]
CHANGES = ["sign", "order", "size", "zero", "slope", "shift", "function", "axis"]


@pytest.mark.parametrize("seed", few(range(40), range(0, 40, 9)))
def test_no_wrong_pair_is_certified(seed: int) -> None:
    generator = np.random.default_rng(seed)
    chosen = [str(each) for each in generator.choice(FUNCTIONS, generator.integers(1, 4))]
    change = CHANGES[seed % len(CHANGES)]
    if change == "slope":
        chosen = ["PRelu"]
    s, b = generator.uniform(0.2, 3, 4), generator.normal(0, 1, 4)
    p, u = generator.normal(0, 1, (4, 1, 1)), generator.normal(0, 1, (2, 4, 1, 1))
    old = {"s": wide(s), "b": wide(b), "p": p, "u": u}
    new = {"b": wide(b / s), "p": p, "u": u * s.reshape(1, 4, 1, 1)}
    at, place = generator.integers(4), int(generator.integers(len(chosen)))
    others = list(chosen)
    if change == "sign":
        old["s"][at] *= -1
        new["b"][at] *= -1
        new["u"][:, at] *= -1 if generator.integers(2) else 1
    elif change == "order":
        new["u"] = u * np.roll(s, 1).reshape(1, 4, 1, 1)
    elif change == "size":
        new["u"][:, at] *= 1.001
    elif change == "zero":
        old["s"][at] = 0
    elif change == "slope":
        new["p"] = np.roll(p, 1)
    elif change == "shift":
        new["b"][at] += 0.01
    elif change == "function":
        chosen[place] = others[place] = "Softplus" if seed % 3 else "HardSwish"
    else:
        old["s"] = s.reshape(4, 1)
    names = ["c", *(f"t{number}" for number in range(len(chosen)))]

    def chain(functions: list[str]) -> str:
        more = {"PRelu": ", p", "Clip": ", z"}
        return " ".join(
            f"{names[n + 1]} = {each}({names[n]}{more.get(each, '')})"
            for n, each in enumerate(functions)
        )

    text = "(float[1,4,4,2] x) => (float[1,o,h,w] y)"
    z = np.zeros((), np.float32)
    wrong = window(
        text,
        f"m = Mul(x, s) c = Add(m, b) {chain(chosen)} y = Conv({names[-1]}, u)",
        f"c = Add(x, b) {chain(others)} y = Conv({names[-1]}, u)",
        {name: np.asarray(content, np.float32) for name, content in old.items()} | {"z": z},
        {name: np.asarray(content, np.float32) for name, content in new.items()} | {"z": z},
    )
    differences = []
    for scale in (1, 10):
        feeds = {"x": scale * generator.standard_normal((1, 4, 4, 2))}
        one, other = (Truth64.of_part(model).outputs(feeds)["y"] for model in wrong.models)
        differences.append(np.abs(one - other).max() / np.abs(one).max())
    assert max(differences) > 1e-5
    assert certify(wrong).verdict != "certified"


GATED = "(float[1,4,4,4] x, float[1,4,1,1] z) => (float[N,o,h,w] y)"


def gated(scale: Array, *, gate: float = 1.0, off: float = 0.0) -> Window:
    """Return (s·x + b)·z before a Conv, and (x + b/s)·kz before one that scales."""
    weights: Parameters = {
        "s": wide(scale),
        "b": wide(SHIFT),
        "b2": wide(SHIFT / scale + off),
        "k": np.array(gate, np.float32),
        "u": FILTERS.astype(np.float32),
        "u2": (FILTERS * (scale / gate).reshape(1, 4, 1, 1)).astype(np.float32),
    }
    return window(
        GATED,
        "m = Mul(x, s) c = Add(m, b) t = Mul(c, z) y = Conv(t, u)",
        "c = Add(x, b2) g = Mul(k, z) t = Mul(c, g) y = Conv(t, u2)",
        weights,
    )


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("gate", [1.0, 0.3, -2.5])
def test_scales_of_both_factors_move_through_a_product(sign: int, gate: float) -> None:
    assert verdict(gated(sign * SCALE, gate=gate)) == "certified"
    assert verdict(gated(sign * SCALE, gate=gate, off=0.01)) == "differs"


def test_a_shift_or_another_factor_is_no_scale() -> None:
    weights: Parameters = {"b": wide(SHIFT), "u": FILTERS.astype(np.float32)}
    shifted = window(
        GATED,
        "c = Add(x, b) t = Mul(c, z) y = Conv(t, u)",
        "t = Mul(x, z) y = Conv(t, u)",
        weights,
    )
    assert verdict(shifted) != "certified"
    square = "t = Mul(x, x) y = Conv(t, u)"
    other = window(GATED, square, "t = Mul(x, z) y = Conv(t, u)", weights)
    assert verdict(other) != "certified"


def test_what_is_not_a_number_on_both_sides_is_the_same() -> None:
    body = "p = Mul(x, z) q = Sqrt(p) {} y = Conv(t, u)"
    weights: Parameters = {
        "u": FILTERS.astype(np.float32),
        "four": np.array(4, np.float32),
        "two": np.array(2, np.float32),
    }
    one, other = (
        body.replace("{}", lines)
        for lines in ("t = Mul(q, four)", "r = Mul(q, two) t = Mul(r, two)")
    )
    assert verdict(window(GATED, one, other, weights)) == "certified"
    assert (
        verdict(window(GATED, one, other, weights, weights | {"two": np.array(2.1, np.float32)}))
        != "certified"
    )
