"""checkpoints: loops that read what another loop recorded at each of its steps have it made again, block by block.

before:  h, r    = loop(n, x, h0; body -> (h', r))                # r: what the reverse needs of each step
         g, dx   = loop(n, r[::-1], …; reversed body -> (g', dx))
after:   h, c    = loop(n, x, h0; body -> (h', h at each K-th step))
         g, dx   = loop(n / K, …; one block of K steps, the last first:
                       r  = loop(K, x of the block, c[block]; body -> r)
                       g, dx of the block = loop(K, r[::-1], …; reversed body))

Only carries are alive where a block ends, so they are all that is kept of the steps. What a block needs is made
again from there, once per block and loop that reads it; of one block, all of it is in memory. With K = sqrt(n) both
are of the size of sqrt(n) steps. The blocks of two levels, where a block is itself done in blocks, take the size of
n ** (1 / 3) steps, for one more run of the steps. (The schemes of several levels are those of A. Griewank,
"Achieving logarithmic growth of temporal and spatial complexity in reverse automatic differentiation", 1992; with one
repetition per level they are within a constant factor of his optimum.)

Loops of derivatives of higher order read what loops of lower order recorded: a family of loops with the same
steps is done together, forwards or backwards each, and a block of any of them asks for blocks of those it reads.
Every step computes what it computed before, from the same values in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ostinato.graph import Graph, Node, make, redirect, rewrite_nodes, substitute, topological
from ostinato.ops.control import within_budget
from ostinato.ops.elementwise import cast, ceil, floor, maximum, minimum, sqrt, where
from ostinato.ops.indexing import SUBTENSOR, is_reversal, is_start, set_subtensor
from ostinato.ops.leaf import constant, new_input
from ostinato.ops.loop import (
    COUNT,
    ITEM,
    LOOP,
    Body,
    Checkpoint,
    LoopInputs,
    LoopSpec,
    body_of,
    build_loop,
    item,
    kept_rows,
    results_of,
    sizes_outside,
    split,
    steps_made,
)
from ostinato.ops.sizes import as_size_nodes, broadcast_to, sizes
from ostinato.rewrite.engine import rewrite_pass
from ostinato.rewrite.loop_prune import loop_prune

# What a step of a block takes, times what it records: its derivatives write down as much again.
_PER_ROW = 2
# How often a carry of a loop over blocks is in memory: twice in each of the two loops, and what is added to it, which
# is laid out for that.
_IN_BLOCKS = 6
# The rows and columns in which sums of products are laid out, see `lower.packing`. Budgets below `_SMALL` do not count
# it: every function has as much at hand.
_TERMS, _COLUMNS, _SMALL = 128, 32, 1 << 18
# Of a budget so much is left to whatever is small; and of a large one, for which there are huge pages, one of these.
_HELD_BACK, _HUGE_PAGE, _LARGE = 1 / 32, 1 << 21, 3_500_000
# What a block records is best read while it lies in the cache: bytes of it.
_CACHE = 1 << 19


@rewrite_pass
def checkpoints(graph: Graph) -> Graph:
    """Make again what loops recorded for loops of derivatives, where they were told to."""
    n_sharing = sum(1 for _ in _families(graph))
    while family := next(_families(graph), None):
        blocks = _Blocks(family, _lengths(family, n_sharing))
        graph = Graph(graph.params, tuple(redirect(graph.results, blocks.alias)))
    return graph


def _families(graph: Graph) -> Iterator[_Family]:
    """The families whose first loop asks for it, and that keep tables."""
    roots = [n for n in graph.nodes() if n.op is LOOP and _asks(n.params[0])]
    readers = _readers(graph) if roots else {}
    return (f for f in (_Family(graph, readers, n) for n in roots) if f.tables)


def with_budget(graph: Graph, budget: int) -> Graph:
    """The graph with a budget for what all its loops keep together; those that have a policy of their own keep that."""
    policy = Checkpoint(budget=budget, shared=True)

    def marked(node: Node) -> Node | None:
        if node.op is not LOOP or node.params[0].checkpoint is not None:
            return None
        return make(LOOP, node.inputs, (replace(node.params[0], checkpoint=policy),))

    return Graph(graph.params, tuple(rewrite_nodes(graph.results, marked)))


def _asks(spec: LoopSpec) -> bool:
    policy = spec.checkpoint
    return policy is not None and (policy.every is not None or policy.budget is not None) and spec.n_carries > 0


def _readers(graph: Graph) -> dict[Node, list[Node | None]]:
    """What reads each node; None stands for the caller, who reads the results."""
    found: dict[Node, list[Node | None]] = {r: [None] for r in graph.results}
    for node in graph.nodes():
        for i in node.inputs:
            found.setdefault(i, []).append(node)
    return found


# ---- families -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """A sequence that is what a member recorded: of which member, which output, and whether in the other order."""

    producer: Node
    output: int
    turned: bool


@dataclass
class _Member:
    """A loop of a family."""

    node: Node
    forward: bool  # whether its first step belongs to the first step of the root
    reads: dict[int, _Read] = field(default_factory=dict)  # by the number of the sequence

    def __post_init__(self) -> None:
        self.spec: LoopSpec = self.node.params[0]
        self.given, self.body = split(self.spec, self.node.inputs), body_of(self.spec)


class _Family:
    """A loop, and the loops with as many steps that read what it or another of them recorded.

    Attributes
    ----------
    steps : the number of steps that were made
    tables : per member the outputs that nobody else reads: those that need not be kept
    only_read_here : whether nothing else is read of the root at all
    """

    def __init__(self, graph: Graph, readers: dict[Node, list[Node | None]], root: Node) -> None:
        first = _Member(root, True)
        self.root, self.members = first, {root: first}
        self.steps = steps_made(root)
        for node in graph.nodes():
            if node.op is LOOP and node is not root and not node.params[0].has_until:
                self._enter(_Member(node, True))
        self.tables = self._tables(readers)
        others = [i for i in results_of(root).finals if i in readers]
        others += [
            y for j, y in enumerate(results_of(root).outputs) if j not in self.tables.get(root, ()) and y in readers
        ]
        self.only_read_here = not others and results_of(root).trips_done not in readers
        for member in self.members.values():
            member.reads = {i: r for i, r in member.reads.items() if r.output in self.tables.get(r.producer, ())}

    def _enter(self, member: _Member) -> None:
        if member.given.trip_count is not self.steps:
            return
        for i, x in enumerate(member.given.sequences):
            read = self._read(x)
            if read is not None:
                member.reads[i] = read
        directions = {self.members[r.producer].forward != r.turned for r in member.reads.values()}
        if len(directions) == 1:
            member.forward = directions.pop()
            self.members[member.node] = member

    def _read(self, x: Node) -> _Read | None:
        """What a sequence is, if it is all that a member recorded, in this order or the other."""
        turned = False
        while x.op is SUBTENSOR:
            if is_reversal(x):
                turned = not turned
            elif not (is_start(x) and x.inputs[-1] is self.steps):
                return None
            x = x.inputs[0]
        if x.op is not ITEM or x.inputs[0] not in self.members:
            return None
        member = self.members[x.inputs[0]]
        j = x.params[0] - member.spec.n_carries
        is_table = 0 <= j < member.spec.n_outputs and member.spec.thinned(j) is None
        return _Read(member.node, j, turned) if is_table else None

    def _tables(self, readers: dict[Node, list[Node | None]]) -> dict[Node, list[int]]:
        found: dict[Node, list[int]] = {}
        for member in self.members.values():
            wanted = {r.output for m in self.members.values() for r in m.reads.values() if r.producer is member.node}
            for j in sorted(wanted):
                if self._is_only_read_here(item(member.node, member.spec.n_carries + j), readers):
                    found.setdefault(member.node, []).append(j)
        return found

    def _is_only_read_here(self, x: Node, readers: dict[Node, list[Node | None]]) -> bool:
        for reader in readers.get(x, ()):
            if reader is None:
                return False
            if reader.op is SUBTENSOR and reader.inputs[0] is x and x not in reader.inputs[1:]:
                if not self._is_only_read_here(reader, readers):
                    return False
            elif reader in self.members:
                member = self.members[reader]
                places = [k for k, i in enumerate(reader.inputs) if i is x]
                if any(k - 1 not in member.reads for k in places):
                    return False
            else:
                return False
        return True

    # ---- bytes ----

    def carry_bytes(self) -> Any:
        """What is kept where a block ends."""
        given = [c for m in self._kept() for c in m.given.carries]
        return _total([(sizes(c), c.type.dtype) for c in given])

    def row_bytes(self) -> Any:
        """What one step of a block takes."""
        found = []
        for node, outputs in self.tables.items():
            m = self.members[node]
            for j in outputs:
                value = m.body.outputs[j]
                found.append((sizes_outside(sizes(value), m.given, m.body), value.type.dtype))
        return _total([(s, d) for s, d in found if None not in s])

    def _kept(self) -> list[_Member]:
        return [self.members[node] for node in self.tables]

    def fixed_bytes(self) -> Any:
        """What the loops take besides, however long blocks are: carries as they change, and matrices for products.

        A loop has two buffers per carry; where there are blocks, that over the blocks and that within one. What is
        added to a sum takes as much again. Matrices that do not change are packed.
        """
        found: list[tuple[Sequence[Any], str]] = []
        for m in self.members.values():
            times = _IN_BLOCKS if m.reads else 2
            found += [(sizes(c), c.type.dtype) for c in m.given.carries for _ in range(times)]
            factors = {i for n in m.spec.body.nodes() if n.op.name == "matmul" for i in topological(n.inputs)}
            pairs = zip(m.body.invariants, m.given.invariants, strict=True)
            found += [(sizes(w), w.type.dtype) for p, w in pairs if p in factors and w.type.ndim == 2]
        return _total(found)

    def panel_bytes(self) -> Any:
        """What is laid out at a time for sums of products; natively that is so many terms, in panels of columns."""
        found: list[tuple[Sequence[Any], str]] = []
        for m in self.members.values():
            for c, following in zip(m.given.carries, m.body.next_carries, strict=True):
                if m.reads and following.op.name == "add" and any(i.op.name == "matmul" for i in following.inputs):
                    columns = as_size_nodes(sizes(c))[-1]
                    found.append(([_TERMS, (columns + (_COLUMNS - 1)) // _COLUMNS * _COLUMNS], c.type.dtype))
        return _total(found)


def _total(arrays: Iterable[tuple[Sequence[Any], str]]) -> Any:
    """The bytes of some arrays, 1 at least."""
    total: Any = constant(0, "int64")
    for extents, dtype in arrays:
        n: Any = constant(np.dtype(dtype).itemsize, "int64")
        for size in as_size_nodes(extents):
            n = n * size
        total = total + n
    return maximum(total, 1)


# ---- how long blocks are --------------------------------------------------------------------------


class _Bytes(NamedTuple):
    """What takes memory: what is kept where a block ends, a step of a block, and what does not depend on lengths.

    The last are carries and packed matrices, and what is laid out for sums of products.
    """

    carry: Any
    row: Any
    fixed: Any
    panels: Any


@dataclass(frozen=True)
class _Lengths:
    """The steps of a block of each level, and the steps that fit at most, if they are not known before."""

    levels: list[Any]
    most: Any = None


def _lengths(family: _Family, n_sharing: int) -> _Lengths:
    policy, n = family.root.spec.checkpoint, family.root.given.trip_count
    assert policy is not None
    if policy.every is not None:
        return _Lengths([constant(policy.every, "int64")])
    assert policy.budget is not None
    budget = policy.budget // n_sharing if policy.shared else policy.budget
    bytes_of = _Bytes(family.carry_bytes(), _PER_ROW * family.row_bytes(), family.fixed_bytes(), family.panel_bytes())
    return _within(n, bytes_of, budget, _label(family.root.spec), family.root.spec.has_until)


def _label(spec: LoopSpec) -> str:
    return spec.name or "a loop"


def _within(n: Any, bytes_of: _Bytes, budget: int, label: str, unknown: bool) -> _Lengths:
    """Lengths of blocks such that what is kept of n steps takes no more than a budget.

    Blocks of k steps keep n / k carries and k rows: (n / k) c + k r <= m has the roots below. Where it has none, half
    of the budget is for blocks of k' steps, 2 n c / k' = m, and half for blocks within one of them.
    """
    c, r, fixed, panels = (cast(v, "float64") for v in bytes_of)
    usable = (1.0 - _HELD_BACK) * budget
    usable = max(min(usable, _LARGE), usable - _HUGE_PAGE)
    m = maximum(usable - c - r - fixed - (panels if budget >= _SMALL else 0.0), 1.0)
    most = None
    if unknown:
        fitting = 0.9 * maximum(m * m / (4.0 * c * r), m * m * m / (32.0 * c * c * r))
        most = cast(floor(minimum(fitting, 2.0**62)), "int64")
        n = minimum(n, most)
    steps = cast(n, "float64")
    cached = maximum(_CACHE // bytes_of.row, 1)
    one, fits_in_one = _length(steps, c, r, m, cached)
    outer = maximum(ceil(2.0 * steps * c / m), 1.0)
    inner, fits_in_two = _length(outer, c, r, m / 2.0, cached)
    # Of what would fit without rounding a tenth more, so that with as much the lengths below are found.
    enough = (
        1.1 * minimum(2.0 * sqrt(steps * c * r), (32.0 * steps * c * c * r) ** (1 / 3)) + 4.0 * (c + r) + fixed + panels
    )
    enough = (enough + where(enough > _LARGE, _HUGE_PAGE, 0.0)) / (1.0 - _HELD_BACK)
    needed = where(fits_in_one | fits_in_two, 0, maximum(cast(ceil(enough), "int64"), budget + 1))
    needed = constant(0, "int64") if unknown else needed  # it may well end before, and is checked then
    first = within_budget(where(fits_in_one, one, cast(outer, "int64")), needed, budget, label)
    return _Lengths([first, where(fits_in_one, one, inner)], most)


def _length(n: Any, c: Any, r: Any, m: Any, cached: Any) -> tuple[Any, Any]:
    """A length of blocks, as near to one that the cache holds as can be; whether any fits."""
    rest = m * m - 4.0 * n * c * r
    root = sqrt(maximum(rest, 0.0))
    least, most = ceil((m - root) / (2.0 * r)), floor((m + root) / (2.0 * r))
    length = minimum(maximum(cached, cast(maximum(least, 1.0), "int64")), cast(maximum(most, 1.0), "int64"))
    return length, (rest >= 0.0) & (most >= maximum(least, 1.0))


# ---- blocks ---------------------------------------------------------------------------------------


class _Blocks:
    """The loops of a family made into loops over blocks."""

    def __init__(self, family: _Family, lengths: _Lengths) -> None:
        self.family, self.lengths = family, lengths
        self.length, self.inner_levels = lengths.levels[0], lengths.levels[1:]
        self.n = family.steps
        if lengths.most is not None:
            spec = family.root.spec
            policy = spec.checkpoint
            assert policy is not None
            assert policy.budget is not None
            over = where(self.n > lengths.most, policy.budget + 1, 0)
            self.n = within_budget(
                self.n, over, policy.budget, f"{_label(spec)}, which made more steps than there was room for"
            )
        self.n_blocks = kept_rows(self.n, self.length)
        self.saved: dict[Node, list[Any]] = {}  # per member, the carries with which each block begins
        self.alias: dict[Node, Any] = {}
        for node in [n for n in topological(family.members) if n in family.members]:
            member = family.members[node]
            if member.reads:
                self._over_blocks(member)
            elif node in family.tables:
                self._thinned(member)

    # ---- loops that run as before ----

    def _thinned(self, member: _Member) -> None:
        """The same loop, which records carries at the beginning of each block, and no tables."""
        spec, body, tables = member.spec, member.body, self.family.tables[member.node]
        kept = [j for j in range(spec.n_outputs) if j not in tables]
        every = new_input(COUNT, "every")
        place = len(body.invariants)
        thinning = [*[spec.thinned(j) for j in kept], *[place] * spec.n_carries]
        outputs = [*[body.outputs[j] for j in kept], *body.carries]
        test = [] if body.keep_going is None else [body.keep_going]
        graph = Graph((*spec.body.params, every), (*body.next_carries, *outputs, *test))
        new_spec = replace(spec, body=graph, thinning=tuple(thinning), checkpoint=None)
        inputs = [*member.node.inputs, self.length]
        if member is self.family.root and self.family.only_read_here:  # no further than the last block begins
            inputs[0] = minimum(self.n, (self.n_blocks - 1) * self.length + 1)
        new, old = results_of(make(LOOP, tuple(inputs), (new_spec,))), results_of(member.node)
        self.saved[member.node] = new.outputs[len(kept) :]
        self.alias |= dict(zip(old.finals, new.finals, strict=True))
        self.alias |= {old.outputs[j]: y for j, y in zip(kept, new.outputs, strict=False)}
        self.alias[old.trips_done] = new.trips_done

    # ---- loops over blocks ----

    def _over_blocks(self, member: _Member) -> None:
        spec, given, old = member.spec, member.given, results_of(member.node)
        tables = self.family.tables.get(member.node, [])
        stored = [j for j in range(spec.n_outputs) if j not in tables]
        t = new_input(COUNT, "block")
        block = _Block(self, t if member.forward else self.n_blocks - 1 - t)
        carries = [new_input(c.type, c.name) for c in member.body.carries]
        held = [new_input(old.outputs[j].type.with_shape((None, *old.outputs[j].type.shape[1:]))) for j in stored]
        finals, outputs = block.run(member, carries, stored)
        start = block.start(member)
        filled = [set_subtensor(h[start : start + block.steps], y) for h, y in zip(held, outputs, strict=True)]
        results = self._in_blocks([*finals, *filled], block)
        begun = carries if member.node in self.family.tables else []
        rows = [_empty(old.outputs[j], self.n, given, member.body, j) for j in stored]
        c = len(carries)
        loop = build_loop(
            Body(t, (), (*carries, *held), (), tuple(results), tuple(begun), None),
            LoopInputs(self.n_blocks, (), (*given.carries, *rows), ()),
            name=f"blocks of {spec.name or 'a loop'}",
        )
        if begun:
            self.saved[member.node] = loop.outputs if member.forward else [y[::-1] for y in loop.outputs]
        self.alias |= dict(zip(old.finals, loop.finals, strict=False))
        self.alias |= {old.outputs[j]: y for j, y in zip(stored, loop.finals[c:], strict=True)}
        self.alias[old.trips_done] = self.n

    def _in_blocks(self, results: list[Any], block: _Block) -> list[Any]:
        """The results of a block, which may be done in blocks of the next level."""
        if not self.inner_levels or block.root is None:
            return results
        graph = Graph((), tuple(results))
        family = _Family(graph, _readers(graph), block.root)
        if not family.tables:
            return results
        alias = _Blocks(family, _Lengths(self.inner_levels)).alias
        return list(loop_prune(Graph((), tuple(redirect(results, alias)))).results)


class _Block:
    """One block of steps: its loops, made as they are asked for."""

    def __init__(self, blocks: _Blocks, number: Any) -> None:
        self.blocks, self.number = blocks, number
        self.first = number * blocks.length
        self.steps = minimum(blocks.length, blocks.n - self.first)
        self.made: dict[Node, list[Any]] = {}  # per member its outputs of the block
        self.root: Node | None = None

    def start(self, member: _Member) -> Any:
        """The step of a member with which the block begins."""
        return self.first if member.forward else self.blocks.n - self.first - self.steps

    def rows(self, read: _Read) -> Any:
        """What a sequence of a member holds in this block, made again."""
        member = self.blocks.family.members[read.producer]
        if member.node not in self.made:
            saved = [c[self.number] for c in self.blocks.saved[member.node]]
            tables = self.blocks.family.tables[member.node]
            self.made[member.node] = self.run(member, saved, tables)[1]
        rows = self.made[member.node][self.blocks.family.tables[member.node].index(read.output)]
        return rows[::-1] if read.turned else rows

    def run(self, member: _Member, carries: Sequence[Any], outputs: Sequence[int]) -> tuple[list[Any], list[Any]]:
        """The block's steps of a member: its carries after them, and some outputs."""
        start = self.start(member)
        sequences = [
            self.rows(member.reads[i]) if i in member.reads else _part(x, start, self.steps)
            for i, x in enumerate(member.given.sequences)
        ]
        graph, offset = _part_of(member, outputs)
        given = (self.steps, *sequences, *carries, *member.given.invariants, *([start] if offset else []))
        spec = replace(member.spec, body=graph, has_until=False, thinning=(), checkpoint=None, truncate=None)
        node = make(LOOP, given, (spec,))
        if not member.reads:
            self.root = node
        found = results_of(node)
        return found.finals, found.outputs


def _part(x: Any, start: Any, steps: Any) -> Any:
    """Some rows of a sequence; of one in the other order, rows in the other order."""
    if not is_reversal(x):
        return x[start : start + steps]
    whole = x.inputs[0]
    stop = sizes(whole)[0] - start
    return whole[stop - steps : stop][::-1]


def _part_of(member: _Member, outputs: Sequence[int]) -> tuple[Graph, bool]:
    """A member's body with some of its outputs, and whether its last param says at which step it begins."""
    body, params = member.body, list(member.spec.body.params)
    results = [*body.next_carries, *[body.outputs[j] for j in outputs]]
    if body.t not in topological(results):
        return Graph(tuple(params), tuple(results)), False
    params[0], offset = new_input(COUNT, "t"), new_input(COUNT, "start")
    return Graph((*params, offset), tuple(substitute(results, {body.t: params[0] + offset}))), True


def _empty(output: Node, n: Any, given: LoopInputs, body: Body, j: int) -> Any:
    """Memory for an output of all steps, which blocks fill."""
    rows = sizes_outside(sizes(body.outputs[j]), given, body)
    wanted = [r if r is not None else sizes(output)[1 + k] for k, r in enumerate(rows)]
    return broadcast_to(constant(0, output.type.dtype), [n, *wanted])
