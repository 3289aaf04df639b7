"""Products of matrices of which the logarithms are known, and wanted: the forward algorithm of hidden Markov models.

`log_dot_exp(a, b)` is log(exp(a) @ exp(b)) without overflow or underflow, and `softmax_dot` its reverse rule. Each is
an op and no composite, so that a backend can do with a few exponentials what their definition does with one per pair
of elements; see `rewrite.log_products`. `composite.logsumexp` asks here whether it is such a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError
from ostinato.graph import Node, make
from ostinato.ops import elementwise as e
from ostinato.ops.control import zero_grad
from ostinato.ops.leaf import describe
from ostinato.ops.movement import dimshuffle
from ostinato.ops.op import Op, Rule, Sample, register
from ostinato.ops.reduce import max as max_
from ostinato.ops.reduce import sum as sum_
from ostinato.ops.sizes import sizes, unbroadcast
from ostinato.types import TensorType

_RNG = np.random.default_rng(11)


def _check(*matrices: Node) -> None:
    dtypes = {m.type.dtype for m in matrices}
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"} or any(m.type.ndim != 2 for m in matrices):
        raise OstinatoTypeError(f"expected matrices of one float dtype, got {', '.join(map(describe, matrices))}")


# ---- log(exp(a) @ exp(b)) -------------------------------------------------------------------------


def _log_dot_exp_infer(a: Node, b: Node) -> TensorType:
    _check(a, b)
    return a.type.with_shape((a.type.shape[0], b.type.shape[1]))


def _log_dot_exp_numpy(a: Any, b: Any) -> Any:
    weights, peak = _weights(a, b)
    with np.errstate(divide="ignore"):
        return np.log(weights.sum(axis=1)) + peak[:, 0]


def _weights(a: Any, b: Any) -> tuple[Any, Any]:
    """exp of the sums of all pairs, (rows, pairs, columns), each less the largest of its row and column; and these."""
    terms = a[:, :, None] + b[None]
    peak = terms.max(axis=1, keepdims=True, initial=-np.inf)
    peak = np.where(np.isinf(peak), a.dtype.type(0), peak)
    return np.exp(terms - peak), peak


def _log_dot_exp_vjp(g: Any, out: Node, a: Node, b: Node) -> tuple[Any, Any]:
    of_a, of_b = (make(SOFTMAX_DOT, (a, b, g), (of,)) for of in ("a", "b"))
    return of_a, of_b


def log_dot_exp_written_out(a: Any, b: Any) -> Any:
    """The same by other ops, with an exponential per pair of elements."""
    terms = dimshuffle(a, 0, 1, "x") + dimshuffle(b, "x", 0, 1)
    return dimshuffle(log_sum_exp(terms, (1,)), 0, 2)


def log_sum_exp(x: Any, axes: Sequence[int]) -> Any:
    """log(sum(exp(x))) over some dimensions, which stay, without overflow: -inf where all elements are."""
    peak = finite_peak(x, axes)
    total = sum_(e.exp(x - peak), axis=axes, keepdims=True)
    nothing = e.eq(total, 0)
    return e.where(nothing, -np.inf, e.log(e.where(nothing, 1, total)) + peak)


def finite_peak(x: Any, axes: Sequence[int]) -> Any:
    """The maximum, or 0 where it is infinite: what to shift by before exp. The result does not depend on it."""
    peak = zero_grad(max_(x, axis=axes, keepdims=True))
    return e.where(e.isinf(peak), 0, peak)


# ---- its reverse ----------------------------------------------------------------------------------


def _softmax_dot_infer(a: Node, b: Node, g: Node, *, of: str) -> TensorType:
    _check(a, b, g)
    return a.type if of == "a" else b.type


def _softmax_dot_numpy(a: Any, b: Any, g: Any, *, of: str) -> Any:
    weights, _ = _weights(a, b)
    total = weights.sum(axis=1, keepdims=True)
    shares = weights / np.where(total == 0, a.dtype.type(1), total)
    x, pairs = (a, 1) if of == "a" else (b, 0)
    found = (g[:, None] * shares).sum(axis=2 if of == "a" else 0)
    return found.sum(axis=pairs, keepdims=True) if x.shape[pairs] != found.shape[pairs] else found


def _shares(a: Any, b: Any) -> Any:
    """How much of each element of the product is due to each pair: (rows, pairs, columns)."""
    terms = dimshuffle(a, 0, 1, "x") + dimshuffle(b, "x", 0, 1)
    weights = e.exp(terms - finite_peak(terms, (1,)))
    total = sum_(weights, axis=1, keepdims=True)
    return weights / e.where(e.eq(total, 0), 1, total)


def softmax_dot_written_out(a: Any, b: Any, g: Any, *, of: str) -> Any:
    """The same by other ops, with an exponential per pair of elements."""
    weighted = dimshuffle(g, 0, "x", 1) * _shares(a, b)
    return unbroadcast(sum_(weighted, axis=2), a) if of == "a" else unbroadcast(sum_(weighted, axis=0), b)


def _softmax_dot_vjp(h: Any, result: Node, a: Node, b: Node, g: Node, *, of: str) -> tuple[Any, ...]:
    shares, cotangent = _shares(a, b), dimshuffle(h, *((0, 1, "x") if of == "a" else ("x", 0, 1)))
    of_g = sum_(shares * cotangent, axis=1)
    both = cotangent * dimshuffle(g, 0, "x", 1)
    of_terms = shares * (both - sum_(shares * both, axis=1, keepdims=True))
    return unbroadcast(sum_(of_terms, axis=2), a), unbroadcast(sum_(of_terms, axis=0), b), of_g


_A, _B = _RNG.normal(size=(3, 4)), _RNG.normal(size=(4, 2))
_G = _RNG.normal(size=(3, 2))
LOG_DOT_EXP: Op = register(
    Op(
        "log_dot_exp",
        infer=_log_dot_exp_infer,
        numpy=_log_dot_exp_numpy,
        vjp=_log_dot_exp_vjp,
        sizes=lambda a, b: [sizes(a)[0], sizes(b)[1]],
        samples=(
            Sample(lambda a, b: make(LOG_DOT_EXP, (a, b)), (_A, _B)),
            Sample(lambda a, b: make(LOG_DOT_EXP, (a, b)), (_A[:1], _B)),
            Sample(lambda a, b: make(LOG_DOT_EXP, (a * 1e3, b * 1e3)), (_A, _B), differentiable=False),
        ),
        doc="log(exp(a) @ exp(b)) of two matrices, without overflow or underflow.",
    )
)
SOFTMAX_DOT: Op = register(
    Op(
        "softmax_dot",
        infer=_softmax_dot_infer,
        numpy=_softmax_dot_numpy,
        vjp=_softmax_dot_vjp,
        sizes=lambda a, b, g, of: list(sizes(a if of == "a" else b)),
        params=("of",),
        samples=tuple(
            [
                Sample(lambda *x, of=of: make(SOFTMAX_DOT, x, (of,)), (_A[:rows], _B, _G[:rows]))
                for of in ("a", "b")
                for rows in (3, 1)
            ]
        ),
        doc="The cotangent of a, or of b, where g is that of `log_dot_exp(a, b)`.",
    )
)

# By their definition, for backends that have no form of them.
WRITTEN_OUT: dict[Op, Rule] = {LOG_DOT_EXP: log_dot_exp_written_out, SOFTMAX_DOT: softmax_dot_written_out}


# ---- where a logsumexp is such a product ----------------------------------------------------------


def logarithm_of_product(x: Any, axes: Sequence[int]) -> Any:
    """log(sum(exp(x))) over an axis, which stays with size 1; None if x is no sum of what makes it a product.

    Such are alpha[:, None] + A over axis 0, with more terms too, and a stack alpha[:, :, None] + A over axis 1.
    """
    rank = x.type.ndim
    if len(axes) != 1 or rank not in (2, 3) or x.type.dtype not in ("float32", "float64"):
        return None
    (inner,), terms = axes, e.summands(x, lambda n: all(i.type.dtype == x.type.dtype for i in n.inputs))
    outside = [t for t in terms if inner not in _varying(t, rank)]
    others = [d for d in range(rank) if d != inner]
    for column in others:
        row = next((d for d in others if d != column), None)
        right = [t for t in terms if {inner, column} <= _varying(t, rank) and row not in _varying(t, rank)]
        left = [t for t in terms if inner in _varying(t, rank) and column not in _varying(t, rank)]
        if left and right and len(left) + len(right) + len(outside) == len(terms):
            matrices = _matrix(left, rank, (row, inner)), _matrix(right, rank, (inner, column))
            places = {row: 0, column: 1}
            found = dimshuffle(make(LOG_DOT_EXP, matrices), [places.get(d, "x") for d in range(rank)])
            return reduce(add, [found, *outside])
    return None


def _varying(x: Node, rank: int) -> set[int]:
    """The dimensions, of so many, along which a value is not known to be the same everywhere."""
    return {rank - x.type.ndim + d for d, size in enumerate(x.type.shape) if size != 1}


def _matrix(terms: Sequence[Node], rank: int, dims: tuple[int | None, int]) -> Any:
    """The sum of terms as a matrix of two of their dimensions, of which the first may be none of theirs."""
    total = reduce(add, terms)
    lead = rank - total.type.ndim
    return dimshuffle(total, ["x" if d is None or d < lead else d - lead for d in dims])
