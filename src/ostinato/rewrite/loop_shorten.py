"""loop_shorten: the steps of a derivative before the last row that anybody read are not made.

before:  g = inc(zeros(n), d, [:m])                   # the cotangent of ys: of ys[:m] alone something was read
         s = loop(n, g[::-1], xs[::-1], 0, 0; (g_t, x_t, h, s) -> (a * (g_t + h), s + x_t * (g_t + h)))
after:   s = loop(m, d[::-1], xs[:m][::-1], 0, 0; …)

In the steps that are left out all states are zero before and after: what comes of zeros by sums, products and the like
is zero. (Where rows that nobody read are infinite, the derivative would have been no number.) What is left is an array
with a row per step, which `rows_in_loop` can make in the loop. Loops that record something stay as they are, and
functions whose loops keep less than all of their steps; and rows of single numbers, for which a pass over all of
them, many at a time, is as fast.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ostinato.graph import Graph, Node, make, substitute
from ostinato.ops.indexing import INC_SUBTENSOR, SET_SUBTENSOR, SUBTENSOR, is_reversal, is_start
from ostinato.ops.leaf import constant_value, new_input
from ostinato.ops.loop import COUNT, LOOP, LoopSpec, body_of, results_of, split
from ostinato.ops.sizes import BROADCAST, as_size_node, known_size, same_size, sizes
from ostinato.rewrite.engine import keeps_types, replace_loops, rewrite_pass
from ostinato.rewrite.notes import called, tell
from ostinato.types import TensorType

# Operations of zeros that give zeros: where all operands are, where the first one is, where one of them is.
_ALL = frozenset(("add", "sub", "maximum", "minimum", "concatenate"))
_FIRST = frozenset(
    """neg abs cast sum sum_to true_div broadcast_to dimshuffle subtensor reshape specify_shape grad_scale
    disconnected_grad zero_grad""".split()  # noqa: SIM905
)
_ANY = frozenset(("mul", "matmul"))


@rewrite_pass
def loop_shorten(graph: Graph) -> Graph:
    """Leave out first steps of loops in which nothing changes from zero."""
    if any(n.op is LOOP and _keeps_less(n.params[0]) for n in graph.nodes()):
        return graph
    return replace_loops(graph, _shortened)


def _keeps_less(spec: LoopSpec) -> bool:
    return spec.checkpoint is not None and (spec.checkpoint.every is not None or spec.checkpoint.budget is not None)


def _shortened(node: Node) -> dict[Node, Any]:
    spec: LoopSpec = node.params[0]
    if not spec.is_counted or spec.n_outputs or not spec.n_carries:
        return {}
    given, body = split(spec, node.inputs), body_of(spec)
    rows = [(p, x) for p, x in zip(body.sequences, given.sequences, strict=True) if p.type.ndim]
    padded = {p: d for p, x in rows if (d := _last_rows(x)) is not None}
    if not padded:
        return {}
    steps, left = known_size(given.trip_count), sizes(next(iter(padded.values())))[0]
    padded = {p: d for p, d in padded.items() if same_size(sizes(d)[0], left)}
    pairs = zip(body.sequences, given.sequences, strict=True)
    sequences = [padded[p] if p in padded else _first(x, steps, left) for p, x in pairs]
    if None in sequences or not all(map(_is_zero, given.carries)) or not _stays_zero(spec, set(padded)):
        return {}
    left_out = new_input(COUNT, "steps left out")
    results = substitute(spec.body.results, {body.t: body.t + left_out})
    shorter = replace(spec, body=Graph((*spec.body.params, left_out), tuple(results)))
    count = as_size_node(left)
    inputs = (count, *[x[::-1] for x in sequences], *given.carries, *given.invariants, given.trip_count - count)
    old, new = results_of(node), results_of(make(LOOP, inputs, (shorter,)))
    alias = {**dict(zip(old.finals, new.finals, strict=True)), old.trips_done: given.trip_count}
    if not keeps_types(alias):
        return {}
    tell(f"loop_shorten: {called(spec)} begins with the last row that is read.")
    return alias


def _last_rows(x: Node) -> Any:
    """What an array read backwards begins with after rows of zeros; None if there are no such rows."""
    whole = x.inputs[0] if is_reversal(x) else None
    if whole is None or whole.op not in (INC_SUBTENSOR, SET_SUBTENSOR) or not _is_zero(whole.inputs[0]):
        return None
    part, rows = make(SUBTENSOR, (whole.inputs[0], *whole.inputs[2:]), whole.params), whole.inputs[1]
    fits = rows.type.ndim == whole.type.ndim and all(map(same_size, sizes(rows), sizes(part)))
    return rows if is_start(part) and fits else None


def _first(x: Any, steps: Any, left: Any) -> Any:
    """The rows of what is read backwards in all but the first steps; None if it is read otherwise."""
    if not is_reversal(x):
        return None
    whole = x.inputs[0]
    if same_size(sizes(whole)[0], steps):
        return whole[:left]
    is_first = is_start(whole) and same_size(known_size(whole.inputs[1]), steps)
    return whole.inputs[0][:left] if is_first else None


def _is_zero(x: Node) -> bool:
    value = constant_value(x.inputs[0] if x.op is BROADCAST else x)
    return value is not None and not np.any(value)


def _stays_zero(spec: LoopSpec, rows: set[Node]) -> bool:
    """Whether all next carries are zero where carries and some rows are."""
    body = body_of(spec)
    zeros = {*rows, *body.carries}
    for n in spec.body.nodes():
        if (isinstance(n.type, TensorType) and n.type.is_float and n.inputs and _gives_zero(n, zeros)) or _is_zero(n):
            zeros.add(n)
    return zeros.issuperset(body.next_carries)


def _gives_zero(n: Node, zeros: set[Node]) -> bool:
    name, known = n.op.name, [i in zeros for i in n.inputs]
    if name == "where":
        return all(known[1:])
    if name in ("inc_subtensor", "set_subtensor"):
        return all(known[:2])
    return all(known) if name in _ALL else any(known) if name in _ANY else name in _FIRST and known[0]
