"""loop_split: what need not wait for the step before leaves the steps of a loop, block by block.

before:  v, c = loop(n, r, v0; (r_t, v) -> (v' = f(r_t, v), c = log(v) + r_t**2 / v))
after:   v, c = loop(blocks of K steps, v0, c; (b, v, c) -> r_b = r[b * K:][:K]
                    v, v_b = loop(K, r_b, v; (r_t, v) -> (f(r_t, v), v))
                    c[b * K:][:K] = log(v_b) + r_b**2 / v_b)

A body has a prologue, which needs no carry; a core, for which carries wait; and an epilogue, for which no carry waits.
Prologue and epilogue are done for all steps of a block at once, on rows that stay in cache; products of a row and a
matrix are one product of matrices there, functions of numbers are computed many steps at a time. A sum that a loop
carries is epilogue, too. Nothing but states is alive between blocks, so memory is that of one block. A state that is
recorded both before and after the steps, as derivatives read it, is written once: see `lower.states`.

Which work moves is told in `_Plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from typing import Any, NamedTuple

from ostinato.graph import Graph, Node, dependents, make, substitute, topological
from ostinato.lower.arrays import TINY
from ostinato.lower.lanes import grid_of, lanes_of
from ostinato.lower.states import chains, recorded_values
from ostinato.ops.batch import NoBatchError, aligned
from ostinato.ops.contraction import MATMUL
from ostinato.ops.control import TRIP_COUNT
from ostinato.ops.costs import COSTS
from ostinato.ops.creation import UNSET, arange
from ostinato.ops.elementwise import maximum, minimum
from ostinato.ops.indexing import set_subtensor
from ostinato.ops.leaf import new_input, static_int
from ostinato.ops.loop import (
    COUNT,
    Body,
    LoopInputs,
    LoopSpec,
    body_of,
    build_loop,
    results_of,
    sizes_outside,
    split,
)
from ostinato.ops.movement import specify_shape
from ostinato.ops.reduce import sum as sum_
from ostinato.ops.sizes import as_size_nodes, sizes
from ostinato.printing import enumerated
from ostinato.rewrite.batching import batched, can_batch
from ostinato.rewrite.engine import keeps_types, outermost_pass, replace_loops
from ostinato.rewrite.loop_accumulate import added_to
from ostinato.rewrite.notes import called, tell

# Steps of a block: rows of a product, which are enough to read the matrix once for many; and numbers, of which some
# arrays stay in the first cache.
_ROWS, _NUMBERS = 128, 512
# Products whose matrices are known and no larger are written out, and faster where they are.
_WRITTEN_OUT = 32 * 32
# What must move for the split to pay, in additions per step (see `COSTS`): a split takes about two additions for each
# number that core and epilogue hand to each other.
_LEAST, _HANDED = 16, 2


@outermost_pass
def loop_split(graph: Graph) -> Graph:
    """Split the loops of a graph where that pays."""
    return replace_loops(graph, lambda node: _split(node, set(graph.results)))


def _split(node: Node, results: Set[Node]) -> dict[Node, Any]:
    spec: LoopSpec = node.params[0]
    if not spec.is_counted or spec.parallel is True:  # what may run in chunks side by side is left to that
        return {}
    plan = _Plan(spec)
    count = node.inputs[0]
    steps = static_int(count.inputs[0] if count.op is TRIP_COUNT else count)
    if not plan.pays or (steps is not None and steps <= plan.steps) or _is_whole(plan):
        return {}
    try:
        alias = _Blocks(node, plan, results).results()
    except NoBatchError:
        return {}
    if not keeps_types(alias):
        return {}
    if alias:
        tell(f"loop_split: of {called(spec)}, {plan.told()}.")
    return alias


def _is_whole(plan: _Plan) -> bool:
    """Whether the steps of a loop can be done by lanes, in tiles or divided among threads, and no product gains."""
    if plan.products:
        return False
    return lanes_of(plan.spec) is not None or grid_of(plan.spec, TINY + 1) is not None


class _Plan:
    """What of a body moves before or after the steps of a block.

    Attributes
    ----------
    sums : the carries that are sums of what moves, with what a step adds.
    early : nodes that are known before the steps.
    late : the outputs that are made after the steps, by number.
    handed : what the core records for what comes after it.
    """

    def __init__(self, spec: LoopSpec) -> None:
        self.spec, self.body = spec, body_of(spec)
        body, results = self.body, spec.body.results
        self.sources = {body.t, *body.sequences}
        params = {*self.sources, *body.carries}
        terms = {k: term for k in range(spec.n_carries) if (term := added_to(spec, k)) is not None}
        self.bound = dependents([*results, *terms.values()], params)
        self.sums = {k: term for k, term in terms.items() if not term.type.ndim and self._is_gain(term, params)}
        self.waiting = [n for k, n in enumerate(body.next_carries) if k not in self.sums]
        everything = [*results, *self.sums.values()]  # a sum of some terms is no node of the body
        self.carry_bound = dependents(everything, set(body.carries))
        self.core = set(topological(self.waiting))
        self.late = [j for j, y in enumerate(body.outputs) if self._is_late(y)]
        self.early = self._early()
        self.handed = self._handed()
        self.moved = self._moved()

    def _is_late(self, y: Node) -> bool:
        """Whether an output needs a carry, none waits for it, and it has something that gains."""
        if y in self.core or y not in self.carry_bound:
            return False
        work = [n for n in topological([y], stop=self.core) if n in self.carry_bound and n not in self.core]
        return any(map(self.gain, work)) and can_batch([y], self._cut(work))

    def _cut(self, work: Iterable[Node]) -> list[Node]:
        """What nodes read that differs from step to step and is not among them."""
        among = set(work)
        return list(dict.fromkeys(i for n in work for i in n.inputs if i not in among and i in self.bound))

    def _early(self) -> list[Node]:
        """The largest expressions without carries that have something that gains; and those that are outputs."""
        free = self.bound - self.carry_bound
        roots = [*self.waiting, *self.body.outputs, *self.sums.values()]
        readers = [n for n in topological(roots) if n in self.carry_bound]
        found = [i for n in readers for i in n.inputs if i in free]
        found += [r for r in roots if r in free]
        return [n for n in dict.fromkeys(found) if n not in self.sources and self._is_gain(n, self.sources)]

    def _is_gain(self, node: Node, sources: Collection[Node]) -> bool:
        """Whether what makes a node of some others is better made for many steps at once, and can be."""
        return any(map(self.gain, dependents([node], sources))) and can_batch([node], sources)

    def _roots(self) -> list[Node]:
        return [*self.sums.values(), *[self.body.outputs[j] for j in self.late]]

    def _handed(self) -> list[Node]:
        """What of the core, and of the carries, the epilogue reads."""
        known = {*self.core, *self.body.carries}
        work = [n for n in topological(self._roots(), stop=known) if n in self.carry_bound and n not in known]
        reads = [*self._cut(work), *[r for r in self._roots() if r in known]]
        return list(dict.fromkeys(n for n in reads if n in self.carry_bound))

    def _moved(self) -> list[Node]:
        known = {*self.core, *self.body.carries}
        after = [n for n in topological(self._roots(), stop=known) if n in self.carry_bound and n not in known]
        before = [n for n in topological(self.early, stop=self.sources) if n in self.bound and n not in self.sources]
        return [*before, *after]

    @property
    def pays(self) -> bool:
        """Whether the split is worth it."""
        if any(n.type.ndim > 2 for n in (*self.early, *self.handed)):
            return False
        return sum(map(self.gain, self.moved)) >= _LEAST + _HANDED * len(self.handed)

    def gain(self, node: Node) -> int:
        """What it saves a step, in additions, that a node is made for many steps at once."""
        if node.op is MATMUL and node.type.ndim == 2:
            left, right = node.inputs
            is_column = right.type.shape[1] == 1 and left not in self.bound
            matrix = (left if is_column else right).type.shape
            known = None not in matrix and matrix[0] * matrix[1] <= _WRITTEN_OUT
            return _LEAST * 4 if (is_column or right not in self.bound) and not known else 0
        if node.op.batch is aligned and node.type.ndim == 0 and node.type.dtype in ("float64", "float32"):
            return COSTS.get(node.op.name, 0)
        return 0

    @property
    def products(self) -> list[Node]:
        """The products of matrices that move."""
        return [n for n in self.moved if n.op is MATMUL and self.gain(n)]

    @property
    def steps(self) -> int:
        """How many steps a block has; of steps that are several rows, fewer."""
        return _ROWS if any(n.type.ndim for n in (*self.early, *self.handed, *self._roots())) else _NUMBERS

    def told(self) -> str:
        """What moved, in words."""
        early = set(topological(self.early, stop=self.sources)) & self.bound
        parts = []
        for nodes, where in (([n for n in self.moved if n in early], "before"), (self.moved, "after")):
            own = [n for n in nodes if (n in early) == (where == "before") and self.gain(n)]
            names = dict.fromkeys(_WORDS.get(n.op.name, n.op.name) for n in own)
            parts += [f"{_listed(list(names))} made {where} the steps"] if names else []
        return f"{' and '.join(parts)}, for blocks of {self.steps} steps at once"


_WORDS = {"matmul": "products with matrices", "true_div": "division", "tanh": "tanh", "sqrt": "square roots"}


def _listed(names: list[str]) -> str:
    return f"{enumerated(names)} {'is' if len(names) == 1 and not names[0].endswith('s') else 'are'}"


class _Table(NamedTuple):
    """Rows that a loop over blocks writes: of an output, or of states.

    Attributes
    ----------
    row : what a step records.
    outputs : which outputs these are, and the rows with which they begin.
    carries : of a state and its lags, which are recorded before and after the steps (see `lower.states`): their values
        at the beginning of a block are written, too, before the rows of the block.
    """

    row: Node
    outputs: dict[int, int]
    carries: tuple[int, ...] = ()


class _Blocks:
    """A loop over blocks of the steps of another one.

    `results`: nodes that the caller gets, which are no parts of anything else.
    """

    def __init__(self, node: Node, plan: _Plan, results: Set[Node]) -> None:
        self.node, self.plan = node, plan
        self.spec: LoopSpec = node.params[0]
        self.given, self.body = split(self.spec, node.inputs), body_of(self.spec)
        self.steps = self.given.trip_count
        self.fixed = dict(zip(self.body.invariants, self.given.invariants, strict=True))
        self.kept = [k for k in range(self.spec.n_carries) if k not in plan.sums]
        self.block = new_input(COUNT, "block")
        self.most = self._most()
        self.first = self.block * self.most
        self.count = minimum(self.steps - self.first, self.most)
        self.tables = self._tables(results)

    def _most(self) -> Any:
        """The steps of a block: so many that a product has enough rows."""
        rows = [sizes(n)[0] for n in self.plan.products if n.inputs[1].type.shape[1] != 1]
        outside = sizes_outside(rows, self.given, self.body)
        some = next((r for r in outside if isinstance(r, Node)), 1)
        return self.plan.steps if not isinstance(some, Node) else maximum(self.plan.steps // maximum(some, 1), 1)

    def _tables(self, results: Set[Node]) -> list[_Table]:
        """What is written: each output, but states before and after the steps together."""
        spec, body, old = self.spec, self.body, results_of(self.node).outputs
        places = recorded_values(spec)
        found: list[_Table] = []
        for carries, newest in chains(spec, places):
            values = [newest, *[body.carries[k] for k in carries]]
            starts = {j: len(carries) - age for age, v in enumerate(values) for j in places.get(v, ())}
            recorded = sum(v in places for v in values)
            alone = any(old[j] in results or j in self.plan.late for j in starts) or newest in self.plan.early
            taken = any(t.row is newest for t in found)
            if recorded > 1 and not alone and not taken and all(k in self.kept for k in carries):
                found.append(_Table(newest, starts, carries))
        together = {j for t in found for j in t.outputs}
        return [*found, *[_Table(y, {j: 0}) for j, y in enumerate(body.outputs) if j not in together]]

    def results(self) -> dict[Node, Any]:
        """What takes the place of each result; nothing if the sizes of rows depend on values."""
        extents = [sizes_outside(sizes(t.row), self.given, self.body) for t in self.tables]
        if any(None in e for e in extents):
            return {}
        unset = [
            make(
                UNSET,
                as_size_nodes([self.steps + len(t.carries) if t.carries else self.steps, *e]),
                (t.row.type.dtype,),
            )
            for e, t in zip(extents, self.tables, strict=True)
        ]
        carries = [new_input(c.type, c.name) for c in self.body.carries]
        held = [new_input(u.type, t.row.name) for u, t in zip(unset, self.tables, strict=True)]
        following, made = self._a_block(carries)
        written = [self._written(t, h, y, carries) for t, h, y in zip(self.tables, held, made, strict=True)]
        body = Body(self.block, (), (*carries, *held), (), (*following, *written), (), None)
        blocks = (self.steps + (self.most - 1)) // self.most
        given = LoopInputs(blocks, (), (*self.given.carries, *unset), ())
        outer = build_loop(body, given, None, self.spec.name)
        old = results_of(self.node)
        alias = dict(zip(old.finals, outer.finals, strict=False))
        for t, y in zip(self.tables, outer.finals[len(carries) :], strict=True):
            for j, start in t.outputs.items():
                rows = y[start : start + self.steps] if t.carries else y
                wanted = old.outputs[j].type
                alias[old.outputs[j]] = specify_shape(rows, wanted.shape) if t.carries and rows.type != wanted else rows
        return {**alias, old.trips_done: self.steps}

    def _written(self, table: _Table, held: Any, rows: Any, carries: list[Any]) -> Any:
        """A table with what a block makes."""
        first = self.first
        for k in reversed(table.carries):  # the oldest first; where a block ended before, they are there already
            held = set_subtensor(held[first], carries[k])
            first = first + 1
        return set_subtensor(held[first : first + self.count], rows)

    def _a_block(self, carries: list[Any]) -> tuple[list[Any], list[Any]]:
        """The carries after a block, and the rows for all tables."""
        plan, body = self.plan, self.body
        rows: dict[Node, Any] = {body.t: arange(self.first, self.first + self.count)}
        for p, x in zip(body.sequences, self.given.sequences, strict=True):
            own = x[self.first : self.first + self.count]
            rows[p] = specify_shape(own, [self.count, *[None] * (x.type.ndim - 1)])
        early = dict(zip(plan.early, batched(plan.early, rows, self.count, self.fixed), strict=True))
        late = {body.outputs[j] for j in plan.late}
        written = [t.row for t in self.tables]
        recorded = list(dict.fromkeys([*plan.handed, *[y for y in written if y not in late and y not in early]]))
        inner = self._core(rows, early, recorded, carries)
        table = {**rows, **early, **dict(zip(recorded, inner.outputs, strict=True))}
        made = batched(written, table, self.count, self.fixed)
        terms = batched(plan.sums.values(), table, self.count, self.fixed)
        totals = dict(zip(plan.sums, [sum_(t, axis=0, dtype=t.type.dtype) for t in terms], strict=True))
        finals = dict(zip(self.kept, inner.finals, strict=True))
        following = [finals[k] if k in finals else carries[k] + totals[k] for k in range(len(carries))]
        return following, made

    def _core(self, rows: dict[Node, Any], early: dict[Node, Any], recorded: list[Node], carries: list[Any]) -> Any:
        """The loop over the steps of a block."""
        body, t = self.body, new_input(COUNT, "t")
        sequences = {**{p: rows[p] for p in body.sequences}, **early}
        params = {n: n if n in body.sequences else new_input(n.type, n.name) for n in sequences}
        places = {**{n: p for n, p in params.items() if n is not p}, body.t: self.first + t, **self.fixed}
        wanted = [*[body.next_carries[k] for k in self.kept], *recorded]
        results = substitute(wanted, places)
        c = len(self.kept)
        inner = Body(
            t, tuple(params.values()), tuple([body.carries[k] for k in self.kept]), (),
            tuple(results[:c]), tuple(results[c:]), None,
        )  # fmt: skip
        given = LoopInputs(self.count, tuple(sequences.values()), tuple([carries[k] for k in self.kept]), ())
        return build_loop(inner, given, None, self.spec.name)
