"""Reverse-mode differentiation: graph in, graph out.

One walk backwards over the nodes (`backward`); what happens at a node is said by the reverse rule of
its op. Loops are no special case: their rule returns a Loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ostinato.errors import DisconnectedInputError, NoGradientError, OstinatoTypeError, OstinatoValueError
from ostinato.graph import Node, dependents, redirect, topological
from ostinato.ops.creation import ones_like, zeros_like
from ostinato.ops.elementwise import cast
from ostinato.ops.leaf import as_tensor, describe
from ostinato.ops.loop import ITEM, LOOP, LoopSpec, body_of
from ostinato.ops.loop_reverse import reverse_loop
from ostinato.ops.op import params_of
from ostinato.types import TupleType


def backward(seeds: Sequence[tuple[Node, Node]], wrt: Sequence[Node], constants: Sequence[Node] = ()) -> list[Any]:
    """Cotangents of `wrt`, given those of some nodes.

    Parameters
    ----------
    seeds : pairs (node, its cotangent); a node may appear more than once.
    constants : nodes that derivatives do not pass.

    Returns
    -------
    list of Node or None
        None where no derivative arrives: no path, or only through integers or rounding.
    """
    roots, barriers = [n for n, _ in seeds], set(constants)
    relevant = dependents(roots, set(wrt), barriers)
    walk = _Cotangents()
    for node, g in seeds:
        walk.add(node, g)
    for node in reversed(topological(roots, stop=barriers)):
        if node in relevant and node not in barriers:
            walk.visit(node, relevant)
    return [walk.of.get(w) for w in wrt]


class _Cotangents:
    """The cotangents found so far."""

    def __init__(self) -> None:
        self.of: dict[Node, Any] = {}
        self.of_items: dict[Node, dict[int, Any]] = {}

    def add(self, node: Node, g: Any) -> None:
        if node.op is ITEM:
            slots = self.of_items.setdefault(node.inputs[0], {})
            index = node.params[0]
            slots[index] = slots[index] + g if index in slots else g
        self.of[node] = self.of[node] + g if node in self.of else g

    def visit(self, node: Node, relevant: set[Node]) -> None:
        """Pass the cotangent of a node on to its inputs."""
        if isinstance(node.type, TupleType):
            slots = self.of_items.pop(node, None)
            g: Any = slots and [slots.get(i) for i in range(len(node.type.items))]
        else:
            g = self.of.get(node)
        if g is None or not node.inputs or node.op is ITEM:
            return
        if not any(i in relevant and _differentiable(i) for i in node.inputs):
            return
        wanted = [i in relevant and _differentiable(i) for i in node.inputs]
        for i, c, is_wanted in zip(node.inputs, _rule(node, g, wanted), wanted, strict=True):
            if c is not None and is_wanted:
                self.add(i, cast(c, i.type.dtype))


def _differentiable(node: Node) -> bool:
    return not isinstance(node.type, TupleType) and node.type.is_float


def _rule(node: Node, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
    """Cotangents of the inputs of a node; of a loop, whose steps record what is read for them, only those wanted."""
    if node.op.vjp is None:
        raise no_gradient(node)
    if node.op is LOOP:
        return reverse_loop(g, node, node.inputs, node.params[0], wanted)
    result: Sequence[Any] = node.op.vjp(g, node, *node.inputs, **params_of(node))
    return result


def no_gradient(node: Node) -> NoGradientError:
    """The error where a derivative arrives at an op without a rule."""
    return NoGradientError(
        f"there is no derivative of {node.op.name}, which makes {describe(node)}; "
        "hold what it makes constant by consider_constant=[...] or disconnected_grad(...)"
    )


def connected(roots: Sequence[Node], wrt: Sequence[Node], constants: Sequence[Node] = ()) -> list[bool]:
    """For each of `wrt` whether any of `roots` depends on its value (not only on its shape)."""
    found: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            if node.op.connected and node not in constants:
                stack.extend(_inputs_that_count(node))
    return [w in found for w in wrt]


def _inputs_that_count(node: Node) -> Sequence[Node]:
    """The inputs that a node's value depends on; of one result of a loop, those that reach it by way of the steps."""
    if node.op is not ITEM or node.inputs[0].op is not LOOP:
        return node.inputs
    loop = node.inputs[0]
    return [loop.inputs[i] for i in sorted(_reaching(loop.params[0])[node.params[0]])]


@lru_cache(maxsize=256)
def _reaching(spec: LoopSpec) -> list[set[int]]:
    """For each result of a loop the places of the inputs that it depends on."""
    body, params = body_of(spec), spec.body.params
    first = 1 + spec.n_sequences

    def reads(root: Node) -> set[int]:
        return {i for i, ok in enumerate(connected([root], params)) if ok}

    steps = [reads(n) for n in body.next_carries]

    def closed(found: set[int]) -> set[int]:
        """With what the carries among them depend on, some steps before."""
        while not (more := set().union(*[steps[i - first] for i in found if first <= i < first + len(steps)])) <= found:
            found = found | more
        return found

    finals = [closed({first + i}) for i in range(spec.n_carries)]
    return [*finals, *[closed(reads(y)) for y in body.outputs], set(range(len(params)))]


def grad(
    cost: Any,
    wrt: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_inputs: str = "raise",
    add_names: bool = True,
    known_grads: Mapping[Any, Any] | None = None,
    return_disconnected: str = "zero",
    null_gradients: str = "raise",
) -> Any:
    """The gradient of a scalar with respect to variables, as a symbolic expression.

    Parameters
    ----------
    cost : scalar variable of floats, or None if `known_grads` is given.
    wrt : variable, or list or tuple of variables
        Inputs, shared variables or any intermediate expressions of the cost.
    consider_constant : list of variables
        Derivatives do not pass these.
    disconnected_inputs : {"raise", "warn", "ignore"}
        What to do if the cost does not depend on one of `wrt`.
    known_grads : mapping from variable to its gradient
        Where the walk starts (in addition to the cost): gradients that the caller knows already.
    return_disconnected : {"zero", "None"}
        What stands for the gradient of a disconnected variable.

    Returns
    -------
    variable, list or tuple like `wrt`
        Each of the shape and dtype of its variable.

    Raises
    ------
    OstinatoTypeError
        If the cost is not a scalar of floats, or a variable of `wrt` is not one of floats.
    DisconnectedInputError
        See `disconnected_inputs`.
    NoGradientError
        If a derivative would have to pass an operation that has none.
    """
    given = _Given(consider_constant, disconnected_inputs, return_disconnected)
    results = given.pull_back(cost, _seeds(cost, known_grads), wrt)
    if add_names:
        _name(cost, listed(wrt), results)
    return type(wrt)(results) if isinstance(wrt, (list, tuple)) else results[0]


def vjp(
    outputs: Any,
    wrt: Any,
    cotangents: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_inputs: str = "raise",
    return_disconnected: str = "zero",
) -> Any:
    """The product of `cotangents` with the Jacobian of `outputs`: reverse mode from any outputs.

    The gradient of `sum(cotangent * output)` over all outputs.

    Parameters
    ----------
    outputs : variable of floats, or list or tuple of variables
    wrt : variable of floats, or list or tuple of variables
        Inputs, shared variables or any intermediate expressions of the outputs.
    cotangents : variable or array, or list or tuple of these, one for each of `outputs`
        Each of the shape of its output; None stands for zero.
    consider_constant, disconnected_inputs, return_disconnected : as in `grad`

    Returns
    -------
    variable, list or tuple like `wrt`
        Each of the shape and dtype of its variable.

    Raises
    ------
    OstinatoTypeError
        If something is not of floats, or a cotangent has not as many dimensions as its output.
    OstinatoValueError
        If there are not as many cotangents as outputs.
    ShapeError
        If the shapes of an output and its cotangent are known to differ; when a function runs if they turn out to.
    DisconnectedInputError, NoGradientError
        As in `grad`.
    """
    from ostinato.forward import like, read_directions

    given = _Given(consider_constant, disconnected_inputs, return_disconnected)
    roots = listed(outputs)
    pairs = zip(roots, read_directions(roots, cotangents, "cotangent"), strict=True)
    results = given.pull_back(None, [(y, like(g, y)) for y, g in pairs if g is not None], wrt)
    return type(wrt)(results) if isinstance(wrt, (list, tuple)) else results[0]


def Lop(
    f: Any,
    wrt: Any,
    eval_points: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_inputs: str = "raise",
) -> Any:
    """`vjp(f, wrt, eval_points)`, as Theano spells it: `eval_points` times the Jacobian of `f`."""
    return vjp(f, wrt, eval_points, consider_constant, disconnected_inputs)


def check_disconnected(name: str, action: str, stands: str) -> None:
    """Raise if what to do about what is disconnected (the argument `name`), or what stands for it, is unknown."""
    if action not in ("raise", "warn", "ignore") or stands not in ("zero", "None"):
        raise OstinatoValueError(f"{name} is 'raise', 'warn' or 'ignore'; return_disconnected 'zero' or 'None'")


class _Given:
    """The options of a reverse derivative, checked."""

    def __init__(self, constants: Sequence[Any] | None, disconnected_inputs: str, return_disconnected: str) -> None:
        check_disconnected("disconnected_inputs", disconnected_inputs, return_disconnected)
        self.constants = [as_tensor(c) for c in constants or ()]
        self.disconnected_inputs, self.return_disconnected = disconnected_inputs, return_disconnected

    def pull_back(self, cost: Any, seeds: list[tuple[Any, Any]], wrt: Any) -> list[Any]:
        """One cotangent per variable of `wrt`; None for a disconnected one if that is wished."""
        targets = listed(wrt)
        _check_wrt(targets)
        linked = connected([n for n, _ in seeds], targets, self.constants)
        missing = [t for t, ok in zip(targets, linked, strict=True) if not ok]
        _report_disconnected(cost, missing, self.disconnected_inputs)
        roots, places, fixed = _merged(seeds, targets, self.constants)
        found = backward(roots, places, fixed)
        return [
            (None if not ok and self.return_disconnected == "None" else zeros_like(t)) if g is None else g
            for t, g, ok in zip(targets, found, linked, strict=True)
        ]


def listed(value: Any) -> list[Any]:
    """One variable or several as a list of them."""
    return [as_tensor(v) for v in value] if isinstance(value, (list, tuple)) else [as_tensor(value)]


def _seeds(cost: Any, known_grads: Mapping[Any, Any] | None) -> list[tuple[Any, Any]]:
    seeds = []
    if cost is None and not known_grads:
        raise OstinatoValueError("grad needs a cost, or known_grads to start from")
    if cost is not None:
        cost = as_tensor(cost)
        if cost.type.ndim != 0:
            raise OstinatoTypeError(
                f"grad expects a scalar cost, got {describe(cost)}; reduce it with .sum() or .mean() first"
            )
        if not cost.type.is_float:
            raise OstinatoTypeError(f"grad expects a cost of floats, got {describe(cost)}")
        seeds.append((cost, ones_like(cost)))
    for node, g in (known_grads or {}).items():
        g = as_tensor(g)
        if g.type.ndim != node.type.ndim:
            raise OstinatoTypeError(f"known_grads: the gradient of {describe(node)} cannot be {describe(g)}")
        seeds.append((node, cast(g, node.type.dtype)))
    return seeds


def _check_wrt(targets: Sequence[Node]) -> None:
    wrong = [describe(t) for t in targets if not t.type.is_float]
    if wrong:
        raise OstinatoTypeError("a gradient is taken with respect to floats, not " + ", ".join(wrong))


def _report_disconnected(cost: Any, missing: list[Node], action: str) -> None:
    if not missing or action == "ignore":
        return
    what = describe(cost) if isinstance(cost, Node) else "what the derivative starts from"
    message = f"{what} does not depend on " + ", ".join(map(describe, missing))
    if action == "raise":
        raise DisconnectedInputError(message + "; disconnected_inputs='ignore' makes these gradients zero")
    warnings.warn(message, stacklevel=4)


def _merged(
    seeds: list[tuple[Any, Any]], targets: list[Any], constants: list[Any]
) -> tuple[list[tuple[Any, Any]], list[Any], list[Any]]:
    """Seeds, targets and constants in a graph of stable forms where loops that record more of the same steps are one.

    Without this each order of differentiation would reverse every such loop anew. And the last row of a state is
    its final value: the cotangent of all rows, zeros but for one, would be as large as they are.
    """
    from ostinato.rewrite.last_only import last_states
    from ostinato.rewrite.loop_absorb import without_twins
    from ostinato.rewrite.stability import stable

    fixed = targets + constants
    roots = without_twins(stable([n for pair in seeds for n in pair] + fixed, fixed))
    replaced = last_states(roots, set(roots))
    roots = redirect(roots, replaced) if replaced else roots
    n, m = 2 * len(seeds), len(targets)
    pairs = list(zip(roots[:n:2], roots[1:n:2], strict=True))
    return pairs, roots[n : n + m], roots[n + m :]


def _name(cost: Any, targets: Sequence[Node], results: Sequence[Any]) -> None:
    for t, g in zip(targets, results, strict=True):
        if g is not None and g.name is None and g.inputs and t.name:
            g.name = f"d({getattr(cost, 'name', None) or 'cost'})/d({t.name})"
