"""A Loop for sizes that are known: the same computation with static types, integers folded, slices moved inwards.

The number of steps is no such size: one specialised Loop serves all lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ostinato.backends.triton.slices import Cuts, joined, moved_slice, reduced_by_parts, side_by_side, split_product
from ostinato.graph import Graph, Node, make, rewrite_nodes, substitute
from ostinato.ops.control import CHECK_ROWS, IDENTITIES
from ostinato.ops.leaf import CONSTANT, constant, new_input
from ostinato.ops.loop import LOOP, LoopSpec, body_of, split
from ostinato.ops.movement import DIMSHUFFLE, RESHAPE, SPECIFY_SHAPE
from ostinato.ops.op import params_of
from ostinato.ops.sizes import BROADCAST, SIZE, SUM_TO, broadcast_to, sum_to
from ostinato.rewrite.algebra import table
from ostinato.rewrite.constants import folded
from ostinato.types import TensorType

Shape = tuple[int, ...]


def specialised(graph: Graph, shapes: Sequence[Shape], known: Sequence[Any]) -> Graph:
    """The graph for params of certain shapes, some of them integers of a known value.

    Parameters
    ----------
    shapes : per param its shape.
    known : per param the value of all its elements, if that is known, else None.

    Returns
    -------
    Graph
        With new params of the same number and order, all of whose types are static.
    """
    params = [new_input(TensorType(p.type.dtype, s), p.name) for p, s in zip(graph.params, shapes, strict=True)]
    values = [
        p if k is None else broadcast_to(constant(k, p.type.dtype), p.type.shape)
        for p, k in zip(params, known, strict=True)
    ]
    results = rewrite_nodes(graph.results, _simplified, dict(zip(graph.params, values, strict=True)))
    return Graph(tuple(params), tuple(results))


def with_slices_moved(graph: Graph, n_carries: int, cuts: Cuts) -> Graph:
    """The body of a Loop, of static types, with slices of large axes taken of the operands; see `slices`."""
    results = [*graph.results[:n_carries], *[side_by_side(y, cuts) for y in graph.results[n_carries:]]]
    results = rewrite_nodes(results, lambda node: reduced_by_parts(node, cuts))
    return Graph(graph.params, tuple(moved(results)))


def moved(results: Sequence[Any]) -> Sequence[Any]:
    """Nodes with slices moved inwards."""
    for _ in range(8):  # a slice moves by one operation at a time through operations that another rule made
        before = tuple(results)
        results = rewrite_nodes(results, _moved)
        if tuple(results) == before:
            break
    return results


def with_constants(loop: Node) -> Graph:
    """The body of a Loop with constants in the place of invariants that are constants spread out."""
    spec: LoopSpec = loop.params[0]
    known = {}
    for param, given in zip(body_of(spec).invariants, split(spec, loop.inputs).invariants, strict=True):
        value = uniform(given)
        if value is not None:
            known[param] = broadcast_to(constant(value, param.type.dtype), param.type.shape)
    return Graph(spec.body.params, tuple(substitute(spec.body.results, known)))


def _moved(node: Node) -> Node | None:
    return _first(node, (joined, moved_slice, split_product))


def specialised_spec(spec: LoopSpec, rows: Sequence[Shape], known: Sequence[Any]) -> LoopSpec:
    """A Loop's static part for params of the body, in their order, of certain shapes and values."""
    body = specialised(spec.body, rows, known)
    c = spec.n_carries
    wanted = [p.type for p in body_of(replace(spec, body=body)).carries]
    nexts = [_as_type(n, w) for n, w in zip(body.results[:c], wanted, strict=True)]
    return replace(spec, body=Graph(body.params, (*nexts, *body.results[c:])))


def _as_type(node: Node, wanted: TensorType) -> Any:
    if node.type == wanted:
        return node
    from ostinato.backends.triton.unsplit import UnsplitError

    raise UnsplitError(f"a state has type {wanted} before a step and {node.type} after it")


def _simplified(node: Node) -> Node | None:
    """A simpler node of the same value, if there is one."""
    return _first(node, (_known_size, _nothing_done, _folded_small, _loop_inside, table().apply))


def _first(node: Node, rules: Sequence[Callable[[Node], Any]]) -> Node | None:
    for rule in rules:
        found = rule(node)
        if found is not None and found is not node:
            return found
    return None


def _folded_small(node: Node) -> Node | None:
    return None if node.type.__class__ is not TensorType else folded(node)


def _known_size(node: Node) -> Node | None:
    if node.op is not SIZE:
        return None
    size = node.inputs[0].type.shape[node.params[0]]
    return None if size is None else constant(size, "int64")


def _nothing_done(node: Node) -> Any:
    """What changes nothing for these shapes."""
    if node.op.name in IDENTITIES:
        return node.inputs[0]
    if node.op is SUM_TO and None not in node.inputs[0].type.shape and None not in node.type.shape:
        total = sum_to(node.inputs[0], node.type.shape)
        return None if total.op is SUM_TO else total
    if node.op in (BROADCAST, SPECIFY_SHAPE, RESHAPE) and node.inputs[0].type == node.type:
        return node.inputs[0] if None not in node.type.shape else None
    if node.op is CHECK_ROWS:
        rows = node.inputs[0].type.shape[0]
        return node.inputs[0] if rows is not None and rows >= params_of(node)["least"] else None
    return None


def _loop_inside(node: Node) -> Node | None:
    """A loop within a loop, specialised too."""
    if node.op is not LOOP:
        return None
    spec: LoopSpec = node.params[0]
    if all(None not in p.type.shape for p in spec.body.params):
        return None
    given = [node.inputs[0], *node.inputs[1:]]
    if any(None in i.type.shape for i in given):
        return None
    s = spec.n_sequences
    rows = [(), *[i.type.shape[1:] for i in given[1 : 1 + s]], *[i.type.shape for i in given[1 + s :]]]
    known = [None, *[_integer(i) if k >= s else None for k, i in enumerate(given[1:])]]
    return make(LOOP, node.inputs, (specialised_spec(spec, rows, known),))


def _integer(node: Node) -> int | None:
    from ostinato.ops.leaf import static_int

    return static_int(node) if node.type.ndim == 0 and node.type.dtype == "int64" else None


def uniform(node: Node) -> Any:
    """The value of all elements of a node, if it is a constant spread out; else None."""
    while node.op in (BROADCAST, DIMSHUFFLE):
        node = node.inputs[0]
    return node.params[0].array[()] if node.op is CONSTANT and node.type.ndim == 0 else None
