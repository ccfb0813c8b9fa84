"""Whether one model can take another's place, by what the two files declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import bnfold
from bnfold.proof.interface import Declared, Interface, Size, difference
from tests.support.checks import verdict_and_reason
from tests.support.graphs import build, make_overridable, normal

Shape = tuple[Size, ...] | None


def interface_of(folder: Path, model: onnx.ModelProto) -> Interface:
    onnx.save(model, folder / "m.onnx")
    return Interface.of(folder / "m.onnx")


def one(shape: Shape, *, type_: str = "tensor(float)", name: str = "v") -> Declared:
    return Declared(name, type_, shape)


def of_input(value: Declared) -> Interface:
    return Interface((value,), (), ())


def of_output(value: Declared) -> Interface:
    return Interface((), (), (value,))


def found(
    first: Shape, second: Shape, seen: Sequence[Sequence[int]], *, of: str = "both"
) -> list[str]:
    """Return the differences of two values, as inputs and as outputs."""
    makers = {"input": [of_input], "output": [of_output], "both": [of_input, of_output]}[of]
    return [difference(make(one(first)), make(one(second)), {"v": seen}) for make in makers]


# --- What a file declares -------------------------------------------------------------------------


def test_names_types_and_shapes_are_read_as_declared(tmp_path: Path) -> None:
    model = build(
        "(float[N,3,?,8] x, int64 n, bool[4] b) => (float[N,k] y, double z) "
        "{ y = acme(x) z = acme(n) }"
    )
    found = interface_of(tmp_path, model)
    assert found == Interface(
        inputs=(
            Declared("x", "tensor(float)", ("N", 3, None, 8)),
            Declared("n", "tensor(int64)", ()),
            Declared("b", "tensor(bool)", (4,)),
        ),
        overridable=(),
        outputs=(
            Declared("y", "tensor(float)", ("N", "k")),
            Declared("z", "tensor(double)", ()),
        ),
    )


def with_output(kind: onnx.TypeProto) -> onnx.ModelProto:
    model = build("(float[4] x) => (float[4] v) { v = Neg(x) }")
    model.graph.output[0].type.CopyFrom(kind)
    return model


FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4])


def mapping(key: int, value: onnx.TypeProto) -> onnx.TypeProto:
    made = onnx.TypeProto()
    made.map_type.key_type = key
    made.map_type.value_type.CopyFrom(value)
    return made


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (FLOATS, "tensor(float)"),
        (helper.make_sequence_type_proto(FLOATS), "seq(tensor(float))"),
        (helper.make_optional_type_proto(FLOATS), "optional(tensor(float))"),
        (
            helper.make_optional_type_proto(helper.make_sequence_type_proto(FLOATS)),
            "optional(seq(tensor(float)))",
        ),
        (mapping(TensorProto.INT64, FLOATS), "map(int64,tensor(float))"),
        (
            helper.make_sequence_type_proto(mapping(TensorProto.STRING, FLOATS)),
            "seq(map(string,tensor(float)))",
        ),
        (
            helper.make_sparse_tensor_type_proto(TensorProto.DOUBLE, [4]),
            "sparse_tensor(double)",
        ),
        (helper.make_tensor_type_proto(TensorProto.BFLOAT16, None), "tensor(bfloat16)"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, [2]), "tensor(float8e4m3fn)"),
        (onnx.TypeProto(), "undefined"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_types_are_written_as_onnxruntime_does(
    tmp_path: Path, kind: onnx.TypeProto, text: str
) -> None:
    (declared,) = interface_of(tmp_path, with_output(kind)).outputs
    assert declared.type == text
    assert declared.shape == (("N", 4) if kind is FLOATS else declared.shape)


def test_the_type_of_a_number_that_this_onnx_does_not_know(tmp_path: Path) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    kind.tensor_type.elem_type = 12345
    (declared,) = interface_of(tmp_path, with_output(kind)).outputs
    assert declared.type == "tensor(type 12345)"


def test_no_shape_is_not_the_shape_of_a_scalar(tmp_path: Path) -> None:
    shapes = []
    missing_and_scalar: list[list[int] | None] = [None, []]
    for shape in missing_and_scalar:
        kind = helper.make_tensor_type_proto(TensorProto.FLOAT, shape)
        shapes.append(interface_of(tmp_path, with_output(kind)).outputs[0].shape)
    assert shapes == [None, ()]


@pytest.mark.parametrize(("size", "read"), [(-1, None), (-7, None), (0, 0), (1, 1)])
def test_negative_sizes_are_free(tmp_path: Path, size: int, read: Size) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [4])
    kind.tensor_type.shape.dim[0].dim_value = size
    assert interface_of(tmp_path, with_output(kind)).outputs[0].shape == (read,)


def test_a_size_without_name_or_number_is_free(tmp_path: Path) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [None, 3])
    assert interface_of(tmp_path, with_output(kind)).outputs[0].shape == (None, 3)


@pytest.mark.parametrize(("ir_version", "overridable"), [(3, []), (4, ["w"]), (8, ["w"])])
def test_initializers_among_the_inputs_are_no_inputs(
    tmp_path: Path, ir_version: int, overridable: list[str]
) -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { y = Mul(x, w) }", w=normal(4))
    make_overridable(model, "w").ir_version = ir_version
    found = interface_of(tmp_path, model)
    assert [value.name for value in found.inputs] == ["x"]
    assert [value.name for value in found.overridable] == overridable


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (None, "tensor(float)"),
        ((), "tensor(float)[]"),
        ((1, "N", None), "tensor(float)[1,N,?]"),
    ],
)
def test_declarations_are_described(shape: Shape, text: str) -> None:
    assert one(shape).describe() == text


# --- Sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 3), (2, 3)),
        (("N", 3), ("N", 3)),
        (("N", 3), ("batch", 3)),
        (("N", 3), (None, 3)),
        ((None,), ("N",)),
        (None, (2, 3)),
        ((2, 3), None),
        (None, None),
        ((), ()),
    ],
)
def test_names_of_sizes_and_missing_shapes_do_not_matter(first: Shape, second: Shape) -> None:
    assert found(first, second, []) == ["", ""]


@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 3), (2, 4)), ((2, 3), (2, 3, 1)), ((), (1,)), (("N",), ("N", "M")), ((0,), (1,))],
)
def test_other_fixed_sizes_and_ranks_differ(first: Shape, second: Shape) -> None:
    described = one(second).describe(), one(first).describe()
    assert found(first, second, [(2, 3)]) == [
        f"{kind} 'v' is {described[0]}, not {described[1]}" for kind in ("input", "output")
    ]


@pytest.mark.parametrize("free", ["N", None])
@pytest.mark.parametrize(
    ("seen", "fits"),
    [
        ([(4, 2)], True),
        ([(4, 2), (5, 2)], True),
        ([(4, 2), (4, 3)], False),
        ([(4, 3)], False),
        ([], False),
        ([(4,)], False),
        ([(2, 4)], False),
    ],
)
def test_a_free_size_may_be_fixed_at_the_size_that_all_samples_had(
    free: Size, seen: Sequence[Sequence[int]], fits: bool
) -> None:
    assert [not reason for reason in found(("N", free), ("N", 2), seen)] == [fits, fits]


def test_samples_of_other_values_do_not_count() -> None:
    reason = difference(of_output(one(("N",))), of_output(one((2,))), {"other": [(2,)]})
    assert reason == "output 'v' is tensor(float)[2], not tensor(float)[N]"


def test_a_fixed_size_may_be_free() -> None:
    assert found((2, 3), ("N", 3), [(2, 3)]) == ["", ""]
    assert found((2, 3), (None, None), []) == ["", ""]


def test_each_axis_counts() -> None:
    assert found(("N", "M"), (2, 3), [(2, 3)]) == ["", ""]
    assert all(found(("N", "M"), (2, 3), [(2, 4)]))
    assert all(found(("N", "M"), (2, 3), [(1, 3)]))
    assert all(found((2, "M"), (2, 3), [(2, 4)]))
    assert all(found(("N", 4), (2, 3), [(2, 3)]))


def test_another_type_differs_whatever_the_shape() -> None:
    for shape in (None, (2,)):
        double = one(shape, type_="tensor(double)")
        for make in (of_input, of_output):
            assert "tensor(double)" in difference(make(one(shape)), make(double), {})


# --- Names ----------------------------------------------------------------------------------------


def test_names_and_their_order_count() -> None:
    a, b = one((2,), name="a"), one((2,), name="b")
    both = Interface((a, b), (), (b, a))
    assert difference(both, replace(both, inputs=(b, a)), {}) == (
        "the inputs are ['b', 'a'], not ['a', 'b']"
    )
    assert (
        difference(both, replace(both, outputs=(b,)), {}) == "the outputs are ['b'], not ['b', 'a']"
    )
    assert difference(replace(both, inputs=(a,)), both, {}) == (
        "the inputs are ['a', 'b'], not ['a']"
    )


def test_what_a_caller_may_override_must_stay_so() -> None:
    a, b = one((2,), name="a"), one((2,), name="b")
    plain = Interface((), (), ())
    some, both = replace(plain, overridable=(a,)), replace(plain, overridable=(b, a))
    assert difference(plain, both, {}) == difference(some, both, {}) == ""
    assert difference(both, some, {}) == (
        "a caller can override the initializers ['b'] of the original, but not here"
    )
    assert "['a', 'b']" in difference(both, plain, {})


# --- Properties -----------------------------------------------------------------------------------

sizes = st.one_of(st.integers(0, 4), st.sampled_from(["N", "M"]), st.none())
declarations = st.builds(
    Declared,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["tensor(float)", "tensor(int64)", "seq(tensor(float))", "undefined"]),
    st.one_of(st.none(), st.lists(sizes, max_size=3).map(tuple)),
)
some = st.lists(declarations, max_size=3).map(tuple)
interfaces = st.builds(Interface, some, some, some)
shapes = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=2)
)


@settings(max_examples=100, deadline=None)
@given(interface=interfaces, seen=shapes)
def test_equal_declarations_are_equal_whatever_was_seen(
    interface: Interface, seen: Mapping[str, Sequence[Sequence[int]]]
) -> None:
    assert difference(interface, replace(interface), seen) == ""


@settings(max_examples=100, deadline=None)
@given(first=declarations, second=declarations, seen=shapes)
def test_what_fits_an_output_fits_an_input(
    first: Declared, second: Declared, seen: Mapping[str, Sequence[Sequence[int]]]
) -> None:
    if not difference(of_output(first), of_output(second), seen):
        assert not difference(of_input(first), of_input(second), seen)


# --- From end to end ------------------------------------------------------------------------------


def verdict(reference: str, candidate: str) -> tuple[str, str]:
    weights: dict[str, Any] = {"to": np.array([2, 3], np.int64), "w": normal(4)}
    return verdict_and_reason(build(reference, **weights), build(candidate, **weights))


def test_sizes_that_onnxruntime_infers_do_not_count() -> None:
    """Both files declare a free size; onnxruntime knows better, of one of them."""
    known = "(float[2,3] x) => (float[A,B] y) { y = Reshape(x, to) }"
    computed = (
        "(float[2,3] x) => (float[A,B] y) { s = Shape(x) a = Add(s, s) t = Sub(a, s) "
        "y = Reshape(x, t) }"
    )
    assert verdict(known, computed) == ("pass", "")
    assert verdict(computed, known) == ("pass", "")


def test_an_output_may_declare_what_it_always_was() -> None:
    free = "(float[2,3] x) => (float[A,B] y) { y = Neg(x) }"
    fixed = "(float[2,3] x) => (float[2,3] y) { y = Neg(x) }"
    assert verdict(free, fixed) == ("pass", "")
    assert verdict(fixed, free) == ("pass", "")


def test_an_output_that_is_free_must_have_the_size_that_was_declared() -> None:
    fixed = "(float[N,3] x) => (float[N,3] y) { y = Neg(x) }"
    free = "(float[N,3] x) => (float[A,B] y) { y = Concat<axis=1>(x, x) }"
    assert verdict(fixed, free)[0] == "fail"


def test_an_input_whose_samples_vary_must_not_be_fixed() -> None:
    free = "(float[N,3] x) => (float[N,3] y) { y = Neg(x) }"
    fixed = "(float[2,3] x) => (float[N,3] y) { y = Neg(x) }"
    assert verdict(free, fixed) == (
        "fail",
        "cpu: input 'x' is tensor(float)[2,3], not tensor(float)[N,3]",
    )


def test_an_override_that_is_lost_fails() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { y = Mul(x, w) }", w=normal(4))
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    equivalence = bnfold.check(make_overridable(model, "w"), frozen).equivalence
    assert equivalence is not None
    assert equivalence.verdict == "fail"
    assert "can override the initializers ['w']" in equivalence.reason
