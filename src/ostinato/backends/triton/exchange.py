"""Programs that exchange what they hold: states so wide that their columns are shared out.

A program writes its part of an array into a slot and reads the whole of it, again and again until all of it is there.
That shows in the words themselves: 32 bits of a number and 32 of the step it is of, which memory takes and gives at
once. So what is exchanged crosses memory twice, and no flag has to follow it or be looked at before it. There are two
slots, for even and for odd steps: who is a step ahead writes to the other one, and nobody is two steps ahead, since
whoever is at a step has read of all others the step before. All programs must run at the same time.

Source of the method: the protocol LL of NVIDIA's NCCL, which tells words that have arrived by a flag within them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ostinato.backends.triton.axes import Axis
from ostinato.backends.triton.layout import Access, Value
from ostinato.backends.triton.operations import REDUCTIONS, neutral
from ostinato.backends.triton.products import Products
from ostinato.backends.triton.scalars import PAUSE
from ostinato.graph import Node
from ostinato.ops.op import OPS

# So many elements of the inner axis of a product go into one instruction.
_INNER = 128
# So many words a thread may read at once; fewer where its registers hold the weights.
_AT_ONCE, _AT_ONCE_BY_ROWS = 32, 8


class _Part(NamedTuple):
    """A part of what is exchanged, as a tile of words: a pointer, a mask and a shape."""

    pointer: str
    mask: str
    shape: tuple[int, ...]


class Exchange(Products):
    """Text for programs of which each holds some columns of the state."""

    def emitted(self, node: Node) -> Value:
        """The value of a node; sums of products that are computed row by row are summed over the inner axis once."""
        terms = [self.unsummed.get(i) for i in node.inputs]
        if node.op is not OPS["add"] or None in terms:
            return super().emitted(node)
        return self._summed(node, self.put(f"{terms[0]} + {terms[1]}"))

    def _summed(self, node: Node, terms: str) -> Value:
        """A product whose terms are known, or a sum of such: summed now, or later with what it is added to."""
        self.unsummed[node] = terms
        users = [n for n in self.spec.body.nodes() if node in n.inputs]
        others = [i for n in users for i in n.inputs if i is not node]
        alone = len(users) == len(others) == 1 and node not in self.spec.body.results
        if alone and users[0].op is OPS["add"] and self._is_of_products(others[0]):
            return Value(self.axes.of(node), np.array("", object).reshape(()))
        del self.unsummed[node]
        return Value(self.axes.of(node), np.array(self.put(f"tl.sum({terms}, axis=2)"), object).reshape(()))

    def _is_of_products(self, node: Node) -> bool:
        """Whether a node is a product, or a sum of nothing but products that nothing else reads."""
        users = [n for n in self.spec.body.nodes() if node in n.inputs]
        if len(users) != 1 or node in self.spec.body.results:
            return False
        return node in self.products or (node.op is OPS["add"] and all(map(self._is_of_products, node.inputs)))

    def _matmul(self, node: Node) -> Value:
        return self._exchanged_product(node) if self.spread else super()._matmul(node)

    def _reduction(self, node: Node) -> Value:
        return self._exchanged_sum(node) if self.is_exchanged_sum(node) else super()._reduction(node)

    def order(self) -> list[Node]:
        """All nodes, inputs before users; where programs wait for each other, what does not wait comes first."""
        nodes = self.spec.body.nodes()
        if not self.spread:
            return nodes
        level: dict[Node, int] = {}
        for node in nodes:
            level[node] = max((level[i] for i in node.inputs), default=0) + self.waits(node)
            if node in self.products or self.is_exchanged_sum(node):
                self._exchange(node.inputs[0] if node in self.products else node, node in self.products)
        return sorted(nodes, key=level.__getitem__)

    def waits(self, node: Node) -> bool:
        """Whether programs wait for each other once what a node is made of is there."""
        return node in self.products or self.is_exchanged_sum(node)

    def is_exchanged_sum(self, node: Node) -> bool:
        """Whether a node is a sum or an extreme over the axis that is shared out."""
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
        sums = [n for n, a in self.exchanged.items() if a.kind == "partial" and self.offered_with(n) is node]
        return found + sums

    def offered_with(self, node: Node) -> Node:
        """What has to be known for programs to offer their part of a sum."""
        return node.inputs[0]

    def partial(self, node: Node) -> str:
        """A program's part of a sum, per row."""
        x = node.inputs[0]
        return self.reduced_tile(self.values[x], (), node.params[0], node.op.name, "float32", masked=True)

    def offer(self, node: Node) -> None:
        """Write the program's own columns, or what it makes of them, for the others."""
        access = self.exchanged[node]
        self.offered.append(node)
        if access.kind == "partial":
            axis, rows = self.spread, self.axes.of(node.inputs[0])[0].number
            assert axis is not None
            own = self.partial(node)
            place = f" + b{axis.number} * {access.name}_s0 + i{rows} * {access.name}_s1"
            mask = f"m{rows}"
        else:
            place, mask = self.place(access, self.axes.of(node), ())
            own = self.typed(self.values[node], (), "float32")
        word = f"(({own}).to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF) | (mark << 32)"
        self.lines.append(f'tl.store({self._slot(access)}{place}, {word}, mask={mask}, cache_modifier=".cg")')

    def _slot(self, access: Access) -> str:
        return f"{access.name} + (at % 2) * {access.name}_t"

    def received_of(self, node: Node) -> list[str]:
        """What all programs have offered of a node, in parts: float32.

        It is waited for together with what has been offered besides, since memory takes its time to answer.
        """
        if node not in self.received:
            together, words = [], 0.0
            threads, most = 32 * self.count_warps(), _AT_ONCE_BY_ROWS if self.by_rows() else _AT_ONCE
            for n in dict.fromkeys([node, *self.offered]):
                alike = self.exchanged[n].kind == self.exchanged[node].kind and n not in self.received
                words += sum(math.prod(p.shape) for p in self._parts(n)) / threads if alike else 0
                if alike and (n is node or words <= most):
                    together.append(n)
            parts = [p for n in together for p in self._parts(n)]
            found = iter(self._awaited(parts))
            self.received |= {n: [next(found) for _ in self._parts(n)] for n in together}
        return self.received[node]

    def _awaited(self, parts: Sequence[_Part]) -> list[str]:
        """What programs have written to places of memory, once all of it is of this step."""
        words = [f"words{next(self.count)}" for _ in parts]
        loads = [
            f"{w} = tl.load({p.pointer}, mask={p.mask}, other=mark << 32, volatile=True)"
            for w, p in zip(words, parts, strict=True)
        ]
        oldest = functools.reduce("tl.minimum({}, {})".format, [f"({w} >> 32).to(tl.int32)" for w in words])
        again = [PAUSE, *loads] if self.interpreted else loads  # there, threads share one processor
        self.lines += [*loads, f"while tl.min(tl.ravel({oldest})) < mark:", *["    " + x for x in again]]
        return [self.put(f"{w}.to(tl.int32).to(tl.float32, bitcast=True)") for w in words]

    def _parts(self, node: Node) -> list[_Part]:
        """Where in memory what is exchanged of a node is read."""
        access = self.exchanged[node]
        rows, slot = next(a for a in self.axes.parallel if a.rows), self._slot(access)
        if access.kind == "partial":
            others, there = self.others(node)
            pointer = f"{slot} + {others} * {access.name}_s0 + i{rows.number}[None, :] * {access.name}_s1"
            shape = access.axes[0].padded, self.blocks[rows]
            return [_Part(pointer, f"{there} & m{rows.number}[None, :]", shape)]
        row, inner = ("[:, None, None]", "[None, None, :]") if self.by_rows() else ("[:, None]", "[None, :]")
        found = []
        for start in self.chunks():
            place = f"i{rows.number}{row} * {access.name}_s0 + (inner{inner} + {start}) * {access.name}_s1"
            mask = f"m{rows.number}{row}" + self._inner_mask(start, inner)
            found.append(_Part(f"{slot} + {place}", mask, (self.blocks[rows], self.chunk())))
        return found

    def others(self, node: Node) -> tuple[str, str]:
        """The numbers of programs that offer parts of a sum, as a column, and which of them there are."""
        programs = self.exchanged[node].axes[0]
        numbers = f"tl.arange(0, {programs.padded})[:, None]"
        return numbers, f"({numbers} < {programs.size})"

    def exchanges(self) -> list[tuple[int, ...]]:
        return [tuple(axis.size for axis in access.axes) for access in self.exchanged.values()]

    # ---- what others have offered ----

    def chunks(self) -> range:
        """Where the parts begin in which the inner axis of a product is taken."""
        assert self.spread is not None
        return range(0, self.spread.padded, self.chunk())

    def chunk(self) -> int:
        assert self.spread is not None
        return self.spread.padded if self.by_rows() else min(_INNER, self.spread.padded)

    def _inner_mask(self, start: int, expanded: str) -> str:
        """What of a mask says which of the inner axis exists in a part; nothing if all of it does."""
        assert self.spread is not None
        size = self.spread.size
        return "" if start + self.chunk() <= size else f" & (inner{expanded} + {start} < {size})"

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
        mask = f"m{axis.number}{own}" + self._inner_mask(start, inner)
        loaded = f"tl.load({access.name}{at} + {self.offsets[key]}, mask={mask}, other=0)"
        narrow = self.precision == "bf16" and not self.by_rows()
        return self.put(loaded + (".to(tl.bfloat16)" if narrow else ""), "w")

    def _exchanged_product(self, node: Node) -> Value:
        a, b = node.inputs
        held, total = self.values[b].tiles, ""
        if self.by_rows():  # in one part
            (x,) = self.received_of(a)
            w = self.columns_of(held, b, 0, " + at * ZERO") if isinstance(held, Access) else held[0]
            return self._summed(node, self.put(f"{x} * {w}"))
        for k, (start, x) in enumerate(zip(self.chunks(), self.received_of(a), strict=True)):
            w = self.columns_of(held, b, start, " + at * ZERO") if isinstance(held, Access) else held[k]
            if self.precision == "bf16":
                total = self.put(f"tl.dot({x}.to(tl.bfloat16), {w}{', ' + total if total else ''})")
            else:
                more = f", {total}" if total else ""
                total = self.put(f'tl.dot({x}, {w}{more}, input_precision="{self.dot_precision()}")')
        return Value(self.axes.of(node), np.array(total, object).reshape(()))

    def _exchanged_sum(self, node: Node) -> Value:
        """A sum or an extreme over the spread axis: of every program's own, in the order of programs."""
        (got,), (_, there) = self.received_of(node), self.others(node)
        got = self.put(f"tl.where({there}, {got}, {neutral(node.op.name, 'float32')})")
        total = self.put(REDUCTIONS[node.op.name].format(got, 0))
        return Value(self.axes.of(node), np.array(total, object).reshape(()))
