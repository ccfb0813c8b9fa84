"""Maps through Casts of floats: where the type beyond has all digits that are kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from bnfold.algebra.affine_maps.carrying import NotCarried
from bnfold.algebra.affine_maps.casting import holds
from tests.support.evaluate import assert_equivalent
from tests.support.graphs import Parameters, batch_norm, build, draw_feeds, normal, operators
from tests.support.passes import assert_refused, assert_rewritten, certificates, run_pass

NAME, SCALE, STRIP = "fold-batchnorm", "fold-scale-shift", "strip-identity"
TYPES: dict[str, npt.DTypeLike] = {
    "float16": np.float16,
    "float": np.float32,
    "double": np.float64,
}
TO = {"float16": 10, "float": 1, "double": 11, "bfloat16": 16}


def after_product(lines: str, weights: str, norm: str, result: str) -> onnx.ModelProto:
    """Return a MatMul c of 4 columns, and lines with a BatchNormalization of another type."""
    return build(
        f"({weights}[N,3] x) => ({result}[N,4] y) {{ c = MatMul(x, w) {lines} }}",
        w=normal(3, 4, dtype=TYPES[weights]),
        **batch_norm(4, dtype=TYPES[norm]),
    )


def before_product(lines: str, data: str, norm: str, weights: str) -> onnx.ModelProto:
    """Return lines with a BatchNormalization, from r to a MatMul y of d of another type."""
    return build(
        f"({data}[N,3] x) => ({weights}[N,4] y) {{ r = Relu(x) {lines} y = MatMul(d, w) }}",
        w=normal(3, 4, dtype=TYPES[weights]),
        **batch_norm(3, dtype=TYPES[norm]),
    )


def bn(data: str, result: str) -> str:
    return f"{result} = BatchNormalization({data}, s, b, m, v)"


@pytest.mark.parametrize(
    ("wide", "narrow", "opset"),
    [("float", "float16", 9), ("double", "float16", 15), ("double", "float", 17)],
)
def test_a_map_moves_to_the_wider_type(wide: str, narrow: str, opset: int) -> None:
    tolerance = 1e-2 if narrow == "float16" else 1e-5
    upstream = after_product(f"d = Cast<to={TO[narrow]}>(c) {bn('d', 'y')}", wide, narrow, narrow)
    downstream = before_product(f"{bn('r', 'n')} d = Cast<to={TO[wide]}>(n)", narrow, narrow, wide)
    for model, expected in ((upstream, ["Gemm", "Cast"]), (downstream, ["Relu", "Cast", "Gemm"])):
        model.opset_import[0].version = opset
        assert_rewritten(model, NAME, expected, rtol=tolerance, atol=tolerance, certified=True)


def test_what_is_narrowed_in_the_end_may_move_to_the_type_that_it_gets() -> None:
    lines = f"d = Cast<to=1>(c) {bn('d', 'n')} y = Cast<to=10>(n)"
    model = after_product(lines, "float16", "float", "float16")
    expected = ["Gemm", "Cast", "Cast"]
    assert_rewritten(model, NAME, expected, rtol=1e-2, atol=1e-2)
    assert operators(run_pass(model, NAME, STRIP).to_proto()) == ["Gemm"]
    assert [each.verdict for each in certificates(model, NAME, STRIP)] == ["certified"] * 2


def test_what_was_widened_may_move_to_the_type_that_it_had() -> None:
    lines = f"e = Cast<to=1>(r) {bn('e', 'n')} d = Cast<to=10>(n)"
    model = before_product(lines, "float16", "float", "float16")
    expected = ["Relu", "Cast", "Cast", "Gemm"]
    assert_rewritten(model, NAME, expected, rtol=1e-2, atol=1e-2, certified=True)
    assert operators(run_pass(model, NAME, STRIP).to_proto()) == ["Relu", "Gemm"]


def test_all_elementwise_maps_move_with_cast_like() -> None:
    weights: Parameters = {"w": normal(4, 3, 1, 1), "k": normal(4, 1, 1, dtype=np.float16)}
    model = build(
        "(float[N,3,5,5] x, float16[1] t) => (float16[n,4,h,w] y) "
        "{ c = Conv(x, w) d = CastLike(c, t) e = Mul(d, k) f = Neg(e) y = Sub(k, f) }",
        **weights,
    )
    expected = ["Conv", "CastLike", "Neg"]
    assert_rewritten(model, SCALE, expected, rtol=1e-2, atol=1e-2, certified=True)


@pytest.mark.parametrize("to", [6, 11])
def test_a_type_that_does_not_narrow_the_result_does_not_count(to: int) -> None:
    result = "int32" if to == 6 else "double"
    lines = f"d = Cast<to=10>(c) {bn('d', 'n')} y = Cast<to={to}>(n)"
    model = after_product(lines, "float", "float16", result)
    assert operators(run_pass(model, NAME).to_proto()) == ["Gemm", "Cast", "Cast"]


ADD_TO_OTHER = "q = Cast<to=10>(n) p = Cast<to=1>(q) y = Add(n, p)"


@pytest.mark.parametrize(
    ("lines", "types"),
    [
        (f"d = Cast<to=1>(c) {bn('d', 'y')}", ("float16", "float", "float")),
        (f"d = Cast<to=1>(c) {bn('d', 'n')} y = Relu(n)", ("float16", "float", "float")),
        (f"d = Cast<to=1>(c) {bn('d', 'n')} {ADD_TO_OTHER}", ("float16", "float", "float")),
        (f"d = Cast<to=11>(c) {bn('d', 'n')} y = Cast<to=1>(n)", ("float16", "double", "float")),
        (f"d = Cast<to=1>(c) {bn('d', 'n')} y = Cast<to=16>(n)", ("float16", "float", "bfloat16")),
        (f"d = Cast<to=1>(c) {bn('d', 'n')} y = Cast<to=11>(n)", ("float16", "float", "double")),
    ],
)
def test_a_map_does_not_move_up_to_a_narrower_type(lines: str, types: tuple[str, ...]) -> None:
    model = after_product(lines, *types)
    assert_refused(model, NAME, NotCarried.NARROWER_TYPE, in_the_way="Cast d")


def test_a_result_that_a_caller_reads_is_kept_wide() -> None:
    model = after_product(
        f"d = Cast<to=1>(c) {bn('d', 'z')} y = Cast<to=10>(z)", "float16", "float", "float16"
    )
    z = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 4])
    model.graph.output.append(z)
    assert_refused(model, NAME, NotCarried.NARROWER_TYPE, in_the_way="Cast d")


@pytest.mark.parametrize(
    ("lines", "data"),
    [
        (f"{bn('r', 'n')} d = Cast<to=10>(n)", "float"),
        (f"e = Cast<to=1>(r) {bn('e', 'n')} d = Cast<to=10>(n)", "double"),
        (f"f = Cast<to=1>(r) u = Neg(f) {bn('u', 'n')} d = Cast<to=10>(n)", "float16"),
    ],
)
def test_a_map_does_not_move_down_to_a_narrower_type(lines: str, data: str) -> None:
    model = before_product(lines, data, "float", "float16")
    (refusal,) = run_pass(model, NAME).record.refusals
    assert (refusal.also_reason, refusal.also_in_the_way) == ("NARROWER_TYPE", "Cast d")


def test_a_widened_value_that_is_read_elsewhere_stays() -> None:
    lines = f"e = Cast<to=1>(r) z = Abs(e) {bn('e', 'n')} d = Cast<to=10>(n)"
    model = before_product(lines, "float16", "float", "float16")
    z = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    model.graph.output.append(z)
    (refusal,) = run_pass(model, NAME).record.refusals
    assert refusal.also_reason == "NARROWER_TYPE"


def test_a_shift_that_stays_is_not_narrowed() -> None:
    """(x + t/s) may be larger than s·x + t."""
    lines = "n = Mul(r, k) o = Add(n, k) d = Cast<to=TO>(o)"
    for to, data, weights, expected in (
        (10, "float", "float16", ["Relu", "Mul", "Add", "Cast", "Conv"]),
        (10, "float16", "float16", ["Relu", "Cast", "Mul", "Add", "Cast", "Conv"]),
        (1, "float16", "float", ["Relu", "Add", "Cast", "Conv"]),
    ):
        widened = "" if len(expected) < 6 else "e = Cast<to=1>(r) "
        text = widened + lines.replace("TO", str(to))
        model = build(
            f"({data}[N,3,5,5] x) => ({weights}[n,4,h,w] y) {{ r = Relu(x) "
            f"{text.replace('(r, k)', '(e, k)') if widened else text} "
            "y = Conv<pads=[1,1,1,1]>(d, w) }",
            w=normal(4, 3, 3, 3, dtype=TYPES[weights]),
            k=normal(3, 1, 1, dtype=TYPES["float" if to == 10 else data]),
        )
        optimized = run_pass(model, SCALE).to_proto()
        assert operators(optimized) == expected
        assert_equivalent(model, optimized, draw_feeds(model), rtol=1e-2, atol=1e-2)


def small_norm(scale: float, shift: float = 0.25, dtype: npt.DTypeLike = np.float16) -> Parameters:
    """Return a BatchNormalization of 4 channels that is a scale, but for epsilon, and a shift."""
    every = {"s": scale, "b": shift, "m": 0, "v": 1}
    return {name: np.full(4, number, dtype) for name, number in every.items()}


def added(
    between: str, scale: float, wide: str = "float", narrow: str = "float16", *, shift: float = 0.25
) -> onnx.ModelProto:
    """Return a BatchNormalization of what is computed from two products that are cast."""
    cast = f"Cast<to={TO[narrow]}>"
    return build(
        f"({wide}[N,3] x) => ({narrow}[N,4] y) {{ c = MatMul(x, w) d = {cast}(c) "
        f"f = MatMul(x, u) e = {cast}(f) {between} {bn('a', 'y')} }}",
        w=normal(3, 4, dtype=TYPES[wide]),
        u=normal(3, 4, seed=1, dtype=TYPES[wide]),
        **small_norm(scale, shift, TYPES[narrow]),
    )


@pytest.mark.parametrize("operator", ["Add", "Sub"])
@pytest.mark.parametrize(("wide", "narrow"), [("float", "float16"), ("double", "float")])
@pytest.mark.parametrize("scale", [0.75, -0.5, 0.0])
def test_a_map_of_a_sum_moves_where_no_operand_grows(
    operator: str, wide: str, narrow: str, scale: float
) -> None:
    model = added(f"a = {operator}(d, e)", scale, wide, narrow)
    tolerance = 1e-2 if narrow == "float16" else 1e-5
    expected = ["Gemm", "Cast", "MatMul", "Cast", operator]
    assert_rewritten(model, NAME, expected, rtol=tolerance, atol=tolerance, certified=True)


@pytest.mark.parametrize("scale", [1.01, -1.01])
@pytest.mark.parametrize("operator", ["Add", "Sub", "Sum"])
def test_a_map_of_a_sum_stays_where_an_operand_would_grow(operator: str, scale: float) -> None:
    """60,000 − 59,000 is a float16, and so is 1.01 times that; 1.1 times 60,000 is infinite."""
    model = added(f"a = {operator}(d, e)", scale)
    assert_refused(model, NAME, NotCarried.RANGE_EXCEEDED, in_the_way="Cast d")


@pytest.mark.parametrize(("shift", "is_folded"), [(64.0, True), (66.0, False)])
def test_a_shift_of_a_sum_is_one_step_of_the_largest_number_at_most(
    shift: float, is_folded: bool
) -> None:
    model = added("a = Add(d, e)", 1.0, shift=shift)
    if is_folded:
        expected = ["Gemm", "Cast", "MatMul", "Cast", "Add"]
        assert_rewritten(model, NAME, expected, rtol=1e-2, atol=1e-1, certified=True)
    else:
        assert_refused(model, NAME, NotCarried.RANGE_EXCEEDED, in_the_way="Cast d")


AVERAGES = {
    "AveragePool<kernel_shape=[2,2]>(d)": True,
    "GlobalAveragePool(d)": True,
    "ReduceMean<axes=[2,3]>(d)": True,
    "ReduceSum(d, axes)": True,
    'Resize<mode="linear">(d, , twice)': True,
    "LeakyRelu(d)": True,
    "PRelu(d, slope)": True,
    "Resize(d, , twice)": False,
    "GlobalMaxPool(d)": False,
    "ReduceMax<axes=[2,3]>(d)": False,
    "Relu(d)": False,
}


@pytest.mark.parametrize("operator", AVERAGES)
def test_a_map_of_an_average_moves_where_what_it_is_of_does_not_grow(operator: str) -> None:
    """A maximum is as large as what it is of."""
    weights: Parameters = {
        "w": normal(4, 3, 1, 1),
        "axes": np.array([2, 3]),
        "twice": np.array([1, 1, 2, 2], np.float32),
        "slope": np.full((4, 1, 1), 0.25, np.float16),
    }
    is_linear = "elu(" not in operator.lower()
    for scale in (0.5, 1.5):
        model = build(
            "(float[N,3,4,4] x) => (float16[n,4,h,z] y) "
            f"{{ c = Conv(x, w) d = Cast<to=10>(c) a = {operator} {bn('a', 'y')} }}",
            **weights,
            **small_norm(scale, 0.25 if is_linear else 0.0),
        )
        if scale > 1 and AVERAGES[operator]:
            assert_refused(model, NAME, NotCarried.RANGE_EXCEEDED, in_the_way="Cast d")
        else:
            expected = ["Conv", "Cast", operator.partition("(")[0].partition("<")[0]]
            assert_rewritten(model, NAME, expected, rtol=1e-2, atol=1e-2, certified=is_linear)


def test_a_cast_to_a_wider_type_has_no_end_that_the_type_before_lacks() -> None:
    model = build(
        "(float16[N,3,4,4] x) => (float16[n,4,h,z] y) { c = Conv(x, w) d = Cast<to=1>(c) "
        f"a = GlobalAveragePool(d) {bn('a', 'n')} y = Cast<to=10>(n) }}",
        w=normal(4, 3, 1, 1, dtype=np.float16),
        **small_norm(1.5, dtype=np.float32),
    )
    expected = ["Conv", "Cast", "GlobalAveragePool", "Cast"]
    assert_rewritten(model, NAME, expected, rtol=1e-2, atol=1e-2, certified=True)


@pytest.mark.parametrize("to", [6, 9])
def test_only_casts_of_floats_commute(to: int) -> None:
    lines = f"d = Cast<to={to}>(c) e = Cast<to=1>(d) {bn('e', 'y')}"
    model = after_product(lines, "float", "float", "float")
    assert_refused(model, NAME, NotCarried.NOT_FLOATS, in_the_way="Cast e")


def test_types_that_hold_others() -> None:
    half, brain, single, double = (
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
    )
    held = {
        (one, other)
        for one in (half, brain, single, double, ir.DataType.INT32, None)
        for other in (half, brain, single, double, ir.DataType.INT32, None)
        if holds(one, other)
    }
    narrower = {(single, half), (single, brain), (double, half), (double, brain), (double, single)}
    assert held == narrower | {(each, each) for each in (half, brain, single, double)}


@pytest.mark.parametrize(
    ("types", "is_removed"),
    [
        (("float16", "float", "float16"), True),
        (("float", "double", "float"), True),
        (("float", "float16", "float"), False),
        (("float16", "bfloat16", "float16"), False),
        (("float16", "float", "double"), False),
        (("float16", "int32", "float16"), False),
    ],
)
def test_a_cast_to_a_wider_type_and_back(types: tuple[str, ...], is_removed: bool) -> None:
    first, between, last = types
    numbers = {**TO, "int32": 6}
    model = build(
        f"({first}[N,3] x) => ({last}[N,3] y) {{ r = Relu(x) a = Cast<to={numbers[between]}>(r) "
        f"b = Cast<to={numbers[last]}>(a) y = Abs(b) }}"
    )
    expected = ["Relu", "Abs"] if is_removed else ["Relu", "Cast", "Cast", "Abs"]
    if is_removed:
        assert_rewritten(model, STRIP, expected, certified=True)
    else:
        assert operators(run_pass(model, STRIP).to_proto()) == expected
