"""Forward-mode differentiation: graph in, graph out.

One walk over the nodes, inputs before users (`tangents`); what happens at a node is said by the forward rule
of its op, or by its reverse rule transposed. Loops are no special case: their rule returns a Loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ostinato.errors import DisconnectedInputError, OstinatoTypeError, OstinatoValueError
from ostinato.grad import backward, check_disconnected, connected, listed, no_gradient
from ostinato.graph import Node, dependents, make, substitute, topological
from ostinato.ops.creation import zeros_like
from ostinato.ops.elementwise import cast
from ostinato.ops.leaf import as_tensor, describe, new_input
from ostinato.ops.loop import item, zeros_of
from ostinato.ops.movement import SPECIFY_SHAPE
from ostinato.ops.op import params_of
from ostinato.ops.sizes import SIZE, as_size_node, as_size_nodes, same_size, sizes
from ostinato.types import TensorType, TupleType

# ---- the walk -------------------------------------------------------------------------------------


def tangents(roots: Sequence[Node], seeds: Mapping[Node, Any], constants: Collection[Node] = ()) -> list[Any]:
    """Tangents of `roots`, given those of some nodes.

    Parameters
    ----------
    seeds : from nodes to their tangents, of their sizes (see `like`) and dtypes
        A node that also depends on other ones of these gets the sum.
    constants : nodes that derivatives do not pass.

    Returns
    -------
    list of Node or None
        None where no derivative arrives: no path, or only through integers or rounding.
    """
    barriers = set(constants)
    relevant = dependents(roots, seeds.keys(), barriers)
    found: dict[Node, Any] = {}
    for node in topological(roots, stop=barriers):
        if node in relevant:
            arrived = None if node in barriers else _pushed(node, found)
            found[node] = _sum(arrived, seeds.get(node))
    return [found.get(r) for r in roots]


def _sum(x: Any, y: Any) -> Any:
    return y if x is None else x if y is None else x + y


def _pushed(node: Node, found: Mapping[Node, Any]) -> Any:
    """The tangent of a node that follows from those of its inputs: a list for several results, None for zero."""
    given = [found.get(i) for i in node.inputs]
    if all(t is None for t in given) or not _carries_derivatives(node):
        return None
    result = push_forward(node, given)
    if isinstance(node.type, TupleType):
        return result
    return None if result is None else cast(result, node.type.dtype)


def _carries_derivatives(node: Node) -> bool:
    items = node.type.items if isinstance(node.type, TupleType) else (node.type,)
    return any(t.is_float for t in items)


def push_forward(node: Node, given: Sequence[Any]) -> Any:
    """One step of the walk: the tangent of a node from those of its inputs, by its op's rule."""
    if node.op.jvp is not None:
        return node.op.jvp(given, node, *node.inputs, **params_of(node))
    if node.op.vjp is not None:
        return transposed(node, given)
    raise no_gradient(node)


def transposed(node: Node, given: Sequence[Any]) -> Any:
    """The forward derivative of a node by its reverse rule alone.

    The cotangents that the rule gives are linear in that of the result, g. So their own reverse derivative
    with respect to g takes tangents of the inputs to the tangent of the result, and g itself is not in it.
    """
    several = isinstance(node.type, TupleType)
    types: Sequence[TensorType] = node.type.items if several else (node.type,)
    places = [new_input(t) if t.is_float else None for t in types]
    pulled = node.op.vjp(places if several else places[0], node, *node.inputs, **params_of(node))  # type: ignore[misc]
    pairs = [(c, t) for c, t in zip(pulled, given, strict=True) if c is not None and t is not None]
    found = backward([(c, cast(t, c.type.dtype)) for c, t in pairs], [p for p in places if p is not None])
    by_place = dict(zip([p for p in places if p is not None], found, strict=True))
    results = [None if p is None else by_place[p] for p in places]
    outs = [item(node, i) for i in range(len(types))] if several else [node]
    known = {p: out for p, out in zip(places, outs, strict=True) if p is not None}
    results = [None if r is None else _without(r, known) for r in results]
    return results if several else results[0]


def _without(result: Any, outs: Mapping[Node, Node]) -> Any:
    """A derivative in which the cotangents that it was taken by stood for their sizes at most."""
    own = {make(SIZE, (p,), (a,)): as_size_node(s) for p, out in outs.items() for a, s in enumerate(sizes(out))}
    (result,) = substitute([result], own)
    return substitute([result], {p: zeros_of(out) for p, out in outs.items()})[0]


def like(tangent: Any, x: Node) -> Any:
    """`tangent`, known to have the sizes of `x`; checked at run time where the types do not tell."""
    if all(map(same_size, sizes(tangent), sizes(x))):
        return tangent
    return make(SPECIFY_SHAPE, (tangent, *as_size_nodes(sizes(x))))


# ---- what users call ------------------------------------------------------------------------------


def jvp(
    outputs: Any,
    wrt: Any,
    tangents: Any,
    consider_constant: Sequence[Any] | None = None,
    disconnected_outputs: str = "raise",
    return_disconnected: str = "zero",
) -> Any:
    """The product of the Jacobian of `outputs` with `tangents`: how the outputs move if `wrt` move so.

    Forward mode: it costs about as much as the outputs themselves, whatever their number, and a loop is
    differentiated by one loop beside which nothing is recorded. Beside `grad`, which gives one number's derivatives by
    many variables, this gives many numbers' derivatives in one direction.

    Parameters
    ----------
    outputs : variable of floats, or list or tuple of variables
    wrt : variable of floats, or list or tuple of variables
        Inputs, shared variables or any intermediate expressions of the outputs.
    tangents : variable or array, or list or tuple of these, one for each of `wrt`
        Each of the shape of its variable; None stands for zero.
    consider_constant : list of variables
        Derivatives do not pass these.
    disconnected_outputs : {"raise", "warn", "ignore"}
        What to do if an output depends on none of `wrt`.
    return_disconnected : {"zero", "None"}
        What stands for the tangent of an output that depends on none of `wrt`.

    Returns
    -------
    variable, list or tuple like `outputs`
        Each of the shape and dtype of its output.

    Raises
    ------
    OstinatoTypeError
        If something is not of floats, or a tangent has not as many dimensions as its variable.
    OstinatoValueError
        If there are not as many tangents as variables.
    ShapeError
        If the shapes of a variable and its tangent are known to differ; when a function runs if they turn out to.
    DisconnectedInputError
        See `disconnected_outputs`.
    NoGradientError
        If a derivative would have to pass an operation that has none.
    """
    roots, targets = listed(outputs), listed(wrt)
    given = read_directions(targets, tangents)
    _check_floats(roots)
    check_disconnected("disconnected_outputs", disconnected_outputs, return_disconnected)
    constants = [as_tensor(c) for c in consider_constant or ()]
    linked = _connected(roots, targets, constants)
    _report_disconnected([r for r, ok in zip(roots, linked, strict=True) if not ok], targets, disconnected_outputs)
    results = [
        (None if not ok and return_disconnected == "None" else zeros_like(r)) if t is None else t
        for r, t, ok in zip(roots, push(roots, targets, given, constants), linked, strict=True)
    ]
    return type(outputs)(results) if isinstance(outputs, (list, tuple)) else results[0]


def push(roots: Sequence[Any], targets: Sequence[Any], given: Sequence[Any], constants: Sequence[Any] = ()) -> Any:
    """Tangents of `roots` (None for zero) from those of `targets` (None for zero).

    Loops of the same steps that record different things are taken for one, so that each is differentiated once.
    """
    from ostinato.rewrite.loop_absorb import without_twins
    from ostinato.rewrite.stability import stable

    places = without_twins(stable([*roots, *targets, *constants], [*targets, *constants]))
    n, m = len(roots), len(targets)
    seeds: dict[Node, Any] = {}
    for w, t in zip(places[n : n + m], given, strict=True):
        if t is not None:
            seeds[w] = _sum(seeds.get(w), like(t, w))
    return tangents(places[:n], seeds, places[n + m :])


def read_directions(targets: Sequence[Any], given: Any, what: str = "tangent") -> list[Any]:
    """One tangent or cotangent (or None, for zero) for each variable, in its dtype.

    Raises
    ------
    OstinatoValueError, OstinatoTypeError
        If there are not as many, variables are not of floats, or numbers of dimensions differ.
    """
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    if len(listed) != len(targets) and len(targets) == 1:
        listed = [given]  # a vector, as a list of numbers
    if len(listed) != len(targets):
        raise OstinatoValueError(f"{len(targets)} variables need as many {what}s, got {len(listed)}")
    _check_floats(targets)
    found = [None if t is None else as_tensor(t) for t in listed]
    wrong = [
        f"that of {describe(w)} cannot be {describe(t)}"
        for w, t in zip(targets, found, strict=True)
        if t is not None and t.type.ndim != w.type.ndim
    ]
    if wrong:
        raise OstinatoTypeError(f"a {what} has as many dimensions as its variable, but " + "; ".join(wrong))
    return [None if t is None else cast(t, w.type.dtype) for w, t in zip(targets, found, strict=True)]


def _check_floats(nodes: Sequence[Any]) -> None:
    wrong = [describe(n) for n in nodes if not n.type.is_float]
    if wrong:
        raise OstinatoTypeError("derivatives are taken of floats with respect to floats, not " + ", ".join(wrong))


def _connected(roots: Sequence[Node], targets: Sequence[Node], constants: Sequence[Node]) -> list[bool]:
    return [any(connected([r], targets, constants)) for r in roots]


def _report_disconnected(missing: Sequence[Node], targets: Sequence[Node], action: str) -> None:
    if not missing or action == "ignore":
        return
    what = ", ".join(map(describe, missing)) + (" depends" if len(missing) == 1 else " depend")
    message = f"{what} on none of " + ", ".join(map(describe, targets))
    if action == "raise":
        raise DisconnectedInputError(message + "; disconnected_outputs='ignore' makes these tangents zero")
    warnings.warn(message, stacklevel=3)


def Rop(
    f: Any,
    wrt: Any,
    eval_points: Any,
    disconnected_outputs: str = "raise",
    return_disconnected: str = "zero",
) -> Any:
    """`jvp(f, wrt, eval_points)`, as Theano spells it: the Jacobian of `f` times `eval_points`."""
    return jvp(f, wrt, eval_points, disconnected_outputs=disconnected_outputs, return_disconnected=return_disconnected)
