"""Graph to loop nest: each op becomes scalar expressions under loops.

A `Block` lowers one Graph at the cursor of a `Nest`. Elementwise results and views stay unevaluated and
are fused into what reads them. Those that cost something and are read more than once wait: readers at the
same index share the expression, and the first reader of another kind (a view, a sum, a product) has them
put into memory, by one loop for all of equal sizes that belong together. The rules of the op families
stand in files of their own, that of the Loop in `loops.py`; they enter themselves into `RULES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar

from ostinato.errors import OstinatoError, at
from ostinato.graph import Graph, Node, topological
from ostinato.lower.arrays import (
    TINY,
    Array,
    Memory,
    contiguous_strides,
    copied,
    copy_all,
    in_memory,
    in_registers,
    is_one,
    is_tiny,
    new_array,
    of_elements,
    scalar,
)
from ostinato.lower.loopnest import Expr, For, Nest, Split
from ostinato.ops.control import IDENTITIES
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.sizes import SIZE, Size
from ostinato.ops.sizes import sizes as symbolic_sizes
from ostinato.types import TupleType

Value = Array | list[Array]
LoweringRule = Callable[["Block", Node], Value]
Rule = TypeVar("Rule", bound=LoweringRule)

RULES: dict[str, LoweringRule] = {}

# Results of these are read straight from their operands, so they are never worth memory of their own.
VIEWS = {"dimshuffle", "subtensor", "broadcast_to", "item", "check_rows", *IDENTITIES}


# Deeper expressions are put into memory on the way: whoever walks one does so by recursion.
_DEEPEST = 100
# What costs so many additions or less is computed again by every reader.
CHEAP = 3


class UnsupportedError(OstinatoError):
    """What a rule raises that has no loop nest for a node: a call-out takes its place."""


def lowering(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule into the table."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


class Enclosing(NamedTuple):
    """A loop whose body is being lowered: where it stands, and what its invariants are there."""

    block: Block
    loop: For | Split
    invariants: dict[Node, Node]


class Block:
    """One Graph being lowered: the values of its nodes so far.

    `recorded` are results that the caller puts into memory of its own: they need no other. `enclosing`: the
    loop of which the Graph is the body. `given_away`: initial values of loops, by the loop and the place of the carry,
    that nobody else reads: the loop may change them.
    """

    def __init__(
        self,
        nest: Nest,
        graph: Graph,
        params: dict[Node, Array],
        recorded: Collection[Node] = frozenset(),
        enclosing: Enclosing | None = None,
    ) -> None:
        self.nest, self.enclosing = nest, enclosing
        self.packed: dict[Any, Expr] = {}  # see `packing`
        self.turned: dict[Any, Array] = {}
        self.given_away: set[tuple[Node, int]] = set()
        self.values: dict[Node, Value] = dict(params)
        self.uses: Counter[Node] = Counter(r for r in graph.results if r not in recorded)
        self.uses.update(dict.fromkeys(recorded, 1))
        self._readers: dict[Node, set[Node | None]] = {r: {None} for r in graph.results}
        for node in graph.nodes():
            self.uses.update(node.inputs)
            for i in node.inputs:
                self._readers.setdefault(i, set()).add(node)
        self._waiting: dict[Node, Array] = {}
        self._fused: dict[Node, list[Node]] = {}  # what a node that is not in memory reads at its own index

    def lower(self, graph: Graph) -> list[Array]:
        """The values of the results."""
        for node in graph.nodes():
            self.ensure(node)
        return [self.unsettled(r) for r in graph.results]

    def ensure(self, node: Node) -> None:
        """Lower a node, if it is not yet."""
        if node in self.values:
            return
        for n in topological([node], stop=self.values):
            if n not in self.values:
                with self.nest.memory_for(self._called(n)):
                    self.values[n] = self._lowered(n)

    def _called(self, node: Node) -> str:
        """A node in words, for whoever asks what memory is for."""
        where = ", in a loop" if self.enclosing else ""
        return f"{node.name or node.op.name}{at(node.source)}{where}"

    def _lowered(self, node: Node) -> Value:
        if node.op is CONSTANT:
            return self._constant(node)
        if node.op is SIZE:
            return scalar(self.nest.integers.representative(self.unsettled(node.inputs[0]).sizes[node.params[0]]))
        from ostinato.lower.callouts import lowered

        value = lowered(self, node)
        if isinstance(node.type, TupleType) or not isinstance(value, Array):
            return value
        if not value.sizes:
            return scalar(self.nest.let(value.at([]), node.op.name))
        if value.memory is not None or value.depth > _DEEPEST:
            return self.materialised(value)
        if node.op.name not in VIEWS and is_tiny(value.sizes):
            return in_registers(self.nest, value.readable(self))
        if self.uses[node] > 1 and node.op.name not in VIEWS and value.cost > CHEAP:
            return self._made_to_wait(node, value)
        return value

    # ---- values that wait ----

    def fuses(self, node: Node, inputs: Collection[Node]) -> None:
        """Remember that elements of a node are computed from those of `inputs` at the same index."""
        self._fused[node] = [i for i in inputs if i in self._waiting or i in self._fused]

    def _made_to_wait(self, node: Node, value: Array) -> Array:
        self._waiting[node] = value
        known: dict[tuple[Expr, ...], Expr] = {}  # what is read often is walked once per index

        def at(index: Sequence[Expr]) -> Expr:
            held = self.values[node]
            assert isinstance(held, Array)
            if held.memory is not None:
                return held.at(index)
            if tuple(index) in known:
                return known[tuple(index)]
            emitted = self.nest.emitted
            expr = value.at(index)
            if self.nest.emitted == emitted:  # statements would be those of the place where the cursor is
                known[tuple(index)] = expr
            return expr

        return Array(value.dtype, value.sizes, at, depth=value.depth, cost=1)

    def _settle(self, node: Node) -> None:
        """Put a value that waits into memory."""
        value = self._waiting[node]
        with self.nest.memory_for(self._called(node)):
            held = new_array(self.nest, value.dtype, value.sizes)
        self.store_together([node], [(held, value)])
        self.values[node] = held
        del self._waiting[node]

    def store_together(self, nodes: Collection[Node], pairs: list[tuple[Array, Array]]) -> None:
        """Write arrays, which are computed from elements of `nodes` at the same index.

        With them go to memory all that wait, are computed on the way and are read elsewhere too.
        """
        inside: dict[Node | None, None] = {}
        for node in nodes:
            inside |= self._reached(node)
        shared = [n for n in inside if n in self._waiting and n not in nodes and not self._readers[n] <= inside.keys()]
        extra = [(new_array(self.nest, v.dtype, v.sizes), v) for v in (self._waiting[n] for n in shared)]
        copy_all(self.nest, [*extra, *pairs])
        for n, (held, _) in zip(shared, extra, strict=True):
            self.values[n] = held
            del self._waiting[n]

    def only_reader(self, node: Node) -> Node | None:
        """The one node that reads this one, and reads it once; None if there is none such."""
        return next(iter(self._readers[node])) if self.uses[node] == 1 and node in self._readers else None

    def is_read(self, node: Node) -> bool:
        """Whether anything reads a node, or it is a result."""
        return node in self._readers

    def is_only_read_by(self, node: Node, test: Callable[[Node], bool]) -> bool:
        """Whether all that reads a node, and that is something, passes a test."""
        readers = self._readers.get(node)
        return readers is not None and all(r is not None and test(r) for r in readers)

    def _reached(self, node: Node) -> dict[Node | None, None]:
        """What is computed anew when elements of a node are: inputs before what reads them."""
        found: dict[Node | None, None] = {}
        stack = [(node, False)]
        while stack:
            n, complete = stack.pop()
            if complete:
                found[n] = None
            elif n not in found and self._is_unsettled(n):
                stack.append((n, True))
                stack.extend((i, False) for i in self._fused.get(n, ()))
        return found

    def _is_unsettled(self, node: Node) -> bool:
        value = self.values[node]
        return isinstance(value, Array) and value.memory is None

    def _constant(self, node: Node) -> Array:
        array = node.params[0].array
        dtype = array.dtype.name
        if array.ndim == 0:
            return scalar(self.nest.const(array.item(), dtype))
        flat = array.ravel()
        sizes = [self.nest.const(n) for n in array.shape]
        if flat.size and (flat == flat[0]).all():
            value = self.nest.const(flat[0].item(), dtype)
            return Array(dtype, tuple(sizes), lambda index: value)
        if flat.size > TINY:
            strides = contiguous_strides(self.nest, sizes)
            return in_memory(self.nest, dtype, sizes, Memory(self.nest.data(array), self.int(0), strides))
        return of_elements(self.nest, dtype, sizes, [self.nest.const(v.item(), dtype) for v in flat])

    # ---- what rules ask for ----

    def array(self, node: Node) -> Array:
        """The value of a node that is one array, to be read at any index."""
        self.ensure(node)
        for n in list(self._reached(node)) if node in self._fused or node in self._waiting else ():
            if n in self._waiting:
                self._settle(n)
        value = self.unsettled(node).readable(self)
        self.values[node] = value
        return value

    def unsettled(self, node: Node) -> Array:
        """The value of a node that is one array, to be read at every index once, along with others of its sizes."""
        self.ensure(node)
        value = self.values[node]
        assert isinstance(value, Array)
        return value

    def scalar(self, node: Node) -> Expr:
        """The value of a scalar node."""
        return self.array(node).at([])

    def sizes(self, node: Node) -> tuple[Expr, ...]:
        """The sizes of a node's value, from its size expressions: known before the value is."""
        return tuple([self.size(s) for s in symbolic_sizes(node)])

    def size(self, size: Size) -> Expr:
        return self.scalar(size) if isinstance(size, Node) else self.nest.const(size)

    def materialised(self, value: Array) -> Array:
        """The same array in memory."""
        return value if value.memory is not None else copied(self.nest, value)

    def contiguous(self, value: Array) -> Array:
        """The same array in memory of its own, in C order."""
        fresh = value.memory is not None and value.memory.fresh
        return value if fresh else copied(self.nest, value)

    def rows_in_order(self, node: Node) -> Array:
        """A node's value in memory, the elements of a row beside each other; remembered."""
        value = self.materialised(self.array(node))
        assert value.memory is not None
        if not is_one(value.memory.strides[-1]):
            value = self.contiguous(value)
        self.values[node] = value
        return value

    def in_memory(self, node: Node) -> Array:
        """A node's value in memory; remembered, so that it is put there once."""
        value = self.materialised(self.array(node))
        self.values[node] = value
        return value

    def op(self, name: str, *args: Expr, dtype: str | None = None) -> Expr:
        return self.nest.op(name, *args, dtype=dtype)

    def int(self, value: int) -> Expr:
        return self.nest.const(value)

    def require_equal(self, a: Expr, b: Expr) -> None:
        """Fail unless two sizes are equal; they are known to be from then on."""
        self.nest.integers.require_equal(a, b)

    def fail_unless(self, condition: Expr) -> None:
        self.nest.fail_if(self.op("logical_not", condition, dtype="bool"))
