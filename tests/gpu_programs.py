"""Programs of all classes of kernels, compiled for a GPU that is not there: `python gpu_programs.py NAME ...`.

A process of its own, since Triton either interprets or compiles. It prints a line of JSON per kernel.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ostinato
import ostinato.tensor as T

Shapes = list[tuple[int, ...]]
scan = ostinato.scan


def lanes(dtype: str, n: int) -> tuple[list[Any], list[Any], Shapes]:
    x, a = T.tensor(dtype, (None, None), "x"), T.tensor(dtype, (None,), "a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]))
    return [x, a], [y, *T.grad(T.sum(y**2), [x, a])], [(100, n), (n,)]


def masks() -> tuple[list[Any], list[Any], Shapes]:
    """What decided which branch a derivative takes is recorded, a byte each."""
    x, w, h0 = T.ftensor3("x"), T.fmatrix("w"), T.fmatrix("h0")
    y, _ = scan(lambda x_t, h: T.maximum(T.dot(h, w) + x_t, 0) - T.switch(h * x_t > 1, h, 0.1 * h), x, h0)
    return [x, w, h0], [y, *T.grad(T.sum(y**2), [w, h0])], [(100, 32, 64), (64, 64), (32, 64)]


def system() -> tuple[list[Any], list[Any], Shapes]:
    s0, p = T.fmatrix("s0"), T.fvector("p")

    def slope(s: Any) -> Any:
        return T.stack([s[0] * (p[0] - p[1] * s[1]), s[1] * (p[2] * s[0] - p[3])])

    def step(s: Any) -> Any:
        h = np.float32(0.01)
        k1 = slope(s)
        k2 = slope(s + h / 2 * k1)
        k3 = slope(s + h / 2 * k2)
        return s + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(s + h * k3))

    y, _ = scan(step, outputs_info=[s0], n_steps=100)
    return [s0, p], [y[-1], *T.grad(T.sum(y[-1] ** 2), [s0, p])], [(2, 4096), (4,)]


def lstm(rows: int, hidden: int) -> tuple[list[Any], list[Any], Shapes]:
    x, h0, c0, W, U, b = T.ftensor3("x"), *T.fmatrices("h0", "c0", "W", "U"), T.fvector("b")
    n = h0.shape[1]

    def step(x_t: Any, h: Any, c: Any) -> tuple[Any, Any]:
        z = T.dot(x_t, W) + T.dot(h, U) + b
        i, f, g, o = [z[:, k * n : (k + 1) * n] for k in range(4)]
        c = T.nnet.sigmoid(f) * c + T.nnet.sigmoid(i) * T.tanh(g)
        return T.nnet.sigmoid(o) * T.tanh(c), c

    (h, _), _ = scan(step, x, [h0, c0])
    shapes = [(100, rows, hidden), (rows, hidden), (rows, hidden), (hidden, 4 * hidden), (hidden, 4 * hidden)]
    return [x, h0, c0, W, U, b], [h, *T.grad(T.sum(h**2), [W, U, b])], [*shapes, (4 * hidden,)]


def layer_norm() -> tuple[list[Any], list[Any], Shapes]:
    x, h0, U, g = T.ftensor3("x"), *T.fmatrices("h0", "U"), T.fvector("g")

    def step(x_t: Any, h: Any) -> Any:
        z = T.dot(h, U) + x_t
        centred = z - T.mean(z, axis=1, keepdims=True)
        return T.tanh(centred / T.sqrt(T.mean(centred**2, axis=1, keepdims=True) + np.float32(1e-5)) * g)

    y, _ = scan(step, x, [h0])
    return [x, h0, U, g], [y, *T.grad(T.sum(y**2), [U, g, x])], [(100, 64, 100), (64, 100), (100, 100), (100,)]


def vector_state() -> tuple[list[Any], list[Any], Shapes]:
    x, U = T.fmatrices("x", "U")
    y, _ = scan(lambda x_t, h: T.tanh(T.dot(h, U) + x_t), x, T.zeros_like(x[0]))
    return [x, U], [y, *T.grad(T.sum(y**2), [U])], [(100, 64), (64, 64)]


def delta_rule(width: int) -> tuple[list[Any], list[Any], Shapes]:
    q, k, v = (T.ftensor3(n) for n in "qkv")
    b, S0 = T.fmatrix("b"), T.ftensor3("S0")

    def step(q_t: Any, k_t: Any, v_t: Any, b_t: Any, S: Any) -> tuple[Any, Any]:
        error = v_t - T.sum(k_t[:, :, None] * S, axis=1)
        S = S + (b_t[:, None] * k_t)[:, :, None] * error[:, None, :]
        return S, T.sum(q_t[:, :, None] * S, axis=1)

    (_, y), _ = scan(step, [q, k, v, b], [S0, None])
    rows = (100, 8, width)
    return [q, k, v, b, S0], [y], [rows, rows, rows, (100, 8), (8, width, width)]


def hmm(states: int) -> tuple[list[Any], list[Any], Shapes]:
    e, A = T.ftensor3("e"), T.fmatrix("A")

    def step(e_t: Any, a: Any) -> Any:
        z = a[:, :, None] + A
        top = T.max(z, axis=1, keepdims=True)
        return T.log(T.sum(T.exp(z - top), axis=1)) + top[:, 0, :] + e_t

    y, _ = scan(step, e, [e[0]])
    return [e, A], [y, *T.grad(T.sum(y[-1]), [e, A])], [(100, 1000, states), (states, states)]


def taps() -> tuple[list[Any], list[Any], Shapes]:
    x, init = T.fmatrices("x", "init")
    y, _ = scan(lambda x_t, a, b: T.tanh(x_t + a * 0.5 - b * 0.2), x, [{"initial": init, "taps": [-3, -1]}])
    return [x, init], [y, *T.grad(T.sum(y**2), [x, init])], [(100, 1000), (3, 1000)]


def condition() -> tuple[list[Any], list[Any], Shapes]:
    x = T.fvector("x")

    def step(h: Any) -> Any:
        h = h * np.float32(0.7)
        return h, ostinato.until(T.max(T.abs(h)) < 0.1)

    y, _ = scan(step, outputs_info=[x], n_steps=10**6)
    return [x], [y], [(100,)]


def functions() -> tuple[list[Any], list[Any], Shapes]:
    """The functions that the interpreter does not know, and some whose text is another one there."""
    x = T.fmatrix("x")
    names = "arcsin arccos arctan arcsinh arccosh arctanh gammaln round log1p expm1 sinh cosh erf erfc tan log2 exp2"

    def step(x_t: Any, h: Any) -> Any:
        values = [getattr(T, n)(x_t + 2 if n == "arccosh" else x_t) for n in names.split()]
        return T.tanh(h * 0.5 + sum(values) + T.arctan2(x_t, h)) + x_t ** (h + 2)

    y, _ = scan(step, x, T.ones_like(x[0]))
    return [x], [y, T.grad(T.sum(y), x)], [(100, 1000)]


def random() -> tuple[list[Any], list[Any], Shapes]:
    x, y = T.fvector("x"), T.dvector("y")
    draws = ostinato.RandomStreams(1)

    def step(a: Any, b: Any, n: Any) -> list[Any]:
        single = T.tanh(a) + draws.normal(x.shape, dtype="float32")
        return [single, b + draws.exponential(y.shape, dtype="float64"), n + draws.randint(x.shape, 0, 10**10)]

    outputs, _ = scan(step, outputs_info=[x, y, T.cast(T.zeros_like(x), "int64")], n_steps=100)
    return [x, y], [*outputs, T.grad(T.sum(outputs[0]), x)], [(4096,), (4096,)]


PROGRAMS: dict[str, tuple[Callable[[], tuple[list[Any], list[Any], Shapes]], str]] = {
    "lanes-float32": (lambda: lanes("float32", 4096), "ieee"),
    "lanes-float64": (lambda: lanes("float64", 1 << 17), "ieee"),
    "masks": (masks, "ieee"),
    "system": (system, "ieee"),
    "taps": (taps, "ieee"),
    "condition": (condition, "ieee"),
    "functions": (functions, "ieee"),
    "random": (random, "ieee"),
    "hmm-64": (lambda: hmm(64), "ieee"),
    "delta-rule-64": (lambda: delta_rule(64), "ieee"),
    "vector-state": (vector_state, "ieee"),
    "layer-norm": (layer_norm, "ieee"),
    "lstm-64": (lambda: lstm(32, 64), "ieee"),
    "lstm-128-bf16": (lambda: lstm(32, 128), "bf16"),
    "lstm-128-tf32": (lambda: lstm(32, 128), "tf32"),
    "lstm-1024-one-row": (lambda: lstm(1, 1024), "ieee"),
}


def resources(kernel: Any) -> tuple[int, int]:
    """Registers and bytes of stack per thread, which is where registers go that do not suffice."""
    import triton

    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=False)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
    assert found, done.stderr
    return int(found[1]), int(found[2])


def compile_program(name: str) -> None:
    """Print what the kernels of a program need."""
    import torch

    from ostinato.backends.triton.kernels import compiled_for, rehearsal

    make, precision = PROGRAMS[name]
    inputs, outputs, shapes = make()
    with ostinato.config.change_flags(gpu_precision=precision), rehearsal() as found:
        f = ostinato.function(inputs, outputs, mode="gpu")
        f(*[torch.empty(s, dtype=getattr(torch, i.dtype), device="meta") for i, s in zip(inputs, shapes, strict=True)])
        for kernel, arguments in found:
            start = time.perf_counter()
            compiled = compiled_for(kernel, arguments)
            registers, stack = resources(compiled)
            told = {"program": name, "kernel": kernel.description, "shared": compiled.metadata.shared}
            told |= {"registers": registers, "stack": stack, "seconds": round(time.perf_counter() - start, 1)}
            print(json.dumps(told | {"stepped": f._run.notes.stepped}), flush=True)


# Of each kernel that times operations: the pointers' type, and the instruction that the others wait for.
CHAINS = {
    ("arithmetic", "float32"): ("fp32", r"fma\.rn\.f32"),
    ("arithmetic", "float64"): ("fp64", r"fma\.rn\.f64"),
    ("quotient", "float32"): ("fp32", r"div\.full\.f32"),
    ("quotient", "float64"): ("fp64", r"div\.rn\.f64"),
    ("function", "float32"): ("fp32", r"ex2\.approx\S*\.f32"),
    ("function", "float64"): ("fp64", r"add\.rn\.f64"),
    ("product", "tf32"): ("fp32", r"mma\.\S*\.tf32"),
    ("product", "bf16"): ("fp32", r"mma\.\S*\.bf16"),
}


def compile_chains() -> None:
    """Print what the kernels of `benchmarks/gpu_kernels.py` need, and how many instructions are left of each chain."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    from gpu_kernels import KERNELS

    for (operation, kind), (type_, instruction) in CHAINS.items():
        signature = {**dict.fromkeys(("start", "constant", "result"), f"*{type_}"), "n": "i32", "AT_ONCE": "constexpr"}
        constants: dict[tuple[int, ...], Any] = {(4,): 8}
        if operation == "product":
            signature["HALF"], constants[(5,)] = "constexpr", kind == "bf16"
        divisible = {(k,): [["tt.divisibility", 16]] for k in range(4)}
        source = ASTSource(fn=KERNELS[operation], signature=signature, constexprs=constants, attrs=divisible)
        options = {"num_warps": 1, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        registers, stack = resources(compiled)
        told = {"program": "chains", "kernel": f"{operation}, {kind}", "shared": compiled.metadata.shared}
        told |= {"registers": registers, "stack": stack, "stepped": {}}
        print(json.dumps(told | {"instructions": len(re.findall(instruction, compiled.asm["ptx"]))}), flush=True)


if __name__ == "__main__":
    for program in sys.argv[1:]:
        compile_chains() if program == "chains" else compile_program(program)
