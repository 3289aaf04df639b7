"""Ostinato under the name `theano`: what `install` makes importable, what it says of the rest, how it is undone."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ostinato
import ostinato.gradient
import ostinato.tensor as T
from ostinato.compat import theano as layer
from ostinato.compat.theano.rng_mrg import MRG_RandomStreams


@pytest.fixture
def theano() -> Iterator[Any]:
    layer.install()
    try:
        yield importlib.import_module("theano")
    finally:
        layer.uninstall()


def python(*args: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Another process, so that neither can see what the other imported."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != "THEANO_FLAGS"}, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def namespace_of(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(source, names)
    return names


# ---- what is there --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("from theano import function", "function", ostinato.function),
        ("from theano import shared", "shared", ostinato.shared),
        ("from theano import scan", "scan", ostinato.scan),
        ("from theano import config", "config", ostinato.config),
        ("from theano import grad as g", "g", ostinato.grad),
        ("from theano.tensor.nnet import sigmoid", "sigmoid", T.nnet.sigmoid),
        ("from theano.tensor import TensorVariable", "TensorVariable", ostinato.TensorVariable),
        ("from theano.scan_module import until", "until", ostinato.until),
        ("from theano.gradient import disconnected_grad as d", "d", ostinato.gradient.disconnected_grad),
        ("from theano.printing import debugprint", "debugprint", ostinato.printing.debugprint),
        ("from theano.sandbox.rng_mrg import MRG_RandomStreams", "MRG_RandomStreams", MRG_RandomStreams),
        ("from theano.tensor.shared_randomstreams import RandomStreams", "RandomStreams", ostinato.RandomStreams),
        (
            "from theano.tensor.shared_randomstreams import RandomStreams as R",
            "R",
            T.shared_randomstreams.RandomStreams,
        ),
        ("from theano.tensor import *", "dot", T.dot),
        ("from theano.tensor import *", "scalar", T.scalar),
    ],
)
def test_names_are_ostinatos_own(theano: Any, source: str, name: str, expected: Any) -> None:
    assert namespace_of(source)[name] is expected


@pytest.mark.parametrize(
    "source",
    [
        "import theano.tensor as T",
        "from theano import tensor as T",
        "import theano; T = theano.tensor",
        "import theano.tensor.nnet; T = theano.tensor",
        "import importlib; T = importlib.import_module('theano.tensor')",
        "from theano.tensor.nnet import relu; import sys; T = sys.modules['theano.tensor']",
    ],
)
def test_a_module_is_one_object_however_imported(theano: Any, source: str) -> None:
    assert namespace_of(source)["T"] is theano.tensor


def test_submodules_need_no_import_of_their_own(theano: Any) -> None:
    assert theano.tensor.nnet.softmax is T.nnet.softmax
    assert theano.gradient.grad is theano.grad is theano.tensor.grad


def test_every_public_name_of_tensor_is_there_and_no_helper(theano: Any) -> None:
    names = set(theano.tensor.__all__)
    assert {"dot", "matrix", "tanh", "switch", "nnet", "TensorType"} <= names
    assert not names & {"Any", "annotations", "constructors", "variable", "_source"}
    assert names <= set(dir(theano.tensor))


def test_config_is_the_same_object(theano: Any) -> None:
    before = ostinato.config.floatX
    theano.config.floatX = "float32"
    try:
        assert ostinato.config.floatX == "float32"
        assert T.matrix().dtype == theano.tensor.scalar().dtype == "float32"
    finally:
        theano.config.floatX = before


def test_version(theano: Any) -> None:
    version = importlib.import_module("theano.version")
    assert theano.__version__ == theano.version.version == version.full_version == "1.0.5+ostinato"
    assert [int(part) for part in version.short_version.split(".")] == [1, 0, 5]


def test_the_modules_say_what_they_are(theano: Any) -> None:
    assert repr(theano.tensor) == "<module 'theano.tensor' (ostinato's Theano layer)>"
    assert theano.tensor.__name__ == "theano.tensor"
    assert importlib.reload(theano) is theano


def test_a_program_may_put_names_into_the_modules(theano: Any) -> None:
    theano.tensor.my_own = 1
    assert namespace_of("from theano.tensor import my_own")["my_own"] == 1
    assert not hasattr(T, "my_own")


def test_scan_until_and_disconnected_grad(theano: Any) -> None:
    names = namespace_of(
        "import theano, theano.tensor as T\n"
        "from theano.scan_module import until\n"
        "from theano.gradient import disconnected_grad\n"
        "x, top = T.dscalar('x'), T.dscalar('top')\n"
        "powers, updates = theano.scan(\n"
        "    lambda p, x: (p * x, until(p * x > top)), outputs_info=[x], non_sequences=[x], n_steps=50)\n"
        "f = theano.function([x, top], powers, updates=updates)\n"
        "g = theano.function([x], theano.grad(x ** 2 * disconnected_grad(x), x))\n"
    )
    np.testing.assert_allclose(names["f"](2.0, 20.0), [4.0, 8.0, 16.0, 32.0])
    np.testing.assert_allclose(names["g"](3.0), 18.0)


# ---- what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "close"),
    [
        ("import theano.ifelse", "its modules are theano, theano.gradient"),
        ("from theano.sandbox.cuda import CudaNdarrayType", "theano.sandbox.cuda is not part"),
        ("import theano.scan_modules", "close to it: theano.scan_module"),
        ("from theano import sofmax", "close to it: theano.tensor.softmax"),
        ("from theano import nnet", "close to it: theano.tensor.nnet"),
        ("from theano.tensor.nnet import sigmoyd", "close to it: theano.tensor.nnet.sigmoid"),
        ("import theano.printing.nothing_like_it", "dir(theano.printing) shows what is there"),
    ],
)
def test_an_import_of_what_is_missing(theano: Any, source: str, close: str) -> None:
    with pytest.raises(ImportError) as caught:
        namespace_of(source)
    assert isinstance(caught.value, ostinato.OstinatoError)
    assert "is not part of ostinato's Theano layer (yet)" in str(caught.value)
    assert close in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "close"),
    [
        ("theano.softmax", "theano.softmax is not part of ostinato's Theano layer (yet); close to it: theano.tensor."),
        ("theano.tensor.tahn", "close to it: theano.tensor.tan"),
        ("theano.tensor.nothing_like_it", "dir(theano.tensor) shows what is there"),
        ("theano.tensor.constructors", "theano.tensor.constructors is not part"),
        ("theano.printing.TextIO", "theano.printing.TextIO is not part"),
    ],
)
def test_a_name_that_is_missing(theano: Any, expression: str, close: str) -> None:
    with pytest.raises(AttributeError) as caught:
        eval(expression, {"theano": theano})
    assert isinstance(caught.value, ostinato.OstinatoError)
    assert close in str(caught.value)


@pytest.mark.parametrize(
    ("module", "advice"),
    [("theano.config", "from theano import config"), ("theano.tensor.dot", "from theano.tensor import dot")],
)
def test_a_name_imported_as_a_module(theano: Any, module: str, advice: str) -> None:
    with pytest.raises(ImportError, match=f"{module} is not a module, but a name in one: {advice}"):
        importlib.import_module(module)


def test_programs_can_probe_for_what_is_missing(theano: Any) -> None:
    assert not hasattr(theano, "ifelse")
    assert getattr(theano.tensor, "conv2d", None) is None
    assert not hasattr(theano, "__file__")
    names = namespace_of("try:\n    from theano import sparse\nexcept ImportError:\n    sparse = None\n")
    assert names["sparse"] is None


# ---- installing and uninstalling ------------------------------------------------------------------


def test_uninstall_restores_the_import_system() -> None:
    modules, finders = dict(sys.modules), list(sys.meta_path)
    layer.install()
    assert layer.is_installed()
    namespace_of("import theano.tensor.nnet, theano.printing; from theano import gradient, version")
    assert "theano.tensor.nnet" in sys.modules
    layer.uninstall()
    assert not layer.is_installed()
    assert dict(sys.modules) == modules
    assert list(sys.meta_path) == finders
    with pytest.raises(ModuleNotFoundError, match="No module named 'theano'"):
        importlib.import_module("theano")


def test_install_and_uninstall_are_idempotent() -> None:
    finders = list(sys.meta_path)
    layer.uninstall()
    layer.install()
    first = importlib.import_module("theano")
    layer.install()
    layer.install(force=True)
    assert importlib.import_module("theano") is first
    assert len(sys.meta_path) == len(finders) + 1
    layer.uninstall()
    layer.uninstall()
    assert list(sys.meta_path) == finders


def test_installing_imports_nothing_by_itself() -> None:
    layer.install()
    try:
        assert not [name for name in sys.modules if name.split(".")[0] == "theano"]
    finally:
        layer.uninstall()


def test_what_was_imported_outlives_uninstall() -> None:
    layer.install()
    theano = importlib.import_module("theano")
    layer.uninstall()
    assert theano.tensor.nnet.sigmoid is T.nnet.sigmoid
    with pytest.raises(AttributeError, match="close to it"):
        theano.tensor.sigmoyd  # noqa: B018


def test_many_threads_install_and_import() -> None:
    found: list[Any] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        layer.install()
        found.append(importlib.import_module("theano.tensor.nnet"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    finders = list(sys.meta_path)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(map(id, found))) == 1
    finally:
        layer.uninstall()
    assert list(sys.meta_path) == finders


# ---- beside a real Theano -------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Something that Python finds as an installed Theano."""
    package = tmp_path / "theano"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'real'\n")
    (package / "tensor.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package / "__init__.py"
    for name in ("theano", "theano.tensor"):
        sys.modules.pop(name, None)


def test_an_installed_theano_is_not_shadowed_unasked(real: Path) -> None:
    with pytest.raises(layer.TheanoConflictError, match="a real Theano is installed") as caught:
        layer.install()
    assert isinstance(caught.value, ostinato.OstinatoError)
    assert str(real) in str(caught.value)
    assert "force=True" in str(caught.value)
    assert not layer.is_installed()
    assert importlib.import_module("theano").__version__ == "real"


def test_an_imported_theano_is_not_shadowed_unasked(real: Path) -> None:
    theano = importlib.import_module("theano")
    with pytest.raises(layer.TheanoConflictError, match="already imported"):
        layer.install()
    assert sys.modules["theano"] is theano


def test_force_hides_a_real_theano_until_uninstall(real: Path) -> None:
    theano, tensor = importlib.import_module("theano"), importlib.import_module("theano.tensor")
    layer.install(force=True)
    try:
        assert importlib.import_module("theano").function is ostinato.function
        assert importlib.import_module("theano.tensor").dot is T.dot
    finally:
        layer.uninstall()
    assert sys.modules["theano"] is theano
    assert sys.modules["theano.tensor"] is tensor
    assert theano.tensor is tensor


def test_a_mere_folder_called_theano_is_no_theano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theano").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    layer.install()
    try:
        assert importlib.import_module("theano").scan is ostinato.scan
    finally:
        layer.uninstall()


# ---- whole programs, each in its own process ------------------------------------------------------

# As such scripts were written ten years ago.
SCRIPT = """\
from __future__ import print_function

import sys
import numpy
import theano
import theano.tensor as T
from theano import config
from theano.tensor.nnet import sigmoid
from collections import OrderedDict

theano.config.floatX = sys.argv[2]

rng = numpy.random.RandomState(42)
n_in, n_hid, n_steps, n_batch = 3, 5, 6, 4


def init(*shape):
    return numpy.asarray(rng.uniform(-0.5, 0.5, size=shape), dtype=config.floatX)


class Elman(object):
    def __init__(self, x):
        self.W = theano.shared(value=init(n_in, n_hid), name='W', borrow=True)
        self.U = theano.shared(value=init(n_hid, n_hid), name='U', borrow=True)
        self.b = theano.shared(value=numpy.zeros((n_hid,), dtype=theano.config.floatX), name='b')
        self.v = theano.shared(value=init(n_hid), name='v')
        self.params = [self.W, self.U, self.b, self.v]

        def recurrence(x_t, h_tm1, W, U, b):
            return T.tanh(T.dot(x_t, W) + T.dot(h_tm1, U) + b)

        h, _ = theano.scan(
            recurrence, sequences=x, outputs_info=[T.alloc(numpy.asarray(0., dtype=config.floatX), n_batch, n_hid)],
            non_sequences=[self.W, self.U, self.b], name='elman')
        self.p = sigmoid(T.dot(h[-1], self.v))


x, y = T.tensor3('x'), T.vector('y')
lr = T.scalar('lr', dtype=theano.config.floatX)
model = Elman(x)
cost = T.nnet.binary_crossentropy(model.p, y).mean()
updates = OrderedDict()
for param, gparam in zip(model.params, T.grad(cost, model.params)):
    velocity = theano.shared(param.get_value() * 0.)
    updates[velocity] = 0.9 * velocity - lr * gparam
    updates[param] = param + 0.9 * velocity - lr * gparam

train = theano.function(inputs=[x, y, lr], outputs=cost, updates=updates)
data_x = numpy.asarray(rng.randn(n_steps, n_batch, n_in), dtype=config.floatX)
data_y = numpy.asarray(rng.randint(0, 2, size=n_batch), dtype=config.floatX)
start = [p.get_value() for p in model.params]
costs = [train(data_x, data_y, 0.5) for epoch in range(8)]
numpy.savez(sys.argv[1], x=data_x, y=data_y, costs=costs,
            **dict([('start%d' % i, s) for i, s in enumerate(start)]
                   + [('end%d' % i, p.get_value()) for i, p in enumerate(model.params)]))
print('final cost', costs[-1].dtype, theano.__version__)
"""


def elman_step(params: list[Any], x: Any, y: Any) -> tuple[float, list[Any]]:
    """The cost of the script's model and its gradient, by back-propagation written out in NumPy."""
    W, U, b, v = params
    hs = [np.zeros((x.shape[1], len(b)), x.dtype)]
    for x_t in x:
        hs.append(np.tanh(x_t @ W + hs[-1] @ U + b))
    p = 1 / (1 + np.exp(-hs[-1] @ v))
    cost = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    da = (p - y) / len(y)
    dW, dU, db, dv = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b), hs[-1].T @ da
    dh = np.outer(da, v)
    for t in reversed(range(len(x))):
        dz = dh * (1 - hs[t + 1] ** 2)
        dW, dU, db = dW + x[t].T @ dz, dU + hs[t].T @ dz, db + dz.sum(0)
        dh = dz @ U.T
    return float(cost), [dW, dU, db, dv]


@pytest.mark.parametrize(("floatX", "rtol"), [("float64", 1e-9), ("float32", 2e-4)])
def test_an_old_script_trains_to_the_numbers_of_numpy(tmp_path: Path, floatX: str, rtol: float) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = python("-m", "ostinato", "run", "train.py", "out.npz", floatX, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"final cost {floatX} 1.0.5+ostinato\n"
    with np.load(tmp_path / "out.npz") as out:
        params = [out[f"start{i}"].astype("float64") for i in range(4)]
        x, y = out["x"].astype("float64"), out["y"].astype("float64")
        costs, ends = out["costs"], [out[f"end{i}"] for i in range(4)]
    velocities = [np.zeros_like(p) for p in params]
    expected = []
    for _ in costs:
        cost, gradients = elman_step(params, x, y)
        expected.append(cost)
        velocities = [0.9 * u - 0.5 * g for u, g in zip(velocities, gradients, strict=True)]
        params = [p + u for p, u in zip(params, velocities, strict=True)]
    assert costs[-1] < costs[0]
    np.testing.assert_allclose(costs, expected, rtol=rtol)
    for got, wanted in zip(ends, params, strict=True):
        assert got.dtype == floatX
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


def test_floatX_is_taken_from_theanos_environment_variable(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(
        "import os\n"
        "assert os.environ['THEANO_FLAGS'] == 'device=gpu,mode=FAST_RUN'\n"
        "os.environ['THEANO_FLAGS'] += ', floatX=float32,lib.cnmem=1'\n"
        "import theano\n"
        "print(theano.config.floatX, theano.config.device, theano.tensor.matrix().dtype)\n"
    )
    done = python("-m", "ostinato", "run", "show.py", cwd=tmp_path, THEANO_FLAGS="device=gpu,mode=FAST_RUN")
    assert (done.stdout, done.stderr) == ("float32 cpu float32\n", "")


def test_other_processes_know_no_theano(theano: Any, tmp_path: Path) -> None:
    done = python("-c", "import ostinato, theano", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'theano'" in done.stderr
