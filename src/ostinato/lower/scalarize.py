"""Graph to loop nest: each op becomes scalar expressions under loops.

A `Block` lowers one Graph at the cursor of a `Nest`. Elementwise results and views stay unevaluated and
are fused into what reads them; they are put into memory where they are read more than once, or by an op
that reads its operands many times. The rules of the op families stand in `rules.py`, `products.py` and
`writes.py`, that of the Loop in `loops.py`; they enter themselves into `RULES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from ostinato.errors import OstinatoError
from ostinato.graph import Graph, Node, topological
from ostinato.lower.arrays import Array, copied, is_one, new_array, scalar
from ostinato.lower.loopnest import Expr, Nest
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.sizes import SIZE, Size
from ostinato.ops.sizes import sizes as symbolic_sizes
from ostinato.types import TupleType

Value = Array | list[Array]
LoweringRule = Callable[["Block", Node], Value]

RULES: dict[str, LoweringRule] = {}

# Results of these are read straight from their operands, so they are never worth memory of their own.
VIEWS = {"dimshuffle", "subtensor", "broadcast_to", "item", "disconnected_grad", "zero_grad", "check_rows"}


# Deeper expressions are put into memory on the way: whoever walks one does so by recursion.
_DEEPEST = 100


class UnsupportedError(OstinatoError):
    """An op has no rule for native code (yet)."""


def lowering(*names: str) -> Callable[[LoweringRule], LoweringRule]:
    """Enter a rule into the table."""

    def enter(function: LoweringRule) -> LoweringRule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


class Block:
    """One Graph being lowered: the values of its nodes so far.

    `recorded` are results that the caller puts into memory of its own: they need no other.
    """

    def __init__(
        self, nest: Nest, graph: Graph, params: dict[Node, Array], recorded: Collection[Node] = frozenset()
    ) -> None:
        self.nest = nest
        self.values: dict[Node, Value] = dict(params)
        self.uses: Counter[Node] = Counter(r for r in graph.results if r not in recorded)
        self.uses.update(dict.fromkeys(recorded, 1))
        for node in graph.nodes():
            self.uses.update(node.inputs)

    def lower(self, graph: Graph) -> list[Array]:
        """The values of the results."""
        for node in graph.nodes():
            self._ensure(node)
        return [self.array(r) for r in graph.results]

    def _ensure(self, node: Node) -> None:
        for n in topological([node], stop=self.values):
            if n not in self.values:
                self.values[n] = self._lowered(n)

    def _lowered(self, node: Node) -> Value:
        if node.op is CONSTANT:
            return self._constant(node)
        if node.op is SIZE:
            return scalar(self.array(node.inputs[0]).sizes[node.params[0]])
        rule = RULES.get(node.op.name)
        if rule is None:
            raise UnsupportedError(f"there is no native rule for {node.op.name}")
        value = rule(self, node)
        if isinstance(node.type, TupleType) or not isinstance(value, Array):
            return value
        if not value.sizes:
            return scalar(self.nest.let(value.at([]), node.op.name))
        if (self.uses[node] > 1 and node.op.name not in VIEWS) or value.depth > _DEEPEST:
            return self.materialised(value)
        return value

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
        if flat.size > 4096:
            raise UnsupportedError("a large constant")
        held = new_array(self.nest, dtype, sizes)
        assert held.memory is not None
        for i, v in enumerate(flat):
            self.nest.emit_store(held.memory.pointer, self.nest.const(i), self.nest.const(v.item(), dtype))
        return held

    # ---- what rules ask for ----

    def array(self, node: Node) -> Array:
        """The value of a node that is one array."""
        self._ensure(node)
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

    def fail_unless(self, condition: Expr) -> None:
        self.nest.fail_if(self.op("logical_not", condition, dtype="bool"))
