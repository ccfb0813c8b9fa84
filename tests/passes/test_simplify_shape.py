"""simplify-shape: sizes put together are read as the shape that they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.graphs import Parameters, build, named_in, operators
from tests.support.passes import assert_rewritten, run_pass

NAME = "simplify-shape"

NUMBERS: Parameters = {
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "four": np.array([4]),
    "at_2": np.array(2),
    "at_3": np.array(3),
    "eight": np.array([8]),
}

READ = """
    r = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) a = Neg(z) s = Shape(r) t = Shape(a)
"""
SCALARS = """
    h = Gather(t, at_2) w = Gather(t, at_3) hh = Unsqueeze(h, zero) ww = Unsqueeze(w, zero)
    n = Slice(s, zero, two) c = Concat<axis=0>(n, hh, ww)
"""


def model_of(lines: str, *, x: str = "N,8,H,W", is_one_input: bool = True) -> onnx.ModelProto:
    """Return a model that resizes half of x to the size of x, or of another input."""
    used = named_in(lines, NUMBERS)
    read = READ.replace("z", "x") if is_one_input else READ
    other = "" if is_one_input else f", float[{x}] z"
    text = f'{read} {lines} y = Resize<mode="nearest">(r, , , c)'
    return build(f"(float[{x}] x{other}) => (float[i,j,k,l] y) {{ {text} }}", **used)


SIZES = {"N": 2, "H": 6, "W": 9}


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        (SCALARS, "N,8,H,W"),
        (SCALARS, "3,8,H,W"),
        (SCALARS, "N,C,H,9"),
        ("n = Slice(s, zero, one) h = Slice(t, two, four) c = Concat<axis=0>(n, eight, h)",
         "N,8,H,W"),
        ("n = Slice(s, zero, two) h = Slice(t, two, three) w = Slice(t, three, four) "
         "c = Concat<axis=0>(n, h, w)", "N,8,H,W"),
        ("n = Slice(s, zero, two) h = Slice(t, one, four) d = Slice(h, one, three) "
         "c = Concat<axis=0>(n, d)", "N,8,H,W"),
    ],
)  # fmt: skip
def test_the_shape_of_the_other_map(lines: str, x: str) -> None:
    model = model_of(lines, x=x)
    expected = ["MaxPool", "Neg", "Shape", "Resize"]
    optimized = assert_rewritten(
        model, NAME, expected, sizes=SIZES | {"C": 5}, rtol=0, atol=0, certified=True
    )
    assert optimized.graph.node[2].input == ["a"]


@pytest.mark.parametrize(
    ("lines", "is_one_input"),
    [
        (SCALARS, False),  # with another batch, whatever its name
        (SCALARS.replace("at_2", "_").replace("at_3", "at_2").replace("_)", "at_3)"), True),
        ("n = Slice(s, zero, two) h = Slice(t, two, four) d = Mul(h, two) "
         "c = Concat<axis=0>(n, d)", True),
        ("n = Slice(s, zero, two) h = Slice(t, two, four) c = Concat<axis=0>(h, n)", True),
        ("n = Slice(s, zero, two) h = Slice(s, two, three) w = Slice(t, three, four) "
         "c = Concat<axis=0>(n, h, w)", True),
        ("p = Shape<start=2>(a) n = Slice(s, zero, two) c = Concat<axis=0>(n, p)", True),
    ],
)  # fmt: skip
def test_other_sizes_stay(lines: str, is_one_input: bool) -> None:
    result = run_pass(model_of(lines, is_one_input=is_one_input), NAME)
    assert not result.record.rewrites
    assert not result.record.refusals


def test_sizes_of_another_type_stay() -> None:
    cast = SCALARS.replace("c = Concat<axis=0>(n, hh, ww)", """
        i = Cast<to=6>(n) j = Cast<to=6>(hh) k = Cast<to=6>(ww) m = Concat<axis=0>(i, j, k)
        c = Cast<to=7>(m)
    """)  # fmt: skip
    assert not run_pass(model_of(cast), NAME).record.rewrites


def test_sizes_that_are_an_output_stay() -> None:
    model = model_of(SCALARS)
    for name in ("c", "t"):
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [4])
        )
    assert operators(run_pass(model, NAME).to_proto()) == operators(model)


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["s0", "s1", "t0", "t1", "t2", "t3", "s2", "8"]), min_size=4, max_size=4
    ),
)
def test_random_parts(parts: list[str]) -> None:
    """Whatever is put together is the same vector afterwards."""
    lines, names = [], []
    for place, part in enumerate(parts):
        if part == "8":
            names.append("eight")
            continue
        names.append(f"p{place}")
        first, last = (list(NUMBERS)[int(part[1]) + more] for more in (0, 1))
        lines.append(f"p{place} = Slice({part[0]}, {first}, {last})")
    read = READ.replace("z", "x")
    text = f"{read} {' '.join(lines)} c = Concat<axis=0>({', '.join(names)}) y = Cast<to=1>(c)"
    used = named_in(text, NUMBERS)
    model = build(f"(float[N,8,H,W] x) => (float[4] y) {{ {text} }}", **used)
    result = run_pass(model, NAME)
    is_whole = [part[-1] for part in parts] in (["0", "8", "2", "3"], ["0", "1", "2", "3"])
    is_of_one = len({part[0] for part in parts[2:]}) == 1
    assert bool(result.record.rewrites) == (is_whole and is_of_one and set(parts) != {"8"})
    if result.record.rewrites:
        expected = operators(result.to_proto())
        assert_rewritten(model, NAME, expected, sizes=SIZES, rtol=0, atol=0, certified=True)
