"""The text of a kernel: one program's share of a loop, all steps of it.

A value of the body is, per element of its unrolled axes, one tile over its other axes, in the order of its
dimensions. Params are read and results written through pointers; strides that do not follow from sizes come
with each launch, as do the number of steps and the sizes of parallel axes: one kernel serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ostinato.backends.triton import philox, scalars
from ostinato.backends.triton.axes import Axis
from ostinato.backends.triton.centred import Centred
from ostinato.backends.triton.layout import Access, Kernel, Value, count_programs
from ostinato.backends.triton.operations import PRODUCT_OF
from ostinato.backends.triton.text import FEW_ROWS
from ostinato.backends.triton.unsplit import UnsplitError
from ostinato.graph import Node
from ostinato.ops.op import OPS
from ostinato.ops.random import RANDOM

# Bytes of shared memory that a program needs for other things than weights, which it holds for the whole loop
# if they fit into the rest; else it reads them again at every step.
_OTHERWISE = 27 * 1024
# Elements of the largest tile.
_LARGEST = 1 << 15
# States of so many columns and more, and those whose weights one program cannot hold, are shared out among
# programs, which exchange their columns at every step.
_SPREAD_FROM = 256
# Products of TF32 take so long that fewer columns are shared out too, if that has more programs work on them: on an
# H200, four products of 32 rows and 128 columns took 4.8 microseconds exchanged, and three of them 5.2 as they were.
_SPREAD_TF32_FROM = 128
# So many elements of rows that are read ahead a thread may hold; more do not fit into its registers.
_AHEAD = 64


class Emitter(Centred):
    """Writes the kernel of a Loop whose body has static types; for the parameters see `Text`."""

    # ---- blocks ----

    def _choose_blocks(self) -> dict[Axis, int]:
        parallel = self.axes.parallel
        if not parallel:
            return {}
        rows = [a for a in parallel if a.rows]
        blocks = dict.fromkeys(parallel, 1)
        main = rows[0] if rows else self._fastest(parallel)
        whole = max((self.local_elements(n) for n in self.spec.body.nodes()), default=1)
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
        axis, by_itself = self.axes.to_be_spread(self.spec), self.is_resident()
        if axis is None:
            return None
        least = _SPREAD_FROM if self.precision == "bf16" else min(_SPREAD_FROM, _SPREAD_TF32_FROM)
        if by_itself and axis.size < least:
            return None
        few = rows.size <= FEW_ROWS
        # Four warps take 8 of 32 columns each; of 16, all of them would compute the same.
        options = [
            {rows: block, axis: columns}
            for columns in ((8, 16) if few else (32, 16, 64))
            for block in ((rows.padded,) if few else (16, 32, 64))
        ]
        fewest = 2 * count_programs([(rows, 16)]) if by_itself and axis.size < _SPREAD_FROM else 1
        options = [o for o in options if fewest <= count_programs(o.items()) <= self.machine.processors]
        if not options:
            return None
        axis.kind, axis.spread, self.spread = "parallel", True, axis
        for self.blocks in options:
            if self.is_resident():
                return self.blocks
        return options[0]

    def _fastest(self, parallel: Sequence[Axis]) -> Axis:
        """The axis that lies closest in memory."""
        votes = dict.fromkeys(parallel, 0)
        for p in [*self.spec.body.params, *self.body.outputs]:
            own = [a for a in self.axes.of(p) if a.kind == "parallel"]
            if own:
                votes[own[-1]] += math.prod(p.type.shape)
        return max(votes, key=lambda a: (votes[a], a.size))

    def _check_sizes(self) -> None:
        for node in [*self.spec.body.params, *self.spec.body.nodes()]:
            if self.spread and self.axes.of(node).count(self.spread) > 1:
                continue
            if self.tile_elements(node) > _LARGEST:
                raise UnsplitError("an array is too large for a tile")
            if math.prod(a.size for a in self.axes.of(node) if a.kind == "unrolled") > 64:
                raise UnsplitError("an array has too many elements to be unrolled")

    def is_resident(self) -> bool:
        """Whether a program can hold all the matrices that its steps read."""
        width = {"bf16": 2, "tf32": 4, "ieee": 8}[self.precision]
        if self.spread and self.by_rows():
            width = 4
        room = self.machine.shared - _OTHERWISE
        weights = [w for w in self.body.invariants if self.is_weight(w)]
        if self.spread:
            return len(weights) * self.spread.padded * self.blocks[self.spread] * width <= room
        return sum(self.local_elements(w) for w in weights) * width <= room

    # ---- the whole ----

    def kernel(self) -> Kernel:
        """The kernel; `UnsplitError` if its arrays are too large for one."""
        self.blocks = self._choose_blocks()
        self._check_sizes()
        self._inputs()
        self._loop()
        sizes = [(a, self.blocks[a]) for a in self.axes.parallel]
        return Kernel(
            text=self._module(sizes),
            accesses=self.accesses,
            sizes=sizes,
            warps=self.count_warps(),
            stages=1 if self.uses_dot else 3,
            has_until=self.spec.has_until,
            strided=self.strided,
            thinned=self.thinned,
            exchanges=self.exchanges(),
            constants=self.constants,
            description=self._description(sizes),
        )

    def _description(self, sizes: Sequence[tuple[Axis, int]]) -> str:
        shared = " x ".join(f"{a.size} in blocks of {b}" for a, b in sizes) or "one program"
        local = sorted({a.size for a in self.axes.all if a.kind == "local"})
        kind = "row-parallel" if self.uses_dot else "lane-parallel"
        if self.spread:
            return f"one kernel for all steps whose programs exchange their columns at every step ({shared})"
        held = f", axes of {', '.join(map(str, local))} held by each program" if local else ""
        return f"one {kind} kernel for all steps ({shared}{held})"

    def _module(self, sizes: Sequence[tuple[Axis, int]]) -> str:
        plain = [*[f"every{j}" for j in self.thinned], "T", "FIRST"]  # compiled once for all values
        params = [a.name for a in self.accesses]
        params += ["status"] if self.spec.has_until else []
        params += [f"{a.name}_{s}" for a in self.accesses for s in a.strides(self.strided)]
        params += [*[f"n{a.number}" for a, _ in sizes], *plain, "ZERO"]
        head = ["import triton", "import triton.language as tl"]
        head += [scalars.INTERPRETED] if self.interpreted else ["from triton.language.extra import libdevice"]
        if any(n.op is OPS["tanh"] for n in self.spec.body.nodes()):
            head.append(scalars.TANH)
        if any(n.op is OPS["prod"] for n in self.spec.body.nodes()):
            head.append(PRODUCT_OF)
        if any(n.op.name in RANDOM for n in self.spec.body.nodes()):
            head.append(philox.TEXT)
        lines = [*head, "", "", f"@triton.jit(do_not_specialize={plain})", f"def loop({', '.join(params)}):"]
        body = [*self._places(sizes), *self.before, *self.inside]
        return "\n".join([*lines, *["    " + line for line in body]]) + "\n"

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
            lines.append(f"inner = tl.arange(0, {self.chunk()})")
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

    # ---- the loop ----

    def _inputs(self) -> None:
        body = self.body
        read = {i for n in self.spec.body.nodes() for i in n.inputs} | {*self.spec.body.results, *body.carries}
        for kind, nodes in (("invariant", body.invariants), ("carry", body.carries)):
            for number, node in enumerate(nodes):
                if node not in read:
                    continue
                access = self.access(kind, number, node, False)
                if kind == "invariant" and self.is_weight(node) and not self.is_resident():
                    self.values[node] = Value(self.axes.of(node), access)
                elif kind == "invariant" and self.is_weight(node) and self.spread:
                    parts = np.array([self.columns_of(access, node, start) for start in self.chunks()], object)
                    self.values[node] = Value(self.axes.of(node), parts)
                else:
                    self.values[node] = self.loaded(access, node)
        for number, node in enumerate(body.sequences):
            self.access("sequence", number, node, True)

    def _loop(self) -> None:
        body, until = self.body, self.spec.has_until
        carried = [(c, self.values[c]) for c in body.carries]
        names = []
        for k, (c, value) in enumerate(carried):
            fresh = self.tiles_over(value.axes)
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
        self.lines += ["mark = at + 1"] if self.spread else []
        self.values[body.t] = Value((), np.array("step", object).reshape(()))
        for node in self.order():
            if node not in self.values:
                self.values[node] = self.emitted(node)
            for offered in self.to_be_offered(node):
                self.offer(offered)
        self._record()
        self._advance(names)
        if until:
            keep = self.values[body.keep_going].tiles[()]
            self.lines += ["t = t + 1", f"keep = {keep} != 0", "going = (t < T) & keep"]
        outer += ["    " + line for line in self.lines]
        self.lines = outer
        for k, (c, value) in enumerate(zip(body.carries, names, strict=True)):
            self._stored(self.access("final", k, c, False), Value(self.axes.of(c), value), c.type.dtype)
        if until:
            self.lines += ["tl.store(status, t)", "tl.store(status + 1, tl.where(keep, 1, 0).to(tl.int64))"]
        self.inside = self.lines

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
        n = sum(self.tiles_over(self.axes.of(s)).size for s in self.body.sequences)
        row = sum(self.tiles_over(self.axes.of(s)).size * self.tile_elements(s) for s in self.body.sequences)
        per_thread = max(1, row // (32 * self.count_warps()))
        return 1 if self.uses_dot else max(1, min(6, 24 // n, _AHEAD // per_thread))

    def _ahead(self, access: Access, node: Node, at: str, name: str) -> Any:
        axes = self.axes.of(node)
        tiles = self.tiles_over(axes)
        for index in np.ndindex(tiles.shape):
            place, mask = self.place(access, axes, index)
            var = f"{name}_{'_'.join(map(str, index))}"
            options = f", mask={mask}, other=0" if mask else ""
            loaded = f"tl.load({access.name}{at}{place}{options})"
            self.lines.append(f"{var} = {loaded}{'.to(tl.int1)' if node.type.dtype == 'bool' else ''}")
            tiles[index] = var
        return tiles

    def _rows(self, ahead: Sequence[tuple[Access, Any]]) -> None:
        """The rows of this step; those that follow move up by one, and the furthest is read."""
        for number, (node, (access, rows)) in enumerate(zip(self.body.sequences, ahead, strict=True)):
            now = self.tiles_over(self.axes.of(node))
            for index in np.ndindex(now.shape):
                now[index] = self.put(rows[0][index], "x")
                for k in range(len(rows) - 1):
                    self.lines.append(f"{rows[k][index]} = {rows[k + 1][index]}")
            at = f" + tl.minimum(at + {len(rows)}, T - 1) * {access.name}_t"
            self._ahead(access, node, at, f"ahead{number}_{len(rows) - 1}")
            self.values[node] = Value(self.axes.of(node), now)

    def _record(self) -> None:
        for j, y in enumerate(self.body.outputs):
            access = self.access("output", j, y, True)
            if j not in self.thinned:
                self._stored(access, self.values[y], y.type.dtype, f" + at * {access.name}_t")
                continue
            self._record_some(j, access)

    def _record_some(self, j: int, access: Access) -> None:
        """Each so many-th step; those until the next one are counted, since dividing takes long."""
        y = self.body.outputs[j]
        self.before += [
            f"every{j}_ = tl.cast(every{j}, tl.int64)",
            f"left{j} = every{j}_ - 1 - (tl.cast(FIRST, tl.int64) + every{j}_ - 1) % every{j}_",
            f"row{j} = tl.full((), 0, tl.int64)",
        ]
        self.lines.append(f"if left{j} == 0:")
        outer, self.lines = self.lines, []
        self._stored(access, self.values[y], y.type.dtype, f" + row{j} * {access.name}_t")
        self.lines += [f"row{j} = row{j} + 1", f"left{j} = every{j}_"]
        self.lines = [*outer, *["    " + line for line in self.lines], f"left{j} = left{j} - 1"]

    def _stored(self, access: Access, value: Value, dtype: str, at: str = "") -> None:
        for index in np.ndindex(value.tiles.shape):
            place, mask = self.place(access, value.axes, index)
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
