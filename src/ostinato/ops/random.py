"""Random numbers as a function of integers: Philox 4x32-10 on elements, with nothing to remember between them.

Every op here takes a 64-bit key and a 128-bit counter in two halves, `high` and `low`, as int64 operands that
broadcast. From them Philox makes a block of 128 bits; `word` says which half of it is used, 0 or 1. Equal operands
give equal numbers: on every backend, in every thread, in a recomputation. What keys and counters are made of is
decided in `ostinato.random`; distributions are composites, in `ostinato.distributions`.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC '11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ostinato.errors import OstinatoTypeError
from ostinato.graph import Node, make
from ostinato.ops.batch import aligned
from ostinato.ops.leaf import as_tensor, describe
from ostinato.ops.op import Op, Sample, register
from ostinato.ops.sizes import broadcast_sizes
from ostinato.types import TensorType, broadcast_static

# The multipliers of the rounds, and what is added to the two halves of the key after each of them.
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
# The names of the ops; they are elementwise.
RANDOM = ("random_bits", "random_uniform", "random_below")
# The intervals of `random_uniform`: [0, 1) and (0, 1].
INTERVALS = ("from_zero", "to_one")

_M = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(key: Any, high: Any, low: Any) -> tuple[Any, Any]:
    """The two 64-bit words of a block.

    Parameters
    ----------
    key, high, low : int64 arrays that broadcast
        The key, and the halves of the counter. The less significant 32 bits of each are the first of Philox's words.

    Returns
    -------
    pair of uint64 arrays
        Philox's words 0 and 1, and 2 and 3; the first of each pair is the less significant half.
    """
    operands = np.broadcast_arrays(*[np.asarray(v).astype(np.uint64) for v in (key, high, low)])
    key, high, low = operands
    c0, c1, c2, c3 = low & _M, low >> _32, high & _M, high >> _32
    k0, k1 = key & _M, key >> _32
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _M, (p0 >> _32) ^ c3 ^ k1, p0 & _M
        k0, k1 = (k0 + np.uint64(WEYL[0])) & _M, (k1 + np.uint64(WEYL[1])) & _M
    return c0 | (c1 << _32), c2 | (c3 << _32)


def _bits_numpy(key: Any, high: Any, low: Any, *, word: int) -> Any:
    return philox(key, high, low)[word].astype(np.int64)[()]


def _uniform_numpy(key: Any, high: Any, low: Any, *, dtype: str, word: int, interval: str) -> Any:
    bits = philox(key, high, low)[word]
    if interval == "from_zero":
        n = 53 if dtype == "float64" else 24
        whole = bits >> np.uint64(64 - n)
    else:  # the float32 nearest to a number of 32 bits: there are more small ones than multiples of 2**-24
        n = 53 if dtype == "float64" else 32
        whole = (bits >> np.uint64(64 - n)) + np.uint64(1)
    return (whole.astype(np.float64) * 2.0**-n).astype(dtype)[()]


def _below_numpy(key: Any, high: Any, low: Any, n: Any, *, word: int) -> Any:
    bits, n = np.broadcast_arrays(philox(key, high, low)[word], np.asarray(n).astype(np.uint64))
    x, y = bits & _M, bits >> _32
    a, b = n & _M, n >> _32
    middle = y * a + (x * a >> _32)  # the upper half of the product of 128 bits, from four products of 64
    carry = (middle & _M) + x * b
    return (y * b + (middle >> _32) + (carry >> _32)).astype(np.int64)[()]


def _infer(name: str, dtype: Callable[..., str]) -> Callable[..., TensorType]:
    def infer(*inputs: Node, **params: Any) -> TensorType:
        wrong = [describe(i) for i in inputs if i.type.dtype != "int64"]
        if wrong:
            raise OstinatoTypeError(f"{name}: expected int64 operands, got {', '.join(wrong)}")
        return TensorType(dtype(**params), broadcast_static([i.type.shape for i in inputs]))

    return infer


def _int64(**params: Any) -> str:
    return "int64"


def _dtype(*, dtype: str, **params: Any) -> str:
    return dtype


_KEYS = np.array([[5], [-7]])
_ELEMENTS = np.array([0, 1, 2**40])

BITS: Op = register(
    Op(
        "random_bits",
        infer=_infer("random_bits", _int64),
        numpy=_bits_numpy,
        sizes=lambda *inputs, word: broadcast_sizes(inputs),
        batch=aligned,
        params=("word",),
        samples=(
            Sample(lambda k, h, e: make(BITS, (k, h, e), (0,)), (_KEYS, np.int64(3), _ELEMENTS)),
            Sample(lambda k, h, e: make(BITS, (k, h, e), (1,)), (np.int64(-1), np.int64(3), np.int64(2))),
        ),
        connected=False,
        doc="64 random bits from a key and the two halves of a counter (Philox 4x32-10).",
    )
)
UNIFORM: Op = register(
    Op(
        "random_uniform",
        infer=_infer("random_uniform", _dtype),
        numpy=_uniform_numpy,
        sizes=lambda *inputs, dtype, word, interval: broadcast_sizes(inputs),
        batch=aligned,
        params=("dtype", "word", "interval"),
        samples=tuple(
            Sample(
                lambda k, h, e, params=(dtype, word, interval): make(UNIFORM, (k, h, e), params),
                (_KEYS, np.int64(3), _ELEMENTS),
                differentiable=False,
            )
            for dtype, word, interval in (
                ("float64", 0, "from_zero"),
                ("float64", 1, "to_one"),
                ("float32", 1, "from_zero"),
                ("float32", 0, "to_one"),
            )
        ),
        connected=False,
        doc="A uniform random number in [0, 1), or in (0, 1], from a key and the two halves of a counter.",
    )
)
BELOW: Op = register(
    Op(
        "random_below",
        infer=_infer("random_below", _int64),
        numpy=_below_numpy,
        sizes=lambda *inputs, word: broadcast_sizes(inputs),
        batch=aligned,
        params=("word",),
        samples=(
            Sample(
                lambda k, h, e, n: make(BELOW, (k, h, e, n), (0,)),
                (_KEYS, np.int64(3), _ELEMENTS, np.array([6, 2**62, 2**33 + 1])),
            ),
        ),
        connected=False,
        doc="A random integer from 0 up to, without, its last operand, read as an unsigned number of 64 bits.",
    )
)


def _implicit_vjp(g: Any, out: Any, x: Any, parameter: Any) -> tuple[Any, Any]:
    from ostinato.distributions import log_gamma_slope

    return None, g * log_gamma_slope(parameter, out)


def _implicit_jvp(tangents: Sequence[Any], out: Any, x: Any, parameter: Any) -> Any:
    from ostinato.distributions import log_gamma_slope

    return None if tangents[1] is None else tangents[1] * log_gamma_slope(parameter, out)


LOG_GAMMA: Op = register(
    Op(
        "log_gamma_sample",
        infer=lambda x, parameter: x.type,
        numpy=lambda x, parameter: x,
        vjp=_implicit_vjp,
        jvp=_implicit_jvp,
        sizes=lambda x, parameter: broadcast_sizes((x,)),
        batch=lambda rows: rows.made((rows.all_steps(0), rows.padded(1, rows.node.type.ndim))),
        samples=(
            Sample(
                lambda x, a: make(LOG_GAMMA, (x, a)),
                (np.array([-0.3, 0.8]), np.array([0.7, 2.5])),
                differentiable=False,
            ),
        ),
        cheap=True,
        doc="Its first operand, the logarithm of a draw from a gamma distribution, with a derivative by the shape.",
    )
)


# ---- building -------------------------------------------------------------------------------------


def _integers(*values: Any) -> tuple[Any, ...]:
    return tuple([as_tensor(v, dtype="int64") for v in values])


def bits(key: Any, high: Any, low: Any, word: int = 0) -> Any:
    """64 random bits, as int64."""
    return make(BITS, _integers(key, high, low), (word,))


def unit(key: Any, high: Any, low: Any, dtype: str, word: int = 0, interval: str = "from_zero") -> Any:
    """A uniform number: a multiple of 2**-53 (float64) or 2**-24 (float32) in [0, 1).

    With `interval="to_one"` one in (0, 1]: a multiple of 2**-53, or the float32 nearest to a multiple of 2**-32.
    """
    return make(UNIFORM, _integers(key, high, low), (dtype, word, interval))


def below(key: Any, high: Any, low: Any, n: Any, word: int = 0) -> Any:
    """An integer from 0 up to, without, n: the upper half of the product of n and 64 bits.

    Some are more probable than others by no more than n / 2**64.
    """
    return make(BELOW, _integers(key, high, low, n), (word,))
