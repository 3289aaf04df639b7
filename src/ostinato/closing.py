"""What a function is made of: inputs, outputs, updates and givens, as they come from the user, as one closed Graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ostinato.config import config
from ostinato.errors import (
    MissingInputError,
    OstinatoTypeError,
    OstinatoValueError,
    UnusedInputError,
    at,
    bullet_list,
)
from ostinato.graph import Graph, Node, leaves, substitute, topological
from ostinato.ops.leaf import CONSTANT, INPUT, SHARED, describe, new_input
from ostinato.shared import SharedVariable
from ostinato.values import as_variable, convert, fit, is_ready
from ostinato.verify import verify


class In:
    """An input of a function with a name, a default value or its own rule for conversion.

    Parameters
    ----------
    variable : the symbolic variable.
    name : str, optional
        The keyword under which it may be passed; the variable's own name if not given.
    value : optional
        What is taken if no argument is given.
    allow_downcast : bool, optional
        Overrides the function's `allow_input_downcast`.
    strict : bool
        Accept only arrays of exactly the variable's dtype.
    **theano_options
        `mutable`, `borrow`, `autoname`, `implicit`, `shared`: accepted for Theano's sake.

    Raises
    ------
    OstinatoTypeError
        If there is no such option, or `variable` is none.
    """

    def __init__(
        self,
        variable: Any,
        name: str | None = None,
        value: Any = None,
        allow_downcast: bool | None = None,
        strict: bool = False,
        **theano_options: Any,
    ) -> None:
        unknown = set(theano_options) - {"mutable", "borrow", "autoname", "implicit", "shared"}
        if unknown:
            raise OstinatoTypeError(f"In: unknown option {', '.join(sorted(unknown))}; a state belongs into shared()")
        if not isinstance(variable, Node):
            raise OstinatoTypeError(f"an input is a symbolic variable, not {variable!r:.60}")
        self.variable: Any = variable
        self.name = name or self.variable.name
        self.value = value
        self.allow_downcast = allow_downcast
        self.strict = strict
        self._labels: dict[int, str] = {}  # how messages name it, by position; it takes long to put together

    def convert(self, value: Any, position: int, allow_downcast: bool | None) -> np.ndarray[Any, Any]:
        """An argument as an array of the variable's type; raises OstinatoTypeError if it is none."""
        if is_ready(value, self.variable.type):
            return value
        own = allow_downcast if self.allow_downcast is None else self.allow_downcast
        fix = ", or compile with allow_input_downcast=True"
        return convert(value, self.variable.type, self._label(position), own, self.strict, fix)

    def _label(self, position: int) -> str:
        if position not in self._labels:
            name = f" {self.name!r}" if self.name else ""
            self._labels[position] = f"input {position}{name}{at(self.variable.source)}"
        return self._labels[position]


class Out:
    """An output of a function; `borrow` is accepted for Theano's sake."""

    def __init__(self, variable: Any, borrow: bool = False) -> None:
        self.variable = as_variable(variable, "an output")


class Closed(NamedTuple):
    """A computation whose every leaf is accounted for, before any rewrite."""

    inputs: list[In]
    shared: list[SharedVariable]
    graph: Graph
    updated: list[SharedVariable]


def closed(
    inputs: Any, outputs: Any, updates: Any, givens: Any, no_default_updates: Any, on_unused_input: str
) -> tuple[Closed, Any]:
    """The computation that the arguments of `function` describe, and the form in which it returns its outputs."""
    specs = _read_inputs(inputs)
    results, keys = _read_outputs(outputs)
    updated, new_values = _read_updates(updates)
    mapping = _read_givens(givens)
    replaced = substitute([*results, *new_values], mapping)
    without = _read_no_default_updates(no_default_updates)
    for variable, value in _default_updates(replaced, {*updated, *without}, mapping) if without is not True else ():
        updated.append(variable)
        replaced.append(value)
    return _close(specs, replaced, updated, on_unused_input), keys


def _read_inputs(inputs: Any) -> list[In]:
    if not isinstance(inputs, (list, tuple)):
        raise OstinatoTypeError(f"function expects a list of inputs, got {inputs!r:.60}; write [{inputs!r:.60}]")
    specs = [i if isinstance(i, In) else In(i) for i in inputs]
    variables = [s.variable for s in specs]
    problems = [
        f"{describe(v)} is a shared variable or a constant and holds its own value; see givens"
        for v in variables
        if v.op in (SHARED, CONSTANT)
    ]
    problems += [f"{describe(v)} is listed twice" for v in dict.fromkeys(variables) if variables.count(v) > 1]
    if problems:
        raise OstinatoTypeError("function: among the inputs " + bullet_list(problems))
    return specs


def _read_outputs(outputs: Any) -> tuple[list[Any], Any]:
    if outputs is None:
        return [], None
    if isinstance(outputs, Mapping):
        wrong = [k for k in outputs if not isinstance(k, str)]
        if wrong:
            raise OstinatoTypeError(f"the keys of a dict of outputs are strings, not {', '.join(map(repr, wrong))}")
        return [_output(o, repr(k)) for k, o in outputs.items()], tuple(outputs)
    if isinstance(outputs, (list, tuple)):
        return [_output(o, str(i)) for i, o in enumerate(outputs)], "list"
    return [_output(outputs, "0")], "one"


def _output(given: Any, label: str) -> Any:
    return given.variable if isinstance(given, Out) else as_variable(given, f"output {label}")


def _pairs(given: Any, what: str) -> list[tuple[Any, Any]]:
    several = given is not None and isinstance(given, Iterable) and not isinstance(given, (str, Node))
    pairs = list(given.items() if isinstance(given, Mapping) else given) if several else []
    if (given is not None and not several) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
        raise OstinatoTypeError(f"{what}: expected a mapping or a list of pairs, got {given!r:.60}")
    return [(p[0], p[1]) for p in pairs]


def _read_updates(updates: Any) -> tuple[list[SharedVariable], list[Any]]:
    pairs = read_updates(updates, "updates")
    return [v for v, _ in pairs], [value for _, value in pairs]


def read_updates(updates: Any, what: str) -> list[tuple[SharedVariable, Any]]:
    """Updates in any of their forms as pairs: shared variable, new value of its type.

    Parameters
    ----------
    updates : mapping, list of pairs, or None
    what : how a message names them.

    Raises
    ------
    OstinatoTypeError, ShapeError
        If an updated variable is not shared, or its new value does not fit.
    OstinatoValueError
        If a variable has two updates.
    """
    pairs = _pairs(updates, what)
    wrong = [
        describe(v) if isinstance(v, Node) else f"{v!r:.60}" for v, _ in pairs if not isinstance(v, SharedVariable)
    ]
    if wrong:
        raise OstinatoTypeError(f"{what}: only shared variables have updates, not {', '.join(wrong)}")
    variables = [v for v, _ in pairs]
    twice = [describe(v) for v in dict.fromkeys(variables) if variables.count(v) > 1]
    if twice:
        raise OstinatoValueError(f"{what}: {', '.join(twice)} is updated twice; one new value can be kept")
    return [(v, fit(value, v.type, f"the update of {describe(v)}")) for v, value in pairs]


def _read_givens(givens: Any) -> dict[Node, Any]:
    mapping: dict[Node, Any] = {}
    for variable, value in _pairs(givens, "givens"):
        if not isinstance(variable, Node):
            raise OstinatoTypeError(f"givens replaces variables, not {variable!r:.60}")
        if variable in mapping:
            raise OstinatoValueError(f"givens: {describe(variable)} has two replacements")
        mapping[variable] = fit(value, variable.type, f"the replacement of {describe(variable)} in givens")
    return mapping


def _read_no_default_updates(given: Any) -> Any:
    """True, or the shared variables that are not updated by themselves."""
    if isinstance(given, bool):
        return given or ()
    variables = list(given) if isinstance(given, Iterable) and not isinstance(given, (str, Node)) else [given]
    wrong = [v for v in variables if not isinstance(v, SharedVariable)]
    if wrong:
        raise OstinatoTypeError(
            f"no_default_updates is True, False or a list of shared variables; it has {wrong[0]!r:.60}"
        )
    return variables


def _default_updates(results: list[Any], taken: Any, givens: dict[Node, Any]) -> list[tuple[SharedVariable, Any]]:
    """The updates that variables bring with them on which results, or updates found on the way, depend."""
    found: dict[Any, Any] = {}
    fresh = results
    while fresh:
        variables = [n for n in leaves(fresh) if n.op is SHARED and n not in taken and n not in found]
        new = {v: v.default_update for v in variables if v.default_update is not None}  # type: ignore[attr-defined]
        found.update(zip(new, fresh := substitute(new.values(), givens), strict=True))
    return list(found.items())


def _close(specs: list[In], results: list[Any], updated: list[SharedVariable], on_unused: str) -> Closed:
    inner = {s.variable: new_input(s.variable.type, s.name) for s in specs if s.variable.op is not INPUT}
    results = substitute(results, inner) if inner else results
    params = [inner.get(s.variable, s.variable) for s in specs]
    _check_leaves(params, specs, results, on_unused)
    shared: list[Any] = [n for n in leaves(results) if n.op is SHARED]
    stand_ins = {s: new_input(s.type, s.name) for s in shared}
    graph = Graph((*params, *stand_ins.values()), tuple(substitute(results, stand_ins)))
    if config.verify:
        verify(graph, "when closed")
    return Closed(specs, shared, graph, updated)


def _check_leaves(params: list[Any], specs: list[In], results: list[Any], on_unused: str) -> None:
    if on_unused not in ("raise", "warn", "ignore"):
        raise OstinatoValueError(f"on_unused_input is 'raise', 'warn' or 'ignore', not {on_unused!r}")
    needed = set(topological(results))
    missing = [n for n in leaves(results) if n.op is INPUT and n not in set(params)]
    if missing:
        raise MissingInputError("the computation needs inputs that are not given: " + ", ".join(map(describe, missing)))
    unused = [describe(s.variable) for p, s in zip(params, specs, strict=True) if p not in needed]
    if unused and on_unused != "ignore":
        message = f"nothing depends on input {', '.join(unused)}"
        if on_unused == "raise":
            raise UnusedInputError(message + "; on_unused_input='ignore' accepts that")
        warnings.warn(message, stacklevel=5)
