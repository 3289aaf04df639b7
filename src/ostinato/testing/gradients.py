"""`verify_grad`: derivatives of a program compared with a complex step or with differences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

import ostinato.tensor as T
from ostinato.config import config
from ostinato.errors import GradientMismatchError, OstinatoTypeError, OstinatoValueError, bullet_list
from ostinato.forward import jvp
from ostinato.function import function
from ostinato.grad import grad
from ostinato.graph import Graph, Node, topological
from ostinato.ops.leaf import as_tensor, describe, new_input
from ostinato.ops.loop import LOOP
from ostinato.testing.complex_step import NotAnalyticError, complex_step
from ostinato.testing.differences import STEP, difference
from ostinato.types import TensorType

Array = np.ndarray[Any, Any]

_LETTERS = {"reverse": "R", "forward": "F"}
_NAMES = {"R": "reverse", "F": "forward"}

# By the dtype of a derivative; differences are less exact than a complex step.
_RTOL = {"float64": 1e-9, "float32": 2e-4, "float16": 5e-2}
_RTOL_OF_DIFFERENCES = 1e-6


def verify_grad(
    fun: Callable[..., Any],
    points: Sequence[Any],
    *,
    order: int = 1,
    derivative: str | Sequence[str] = ("reverse", "forward"),
    rtol: float | None = None,
    atol: float | None = None,
    eps: float | None = None,
    n_tests: int = 1,
    rng: Any = None,
    mode: Any = None,
) -> None:
    """Check that the derivatives of a program are what small steps of its arguments say.

    Parameters
    ----------
    fun : callable
        From one symbolic variable per point to a variable of floats, or a list of them.
    points : list of arrays or numbers
        Where to check. Those of floats are varied, all others are held. Choose points away from kinks.
    order : int
        The highest order of derivatives to check.
    derivative : {"reverse", "forward"} or a sequence of both
        By which mode: `grad`, `jvp`, and for higher orders each over each.
    rtol, atol : float, optional
        What a derivative may differ by: `atol + rtol * abs(expected)`. By default `rtol` depends on the dtype of
        the points (1e-9 for float64, 2e-4 for float32, 5e-2 for float16, and 1e-6 at least where differences
        are used), and `atol` is `rtol` times the largest element.
    eps : float, optional
        The step of differences, relative to the larger of 1 and the number; 2**-8 unless given. If it is given,
        differences are used in any case.
    n_tests : int
        How many random weights of the outputs, and directions, to try.
    rng : numpy.random.Generator or int, optional
        Where these come from; 0 unless given.
    mode : as of `ostinato.function`
        The backend to check; that of the configuration unless given.

    Raises
    ------
    GradientMismatchError
        With the argument, the index, the derivative and what was expected, for every argument that differs.
    OstinatoValueError, OstinatoTypeError
        If an argument is not acceptable, or no output is a float.

    Notes
    -----
    Outputs are weighted and summed, so that one number is differentiated. What is expected is computed in float64,
    whatever the dtype of the points, for which `fun` is called again with variables of float64: by a complex step
    where all operations have a complex form, which is exact to rounding; else by central differences at three
    steps, extrapolated to zero (Richardson). A derivative of order k is compared with a step of the derivative of
    order k - 1, which was checked before.

    A loop with `truncate_gradient` has a gradient that is no derivative, and does not pass. What
    `disconnected_grad` marks is held in a complex step, but not in differences.

    Examples
    --------
    >>> import ostinato.tensor as T
    >>> from ostinato.testing import verify_grad
    >>> verify_grad(lambda x, y: T.sin(x) * y, [[0.5, 1.0], 2.0], order=2, derivative="reverse")
    """
    letters = _letters(derivative)
    if order < 1:
        raise OstinatoValueError(f"order is the highest order of derivatives to check, at least 1, not {order!r}")
    check = _Check(fun, _arrays(points), rtol, atol, eps, mode)
    generator = np.random.default_rng(0 if rng is None else rng)
    for _ in range(n_tests):
        _check_words(check, letters, order, generator)


def _letters(derivative: str | Sequence[str]) -> str:
    given = [derivative] if isinstance(derivative, str) else list(derivative)
    unknown = [d for d in given if d not in _LETTERS]
    if unknown or not given:
        raise OstinatoValueError(f"derivative is 'reverse', 'forward' or both, not {derivative!r}")
    return "".join(_LETTERS[d] for d in given)


def _arrays(points: Any) -> list[Array]:
    if not isinstance(points, (list, tuple)):
        raise OstinatoTypeError("verify_grad expects a list of points, one per argument of the function")
    arrays = [np.asarray(p) for p in points]
    # As `constant` does: a bare Python float has the dtype of the configuration.
    bare = [
        a.dtype == "float64" and not isinstance(p, (np.ndarray, np.generic))
        for a, p in zip(arrays, points, strict=True)
    ]
    return [a.astype(config.floatX) if b else a for a, b in zip(arrays, bare, strict=True)]


def _check_words(check: _Check, letters: str, order: int, rng: np.random.Generator) -> None:
    """Every derivative up to an order, by every mixture of modes; each was preceded by that of which it is one."""
    weights = [np.asarray(rng.uniform(0.5, 1.5, np.shape(v))) for v in check.values()]
    directions = [np.asarray(rng.uniform(0.5, 1.5, a.shape)) for a in check.moved()]
    program = {n: _Program(v, check.outputs(v), weights, directions) for n, v in check.variables.items()}
    for length in range(1, order + 1):
        for word in product(letters, repeat=length):
            check.compare("".join(word), program["own"], program["float64"])


class _Program(NamedTuple):
    """The program on variables of some dtype, with weights of the outputs, and the directions."""

    variables: Sequence[Any]
    outputs: Sequence[Any]
    weights: Sequence[Array]
    directions: Sequence[Array]

    def moved(self) -> list[Any]:
        """The variables that are varied."""
        return [v for v in self.variables if v.type.is_float]

    def scalar(self, word: str) -> Any:
        """The derivative that the letters of a word say, the last letter first, as one number."""
        if not word:
            return _inner(self.outputs, self.weights)
        found = self.derivative(word)
        return _inner(found, self.directions) if word[0] == "R" else found[0]

    def derivative(self, word: str) -> list[Any]:
        """The gradient of a derivative (R), or its derivative along the directions (F)."""
        scalar = self.scalar(word[1:])
        if word[0] == "R":
            return list(grad(scalar, self.moved(), disconnected_inputs="ignore"))
        tangents = [T.constant(d.astype(v.dtype)) for d, v in zip(self.directions, self.moved(), strict=True)]
        return [jvp(scalar, self.moved(), tangents, disconnected_outputs="ignore")]


def _inner(nodes: Sequence[Any], arrays: Sequence[Array]) -> Any:
    """The sum of products. Shapes are known by now, so arrays of another one are an error when it runs."""
    total: Any = None
    for node, array in zip(nodes, arrays, strict=True):
        term = T.sum(node * T.constant(array.astype(node.dtype)))
        total = term if total is None else total + term
    return total


@dataclass
class _Check:
    """A program at a point, and how exactly its derivatives are to be right."""

    fun: Callable[..., Any]
    arrays: list[Array]
    rtol: float | None
    atol: float | None
    eps: float | None
    mode: Any

    def __post_init__(self) -> None:
        names = _parameter_names(self.fun, len(self.arrays))
        self.names = names
        self.places = [i for i, a in enumerate(self.arrays) if a.dtype.kind == "f"]
        if not self.places:
            raise OstinatoTypeError("verify_grad: none of the points is of floats, so there is nothing to vary")
        self.wide = [a.astype("float64") if a.dtype.kind == "f" else a for a in self.arrays]
        self.variables = {
            kind: [new_input(TensorType(a.dtype.name, (None,) * a.ndim), n) for a, n in zip(arrays, names, strict=True)]
            for kind, arrays in (("own", self.arrays), ("float64", self.wide))
        }

    def moved(self) -> list[Array]:
        """The points that are varied."""
        return [self.arrays[i] for i in self.places]

    def outputs(self, variables: Sequence[Any]) -> list[Any]:
        """The outputs that are floats."""
        returned = self.fun(*variables)
        nodes = [as_tensor(o) for o in (returned if isinstance(returned, (list, tuple)) else [returned])]
        found = [n for n in nodes if n.type.is_float]
        if not found:
            raise OstinatoTypeError(
                "verify_grad: the function returns no floats, but " + ", ".join(map(describe, nodes))
            )
        return found

    def values(self) -> list[Any]:
        """The outputs at the point."""
        variables = self.variables["own"]
        f = function(variables, self.outputs(variables), mode="reference", on_unused_input="ignore")
        return list(f(*self.arrays))

    def compare(self, word: str, program: _Program, wide: _Program) -> None:
        """Raise if the derivative that a word says is not that of a step of what the rest of the word says."""
        symbolic = program.derivative(word)
        f = function(list(program.variables), symbolic, mode=self.mode, on_unused_input="ignore")
        found = f(*self.arrays)
        expected, method = self._expected(wide, word)
        problems = []
        for k, (a, e) in enumerate(zip(found, expected, strict=True)):
            what = f"argument {self.places[k]}, {self.names[self.places[k]]!r}" if word[0] == "R" else "the directions"
            problems += self._problem(what, a, e, method)
        if problems:
            notes = _notes(wide.outputs, method)
            raise GradientMismatchError(f"{_in_words(word, self.fun)} is wrong: {bullet_list(problems)}{notes}")

    def _problem(self, what: str, found: Array, expected: Array, method: str) -> list[str]:
        if found.shape != expected.shape:
            return [f"with respect to {what} it has shape {found.shape}, not {expected.shape}"]
        least = 0.0 if method == "a complex step" else _RTOL_OF_DIFFERENCES
        rtol = max(_RTOL[found.dtype.name], least) if self.rtol is None else self.rtol
        largest = float(np.max(np.abs(expected), initial=0))
        atol = rtol * (largest or 1.0) if self.atol is None else self.atol
        difference = np.abs(found.astype("float64") - expected)
        wrong = ~(difference <= atol + rtol * np.abs(expected)) & ~(np.isnan(found) & np.isnan(expected))
        if not wrong.any():
            return []
        worst = np.unravel_index(
            int(np.argmax(np.where(wrong, np.nan_to_num(difference, nan=np.inf), -1))), found.shape
        )
        index = f" at {[int(i) for i in worst]}" if worst else ""
        count = f", and {int(wrong.sum())} of {wrong.size} elements differ" if wrong.size > 1 else ""
        return [
            f"with respect to {what}{index} it is {found[worst]:.10g}, by {method} {expected[worst]:.10g} "
            f"(rtol={rtol:.2g}, atol={atol:.2g}){count}"
        ]

    # ---- what is expected ---------------------------------------------------------------------

    def _expected(self, wide: _Program, word: str) -> tuple[list[Array], str]:
        """The derivative of what the word says without its first letter, by steps, and how it was found."""
        graph = Graph(tuple(wide.variables), (wide.scalar(word[1:]),))
        if self.eps is None:
            try:
                return self._by_steps(
                    word, wide.directions, lambda d: complex_step(graph, self.wide, d)[0]
                ), "a complex step"
            except NotAnalyticError:
                pass
        f = function(list(wide.variables), graph.results[0], mode="reference", on_unused_input="ignore")
        return self._by_steps(word, wide.directions, lambda d: self._difference(f, d)), "differences"

    def _by_steps(
        self, word: str, directions: Sequence[Array], along: Callable[[Mapping[int, Array]], Any]
    ) -> list[Array]:
        if word[0] == "F":
            return [np.asarray(along(dict(zip(self.places, directions, strict=True))))]
        found = []
        for i in self.places:
            result = np.zeros(self.wide[i].shape)
            for index in np.ndindex(result.shape):
                unit = np.zeros(result.shape)
                unit[index] = 1
                result[index] = along({i: unit})
            found.append(result)
        return found

    def _difference(self, f: Callable[..., Any], directions: Mapping[int, Array]) -> Any:
        size = max(
            (float(np.max(np.abs(self.wide[i] * (d != 0)), initial=0)) for i, d in directions.items()), default=0
        )

        def at(distance: float) -> Any:
            return f(*[a + distance * directions[i] if i in directions else a for i, a in enumerate(self.wide)])

        return difference(at, (STEP if self.eps is None else self.eps) * max(1.0, size))


def _parameter_names(fun: Callable[..., Any], n: int) -> list[str]:
    """The names of the first parameters, `x0`, `x1`, … where they have none of their own."""
    try:
        known = [
            p.name
            for p in inspect.signature(fun).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (ValueError, TypeError):
        known = []
    return [known[i] if i < len(known) else f"x{i}" for i in range(n)]


def _in_words(word: str, fun: Callable[..., Any]) -> str:
    """`the derivative of order 2 of step, by forward over reverse mode`."""
    name = getattr(fun, "__name__", type(fun).__name__)
    return f"the derivative of order {len(word)} of {name}, by {' over '.join(_NAMES[c] for c in word)} mode,"


def _notes(outputs: Sequence[Node], method: str) -> str:
    """What explains a difference without there being a defect."""
    nodes = topological(outputs)
    cut = {n.params[0].truncate for n in nodes if n.op is LOOP and n.params[0].truncate is not None}
    notes = [f"there is a loop with truncate_gradient={k}, whose gradient is not the derivative" for k in sorted(cut)]
    if method == "differences" and any(n.op.name == "disconnected_grad" for n in nodes):
        notes.append("differences move what disconnected_grad marks")
    return "".join(f"; {n}" for n in notes)
