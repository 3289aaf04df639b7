"""`TensorVariable`: the node as users handle it, with operators, methods and properties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError
from ostinato.graph import VARIABLE_CLASSES, Node
from ostinato.ops import composite, contraction, creation, indexing, movement, reduce
from ostinato.ops import elementwise as e
from ostinato.ops.leaf import as_tensor, constant_value, describe
from ostinato.ops.sizes import product, shape_vector, sizes
from ostinato.types import TensorType


class TensorVariable(Node):
    """A symbolic array.

    `==` and `!=` compare identity, since variables are keys of dictionaries; use `eq` and `neq` for
    elementwise comparison. `<`, `<=`, `>`, `>=` are elementwise.
    """

    __slots__ = ()
    __array_ufunc__ = None  # NumPy leaves mixed expressions to the methods below

    # ---- what it is ----

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.type.ndim

    @property
    def broadcastable(self) -> tuple[bool, ...]:
        """Which dimensions are known to have size 1."""
        return self.type.broadcastable

    @property
    def shape(self) -> Any:
        """The sizes, as an int64 vector of `ndim` elements: `x.shape[0]`."""
        return shape_vector(self)

    @property
    def size(self) -> Any:
        """The number of elements, as an int64 scalar."""
        return as_tensor(product(sizes(self)), dtype="int64")

    @property
    def owner(self) -> Node | None:
        """The node itself if an op made it, None for an input, a constant or a shared variable."""
        return self if self.inputs else None

    @property
    def rng(self) -> Any:
        """The state of a draw of a random stream: a shared variable of (seed, call site, calls so far)."""
        try:
            return self.tag.rng
        except AttributeError:
            raise AttributeError(f"{self!r} is no draw of a random stream, and has no state") from None

    def __repr__(self) -> str:
        from ostinato.printing import short

        return short(self)

    __str__ = __repr__

    def eval(self, inputs: Mapping[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """The value, given a mapping from input variables to values. For trying things out."""
        from ostinato.function import function

        given = dict(inputs or {})
        run = function(list(given), self, on_unused_input="ignore")
        return run(*given.values())

    # ---- operators ----

    def __add__(self, other: Any) -> Any:
        return _binary(e.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _binary(e.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _binary(e.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _binary(e.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return _binary(e.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _binary(e.mul, other, self)

    def __truediv__(self, other: Any) -> Any:
        return _binary(e.true_div, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _binary(e.true_div, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _binary(e.floor_div, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _binary(e.floor_div, other, self)

    def __mod__(self, other: Any) -> Any:
        return _binary(e.mod, self, other)

    def __rmod__(self, other: Any) -> Any:
        return _binary(e.mod, other, self)

    def __pow__(self, other: Any) -> Any:
        return _binary(e.pow, self, other)

    def __rpow__(self, other: Any) -> Any:
        return _binary(e.pow, other, self)

    def __matmul__(self, other: Any) -> Any:
        return _binary(contraction.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _binary(contraction.matmul, other, self)

    def __and__(self, other: Any) -> Any:
        return _binary(e.and_, self, other)

    def __rand__(self, other: Any) -> Any:
        return _binary(e.and_, other, self)

    def __or__(self, other: Any) -> Any:
        return _binary(e.or_, self, other)

    def __ror__(self, other: Any) -> Any:
        return _binary(e.or_, other, self)

    def __xor__(self, other: Any) -> Any:
        return _binary(e.xor, self, other)

    def __rxor__(self, other: Any) -> Any:
        return _binary(e.xor, other, self)

    def __lt__(self, other: Any) -> Any:
        return _binary(e.lt, self, other)

    def __le__(self, other: Any) -> Any:
        return _binary(e.le, self, other)

    def __gt__(self, other: Any) -> Any:
        return _binary(e.gt, self, other)

    def __ge__(self, other: Any) -> Any:
        return _binary(e.ge, self, other)

    def __neg__(self) -> Any:
        return e.neg(self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return e.abs(self)

    def __invert__(self) -> Any:
        return e.invert(self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    # ---- what a symbolic array cannot do ----

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._no_value("a NumPy array")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise OstinatoTypeError(
            f"numpy.{function.__name__} computes with values, but {describe(self)} has none yet; "
            "use the function of ostinato.tensor"
        )

    def __contains__(self, value: Any) -> bool:
        raise OstinatoTypeError(f"{describe(self)} has no elements yet; use any(eq(x, value)) in the graph")

    def __bool__(self) -> bool:
        raise OstinatoTypeError(
            f"{describe(self)} has no value yet, so `if`, `while`, `and` and `or` cannot decide on it; "
            "use where(condition, a, b) in the graph"
        )

    def __len__(self) -> int:
        if self.ndim and self.type.shape[0] is not None:
            return self.type.shape[0]
        raise OstinatoTypeError(f"the length of {describe(self)} is not known yet; use x.shape[0] in the graph")

    def __float__(self) -> float:
        raise self._no_value("float")

    def __int__(self) -> int:
        raise self._no_value("int")

    def __index__(self) -> int:
        raise self._no_value("a Python index")

    def _no_value(self, what: str) -> OstinatoTypeError:
        return OstinatoTypeError(f"{describe(self)} has no value yet and cannot become {what}")

    # ---- indexing and iteration ----

    def __getitem__(self, index: Any) -> Any:
        return indexing.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise OstinatoTypeError("a symbolic array cannot be changed; use x = set_subtensor(x[...], value)")

    def __iter__(self) -> Iterator[Any]:
        if not self.ndim or self.type.shape[0] is None:
            raise OstinatoTypeError(
                f"{describe(self)} cannot be iterated over, since its length is not known yet; use scan"
            )
        return iter([self[i] for i in range(self.type.shape[0])])

    # ---- shape ----

    @property
    def T(self) -> Any:
        """The transpose."""
        return movement.transpose(self)

    def transpose(self, *axes: Any) -> Any:
        """See `ostinato.tensor.transpose`; the axes may be given one by one."""
        given = axes[0] if len(axes) == 1 and not isinstance(axes[0], (int, np.integer)) else axes
        return movement.transpose(self, given or None)

    def reshape(self, shape: Any, *more: Any, ndim: int | None = None) -> Any:
        """See `ostinato.tensor.reshape`; the sizes may be given one by one."""
        if len(more) == 1 and ndim is None and _is_sequence(shape):  # Theano's order: shape, ndim
            return movement.reshape(self, shape, *more)
        return movement.reshape(self, (shape, *more) if more else shape, ndim)

    def dimshuffle(self, *order: Any) -> Any:
        """See `ostinato.tensor.dimshuffle`."""
        return movement.dimshuffle(self, *order)

    def flatten(self, ndim: int = 1) -> Any:
        """See `ostinato.tensor.flatten`."""
        return movement.flatten(self, ndim)

    def ravel(self) -> Any:
        """All elements as a vector."""
        return movement.flatten(self)

    def squeeze(self, axis: Any = None) -> Any:
        """See `ostinato.tensor.squeeze`."""
        return movement.squeeze(self, axis)

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        """See `ostinato.tensor.swapaxes`."""
        return movement.swapaxes(self, axis1, axis2)

    def repeat(self, repeats: Any, axis: int | None = None) -> Any:
        """See `ostinato.tensor.repeat`."""
        return composite.repeat(self, repeats, axis)

    def take(self, indices: Any, axis: int | None = None) -> Any:
        """See `ostinato.tensor.take`."""
        return indexing.take(self, indices, axis)

    def diagonal(self, offset: int = 0) -> Any:
        """The diagonal of a matrix."""
        return composite.diag(as_tensor(self, ndim=2), offset)

    def trace(self) -> Any:
        """The sum of the diagonal of a matrix."""
        return composite.trace(self)

    def copy(self) -> Any:
        """The variable itself: nothing can change it."""
        return self

    # ---- values ----

    def astype(self, dtype: str) -> Any:
        """See `ostinato.tensor.cast`."""
        return e.cast(self, dtype)

    def zeros_like(self, dtype: str | None = None) -> Any:
        """Zeros of the same shape."""
        return creation.zeros_like(self, dtype)

    def ones_like(self, dtype: str | None = None) -> Any:
        """Ones of the same shape."""
        return creation.ones_like(self, dtype)

    def fill(self, value: Any) -> Any:
        """An array of the same shape and dtype filled with `value`."""
        return creation.full_like(self, value)

    def clip(self, low: Any, high: Any) -> Any:
        """See `ostinato.tensor.clip`."""
        return composite.clip(self, low, high)

    def round(self, mode: str = "half_to_even") -> Any:
        """See `ostinato.tensor.round`."""
        return e.round(self, mode)

    def dot(self, other: Any) -> Any:
        """See `ostinato.tensor.dot`."""
        return contraction.dot(self, other)

    def norm(self, L: Any = 2, axis: Any = None, keepdims: bool = False) -> Any:
        """The norm of order `L`."""
        return composite.norm(self, L, axis, keepdims)

    # ---- reductions ----

    def sum(self, axis: Any = None, dtype: str | None = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.sum`."""
        return reduce.sum(self, axis, dtype, keepdims)

    def prod(self, axis: Any = None, dtype: str | None = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.prod`."""
        return reduce.prod(self, axis, dtype, keepdims)

    def mean(self, axis: Any = None, dtype: str | None = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.mean`."""
        return composite.mean(self, axis, dtype, keepdims)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.var`."""
        return composite.var(self, axis, ddof, keepdims)

    def std(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.std`."""
        return composite.std(self, axis, ddof, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.max`."""
        return reduce.max(self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.min`."""
        return reduce.min(self, axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.argmax`."""
        return reduce.argmax(self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.argmin`."""
        return reduce.argmin(self, axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.any`."""
        return reduce.any(self, axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Any:
        """See `ostinato.tensor.all`."""
        return reduce.all(self, axis, keepdims)

    def cumsum(self, axis: int | None = None) -> Any:
        """See `ostinato.tensor.cumsum`."""
        return reduce.cumsum(self, axis)

    def cumprod(self, axis: int | None = None) -> Any:
        """See `ostinato.tensor.cumprod`."""
        return composite.cumprod(self, axis)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _binary(build: Any, x: Any, y: Any) -> Any:
    """The operator's result, or NotImplemented for an operand that some other class may know."""
    other = y if isinstance(x, Node) else x
    known = (Node, bool, int, float, list, tuple, np.ndarray, np.generic)
    if not isinstance(other, known) and not hasattr(other, "__array__"):
        return NotImplemented
    return build(x, y)


class TensorConstant(TensorVariable):
    """A symbolic array whose value is known."""

    __slots__ = ()

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The value, read-only."""
        value = constant_value(self)
        assert value is not None
        return value

    @property
    def value(self) -> np.ndarray[Any, Any]:
        """The value, read-only."""
        return self.data


VARIABLE_CLASSES[TensorType] = TensorVariable
VARIABLE_CLASSES["constant"] = TensorConstant
