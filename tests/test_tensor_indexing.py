"""Reading and writing parts of arrays against NumPy: values, sizes, first and second derivatives."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ostinato
import ostinato.tensor as T
from ostinato import OstinatoIndexError, OstinatoTypeError, ShapeError
from ostinato.errors import OstinatoError
from support import check, check_gradient, evaluate, inputs_for, normal, same


@pytest.fixture(autouse=True)
def verified() -> Any:
    with ostinato.config.change_flags(verify=True):
        yield


A = np.arange(60.0).reshape(3, 4, 5)


def numbered(*shape: int) -> np.ndarray:
    return np.arange(float(np.prod(shape, dtype=int))).reshape(shape) + 1


# ---- basic indices --------------------------------------------------------------------------------

BASIC = [
    0,
    -1,
    np.int8(2),
    (),
    ...,
    None,
    slice(None),
    (1, 2, 3),
    (-1, -2, -3),
    (slice(1, None), 2),
    (..., 1),
    (1, ...),
    (..., slice(None, None, -1)),
    (slice(None, 2), ..., slice(-2, None)),
    (None, slice(1, 3), None, 0, None),
    (..., None),
    (None, ..., None),
    (0, None, ..., None, -1),
    (slice(None, None, 2), slice(None, None, -2), slice(-1, 0, -1)),
    (slice(5, 9), slice(-9, 9), slice(3, 1)),
    (slice(None, -9), slice(9, None, -1), slice(-9, None, -1)),
    slice(None, sys.maxsize),
    slice(None, None, sys.maxsize),
    slice(None, None, -sys.maxsize),
    slice(-sys.maxsize, sys.maxsize),
]


@pytest.mark.parametrize("index", BASIC, ids=str)
def test_basic_index(index: Any) -> None:
    check(lambda x: x[index], lambda x: x[index], A)
    check_gradient(lambda x: x[index] ** 2, A[:, :3, :4] / 60, order=2)


def slices(size: int) -> st.SearchStrategy[slice]:
    bound = st.none() | st.integers(-size - 3, size + 3)
    return st.builds(slice, bound, bound, st.none() | st.integers(-4, 4).filter(bool))


@st.composite
def shapes_and_indices(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape and a basic index that fits it."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=0, max_size=3)))
    index: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        index.append(draw(slices(size) | (st.integers(-size, size - 1) if size else st.nothing())))
    if draw(st.booleans()):
        index.append(...)
    for _ in range(draw(st.integers(0, 2))):
        index.insert(draw(st.integers(0, len(index))), None)
    return shape, tuple(index)


@given(shapes_and_indices())
@settings(max_examples=150)
def test_random_basic_index(case: Any) -> None:
    shape, index = case
    check(lambda x: x[index], lambda x: x[index], numbered(*shape))


@st.composite
def sizes_and_slices(draw: st.DrawFn) -> tuple[int, slice]:
    size = draw(st.integers(0, 7))
    return size, draw(slices(size))


@given(sizes_and_slices(), st.tuples(st.booleans(), st.booleans(), st.booleans()))
@example((5, slice(None, None, -(2**63))), (False, False, False))
@example((5, slice(-(2**63), 2**63 - 1, 2**63 - 1)), (True, True, False))
@settings(max_examples=300)
def test_sizes_of_slices_with_symbolic_bounds(case: tuple[int, slice], symbolic: tuple[bool, bool, bool]) -> None:
    """Each of start, stop and step is a number, or a variable."""
    size, given = case
    parts = [given.start, given.stop, given.step]
    chosen = [i for i, p in enumerate(parts) if p is not None and symbolic[i]]

    def build(x: Any, *bounds: Any) -> Any:
        mixed = list(parts)
        for i, b in zip(chosen, bounds, strict=True):
            mixed[i] = b
        return x[slice(*mixed)]

    arrays = [np.int64(parts[i]) for i in chosen]
    same(evaluate(build, numbered(size), *arrays), numbered(size)[given])


def test_bounds_of_any_integer_dtype() -> None:
    for dtype in ("int8", "uint8", "int32", "uint32", "int64"):
        check(lambda x, i: x[i:], lambda x, i: x[i:], A, np.array(2, dtype))
        check(lambda x, i: x[i, ..., i], lambda x, i: x[i, ..., i], A, np.array(2, dtype))


def test_size_of_a_slice_is_an_expression_of_the_size() -> None:
    """No slice needs to be computed in order to know its size, unless its step is symbolic."""
    x, a, b = T.dvector("x"), T.lscalar("a"), T.lscalar("b")
    for part in (x[1:], x[:-1], x[::2], x[a:], x[:a], x[a:b], x[b:a:-2], x[::-3], x[-a:b:3], x[-3:-1]):
        size = part.shape[0]
        assert "subtensor" not in {n.op.name for n in ostinato.graph.topological([size])}, part


def test_shapes_are_taken_apart() -> None:
    x = T.TensorType("float64", (None, 3, None))("x")
    assert x.shape[1].eval() == 3
    assert x.shape[0] is x.shape[-3]
    assert x.shape[1:].type.shape == (2,)
    check(lambda x: x.shape[::-1], lambda x: np.array(x.shape[::-1]), A)
    check(lambda x: x.shape[np.int64(1)], lambda x: np.int64(x.shape[1]), A)
    check(lambda x, i: x.shape[i], lambda x, i: np.int64(x.shape[i]), A, np.int64(-1))
    with pytest.raises(OstinatoIndexError, match="out of bounds"):
        x.shape[3]


def test_static_shapes_of_parts() -> None:
    x = T.TensorType("float64", (4, None, 6))("x")
    assert x[1:].type.shape == (3, None, 6)
    assert x[0, :, ::-2].type.shape == (None, 3)
    assert x[:, 0].type.shape == (4, 6)
    assert x[None, ..., 1:3].type.shape == (1, 4, None, 2)
    assert x[[0, 1, 1]].type.shape == (3, None, 6)


def test_elements_of_constants() -> None:
    check(lambda i: T.constant([5, 6, 7])[i], lambda i: np.array([5, 6, 7])[i], np.int64(1))
    assert T.constant([5, 6, 7])[1].eval() == 6


# ---- arrays as indices ----------------------------------------------------------------------------

I, J = np.array([2, 0, -1, 2]), np.array([[0], [-2]])
ADVANCED = [
    I,
    [0, 2],
    J,
    [],
    np.zeros((0, 2), int),
    (I, I),
    (I, J),
    (0, I),
    (I, 0),
    (slice(1, None), [0, 1]),
    ([0, 2], slice(None), [1, 0]),
    (slice(None), J, I),
    (slice(None), J, slice(None, None, -1)),
    (J, slice(None, None, 2), I),
    (..., I),
    (I, ...),
    (I, ..., 0),
    (0, slice(None), I),
    (None, I),
    (I, None),
    (I, None, I),
    (None, I, I, slice(1, 3)),
    (slice(None), None, I, None, J),
    (I, I, I),
    (J, I, -1),
    (slice(2, 0, -1), [1], slice(1, 4)),
]


@pytest.mark.parametrize("index", ADVANCED, ids=str)
def test_index_with_arrays(index: Any) -> None:
    whole = numbered(3, 3, 5)
    empty = isinstance(index, list) and not index
    check(lambda x: x[index], lambda x: x[np.array(index, int)] if empty else x[index], whole)
    check_gradient(lambda x: x[index] ** 2, whole[:, :, :] / 40, order=2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_index_arrays_of_any_integer_dtype(dtype: str) -> None:
    check(lambda x, i, j: x[i, 1:, j], lambda x, i, j: x[i, 1:, j], A, np.array([0, 2], dtype), np.array([1, 1], dtype))


def test_scalar_variables_beside_arrays() -> None:
    check(lambda x, i, k: x[i, k], lambda x, i, k: x[i, k], A, I, np.int64(1))
    check(lambda x, k: x[:, k], lambda x, k: x[:, k], A, np.int64(-1))
    check(lambda x, k: x[[k, 0]], lambda x, k: x[[k, 0]], A, np.int64(-1))


@st.composite
def advanced_cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape and an index with at least one array, and numbers, slices and new axes."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    common = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    index: list[Any] = []
    for size in shape:
        own = tuple(draw(st.sampled_from([n, 1])) for n in common)
        array = hnp.arrays("int64", own, elements=st.integers(-size, size - 1))
        index.append(draw(st.integers(-size, size - 1) | slices(size) | array | array))
    if not any(isinstance(i, np.ndarray) and i.ndim for i in index):
        index[0] = np.array([0, -1])
    for _ in range(draw(st.integers(0, 1))):
        index.insert(draw(st.integers(0, len(index))), None)
    return shape, tuple(index)


@given(advanced_cases())
@settings(max_examples=150)
def test_random_index_with_arrays(case: Any) -> None:
    shape, index = case
    check(lambda x: x[index], lambda x: x[index], numbered(*shape))


@given(advanced_cases() | shapes_and_indices(), st.booleans())
@settings(max_examples=150)
def test_random_writes(case: Any, add: bool) -> None:
    shape, index = case
    x = numbered(*shape)
    y = -numbered(*x[index].shape)
    same(write(x, y, index, add), written(x, y, index, add))
    same(write(x, np.float64(0.5), index, add), written(x, np.float64(0.5), index, add))


def write(x: np.ndarray, y: Any, index: Any, add: bool) -> np.ndarray:
    function = T.inc_subtensor if add else T.set_subtensor
    return evaluate(lambda x, y: function(x[index], y), x, y)


def written(x: np.ndarray, y: Any, index: Any, add: bool) -> np.ndarray:
    result = np.array(x)
    if add:
        np.add.at(result, index, y)
    else:
        result[index] = y
    return result


def test_wrong_indices_are_refused() -> None:
    x, mask = T.dmatrix("x"), T.TensorType("bool", (None,))("mask")
    cases: list[tuple[Any, str]] = [
        ((0, 0, 0), "3 indices are too many for 'x'"),
        ((..., ...), "one Ellipsis"),
        (slice(None, None, 0), "step of a slice cannot be 0"),
        (mask, "indexed by booleans"),
        (True, "indexed by booleans"),
        (np.array([True, False]), "indexed by booleans"),
        (1.5, "an index is an integer"),
        ([0.5, 1], "an index is an integer"),
        (T.dscalar("y"), "an index is an integer.*'y'"),
    ]
    for index, message in cases:
        with pytest.raises(OstinatoIndexError, match=message):
            x[index]
    for bad in ("rows", slice(None, 1.5), slice(T.dscalar("y"), None)):
        with pytest.raises(OstinatoTypeError):
            x[bad]


def test_index_out_of_bounds() -> None:
    x, i = T.TensorType("float64", (3,))("x"), T.lscalar("i")
    with pytest.raises(OstinatoIndexError, match="index 3 is out of bounds for size 3 of 'x'"):
        x[3]
    with pytest.raises(OstinatoIndexError, match="index -4"):
        x[-4]
    y = T.dvector("y")
    with pytest.raises(OstinatoIndexError, match="out of bounds"):
        ostinato.function([y, i], y[i])(np.ones(3), 3)
    with pytest.raises(OstinatoIndexError, match="out of bounds"):
        evaluate(lambda x: x[[0, 3]], np.ones(3))


def test_index_arrays_that_do_not_fit_name_themselves() -> None:
    i, j = T.TensorType("int64", (2,))("i"), T.TensorType("int64", (3,))("j")
    with pytest.raises(ShapeError, match=r"the indices 'i' .* and 'j' .* of 'x' .* do not fit"):
        T.dmatrix("x")[i, j]


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_take(axis: int | None) -> None:
    for indices in (1, -1, [0, 2], J, np.array([1], "uint8")):
        check(lambda x, i=indices: T.take(x, i, axis), lambda x, i=indices: np.take(x, i, axis), numbered(3, 4, 3))
        check(lambda x, i=indices: x.take(i, axis), lambda x, i=indices: x.take(i, axis), numbered(3, 4, 3))
    check_gradient(lambda x, i: T.take(x, i, axis), numbered(3, 3), np.array([0, 2, 2]))


# ---- writing --------------------------------------------------------------------------------------

WRITES = [
    (0, ()),
    (0, (4, 5)),
    (-1, (5,)),
    ((1, 2, 3), ()),
    (..., (5,)),
    ((), (3, 4, 5)),
    (slice(1, None), (2, 4, 5)),
    (slice(1, None), (1, 4, 1)),
    ((slice(None, None, -2), 1), (2, 5)),
    ((slice(None), slice(5, 9)), ()),
    ((None, slice(1, None)), (1, 2, 4, 5)),
    ((slice(1, None), None), (2, 1, 4, 5)),
    ((slice(1, None), None), (5,)),
    ((..., None, 0), ()),
    (I, (4, 4, 5)),
    (I, (5,)),
    ((I, 0), (4, 5)),
    ((slice(None), I), (1, 4, 5)),
    ((I, slice(1, 3)), (4, 2, 5)),
    ((slice(1, 3), I), (2, 4, 5)),
    ((I, slice(None), slice(1, 3)), (4, 4, 2)),
    ((slice(2, 0, -1), J, I), (2, 2, 4)),
    ((I, slice(1, 3), I), (4, 2)),
    ((I, None), (4, 1, 4, 5)),
    ((None, I, slice(1, 3)), (1, 4, 2, 5)),
    ([], ()),
]


@pytest.mark.parametrize(("index", "shape"), WRITES, ids=str)
@pytest.mark.parametrize("add", [False, True], ids=["set", "inc"])
def test_writes(add: bool, index: Any, shape: tuple[int, ...]) -> None:
    function = T.inc_subtensor if add else T.set_subtensor
    own = np.array(index, int) if isinstance(index, list) else index
    x, y = numbered(3, 4, 5), -numbered(*shape)
    check(lambda x, y: function(x[index], y), lambda x, y: written(x, y, own, add), x, y)


@pytest.mark.parametrize(("index", "shape"), WRITES[::2], ids=str)
@pytest.mark.parametrize("add", [False, True], ids=["set", "inc"])
def test_gradients_of_writes(add: bool, index: Any, shape: tuple[int, ...]) -> None:
    function = T.inc_subtensor if add else T.set_subtensor
    check_gradient(lambda x, y: function(x[index], y) ** 2, normal(3, 4, 5), normal(*shape, seed=1), order=1)


@pytest.mark.parametrize("add", [False, True], ids=["set", "inc"])
@pytest.mark.parametrize("index", [slice(1, None), ([0, 1, 1], slice(1, None)), (slice(None), [0, 0])], ids=str)
def test_second_derivatives_of_writes(add: bool, index: Any) -> None:
    function = T.inc_subtensor if add else T.set_subtensor
    x = normal(2, 2)
    check_gradient(lambda x, y: function(x[index], y) ** 3, x, normal(*x[index].shape, seed=1), order=2, tol=1e-6)
    check_gradient(lambda x, y: function(x[index], y) ** 3, x, np.float64(0.7), order=2, tol=1e-6)


def test_the_last_of_several_values_counts() -> None:
    index = np.array([1, 0, 1, 1])
    x, y = T.dvectors("x", "y")
    out = T.set_subtensor(x[index], y)
    grads = T.grad(T.sum(out * np.array([2.0, 3.0, 5.0])), [x, y])
    run = ostinato.function([x, y], [out, *grads])
    value, gx, gy = run(np.zeros(3), np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(value, [2, 4, 0])
    np.testing.assert_array_equal(gx, [0, 0, 5])
    np.testing.assert_array_equal(gy, [0, 2, 0, 3])


def test_additions_to_one_element_accumulate() -> None:
    check(
        lambda x, i: T.inc_subtensor(x[i], 1),
        lambda x, i: x + np.bincount(i, minlength=4),
        np.zeros(4),
        np.array([1, 1, 3, 1]),
    )


def test_writes_into_a_part_of_a_part() -> None:
    """`y = x[:, 1:]; y[i]` is a part of y, and `x[i, 1:]` is a part of x."""
    check(lambda x: T.set_subtensor(x[:, 1:][[0, 2]], 0), lambda x: written(x[:, 1:], 0, [0, 2], False), A)
    check(lambda x: T.set_subtensor(x[1:][:, 1:], 0), lambda x: written(x[1:], 0, np.s_[:, 1:], False), A)
    check(lambda x: T.set_subtensor(x[[0, 2], 1:], 0), lambda x: written(x, 0, np.s_[[0, 2], 1:], False), A)
    check(lambda x: T.set_subtensor(x.T[None, [0, 2]], 0), lambda x: written(x.T, 0, [0, 2], False), A)


def test_writes_into_a_transposed_slice() -> None:
    check(lambda x, y: T.set_subtensor(x[1:, :, 0].T, y), transposed_write, A, normal(4, 2))


def transposed_write(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    result = x.copy()
    result[1:, :, 0].T[...] = y
    return result


def test_symbolic_positions_of_writes() -> None:
    check(lambda x, i, j: T.inc_subtensor(x[i:j], 1), lambda x, i, j: written(x, 1, slice(i, j), True), A, 1, 3)
    check(lambda x, i: T.set_subtensor(x[:, i, ::2], 7), lambda x, i: written(x, 7, np.s_[:, i, ::2], False), A, -2)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float16", "float32", "float64"])
def test_writes_keep_the_dtype(dtype: str) -> None:
    x = np.array([0, 1, 0, 1], dtype)
    check(lambda x: T.set_subtensor(x[1:3], 1), lambda x: written(x, 1, slice(1, 3), False), x)
    check(lambda x: T.set_subtensor(x[[0, 0]], True), lambda x: written(x, True, [0, 0], False), x)
    if dtype != "bool":
        check(lambda x: T.inc_subtensor(x[[0, 0]], 2), lambda x: written(x, 2, [0, 0], True), x)
        check(lambda x, y: T.inc_subtensor(x[1:], y), lambda x, y: written(x, y, slice(1, None), True), x, x[1:])
        check(lambda x, y: T.set_subtensor(x[0], y), lambda x, y: written(x, y, 0, False), x, np.bool_(True))
    if dtype.startswith("float"):
        check(lambda x: T.set_subtensor(x[1:3], 0.5), lambda x: written(x, 0.5, slice(1, 3), False), x)


def test_values_that_do_not_fit_are_refused() -> None:
    x, b = T.fvector("x"), T.bvector("b")
    cases: list[tuple[Any, Any, Any, str]] = [
        (x[1:], T.dscalar("y"), OstinatoTypeError, r"'y' .* does not fit into 'x'.*astype\('float32'\)"),
        (b[1:], 0.5, OstinatoTypeError, r"the number 0\.5 does not fit into 'b'"),
        (b[0], 300, OstinatoTypeError, "the number 300 does not fit"),
        (T.TensorType("uint8", (None,))("u")[0], -1, OstinatoTypeError, "the number -1 does not fit"),
        (x[0], T.fvector("y"), ShapeError, "cannot write 'y'"),
        (T.TensorType("float32", (3,))("v")[1:], np.ones(3, "float32"), ShapeError, "cannot write"),
        (x, 0, OstinatoTypeError, r"expects the part to be written as x\[...\], got 'x'"),
        (x[1:] + 1, 0, OstinatoTypeError, r"written as x\[...\]"),
        (np.ones(3), 0, OstinatoTypeError, r"written as x\[...\]"),
    ]
    for part, value, error, message in cases:
        for function in (T.set_subtensor, T.inc_subtensor):
            with pytest.raises(error, match=message):
                function(part, value)
    with pytest.raises(OstinatoError):
        evaluate(lambda x, y: T.set_subtensor(x[1:], y), np.ones(3), np.ones(3))


def test_item_assignment_is_refused() -> None:
    x = T.dvector("x")
    with pytest.raises(OstinatoTypeError, match="set_subtensor"):
        x[0] = 1


def test_write_then_read_has_the_gradient_of_both() -> None:
    def build(x: Any, y: Any) -> Any:
        return T.set_subtensor(x[1:3], y)[T.constant([0, 1, 1, 2])] ** 2

    check_gradient(build, normal(4), normal(2), order=2)


def test_inputs_are_left_alone() -> None:
    x = np.ones(3)
    (v,) = inputs_for([x])
    ostinato.function([v], [T.set_subtensor(v[0], 5.0), T.inc_subtensor(v[[1]], 5.0)])(x)
    np.testing.assert_array_equal(x, np.ones(3))


def test_gradient_of_a_number_that_became_a_row() -> None:
    """The reverse of an empty index adds to all of a number."""
    v, x = T.dscalar("v"), T.dvector("x")
    joined = T.concatenate([v[None], x * v])
    gradient = T.grad(T.sum(T.log(joined)) + T.sum(joined**2), v)
    for mode in ("native", "reference"):
        found = ostinato.function([v, x], gradient, mode=mode)(2.0, [1.0, 3.0])
        np.testing.assert_allclose(found, 3 / 2 + 2 * 2 * (1 + 1 + 9), 1e-13)
