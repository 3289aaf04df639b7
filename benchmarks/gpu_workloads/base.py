"""What a task for the GPU says of itself, and the registry of the rows of the table.

A task is computed by one body for NumPy, JAX and torch, written with the operations of `Ops` and a scan that has
the signature of `jax.lax.scan`, and by one for Ostinato, as its users write it. NumPy in float64 is the reference.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from suite import KINDS, Workload

Ops = SimpleNamespace  # tanh, exp, log, sigmoid, peak, split, contract, layer_norm
Product = Callable[[Any], Callable[..., Any]]  # of a matrix W: a function of h, and perhaps x, that gives x + h @ W

TOLERANCE = {"float64": 1e-8, "ieee": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
FLOAT64 = "float64"
PRECISIONS = ("ieee", "tf32", "bf16")  # of products; all else of a task in float32 is in float32


@dataclass(frozen=True)
class Task(Workload):
    """A computation of a certain size."""

    steps: int = 1000
    dtype: str = "float32"
    precision: str = "ieee"

    tiny: ClassVar[dict[str, int]] = {}  # the sizes at which results are compared with the reference
    static: ClassVar[dict[str, int]] = {}  # type: ignore[assignment]  # how many of the last sizes belong to the model
    sequences: ClassVar[tuple[str, ...]] = ()  # arguments with a value per step
    cudnn: ClassVar[str] = ""  # the module of torch.nn that computes the same
    has_products: ClassVar[bool] = False

    @property
    def tolerance(self) -> float:  # type: ignore[override]
        return TOLERANCE[FLOAT64 if self.dtype == FLOAT64 else self.precision]

    @property
    @abstractmethod
    def title(self) -> str:
        """The name without the dtype."""

    @property
    def name(self) -> str:  # type: ignore[override]
        how = {"ieee": "float32"}.get(self.precision, self.precision) if self.has_products else ""
        return ", ".join(part for part in (self.title, FLOAT64 if self.dtype == FLOAT64 else how) if part)

    @property
    def huge(self) -> bool:
        """Whether arrays have gigabytes: such rows come last, since some libraries keep the memory that they had."""
        return False

    @abstractmethod
    def arguments(self, draw: Draw) -> dict[str, Any]:  # type: ignore[override]
        """The arguments by name, in order: arrays all."""

    @abstractmethod
    def body(self, ops: Ops, scan: Callable[..., Any], product: Product, **arguments: Any) -> list[Any]:
        """As NumPy, JAX and torch compute it."""

    @abstractmethod
    def symbolic(self, T: Any, scan: Callable[..., Any], **arguments: Any) -> list[Any]:
        """As Ostinato computes it."""

    def numpy(self, **arguments: Any) -> list[Any]:  # type: ignore[override]
        return self.body(numpy_ops(), numpy_scan, lambda W: lambda h, x=0: x + h @ W, **arguments)

    def small(self) -> Task:
        return dataclasses.replace(self, **self.tiny)

    def shortened(self, steps: int, arguments: dict[str, Any]) -> tuple[Task, dict[str, Any]]:
        """The same with fewer steps, and its arguments."""
        fewer = {n: v[:steps] if n in self.sequences else v for n, v in arguments.items()}
        return dataclasses.replace(self, steps=steps), fewer


class Draw:
    """Random arguments as NumPy arrays."""

    def __init__(self, dtype: str, seed: int = 1) -> None:
        self.dtype, self._rng = dtype, np.random.default_rng(seed)

    def normal(self, *shape: int) -> Any:
        return self._rng.standard_normal(shape).astype(self.dtype)

    def uniform(self, low: float, high: float, *shape: int) -> Any:
        return self._rng.uniform(low, high, shape).astype(self.dtype)

    def zeros(self, *shape: int) -> Any:
        return np.zeros(shape, self.dtype)


class TorchDraw(Draw):
    """Random arguments as torch tensors, made where they are needed."""

    def __init__(self, torch: Any, device: str, dtype: str, seed: int = 1) -> None:
        self._torch = torch
        self._options = {"dtype": getattr(torch, dtype), "device": device}
        self._rng = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int) -> Any:
        return self._torch.randn(shape, generator=self._rng, **self._options)

    def uniform(self, low: float, high: float, *shape: int) -> Any:
        return self._torch.rand(shape, generator=self._rng, **self._options).mul_(high - low).add_(low)

    def zeros(self, *shape: int) -> Any:
        return self._torch.zeros(shape, **self._options)


def numpy_ops() -> Ops:
    """Operations that are right for complex numbers too."""

    def layer_norm(x: Any, gain: Any, bias: Any = 0) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gain + bias

    return Ops(
        tanh=np.tanh,
        exp=np.exp,
        log=np.log,
        sigmoid=lambda x: 1 / (1 + np.exp(-x)),
        peak=lambda x: x.max(-1, keepdims=True),
        split=lambda x, n: np.split(x, n, -1),
        contract=lambda k, S: np.einsum("nk,nkv->nv", k, S),
        layer_norm=layer_norm,
    )


EPSILON = 1e-5  # of a layer norm


def loop(stack: Callable[..., Any], step: Any, state: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """A scan by a loop in Python: the state after the last step, and what the steps gave, stacked."""
    kept = []
    for t in range(length):
        state, y = step(state, None if xs is None else tuple(x[t] for x in xs))
        kept.append(y)
    return state, stacked(stack, kept)


def stacked(stack: Callable[..., Any], kept: list[Any]) -> Any:
    if not kept or kept[0] is None:
        return None
    if isinstance(kept[0], tuple):
        return tuple(stack(list(ys)) for ys in zip(*kept, strict=True))
    return stack(kept)


def numpy_scan(step: Any, state: Any, xs: Any, length: int) -> tuple[Any, Any]:
    return loop(np.stack, step, state, xs, length)


class Row(NamedTuple):
    """What a row of the table measures."""

    task: Task
    kind: str
    quick: bool  # a part of a quick run too
    extras: tuple[str, ...]  # systems that compile for long and are asked in a few rows only

    @property
    def name(self) -> str:
        return f"{self.task.name}, {self.kind}"


ROWS: dict[str, Row] = {}


def register(task: Task, *kinds: str, quick: bool = False, extras: tuple[str, ...] = ()) -> None:
    """Enter a task into the registry, with a row per kind."""
    for kind in kinds:
        row = Row(task, kind, quick, extras)
        if row.name in ROWS or kind not in KINDS:
            raise ValueError(f"there is a row {row.name!r}, or no such kind")
        ROWS[row.name] = row


def power(n: int) -> str:
    """10000 as 10⁴, other numbers as they are."""
    exponent = round(math.log10(n))
    return (
        f"10{str(exponent).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}" if n == 10**exponent > 10 else f"{n}"
    )
