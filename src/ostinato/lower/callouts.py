"""Call-outs: what has no native form is computed by the NumPy reference of its op, called from native code.

Whether a node is called out is decided here, when it is lowered: it has no rule, a scalar operation that
its rule needs is unknown to the backend, or its rule gives up. A rule that gives up midway may have left
statements and values behind; then lowering begins anew and knows better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from ostinato.graph import Graph, Node
from ostinato.lower.arrays import Array, Memory, contiguous_strides, in_memory, new_array, scalar, store
from ostinato.lower.loopnest import Expr, Nest, Var
from ostinato.lower.rules import ELEMENTWISE
from ostinato.lower.scalarize import RULES, Block, UnsupportedError, Value
from ostinato.ops.control import IDENTITIES
from ostinato.ops.loop import LOOP
from ostinato.types import TensorType, TupleType

# Rules of these only move elements, of whatever dtype, or leave all else to what stands in a body.
_MOVES = {
    "item", "loop", "dimshuffle", "subtensor", "broadcast_to", "check_rows", *IDENTITIES,
    "reshape", "specify_shape", "concatenate", "set_subtensor", "gather", "scatter_set",
}  # fmt: skip


class GaveUpMidwayError(Exception):
    """The rule of `node` gave up after it had made statements: lower again and call the node out."""

    def __init__(self, node: Node) -> None:
        self.node = node


def lowered(block: Block, node: Node) -> Value:
    """The value of a node by its rule, or else by a call-out."""
    nest, rule = block.nest, RULES.get(node.op.name)
    if rule is None or node in nest.called_out or not _has_operations(nest, node):
        return call_out(block, node)
    emitted = nest.emitted
    try:
        return rule(block, node)
    except UnsupportedError as missing:
        if nest.emitted == emitted:
            return call_out(block, node)
        raise GaveUpMidwayError(node) from missing


def _has_operations(nest: Nest, node: Node) -> bool:
    """Whether the backend has the scalar operations that the rule of a node needs."""
    name = node.op.name
    if nest.knows is None or name in _MOVES:
        return True
    operands = [i.type.dtype for i in node.inputs]
    if name in ELEMENTWISE:
        return nest.knows(name, operands, node.type.dtype)
    # The reference adds and multiplies in a wider float and rounds once, at the end.
    return "float16" not in (*operands, *[t.dtype for t in _result_types(node)])


def call_out(block: Block, node: Node) -> Value:
    """A call of the reference of a node's op; its results as arrays in memory."""
    words = [w for i in node.inputs for w in _operand(block, i)]
    types = _result_types(node)
    variables = [_result_words(block.nest, t) for t in types]
    block.nest.call_out(node, words, [v for vs in variables for v in vs])
    arrays = [_result(block.nest, node, t, vs) for t, vs in zip(types, variables, strict=True)]
    return arrays if isinstance(node.type, TupleType) else arrays[0]


def _result_types(node: Node) -> tuple[TensorType, ...]:
    return node.type.items if isinstance(node.type, TupleType) else (node.type,)


def _operand(block: Block, node: Node) -> Iterator[Expr]:
    """The address of a value in memory, its sizes and its strides."""
    value = block.array(node)
    if value.sizes:
        value = block.in_memory(node)
    else:
        held = new_array(block.nest, value.dtype, ())
        store(block.nest, held, (), value.at([]))
        value = held
    assert value.memory is not None
    n_bytes = block.nest.mul(value.memory.offset, block.int(bytes_of(value.dtype)))
    yield block.op("advance", value.memory.pointer, n_bytes, dtype="ptr")
    yield from value.sizes
    yield from value.memory.strides


def bytes_of(dtype: str) -> int:
    """The size of an element."""
    return 1 if dtype == "bool" else int("".join(c for c in dtype if c.isdigit())) // 8


def _result_words(nest: Nest, type_: TensorType) -> list[Var]:
    return [nest.var("result", "ptr"), *[nest.var("size", "int64") for _ in type_.shape]]


def _result(nest: Nest, node: Node, type_: TensorType, words: list[Var]) -> Array:
    pointer, *found = words
    sizes = [nest.integers.count(f) if s is None else nest.const(s) for f, s in zip(found, type_.shape, strict=True)]
    if not sizes:
        return scalar(nest.let(nest.load(pointer, nest.const(0), type_.dtype), node.op.name))
    return in_memory(nest, type_.dtype, sizes, Memory(pointer, nest.const(0), contiguous_strides(nest, sizes)))


# ---- for readers ----------------------------------------------------------------------------------


def where_called(graph: Graph, sites: Collection[Node]) -> list[str]:
    """What is called out, and in which loops, in words; in the order of the graph."""
    found: Counter[str] = Counter()
    seen: set[Node] = set()
    waiting = [(graph, "")]
    while waiting:
        inner, where = waiting.pop(0)
        for node in inner.nodes():
            if node in sites:
                seen.add(node)
                found[_called(node) + (f" (in {where})" if where else "")] += 1
            elif node.op is LOOP:
                within = f" within {where}" if where else ""
                waiting.append((node.params[0].body, _loop(node, "a loop") + within))
    found.update(f"{_called(n)} (for a size)" for n in dict.fromkeys(sites) if n not in seen)
    return [f"{what}, {n} times" if n > 1 else what for what, n in found.items()]


def _called(node: Node) -> str:
    return _loop(node, "a whole loop") if node.op is LOOP else node.op.name


def _loop(node: Node, nameless: str) -> str:
    name = node.params[0].name
    return f"loop {name!r}" if name else nameless
