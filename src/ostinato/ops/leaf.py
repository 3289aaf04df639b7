"""Where values come from: constants, inputs, shared variables; and `as_tensor`, which makes nodes of values."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from ostinato.config import config
from ostinato.errors import OstinatoTypeError, OstinatoValueError, at
from ostinato.graph import Node, make
from ostinato.ops.op import Op, register
from ostinato.types import FLOATS, INTEGERS, TensorType, TupleType, check_dtype, promote


class Literal:
    """The value of a constant: a read-only array that compares by dtype, shape and bits.

    `weak` marks a bare Python number, which takes the dtype of what it meets (as in NumPy 2).
    """

    __slots__ = ("_key", "array", "type", "weak")

    def __init__(self, array: np.ndarray[Any, Any], weak: bool = False) -> None:
        self.array = np.array(array, order="C")
        self.array.flags.writeable = False
        self.weak = weak
        self.type = TensorType(check_dtype(self.array.dtype), self.array.shape)
        raw = self.array.tobytes()
        digest = raw if len(raw) <= 64 else hashlib.blake2b(raw).digest()
        self._key = (self.array.dtype.str, self.array.shape, weak, digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        text = np.array2string(self.array, threshold=6, separator=", ", precision=6)
        return text if len(text) < 60 else f"<{self.array.dtype} array of shape {self.array.shape}>"


def _no_numpy(*args: Any, **params: Any) -> NoReturn:
    raise AssertionError("a leaf has no computation: its value is bound from outside")


CONSTANT: Op = register(
    Op(
        "constant",
        infer=lambda *, literal: literal.type,
        numpy=lambda *, literal: literal.array,
        vjp=lambda g, out, *, literal: (),
        params=("literal",),
        cheap=True,
    )
)
INPUT: Op = register(Op("input", infer=lambda *, uid, type: type, numpy=_no_numpy, params=("uid", "type")))
SHARED = Op("shared", infer=lambda *, uid, type: type, numpy=_no_numpy, params=("uid", "type"))

_uid = itertools.count()


def new_input(type_: TensorType, name: str | None = None) -> Any:
    """A new variable of the given type, different from all others."""
    node = make(INPUT, (), (next(_uid), type_))
    node.name = name
    return node


def new_uid() -> int:
    """A number never given before in this process."""
    return next(_uid)


def constant(value: Any, dtype: str | None = None, weak: bool = False) -> Any:
    """A constant node. The dtype is that of the value (bare floats: `config.floatX`) unless given."""
    if dtype is None and isinstance(value, float) and not isinstance(value, np.generic):
        dtype = config.floatX
    try:
        array = np.asarray(value, dtype=dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise OstinatoTypeError(f"cannot make an array of {_short(value)}: {error}") from error
    return make(CONSTANT, (), (Literal(array, weak),))


def is_constant(node: Node) -> bool:
    return node.op is CONSTANT


def constant_value(node: Node) -> np.ndarray[Any, Any] | None:
    """The array of a constant node, None for any other."""
    return node.params[0].array if node.op is CONSTANT else None


def static_int(size: Any) -> int | None:
    """The value of an int or of a constant integer scalar node; None where it is not known yet."""
    if isinstance(size, Node):
        value = constant_value(size)
        return int(value) if value is not None and value.ndim == 0 else None
    return int(size)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_number(value: Any) -> bool:
    """Whether a value is a bare Python number, whose dtype follows its surroundings."""
    return isinstance(value, (bool, int, float)) and not isinstance(value, np.generic)


def as_tensor(value: Any, name: str | None = None, ndim: int | None = None, dtype: str | None = None) -> Any:
    """A node for a variable, a number, an array, or a (nested) sequence of these.

    Raises
    ------
    OstinatoTypeError
        If the value is none of these, or its dtype or number of dimensions is not the wanted one.
    """
    node = _as_node(value, dtype)
    if isinstance(node.type, TupleType):
        raise OstinatoTypeError("expected one tensor, got all results of a loop; take one of them")
    if name is not None and node.name is None:
        node.name = name
    if ndim is not None and node.type.ndim != ndim:
        raise OstinatoTypeError(f"expected {ndim} dimensions, got {describe(node)}")
    return node


def _as_node(value: Any, dtype: str | None) -> Any:
    if isinstance(value, Node):
        if dtype is not None and value.type.dtype != dtype:
            from ostinato.ops.elementwise import cast

            return cast(value, dtype)
        return value
    if isinstance(value, (list, tuple)) and _holds_nodes(value):
        from ostinato.ops.composite import stack

        return stack([as_tensor(v, dtype=dtype) for v in value])
    if hasattr(value, "__ostinato_node__"):
        return value.__ostinato_node__()
    if not isinstance(value, (bool, int, float, list, tuple, np.ndarray, np.generic)) and not hasattr(
        value, "__array__"
    ):
        raise OstinatoTypeError(
            f"expected a symbolic variable, a number or an array, got {_short(value)} of type {type(value).__name__}"
        )
    return constant(value, dtype, weak=dtype is None and is_number(value))


def _holds_nodes(value: Sequence[Any]) -> bool:
    return any(isinstance(v, Node) or (isinstance(v, (list, tuple)) and _holds_nodes(v)) for v in value)


def as_operands(*values: Any) -> list[Any]:
    """Nodes for the operands of an elementwise operation; bare numbers take the dtype of the others."""
    nodes = [as_tensor(v) for v in values]
    strong = [n.type.dtype for n in nodes if not _is_weak(n)]
    if not strong:
        return _all_weak(nodes)
    if len(strong) == len(nodes):
        return nodes
    partner = promote(*strong)
    return [constant(v, _weak_dtype(v, partner)) if (v := _weak_value(n)) is not None else n for n in nodes]


def _all_weak(nodes: list[Any]) -> list[Any]:
    """Bare numbers among themselves: beside a float, integers become `config.floatX` too."""
    if all(n.type.dtype in FLOATS for n in nodes) or not any(n.type.dtype in FLOATS for n in nodes):
        return nodes
    return [n if n.type.dtype in FLOATS else constant(n.params[0].array, config.floatX, weak=True) for n in nodes]


def _is_weak(node: Node) -> bool:
    return node.op is CONSTANT and node.params[0].weak


def _weak_value(node: Node) -> Any:
    return node.params[0].array[()] if _is_weak(node) else None


def _weak_dtype(value: Any, partner: str) -> str:
    """The dtype a bare number takes beside an operand of dtype `partner`."""
    if value.dtype == np.bool_:
        return partner
    if value.dtype.kind == "f":
        return partner if partner in FLOATS else config.floatX
    if partner in INTEGERS:
        info = np.iinfo(partner)
        wider = partner if info.min <= value <= info.max else promote(partner, np.min_scalar_type(value).name)
        if wider in FLOATS:
            raise OstinatoTypeError(f"the integer {value} does not fit into {partner}, nor into any wider integer")
        return wider
    return partner if partner in FLOATS else "int64"


def describe(node: Node) -> str:
    """A node as a message names it: `'h' of type float64[?] (model.py:14)`."""
    from ostinato.printing import short

    label = repr(node.name) if node.name else short(node)
    # An equal constant may have been made first by quite another line.
    return f"{label} of type {node.type}{'' if node.op is CONSTANT else at(node.source)}"


def need_dtype(node: Node, kinds: tuple[str, ...], what: str) -> None:
    """Raise unless the node's dtype is one of `kinds`."""
    if node.type.dtype not in kinds:
        raise OstinatoTypeError(f"{what} expects {' or '.join(_kind_names(kinds))}, got {describe(node)}")


def _kind_names(kinds: tuple[str, ...]) -> list[str]:
    names = [n for n, members in (("integers", INTEGERS), ("floats", FLOATS)) if set(members) <= set(kinds)]
    rest = [k for k in kinds if not (k in INTEGERS and "integers" in names) and k not in FLOATS]
    return names + rest


def as_int_scalar(value: Any, what: str) -> Any:
    """An int64 scalar node for an int or an integer scalar variable; used for sizes and indices."""
    node = as_tensor(value)
    need_dtype(node, INTEGERS, what)
    if node.type.ndim != 0:
        raise OstinatoTypeError(f"{what} is a scalar, got {describe(node)}")
    if node.type.dtype == "int64" and not _is_weak(node):
        return node
    value_ = constant_value(node)
    if value_ is not None:
        return constant(value_, "int64")
    if node.type.dtype == "uint64":
        raise OstinatoValueError(f"{what} is an int64; cast {describe(node)} first")
    from ostinato.ops.elementwise import cast

    return cast(node, "int64")
