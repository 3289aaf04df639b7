"""Programs that exchange what they hold: states so wide that their columns are shared out.

A program writes its part of an array into a slot, waits until all programs with the same rows have, and reads
the whole of it. There are two slots, for even and for odd steps: who is a step ahead writes to the other one,
and nobody is two steps ahead. All programs must run at the same time.
"""

from __future__ import annotations

import numpy as np

from ostinato.backends.triton.axes import Axis
from ostinato.backends.triton.layout import Access, Value
from ostinato.backends.triton.operations import REDUCTIONS, neutral
from ostinato.backends.triton.products import Products
from ostinato.graph import Node

# So many elements of the inner axis of a product go into one instruction.
_INNER = 128
# Up to so many rows a product is better computed without tensor cores, which take 16 at a time.
FEW_ROWS = 4


class Exchange(Products):
    """Text for programs of which each holds some columns of the state."""

    def _matmul(self, node: Node) -> Value:
        return self._exchanged_product(node) if self.spread else super()._matmul(node)

    def _reduction(self, node: Node) -> Value:
        return self._exchanged_sum(node) if self._is_exchanged_sum(node) else super()._reduction(node)

    def order(self) -> list[Node]:
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

    def _is_exchanged_sum(self, node: Node) -> bool:
        return bool(self.spread) and node.op.name in REDUCTIONS and self.spread in self.axes.of(node.inputs[0])

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

    def to_be_offered(self, node: Node) -> list[Node]:
        """What is exchanged and known as soon as a node is."""
        found = [node] if node in self.exchanged and self.exchanged[node].kind == "exchange" else []
        sums = [n for n, a in self.exchanged.items() if a.kind == "partial" and n.inputs[0] is node]
        return found + sums

    def offer(self, node: Node) -> None:
        """Write the program's own columns, or what it makes of them, for the others."""
        access = self.exchanged[node]
        self.offered[node] = self.waits
        if access.kind == "partial":
            self._offer_partial(node, access)
        else:
            place, mask = self.place(access, self.axes.of(node), ())
            tile = self.typed(self.values[node], (), "float32")
            self.lines.append(f"tl.store({self._slot(access)}{place}, {tile}, mask={mask})")

    def _offer_partial(self, node: Node, access: Access) -> None:
        x, axis = node.inputs[0], self.spread
        assert axis is not None
        own = self.reduced_tile(self.values[x], (), node.params[0], node.op.name, "float32", masked=True)
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

    def exchanges(self) -> list[tuple[int, int]]:
        found = []
        for node, access in self.exchanged.items():
            assert self.spread is not None
            rows = self.axes.of(node)[0].size
            columns = -(-self.spread.size // self.blocks[self.spread])
            found.append((rows, self.spread.size) if access.kind == "exchange" else (columns, rows))
        return found

    # ---- what others have offered ----

    def chunks(self) -> range:
        """Where the parts begin in which the inner axis of a product is taken."""
        assert self.spread is not None
        return range(0, self.spread.padded, self.chunk())

    def chunk(self) -> int:
        assert self.spread is not None
        return self.spread.padded if self.by_rows() else min(_INNER, self.spread.padded)

    def by_rows(self) -> bool:
        """Whether products are computed row by row, without tensor cores."""
        return next(block for axis, block in self.blocks.items() if axis.rows) <= FEW_ROWS

    def _gathered(self, node: Node) -> list[str]:
        """All columns of an exchanged array, in parts."""
        if node not in self.gathered:
            access, axis = self.exchanged[node], self.spread
            rows = self.axes.of(node)[0].number
            assert axis is not None
            self._wait_for(node)
            row, inner = ("[:, None, None]", "[None, None, :]") if self.by_rows() else ("[:, None]", "[None, :]")
            self.gathered[node] = []
            for start in self.chunks():
                place = f"i{rows}{row} * {access.name}_s0 + (inner{inner} + {start}) * {access.name}_s1"
                mask = f"m{rows}{row} & (inner{inner} + {start} < {axis.size})"
                pointer = f"{self._slot(access)} + {place}"
                self.gathered[node].append(self._read(pointer, mask))
        return self.gathered[node]

    def _read(self, pointer: str, mask: str) -> str:
        """What programs have written, past the cache that multiprocessors have of their own."""
        return self.put(f'tl.load({pointer}, mask={mask}, other=0, cache_modifier=".cg")')

    def columns_of(self, access: Access, node: Node, start: int, at: str = "") -> str:
        """The program's columns of a matrix, of which a part of the rows: (rows, columns), or (1, columns, rows)."""
        axis = self.spread
        assert axis is not None
        own, inner = ("[None, :, None]", "[None, None, :]") if self.by_rows() else ("[None, :]", "[:, None]")
        key = ("columns", node, start)
        if key not in self.offsets:
            self.offsets[key] = f"o{next(self.count)}"
            place = f"(inner{inner} + {start}) * {access.name}_s0 + i{axis.number}{own} * {access.name}_s1"
            self.before.append(f"{self.offsets[key]} = {place}")
        mask = f"(inner{inner} + {start} < {axis.size}) & m{axis.number}{own}"
        loaded = f"tl.load({access.name}{at} + {self.offsets[key]}, mask={mask}, other=0)"
        narrow = self.precision == "bf16" and not self.by_rows()
        return self.put(loaded + (".to(tl.bfloat16)" if narrow else ""), "w")

    def _exchanged_product(self, node: Node) -> Value:
        a, b = node.inputs
        held, total = self.values[b].tiles, ""
        for k, (start, x) in enumerate(zip(self.chunks(), self._gathered(a), strict=True)):
            w = self.columns_of(held, b, start, " + at * ZERO") if isinstance(held, Access) else held[k]
            if self.by_rows():
                total = self.put(f"tl.sum({x} * {w}, axis=2)")
            elif self.precision == "bf16":
                total = self.put(f"tl.dot({x}.to(tl.bfloat16), {w}{', ' + total if total else ''})")
            else:
                more = f", {total}" if total else ""
                total = self.put(f'tl.dot({x}, {w}{more}, input_precision="{self.dot_precision()}")')
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
        got = self.put(f"tl.where({there}, {got}, {neutral(name, 'float32')})")
        return Value(self.axes.of(node), np.array(self.put(REDUCTIONS[name].format(got, 0)), object).reshape(()))
