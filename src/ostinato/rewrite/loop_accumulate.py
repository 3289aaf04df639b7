"""loop_accumulate: sums that a loop only adds to are taken out of it.

before:  W = loop(n, x, g, W0; (x_t, g_t, W) -> W + x_t.T @ g_t)
after:   W = accumulate(W0, merged(x), merged(g))     # W0 + x.T @ g: the steps are more terms of its sums

before:  s = loop(n, x, s0; (x_t, s) -> s + sum(f(x_t)))
after:   v = loop(n, x, zeros; (x_t, v) -> v + f(x_t))
         s = s0 + sum(v)                              # and so for a loop in a loop: v goes on from step to step

What a step only adds to, and nobody reads before the end, is no state. Gradients are full of it: the
cotangent of every matrix that a step multiplies with, and of every bias. A factor that is no row of a sequence is
recorded. Terms are added in the order of the steps, so that the same bits come out where steps are done block by block;
but products come before sums over rows, and sums over elements after all steps, so the last digits are others than if
each step were added for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ostinato.graph import Graph, Node, dependents, make, redirect
from ostinato.lower.arrays import TINY
from ostinato.ops.contraction import ACCUMULATE, MATMUL
from ostinato.ops.indexing import is_reversal
from ostinato.ops.leaf import constant, constant_value, new_input
from ostinato.ops.loop import ITEM, LOOP, LoopSpec, body_of, results_of, sizes_outside, split
from ostinato.ops.movement import reshape, swapaxes
from ostinato.ops.sizes import BROADCAST, as_size_nodes, broadcast_to, known_size, same_size, sizes
from ostinato.ops.sizes import product as product_of_sizes
from ostinato.rewrite.engine import keeps_types, replace_loops, rewrite_pass
from ostinato.rewrite.notes import called, tell


@rewrite_pass
def loop_accumulate(graph: Graph) -> Graph:
    """Take sums out of the loops of a graph."""
    return replace_loops(graph, _taken_out)


def _taken_out(node: Node) -> dict[Node, Any]:
    """For each result of a loop that carries sums, what takes its place."""
    spec: LoopSpec = node.params[0]
    if not spec.is_counted:
        return {}
    change = _Change(spec, node)
    for i in range(spec.n_carries):
        term = added_to(spec, i)
        if term is None:
            continue
        value = term.inputs[0] if term.inputs else term
        if term.op is MATMUL and term.type.ndim == 2 and not _is_small(term) and change.can_record(term):
            change.multiply_after(i, term)
        elif term.op.name in ("sum", "sum_to") and value.type.ndim > term.type.ndim and not _is_small(value):
            change.sum_after(i, term)
    return change.results() if change.removed else {}


def added_to(spec: LoopSpec, i: int) -> Node | None:
    """What is added to carry i in each step; None if the carry is read otherwise, or the sum is."""
    body = body_of(spec)
    carry, following = body.carries[i], body.next_carries[i]
    readers = _readers(spec.body)
    if following in readers or spec.body.results.count(following) > 1:
        return None
    terms: list[Any] = []
    node = carry
    while node is not following:  # each partial sum has one reader, which adds to it
        above = readers.get(node, [])
        if len(above) != 1 or above[0].op.name != "add" or above[0].type != carry.type or node in spec.body.results:
            return None
        first, second = above[0].inputs
        if first is second:
            return None
        terms.append(second if first is node else first)
        node = above[0]
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total if total.type == carry.type else None


@lru_cache(maxsize=4)
def _readers(body: Graph) -> dict[Node, list[Node]]:
    """What reads each node of a body that anything reads."""
    found: dict[Node, list[Node]] = {}
    for node in body.nodes():
        for i in dict.fromkeys(node.inputs):
            found.setdefault(i, []).append(node)
    return found


def _is_small(node: Node) -> bool:
    """Whether a value is known to be held in registers, or is a number."""
    n = 1
    for size in node.type.shape:
        if size is None:
            return False
        n *= size
    return n <= TINY


def plus(first: Any, total: Any) -> Any:
    """The sum of an initial value and a total, which is the total where the sum began with zeros of its sizes."""
    is_whole = first.type == total.type and all(map(same_size, sizes(first), sizes(total)))
    return total if is_whole and _is_zero(first) else first + total


def _is_zero(x: Node) -> bool:
    """Whether an array is known to be of zeros."""
    value = constant_value(x.inputs[0]) if x.op is BROADCAST else None
    return value is not None and value.ndim == 0 and bool(value == 0)


def _is_begun_with_zeros(x: Node) -> bool:
    """Whether a value is what a loop made of zeros, to which its steps do nothing but add."""
    place = _final_of(x)
    if place is None:
        return False
    loop, i = place
    return _is_zero(split(loop.params[0], loop.inputs).carries[i]) and _only_adds(loop.params[0], i)


def _only_adds(spec: LoopSpec, i: int) -> bool:
    """Whether all that steps do with carry i is to add to it, by themselves or in loops."""
    if added_to(spec, i) is not None:
        return True
    carry, following = spec.body.params[1 + spec.n_sequences + i], spec.body.results[i]
    place = _final_of(following)
    if place is None or carry in spec.body.results or [n for n in spec.body.nodes() if carry in n.inputs] != [place[0]]:
        return False
    inner: LoopSpec = place[0].params[0]
    inits = split(inner, place[0].inputs).carries
    begins = inits[place[1]] is carry and place[0].inputs.count(carry) == 1
    return begins and _only_adds(inner, place[1])


def _final_of(x: Node) -> tuple[Node, int] | None:
    """The loop of which a value is a final carry, and which; None if it is none."""
    is_final = x.op is ITEM and x.inputs[0].op is LOOP and x.params[0] < x.inputs[0].params[0].n_carries
    return (x.inputs[0], x.params[0]) if is_final else None


class _Change:
    """A loop that loses some carries, and what is computed after it in their place."""

    def __init__(self, spec: LoopSpec, node: Node) -> None:
        self.spec, self.node = spec, node
        self.body, self.given = body_of(spec), split(spec, node.inputs)
        self.outputs = list(self.body.outputs)
        self.removed: dict[int, Any] = {}  # from a carry to what makes its final value of the new loop's results
        self.carries: list[tuple[Node, Node, Node]] = []  # param, initial value and next value of new ones
        self.begun: dict[Node, dict[int, Node]] = {}  # of inner loops, which carries begin with which param

    def can_record(self, term: Node) -> bool:
        """Whether both factors differ from step to step, and one has the sizes of rows that are kept anyway.

        If none had, all steps could be far more than was meant to be in memory at a time.
        """
        varying = dependents(term.inputs, {self.body.t, *self.body.sequences, *self.body.carries})
        if not varying.issuperset(term.inputs):
            return False
        kept = [sizes(s) for s in (*self.body.sequences, *self.body.outputs)]
        bases = [x.inputs[0] if x.op.name == "dimshuffle" else x for x in term.inputs]
        return any(len(k) == x.type.ndim and all(map(same_size, k, sizes(x))) for x in bases for k in kept)

    def multiply_after(self, i: int, term: Node) -> None:
        """The sum of products of all steps as one product."""
        left, right = term.inputs
        rows = left.inputs[0] if left.op.name == "dimshuffle" and left.params[0] == (1, 0) else swapaxes(left, 0, 1)
        places = self._recorded(rows), self._recorded(right)

        turned = self._are_turned(places)

        def final(sums: list[Any], outputs: list[Any]) -> Any:
            a, b = (self._merged(p, outputs, turned) for p in places)
            return make(ACCUMULATE, (self.given.carries[i], a, b), (turned,))

        self.removed[i] = final

    def _recorded(self, value: Node) -> tuple[str, int]:
        """Where the values of all steps are found: a sequence, or an output."""
        if value in self.body.sequences:
            return "sequence", self.body.sequences.index(value)
        if value not in self.outputs:
            self.outputs.append(value)
        return "output", self.outputs.index(value)

    def _are_turned(self, places: Sequence[tuple[str, int]]) -> bool:
        """Whether some factors are read from the last step to the first, as gradients do, and all others are made here.

        What is read lies in order then, and the terms are gone through from the last to the first.
        """
        read = [self.given.sequences[k] for kind, k in places if kind == "sequence"]
        return bool(read) and all(map(is_reversal, read))

    def _merged(self, place: tuple[str, int], outputs: list[Any], turned: bool) -> Any:
        """All steps of a matrix, one below the other."""
        kind, k = place
        rows = outputs[k] if kind == "output" else self.given.sequences[k]
        steps = self.given.trip_count
        whole = kind == "output" or same_size(sizes(rows)[0], known_size(steps))
        if turned:
            rows = rows[::-1] if kind == "output" else rows.inputs[0]
            rows = rows if whole else rows[sizes(rows)[0] - steps :]
        elif not whole:
            rows = rows[:steps]
        return reshape(rows, [product_of_sizes(sizes(rows)[:-1]), sizes(rows)[-1]])

    def sum_after(self, i: int, term: Node) -> None:
        """The sum over elements is taken at the end, of sums over the steps."""
        value, *wanted = term.inputs
        outside = sizes_outside(sizes(value), self.given, self.body)
        targets = sizes_outside(wanted, self.given, self.body)
        if None in outside or None in targets:
            return
        param = new_input(value.type, None)
        place = len(self.carries)
        following = param + value
        if _is_begun_with_zeros(value):  # the sums go on in the inner loop: no matter how many steps it has
            self.begun.setdefault(value.inputs[0], {})[value.params[0]] = param
            following = value
        self.carries.append((param, broadcast_to(constant(0, value.type.dtype), outside), following))

        def final(sums: list[Any], outputs: list[Any]) -> Any:
            return plus(self.given.carries[i], make(term.op, (sums[place], *as_size_nodes(targets)), term.params))

        self.removed[i] = final

    def results(self) -> dict[Node, Any]:
        """What takes the place of each result of the loop; nothing if that is of another type."""
        body, kept = self.body, [i for i in range(self.spec.n_carries) if i not in self.removed]
        params = [body.t, *body.sequences, *[body.carries[i] for i in kept], *[p for p, _, _ in self.carries]]
        following = [*[body.next_carries[i] for i in kept], *[n for _, _, n in self.carries]]
        results = redirect([*following, *self.outputs], self._going_on())
        graph = Graph((*params, *body.invariants), tuple(results))
        inits = [*[self.given.carries[i] for i in kept], *[v for _, v, _ in self.carries]]
        inputs = (self.given.trip_count, *self.given.sequences, *inits, *self.given.invariants)
        new = results_of(make(LOOP, inputs, (replace(self.spec, body=graph, n_carries=len(inits)),)))
        old = results_of(self.node)
        alias = {old.finals[i]: f for i, f in zip(kept, new.finals, strict=False)}
        alias |= {old.finals[i]: make(new.finals[len(kept) :], new.outputs) for i, make in self.removed.items()}
        alias |= dict(zip(old.outputs, new.outputs, strict=False))
        if not keeps_types(alias):
            return {}
        self._tell()
        return {**alias, old.trips_done: new.trips_done}

    def _going_on(self) -> dict[Node, Any]:
        """For the results of inner loops those of loops that begin with params."""
        alias: dict[Node, Any] = {}
        for node, inits in self.begun.items():
            first = 1 + node.params[0].n_sequences
            inputs = [inits.get(k - first, x) for k, x in enumerate(node.inputs)]
            old, new = results_of(node), results_of(make(LOOP, tuple(inputs), node.params))
            alias |= dict(zip([*old.finals, *old.outputs], [*new.finals, *new.outputs], strict=True))
            alias[old.trips_done] = new.trips_done
        return alias

    def _tell(self) -> None:
        n = len(self.removed)
        sums = "a sum over the steps" if n == 1 else f"{n} sums over the steps"
        tell(f"loop_accumulate: {sums} of {called(self.spec)} made after it, from all steps at once.")
