"""Types: dtypes, promotion, lossless conversion, static broadcasting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ostinato.errors import OstinatoTypeError, ShapeError
from ostinato.types import (
    DTYPES,
    TensorType,
    TupleType,
    broadcast_static,
    check_dtype,
    fits,
    is_lossless,
    join,
    promote,
)

PAIRS = list(itertools.product(DTYPES, DTYPES))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_promotion_is_numpys(a: str, b: str) -> None:
    assert promote(a, b) == (np.ones(2, a) * np.ones(2, b)).dtype.name


EXTREMES = {
    "float16": [1 + 2.0**-10, 65504.0],
    "float32": [1 + 2.0**-23, 3e38],
    "float64": [1 + 2.0**-52, 1e308],
    "bool": [True, False],
}


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_lossless_means_that_values_come_back(a: str, b: str) -> None:
    """Checked on the values that are hardest to represent."""
    if a in EXTREMES:
        values = np.array(EXTREMES[a], a)
    else:
        info = np.iinfo(a)
        values = np.array([info.min, info.max, info.max - 1, info.max // 2 + 1], a)
    with np.errstate(all="ignore"):
        back = values.astype(b).astype(a)
        signs = np.sign(values.astype("float64")) == np.sign(values.astype(b).astype("float64"))
    assert is_lossless(a, b) == bool(np.array_equal(back, values) and signs.all() and (b != "bool" or a == "bool"))


def test_dtype_names() -> None:
    assert check_dtype(np.float32) == "float32"
    assert check_dtype(np.dtype("int8")) == "int8"
    assert check_dtype("floatX") == "float64"
    with pytest.raises(OstinatoTypeError, match="'complex128' is not supported; there is bool, int8"):
        check_dtype("complex128")
    for wrong in ("nonsense", [1], object()):
        with pytest.raises(OstinatoTypeError, match="is not supported"):
            check_dtype(wrong)


def test_tensor_type() -> None:
    t = TensorType("float32", (None, 3, True, False))
    assert t.shape == (None, 3, 1, None)
    assert t.broadcastable == (False, False, True, False)
    assert t.ndim == 4
    assert str(t) == "float32[?, 3, 1, ?]"
    assert str(TensorType("int8", ())) == "int8"
    assert str(TupleType((t, TensorType("bool", ())))) == "(float32[?, 3, 1, ?], bool)"
    with pytest.raises(OstinatoTypeError, match="negative"):
        TensorType("int8", (-1,))


def test_static_broadcasting() -> None:
    assert broadcast_static([(3, 1), (4,)]) == (3, 4)
    assert broadcast_static([(None,), (1,)]) == (None,)
    assert broadcast_static([(None,), (5,)]) == (5,)
    assert broadcast_static([(0,), (1,)]) == (0,)
    assert broadcast_static([]) == ()
    with pytest.raises(ShapeError, match="sizes 3 and 4 do not broadcast"):
        broadcast_static([(3,), (4,)])


def test_fits_and_join() -> None:
    known, open_ = TensorType("int8", (3,)), TensorType("int8", (None,))
    assert fits(known, open_)
    assert not fits(open_, known)
    assert not fits(known, TensorType("int16", (None,)))
    assert join(known, TensorType("int8", (4,))) == open_
    assert join(known, known) == known
