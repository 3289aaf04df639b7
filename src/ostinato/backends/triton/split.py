"""What need not wait for the step before leaves the loop: prologue, core, epilogue.

before:  h = loop(n, x, h0; h' = tanh(x[t] @ W + h @ U), y = h' @ V)
after:   z = x @ W;  h = loop(n, z, h0; h' = tanh(z[t] + h @ U));  y = h @ V

before:  loop(n, h, d, 0; S' = S + h[t].T @ d[t])              # the gradient of U
after:   h.reshape(n * batch, ...).T @ d.reshape(n * batch, ...)

Moved are products of matrices and other operations that cost much; cheap elementwise work stays, since a
kernel does it on values that it has at hand. Sums over the batch that a loop adds up are added up per lane
and summed at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ostinato.backends.triton.slices import UNROLLED, Cuts, cuts_of, is_zero, pieces, side_by_side
from ostinato.backends.triton.specialise import moved, with_constants, with_slices_moved
from ostinato.graph import Graph, Node, dependents, make, rebuild, substitute, topological
from ostinato.ops.contraction import MATMUL
from ostinato.ops.creation import arange
from ostinato.ops.elementwise import summands
from ostinato.ops.indexing import INC_SUBTENSOR, SET_SUBTENSOR, SUBTENSOR
from ostinato.ops.leaf import constant, new_input
from ostinato.ops.loop import LOOP, Body, LoopInputs, LoopSpec, body_of, build_loop, item, thin
from ostinato.ops.movement import CONCATENATE, DIMSHUFFLE, dimshuffle, reshape
from ostinato.ops.op import OPS
from ostinato.ops.reduce import SUM
from ostinato.ops.sizes import BROADCAST, broadcast_to, sizes
from ostinato.rewrite.batching import batched, can_batch
from ostinato.types import TensorType

_COSTLY = {"matmul", "gather", "cholesky", "solve", "solve_triangular", "matrix_inverse", "det", "slogdet", "cumsum"}


def split_loop(spec: LoopSpec) -> Graph:
    """A Loop whose body has static types as a Graph around a smaller Loop, or around none.

    Returns
    -------
    Graph
        Params: trip count, sequences, carries, invariants; results: final carries, outputs, steps done.
    """
    outer = _Split(spec).graph(whole=False)
    for loop in loops_of(outer):
        body = with_constants(loop)
        cuts = cuts_of(body)
        inner = replace(loop.params[0], body=with_slices_moved(body, loop.params[0].n_carries, cuts))
        results = _Split(inner, cuts).graph(whole=True).apply(loop.inputs)
        items = {item(loop, i): r for i, r in enumerate(results)}
        outer = Graph(outer.params, tuple(substitute(outer.results, items)))
    return outer


class _Split:
    """One Loop being taken apart."""

    def __init__(self, spec: LoopSpec, cuts: Cuts | None = None) -> None:
        self.spec, self.body, self.cuts = spec, body_of(spec), cuts or {}
        body = self.body
        self.trips = new_input(TensorType("int64", ()), "steps")
        self.sequences = [new_input(x.type.with_shape((None, *x.type.shape)), x.name) for x in body.sequences]
        self.inits = [new_input(c.type, c.name) for c in body.carries]
        self.invariants = list(body.invariants)  # the outer graph's params too: so the body speaks of the outside
        self.rows: dict[Node, Any] = dict(zip(body.sequences, self.sequences, strict=True))
        self.recorded: dict[Node, int] = {}  # a node of the body -> which of the new outputs holds it
        self.thinned: dict[tuple[Node, Node], int] = {}  # the same for every so many-th step -> which one after these
        self.carry_bound = dependents(spec.body.results, set(body.carries))
        self.bound = dependents(spec.body.results, {body.t, *body.sequences, *body.carries})

    def graph(self, whole: bool) -> Graph:
        """The Graph around the Loop that remains; only the prologue is made unless `whole`."""
        self._prologue(views=whole)
        sums = self._accumulators() if whole else {}
        late = self._late_outputs(sums) if whole else {j for j, y in enumerate(self.body.outputs) if y in self.rows}
        inner = self._loop(sums, late)
        results = self._collect(inner, sums, late)
        return Graph((self.trips, *self.sequences, *self.inits, *self.invariants), tuple(results))

    # ---- before the loop ----

    def _prologue(self, views: bool) -> None:
        """Costly work on sequences alone, and parts that are taken of them, for all steps at once."""
        body = self.body
        results = self.spec.body.results
        free = self.bound - self.carry_bound
        readers = [n for n in topological(results) if n in self.carry_bound]
        frontier = dict.fromkeys(
            [i for n in readers for i in n.inputs if i in free] + [r for r in results if r in free]
        )
        sources = {body.t, *body.sequences}
        parts = self._views(results) if views else []
        for node in [*parts, *frontier]:
            work = [n for n in topological([node], stop=sources) if n in self.bound and n not in sources]
            leaves = any(n.op.name in _COSTLY for n in work) or (work and not body.carries)
            if (leaves or node in parts) and can_batch([node], sources):
                # Taps make sequences longer than the loop, by more or less.
                table = {n: x[: self.trips] if n in body.sequences else x for n, x in self.rows.items()}
                self.rows[node] = batched([node], {**table, body.t: arange(self.trips)}, self.trips)[0]

    def _views(self, results: Sequence[Node]) -> list[Node]:
        """What only arranges a part of a sequence's row, and is read by what does more."""
        found = set(self.body.sequences)
        last: dict[Node, None] = {}
        for node in topological(results):
            if node.op in (SUBTENSOR, DIMSHUFFLE) and node.inputs[0] in found and not self.bound & {*node.inputs[1:]}:
                found.add(node)
            else:
                last |= dict.fromkeys(i for i in node.inputs if i in found)
        last |= dict.fromkeys(r for r in results if r in found)
        return [n for n in last if n not in self.body.sequences]

    # ---- sums over the steps ----

    def _accumulators(self) -> dict[int, Any]:
        """The carries that only add up, by number, with what they add."""
        body = self.body
        found: dict[int, Any] = {}
        users: dict[Node, list[Node]] = {n: [] for n in (*body.carries, *body.next_carries)}
        for node in topological(self.spec.body.results):
            for i in node.inputs:
                if i in users:
                    users[i].append(node)
        read = {*body.outputs, *([body.keep_going] if body.keep_going is not None else [])}
        for k, (carry, value) in enumerate(zip(body.carries, body.next_carries, strict=True)):
            alone = users[carry] == [value] and not users[value] and carry not in read and value not in read
            alone = alone and carry not in body.next_carries and body.next_carries.count(value) == 1
            term = added(carry, value) if alone and carry.type.is_float else None
            if term is not None and term.type == carry.type:
                found[k] = term = moved([_in_parts(term, self.cuts)])[0]
                # A sum of several terms is none of the body's own nodes.
                self.bound = self.bound | dependents([term], {body.t, *body.sequences, *body.carries})
        return found

    # ---- after the loop ----

    def _late_outputs(self, sums: dict[int, Any]) -> set[int]:
        """The outputs that are computed for all steps after the loop: costly, and no carry waits for them."""
        body = self.body
        tests = [body.keep_going] if body.keep_going is not None else []
        nexts = [n for k, n in enumerate(body.next_carries) if k not in sums]
        self.core = set(topological([*nexts, *tests]))
        late = set()
        for j, y in enumerate(body.outputs):
            if y in self.rows:
                late.add(j)
                continue
            own = self._late_work(y)
            if any(n.op.name in _COSTLY or _is_wide_arrangement(n) for n in own) and can_batch([y], self._cut(own)):
                late.add(j)
        return late

    def _late_work(self, y: Node) -> list[Node]:
        """What of the steps an output needs beyond what the carries do, and what is known for all steps."""
        known = self.core | self.rows.keys()
        return [n for n in topological([y], stop=known) if n in self.bound and n not in known]

    def _cut(self, nodes: Sequence[Node]) -> set[Node]:
        """What nodes read of the steps that is not among them."""
        among = set(nodes)
        return {i for n in nodes for i in n.inputs if i not in among and i in self.bound}

    # ---- the loop that remains ----

    def _loop(self, sums: dict[int, Any], late: set[int]) -> Any:
        body = self.body
        kept = [k for k in range(len(body.carries)) if k not in sums]
        self.totals = _Totals(self)
        for term in sums.values():
            self.totals.plan(term)
        for j, y in enumerate(body.outputs):
            every = self._every(j)
            for n in [y] if j not in late else self._cut(self._late_work(y)) if y not in self.rows else []:
                self.record(n, every)
        lanes = self.totals.lanes()
        carries = [*[body.carries[k] for k in kept], *[c for c, _ in lanes]]
        nexts = [*[body.next_carries[k] for k in kept], *[c + x for c, x in lanes]]
        zeros = [broadcast_to(constant(0, x.type.dtype), sizes(x)) for _, x in lanes]
        inits = [*[self.inits[k] for k in kept], *zeros]
        if not carries and not self.recorded and not self.thinned and body.keep_going is None:
            return None
        params = {node: node if node in body.sequences else new_input(node.type) for node in self.rows}
        return self._build(params, carries, nexts, inits)

    def _build(self, params: dict[Node, Any], carries: Any, nexts: Any, inits: Any) -> Any:
        body = self.body
        renamed = {n: p for n, p in params.items() if n is not p}
        outputs = [*self.recorded, *[n for n, _ in self.thinned]]
        tests = [] if body.keep_going is None else [body.keep_going]
        results = substitute([*nexts, *outputs, *tests], renamed)
        c, o = len(carries), len(outputs)
        inner = Body(
            body.t, tuple(params.values()), tuple(carries), (),
            tuple(results[:c]), tuple(results[c : c + o]), results[-1] if tests else None,
        )  # fmt: skip
        given = LoopInputs(self.trips, tuple(self.rows.values()), tuple(inits), ())
        first = len(self.recorded)
        every = {first + i: every for (_, every), i in self.thinned.items()}
        loop = build_loop(inner, given, None, self.spec.name)
        return thin(loop, every) if every else loop

    def record(self, node: Node, every: Node | None = None) -> None:
        """Make the loop that remains record a node of the body, unless it is known for all steps anyhow."""
        if node in self.rows or node not in self.bound or node is self.body.t:
            return
        if every is None:
            self.recorded.setdefault(node, len(self.recorded))
        else:
            self.thinned.setdefault((node, every), len(self.thinned))

    def _every(self, j: int) -> Node | None:
        """What says that of output j each so many-th step is recorded; None if each is."""
        place = self.spec.thinned(j)
        return None if place is None else self.invariants[place]

    def _collect(self, inner: Any, sums: dict[int, Any], late: set[int]) -> list[Any]:
        body = self.body
        self.done = self.trips if inner is None or body.keep_going is None else inner.trips_done
        self.table: dict[Node, Any] = {n: self.cut(x) for n, x in self.rows.items()}
        self.table[body.t] = arange(self.done)
        self.table.update({n: inner.outputs[i] for n, i in self.recorded.items()})
        kept = iter(inner.finals if inner is not None else [])
        finals: list[Any] = [None if k in sums else next(kept) for k in range(len(body.carries))]
        self.totals.lane_totals = list(kept)
        for k, term in sums.items():
            finals[k] = self.inits[k] + self.totals.total(term)
        return [*finals, *self._outputs(inner), self.done]

    def _outputs(self, inner: Any) -> list[Any]:
        """All outputs: what of them is not recorded is computed for all steps that are."""
        found: list[Any] = [None] * len(self.body.outputs)
        for every in dict.fromkeys(map(self._every, range(len(found)))):
            own = [j for j in range(len(found)) if self._every(j) is every]
            table, steps = self.table, self.done
            if every is not None:
                # Where a thinned output needs what is recorded at all steps too, it has its own rows of that.
                table = {n: x[::every] for n, x in table.items() if n in self.rows or n is self.body.t}
                places = [(n, i) for (n, e), i in self.thinned.items() if e is every]
                table |= {n: inner.outputs[len(self.recorded) + i] for n, i in places}
                steps = (steps + every - 1) // every
            for j, y in zip(own, batched([self.body.outputs[j] for j in own], table, steps), strict=True):
                found[j] = y
        return found

    def cut(self, rows: Any) -> Any:
        """Rows of the steps that were made."""
        return rows[: self.done]


def _in_parts(term: Node, cuts: Cuts) -> Any:
    """What is added up, with what slices cut as parts side by side under what is linear."""
    if term.op in (SUM, DIMSHUFFLE) or term.op is OPS["neg"]:
        return rebuild(term, (_in_parts(term.inputs[0], cuts),))
    if term.op is MATMUL:
        return rebuild(term, (term.inputs[0], side_by_side(term.inputs[1], cuts)))
    return side_by_side(term, cuts)


def added(carry: Node, value: Node) -> Node | None:
    """What a step adds to a carry; None if it does something else."""
    terms = summands(value, lambda n: all(i.type == n.type for i in n.inputs))
    if terms.count(carry) != 1 or value is carry:
        return None
    rest = [t for t in terms if t is not carry]
    if carry in topological(rest):
        return None
    result = rest[0]
    for t in rest[1:]:
        result = make(OPS["add"], (result, t))
    return result


def _is_wide_arrangement(node: Node) -> bool:
    """Whether a node puts arrays together along an axis that a kernel cannot unroll."""
    is_one = node.op in (CONCATENATE, INC_SUBTENSOR, SET_SUBTENSOR)
    return is_one and any(size is not None and size > UNROLLED for size in node.type.shape)


class _Totals:
    """Sums of nodes of the body over all steps: moved through what is linear, down to rows or to lanes."""

    def __init__(self, split: _Split) -> None:
        self.split = split
        self.leaves: dict[Node, Any] = {}
        self.lane_totals: list[Any] = []

    def plan(self, node: Node) -> None:
        """Find out what has to be recorded or added up per lane for the total of a node."""
        product = _product(node)
        if product is not None:
            for x in product:
                for source in _sources(x):
                    self.split.record(source)
        elif (inner := self._linear(node)) is not None:
            for x in inner:
                self.plan(x)
        elif node in self.split.bound:
            self.leaves.setdefault(node, None)

    def lanes(self) -> list[tuple[Any, Node]]:
        """New carries, one per leaf that is not recorded, and what each adds."""
        found: list[tuple[Any, Node]] = []
        for node in self.leaves:
            if node not in self.split.recorded and node not in self.split.rows:
                self.leaves[node] = len(found)
                found.append((new_input(node.type), node))
        return found

    def total(self, node: Node) -> Any:
        """The sum of a node over the steps that were made."""
        split = self.split
        if (product := _product(node)) is not None:
            return self._total_product(*product)
        if (inner := self._linear(node)) is not None:
            if node.op is OPS["add"]:
                return self.total(inner[0]) + self.total(inner[1])
            return rebuild(node, tuple([self.total(i) if i in inner else i for i in node.inputs]))
        if node not in split.bound:
            return node * split.done.astype(node.type.dtype)
        place = self.leaves.get(node)
        return self.lane_totals[place] if place is not None else sum_rows(split.table[node])

    def _total_product(self, x: Node, y: Node) -> Any:
        """Of x.T @ y: one product of all rows."""
        steps = self.split.done
        flat = []
        for operand in (x, y):
            all_rows = batched([operand], self.split.table, steps)[0]
            rows, columns = operand.type.shape
            flat.append(reshape(all_rows, (steps * rows, columns)))
        return make(MATMUL, (dimshuffle(flat[0], 1, 0), flat[1]))

    def _linear(self, node: Node) -> list[Node] | None:
        """The inputs through which a node is linear, if the rest does not change from step to step."""
        bound = [i for i in node.inputs if i in self.split.bound]
        if node not in self.split.bound or not bound or node in self.split.rows:
            return None
        if node.op is OPS["add"] and all(i.type == node.type for i in node.inputs):
            return list(node.inputs)
        if node.op is CONCATENATE and len(bound) == len(node.inputs):
            return bound
        if node.op in (SUM, DIMSHUFFLE) or node.op is OPS["neg"]:
            return bound
        if node.op is INC_SUBTENSOR and bound == [node.inputs[1]] and is_zero(node.inputs[0]):
            return bound
        return None


def sum_rows(x: Any) -> Any:
    """The sum over the first axis."""
    return make(SUM, (x,), ((0,),))


def _sources(node: Node) -> list[Node]:
    """What has to be known at every step for a factor: the parts that are merely arranged to make it."""
    found, waiting = [], [node]
    while waiting:
        x = waiting.pop()
        parts = pieces(x)
        if x.op is DIMSHUFFLE:
            waiting.append(x.inputs[0])
        elif parts is not None:
            waiting += [_unstretched(p) for _, p in parts]
        else:
            found.append(x)
    return found


def _unstretched(node: Node) -> Node:
    return node.inputs[0] if node.op is BROADCAST else node


def _product(node: Node) -> tuple[Node, Node] | None:
    """x and y if a node is x.T @ y; an outer product of vectors is one of matrices of one row."""
    if node.op is MATMUL and node.type.ndim == 2 and all(i.type.ndim == 2 for i in node.inputs):
        return dimshuffle(node.inputs[0], 1, 0), node.inputs[1]
    if node.op is OPS["mul"] and node.type.ndim == 2:
        for x, y in (node.inputs, node.inputs[::-1]):
            if x.type.ndim == y.type.ndim == 2 and x.type.shape[1] == 1 == y.type.shape[0] and 1 not in node.type.shape:
                return dimshuffle(x, 1, 0), y
    return None


def loops_of(graph: Graph) -> Iterable[Node]:
    """The Loops of a graph, outermost only."""
    return [n for n in graph.nodes() if n.op is LOOP]
