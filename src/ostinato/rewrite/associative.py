"""Recurrences whose steps can be composed without their state, recognised from the body of a Loop.

A step maps the state before it to the state after it. Where all these maps are of a family that is closed under
composition, those of many steps are one of the same family, and may be composed in any grouping:

    h' = A h + b              A' = A2 A1,  b' = A2 b1 + b2        sums, products, filters, gated linear networks
    h' = max(h + a, b)        a' = a1 + a2,  b' = max(b1 + a2, b2)            so with minimum and logaddexp
    h' = max(h, x)            x' = max(x1, x2)                                so with minimum, and, or, xor
    h' = where(c, x, h)       c' = c1 | c2,  x' = where(c2, x2, x1)

States that enter each other are one group; a group may read the states of groups before it, as running argmax reads
the running maximum. The source of the method is G. E. Blelloch, "Prefix sums and their applications", 1990.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ostinato.errors import OstinatoValueError, at, bullet_list
from ostinato.graph import Node, dependents, make, substitute, topological
from ostinato.ops.batch import NoBatchError
from ostinato.ops.contraction import MATMUL
from ostinato.ops.control import IDENTITIES
from ostinato.ops.creation import eye
from ostinato.ops.elementwise import eq, logical_not, where
from ostinato.ops.leaf import CONSTANT, constant, new_input
from ostinato.ops.loop import Body, LoopSpec, body_of, known_sizes, split
from ostinato.ops.movement import dimshuffle
from ostinato.ops.op import OPS
from ostinato.ops.sizes import as_size_nodes, broadcast_to, same_size, sizes
from ostinato.printing import short
from ostinato.rewrite.batching import batched, can_batch
from ostinato.types import TensorType


class Obstacle(NamedTuple):
    """Why a state's steps cannot be composed.

    Attributes
    ----------
    carry : the number of the state.
    node : the operation that prevents it.
    """

    carry: int
    node: Node


class Maps(Protocol):
    """The maps of a group of states.

    Attributes
    ----------
    what : how notes call the family.
    carries : the numbers of the states.
    step : the map of one step, as expressions of the body that no state of the group enters.
    n_factors : how many of these come first that are composed among themselves alone, and how many composed ones.
    """

    what: str
    carries: tuple[int, ...]
    step: list[Any]
    n_factors: tuple[int, int]

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        """The map that changes nothing, for each of a number of chunks.

        Parameters
        ----------
        lead : the sizes before those of what is composed.
        factors : the same for factors.
        """

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        """One map after another; `first` composed, `then` of a step."""

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        """The states after a map."""


class Group(NamedTuple):
    """States that enter each other.

    Attributes
    ----------
    depth : 1 if no other state is read, else one more than the depth of those.
    reads : the numbers of the states of other groups that are read.
    maps : their maps, or what prevents that there are such.
    """

    carries: tuple[int, ...]
    depth: int
    reads: tuple[int, ...]
    maps: Maps | Obstacle


def seen_from_outside(node: Node) -> tuple[Body, dict[Node, Any]]:
    """The body of a Loop in terms of its sequences, carries, the number of the step and of nodes around the loop.

    Returns
    -------
    body : without invariants
    known : for the invariants, and the sizes of all params, what they are around the loop.
    """
    spec: LoopSpec = node.params[0]
    body, given = body_of(spec), split(spec, node.inputs)
    known = {**known_sizes(body, given), **dict(zip(body.invariants, given.invariants, strict=True))}
    test = () if body.keep_going is None else (body.keep_going,)
    results = substitute([*body.next_carries, *body.outputs, *test], known)
    c, stop = spec.n_carries, spec.n_carries + spec.n_outputs
    nexts, outputs = tuple(results[:c]), tuple(results[c:stop])
    keep_going = results[stop] if test else None
    return Body(body.t, body.sequences, body.carries, (), nexts, outputs, keep_going), known


def groups_of(body: Body, known: Mapping[Node, Any]) -> list[Group]:
    """The groups of the states of a body, those that others read first; see `seen_from_outside`."""
    n = len(body.carries)
    reads = [{i for i, c in enumerate(body.carries) if c in below} for below in map(_below, body.next_carries)]
    reached = [set(r) for r in reads]
    grown = True
    while grown:
        before = sum(map(len, reached))
        for r in reached:
            r.update(*[reached[i] for i in r])
        grown = sum(map(len, reached)) > before
    found: list[Group] = []
    depth: dict[int, int] = {}
    placed: set[int] = set()
    while len(placed) < n:
        for i in range(n):
            own = {i} | {j for j in reached[i] if i in reached[j]}
            others = set().union(*[reads[j] for j in own]) - own
            if i in placed or not others <= placed:
                continue
            carries = tuple(sorted(own))
            level = 1 + max([depth[j] for j in others], default=0)
            depth.update(dict.fromkeys(carries, level))
            placed |= own
            found.append(Group(carries, level, tuple(sorted(others)), _maps(body, known, carries)))
    return found


def composable(body: Body, groups: Sequence[Group]) -> list[Group]:
    """The groups whose steps can be composed, in chunks beside each other."""
    ready: set[int] = set()
    found = []
    for g in groups:
        if ready.issuperset(g.reads) and _obstacle(body, g) is None:
            ready.update(g.carries)
            found.append(g)
    return found


def _obstacle(body: Body, group: Group) -> Obstacle | None:
    """What prevents that a group's steps are composed, if the groups that it reads do not."""
    if isinstance(group.maps, Obstacle):
        return group.maps
    sources = {body.t, *body.sequences, *body.carries}
    roots = [*group.maps.step, *[body.next_carries[i] for i in group.carries]]
    if can_batch(roots, sources):
        return None
    # Which operation it is, is asked for a message alone.
    bound = dependents(roots, sources)
    node = next(n for n in topological(roots) if n in bound - sources and not can_batch([n], sources))
    return Obstacle(group.carries[0], node)


def check_composable(node: Node, label: str) -> None:
    """Raise if there are states of a loop whose steps cannot be composed.

    Raises
    ------
    OstinatoValueError
        With the state, and the operation that prevents it.
    """
    spec: LoopSpec = node.params[0]
    if spec.has_until:
        raise OstinatoValueError(
            f"{label}: with parallel=True chunks of steps run side by side, but until(...) decides after each step "
            "whether another one follows; leave one of both out"
        )
    body, known = seen_from_outside(node)
    problems = []
    for carry, culprit in filter(None, [_obstacle(body, g) for g in groups_of(body, known)]):
        state = body.carries[carry]
        problems.append(f"the state {state.name or short(state)} enters through {short(culprit)}{at(culprit.source)}")
    if problems:
        raise OstinatoValueError(
            f"{label}: parallel=True needs states whose steps can be composed before the states are known, such as "
            f"h' = a * h + b or h' = maximum(h, x), but {bullet_list(problems)}; leave out parallel=True, or let the "
            "state enter in such a way"
        )


def _below(root: Node) -> set[Node]:
    return set(topological([root]))


def _maps(body: Body, known: Mapping[Node, Any], carries: tuple[int, ...]) -> Maps | Obstacle:
    """The first family that fits; else what prevents that the states enter affinely."""
    if len(carries) == 1:
        for family in (_Held, _Extreme, _Tropical):
            found = family.read(body, carries[0])
            if found is not None:
                return found
    affine = read_affine(body, known, carries)
    if isinstance(affine, Obstacle) and len(carries) == 1:
        return _Vector.read(body, carries[0]) or _Matrices.read(body, carries[0]) or affine
    return affine


# ---- affine maps of elements ----------------------------------------------------------------------

# What a value is of the carries: the factor of each, where it has one, and the summand. Missing ones are zero.
Form = tuple[dict[int, Any], Any]


def linear_forms(values: Sequence[Node], carries: Mapping[Node, int], extent: Sequence[Any]) -> list[Form] | Node:
    """The values as sums of factors times carries, element by element; or the operation that prevents it.

    Parameters
    ----------
    extent : the sizes of the carries.
    """
    bound = dependents(values, carries.keys())
    found: dict[Node, Form] = {}
    for node in topological(values, stop=carries.keys()):
        if node in carries:
            found[node] = ({carries[node]: constant(1, node.type.dtype)}, None)
        elif node not in bound:
            found[node] = ({}, node)
        else:
            like = next(iter(carries))
            form = None
            type_ = node.type
            if isinstance(type_, TensorType) and (type_.ndim, type_.dtype) == (like.type.ndim, like.type.dtype):
                form = _combined(node, extent, [found[i] for i in node.inputs])
            if form is None:
                return node
            found[node] = form
    return [found[v] for v in values]


def _combined(node: Node, extent: Sequence[Any], forms: Sequence[Form]) -> Form | None:
    name = node.op.name
    if name in IDENTITIES:
        return forms[0]
    if name in ("sum_to", "broadcast_to"):
        same = name == "broadcast_to" or all(map(same_size, node.inputs[1:], extent))
        if node.type.ndim != node.inputs[0].type.ndim or not same:
            return None
        return _each(forms[0], lambda p: _stretched(node, p))
    if name == "neg":
        return _each(forms[0], lambda p: -p)
    if name in ("add", "sub"):
        return _sum(forms[0], forms[1] if name == "add" else _each(forms[1], lambda p: -p))
    if name == "mul" and not (forms[0][0] and forms[1][0]):
        parts, scale = (forms[0], forms[1][1]) if forms[0][0] else (forms[1], forms[0][1])
        return _each(parts, lambda p: times(p, scale))
    if name == "true_div" and not forms[1][0]:
        return _each(forms[0], lambda p: p / forms[1][1])
    if name == "where" and not forms[0][0]:
        return _chosen(forms[0][1], forms[1], forms[2], constant(0, node.type.dtype))
    return None


def _stretched(node: Node, part: Any) -> Any:
    """A part of what is broadcast, or summed where it was: what has fewer dimensions is the same along the others."""
    if part.type.ndim < node.type.ndim and node.op.name == "broadcast_to":
        return part
    lead = node.type.ndim - part.type.ndim
    return make(node.op, (dimshuffle(part, ["x"] * lead + list(range(part.type.ndim))), *node.inputs[1:]), node.params)


def _each(form: Form, rule: Any) -> Form:
    factors, summand = form
    return {k: rule(f) for k, f in factors.items()}, None if summand is None else rule(summand)


def _sum(a: Form, b: Form) -> Form:
    factors = {k: plus(a[0].get(k), b[0].get(k)) for k in {**a[0], **b[0]}}
    return factors, plus(a[1], b[1])


def _chosen(condition: Any, a: Form, b: Form, zero: Any) -> Form:
    def choice(x: Any, y: Any) -> Any:
        return None if x is None and y is None else where(condition, zero if x is None else x, zero if y is None else y)

    return {k: choice(a[0].get(k), b[0].get(k)) for k in {**a[0], **b[0]}}, choice(a[1], b[1])


def plus(a: Any, b: Any) -> Any:
    """A sum in which None is zero."""
    return b if a is None else a if b is None else a + b


def times(a: Any, b: Any) -> Any:
    """A product in which None is zero; one times something is that."""
    if a is None or b is None:
        return None
    return b if is_one(a) else a if is_one(b) else a * b


def is_one(x: Any) -> bool:
    """Whether an expression is the number 1."""
    return x is not None and x.op is CONSTANT and x.type.ndim == 0 and bool(x.params[0].array == 1)


Place = tuple[int, int]


class Affine:
    """h_i' = sum_j A_ij h_j + b_i, element by element; only what is not known to be 0 or 1 is computed.

    Attributes
    ----------
    likes : nodes of the types and sizes of the states.
    factors, summands : where a step's map has something, and where a composed one has: their places in its lists.
    """

    what = "affine in its state"

    def __init__(self, carries: tuple[int, ...], likes: Sequence[Any], forms: Sequence[Form], forgets: bool) -> None:
        self.carries, self.likes, self.forgets = carries, likes, forgets
        m = range(len(likes))
        own = {(i, j): forms[i][0][j] for i in m for j in m if j in forms[i][0]}
        self.is_sum = own.keys() == {(i, i) for i in m} and all(map(is_one, own.values()))
        shaped = self._shaped(own)
        self.own_factors = [] if self.is_sum else list(shaped)
        own_summands = [i for i in m if forms[i][1] is not None]
        summands = [broadcast_to(forms[i][1], sizes(likes[i])) for i in own_summands]
        self.factors = [] if self.is_sum else _closure(own.keys(), {(i, i) for i in m})
        self.summands = [i for i, _ in _closure(own.keys(), {(i, 0) for i in own_summands})]
        self.own_summands = own_summands
        self.step = [*([] if self.is_sum else shaped.values()), *summands]
        self.n_factors = (0 if self.is_sum else len(shaped), len(self.factors))

    def _shaped(self, own: dict[Place, Any]) -> dict[Place, Any]:
        """Factors of the rank of the state: of one element each, or of the state's sizes; one factor as it is."""
        like = self.likes[0]
        rank = like.type.ndim
        if len(own) > 1 and any(f.type.ndim for f in own.values()):
            return {p: broadcast_to(f, sizes(like)) for p, f in own.items()}
        return {p: dimshuffle(f, ["x"] * (rank - f.type.ndim) + list(range(f.type.ndim))) for p, f in own.items()}

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        like = self.likes[0]
        inner = sizes(self.step[0]) if self.factors else ()
        one, zero = (constant(v, like.type.dtype) for v in (1, 0))
        found = [broadcast_to(one if i == j else zero, (*factors, *inner)) for i, j in self.factors]
        return [*found, *[broadcast_to(zero, (*lead, *sizes(self.likes[i]))) for i in self.summands]]

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        n, k = len(self.factors), len(self.own_factors)
        a1, b1 = dict(zip(self.factors, first[:n], strict=True)), dict(zip(self.summands, first[n:], strict=True))
        a2 = dict(zip(self.own_factors, then[:k], strict=True))
        b2 = dict(zip(self.own_summands, then[k:], strict=True))
        if self.is_sum:
            return [plus(b1[i], b2.get(i)) for i in self.summands]
        m = range(len(self.likes))
        found = []
        for i, j in self.factors:
            entry = None
            for k in m:
                entry = plus(entry, self._times(a2.get((i, k)), a1.get((k, j))))
            found.append(entry if entry is not None else first[self.factors.index((i, j))] * 0)
        return [*found, *[self._moved(a2, b1, b2.get(i), i) for i in self.summands]]

    def _times(self, factor: Any, x: Any) -> Any:
        """A product; what a choice forgets is forgotten, also if it is a NaN or an infinity."""
        product = times(factor, x)
        if product is None or product is x or not self.forgets:
            return product
        return where(eq(factor, 0), constant(0, product.type.dtype), product)

    def _moved(self, a: dict[Place, Any], states: dict[int, Any], summand: Any, i: int) -> Any:
        total = None
        for k, state in states.items():
            total = plus(total, self._times(a.get((i, k)), state))
        total = plus(total, summand)
        return states[i] * 0 if total is None else total

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        n = len(self.factors)
        a, b = dict(zip(self.factors, composed[:n], strict=True)), dict(zip(self.summands, composed[n:], strict=True))
        if self.is_sum:
            return [plus(h, b.get(i)) for i, h in enumerate(states)]
        return [self._moved(a, dict(enumerate(states)), b.get(i), i) for i in range(len(states))]


def _forgets(values: Sequence[Node], carries: set[Node]) -> bool:
    """Whether a choice takes something else than what the state is."""
    bound = dependents(values, carries)
    return any(n.op.name == "where" and sum(i in bound for i in n.inputs[1:]) == 1 for n in bound)


def _closure(factors: Any, start: set[Place]) -> list[Place]:
    """Where a product of any number of matrices of a pattern has something."""
    found = set(start)
    while True:
        grown = found | {(i, j) for i, k in factors for l, j in found if k == l}
        if grown == found:
            return sorted(found)
        found = grown


def read_affine(body: Body, known: Mapping[Node, Any], carries: tuple[int, ...]) -> Affine | Obstacle:
    """States that enter affinely, element by element."""
    types = [body.carries[i].type for i in carries]
    values = [body.next_carries[i] for i in carries]
    if any(t.ndim != types[0].ndim or t.dtype != types[0].dtype for t in types) or types[0].dtype == "bool":
        return Obstacle(carries[0], values[0])
    extent = substitute(as_size_nodes(sizes(body.carries[carries[0]])), known)
    forms = linear_forms(values, {body.carries[i]: k for k, i in enumerate(carries)}, extent)
    if isinstance(forms, Node):
        names = dependents(values, {forms})
        return Obstacle(next(i for i, v in zip(carries, values, strict=True) if v in names), forms)
    likes = [body.carries[i] for i in carries]
    return Affine(carries, likes, forms, _forgets(values, set(likes)))


# ---- vectors of a few elements ---------------------------------------------------------------------

# Of so many elements, each with each.
_FEW = 4

# What is linear in its first operands, and in which of them together; the rest must be free of the state.
_LINEAR = {
    **dict.fromkeys(("neg", "sum", "dimshuffle", "reshape", "subtensor", "broadcast_to", "sum_to", "true_div"), 1),
    **dict.fromkeys(("add", "sub", "set_subtensor", "inc_subtensor"), 2),
}


class _Vector:
    """h' = A h + b for a vector of a few elements, in whatever operations: each element is a state by itself."""

    what = "affine in its state"

    carries: tuple[int, ...]
    step: list[Any]
    n_factors: tuple[int, int]

    def __init__(self, carry: int, like: Any, matrix: Any, summand: Any) -> None:
        m = range(like.type.shape[0])
        self.carries, self.like = (carry,), like
        forms = [({j: matrix[j, i] for j in m}, summand[i]) for i in m]  # a row of `matrix` is a column of A
        self.affine = Affine((carry,), [like[i] for i in m], forms, False)
        self.step, self.n_factors = self.affine.step, self.affine.n_factors

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        return self.affine.identity(lead, factors)

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        return self.affine.compose(first, then)

    @staticmethod
    def read(body: Body, place: int) -> _Vector | None:
        from ostinato.forward import tangents

        carry, value = body.carries[place], body.next_carries[place]
        shape = carry.type.shape
        if len(shape) != 1 or shape[0] is None or not 1 <= shape[0] <= _FEW or not carry.type.is_float:
            return None
        bound = dependents([value], {carry})
        if any(n is not carry and not _is_linear(n, bound) for n in bound) or any(
            not isinstance(n.type, TensorType) or n.type.dtype != carry.type.dtype for n in bound
        ):
            return None
        seed = new_input(carry.type)
        try:
            (moved,) = tangents([value], {carry: seed})
            columns = (
                None if moved is None else batched([moved], {seed: eye(shape[0], dtype=carry.type.dtype)}, shape[0])
            )
        except NoBatchError:
            return None
        if columns is None or dependents(columns, {carry}):
            return None
        (summand,) = substitute([value], {carry: broadcast_to(constant(0, carry.type.dtype), shape)})
        return _Vector(place, carry, columns[0], summand)

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        from ostinato.ops.composite import stack

        (h,) = states
        return [stack(self.affine.apply(composed, [h[i] for i in range(self.like.type.shape[0])]))]


def _is_linear(node: Node, bound: set[Node]) -> bool:
    """Whether an operation is linear in those of its operands that depend on the state."""
    enters = [i in bound for i in node.inputs]
    name = node.op.name
    if name in IDENTITIES or name == "concatenate":
        return True
    if name in ("mul", "matmul"):
        return sum(enters) == 1
    if name == "where":
        return not enters[0]
    return name in _LINEAR and not any(enters[_LINEAR[name] :])


# ---- products of matrices -------------------------------------------------------------------------


class _Matrices:
    """h' = A h + b for a vector, or a matrix h; or h' = h A + b."""

    what = "affine in its state, by a matrix"
    carries: tuple[int, ...]
    step: list[Any]
    n_factors: tuple[int, int] = (1, 1)

    def __init__(self, body: Body, carry: int, matrix: Any, summand: Any, right: bool) -> None:
        self.carries, self.like, self.right = (carry,), body.carries[carry], right
        self.has_summand = summand is not None
        self.step = [matrix, *([broadcast_to(summand, self._sizes())] if self.has_summand else [])]

    def _sizes(self) -> Sequence[Any]:
        own = sizes(self.like)
        return (*own, 1) if len(own) == 1 else own

    @staticmethod
    def read(body: Body, carry: int) -> _Matrices | None:
        like = body.carries[carry]
        if like.type.ndim not in (1, 2) or not like.type.is_float:
            return None
        for right in (False, True)[: like.type.ndim]:
            form = _MatrixForms(like, right).read(body.next_carries[carry])
            if form is not None and form[0] is not None:
                return _Matrices(body, carry, *form, right)
        return None

    def _times(self, a: Any, h: Any) -> Any:
        """The product in the order in which it was written."""
        return make(MATMUL, (h, a) if self.right else (a, h))

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        dtype = self.like.type.dtype
        k = sizes(self.step[0])[-1]
        found = [broadcast_to(eye(k, dtype=dtype), (*factors, k, k))]
        return [*found, *[broadcast_to(constant(0, dtype), (*lead, *self._sizes()))] * self.has_summand]

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        found = [self._times(then[0], first[0])]
        return [*found, *([self._times(then[0], first[1]) + then[1]] if self.has_summand else [])]

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        (h,) = states
        column = self.like.type.ndim == 1
        moved = self._times(composed[0], dimshuffle(h, 0, "x") if column else h)
        moved = moved + composed[1] if self.has_summand else moved
        return [dimshuffle(moved, 0) if column else moved]


class _MatrixForms:
    """Values as products of a matrix and the state, and a summand; of vectors as columns.

    A missing matrix stands for zero. What is transposed is told from what is not by the place of its ones.
    """

    def __init__(self, like: Node, right: bool) -> None:
        self.like, self.right = like, right
        self.vector = like.type.ndim == 1

    def read(self, value: Node) -> tuple[Any, Any] | None:
        like = self.like
        bound = dependents([value], {like})
        k = sizes(like)[-1 if self.right else 0]
        self.one = eye(k, dtype=like.type.dtype)
        found: dict[Node, Any] = {like: (self.one, None, "x" if self.vector else "")}
        for node in topological([value], stop={like}):
            if node in bound and node is not like:
                form = self._combined(node, [found.get(i) for i in node.inputs])
                if form is None or node.type.dtype != like.type.dtype:
                    return None
                found[node] = form
        form = found.get(value)
        return None if form is None else form[:2]

    def _combined(self, node: Node, forms: list[Any]) -> Any:
        name = node.op.name
        if name in IDENTITIES:
            return forms[0]
        if name == "neg":
            return self._each(forms[0], lambda p: -p)
        if name in ("add", "sub"):
            return self._sum(node, forms)
        if name in ("mul", "true_div"):
            return self._scaled(node, forms)
        if name == "dimshuffle" and self.vector:
            return self._turned(node, forms[0])
        if name == "matmul":
            return self._product(node, forms)
        return None

    def _each(self, form: Any, rule: Any) -> Any:
        return (rule(form[0]), None if form[1] is None else rule(form[1]), form[2])

    def _column(self, x: Any, view: str) -> Any:
        """A value that the state has no part in, as what is held of the state."""
        if view == "x" and x.type.ndim:
            return dimshuffle(x, 0, "x")
        return dimshuffle(x, 1, 0) if view == "row" and x.type.ndim == 2 else x

    def _sum(self, node: Node, forms: list[Any]) -> Any:
        view = next(f for f in forms if f is not None)[2]
        if any(i.type.ndim != node.type.ndim for i, f in zip(node.inputs, forms, strict=True) if f is not None):
            return None
        a, b = (
            (None, self._column(i, view), view) if f is None else f for i, f in zip(node.inputs, forms, strict=True)
        )
        if a[2] != b[2]:
            return None
        if node.op.name == "sub":
            b = (None if b[0] is None else -b[0], None if b[1] is None else -b[1], b[2])
        return plus(a[0], b[0]), plus(a[1], b[1]), view

    def _scaled(self, node: Node, forms: list[Any]) -> Any:
        """By a number; a vector also element by element."""
        if forms[1] is not None and (forms[0] is not None or node.op.name == "true_div"):
            return None
        form, scale = (forms[0], node.inputs[1]) if forms[0] is not None else (forms[1], node.inputs[0])
        per_element = self.vector and scale.type.ndim == 1 and form[2] == "x"
        if scale.type.ndim and not per_element:
            return None
        scale = self._column(scale, form[2]) if per_element else scale
        return self._each(form, (lambda p: p / scale) if node.op.name == "true_div" else lambda p: p * scale)

    def _turned(self, node: Node, form: Any) -> Any:
        order = tuple(node.params[0])
        views = {("x", (0, "x")): "col", ("x", ("x", 0)): "row", ("col", (0,)): "x", ("row", (1,)): "x"}
        view = views.get((form[2], order))
        return None if view is None else (*form[:2], view)

    def _product(self, node: Node, forms: list[Any]) -> Any:
        left, right = forms
        if (left is None) == (right is None) or node.type.ndim != 2:
            return None
        form, factor = (right, node.inputs[0]) if left is None else (left, node.inputs[1])
        if self.vector:
            if form[2] != ("col" if left is None else "row"):
                return None
            factor = factor if left is None else dimshuffle(factor, 1, 0)
        elif (left is not None) != self.right:
            return None
        pairs = [None if p is None else (p, factor) if self.right else (factor, p) for p in form[:2]]
        matrix = factor if form[0] is self.one else None if pairs[0] is None else make(MATMUL, pairs[0])
        return matrix, None if pairs[1] is None else make(MATMUL, pairs[1]), form[2]


# ---- extremes, and maps of the semiring of extremes and sums --------------------------------------


# Of bool the two values, of integers the bounds.
def _least(dtype: str) -> Any:
    return False if dtype == "bool" else -np.inf if dtype.startswith("float") else np.iinfo(dtype).min


def _greatest(dtype: str) -> Any:
    return True if dtype == "bool" else np.inf if dtype.startswith("float") else np.iinfo(dtype).max


# What an operation leaves as it is.
_NEUTRAL: dict[str, Callable[[str], Any]] = {
    "maximum": _least,
    "minimum": _greatest,
    "logaddexp": _least,
    "or": lambda dtype: 0,
    "and": lambda dtype: 1 if dtype == "bool" else -1 if dtype.startswith("int") else np.iinfo(dtype).max,
    "xor": lambda dtype: 0,
}
_NAMES = {
    "maximum": "a running maximum",
    "minimum": "a running minimum",
    "logaddexp": "a running logsumexp",
    "or": "a running or",
    "and": "a running and",
    "xor": "a running xor",
}


class _Tropical:
    """h' = max(h + a, b), or so with another operation in the place of max; without `a` for most of them."""

    carries: tuple[int, ...]
    step: list[Any]
    n_factors: tuple[int, int]

    def __init__(self, carry: Node, place: int, name: str, shift: Any, summand: Any) -> None:
        self.carry, self.carries, self.name = carry, (place,), name
        self.has_shift = shift is not None
        self.what = _NAMES[name] + (" of shifted values" if self.has_shift else "")
        shifts = [broadcast_to(shift, sizes(carry))] if self.has_shift else []
        self.step = [*shifts, broadcast_to(summand, sizes(carry))]
        self.n_factors = (len(shifts), len(shifts))

    @staticmethod
    def read(body: Body, place: int) -> _Tropical | None:
        carry, value = body.carries[place], body.next_carries[place]
        bound = dependents([value], {carry})
        names = {n.op.name for n in bound} & _NEUTRAL.keys()
        if len(names) != 1:
            return None
        name = names.pop()
        found: dict[Node, Any] = {carry: (constant(0, carry.type.dtype), None)}  # shift, summand
        for node in topological([value], stop={carry}):
            if node in bound and node is not carry:
                form = _tropical(node, name, [found.get(i) for i in node.inputs])
                if form is None or node.type.ndim != carry.type.ndim or node.type.dtype != carry.type.dtype:
                    return None
                found[node] = form
        shift, summand = found[value]
        if summand is None:
            return None
        plain = shift.op is CONSTANT and not shift.params[0].array.any()
        if not plain and not carry.type.is_float:
            return None  # integers have no infinity that stays one
        return _Tropical(carry, place, name, None if plain else shift, summand)

    def _both(self, a: Any, b: Any) -> Any:
        return make(OPS[self.name], (a, b))

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        dtype, inner = self.carry.type.dtype, sizes(self.carry)
        neutral = [broadcast_to(constant(_NEUTRAL[self.name](dtype), dtype), (*lead, *inner))]
        return [*([broadcast_to(constant(0, dtype), (*factors, *inner))] if self.has_shift else []), *neutral]

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        if not self.has_shift:
            return [self._both(first[0], then[0])]
        return [first[0] + then[0], self._both(first[1] + then[0], then[1])]

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        (h,) = states
        return [self._both(h + composed[0] if self.has_shift else h, composed[-1])]


def _tropical(node: Node, name: str, forms: list[Any]) -> Any:
    """The shift of the state and what else there is; None if the operation is of another kind."""
    a, b = (*forms, None)[:2]
    if node.op.name in IDENTITIES:
        return a
    if node.op.name == name:
        parts = [(None, i) if f is None else f for i, f in zip(node.inputs, forms, strict=True)]
        if parts[0][0] is not None and parts[1][0] is not None and parts[0][0] is not parts[1][0]:
            shift = make(OPS[name], (parts[0][0], parts[1][0]))
        else:
            shift = parts[0][0] if parts[0][0] is not None else parts[1][0]
            if parts[0][0] is parts[1][0] and name in ("logaddexp", "xor"):
                return None  # twice the state is not the state
        summands = [s for _, s in parts if s is not None]
        return shift, summands[0] if len(summands) == 1 else make(OPS[name], tuple(summands)) if summands else None
    if name in ("maximum", "minimum", "logaddexp") and node.op.name in ("add", "sub") and (a is None) != (b is None):
        moved: Any
        form, moved = (a, node.inputs[1]) if a is not None else (b, node.inputs[0])
        if node.op.name == "sub":
            if a is None:
                return None
            moved = -moved
        zero = form[0].op is CONSTANT and not form[0].params[0].array.any()
        return moved if zero else form[0] + moved, None if form[1] is None else form[1] + moved
    return None


_MIRRORED = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}


class _Extreme:
    """h' = where(x > h, x, h), or with another comparison: the condition is read again of two composed ones."""

    carries: tuple[int, ...]
    step: list[Any]
    n_factors: tuple[int, int] = (0, 0)

    def __init__(self, carry: Node, place: int, value: Node, name: str, x: Any) -> None:
        self.carry, self.carries, self.value, self.name = carry, (place,), value, name
        self.greatest = (name in ("gt", "ge")) == (value.inputs[1] is x)
        self.keeps = value.inputs[2] is carry  # which branch is that of the state
        self.what = f"a running {'maximum' if self.greatest else 'minimum'}"
        self.step = [broadcast_to(x, sizes(carry))]

    @staticmethod
    def read(body: Body, place: int) -> _Extreme | None:
        carry, value = body.carries[place], body.next_carries[place]
        if value.op.name != "where" or value.type.ndim != carry.type.ndim:
            return None
        test, *branches = value.inputs
        if test.op.name not in _MIRRORED or carry not in branches or set(test.inputs) != set(branches):
            return None
        x = next((b for b in branches if b is not carry), None)
        if x is None or dependents([x], {carry}) or carry.type.dtype == "bool":
            return None
        name = test.op.name if test.inputs[0] is x else _MIRRORED[test.op.name]
        return _Extreme(carry, place, value, name, x)

    def _later(self, h: Any, x: Any) -> Any:
        test = make(OPS[self.name], (x, h))
        return where(test, x, h) if self.keeps else where(test, h, x)

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        dtype = self.carry.type.dtype
        value = _least(dtype) if self.greatest else _greatest(dtype)
        return [broadcast_to(constant(value, dtype), (*lead, *sizes(self.carry)))]

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        return [self._later(first[0], then[0])]

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        return [self._later(states[0], composed[0])]


class _Held:
    """h' = where(c, x, h): the last value for which a condition held."""

    what = "held until a condition"
    carries: tuple[int, ...]
    step: list[Any]
    n_factors: tuple[int, int] = (0, 0)

    def __init__(self, carry: Node, place: int, condition: Any, x: Any) -> None:
        self.carry, self.carries = carry, (place,)
        self.step = [broadcast_to(condition, sizes(carry)), broadcast_to(x, sizes(carry))]

    @staticmethod
    def read(body: Body, place: int) -> _Held | None:
        carry, value = body.carries[place], body.next_carries[place]
        if value.op.name != "where" or value.type.ndim != carry.type.ndim:
            return None
        test, x, y = value.inputs
        if carry not in (x, y) or x is y or dependents([test], {carry}):
            return None
        condition, other = (test, x) if y is carry else (logical_not(test), y)
        return None if dependents([other], {carry}) else _Held(carry, place, condition, other)

    def identity(self, lead: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        shape = (*lead, *sizes(self.carry))
        return [broadcast_to(constant(0, d), shape) for d in ("bool", self.carry.type.dtype)]

    def compose(self, first: Sequence[Any], then: Sequence[Any]) -> list[Any]:
        return [first[0] | then[0], where(then[0], then[1], first[1])]

    def apply(self, composed: Sequence[Any], states: Sequence[Any]) -> list[Any]:
        return [where(composed[0], composed[1], states[0])]
