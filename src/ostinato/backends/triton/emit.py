"""The text of a kernel: one program's share of a loop, all steps of it.

A value of the body is, per element of its unrolled axes, one tile over its other axes, in the order of its
dimensions. Params are read and results written through pointers and strides, which come with each launch,
as do the number of steps and the sizes of parallel axes: one kernel serves all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ostinato.backends.triton import scalars
from ostinato.backends.triton.axes import Axes, Axis
from ostinato.backends.triton.slices import is_elementwise, read_ranges
from ostinato.backends.triton.unsplit import UnsplitError
from ostinato.graph import Node
from ostinato.ops.leaf import CONSTANT
from ostinato.ops.loop import LoopSpec, body_of
from ostinato.ops.op import OPS

# Bytes of weights that a program holds for the whole loop; more are read again at every step.
_RESIDENT = 200 * 1024
# Elements of the largest tile.
_LARGEST = 1 << 15
# States of so many columns and more, and those whose weights one program cannot hold, are shared out among
# programs, which exchange their columns at every step.
_SPREAD_FROM = 256
# So many elements of the inner axis of a product go into one instruction of a kernel that exchanges columns.
_INNER = 128
# Up to so many rows a product is better computed without tensor cores, which take 16 at a time.
_FEW_ROWS = 4


@dataclass(frozen=True)
class Access:
    """An array that a kernel reads or writes.

    Attributes
    ----------
    name : of its pointer param; strides are `{name}_s0`, ... per dimension and `{name}_t` per step.
    kind : "sequence", "carry", "invariant", "constant", "final" or "output".
    number : which of its kind.
    axes : of a row.
    stepped : whether there is one row per step.
    """

    name: str
    kind: str
    number: int
    axes: tuple[Axis, ...]
    stepped: bool

    @property
    def ndim(self) -> int:
        return len(self.axes)

    def strides(self, strided: Collection[str]) -> list[str]:
        """The names of the strides that come with each launch."""
        own = [f"s{d}" for d in range(self.ndim)] if self.name in strided else []
        return ["t", *own] if self.stepped else own


@dataclass
class Kernel:
    """The text of a kernel and how to launch it.

    Attributes
    ----------
    accesses : the arrays, in the order of params.
    sizes : per parallel axis its size and how many of it a program takes, last axis fastest.
    strided : names of the accesses whose strides come with each launch.
    exchanges : for programs that exchange parts at every step, the sizes of what they exchange, in the order of its
        accesses: float32, twice, for even and for odd steps.
    constants : arrays that the kernel reads beside the loop's own.
    """

    text: str
    accesses: list[Access]
    sizes: list[tuple[Axis, int]]
    warps: int
    stages: int
    has_until: bool
    strided: frozenset[str] = frozenset()
    exchanges: list[tuple[int, int]] = field(default_factory=list)
    constants: list[np.ndarray[Any, Any]] = field(default_factory=list)
    description: str = ""

    @property
    def programs(self) -> int:
        """How many programs share out the parallel axes."""
        return math.prod(-(-a.size // block) for a, block in self.sizes)


@dataclass
class Value:
    """Tiles by the unrolled dimensions of a node; names are texts of Triton expressions."""

    axes: tuple[Axis, ...]
    tiles: Any  # an object array of texts, one dimension per unrolled dimension

    @property
    def tiled(self) -> list[int]:
        """The dimensions that are dimensions of the tiles."""
        return [d for d, a in enumerate(self.axes) if a.kind != "unrolled"]


class Emitter:
    """Writes the kernel of a Loop whose body has static types.

    Parameters
    ----------
    precision : of products of matrices: "ieee", "tf32" or "bf16".
    interpreted : whether the text is for Triton's interpreter.
    processors : how many programs run at the same time for certain.
    strided : names of the accesses whose rows are not contiguous, so that their strides come with each launch.
    """

    def __init__(
        self,
        spec: LoopSpec,
        precision: str,
        interpreted: bool,
        processors: int = 132,
        strided: Collection[str] = (),
    ) -> None:
        self.spec, self.body, self.axes = spec, body_of(spec), Axes(spec)
        self.precision, self.interpreted, self.processors = precision, interpreted, processors
        self.strided = frozenset(strided)
        self.values: dict[Node, Value] = {}
        self.before: list[str] = []
        self.inside: list[str] = []
        self.lines = self.before
        self.count = itertools.count()
        self.accesses: list[Access] = []
        self.constants: list[np.ndarray[Any, Any]] = []
        self.offsets: dict[Any, str] = {}
        self.exchanged: dict[Node, Access] = {}
        self.offered: dict[Node, int] = {}
        self.gathered: dict[Node, list[str]] = {}
        self.waits = 0
        self.spread: Axis | None = None
        self.products = {n for n in spec.body.nodes() if self._by_tensor_cores(n)}
        self.uses_dot = bool(self.products)
        self.blocks = self._choose_blocks()
        self._check_sizes()

    # ---- blocks ----

    def _choose_blocks(self) -> dict[Axis, int]:
        parallel = self.axes.parallel
        if not parallel:
            return {}
        rows = [a for a in parallel if a.rows]
        blocks = dict.fromkeys(parallel, 1)
        main = rows[0] if rows else self._fastest(parallel)
        whole = max((self._local_elements(n) for n in self.spec.body.nodes()), default=1)
        if self.uses_dot and (shared := self._choose_spread(main)):
            return shared
        if self.uses_dot:
            blocks[main] = 16
        elif whole > 1:
            blocks[main] = max(1, min(32, 2048 // whole))
        else:
            lanes = 32 if main.size <= 1 << 16 else 128
            for axis in dict.fromkeys([main, *reversed(parallel)]):
                blocks[axis] = lanes if len(parallel) == 1 else min(axis.padded, lanes)
                lanes //= blocks[axis]
        return blocks

    def _choose_spread(self, rows: Axis) -> dict[Axis, int] | None:
        """Blocks of rows and of columns where the state is shared out along the axis of its products too."""
        axis = self.axes.to_be_spread(self.spec)
        if axis is None or (self._resident() and axis.size < _SPREAD_FROM):
            return None
        few = rows.size <= _FEW_ROWS
        for columns in (8, 16) if few else (16, 32, 64):
            for block in (rows.padded,) if few else (16, 32, 64):
                if -(-rows.size // block) * -(-axis.size // columns) <= self.processors:
                    axis.kind, axis.spread, self.spread = "parallel", True, axis
                    return {rows: block, axis: columns}
        return None

    def _fastest(self, parallel: Sequence[Axis]) -> Axis:
        """The axis that lies closest in memory."""
        votes = dict.fromkeys(parallel, 0)
        for p in [*self.spec.body.params, *self.body.outputs]:
            own = [a for a in self.axes.of(p) if a.kind == "parallel"]
            if own:
                votes[own[-1]] += math.prod(p.type.shape)
        return max(votes, key=lambda a: (votes[a], a.size))

    def _local_elements(self, node: Node) -> int:
        return math.prod(a.padded for a in self.axes.of(node) if a.kind == "local")

    def _check_sizes(self) -> None:
        for node in [*self.spec.body.params, *self.spec.body.nodes()]:
            if self.spread and self.axes.of(node).count(self.spread) > 1:
                continue
            if math.prod(self._extent(a) for a in self.axes.of(node) if a.kind != "unrolled") > _LARGEST:
                raise UnsplitError("an array is too large for a tile")
            if math.prod(a.size for a in self.axes.of(node) if a.kind == "unrolled") > 64:
                raise UnsplitError("an array has too many elements to be unrolled")

    def _extent(self, axis: Axis) -> int:
        return axis.padded if axis.kind == "local" else self.blocks[axis]

    def _warps(self) -> int:
        largest = max(
            (math.prod(self._extent(a) for a in self.axes.of(n) if a.kind != "unrolled") for n in self.spec.body.nodes()),
            default=1,
        )
        if self.spread:
            return 8 if self._by_rows() or max(self.blocks.values()) > 32 else 4
        if self.uses_dot:
            widest = max((a.padded for a in self.axes.all if a.kind == "local"), default=1)
            return max(4, min(16, widest // 8))  # tensor cores make 8 columns at a time
        return max(1, min(8, largest // 256 if largest > 128 else largest // 32))

    # ---- text ----

    def kernel(self) -> Kernel:
        self._inputs()
        self._loop()
        sizes = [(a, self.blocks[a]) for a in self.axes.parallel]
        return Kernel(
            self._module(sizes), self.accesses, sizes, self._warps(), 1 if self.uses_dot else 3, self.spec.has_until,
            self.strided, self._exchanges(), self.constants,
            self._description(sizes),
        )  # fmt: skip

    def _exchanges(self) -> list[tuple[int, int]]:
        found = []
        for node, access in self.exchanged.items():
            assert self.spread is not None
            rows = self.axes.of(node)[0].size
            columns = -(-self.spread.size // self.blocks[self.spread])
            found.append((rows, self.spread.size) if access.kind == "exchange" else (columns, rows))
        return found

    def _description(self, sizes: Sequence[tuple[Axis, int]]) -> str:
        shared = " x ".join(f"{a.size} in blocks of {b}" for a, b in sizes) or "one program"
        local = sorted({a.size for a in self.axes.all if a.kind == "local"})
        kind = "row-parallel" if self.uses_dot else "lane-parallel"
        if self.spread:
            return f"one kernel for all steps whose programs exchange their columns at every step ({shared})"
        held = f", axes of {', '.join(map(str, local))} held by each program" if local else ""
        return f"one {kind} kernel for all steps ({shared}{held})"

    def _module(self, sizes: Sequence[tuple[Axis, int]]) -> str:
        params = [a.name for a in self.accesses]
        params += [f"{a.name}_{s}" for a in self.accesses for s in a.strides(self.strided)]
        params += [f"n{a.number}" for a, _ in sizes]
        params += ["arrivals"] if self.spread else []
        params += ["status", "T", "FIRST", "ZERO"] if self.spec.has_until else ["T", "FIRST", "ZERO"]
        head = ["import triton", "import triton.language as tl"]
        head += [scalars.INTERPRETED] if self.interpreted else ["from triton.language.extra import libdevice"]
        if any(n.op is OPS["tanh"] for n in self.spec.body.nodes()):
            head.append(scalars.TANH)
        if any(n.op is OPS["prod"] for n in self.spec.body.nodes()):
            head.append(_PRODUCT_OF)
        lines = [*head, "", "", '@triton.jit(do_not_specialize=["T", "FIRST"])', f"def loop({', '.join(params)}):"]
        body = [*self._places(sizes), *self.before]
        if self.spread:
            body.insert(0, f"WAITS = {self.waits}")
        return "\n".join([*lines, *["    " + line for line in [*body, *self.inside]]]) + "\n"

    def _places(self, sizes: Sequence[tuple[Axis, int]]) -> list[str]:
        """Where the program's share of each axis lies, and strides that follow from sizes."""
        lines = [line for a in self.accesses if a.name not in self.strided for line in self._contiguous(a)]
        lines.append("rest = tl.program_id(0)")
        for k, (a, block) in reversed(list(enumerate(sizes))):
            n = f"n{a.number}"
            mine = "rest" if k == 0 else f"rest % tl.cdiv({n}, {block})"
            lines.append(f"b{a.number} = {mine}")
            lines.append(f"i{a.number} = b{a.number}.to(tl.int64) * {block} + tl.arange(0, {block})")
            lines.append(f"m{a.number} = i{a.number} < {n}")
            if k:
                lines.append(f"rest = rest // tl.cdiv({n}, {block})")
        if self.spread:
            lines.append(f"inner = tl.arange(0, {self._chunk()})")
        for a in self.axes.all:
            if a.kind == "local":
                lines.append(f"i{a.number} = tl.arange(0, {a.padded})")
                if a.padded != a.size:
                    lines.append(f"m{a.number} = i{a.number} < {a.size}")
        return lines

    def _contiguous(self, access: Access) -> list[str]:
        """The strides of contiguous rows."""
        lines, stride, factors = [], 1, ""
        for d in reversed(range(access.ndim)):
            lines.append(f"{access.name}_s{d} = {stride}{factors}")
            axis = access.axes[d]
            if axis.kind == "parallel":
                factors += f" * n{axis.number}"
            else:
                stride *= axis.size
        return lines

    def put(self, expression: str, name: str = "v") -> str:
        """Name the value of an expression."""
        var = f"{name}{next(self.count)}"
        self.lines.append(f"{var} = {expression}")
        return var

    # ---- params ----

    def _access(self, kind: str, number: int, node: Node, stepped: bool) -> Access:
        access = Access(f"{kind}{number}", kind, number, self.axes.of(node), stepped)
        self.accesses.append(access)
        return access

    def _inputs(self) -> None:
        body = self.body
        for kind, nodes in (("invariant", body.invariants), ("carry", body.carries)):
            for number, node in enumerate(nodes):
                access = self._access(kind, number, node, False)
                if kind == "invariant" and self._is_weight(node) and not self._resident():
                    self.values[node] = Value(self.axes.of(node), access)
                elif kind == "invariant" and self._is_weight(node) and self.spread:
                    parts = np.array([self._columns(access, node, start) for start in self._chunks()], object)
                    self.values[node] = Value(self.axes.of(node), parts)
                else:
                    self.values[node] = self._loaded(access, node)
        for number, node in enumerate(body.sequences):
            self._access("sequence", number, node, True)

    def _is_weight(self, node: Node) -> bool:
        axes = self.axes.of(node)
        return len(axes) == 2 and all(a.kind == "local" or a is self.spread for a in axes)

    def _resident(self) -> bool:
        """Whether a program can hold all the matrices that its steps read."""
        width = {"bf16": 2, "tf32": 4, "ieee": 8}[self.precision]
        if self.spread and self._by_rows():
            width = 4
        weights = [w for w in self.body.invariants if self._is_weight(w)]
        if self.spread:
            return len(weights) * self.spread.padded * self.blocks[self.spread] * width <= _RESIDENT
        return sum(self._local_elements(w) for w in weights) * width <= _RESIDENT

    def _loaded(self, access: Access, node: Node, at: str = "") -> Value:
        axes = self.axes.of(node)
        tiles = self._tiles(axes)
        dtype = node.type.dtype
        for index in np.ndindex(tiles.shape):
            place, mask = self._place(access, axes, index)
            options = f", mask={mask}, other=0" if mask else ""
            loaded = f"tl.load({access.name}{at}{place}{options})"
            loaded += ".to(tl.int1)" if dtype == "bool" else ""
            if self._is_weight(node) and self.precision == "bf16" and self._feeds_dots_only(node):
                loaded += ".to(tl.bfloat16)"
            tiles[index] = self.put(loaded, f"of_{access.name}_")
        return Value(axes, tiles)

    def _feeds_dots_only(self, node: Node) -> bool:
        users = [n for n in self.spec.body.nodes() if node in n.inputs]
        return all(self._by_tensor_cores(n) for n in users)

    def _tiles(self, axes: Iterable[Axis]) -> Any:
        return np.empty([a.size for a in axes if a.kind == "unrolled"], object)

    def _place(self, access: Access, axes: Sequence[Axis], index: Sequence[int]) -> tuple[str, str]:
        """The offset of a tile of an array, as text to be added to its pointer, and the mask of what exists of it."""
        key = (access.name, tuple(index))
        tiled = [a for a in axes if a.kind != "unrolled"]
        masks = [f"m{a.number}{_expand(k, len(tiled))}" for k, a in enumerate(tiled) if self._has_mask(a)]
        if key not in self.offsets:
            unrolled, terms, k = iter(index), [], 0
            for d, a in enumerate(axes):
                if a.kind == "unrolled":
                    i = next(unrolled)
                    terms += [f"{i} * {access.name}_s{d}"] if i else []
                else:
                    terms.append(f"i{a.number}{_expand(k, len(tiled))} * {access.name}_s{d}")
                    k += 1
            self.offsets[key] = ""
            if terms:
                name = f"o{next(self.count)}"
                self.before.append(f"{name} = {' + '.join(terms)}")
                self.offsets[key] = f" + {name}"
        return self.offsets[key], " & ".join(f"({m})" for m in masks) if len(masks) > 1 else "".join(masks)

    def _has_mask(self, axis: Axis) -> bool:
        return axis.kind == "parallel" or axis.padded != axis.size

    # ---- the loop ----

    def _loop(self) -> None:
        body, until = self.body, self.spec.has_until
        carried = [(c, self.values[c]) for c in body.carries]
        names = []
        for k, (c, value) in enumerate(carried):
            fresh = self._tiles(value.axes)
            for index in np.ndindex(fresh.shape):
                fresh[index] = f"state{k}_{'_'.join(map(str, index))}"
                self.before.append(f"{fresh[index]} = {value.tiles[index]}")
            self.values[c] = Value(value.axes, fresh)
            names.append(fresh)
        self.lines = self.inside
        ahead = self._first_rows()
        if until:
            self.lines += ["t = tl.full((), 0, tl.int64)", "going = T > t", "keep = T >= t", "while going:"]
        else:
            self.lines.append("for t in range(T):")
        outer, self.lines = self.lines, []
        self.lines.append("at = tl.cast(t, tl.int64)")
        self._rows(ahead)
        self.lines.append("step = at + FIRST")
        self.values[body.t] = Value((), np.array("step", object).reshape(()))
        for node in self._order():
            if node not in self.values:
                self.values[node] = self._emitted(node)
            for offered in self._to_be_offered(node):
                self._offer(offered)
        self._record()
        self._advance(names)
        if until:
            keep = self.values[body.keep_going].tiles[()]
            self.lines += ["t = t + 1", f"keep = {keep} != 0", "going = (t < T) & keep"]
        outer += ["    " + line for line in self.lines]
        self.lines = outer
        for k, (c, value) in enumerate(zip(body.carries, names, strict=True)):
            self._stored(self._access("final", k, c, False), Value(self.axes.of(c), value), c.type.dtype)
        if until:
            self.lines += ["tl.store(status, t)", "tl.store(status + 1, tl.where(keep, 1, 0).to(tl.int64))"]
        self.inside = self.lines

    def _order(self) -> list[Node]:
        """All nodes, inputs before users; where programs wait for each other, what does not wait comes first."""
        nodes = self.spec.body.nodes()
        if not self.spread:
            return nodes
        level: dict[Node, int] = {}
        for node in nodes:
            waits = node in self.products or self._is_exchanged_sum(node)
            level[node] = max((level[i] for i in node.inputs), default=0) + waits
            if waits:
                self._exchange(node.inputs[0] if node in self.products else node, node in self.products)
        return sorted(nodes, key=level.__getitem__)

    def _first_rows(self) -> list[tuple[Access, Any]]:
        """Rows of the first steps, read before the loop: the kernel reads ahead of what it works on."""
        ahead = []
        by_number = {a.number: a for a in self.accesses if a.kind == "sequence"}
        for number, node in enumerate(self.body.sequences):
            rows = []
            for k in range(self._distance()):
                at = f" + tl.minimum({k}, T - 1).to(tl.int64) * {by_number[number].name}_t"
                rows.append(self._ahead(by_number[number], node, at, f"ahead{number}_{k}"))
            ahead.append((by_number[number], rows))
        return ahead

    def _distance(self) -> int:
        """How many steps a kernel reads ahead."""
        if self.spec.has_until or not self.body.sequences:
            return 1
        n = sum(self._tiles(self.axes.of(s)).size for s in self.body.sequences)
        return 1 if self.uses_dot else max(1, min(6, 24 // n))

    def _ahead(self, access: Access, node: Node, at: str, name: str) -> Any:
        axes = self.axes.of(node)
        tiles = self._tiles(axes)
        for index in np.ndindex(tiles.shape):
            place, mask = self._place(access, axes, index)
            var = f"{name}_{'_'.join(map(str, index))}"
            options = f", mask={mask}, other=0" if mask else ""
            loaded = f"tl.load({access.name}{at}{place}{options})"
            self.lines.append(f"{var} = {loaded}{'.to(tl.int1)' if node.type.dtype == 'bool' else ''}")
            tiles[index] = var
        return tiles

    def _rows(self, ahead: Sequence[tuple[Access, Any]]) -> None:
        """The rows of this step; those that follow move up by one, and the furthest is read."""
        for number, (node, (access, rows)) in enumerate(zip(self.body.sequences, ahead, strict=True)):
            now = self._tiles(self.axes.of(node))
            for index in np.ndindex(now.shape):
                now[index] = self.put(rows[0][index], "x")
                for k in range(len(rows) - 1):
                    self.lines.append(f"{rows[k][index]} = {rows[k + 1][index]}")
            at = f" + tl.minimum(at + {len(rows)}, T - 1) * {access.name}_t"
            self._ahead(access, node, at, f"ahead{number}_{len(rows) - 1}")
            self.values[node] = Value(self.axes.of(node), now)

    def _record(self) -> None:
        for j, y in enumerate(self.body.outputs):
            access = self._access("output", j, y, True)
            self._stored(access, self.values[y], y.type.dtype, f" + at * {access.name}_t")

    def _stored(self, access: Access, value: Value, dtype: str, at: str = "") -> None:
        for index in np.ndindex(value.tiles.shape):
            place, mask = self._place(access, value.axes, index)
            options = f", mask={mask}" if mask else ""
            tile = self.typed(value, index, dtype)
            tile = f"({tile}).to(tl.int8)" if dtype == "bool" else tile
            self.lines.append(f"tl.store({access.name}{at}{place}, {tile}{options})")

    def _advance(self, names: Sequence[Any]) -> None:
        """All new carries first, then all at once in the place of the old ones."""
        moves = []
        for node, carry, fresh in zip(self.body.next_carries, self.body.carries, names, strict=True):
            value = self.values[node]
            for index in np.ndindex(fresh.shape):
                moves.append((fresh[index], self.put(self.typed(value, index, carry.type.dtype), "next")))
        self.lines += [f"{old} = {new}" for old, new in moves]

    def typed(self, value: Value, index: Any, dtype: str) -> str:
        """A tile in full shape and of exactly a dtype; literals are neither."""
        tile = value.tiles[index]
        if _is_literal(tile):
            return f"tl.full({self.shape(value.axes)}, {tile}, {scalars.DTYPES[dtype]})"
        return tile

    def shape(self, axes: Iterable[Axis]) -> str:
        """The shape of a tile over axes."""
        return "[" + ", ".join(str(self._extent(a)) for a in axes if a.kind != "unrolled") + "]"

    # ---- ops ----

    def _emitted(self, node: Node) -> Value:
        if node.op is CONSTANT:
            return self._constant(node)
        if is_elementwise(node):
            return self._elementwise(node)
        if node.op.name in _REDUCTIONS:
            return self._reduction(node)
        return _RULES[node.op.name](self, node)

    def _constant(self, node: Node) -> Value:
        array, axes = node.params[0].array, self.axes.of(node)
        tiles = self._tiles(axes)
        if (array.size and (array == array.flat[0]).all()) or (array.size and np.isnan(array.flat[0]) and np.isnan(array).all()):
            tiles.fill(_literal(array.flat[0]))
            return Value(axes, tiles)
        if all(a.kind == "unrolled" for a in axes):
            for index in np.ndindex(tiles.shape):
                tiles[index] = _literal(array[index])
            return Value(axes, tiles)
        access = self._access("constant", len(self.constants), node, False)
        self.constants.append(array)
        inside, self.lines = self.lines, self.before
        value = self._loaded(access, node)
        self.lines = inside
        return value

    def operand(self, x: Node, out_axes: Sequence[Axis], index: Sequence[int]) -> str:
        """The tile of an operand that meets the tile `index` of a result, with its dimensions where they belong."""
        value = self.values[x]
        lead = len(out_axes) - len(value.axes)
        place = {d: i for d, i in zip((d for d, a in enumerate(out_axes) if a.kind == "unrolled"), index, strict=True)}
        own = []
        for d, a in enumerate(value.axes):
            if a.kind == "unrolled":
                own.append(0 if a.size == 1 else place[lead + d])
        tile = value.tiles[tuple(own)]
        tiled = [lead + d for d in value.tiled]
        wanted = [d for d, a in enumerate(out_axes) if a.kind != "unrolled"]
        if tiled == wanted or not tiled or _is_literal(tile):
            return tile
        return f"{tile}[{', '.join(':' if d in tiled else 'None' for d in wanted)}]"

    def _elementwise(self, node: Node) -> Value:
        axes = self.axes.of(node)
        tiles = self._tiles(axes)
        for index in np.ndindex(tiles.shape):
            operands = [self.operand(i, axes, index) for i in node.inputs]
            tiles[index] = self.apply(node, operands)
        return Value(axes, tiles)

    def apply(self, node: Node, operands: Sequence[str]) -> str:
        """An elementwise operation on tiles."""
        name, dtype = node.op.name, node.inputs[-1].type.dtype
        if name == "cast":
            return self._cast(operands[0], node.inputs[0].type.dtype, node.type.dtype)
        if name == "logaddexp":
            return self._logaddexp(*operands)
        if name == "true_div" and dtype not in ("float16", "float32", "float64"):
            raise UnsplitError("a quotient of integers within a kernel")
        template = scalars.text(name, dtype, self.interpreted)
        if template is None:
            raise UnsplitError(f"{name} of {dtype} within a kernel")
        if all(map(_is_literal, operands)):
            operands = [f"tl.full((), {operands[0]}, {scalars.DTYPES[node.inputs[0].type.dtype]})", *operands[1:]]
        return self.put(template.format(*operands, type=scalars.DTYPES[dtype]))

    def _cast(self, x: str, source: str, target: str) -> str:
        if _is_literal(x):
            return self.put(f"tl.full((), {x}, {scalars.DTYPES[target]})")
        if target == "bool":
            return self.put(f"{x} != 0")
        return self.put(f"{x}.to({scalars.DTYPES[target]})")

    def _logaddexp(self, a: str, b: str) -> str:
        log1p = "interpreted_log1p" if self.interpreted else "libdevice.log1p"
        high = self.put(f"tl.maximum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)")
        low = self.put(f"tl.minimum({a}, {b}, propagate_nan=tl.PropagateNan.ALL)")
        return self.put(f"tl.where({high} == {low}, {high} + 0.6931471805599453, {high} + {log1p}(tl.exp({low} - {high})))")

    def _reduction(self, node: Node) -> Value:
        x, over = node.inputs[0], node.params[0]
        value, axes = self.values[x], self.axes.of(node)
        name, dtype = node.op.name, x.type.dtype
        if self._is_exchanged_sum(node):
            return self._exchanged_sum(node)
        tiles = self._tiles(axes)
        kept_unrolled = [d for d, a in enumerate(value.axes) if a.kind == "unrolled" and d not in over]
        for index in np.ndindex(tiles.shape):
            place = dict(zip(kept_unrolled, index, strict=True))
            choices = [
                [place[d]] if d in place else range(a.size) for d, a in enumerate(value.axes) if a.kind == "unrolled"
            ]
            found = [self._reduced_tile(value, i, over, name, dtype) for i in itertools.product(*choices)]
            result = found[0]
            for other in found[1:]:
                result = self.put(_COMBINE[name].format(result, other))
            tiles[index] = result
        return Value(axes, tiles)

    def _reduced_tile(self, value: Value, index: Any, over: Sequence[int], name: str, dtype: str, masked: bool = False) -> str:
        tile, tiled = value.tiles[index], value.tiled
        along = [k for k, d in enumerate(tiled) if d in over]
        if not along:
            return tile
        tile = self.typed(value, index, dtype)
        masks = [f"m{value.axes[tiled[k]].number}{_expand(k, len(tiled))}" for k in along if masked or self._has_mask(value.axes[tiled[k]])]
        if masks:
            tile = self.put(f"tl.where({' & '.join(masks)}, {tile}, {_neutral(name, dtype)})")
        for k in reversed(along):
            tile = self.put(_REDUCTIONS[name].format(tile, k))
        if name in ("any", "all"):
            tile = self.put(f"{tile} != 0")
        return tile

    def _broadcast(self, node: Node) -> Value:
        axes = self.axes.of(node)
        tiles = self._tiles(axes)
        for index in np.ndindex(tiles.shape):
            tile = self.operand(node.inputs[0], axes, index)
            if not _is_literal(tile) and self.values[node.inputs[0]].tiled != [
                d for d, a in enumerate(axes) if a.kind != "unrolled"
            ]:
                tile = self.put(f"tl.broadcast_to({tile}, {self.shape(axes)})")
            tiles[index] = tile
        return Value(axes, tiles)

    def _dimshuffle(self, node: Node) -> Value:
        value, axes, order = self.values[node.inputs[0]], self.axes.of(node), node.params[0]
        old = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"]
        new = [d for d, a in enumerate(axes) if a.kind == "unrolled"]
        tiles = self._tiles(axes)
        for index in np.ndindex(tiles.shape):
            place = {order[d]: i for d, i in zip(new, index, strict=True)}
            tile = value.tiles[tuple(place.get(d, 0) for d in old)]
            tiles[index] = tile if _is_literal(tile) else self._shuffled(tile, value, node)
        return Value(axes, tiles)

    def _shuffled(self, tile: str, value: Value, node: Node) -> str:
        """A tile with its dimensions in another order; those of one row come and go."""
        axes, order = self.axes.of(node), node.params[0]
        kept = [d for d in value.tiled if d in order]
        for k in reversed([k for k, d in enumerate(value.tiled) if d not in order]):
            mask = f"m{value.axes[value.tiled[k]].number}{_expand(k, len(value.tiled))}"
            tile = self.put(f"tl.sum(tl.where({mask}, {tile}, 0), axis={k}).to({scalars.DTYPES[node.type.dtype]})")
        moved = [kept.index(o) for o in order if o != "x" and o in kept]
        if moved != sorted(moved):
            tile = self.put(f"tl.permute({tile}, {moved})")
        tiled = [d for d, a in enumerate(axes) if a.kind != "unrolled"]
        if any(order[d] == "x" for d in tiled):
            shown = ", ".join("None" if order[d] == "x" else ":" for d in tiled)
            tile = self.put(f"tl.broadcast_to({tile}{f'[{shown}]' if kept else ''}, {self.shape(axes)})")
        return tile

    def _reshape(self, node: Node) -> Value:
        value, axes = self.values[node.inputs[0]], self.axes.of(node)
        if [a for a in value.axes if a.size != 1] == [a for a in axes if a.size != 1] and len(
            value.tiled
        ) == sum(a.kind != "unrolled" for a in axes):
            return Value(axes, value.tiles.reshape(self._tiles(axes).shape))
        if value.tiled:
            raise UnsplitError("a reshape of a large array within a kernel")
        return Value(axes, value.tiles.reshape(node.type.shape))

    def _subtensor(self, node: Node) -> Value:
        value, axes = self.values[node.inputs[0]], self.axes.of(node)
        ranges = read_ranges(node, 1)
        if ranges is None:
            return Value(axes, self._dynamic(node, value))
        index = []
        for given, r, a in zip(node.params[0], ranges, value.axes, strict=True):
            if a.kind == "unrolled":
                taken = list(range(a.size))[_slice(r)]
                index.append(taken[0] if given is None else taken)
        tiles = value.tiles
        for k in reversed(range(len(index))):
            tiles = np.take(tiles, index[k], axis=k)
        return Value(axes, np.asarray(tiles, object).reshape(self._tiles(axes).shape))

    def _dynamic(self, node: Node, value: Value) -> Any:
        """An element at a position that changes from step to step: chosen among all."""
        values = iter(node.inputs[1:])
        tiles, axis = value.tiles, 0
        for given, a in zip(node.params[0], value.axes, strict=True):
            if a.kind != "unrolled":
                continue
            if given is not None:
                axis += 1
                continue
            position = self._wrapped(self.values[next(values)].tiles[()], a.size)
            parts = [np.take(tiles, i, axis=axis) for i in range(a.size)]
            tiles = self._chosen(position, parts)
        return np.asarray(tiles, object)

    def _wrapped(self, position: str, size: int) -> str:
        return self.put(f"tl.where({position} < 0, {position} + {size}, {position})")

    def _chosen(self, position: str, parts: Sequence[Any]) -> Any:
        result = np.empty(np.shape(parts[0]), object)
        for index in np.ndindex(result.shape):
            tile = np.asarray(parts[0], object)[index]
            for k, part in enumerate(parts[1:], 1):
                tile = self.put(f"tl.where({position} == {k}, {np.asarray(part, object)[index]}, {tile})")
            result[index] = tile
        return result

    def _write(self, node: Node) -> Value:
        x, y = node.inputs[:2]
        value, axes = self.values[x], self.axes.of(node)
        tiles = value.tiles.copy()
        ranges = read_ranges(node, 2)
        positions = iter(node.inputs[2:])
        choices: list[Any] = []
        dynamic: list[tuple[int, str]] = []
        for d, (given, a) in enumerate(zip(node.params[0], value.axes, strict=True)):
            if a.kind != "unrolled":
                choices.append(None)
            elif ranges is not None:
                taken = list(range(a.size))[_slice(ranges[d])]
                choices.append(taken)
            elif given is None:
                dynamic.append((d, self._wrapped(self.values[next(positions)].tiles[()], a.size)))
                choices.append(list(range(a.size)))
            else:
                choices.append(list(range(a.size)))
        unrolled = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"]
        kept = [d for d, given in enumerate(node.params[0]) if given is not None]
        part_axes = [value.axes[d] for d in kept]
        adds = node.op.name == "inc_subtensor"
        for counter in itertools.product(*[range(len(choices[d])) for d in unrolled]):
            place = dict(zip(unrolled, counter, strict=True))
            target = tuple(choices[d][place[d]] for d in unrolled)
            source = [place[d] for d in kept if d in place]
            tile = self._part_tile(y, part_axes, source)
            old = tiles[target]
            new = self.put(f"{old} + {tile}") if adds else tile
            for d, position in dynamic:
                hit = target[unrolled.index(d)]
                new = self.put(f"tl.where({position} == {hit}, {new}, {old})")
            tiles[target] = self._full(new, axes)
        return Value(axes, tiles)

    def _part_tile(self, y: Node, part_axes: Sequence[Axis], index: Sequence[int]) -> str:
        return self.operand(y, part_axes, index)

    def _full(self, tile: str, axes: Sequence[Axis]) -> str:
        return tile if _is_literal(tile) or all(a.kind == "unrolled" for a in axes) else self.put(
            f"tl.broadcast_to({tile}, {self.shape(axes)})"
        )

    def _concatenate(self, node: Node) -> Value:
        axes = self.axes.of(node)
        unrolled = [d for d, a in enumerate(axes) if a.kind == "unrolled"]
        where = unrolled.index(node.params[0])
        return Value(axes, np.concatenate([self.values[i].tiles for i in node.inputs], axis=where))

    def _cumsum(self, node: Node) -> Value:
        value = self.values[node.inputs[0]]
        where = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"].index(node.params[0])
        tiles = np.moveaxis(value.tiles.copy(), where, 0)
        for k in range(1, len(tiles)):
            for index in np.ndindex(tiles.shape[1:]):
                tiles[(k, *index)] = self.put(f"{tiles[(k - 1, *index)]} + {tiles[(k, *index)]}")
        return Value(value.axes, np.moveaxis(tiles, 0, where))

    def _position(self, node: Node) -> Value:
        """The first largest or least element's place along an unrolled axis."""
        value, axes = self.values[node.inputs[0]], self.axes.of(node)
        where = [d for d, a in enumerate(value.axes) if a.kind == "unrolled"].index(node.params[0])
        parts = np.moveaxis(value.tiles, where, 0)
        tiles = self._tiles(axes)
        better = "(({0} > {1}) | (({0} != {0}) & ({1} == {1})))" if node.op.name == "argmax" else (
            "(({0} < {1}) | (({0} != {0}) & ({1} == {1})))"
        )
        for index in np.ndindex(tiles.shape):
            best = parts[(0, *index)]
            place = "tl.full((), 0, tl.int64)"
            for k in range(1, len(parts)):
                hit = self.put(better.format(parts[(k, *index)], best))
                place = self.put(f"tl.where({hit}, {k}, {place}).to(tl.int64)")
                best = self.put(f"tl.where({hit}, {parts[(k, *index)]}, {best})")
            tiles[index] = self._full(self.put(place) if place.startswith("tl.full") else place, axes)
        return Value(axes, tiles)

    # ---- exchange between programs ----
    #
    # A program writes its part of an array into a slot, waits until all programs with the same rows have, and reads
    # the whole of it. There are two slots, for even and for odd steps: who is a step ahead writes to the other one,
    # and nobody is two steps ahead. All programs must run at the same time.

    def _is_exchanged_sum(self, node: Node) -> bool:
        return bool(self.spread) and node.op.name in _REDUCTIONS and self.spread in self.axes.of(node.inputs[0])

    def _exchange(self, node: Node, whole: bool) -> None:
        """Have a node exchanged: its columns, or what each program makes of its own."""
        if node not in self.exchanged:
            kind = "exchange" if whole else "partial"
            axes = self.axes.of(node)
            if not whole:
                assert self.spread is not None
                axes = (Axis(-(-self.spread.size // self.blocks[self.spread]), "unrolled"), *axes)
            self.exchanged[node] = Access(f"{kind}{len(self.exchanged)}", kind, len(self.exchanged), axes, True)
            self.accesses.append(self.exchanged[node])

    def _offer(self, node: Node) -> None:
        """Write the program's own columns, or what it makes of them, for the others."""
        access = self.exchanged[node]
        self.offered[node] = self.waits
        if access.kind == "partial":
            self._offer_partial(node, access)
        else:
            place, mask = self._place(access, self.axes.of(node), ())
            tile = self.typed(self.values[node], (), "float32")
            self.lines.append(f"tl.store({self._slot(access)}{place}, {tile}, mask={mask})")

    def _to_be_offered(self, node: Node) -> list[Node]:
        """What is exchanged and known as soon as a node is."""
        found = [node] if node in self.exchanged and self.exchanged[node].kind == "exchange" else []
        sums = [n for n, a in self.exchanged.items() if a.kind == "partial" and n.inputs[0] is node]
        return found + sums

    def _offer_partial(self, node: Node, access: Access) -> None:
        x, axis = node.inputs[0], self.spread
        assert axis is not None
        own = self._reduced_tile(self.values[x], (), node.params[0], node.op.name, "float32", masked=True)
        rows = self.axes.of(x)[0].number
        place = f"{self._slot(access)} + b{axis.number} * {access.name}_s0 + i{rows} * {access.name}_s1"
        self.lines.append(f"tl.store({place}, {own}, mask=m{rows})")

    def _slot(self, access: Access) -> str:
        return f"{access.name} + (at % 2) * {access.name}_t"

    def _wait_for(self, node: Node) -> None:
        """Until all programs with the same rows have offered their parts of a node."""
        if self.waits > self.offered[node]:
            return
        self.waits += 1
        rows = next(a.number for a in self.axes.parallel if a.rows)
        assert self.spread is not None
        columns = -(-self.spread.size // self.blocks[self.spread])
        arrived = f"arrivals + b{rows}"
        self.lines += [
            "tl.debug_barrier()",
            f'tl.atomic_add({arrived}, 1, sem="release", scope="gpu")',
            f'while tl.atomic_add({arrived}, 0, sem="acquire", scope="gpu") < (at * WAITS + {self.waits}) * {columns}:',
            "    pass",
            "tl.debug_barrier()",
        ]

    def _chunks(self) -> range:
        """Where the parts begin in which the inner axis of a product is taken."""
        assert self.spread is not None
        return range(0, self.spread.padded, self._chunk())

    def _chunk(self) -> int:
        assert self.spread is not None
        return self.spread.padded if self._by_rows() else min(_INNER, self.spread.padded)

    def _by_rows(self) -> bool:
        """Whether products are computed row by row, without tensor cores."""
        return next(block for axis, block in self.blocks.items() if axis.rows) <= _FEW_ROWS

    def _gathered(self, node: Node) -> list[str]:
        """All columns of an exchanged array, in parts."""
        if node not in self.gathered:
            access, axis = self.exchanged[node], self.spread
            rows = self.axes.of(node)[0].number
            assert axis is not None
            self._wait_for(node)
            row, inner = ("[:, None, None]", "[None, None, :]") if self._by_rows() else ("[:, None]", "[None, :]")
            self.gathered[node] = []
            for start in self._chunks():
                place = f"i{rows}{row} * {access.name}_s0 + (inner{inner} + {start}) * {access.name}_s1"
                mask = f"m{rows}{row} & (inner{inner} + {start} < {axis.size})"
                pointer = f"{self._slot(access)} + {place}"
                self.gathered[node].append(self._read(pointer, mask))
        return self.gathered[node]

    def _read(self, pointer: str, mask: str) -> str:
        """What programs have written, past the cache that multiprocessors have of their own."""
        return self.put(f'tl.load({pointer}, mask={mask}, other=0, cache_modifier=".cg")')

    def _columns(self, access: Access, node: Node, start: int, at: str = "") -> str:
        """The program's columns of a matrix, of which a part of the rows: (rows, columns), or (1, columns, rows)."""
        axis = self.spread
        assert axis is not None
        own, inner = ("[None, :, None]", "[None, None, :]") if self._by_rows() else ("[None, :]", "[:, None]")
        key = ("columns", node, start)
        if key not in self.offsets:
            self.offsets[key] = f"o{next(self.count)}"
            place = f"(inner{inner} + {start}) * {access.name}_s0 + i{axis.number}{own} * {access.name}_s1"
            self.before.append(f"{self.offsets[key]} = {place}")
        mask = f"(inner{inner} + {start} < {axis.size}) & m{axis.number}{own}"
        loaded = f"tl.load({access.name}{at} + {self.offsets[key]}, mask={mask}, other=0)"
        narrow = self.precision == "bf16" and not self._by_rows()
        return self.put(loaded + (".to(tl.bfloat16)" if narrow else ""), "w")

    def _exchanged_product(self, node: Node) -> Value:
        a, b = node.inputs
        held, total = self.values[b].tiles, ""
        for k, (start, x) in enumerate(zip(self._chunks(), self._gathered(a), strict=True)):
            w = self._columns(held, b, start, " + at * ZERO") if isinstance(held, Access) else held[k]
            if self._by_rows():
                total = self.put(f"tl.sum({x} * {w}, axis=2)")
            elif self.precision == "bf16":
                total = self.put(f"tl.dot({x}.to(tl.bfloat16), {w}{', ' + total if total else ''})")
            else:
                more = f", {total}" if total else ""
                total = self.put(f'tl.dot({x}, {w}{more}, input_precision="{self._dot_precision()}")')
        return Value(self.axes.of(node), np.array(total, object).reshape(()))

    def _exchanged_sum(self, node: Node) -> Value:
        """A sum or an extreme over the spread axis: of every program's own, in the order of programs."""
        access, axis = self.exchanged[node], self.spread
        assert axis is not None
        name, x = node.op.name, node.inputs[0]
        rows, columns = self.axes.of(x)[0].number, -(-axis.size // self.blocks[axis])
        self._wait_for(node)
        slot = self._slot(access)
        others = f"tl.arange(0, {1 << (columns - 1).bit_length()})[:, None]"
        pointer = f"{slot} + {others} * {access.name}_s0 + i{rows}[None, :] * {access.name}_s1"
        there = f"({others} < {columns})"
        got = self._read(pointer, f"{there} & m{rows}[None, :]")
        got = self.put(f"tl.where({there}, {got}, {_neutral(name, 'float32')})")
        return Value(self.axes.of(node), np.array(self.put(_REDUCTIONS[name].format(got, 0)), object).reshape(()))

    def _dot_precision(self) -> str:
        # Three products of TF32 come as close as one of float32, and run on tensor cores.
        return "tf32x3" if self.precision == "ieee" else self.precision

    # ---- products of matrices ----

    def _by_tensor_cores(self, node: Node) -> bool:
        if self.spread:
            return node in self.products
        if node.op is not OPS["matmul"] or node.type.ndim != 2 or node.type.dtype != "float32":
            return False
        a, b = (self.axes.of(i) for i in node.inputs)
        return a[0].kind == "parallel" and a[1].kind == "local" and b[1].kind == "local" and min(a[1].size, b[1].size) > 8

    def _matmul(self, node: Node) -> Value:
        a, b = node.inputs
        if self.spread:
            return self._exchanged_product(node)
        if self._by_tensor_cores(node):
            return self._dot(node)
        axes = self.axes.of(node)
        inner = self.axes.of(a)[-1]
        tiles = self._tiles(axes)
        for index in np.ndindex(tiles.shape):
            tiles[index] = (
                self._product_unrolled(node, index) if inner.kind == "unrolled" else self._product_tiles(node, index)
            )
        return Value(axes, tiles)

    def _factors(self, node: Node, index: Sequence[int], k: int) -> tuple[str, str]:
        """Tiles of both factors for one element of the inner axis, in the dimensions of the result."""
        axes = self.axes.of(node)
        place = dict(zip([d for d, x in enumerate(axes) if x.kind == "unrolled"], index, strict=True))
        n = len(axes)
        found = []
        for x, row, column in ((node.inputs[0], n - 2, None), (node.inputs[1], None, n - 1)):
            value = self.values[x]
            r = len(value.axes)
            own, tiled = [], []
            for d, a in enumerate(value.axes):
                out = n - r + d if d < r - 2 else (row if d == r - 2 else column)
                if out is None:
                    own.append(k)
                elif a.kind == "unrolled":
                    own.append(0 if a.size == 1 else place[out])
                else:
                    tiled.append(out)
            tile = value.tiles[tuple(own)]
            wanted = [d for d, a in enumerate(axes) if a.kind != "unrolled"]
            if tiled and tiled != wanted and not _is_literal(tile):
                tile = f"{tile}[{', '.join(':' if d in tiled else 'None' for d in wanted)}]"
            found.append(tile)
        return found[0], found[1]

    def _product_unrolled(self, node: Node, index: Sequence[int]) -> str:
        total = ""
        for k in range(self.axes.of(node.inputs[0])[-1].size):
            x, y = self._factors(node, index, k)
            total = self.put(f"{total} + {x} * {y}" if total else f"{x} * {y}")
        return total

    def _product_tiles(self, node: Node, index: Sequence[int]) -> str:
        """The inner axis is a dimension of the tiles: products of all elements, summed over it."""
        axes = self.axes.of(node)
        n = len(axes)
        place = dict(zip([d for d, x in enumerate(axes) if x.kind == "unrolled"], index, strict=True))
        order = [*range(n - 1), "inner", n - 1]
        tiled_out = [d for d, a in enumerate(axes) if a.kind != "unrolled"]
        wanted = [d for d in order if d == "inner" or d in tiled_out]
        found = []
        for x, last in ((node.inputs[0], (n - 2, "inner")), (node.inputs[1], ("inner", n - 1))):
            value = self.values[x] if not isinstance(self.values[x].tiles, Access) else self._loaded(self.values[x].tiles, x)
            r = len(value.axes)
            dims = [*range(n - r, n - 2), *last]
            own = [0 if a.size == 1 else place[d] for d, a in zip(dims, value.axes, strict=True) if a.kind == "unrolled"]
            tiled = [d for d, a in zip(dims, value.axes, strict=True) if a.kind != "unrolled"]
            tile = self.typed(value, tuple(own), x.type.dtype)
            inner = self.axes.of(node.inputs[0])[-1]
            if self._has_mask(inner):
                shown = ", ".join(":" if d == "inner" else "None" for d in tiled)
                tile = self.put(f"tl.where(m{inner.number}[{shown}], {tile}, 0)" if len(tiled) > 1 else f"tl.where(m{inner.number}, {tile}, 0)")
            if tiled != wanted:
                tile = f"{tile}[{', '.join(':' if d in tiled else 'None' for d in wanted)}]"
            found.append(tile)
        return self.put(f"tl.sum({found[0]} * {found[1]}, axis={wanted.index('inner')})")

    def _dot(self, node: Node) -> Value:
        a, b = node.inputs
        x = self.typed(self.values[a], (), "float32")
        if self._has_mask(self.axes.of(a)[1]):
            x = self.put(f"tl.where(m{self.axes.of(a)[1].number}[None, :], {x}, 0.0)")
        held = self.values[b]
        w = self._streamed(held.tiles, b) if isinstance(held.tiles, Access) else self.typed(held, (), "float32")
        if self.precision == "bf16":
            x = f"{x}.to(tl.bfloat16)"
            w = w if self._feeds_dots_only(b) and b in self.body.invariants else f"{w}.to(tl.bfloat16)"
            return Value(self.axes.of(node), np.array(self.put(f"tl.dot({x}, {w})"), object).reshape(()))
        found = self.put(f'tl.dot({x}, {w}, input_precision="{self._dot_precision()}")')
        return Value(self.axes.of(node), np.array(found, object).reshape(()))

    def _streamed(self, access: Access, node: Node) -> str:
        """A matrix read again at every step; the sum with a zero keeps the compiler from holding it."""
        return str(self._loaded(access, node, " + at * ZERO").tiles[()])


def _slice(r: Any) -> slice:
    return slice(r.start, r.stop if r.stop >= 0 else None, r.step)


def _expand(k: int, n: int) -> str:
    """How an index along dimension k of n is written as a tile."""
    return "" if n <= 1 else "[" + ", ".join(":" if j == k else "None" for j in range(n)) + "]"


def _literal(value: Any) -> str:
    if isinstance(value, (np.bool_, bool)):
        return "1" if value else "0"
    if isinstance(value, np.integer):
        return f"({int(value)})"
    value = float(value)
    return f"({value!r})" if math.isfinite(value) else f'(float("{value}"))'


def _is_literal(tile: str) -> bool:
    return tile.startswith("(") or tile in ("0", "1")


_PRODUCT_OF = """

@triton.jit
def product_of(a, b):
    return a * b
"""
_REDUCTIONS = {
    "sum": "tl.sum({0}, axis={1})",
    "prod": "tl.reduce({0}, {1}, product_of)",
    "max": 'tl.where(tl.max(({0} != {0}).to(tl.int32), axis={1}) > 0, float("nan"), tl.max({0}, axis={1}))',
    "min": 'tl.where(tl.max(({0} != {0}).to(tl.int32), axis={1}) > 0, float("nan"), tl.min({0}, axis={1}))',
    "any": "tl.max({0}.to(tl.int32), axis={1})",
    "all": "tl.min({0}.to(tl.int32), axis={1})",
}
_COMBINE = {
    "sum": "{0} + {1}",
    "prod": "{0} * {1}",
    "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "min": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "any": "{0} | {1}",
    "all": "{0} & {1}",
}


def _neutral(name: str, dtype: str) -> str:
    return {"sum": "0", "prod": "1", "max": 'float("-inf")', "min": 'float("inf")', "any": "0", "all": "1"}[name]


_RULES: dict[str, Callable[[Emitter, Node], Value]] = {
    "broadcast_to": Emitter._broadcast,
    "dimshuffle": Emitter._dimshuffle,
    "reshape": Emitter._reshape,
    "subtensor": Emitter._subtensor,
    "set_subtensor": Emitter._write,
    "inc_subtensor": Emitter._write,
    "concatenate": Emitter._concatenate,
    "cumsum": Emitter._cumsum,
    "argmax": Emitter._position,
    "argmin": Emitter._position,
    "matmul": Emitter._matmul,
}
