"""Carries that a step changes in place: one buffer, of which only the parts that a step writes are touched.

before:  P -> set_subtensor(P, f(P[i - 1]), i)        # a copy of P per step: n steps cost n**2
after:   one buffer for all steps; a step writes row i

What a step makes of such a carry is a chain of writes that begins with the carry itself: `set_subtensor`,
`inc_subtensor` and the same by arrays of indices; the sum of the carry and zeros with something added to parts, as
gradients have it; a choice, by one condition, between some writes and none; an inner loop that starts from it.

When a write is done, what was there is gone, so all that reads it must have been evaluated. The last
writes of a chain, whose results nobody else reads, are done at the very end of the step, when whatever the step
leaves behind is in registers or in other memory. Writes whose results the step reads are done before, in an order in
which all that reads what was there comes first and is put into memory of its own. Where there is no such
order, as where a value is computed from both `P[j]` and what `P[j]` becomes, the carry has two buffers as all others.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ostinato.graph import Graph, Node, dependents, topological
from ostinato.lower.arrays import Array, copied, copy_all, in_registers, is_tiny
from ostinato.lower.loopnest import Expr
from ostinato.lower.scalarize import Block
from ostinato.lower.writes import is_zero, prepared_write
from ostinato.ops.control import IDENTITIES
from ostinato.ops.leaf import constant_value
from ostinato.ops.loop import ITEM, LOOP, LoopSpec, body_of, split
from ostinato.ops.sizes import BROADCAST, SIZE

_SETS = {"set_subtensor", "scatter_set"}
_ADDS = {"inc_subtensor", "scatter_add"}


# ---- chains ---------------------------------------------------------------------------------------


class Write(NamedTuple):
    """The second input of `node`, set or added where it says, if all conditions have the values that go with them."""

    node: Node
    adds: bool
    conditions: tuple[tuple[Node, bool], ...] = ()


@dataclass(frozen=True)
class Step:
    """One link of a chain: what it makes of `base`, and how.

    Attributes
    ----------
    writes : in order; none for a loop, and none where the result is the base itself.
    loop : the inner loop of which `result` is a final carry and `base` the initial value.
    inside : nodes whose values are never made, because the writes do what they say.
    zeros : what must have the sizes of the base for that.
    sizes : lists of sizes that must be those of the base for that.
    """

    base: Node
    result: Node
    writes: tuple[Write, ...] = ()
    loop: Node | None = None
    inside: frozenset[Node] = frozenset()
    zeros: tuple[Node, ...] = ()
    sizes: tuple[tuple[Node, ...], ...] = ()

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return bool(self.writes) or self.loop is not None

    @property
    def event(self) -> Node:
        """The node at whose place among all others the memory changes."""
        return self.result if self.loop is None else self.loop


IsZero = Callable[[Node], bool]


class _Chains:
    """Chains of writes that begin with one carry."""

    def __init__(self, carry: Node, value: Node, is_zero: IsZero) -> None:
        self.carry, self.is_zero = carry, is_zero
        self._steps: dict[Node, Step | None] = {}  # of all nodes that depend on the carry
        below = dependents([value], {carry})
        for node in topological([value]):
            if node in below:
                self._steps[node] = self._step(node) if node.inputs else None

    def to(self, node: Node) -> list[Step] | None:
        """How a value comes from the carry; None if it does so otherwise, or not at all."""
        steps: list[Step] = []
        while node is not self.carry:
            step = self._steps.get(node)
            if step is None:
                return None
            steps.insert(0, step)
            node = step.base
        return steps

    def _step(self, node: Node) -> Step | None:
        name = node.op.name
        if name in _SETS or name in _ADDS:
            return Step(node.inputs[0], node, (Write(node, name in _ADDS),))
        if node.op is ITEM and node.inputs[0].op is LOOP:
            return self._by_loop(node)
        if _is_same(node, self.is_zero):
            return Step(node.inputs[0], node, sizes=_sizes_of(node))
        if name == "add":
            return self._added(node)
        return self._chosen(node) if name == "where" else None

    def _by_loop(self, node: Node) -> Step | None:
        loop, index = node.inputs[0], node.params[0]
        spec: LoopSpec = loop.params[0]
        if index >= spec.n_carries:
            return None
        base = split(spec, loop.inputs).carries[index]
        return Step(base, node, loop=loop) if loop.inputs.count(base) == 1 else None

    def _added(self, node: Node) -> Step | None:
        for base, term in (node.inputs, node.inputs[::-1]):
            fits = base in self._steps and _are_alike(node, (base, term))
            step = _Term(term, self.is_zero).added(base, node) if fits else None
            if step is not None:
                return step
        return None

    def _chosen(self, node: Node) -> Step | None:
        """Some more writes, or not, by a condition that is one truth value."""
        condition, yes, no = node.inputs
        if condition.type.ndim or not _are_alike(node, (yes, no)):
            return None
        for longer, shorter, wanted in ((yes, no, True), (no, yes, False)):
            steps = self.to(longer)
            places = [self.carry, *[s.result for s in steps]] if steps is not None else []
            if steps is None or shorter not in places:
                continue
            more = steps[places.index(shorter) :]
            if any(s.loop is not None for s in more):
                return None
            writes = [w._replace(conditions=(*w.conditions, (condition, wanted))) for s in more for w in s.writes]
            inside = frozenset({s.result for s in more}.union(*[s.inside for s in more]))
            zeros, sizes = [z for s in more for z in s.zeros], [x for s in more for x in s.sizes]
            return Step(shorter, node, tuple(writes), None, inside, tuple(zeros), tuple(sizes))
        return None


def _is_same(node: Node, is_zero: IsZero) -> bool:
    """Whether a node is its first input, if that has the sizes that it nearly always has."""
    if node.op.name in ("sum_to", "broadcast_to"):
        x = node.inputs[0]
        return not is_zero(node) and x.type.ndim == node.type.ndim and x.type.shape == node.type.shape
    return node.op.name in IDENTITIES


def _sizes_of(node: Node) -> tuple[tuple[Node, ...], ...]:
    return (node.inputs[1:],) if len(node.inputs) > 1 else ()


class _Term:
    """What is added to parts of zeros."""

    def __init__(self, term: Node, is_zero: IsZero) -> None:
        self.writes: list[Write] = []
        self.inside: list[Node] = []
        self.zeros: list[Node] = []
        self.sizes: list[tuple[Node, ...]] = []
        self.is_one = True
        waiting = [term]
        while waiting and self.is_one:
            n = waiting.pop()
            if is_zero(n):
                self.zeros.append(n)
                continue
            self.inside.append(n)
            if n.op.name in _ADDS or (n.op.name == "set_subtensor" and is_zero(n.inputs[0])):
                self.writes.insert(0, Write(n, True))
                waiting.append(n.inputs[0])
            elif _is_same(n, is_zero):
                self.sizes += _sizes_of(n)
                waiting.append(n.inputs[0])
            elif n.op.name == "add" and _are_alike(n, n.inputs):
                waiting += n.inputs
            else:
                self.is_one = False

    def added(self, base: Node, result: Node) -> Step | None:
        """The step that adds it to something; None if it is anything else."""
        if not self.is_one:
            return None
        inside = frozenset(self.inside)
        return Step(base, result, tuple(self.writes), None, inside, tuple(self.zeros), tuple(self.sizes))


def _are_alike(node: Node, others: Sequence[Node]) -> bool:
    """Whether others have the dtype and the dimensions of a node."""
    return all(o.type.ndim == node.type.ndim and o.type.dtype == node.type.dtype for o in others)


# ---- plans ----------------------------------------------------------------------------------------


@dataclass
class Plan:
    """Which carries of a loop are changed in place, and how the nodes of its body are gone through.

    Attributes
    ----------
    chains : the steps of each such carry, by its place.
    early : by carry, how many of them are done before the end.
    order : the nodes of the body.
    pinned : what must be put into memory of its own, because what it is read from changes before the end.
    """

    chains: dict[int, list[Step]] = field(default_factory=dict)
    early: dict[int, int] = field(default_factory=dict)
    order: list[Node] = field(default_factory=list)
    pinned: set[Node] = field(default_factory=set)


def plan(spec: LoopSpec, places: Sequence[int], is_zero: IsZero) -> Plan:
    """How a loop changes those of the carries at some places in place that it can.

    `is_zero`: whether a node of the body is known to hold zeros and to take no memory.
    """
    body = body_of(spec)
    found = Plan(order=spec.body.nodes())
    readers = _readers(spec.body)
    before: dict[Node, set[Node]] = {}
    for i in places:
        following = body.next_carries[i]
        shared = following in body.outputs or body.next_carries.count(following) > 1
        chains = _Chains(body.carries[i], following, is_zero)
        steps = None if shared and following is not body.carries[i] else chains.to(following)
        early = None if steps is None else _early(spec.body, body.carries[i], steps, readers)
        if steps is None or early is None:
            continue
        earlier, pinned = _done_before(body.carries[i], steps[:early], readers)
        joined = {n: before.get(n, set()) | earlier.get(n, set()) for n in (*before, *earlier)}
        order = _ordered(found.order, joined)
        if order is None:
            continue
        before = joined
        found.order = order
        found.chains[i], found.early[i] = steps, early
        found.pinned |= pinned
    return found


def _readers(graph: Graph) -> dict[Node, set[Node]]:
    """Who reads the elements of each node."""
    readers: dict[Node, set[Node]] = {}
    for n in graph.nodes():
        for i in n.inputs if n.op is not SIZE else ():
            readers.setdefault(i, set()).add(n)
    return readers


def _early(graph: Graph, carry: Node, steps: Sequence[Step], readers: Mapping[Node, set[Node]]) -> int | None:
    """How many steps of a chain cannot wait for the end of the body; None if they cannot be done before, either."""
    values = [carry, *[s.result for s in steps]]
    following = values[-1]
    early = max([k for k, s in enumerate(steps, 1) if s.loop is not None], default=0)
    for k, value in enumerate(values[1:], 1):
        own = {n for s in steps[k : k + 1] for n in (s.event, *s.inside)}
        is_result = value in graph.results and value is not following
        if is_result or not readers.get(value, set()) <= own:
            early = max(early, k)
    changing = max([k for k, s in enumerate(steps[:early], 1) if s.changes], default=0)
    if any(v in graph.results for v in values[:changing]):
        return None  # recorded when the step has ended, and not there any more
    for s in steps:  # what is inside may not be read from outside, unless it holds nothing of the carry
        outer = [r for n in s.inside for r in readers.get(n, ()) if r is not s.event and r not in s.inside]
        conditional = any(w.conditions for w in s.writes)
        if conditional and (outer or any(n in graph.results for n in s.inside)):
            return None
    return early


def _done_before(
    carry: Node, steps: Sequence[Step], readers: Mapping[Node, set[Node]]
) -> tuple[dict[Node, set[Node]], set[Node]]:
    """For each step what must be evaluated before it, and all of that."""
    values = [carry, *[s.result for s in steps]]
    own = {n for s in steps for n in (s.event, *s.inside)}
    earlier: dict[Node, set[Node]] = {}
    reading: set[Node] = set()
    pinned: set[Node] = set()
    for value, step in zip(values, steps, strict=False):
        reading |= {r for r in readers.get(value, ()) if r not in own}
        if step.changes:
            earlier.setdefault(step.event, set()).update(reading)
            pinned |= reading
    return earlier, pinned


def _ordered(nodes: Sequence[Node], before: Mapping[Node, Container[Node] | set[Node]]) -> list[Node] | None:
    """The nodes, inputs and what is to come before them first; None if there is no such order."""
    known = set(nodes)
    order: list[Node] = []
    state: dict[Node, bool] = {}  # False while what a node needs is gone through
    for root in nodes:
        stack = [root]
        while stack:
            node = stack[-1]
            if state.get(node):
                stack.pop()
                continue
            first = [n for n in (*node.inputs, *before.get(node, ())) if n in known]  # type: ignore[misc]
            waiting = [n for n in first if not state.get(n)]
            if node in state and any(n in state for n in waiting):
                return None
            state[node] = not waiting
            if waiting:
                stack += waiting[::-1]
            else:
                order.append(node)
                stack.pop()
    return order


# ---- in a block -----------------------------------------------------------------------------------


class Body:
    """The body of a loop being lowered, some of whose carries are changed in place.

    Parameters
    ----------
    block : of the body.
    held : by the place of a carry, the one buffer.
    """

    def __init__(self, block: Block, spec: LoopSpec, plan: Plan, held: Mapping[int, Array]) -> None:
        self.block, self.graph, self.plan, self.held = block, spec.body, plan, held
        self.carries = {i: body_of(spec).carries[i] for i in plan.chains}
        self._late = [(i, s) for i, steps in plan.chains.items() for s in steps[plan.early[i] :]]
        self._changing = dependents(self.graph.results, set(self.carries.values()))
        self._waiting = {s.result for _, s in self._late}  # nodes whose values are never made: writes do what they say
        self._waiting |= {n for steps in plan.chains.values() for s in steps for n in s.inside}

    def lower(self) -> list[Array]:
        """The values of the results; those that are changed in place as they are before `finish`."""
        block, plan = self.block, self.plan
        early: dict[Node, list[tuple[int, Step]]] = {}
        for i, steps in plan.chains.items():
            for s in steps[: plan.early[i]]:
                early.setdefault(s.event, []).append((i, s))
        for node in plan.order:
            if node in early:
                self._change(node, early[node])
            elif node not in self._waiting:
                block.ensure(node)
                if node in plan.pinned:
                    self._pin(node)
        for i, s in self._late:
            block.values[s.result] = self.held[i]
        return [block.unsettled(r) for r in self.graph.results]

    def finish(self) -> None:
        """The writes that are left, when nothing reads any more what was there."""
        for write in [w for i, s in self._late for w in self._prepared(i, s)]:
            write()

    def _change(self, event: Node, changes: Sequence[tuple[int, Step]]) -> None:
        block = self.block
        before = {v: x for i, step in changes for v, x in self._saved(i, step).items()}
        if event.op is LOOP:
            block.given_away |= {(event, s.result.params[0]) for _, s in changes}
            block.ensure(event)
        for i, step in changes:
            if step.loop is not None:
                self._take_back(step, self.held[i])
            else:
                for write in self._prepared(i, step):
                    write()
            block.values[step.result] = self.held[i]
        block.values.update(before)

    def _saved(self, i: int, step: Step) -> dict[Node, Array]:
        """What a step changes, copied, if a write that is not done yet is of it: of a state into a history, say."""
        steps = self.plan.chains[i]
        own = {n for s in steps for n in (s.event, *s.inside)}
        k = steps.index(step)
        values = [step.base]  # by all names that it has
        while k and not steps[k - 1].changes:
            k -= 1
            values.append(steps[k].base)
        read = [v for v in values if any(_writes(n, v, n in own) for n in self._waiting)] if step.changes else []
        return dict.fromkeys(read, copied(self.block.nest, self.held[i])) if read else {}

    def _take_back(self, step: Step, held: Array) -> None:
        """What an inner loop made of the carry that it was given."""
        results = self.block.values[step.result.inputs[0]]
        assert isinstance(results, list)
        assert held.memory is not None
        index = step.result.params[0]
        memory = results[index].memory
        if memory is None or memory.pointer is not held.memory.pointer:  # it could not work there
            copy_all(self.block.nest, [(held, results[index])])
        results[index] = held

    def _prepared(self, i: int, step: Step) -> list[Callable[[], None]]:
        """The writes of a step, with all that they need evaluated and checked."""
        block, held = self.block, self.held[i]
        equal = [block.unsettled(z).sizes for z in step.zeros] + [tuple(map(block.scalar, s)) for s in step.sizes]
        for own, wanted in [pair for sizes in equal for pair in zip(sizes, held.sizes, strict=True)]:
            block.nest.integers.assume_equal(own, wanted)
        found = []
        for node, adds, conditions in step.writes:
            if node.inputs[1] in self._changing:
                self._pin(node.inputs[1])
            write = prepared_write(block, node, held, adds)
            found.append(self._under(write, [(block.scalar(c), wanted) for c, wanted in conditions]))
        return found

    def _under(self, write: Callable[[], None], conditions: Sequence[tuple[Expr, bool]]) -> Callable[[], None]:
        """A write that is made if all conditions are as wanted."""
        nest, every = self.block.nest, None
        for value, wanted in conditions:
            own = value if wanted else nest.op("logical_not", value, dtype="bool")
            every = own if every is None else nest.op("and", every, own, dtype="bool")
        if every is None:
            return write
        holds = nest.let(every)

        def chosen() -> None:
            with nest.when(holds):
                write()

        return chosen

    def _pin(self, node: Node) -> None:
        """Put a value where no write changes it."""
        block = self.block
        block.ensure(node)
        value = block.values[node]
        if isinstance(value, list):
            if node.op is not LOOP:  # which has memory of its own
                block.values[node] = [self._apart(v) if v.sizes else v for v in value]
        elif value.sizes:
            block.values[node] = self._apart(block.array(node))

    def _apart(self, value: Array) -> Array:
        if value.memory is not None and value.memory.fresh:
            return value
        return in_registers(self.block.nest, value) if is_tiny(value.sizes) else copied(self.block.nest, value)


def _writes(node: Node, value: Node, is_link: bool) -> bool:
    """Whether a node of a chain takes a value otherwise than as that what it changes."""
    is_write = node.op.name in _SETS or node.op.name in _ADDS
    return value in (node.inputs[1:] if is_link and is_write else () if is_link else node.inputs)


def zeros_among(values: Mapping[Node, Array], block: Block) -> IsZero:
    """Whether a node of a body holds zeros that take no memory; `values` are those of the body's invariants.

    What is added to zeros is added to something else only if both have the same sizes, which must be assumed.
    """

    def known(node: Node) -> bool:
        if not block.nest.integers.optimistic:
            return False
        if node in values:
            return is_zero(block, values[node])
        element = constant_value(node.inputs[0]) if node.op is BROADCAST else None
        return element is not None and not element.any()

    return known
