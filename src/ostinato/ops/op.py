"""What an op is: one record with all its facets, and the registry of all of them.

To add an op, declare it once in the file of its family: name, type rule, NumPy reference, reverse rule,
samples. The generated tests (`tests/test_ops.py`) find it in `OPS` by themselves. What other ops can
express is not an op but a composite: a plain function in `composite.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato.graph import Node

# A rule of an op. It receives the op's static parameters by name, after what its field's line says.
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """Example arguments of an op for the generated tests.

    `build(*variables)` returns a node (of any expression around the op); `arrays` are the values of the
    variables. `differentiable=False` where the sample point is a kink or the op has no derivative.
    """

    build: Rule
    arrays: tuple[Any, ...]
    differentiable: bool = True


@dataclass(frozen=True, eq=False)
class Op:
    """A primitive operation; all that the compiler knows about it.

    Attributes
    ----------
    name : str
    infer : (*input nodes, **params) -> type
        The type of the result. Raises an `OstinatoError` that names the inputs if they do not fit.
    numpy : (*arrays, **params) -> array
        The reference. Its result has exactly the declared dtype.
    vjp : (g, out, *inputs, **params) -> cotangents
        The reverse rule, in terms of nodes: from the cotangent of the result to one cotangent per input,
        None where there is none. Without a rule the op cannot be differentiated.
    jvp : (tangents, out, *inputs, **params) -> tangent
        The forward rule, in terms of nodes: from one tangent per input, None for zero (but not all of them), to the
        tangent of the result, of its sizes, or None for zero; a list for an op of several results. Without it the
        reverse rule is transposed, which is right always; a rule of its own is worth it where that is simpler.
    sizes : (*input nodes, **params) -> sizes
        Sizes of the result as ints or int64 scalar nodes; None in a place (or no rule) says that only the
        computed value knows.
    batch : (rows, **params) -> node
        The op for many steps of a loop at once, from a `batch.Rows`: the operands, of which those that change from
        step to step have a leading axis of steps. Raises `batch.NoBatchError` where there is no such form. Without
        it the op stays in the loop.
    params : names of the static parameters, in the order of `Node.params`.
    samples : for the generated tests.
    cheap : whether recomputing it costs less than loading a saved result (elementwise arithmetic, views).
    linear : whether the reverse rule is linear in the cotangent, as that of any derivative is.
    connected : whether a derivative may pass; False for what depends on shapes only.
    """

    name: str
    infer: Rule
    numpy: Rule
    vjp: Rule | None = None
    jvp: Rule | None = None
    sizes: Rule | None = None
    batch: Rule | None = None
    params: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    cheap: bool = False
    linear: bool = True
    connected: bool = True
    doc: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<op {self.name}>"


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Enter an op into the registry; its name must be new."""
    if op.name in OPS:
        raise ValueError(f"there is an op {op.name!r} already")
    OPS[op.name] = op
    return op


def params_of(node: Node) -> dict[str, Any]:
    """The static parameters of a node by name."""
    return dict(zip(node.op.params, node.params, strict=True))
