"""How the axes of a loop's body are divided: among programs, within a tile, or element by element.

An axis is *parallel* if every op of the body acts pointwise along it: programs share it out, and none waits
for another. It is *local* if something sums, maximises or multiplies along it: a program holds it whole, as a
dimension of its tiles, padded to a power of two. Short axes are *unrolled*: every element is a tile of its
own, so they may be indexed, joined and taken apart. Axes of size 1 are unrolled too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ostinato.backends.triton.slices import UNROLLED, is_elementwise, read_ranges
from ostinato.backends.triton.unsplit import UnsplitError
from ostinato.graph import Node
from ostinato.ops.loop import LoopSpec, body_of
from ostinato.types import TensorType

# Axes of so many elements that are summed over are unrolled.
_FEW = 8

_REDUCTIONS = {"sum", "prod", "max", "min", "any", "all"}


@dataclass(eq=False)
class Axis:
    """An axis of the body, shared by all dimensions that are the same one.

    Attributes
    ----------
    kind : "parallel", "local" or "unrolled".
    rows : whether it counts the rows of the left factor of a product of matrices.
    spread : whether it is parallel but for sums and products along it, for which programs exchange their parts.
    """

    size: int
    kind: str = "parallel"
    rows: bool = False
    along: bool = False
    taken_apart: bool = False
    spread: bool = False
    number: int = -1

    @property
    def padded(self) -> int:
        """The least power of two that holds it."""
        return 1 << max(self.size - 1, 0).bit_length()


class Axes:
    """The axes of all nodes of a body.

    Raises
    ------
    UnsplitError
        If an axis that is taken apart is long, or an op is not known here.
    """

    def __init__(self, spec: LoopSpec) -> None:
        self._parent: dict[tuple[Node, int], tuple[Node, int]] = {}
        self._marks: dict[tuple[Node, int], Axis] = {}
        self._place: dict[Node, tuple[Axis, ...]] = {}
        nodes = [*spec.body.params, *spec.body.nodes()]
        for node in nodes:
            if type(node.type) is not TensorType:
                raise UnsplitError("a loop within the loop")
            if None in node.type.shape:
                raise UnsplitError("an array whose size is not known before the step")
            if node.inputs:
                self._enter(node)
        body = body_of(spec)
        for carry, value in zip(body.carries, body.next_carries, strict=True):
            self._join_all(carry, value)
        for node in nodes:
            self._place[node] = tuple([self._axis((node, d)) for d in range(node.type.ndim)])
        self._classify(nodes)

    def of(self, node: Node) -> tuple[Axis, ...]:
        """The axis of every dimension of a node."""
        return self._place[node]

    @property
    def parallel(self) -> list[Axis]:
        """The parallel axes, in order of their numbers."""
        return [a for a in self.all if a.kind == "parallel"]

    # ---- which dimensions are the same axis ----

    def _root(self, dim: tuple[Node, int]) -> tuple[Node, int]:
        while (up := self._parent.get(dim, dim)) != dim:
            self._parent[dim] = self._parent.get(up, up)
            dim = up
        return dim

    def _axis(self, dim: tuple[Node, int]) -> Axis:
        root = self._root(dim)
        if root not in self._marks:
            self._marks[root] = Axis(root[0].type.shape[root[1]])
        return self._marks[root]

    def _join(self, a: tuple[Node, int], b: tuple[Node, int]) -> None:
        ra, rb = self._root(a), self._root(b)
        if ra == rb:
            return
        x, y = self._axis(ra), self._axis(rb)
        self._parent[ra] = rb
        y.rows, y.along, y.taken_apart = x.rows or y.rows, x.along or y.along, x.taken_apart or y.taken_apart

    def _join_all(self, a: Node, b: Node) -> None:
        for d in range(a.type.ndim):
            self._join((a, d), (b, d))

    def _align(self, x: Node, out: Node) -> None:
        """Dimensions that broadcasting puts together."""
        lead = out.type.ndim - x.type.ndim
        for d, size in enumerate(x.type.shape):
            if size == out.type.shape[lead + d]:
                self._join((x, d), (out, lead + d))

    # ---- what ops do along them ----

    def _enter(self, node: Node) -> None:
        if is_elementwise(node):
            for i in node.inputs:
                self._align(i, node)
        elif node.op.name in _REDUCTIONS:
            self._reduction(node)
        elif (rule := _RULES.get(node.op.name)) is not None:
            rule(self, node)
        else:
            raise UnsplitError(f"{node.op.name} within a kernel")

    def _reduction(self, node: Node) -> None:
        (x,), kept = node.inputs, 0
        for d in range(x.type.ndim):
            if d in node.params[0]:
                self._axis((x, d)).along = True
            else:
                self._join((x, d), (node, kept))
                kept += 1

    def _broadcast(self, node: Node) -> None:
        self._align(node.inputs[0], node)

    def _dimshuffle(self, node: Node) -> None:
        for d, o in enumerate(node.params[0]):
            if o != "x":
                self._join((node.inputs[0], o), (node, d))

    def _matmul(self, node: Node) -> None:
        a, b = node.inputs
        n, na, nb = node.type.ndim, a.type.ndim, b.type.ndim
        self._join((a, na - 2), (node, n - 2))
        self._join((a, na - 1), (b, nb - 2))
        self._join((b, nb - 1), (node, n - 1))
        self._axis((a, na - 1)).along = True
        if n == 2:
            self._axis((a, 0)).rows = True
        for x, r in ((a, na), (b, nb)):
            for d in range(r - 2):
                if x.type.shape[d] == node.type.shape[n - r + d]:
                    self._join((x, d), (node, n - r + d))

    def _reshape(self, node: Node) -> None:
        """Dimensions of size 1 come and go; all others are kept, or taken apart."""
        (x, *_) = node.inputs
        own = [d for d, s in enumerate(x.type.shape) if s != 1]
        new = [d for d, s in enumerate(node.type.shape) if s != 1]
        if [x.type.shape[d] for d in own] == [node.type.shape[d] for d in new]:
            for a, b in zip(own, new, strict=True):
                self._join((x, a), (node, b))
        else:
            self._apart(x, range(x.type.ndim))
            self._apart(node, range(node.type.ndim))

    def _apart(self, node: Node, dims: range | list[int]) -> None:
        for d in dims:
            self._axis((node, d)).taken_apart = True

    def _subtensor(self, node: Node) -> None:
        x, kept = node.inputs[0], 0
        ranges = read_ranges(node, 1)
        for d, given in enumerate(node.params[0]):
            whole = ranges is not None and ranges[d].is_all and given is not None
            if not whole:
                self._apart(x, [d])
                if given is not None:
                    self._apart(node, [kept])
            else:
                self._join((x, d), (node, kept))
            kept += given is not None
        if ranges is None and any(p is not None and p != (False, False, False) for p in node.params[0]):
            raise UnsplitError("a slice whose bounds change from step to step")

    def _write(self, node: Node) -> None:
        x, y = node.inputs[:2]
        self._join_all(x, node)
        ranges = read_ranges(node, 2)
        if ranges is None and any(p is not None and p != (False, False, False) for p in node.params[0]):
            raise UnsplitError("a slice whose bounds change from step to step")
        part = [d for d, given in enumerate(node.params[0]) if given is not None]
        for d, given in enumerate(node.params[0]):
            if given is None or (ranges is not None and not ranges[d].is_all):
                self._apart(x, [d])
        lead = len(part) - y.type.ndim
        for d in range(y.type.ndim):
            whole = part[lead + d]
            if self._axis((x, whole)).taken_apart:
                self._apart(y, [d])
            if y.type.shape[d] == x.type.shape[whole] and (ranges is None or ranges[whole].is_all):
                self._join((y, d), (x, whole))

    def _concatenate(self, node: Node) -> None:
        axis = node.params[0]
        for i in node.inputs:
            for d in range(node.type.ndim):
                if d != axis:
                    self._join((i, d), (node, d))
            self._apart(i, [axis])
        self._apart(node, [axis])

    def _along_one(self, node: Node) -> None:
        axis, kept = node.params[0], 0
        for d in range(node.inputs[0].type.ndim):
            if d == axis:
                self._apart(node.inputs[0], [d])
                if node.op.name == "cumsum":
                    self._join((node.inputs[0], d), (node, kept))
                    kept += 1
            else:
                self._join((node.inputs[0], d), (node, kept))
                kept += 1

    # ---- kinds ----

    def _classify(self, nodes: list[Node]) -> None:
        self.all: list[Axis] = list(dict.fromkeys(a for n in nodes for a in self._place[n]))
        for number, axis in enumerate(self.all):
            axis.number, axis.kind = number, self._kind(axis)
        for node in nodes:  # the same axis twice in one array: a program must hold it whole
            own = [a for a in self._place[node] if a.kind == "parallel"]
            for a in own:
                if own.count(a) > 1:
                    a.kind = "local"

    def to_be_spread(self, spec: LoopSpec) -> Axis | None:
        """The axis along which products of the state and matrices are taken, if it can be shared out all the same.

        Programs then hold some columns each, and tell each other theirs at every step. There must be one such axis,
        one axis of rows, and what is done along it must be products with invariant matrices, sums and extremes.
        """
        local = [a for a in self.all if a.kind == "local"]
        rows = [a for a in self.all if a.kind == "parallel" and a.rows]
        if len(local) != 1 or len(rows) != 1 or len(self.parallel) != 1:
            return None
        axis, matrices = local[0], set()
        for node in spec.body.nodes():
            if node.op.name == "matmul":
                a, b = node.inputs
                if b not in spec.body.params or self.of(a) != (rows[0], axis) or self.of(b) != (axis, axis):
                    return None
                matrices.add(b)
            elif node.op.name in _REDUCTIONS and axis in self.of(node.inputs[0]):
                known = node.op.name in ("sum", "max", "min") and self.of(node.inputs[0]) == (rows[0], axis)
                if not known:
                    return None
        for node in [*spec.body.params, *spec.body.nodes()]:
            twice = self.of(node).count(axis) > 1
            if twice and node not in matrices:
                return None
            if node.op.name != "matmul" and any(i in matrices for i in node.inputs):
                return None
        return axis if matrices else None

    def _kind(self, axis: Axis) -> str:
        if axis.taken_apart:
            if axis.size > UNROLLED:
                raise UnsplitError(f"an axis of {axis.size} elements is taken apart")
            return "unrolled"
        if axis.size == 0:
            raise UnsplitError("arrays without elements")
        if axis.along:
            return "unrolled" if axis.size <= _FEW else "local"
        if axis.size == 1 and not axis.rows:
            return "unrolled"
        return "parallel"


_RULES: dict[str, Callable[[Axes, Node], None]] = {
    "broadcast_to": Axes._broadcast,
    "dimshuffle": Axes._dimshuffle,
    "matmul": Axes._matmul,
    "reshape": Axes._reshape,
    "subtensor": Axes._subtensor,
    "set_subtensor": Axes._write,
    "inc_subtensor": Axes._write,
    "concatenate": Axes._concatenate,
    "argmax": Axes._along_one,
    "argmin": Axes._along_one,
    "cumsum": Axes._along_one,
}
