"""Loops whose state enters affinely: cut into chunks of steps that run at the same time.

before:  h = loop(n, a, b, h0; h' = a[t] * h + b[t])              # one lane, n steps
after:   A, B   = loop(n / c; A' = a A, B' = a B + b)             # what each of c chunks does to a state
         starts = loop(c, A, B, h0; h' = A h + B)                 # the state before each chunk; again such a loop
         h      = loop(n / c, starts; h' = a h + b)               # all chunks, each from its own start

A state that only adds up what others give is carried along: each chunk adds up its own. The middle loop is
short, and cut again if it is not. The order of roundings is another one than step by step.

Source of the method: G. E. Blelloch, "Prefix sums and their applications", 1990, section 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ostinato.graph import Graph, Node, dependents
from ostinato.ops.batch import NoBatchError
from ostinato.ops.creation import arange
from ostinato.ops.leaf import constant, new_input
from ostinato.ops.loop import Body, LoopInputs, LoopSpec, body_of, build_loop
from ostinato.ops.sizes import as_size_nodes, broadcast_to
from ostinato.rewrite.associative import linear_forms
from ostinato.rewrite.batching import batched
from ostinato.types import TensorType

# More steps than this, and fewer lanes than that, and a loop is cut.
LEAST_STEPS, MOST_LANES = 2048, 8192


class Phases(NamedTuple):
    """A Loop cut into chunks, as three Graphs.

    Attributes
    ----------
    transfer : (steps, *sequences, *carries, *invariants) of the chunks -> per affine state its factor and its summand.
    starts : (chunks, *factors and summands, *initial states) -> final states, states before each chunk.
    run : (steps, *sequences, *states, *invariants) of the chunks -> what the Loop gives, with an axis of chunks.
    affine : which carries are affine; the others add up.
    """

    transfer: Graph
    starts: Graph
    run: Graph
    affine: list[int]


def phases(spec: LoopSpec) -> Phases | None:
    """The Graphs of a Loop with static types that is to be cut; None if its state does not enter affinely."""
    body = body_of(spec)
    if not spec.is_counted or not body.carries or any(c.type.dtype not in ("float32", "float64") for c in body.carries):
        return None
    forms = {k: _form(body, k) for k in range(len(body.carries))}
    affine = [k for k, f in forms.items() if f is not None]
    adding = [k for k in forms if k not in affine]
    if not affine or not all(_only_adds(body, k, adding) for k in adding):
        return None
    try:
        return _Cut(spec, [(k, forms[k]) for k in affine], affine, adding).phases()
    except NoBatchError:
        return None


def _form(body: Body, k: int) -> tuple[Any, Any] | None:
    """Factor and summand of a carry's next value, neither of which depends on a carry."""
    carry, value = body.carries[k], body.next_carries[k]
    others = set(body.carries) - {carry}
    if value is carry or dependents([value], others):
        return None
    forms = linear_forms([value], {carry: 0}, as_size_nodes(carry.type.shape))
    if isinstance(forms, Node) or not forms[0][0]:
        return None
    return forms[0][0][0], forms[0][1]


def _zero(like: Node) -> Any:
    return constant(0, like.type.dtype)


def _only_adds(body: Body, k: int, adding: Sequence[int]) -> bool:
    """Whether a carry adds up what does not depend on any carry that does so, and nothing else reads it."""
    from ostinato.backends.triton.split import added

    carry, value = body.carries[k], body.next_carries[k]
    term = added(carry, value)
    if term is None or term.type != carry.type:
        return False
    sums = {body.carries[j] for j in adding}
    others = [n for j, n in enumerate(body.next_carries) if j != k]
    return not dependents([term, *others, *body.outputs], sums - {carry}) and not dependents(
        [*others, *body.outputs], {carry}
    )


class _Cut:
    """The Graphs being made."""

    def __init__(self, spec: LoopSpec, forms: Sequence[tuple[int, Any]], affine: list[int], adding: list[int]) -> None:
        self.spec, self.body, self.forms, self.affine, self.adding = spec, body_of(spec), forms, affine, adding
        self.steps, self.chunks = (new_input(TensorType("int64", ()), n) for n in ("steps", "chunks"))

    def phases(self) -> Phases:
        return Phases(self._transfer(), self._starts(), self._run(), self.affine)

    def _rows(self) -> tuple[list[Any], list[Any], dict[Node, Any], Any]:
        """Sequences of all chunks, their rows within a loop, and the body's own rows and t in terms of them."""
        body = self.body
        chunked = [new_input(x.type.with_shape((None, None, *x.type.shape)), x.name) for x in body.sequences]
        rows = [new_input(x.type.with_shape((None, *x.type.shape)), x.name) for x in body.sequences]
        t = new_input(TensorType("int64", ()), "t")
        table: dict[Node, Any] = dict(zip(body.sequences, rows, strict=True))
        table[body.t] = arange(self.chunks) * self.steps + t
        return chunked, rows, table, t

    def _transfer(self) -> Graph:
        chunked, rows, table, t = self._rows()
        carries, nexts, inits = [], [], []
        for k, (factor, summand) in self.forms:
            carry = self.body.carries[k]
            type_ = carry.type.with_shape((None, *carry.type.shape))
            a, b = new_input(type_, "factor"), new_input(type_, "summand")
            summand = broadcast_to(_zero(carry), carry.type.shape) if summand is None else summand
            factor = broadcast_to(factor, carry.type.shape)
            a_t, b_t = batched([factor, broadcast_to(summand, carry.type.shape)], table, self.chunks)
            carries += [a, b]
            nexts += [a_t * a, a_t * b + b_t]
            shape = (self.chunks, *carry.type.shape)
            inits += [broadcast_to(constant(v, carry.type.dtype), shape) for v in (1, 0)]
        found = build_loop(
            Body(t, tuple(rows), tuple(carries), (), tuple(nexts), (), None),
            LoopInputs(self.steps, tuple(chunked), tuple(inits), ()),
            None,
            self.spec.name,
        )
        return Graph((self.steps, self.chunks, *chunked, *self.body.invariants), tuple(found.finals))

    def _starts(self) -> Graph:
        params, rows, inits, carries = [], [], [], []
        for k in self.affine:
            type_ = self.body.carries[k].type
            params += [new_input(type_.with_shape((None, *type_.shape))) for _ in range(2)]
            rows += [new_input(type_) for _ in range(2)]
            inits.append(new_input(type_))
            carries.append(new_input(type_))
        nexts = [rows[2 * i] * c + rows[2 * i + 1] for i, c in enumerate(carries)]
        t = new_input(TensorType("int64", ()), "t")
        found = build_loop(
            Body(t, tuple(rows), tuple(carries), (), tuple(nexts), tuple(carries), None),
            LoopInputs(self.chunks, tuple(params), tuple(inits), ()),
            None,
            self.spec.name,
        )
        return Graph((self.chunks, *params, *inits), (*found.finals, *found.outputs))

    def _run(self) -> Graph:
        body = self.body
        chunked, rows, table, t = self._rows()
        carries = [new_input(c.type.with_shape((None, *c.type.shape)), c.name) for c in body.carries]
        inits = [new_input(c.type.with_shape((None, *c.type.shape)), c.name) for c in body.carries]
        table.update(zip(body.carries, carries, strict=True))
        results = batched([*body.next_carries, *body.outputs], table, self.chunks)
        n = len(carries)
        found = build_loop(
            Body(t, tuple(rows), tuple(carries), (), tuple(results[:n]), tuple(results[n:]), None),
            LoopInputs(self.steps, tuple(chunked), tuple(inits), ()),
            None,
            self.spec.name,
        )
        return Graph((self.steps, self.chunks, *chunked, *inits, *body.invariants), (*found.finals, *found.outputs))


def division(steps: int, lanes: int) -> tuple[int, int]:
    """Into how many chunks of how many steps a loop is cut; a few steps may be left over.

    As many chunks as keep a GPU busy, but no chunk shorter than the number of chunks is long; among numbers
    close to that, the one that leaves the fewest steps over.
    """
    wanted = max(2, min(int(steps**0.5) * 8, (1 << 18) // max(lanes, 1), steps // 16))
    best = min(range(max(2, wanted // 2), wanted + 1), key=lambda c: (steps % c, -c)) if wanted < 1 << 13 else None
    if best is None:
        best = min(range(wanted - (1 << 12), wanted + 1), key=lambda c: (steps % c, -c))
    return best, steps // best
