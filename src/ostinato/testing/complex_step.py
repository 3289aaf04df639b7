"""Derivatives by a complex step: a graph is evaluated with complex numbers, which it has no dtype for.

For an analytic f, the imaginary part of f(x + ih) is h f'(x), without a difference and therefore exact to
rounding, however small h is (Squire and Trapp 1998, doi:10.1137/S003614459631241X). The evaluator is a small
interpreter of its own. Comparisons, rounding and conditions look at the real part, so branches are taken as
they are for real numbers. An op that has no complex form here stops the evaluation, and differences have to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ostinato.backends.reference import empty_outputs
from ostinato.graph import Graph, Node, topological
from ostinato.ops.leaf import CONSTANT, SHARED
from ostinato.ops.loop import LOOP, LoopSpec, split
from ostinato.ops.op import params_of

Array = np.ndarray[Any, Any]

STEP = 1e-20


class NotAnalyticError(Exception):
    """A graph has an op without a complex form, or a value that is not finite."""


def complex_step(graph: Graph, arrays: Sequence[Array], directions: Mapping[int, Array]) -> list[Array]:
    """The derivatives of all results along a direction.

    Parameters
    ----------
    graph : its results are floats.
    arrays : the params.
    directions : by the position of a param; that of all others is zero.

    Raises
    ------
    NotAnalyticError
        If an op on the way has no complex form.
    """
    point = [a + 1j * STEP * directions[i] if i in directions else a for i, a in enumerate(arrays)]
    with np.errstate(all="ignore"):
        results = _evaluate(graph.params, graph.results, point)
    derivatives = [np.imag(r) / STEP for r in results]
    if any(np.any(~np.isfinite(d) & np.isfinite(np.real(r))) for d, r in zip(derivatives, results, strict=True)):
        raise NotAnalyticError("a derivative is not finite")
    return derivatives


def _evaluate(params: Sequence[Node], results: Sequence[Node], values: Sequence[Any]) -> list[Any]:
    known: dict[Node, Any] = dict(zip(params, values, strict=True))
    for node in topological(results, stop=known):
        if node not in known:
            known[node] = _value(node, [known[i] for i in node.inputs])
    return [known[r] for r in results]


def _value(node: Node, inputs: list[Any]) -> Any:
    if node.op is CONSTANT:
        return node.params[0].array[()]
    if node.op is SHARED:
        return node.get_value()  # type: ignore[attr-defined]
    if node.op is LOOP:
        return _loop(node.params[0], inputs)
    if not any(_is_complex(i) for i in inputs):
        return node.op.numpy(*inputs, **params_of(node))
    if node.op.name in _ON_REAL_PARTS:
        return node.op.numpy(*[np.real(i) if _is_complex(i) else i for i in inputs], **params_of(node))
    rule = _RULES.get(node.op.name) or (node.op.numpy if node.op.name in _AS_THEY_ARE else None)
    if rule is None:
        raise NotAnalyticError(f"{node.op.name} has no complex form")
    return rule(*inputs, **params_of(node))


def _is_complex(value: Any) -> bool:
    return getattr(value, "dtype", None) is not None and value.dtype.kind == "c"


def _loop(spec: LoopSpec, inputs: list[Any]) -> tuple[Any, ...]:
    n, sequences, carries, invariants = split(spec, inputs)
    every = [1 if k is None else int(invariants[k]) for k in map(spec.thinned, range(spec.n_outputs))]
    columns: list[list[Any]] = [[] for _ in every]
    c, done = spec.n_carries, 0
    while done < n:
        values = (np.int64(done), *[s[done] for s in sequences], *carries, *invariants)
        results = _evaluate(spec.body.params, spec.body.results, values)
        carries = tuple(results[:c])
        for column, value, k in zip(columns, results[c:], every, strict=False):
            if done % k == 0:
                column.append(value)
        done += 1
        if spec.has_until and not results[-1]:
            break
    stacked = [np.stack(column) for column in columns] if done else _no_rows(spec, inputs)
    return (*carries, *stacked, np.int64(done))


def _no_rows(spec: LoopSpec, inputs: list[Any]) -> list[Any]:
    return empty_outputs(spec, [np.real(i) if _is_complex(i) else i for i in inputs])


# ---- ops ------------------------------------------------------------------------------------------

# Their NumPy functions take complex numbers.
_AS_THEY_ARE = {"add", "sub", "mul", "true_div", "neg", "pow", "sum_to", "broadcast_to", "sum", "prod", "cumsum"}
_AS_THEY_ARE |= {"exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"}
_AS_THEY_ARE |= {"arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh"}
_AS_THEY_ARE |= {"size", "check_rows", "dimshuffle", "reshape", "concatenate", "specify_shape", "subtensor", "gather"}
_AS_THEY_ARE |= {"item", "steps_reached", "grad_clip", "matmul", "solve_triangular", "solve", "matrix_inverse", "det"}

# What they give is no smooth function of their operands, or one that derivatives do not pass.
_ON_REAL_PARTS = {"lt", "le", "gt", "ge", "eq", "neq", "isnan", "isinf", "logical_not", "any", "all"}
_ON_REAL_PARTS |= {"argmax", "argmin", "argsort"}
_ON_REAL_PARTS |= {"sign", "floor", "ceil", "trunc", "round", "floor_div", "trip_count", "arange"}
_ON_REAL_PARTS |= {"disconnected_grad", "zero_grad"}


def _cast(x: Any, *, dtype: str) -> Any:
    return x if dtype.startswith("float") else np.real(x).astype(dtype)


def _where(condition: Any, x: Any, y: Any) -> Any:
    return np.where(condition, x, y)[()]


def _pick(better: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda x, y: np.where(better(np.real(x), np.real(y)), x, y)[()]


def _extreme(position: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Any, *, axes: tuple[int, ...]) -> Any:
        kept = [a for a in range(x.ndim) if a not in axes]
        flat = np.transpose(x, [*kept, *axes]).reshape([*(x.shape[a] for a in kept), -1])
        best = np.expand_dims(position(np.real(flat), -1), -1)
        return np.take_along_axis(flat, best, -1)[..., 0]

    return reduce


def _widened(function: Callable[..., Any]) -> Callable[..., Any]:
    """An op that writes to a copy of its first operand: that becomes complex, too."""
    return lambda x, y, *rest, **params: function(np.asarray(x, "complex128"), y, *rest, **params)


def _op(name: str) -> Callable[..., Any]:
    from ostinato.ops.op import OPS

    return lambda *args, **params: OPS[name].numpy(*args, **params)


def _special(name: str) -> Callable[..., Any]:
    def compute(x: Any) -> Any:
        import scipy.special

        return getattr(scipy.special, name)(x)

    return compute


def _logaddexp(x: Any, y: Any) -> Any:
    top = np.maximum(np.real(x), np.real(y))
    return top + np.log(np.exp(x - top) + np.exp(y - top))


def _arctan2(y: Any, x: Any) -> Any:
    """The angle of the real parts, and the small angle from there, by a quotient without a branch."""
    a, b = np.real(y), np.real(x)
    return np.arctan2(a, b) + np.arctan((y * b - x * a) / (x * b + y * a))


def _cholesky(a: Any) -> Any:
    """As for real numbers, without the conjugates that make it other than analytic."""
    factor = np.zeros_like(a)
    for j in range(a.shape[-1]):
        row = factor[..., j, :j]
        factor[..., j, j] = np.sqrt(a[..., j, j] - np.sum(row * row, -1))
        below = factor[..., j + 1 :, :j] @ row[..., None]
        factor[..., j + 1 :, j] = (a[..., j + 1 :, j] - below[..., 0]) / factor[..., j, j, None]
    return factor


def _slogdet(a: Any) -> Any:
    value = np.linalg.det(a)
    sign = np.sign(np.real(value))
    return sign, np.log(value * sign)


_RULES: dict[str, Callable[..., Any]] = {
    "abs": lambda x: x * np.where(np.real(x) < 0, -1, 1),
    "arctan2": _arctan2,
    "cast": _cast,
    "cholesky": _cholesky,
    "erf": _special("erf"),
    "erfc": _special("erfc"),
    "exp2": lambda x: np.exp(x * np.log(2)),
    "gammaln": _special("loggamma"),
    "inc_subtensor": _widened(_op("inc_subtensor")),
    "logaddexp": _logaddexp,
    "max": _extreme(np.argmax),
    "maximum": _pick(np.greater),
    "min": _extreme(np.argmin),
    "minimum": _pick(np.less),
    "mod": lambda x, y: x - y * np.floor(np.real(x) / np.real(y)),
    "psi": _special("psi"),
    "scatter_add": _widened(_op("scatter_add")),
    "scatter_set": _widened(_op("scatter_set")),
    "set_subtensor": _widened(_op("set_subtensor")),
    "sigmoid": lambda x: (1 + np.tanh(x / 2)) / 2,
    "slogdet": _slogdet,
    "where": _where,
}
