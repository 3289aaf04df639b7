"""`device=`: what runs where, what goes in and comes out, shared values on the device, reports and errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.tensor as T
from on_gpu import ON_GPU, normal, torch
from ostinato import function, shared
from ostinato.backends.triton.kernels import rehearsal
from ostinato.backends.triton.run import Program
from ostinato.backends.triton.tensors import default_device

scan = ostinato.scan


def rnn(dtype: str = "float64") -> tuple[Any, Any, Any]:
    x, a = T.tensor(dtype, (None, None), "x"), T.tensor(dtype, (None,), "a")
    y, _ = scan(lambda x_t, h: T.tanh(a * h + x_t), x, T.zeros_like(x[0]), name="rnn")
    return x, a, y


def moved(f: Any) -> tuple[int, int]:
    """How many arrays a function has moved to the device and to the host."""
    transfers = f._run.notes.transfers
    return transfers["to the device"], transfers["to the host"]


# ---- in and out -----------------------------------------------------------------------------------


def test_results_are_tensors_on_the_device_in_the_form_that_was_asked_for() -> None:
    x, a, y = rnn()
    arrays = [normal(4, 3, dtype="float64"), normal(3, dtype="float64")]
    expected = function([x, a], y)(*arrays)
    one = function([x, a], y, device="cuda")(*arrays)
    assert isinstance(one, torch.Tensor)
    assert (one.device, one.dtype, one.is_contiguous()) == (default_device(), torch.float64, True)
    np.testing.assert_allclose(one.cpu(), expected, rtol=1e-12)
    several = function([x, a], {"y": y, "last": y[-1]}, device="cuda")(*arrays)
    assert several["y"].shape == (4, 3)
    assert several["last"].shape == (3,)
    assert several["last"].untyped_storage().nbytes() < 1000
    assert function([x, a], None, device="cuda", on_unused_input="ignore")(*arrays) is None


def test_arrays_come_back_in_the_mode_for_programs_that_know_numpy() -> None:
    x, a, y = rnn()
    found = function([x, a], y, mode="gpu")(normal(4, 3, dtype="float64"), normal(3, dtype="float64"))
    assert type(found) is np.ndarray
    assert found.flags.writeable


def test_tensors_on_the_device_are_not_copied() -> None:
    x, a, y = rnn()
    f = function([x, a], T.sum(y), device="cuda")
    given = [
        torch.tensor(v, device=default_device()) for v in (normal(4, 3, dtype="float64"), normal(3, dtype="float64"))
    ]
    for _ in range(3):
        f(*given)
    assert moved(f) == (0, 0)
    f(given[0].cpu().numpy(), given[1])
    assert moved(f) == (1, 0)


class Capsule:
    """Nothing but the two methods of DLPack."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("make", [Capsule, lambda t: t, lambda t: t.requires_grad_(), lambda t: t.float()])
def test_arguments_with_dlpack(make: Any) -> None:
    x, a, y = rnn()
    values = normal(4, 3), normal(3)
    given = [torch.tensor(v, device=default_device(), dtype=torch.float64) for v in values]
    f = function([x, a], y, device="cuda")
    found = f(make(given[0]), a=make(given[1]))
    np.testing.assert_allclose(found.cpu(), function([x, a], y)(*[v.astype("float64") for v in values]), rtol=1e-12)
    assert moved(f) == (0, 0)


def test_numbers_lists_and_defaults() -> None:
    x, k, n = T.dvector("x"), T.dscalar("k"), T.lscalar("n")
    y, _ = scan(lambda h: h * k, outputs_info=[x], n_steps=n)
    f = function([x, ostinato.In(k, value=0.5), n], y, device="cuda")
    assert f([8.0, 4.0], n=2).tolist() == [[4, 2], [2, 1]]
    assert f([8.0, 4.0], 1, torch.tensor(1)).tolist() == [[8, 4]]
    assert f([8.0, 4.0], torch.tensor(2.0), np.int64(1)).tolist() == [[16, 8]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda: torch.zeros(3),
            r"input 0 'x'.*: expected float32\[\?, \?\], got a tensor of float32 and shape \(3,\)",
        ),
        (lambda: torch.zeros(3, 2, dtype=torch.float64), r"may lose precision; convert it by .to\(torch.float32\)"),
        (lambda: torch.zeros(3, 2, dtype=torch.bfloat16), "got a tensor of bfloat16 .*there is no form of it here"),
        (lambda: torch.zeros(3, 2, dtype=torch.complex64), "got a tensor of complex64"),
        (lambda: torch.zeros(3, 2).to_sparse(), "got a tensor of float32"),
        (lambda: np.zeros(3), r"expected float32\[\?, \?\], got float64\[3\]"),
        (lambda: "abc", "expected float32"),
    ],
)
def test_arguments_that_do_not_fit(value: Any, message: str) -> None:
    x = T.fmatrix("x")
    f = function([x], T.sum(x), device="cuda")
    with pytest.raises(ostinato.OstinatoTypeError, match=message):
        f(value())


def test_results_share_memory_with_nothing() -> None:
    x, s = T.dmatrix("x"), shared(np.ones((2, 3)), "s")
    f = function([x], [x, x[0], x.T, T.zeros((2, 2)), T.constant(2.5), s, s * 1], updates={s: s + 1}, device="cuda")
    given = torch.ones(2, 3, dtype=torch.float64, device=default_device())
    first = f(given)
    for tensor in first:
        tensor += 100
    assert given.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert s.get_value().tolist() == [[2, 2, 2], [2, 2, 2]]
    assert [float(t.flatten()[0]) for t in f(given)] == [1, 1, 1, 0, 2.5, 2, 2]


def test_loops_of_no_steps_and_the_arrays_they_start_from() -> None:
    x, a, y = rnn()
    (last, _), _ = scan(lambda h, k: (h + 1, k), None, [a, T.zeros_like(a)], n_steps=x.shape[0])
    assert function([x, a], y, device="cuda")(np.zeros((0, 3)), np.ones(3)).shape == (0, 3)
    assert function([x, a], last, device="cuda")(np.zeros((0, 3)), np.ones(3)).shape == (0, 3)


def test_errors_are_those_of_the_reference() -> None:
    x, a, y = rnn()
    for run in (function([x, a], y), function([x, a], y, device="cuda")):
        with pytest.raises(ostinato.ShapeError, match=r"step 0 of rnn: .*could not be broadcast"):
            run(np.ones((4, 3)), np.ones(2))
    v = T.dvector("v")
    with pytest.raises(ostinato.OstinatoIndexError, match="index 7 is out of bounds for axis 0 with size 2"):
        function([v], v[7], device="cuda")([1.0, 2.0])
    m = T.dmatrix("m")
    with pytest.raises(ostinato.LinearAlgebraError, match="not positive definite"):
        function([m], T.linalg.cholesky(m), device="cuda")([[1.0, 2.0], [2.0, 1.0]])


# ---- shared variables -----------------------------------------------------------------------------


def training(device: Any = "cuda") -> tuple[Any, Any, Any]:
    x, w, n = T.dmatrix("x"), shared(np.full(3, 0.5), "w"), shared(0, "n")
    y, _ = scan(lambda x_t, h: T.tanh(w * h + x_t), x, T.zeros_like(x[0]))
    cost = T.sum(y**2)
    updates = [(w, w - 0.1 * T.grad(cost, w)), (n, n + 1)]
    return function([x], cost, updates=updates, device=device), w, n


def test_shared_values_stay_on_the_device() -> None:
    (f, w, n), (g, v, _) = training(), training("cpu")
    x = torch.tensor(normal(5, 3, dtype="float64"), device=default_device())
    f(x)
    first = moved(f)
    costs = [float(f(x)) for _ in range(4)]
    assert moved(f) == first  # the value went there once
    expected = [float(g(x.cpu().numpy())) for _ in range(5)]
    np.testing.assert_allclose(costs, expected[1:], rtol=1e-12)
    np.testing.assert_allclose(w.get_value(), v.get_value(), rtol=1e-12)
    assert int(n.get_value()) == 5
    assert type(w.get_value()) is np.ndarray
    f(x)
    assert moved(f) == first  # reading the value does not make it go again


def test_functions_of_both_devices_share_a_variable() -> None:
    s = shared(np.zeros(3), "s")
    there, here = (function([], s, updates={s: s + 1}, device=d) for d in ("cuda", "cpu"))
    native = function([], s, updates={s: s + 1}, mode="native")
    for k, run in enumerate([there, here, there, native, native, there, there, here, native]):
        assert np.asarray(run().tolist()).tolist() == [float(k)] * 3
    assert s.get_value().tolist() == [9, 9, 9]


def test_set_value_is_seen_and_a_copy_is_taken() -> None:
    s = shared(np.zeros(3), "s")
    f = function([], s * 2, device="cuda")
    assert f().tolist() == [0, 0, 0]
    new = np.ones(2)
    s.set_value(new)
    new[:] = 7
    assert f().tolist() == [2, 2]
    assert moved(f)[0] == 2
    f()
    assert moved(f)[0] == 2


def test_borrowed_arrays_are_read_at_each_call() -> None:
    start = np.zeros(3)
    s = shared(start, "s", borrow=True)
    f = function([], s * 2, device="cuda")
    f()
    start += 1
    assert f().tolist() == [2, 2, 2]
    lent = shared(np.zeros(3), "lent")
    g, add = function([], lent * 2, device="cuda"), function([], updates={lent: lent + 1}, device="cuda")
    g()
    lent.get_value(borrow=True)[:] = 5
    assert g().tolist() == [10, 10, 10]
    add()
    assert g().tolist() == [12, 12, 12]
    outside = lent.get_value(borrow=True)
    assert outside.tolist() == [6, 6, 6]
    outside[0] = 0
    assert g().tolist() == [0, 12, 12]
    assert lent.get_value(borrow=True) is outside
    add()
    assert outside.tolist() == [0, 6, 6]
    before = moved(g)[0]
    g()
    g()
    assert moved(g)[0] == before  # the borrowed array is no value of the variable any more


def test_a_failed_call_changes_nothing() -> None:
    x, s, n = T.dvector("x"), shared(np.zeros(3), "s"), shared(0, "n")
    f = function([x], x[5], updates={s: s + 1, n: n + 1}, device="cuda")
    with pytest.raises(ostinato.OstinatoIndexError):
        f([1.0])
    assert (s.get_value().tolist(), int(n.get_value())) == ([0, 0, 0], 0)
    f(np.zeros(6))
    assert (s.get_value().tolist(), int(n.get_value())) == ([1, 1, 1], 1)


def test_a_rehearsal_changes_nothing() -> None:
    f, w, n = training()
    with rehearsal():
        g, v, m = training()
        g(normal(5, 3, dtype="float64"))
    f(normal(5, 3, dtype="float64"))
    assert (v.get_value().tolist(), int(m.get_value()), int(n.get_value())) == ([0.5] * 3, 0, 1)
    assert w.get_value().tolist() != [0.5] * 3


def test_calls_from_several_threads() -> None:
    f, _, n = training()
    x, seen = normal(4, 3, dtype="float64"), []
    threads = [threading.Thread(target=lambda: seen.append(float(f(x)))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(seen) == 4
    assert 1 <= int(n.get_value()) <= 4


# ---- which device ---------------------------------------------------------------------------------


def device_of(device: Any = None, mode: Any = None, outputs: Any = None) -> tuple[str, bool]:
    x, a, y = rnn()
    choice = function([x, a], outputs or [y], device=device, mode=mode).choice
    return choice.device, choice.tensors


def test_names() -> None:
    assert device_of() == ("cpu", False)
    assert device_of("cpu") == device_of("cpu", "native") == device_of(mode="FAST_RUN") == ("cpu", False)
    for name in ("cuda", "cuda:0", "gpu", "gpu0", torch.device("cuda")):
        assert device_of(name) == ("cuda", True)
    assert device_of(mode="gpu") == ("cuda", False)
    assert device_of("cuda", "gpu") == ("cuda", True)
    assert device_of(torch.device("cpu")) == ("cpu", False)


def test_the_flag() -> None:
    with ostinato.config.change_flags(device="gpu0"):  # as in a program written for Theano
        assert device_of() == ("cuda", True)
        assert device_of(mode="native") == device_of("cpu") == ("cpu", False)
    with ostinato.config.change_flags(device="auto"):
        assert device_of() == ("cuda", True)
    with ostinato.config.change_flags(mode="gpu"):
        assert device_of() == ("cuda", False)
        assert device_of("cuda") == ("cuda", True)
        with pytest.raises(ostinato.OstinatoValueError, match="mode='gpu' of the configuration contradict"):
            device_of("cpu")
    with ostinato.config.change_flags(mode="native", device="cuda"):
        assert device_of() == ("cuda", True)


@pytest.mark.parametrize(
    ("device", "mode", "message"),
    [
        ("tpu", None, "device is one of 'cpu', 'cuda', 'auto', not 'tpu'"),
        (3, None, "device is one of 'cpu', 'cuda', 'auto', not 3"),
        ("cuda", "native", "device='cuda' and mode='native', which runs on the CPU: give one of them only"),
        ("cpu", "gpu", "device='cpu' and mode='gpu' contradict each other"),
        ("auto", "gpu", "device='auto' and mode='gpu' contradict each other"),
    ],
)
def test_what_contradicts_itself(device: Any, mode: Any, message: str) -> None:
    with pytest.raises(ostinato.OstinatoValueError, match=message):
        device_of(device, mode)


def scalar_chain() -> Any:
    x = T.dvector("x")
    y, _ = scan(lambda x_t, h: T.tanh(h * 0.5 + x_t), x, T.constant(0.0, dtype="float64"))
    return [x], [y, T.grad(T.sum(y**2), x)]


def autoregression() -> Any:
    x, init, p = T.dvectors("x", "init", "p")
    step: Any = lambda x_t, b, a: x_t + p[0] * a + p[1] * b  # noqa: E731
    y, _ = scan(step, x, [{"initial": init, "taps": [-2, -1]}])
    return [x, init, p], [y, *T.grad(T.sum(y**2), [x, p, init])]


def pair() -> Any:
    s, p = T.dvectors("s", "p")
    step: Any = lambda s: T.stack([s[0] - p[0] * s[1], s[1] + p[1] * s[0]])  # noqa: E731
    y, _ = scan(step, outputs_info=[s], n_steps=9)
    return [s, p], [y]


def squares() -> Any:
    x = T.dvector("x")
    return [x], [ostinato.map(lambda v: T.exp(v) ** 2, x)[0]]


def plain() -> Any:
    x = T.dvector("x")
    return [x], [T.exp(x)]


def ensemble() -> Any:
    x, a, y = rnn()
    return [x, a], [y, T.grad(T.sum(y), a)]


@pytest.mark.parametrize(
    ("make", "device", "why"),
    [
        (scalar_chain, "cpu", "The device is cpu, since each of its loops is a single scalar chain: a CPU is faster."),
        (autoregression, "cpu", "The device is cpu, since each of its loops is a single scalar chain"),
        (pair, "cpu", "The device is cpu, since its loop is a single scalar chain"),
        (plain, "cpu", "The device is cpu, since there is no loop to make a kernel of."),
        (squares, "cuda", "The device is cuda, since a loop has steps that do not wait for each other."),
        (
            ensemble,
            "cuda",
            "The device is cuda, since loop 'rnn' carries states of type float64[?], whose elements can",
        ),
    ],
)
def test_automatic_choice(make: Any, device: str, why: str) -> None:
    inputs, outputs = make()
    f = function(inputs, outputs, device="auto", mode=None)
    assert f.choice.device == device
    assert why in f.explain()


def test_a_chain_that_is_sent_to_the_gpu_all_the_same() -> None:
    inputs, outputs = scalar_chain()
    text = function(inputs, outputs, device="cuda").explain()
    assert "The CPU may be the better device, since each of its loops is a single scalar chain" in text
    assert "single scalar chain" not in function(inputs, outputs).explain()


# ---- what was done --------------------------------------------------------------------------------


def test_the_report() -> None:
    x, a, y = rnn()
    f = function([x, a], [y, T.grad(T.sum(y**2), a)], mode="gpu", name="net")
    before = f.explain()
    assert "No loop was run so far." in before
    assert f.compilations == 0
    assert "No kernel was made so far" in f.explain("triton")
    for n in (3, 4, 5):
        f(normal(n, 3, dtype="float64"), normal(3, dtype="float64"))
    lines = f.explain().splitlines()
    assert lines[0].startswith("net(x, a): run ")
    assert lines[0].endswith(", with a kernel for all steps of a loop.")
    assert lines[1].startswith("Compiling took ")
    assert sum(line.startswith("Loop rnn: one lane-parallel kernel for all steps") for line in lines) == 1
    assert sum(line.startswith("Loop gradient of rnn: one lane-parallel kernel") for line in lines) == 1
    assert any(
        line.startswith("Moved in 3 calls: ") and line.endswith("; nothing while a kernel runs.") for line in lines
    )
    assert f.compilations == 2
    text = f.explain("triton")
    assert text.count("def loop(") == 2
    assert text.startswith("# Loop rnn: one lane-parallel kernel")
    with pytest.raises(ostinato.OstinatoValueError, match="has no stage 'ptx'; there is graph, triton"):
        f.explain("ptx")


# ---- without a GPU, and without the extra ---------------------------------------------------------

ASK = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
import ostinato, ostinato.tensor as T
x = T.dmatrix("x")
y, _ = ostinato.scan(lambda v, h: T.tanh(h + v), x, T.zeros_like(x[0]))
f = ostinato.function([x], y, device="auto")
print(f.choice.device, type(f([[1.0, 2.0]])).__name__, "|", f.choice.why)
for how in (dict(device="cuda"), dict(mode="gpu")):
    try:
        ostinato.function([x], y, **how)
    except ostinato.DeviceError as error:
        print(error)
print([m for m in ("torch", "triton") if sys.modules.get(m)])
"""


@pytest.mark.skipif(ON_GPU, reason="there is a GPU")
@pytest.mark.parametrize(
    ("hidden", "problem"),
    [
        ([], "torch .* finds none"),
        (["torch"], "torch is not installed"),
        (["torch", "triton"], "torch and triton are not"),
    ],
)
def test_without(hidden: list[str], problem: str) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(hidden=hidden)], env=environ, capture_output=True, text=True, check=False
    )
    auto, by_device, by_mode, imported = done.stdout.splitlines()
    assert auto.startswith("cpu ndarray | cpu, since no GPU can be used: ")
    assert by_device == by_mode
    assert by_device.startswith("no GPU can be used: ")
    assert "pip install ostinato[gpu]" in by_device
    assert "device='auto'" in by_device
    assert imported == ("[]" if hidden else "['torch']")
    assert re.search(problem, by_device)


def test_a_call_that_memory_is_too_small_for_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    x, a, y = rnn("float32")
    outputs = [T.sum(y[-1] ** 2), T.grad(T.sum(y[-1] ** 2), a)]
    small, large = ([normal(n, 3), normal(3)] for n in (5, 60))
    f = function([x, a], outputs, device="cuda")
    g = function([x, a], outputs, mode="reference")
    run, tried = Program.run, []

    def limited(self: Program, values: Any) -> Any:
        if self is f._run._program:
            tried.append(values[0].shape[0])
            if values[0].shape[0] > 10:
                raise torch.cuda.OutOfMemoryError("no memory")
        return run(self, values)

    monkeypatch.setattr(Program, "run", limited)
    monkeypatch.setattr("ostinato.backends.triton.executable.free_memory", lambda: 4000)
    for arrays in (small, large, large, small):
        for found, wanted in zip(f(*arrays), g(*arrays), strict=True):
            np.testing.assert_allclose(found.cpu(), wanted, rtol=1e-5, atol=1e-6)
    assert tried == [5, 60, 5]  # what did not fit once is not tried again
    assert "its loops kept less" in f.explain()
    assert "blocks of gradient of rnn" in f.explain()
    monkeypatch.setattr("ostinato.backends.triton.executable.free_memory", lambda: 10)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="no memory"):
        f(normal(61, 3), normal(3))
    with ostinato.config.change_flags(memory_budget="none"):
        f = function([x, a], outputs, device="cuda")
    with pytest.raises(torch.cuda.OutOfMemoryError, match="no memory"):
        f(*large)
