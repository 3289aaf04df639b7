"""A whole function as a loop nest with its calling convention.

Arguments arrive as 64-bit words: per param its address and its sizes, all arrays contiguous. Results
leave the same way. Each lies in memory of its own, which the caller keeps: what computes a result
writes it there if it can, and only what lies elsewhere, in a param or as a part of something, is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ostinato.graph import Graph, Node
from ostinato.lower import elimination, linalg, loops, products, rules, writes
from ostinato.lower.arrays import Array, Memory, contiguous_strides, copy_all, in_memory, new_array, scalar
from ostinato.lower.callouts import GaveUpMidwayError
from ostinato.lower.dividing import NotDivisibleError
from ostinato.lower.loopnest import Expr, For, Knows, Nest, Var, format_nest
from ostinato.lower.memory import Usage, share_places
from ostinato.lower.scalarize import Block
from ostinato.lower.tiling import NotTiledError
from ostinato.rewrite.native import rewrite_for_native
from ostinato.rewrite.notes import listening

_RULE_FILES = (elimination, linalg, loops, products, rules, writes)  # importing them enters their rules into the table


@dataclass(frozen=True)
class Program:
    """What is lowered, its loop nest, the variables of the words of arguments and results, and the use of memory.

    `names`: what the variables hold that are sizes or integers of params, in the user's words.
    `notes`: what the passes for native code told.
    """

    graph: Graph
    nest: Nest
    arguments: Var
    results: Var
    usage: Usage
    names: dict[Expr, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        texts = []
        for r in self.nest.routines.values():
            params = ", ".join(p.name for p in r.params)
            texts.append(f"routine {r.name}({params}):\n{format_nest(r.body, '  ')}")
        return "\n".join([*texts, format_nest(self.nest.body)])


def lower_graph(
    graph: Graph,
    knows: Knows | None = None,
    optimistic: bool = True,
    panels: Mapping[str, int] | None = None,
    tiles: Callable[[For], bool] | None = None,
) -> Program:
    """The loop nest of a Graph.

    Parameters
    ----------
    knows : the scalar operations of the backend; where others are needed, call-outs do. All if not given.
    optimistic : bool
        Assume that sizes which meet are equal and bounds of slices in order; see `integers`.
    panels : the columns of a panel of a packed matrix, per dtype; see `products`. None where there are no kernels.
    tiles : whether the backend computes a loop over lanes many at a time; see `tiling`. None for a backend that has
        no use for it.
    """
    with listening() as notes:
        program = _lowered_at_last(rewrite_for_native(graph, optimistic), knows, optimistic, panels, tiles)
    return replace(program, notes=tuple(notes))


def _lowered_at_last(
    graph: Graph,
    knows: Knows | None,
    optimistic: bool,
    panels: Mapping[str, int] | None,
    tiles: Callable[[For], bool] | None,
) -> Program:
    """The loop nest of a graph, tried until it is known what has to be called out for, and left undivided."""
    called_out: set[Node] = set()
    whole: set[Node] = set()
    untiled: set[Node] = set()
    while True:
        nest = Nest(knows, optimistic, called_out, whole, panels, tiles, untiled)
        try:
            return _lowered(graph, nest)
        except GaveUpMidwayError as error:
            called_out.add(error.node)
        except NotDivisibleError as error:
            whole.add(error.node)
        except NotTiledError as error:
            untiled.add(error.node)


def _lowered(graph: Graph, nest: Nest) -> Program:
    arguments, results = nest.var("arguments", "ptr"), nest.var("results", "ptr")
    names: dict[Expr, str] = {}
    params = _read_params(nest, graph, arguments, names)
    block = Block(nest, graph, params)
    word = 0
    for held in _held(nest, block.lower(graph)):
        for axis, size in enumerate(held.sizes):
            nest.emit_store(results, nest.const(word + 1 + axis), size)
        assert held.memory is not None
        nest.keep(held.memory.pointer, word)
        word += 1 + held.ndim
    return Program(graph, nest, arguments, results, share_places(nest), names)


def labels(graph: Graph) -> list[str]:
    """A name of each param that no other one has."""
    names = [p.name for p in graph.params]
    return [n if n and names.count(n) == 1 else f"input {k}" for k, n in enumerate(names)]


def _held(nest: Nest, values: list[Array]) -> list[Array]:
    """Results in memory that the caller can have, copied where it is not theirs alone."""
    held, copies = [], []
    taken: set[Expr] = set()
    for value in values:
        memory = value.memory
        if memory is None or not memory.fresh or memory.pointer in taken or not nest.can_keep(memory.pointer):
            copies.append((new_array(nest, value.dtype, value.sizes), value))
            value = copies[-1][0]
        assert value.memory is not None
        taken.add(value.memory.pointer)
        held.append(value)
    copy_all(nest, copies)
    return held


def _read_params(nest: Nest, graph: Graph, arguments: Var, names: dict[Expr, str]) -> dict[Node, Array]:
    word = 0
    params: dict[Node, Array] = {}

    def next_word(dtype: str) -> Expr:
        nonlocal word
        value = nest.let(nest.load(arguments, nest.const(word), dtype), "word")
        word += 1
        return value

    for label, p in zip(labels(graph), graph.params, strict=True):
        pointer = next_word("ptr")
        given = [nest.integers.count(next_word("int64")) for _ in range(p.type.ndim)]
        names.update((g, f"{label}.shape[{axis}]") for axis, g in enumerate(given))
        sizes = [g if s is None else nest.const(s) for g, s in zip(given, p.type.shape, strict=True)]
        if not sizes:
            params[p] = scalar(nest.let(nest.load(pointer, nest.const(0), p.type.dtype), p.name or "param"))
            names[params[p].at([])] = label
            continue
        region = Memory(pointer, nest.const(0), contiguous_strides(nest, sizes))
        params[p] = in_memory(nest, p.type.dtype, sizes, region)
    return params
