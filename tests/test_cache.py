"""The cache of compiled code: what hits and what misses, what is on disk, and all that can be wrong with it."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import ostinato
import ostinato.tensor as T
from ostinato import cli
from ostinato.backends.llvm import build, cache, externals
from ostinato.backends.llvm.cache import Entry, Object, Store, default_directory, open_store
from ostinato.backends.llvm.jit import generate
from ostinato.backends.llvm.runtime import runtime
from ostinato.config import config
from ostinato.digest import NoDigestError, compiler_digest, graph_digest
from ostinato.errors import OstinatoIndexError
from ostinato.graph import Graph, make
from ostinato.ops.leaf import constant
from ostinato.ops.loop import LOOP
from ostinato.ops.op import Op
from ostinato.types import TensorType
from support import unmeasured
from test_loops import Program, inputs_of, programs, symbolic, symbolic_cost

posix = pytest.mark.skipif(os.name != "posix", reason="owners and permissions of POSIX")


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store.

    A process keeps the code that calls native functions too, once, where it first runs any: not here.
    """
    runtime()
    with config.change_flags(cache_dir=str(tmp_path / "kept"), mode="native", cache=True):
        yield open_store()


def network(scale: float = 0.5, name: str = "x", loop: str | None = None) -> ostinato.Function:
    """A recurrence and its gradient; every call builds it anew."""
    x, a = T.dvector(name), T.dscalar("a")
    start = T.constant(0.0, dtype="float64")
    h, _ = ostinato.scan(lambda v, h: T.tanh(a * h + v * scale), x, start, name=loop)
    cost = (h**2).sum()
    return ostinato.function([x, a], [cost, *T.grad(cost, [x, a])])


def by_hand(x: np.ndarray, a: float, scale: float = 0.5) -> float:
    h, cost = 0.0, 0.0
    for v in x:
        h = np.tanh(a * h + v * scale)
        cost += h * h
    return cost


def functions(store: Store) -> list[Path]:
    """The entries of compiled functions. Other processes also keep the code that calls them."""
    return [k.path for k in store.entries() if json.loads(k.path.read_bytes().split(b"\n")[1])["symbol"] == "run"]


def is_loaded(function: ostinato.Function) -> bool:
    return "loaded from the cache" in function.explain()


ARGUMENTS = (np.linspace(-1, 1, 50), 0.7)


def check_right(function: ostinato.Function) -> None:
    np.testing.assert_allclose(function(*ARGUMENTS)[0], by_hand(*ARGUMENTS), rtol=1e-12)


# ---- hits -----------------------------------------------------------------------------------------


def test_what_was_compiled_is_loaded(store: Store) -> None:
    first, second = network(), network()
    assert not is_loaded(first)
    assert is_loaded(second)
    assert len(store.entries()) == 1
    check_right(second)
    for a, b in zip(first(*ARGUMENTS), second(*ARGUMENTS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_explain_tells_of_loading_and_of_compiling() -> None:
    first, second = network().explain().splitlines(), network().explain().splitlines()
    assert first[0] == "function(x, a): compiled to one native function for all sizes."
    assert re.match(r"Compiling took \d+ ms \(rewrite \d+, lower \d+, emit \d+, generate \d+\)\.", first[1])
    assert second[0] == "function(x, a): compiled to one native function for all sizes, loaded from the cache."
    assert re.match(r"Loading took \d+ ms \(key \d+, read \d+, link \d+\)\.", second[1])
    assert first[2:] == second[2:]


def test_what_is_loaded_needs_no_stage_until_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    function_module = sys.modules["ostinato.function"]
    texts = [network().explain(stage) for stage in ("graph", "nest", "llvm")]
    made: list[str] = []
    rewrite = function_module.rewrite  # type: ignore[attr-defined]
    monkeypatch.setattr(function_module, "rewrite", lambda *args: (made.append("rewrite"), rewrite(*args))[1])
    generate = build.generate
    monkeypatch.setattr(build, "generate", lambda text: (made.append("generate"), generate(text))[1])
    loaded = network()
    check_right(loaded)
    assert made == []
    assert [loaded.explain(stage) for stage in ("graph", "nest", "llvm")] == texts
    assert str(loaded.graph) == texts[0]
    assert made == ["rewrite"]


def test_the_graph_is_that_of_the_time_of_compiling() -> None:
    with config.change_flags(floatX="float32"):
        first, second = network(), network()
    assert is_loaded(second)
    assert str(second.graph) == str(first.graph)


def test_names_and_lines_do_not_matter() -> None:
    network()
    assert is_loaded(network(name="y", loop="network"))


def test_the_dtype_of_shared_values_and_their_updates() -> None:
    def counter(value: Any) -> Any:
        s = ostinato.shared(value)
        return s, ostinato.function([], s * 2, updates=[(s, s + 1)])

    for value, loaded in ((np.float64(1), False), (np.float64(5), True), (np.int64(5), False)):
        s, function = counter(value)
        assert is_loaded(function) == loaded
        assert function() == 2 * value
        assert s.get_value() == value + 1


def test_an_error_after_loading_names_the_step_and_the_line() -> None:
    def lookup(loop: str) -> Any:
        x, i = T.dvector("x"), T.lvector("i")
        ys, _ = ostinato.map(lambda k: x[k] * 2, sequences=i, name=loop)
        return ostinato.function([x, i], ys)

    lookup("first")
    loaded = lookup("lookup")
    assert is_loaded(loaded)
    with pytest.raises(OstinatoIndexError, match=r"step 1 of lookup: .*test_cache\.py:\d+"):
        loaded([5.0, 6.0], [0, 2])


def test_graphs_are_verified_also_if_code_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    network()
    seen: list[str] = []
    monkeypatch.setattr(sys.modules["ostinato.rewrite.engine"], "verify", lambda graph, when: seen.append(when))
    with config.change_flags(verify=True):
        assert is_loaded(network())
    assert "after algebra" in seen


@pytest.mark.parametrize("switch", ["flag", "environment"])
def test_switched_off(switch: str, store: Store) -> None:
    if switch == "flag":
        with config.change_flags(cache=False):
            assert not is_loaded(network())
            assert not is_loaded(network())
    else:
        run_script(store, OSTINATO_CACHE="0")
    assert store.entries() == []


def test_what_calls_out_is_not_kept(store: Store) -> None:
    x = T.dvector("x")
    for _ in range(2):
        text = ostinato.function([x], T.polygamma(1, x)).explain()
        assert "The code is not kept for other processes: it calls out, or holds large constants." in text
        assert "Calls out to NumPy: polygamma." in text
    assert store.entries() == []


# ---- other processes ------------------------------------------------------------------------------

SCRIPT = """
import os, sys
if "LARGEST_FILE" in os.environ:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (int(os.environ["LARGEST_FILE"]),))
sys.path.insert(0, {tests!r})
import numpy as np, ostinato, ostinato.tensor as T
import test_cache
with ostinato.config.change_flags(mode="native"):
    f = test_cache.network()
print(test_cache.is_loaded(f), *[a.tobytes().hex() for a in f(*test_cache.ARGUMENTS)])
"""


def start_script(store: Store, **environ: str) -> subprocess.Popen[str]:
    inherited = unmeasured() if "LARGEST_FILE" in environ else os.environ
    environment = inherited | {"OSTINATO_CACHE_DIR": str(store.directory)} | environ
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def run_script(store: Store, **environ: str) -> str:
    process = start_script(store, **environ)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out


@pytest.mark.parametrize("seed", ["0", "12345"])
def test_another_process_loads_it_whatever_its_hashes(store: Store, seed: str) -> None:
    function = network()
    loaded, *results = run_script(store, PYTHONHASHSEED=seed).split()
    assert loaded == "True"
    assert results == [a.tobytes().hex() for a in function(*ARGUMENTS)]
    assert len(functions(store)) == 1


def test_processes_that_write_at_once(store: Store) -> None:
    processes = [start_script(store) for _ in range(8)]
    outputs = [p.communicate(timeout=240)[0].split()[1:] for p in processes]
    assert [p.returncode for p in processes] == [0] * 8
    assert all(o == outputs[0] and len(o) == 3 for o in outputs)
    assert len(functions(store)) == 1
    assert len(os.listdir(str(store.directory))) == len(store.entries())  # nothing is left half written
    assert is_loaded(network())


# ---- misses ---------------------------------------------------------------------------------------


def variants() -> dict[str, Callable[[], Any]]:
    """Functions that differ in one thing from another one of them."""

    def of(outputs: Callable[..., Any], *types: Any) -> Callable[[], Graph]:
        def make_graph() -> Graph:
            inputs = [TensorType(*t)(f"i{k}") for k, t in enumerate(types)]
            results = outputs(*inputs)
            return Graph(tuple(inputs), tuple(results) if isinstance(results, (list, tuple)) else (results,))

        return make_graph

    def loop(step: Callable[..., Any], **options: Any) -> Callable[[], Graph]:
        start = T.constant(0.0, dtype="float64")
        return of(lambda x: ostinato.scan(step, x, start, **options)[0], ("float64", (None,)))

    vector, scalar, matrix = ("float64", (None,)), ("float64", ()), ("float64", (None, None))
    return {
        "add": of(lambda x: x + 1.0, vector),
        "mul": of(lambda x: x * 1.0, vector),
        "another constant": of(lambda x: x + 2.0, vector),
        "a negative zero": of(lambda x: x + (-0.0), vector),
        "a zero": of(lambda x: x + 0.0, vector),
        "another dtype": of(lambda x: x + 1.0, ("float32", (None,))),
        "a known size": of(lambda x: x + 1.0, ("float64", (3,))),
        "another known size": of(lambda x: x + 1.0, ("float64", (4,))),
        "a scalar": of(lambda x: x + 1.0, scalar),
        "an array of constants": of(lambda x: x + np.array([1.0, 2.0]), vector),
        "other constants": of(lambda x: x + np.array([1.0, 3.0]), vector),
        "a number": of(lambda x: [x, constant(2.0, "float64")], vector),
        "a number without a dtype of its own": of(lambda x: [x, constant(2.0, "float64", weak=True)], vector),
        "sum 0": of(lambda x: x.sum(axis=0), matrix),
        "sum 1": of(lambda x: x.sum(axis=1), matrix),
        "a slice": of(lambda x: x[1:], vector),
        "another slice": of(lambda x: x[2:], vector),
        "the other end": of(lambda x: x[:1], vector),
        "an element": of(lambda x: x[1], vector),
        "x - y": of(lambda x, y: x - y, vector, vector),
        "y - x": of(lambda x, y: y - x, vector, vector),
        "x - x": of(lambda x, y: x - x, vector, vector),
        "two results": of(lambda x: [x + 1.0, x * 1.0], vector),
        "two results, turned": of(lambda x: [x * 1.0, x + 1.0], vector),
        "a result twice": of(lambda x: [x + 1.0, x + 1.0], vector),
        "no result": of(lambda x: [], vector),
        "an unused param": of(lambda x, y: x + 1.0, vector, vector),
        "a loop": loop(lambda v, h: h * 0.5 + v),
        "another body": loop(lambda v, h: h * 0.25 + v),
        "backwards": loop(lambda v, h: h * 0.5 + v, go_backwards=True),
        "a condition": loop(lambda v, h: (h * 0.5 + v, ostinato.until(h > 1.0))),
        "truncated": loop(lambda v, h: h * 0.5 + v, truncate_gradient=3),
    }


def test_what_differs_has_another_digest() -> None:
    digests = {name: graph_digest(build_graph()) for name, build_graph in variants().items()}
    assert len(set(digests.values())) == len(digests)
    assert digests == {name: graph_digest(build_graph()) for name, build_graph in variants().items()}


def test_bodies_that_share_their_params_are_not_bodies_that_do_not() -> None:
    """Passes merge the ones and not the others, so their code differs."""
    x = T.dvector("x")

    def loop() -> Any:
        return ostinato.scan(lambda v, h: h * 0.5 + v, x, T.constant(0.0, dtype="float64"))[0]

    y = loop()
    assert graph_digest(Graph((x,), (y, y))) != graph_digest(Graph((x,), (y, loop())))


def anonymous(graph: Graph) -> str:
    """The text of a graph without the names of its variables."""
    for node in [*graph.params, *graph.nodes()]:
        node.name = None
        if node.op is LOOP:
            anonymous(node.params[0].body)
    return str(graph)


def test_random_programs_share_a_digest_only_if_they_share_their_text() -> None:
    texts: dict[str, str] = {}
    digests: dict[Program, str] = {}

    def graph_of(program: Program) -> Graph:
        inputs = inputs_of(program.arrays())
        outputs = symbolic(program, inputs)
        grads = T.grad(symbolic_cost(program, outputs), inputs, disconnected_inputs="ignore")
        return Graph(tuple(inputs), (*outputs, *grads))

    @settings(max_examples=250, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def check(program: Program) -> None:
        graph = graph_of(program)
        digests[program] = graph_digest(graph)
        text = anonymous(graph)
        assert texts.setdefault(digests[program], text) == text

    check()
    assert len(texts) > 100
    for program in list(digests)[:20]:
        assert graph_digest(graph_of(program)) == digests[program]


def test_a_chain_of_100000_operations() -> None:
    x = T.dvector("x")
    y = x
    for _ in range(50_000):
        y = T.sin(y) + x
    graphs = [Graph((x,), (y * factor,)) for factor in (2.0, 3.0)]
    assert len({graph_digest(g) for g in graphs}) == 2


def test_what_is_not_ostinatos_own_has_no_digest(store: Store) -> None:
    type_ = TensorType("float64", ())
    mine = Op("sin", infer=lambda x: type_, numpy=np.cos)
    x = T.dscalar("x")
    with pytest.raises(NoDigestError, match="sin is no op of Ostinato's own"):
        graph_digest(Graph((x,), (make(mine, (x,)),)))
    odd = make(ostinato.ops.OPS["check_rows"], (T.dvector("v"),), (_Least(2), "v"))
    with pytest.raises(NoDigestError, match="a parameter is a _Least"):
        graph_digest(Graph((odd.inputs[0],), (odd,)))
    function = ostinato.function([x], make(mine, (x,)))
    assert "The code is not kept for other processes: sin is no op of Ostinato's own." in function.explain()
    assert store.entries() == []


class _Least(int):
    """A number that may mean anything."""


def test_another_compiler_machine_or_flag_misses(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    network()
    with monkeypatch.context() as patch:
        patch.setattr(build, "compiler_digest", lambda: "another")
        assert not is_loaded(network())
    with monkeypatch.context() as patch:
        patch.setattr(build, "target_text", lambda: "another")
        assert not is_loaded(network())
    with config.change_flags(floatX="float32"):
        assert not is_loaded(network())
    assert len(store.entries()) == 4
    assert is_loaded(network())


COMPILER = """
import shutil, sys
sys.path.insert(0, sys.argv[1])
from ostinato.digest import NoDigestError, compiler_digest
import ostinato
assert ostinato.__file__.startswith(sys.argv[1])
if sys.argv[2:]:
    with open(ostinato.__file__.replace("__init__", "lower/rules"), "a") as file:
        file.write("\\n# changed\\n")
    import os, time
    os.utime(file.name, (time.time() + 5, time.time() + 5))
try:
    print(compiler_digest())
except NoDigestError as error:
    print(error)
"""


def test_the_source_of_the_compiler_counts(tmp_path: Path) -> None:
    """Also what is changed while a program runs: it has the old code then, but would see the new text."""
    shutil.copytree(Path(ostinato.__file__).parent, tmp_path / "ostinato", ignore=shutil.ignore_patterns("__pycache__"))

    def digest(*args: str) -> str:
        command = [sys.executable, "-c", COMPILER, str(tmp_path), *args]
        environment = unmeasured() | {"PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    before = digest()
    assert before == compiler_digest()
    assert digest("change") == "rules.py was changed after it was imported"
    os.utime(tmp_path / "ostinato" / "lower" / "rules.py", (0, 0))
    assert re.fullmatch("[0-9a-f]{64}", after := digest())
    assert after != before


# ---- any code -------------------------------------------------------------------------------------

CALLER = """
declare i64 @"library.double"(i64)
define i64 @"start"(i64 %x) {
  %y = call i64 @"library.double"(i64 %x)
  %z = add i64 %y, 1
  ret i64 %z
}
"""


def test_code_that_calls_a_library_is_linked_to_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only names are kept: addresses are those of the process that loads."""
    of_integers = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    factor, asked, made = [2], [], []
    functions = [of_integers(lambda x, f=f: x * f) for f in (2, 3)]

    def address_of(name: str) -> int:
        asked.append(name)
        if not factor:
            raise LookupError(name)
        return int(ctypes.cast(functions[factor[0] - 2], ctypes.c_void_p).value or 0)

    def make_code() -> Entry:
        made.append(1)
        return Entry("start", (generate(CALLER),))

    def load() -> build.Found:
        return build.load_or_make(lambda: "caller", make_code, build.Watch())

    monkeypatch.setattr(externals, "address_of", address_of)
    assert generate(CALLER).externals == ("library.double",)
    first = load()
    factor[0] = 3
    second = load()
    assert (first.loaded, second.loaded, len(made)) == (False, True, 1)
    assert of_integers(first.compiled.address)(10) == 21
    assert of_integers(second.compiled.address)(10) == 31
    assert asked == ["library.double"] * 2
    factor.clear()
    with pytest.raises(LookupError, match=r"library\.double"):
        load()  # made anew, but what it calls is not there at all
    assert len(made) == 2


def test_functions_of_no_library_have_no_address() -> None:
    with pytest.raises(LookupError):
        externals.address_of("nowhere.no_such_function")


# ---- what is on disk ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda data: data[:10] + bytes([data[10] ^ 1]) + data[11:],
        lambda data: data[:80] + bytes([data[80] ^ 1]) + data[81:],
        lambda data: data[:-9] + bytes([data[-9] ^ 128]) + data[-8:],
        lambda data: b"garbage",
        lambda data: b"\x80\x04cos\nsystem\n(S'false'\ntR.",
        lambda data: signed(b"garbage\n" + data),
        lambda data: signed(b"[]\n" + data),
        lambda data: signed(b'{"format": 1}\n' + data),
        lambda data: signed(data[65:].replace(b'"format": 1', b'"format": 0')),
        lambda data: signed(data[65:].replace(b'"key": "', b'"key": "0')),
        lambda data: signed(data[65:].replace(b'"symbol": "run"', b'"symbol": "ran"')),
        lambda data: signed(data[65:].replace(b'"externals": []', b'"externals": ["lapack.no_such"]')),
        lambda data: signed(data[65:].replace(b'"externals": []', b'"externals": 3')),
    ],
)
def test_damaged_entries_are_ignored_and_made_anew(damage: Callable[[bytes], bytes], store: Store) -> None:
    network()
    (path,) = [k.path for k in store.entries()]
    data = path.read_bytes()
    path.write_bytes(damage(data))
    assert path.read_bytes() != data
    again = network()
    assert not is_loaded(again)
    check_right(again)
    assert path.read_bytes() == data
    assert is_loaded(network())


def signed(rest: bytes) -> bytes:
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def test_the_entry_of_another_key_is_not_taken(store: Store) -> None:
    network()
    network(scale=0.25)
    one, other = [k.path for k in store.entries()]
    other.write_bytes(one.read_bytes())
    for function, scale in ((network(), 0.5), (network(scale=0.25), 0.25)):
        np.testing.assert_allclose(function(*ARGUMENTS)[0], by_hand(*ARGUMENTS, scale), rtol=1e-12)


def test_an_entry_in_plain_sight(store: Store) -> None:
    """A digest, a line of JSON, objects: nothing that has to be executed to be read."""
    network()
    digest, header, image = store.entries()[0].path.read_bytes().split(b"\n", 2)
    assert len(digest) == 64
    described = json.loads(header)
    assert described["symbol"] == "run"
    assert [o["size"] for o in described["objects"]] == [len(image)]


def test_entries_of_several_objects(store: Store) -> None:
    entry = Entry("f", (Object(b"one\n\0", ()), Object(b"", ("lapack.dpotrf", "special.psi")), Object(b"three", ())))
    assert store.save("0" * 64, entry)
    assert store.load("0" * 64) == entry
    assert store.load("1" * 64) is None


@posix
def test_only_the_owner_may_read(store: Store) -> None:
    before = os.umask(0)
    try:
        network()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(str(store.directory)).st_mode) == 0o700
    assert [stat.S_IMODE(k.path.stat().st_mode) for k in store.entries()] == [0o600]


@posix
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_not_used(mode: int, store: Store) -> None:
    network()
    os.chmod(str(store.directory), mode)
    function = network()
    assert not is_loaded(function)
    assert "The code is not kept for other processes: the folder" in function.explain()
    assert "can be written to by other users." in function.explain()
    check_right(function)
    os.chmod(str(store.directory), 0o755)
    assert is_loaded(network())


@posix
def test_a_folder_of_somebody_else_is_not_used(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    network()
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    function = network()
    assert not is_loaded(function)
    assert "belongs to another user." in function.explain()


@posix
def test_files_that_others_can_write_to_and_links_are_replaced(tmp_path: Path, store: Store) -> None:
    network()
    (path,) = [k.path for k in store.entries()]
    os.chmod(path, 0o666)
    assert not is_loaded(network())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    kept = elsewhere.read_bytes()
    assert not is_loaded(network())
    assert not path.is_symlink()
    assert elsewhere.read_bytes() == kept

    path.unlink()
    os.mkfifo(path)
    assert not is_loaded(network())
    assert path.is_file()


# ---- disks that do not take it --------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("place", ["replace", "write", "mkstemp", "makedirs"])
def test_a_disk_that_does_not_take_it(place: str, code: int, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    class Full:
        """A file that takes nothing."""

        def __init__(self, number: int, mode: str) -> None:
            self.number = number

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *about: object) -> None:
            os.close(self.number)

        write = fail

    with monkeypatch.context() as patch:
        if place == "write":
            patch.setattr(cache.os, "fdopen", Full)
        else:
            patch.setattr({"mkstemp": cache.tempfile}.get(place, os), place, fail)
        function = network()
    check_right(function)
    assert f"{os.strerror(code)}." in function.explain()
    assert not Path(str(store.directory)).exists() or os.listdir(str(store.directory)) == []


@posix
def test_a_file_that_really_cannot_be_written(store: Store) -> None:
    """By a limit of the process: the disk itself cannot be filled."""
    assert run_script(store, LARGEST_FILE="1000", PYTHONDONTWRITEBYTECODE="1").split()[0] == "False"
    assert os.listdir(str(store.directory)) == []


@posix
def test_a_read_only_folder_is_read(store: Store) -> None:
    network()
    os.chmod(str(store.directory), 0o500)
    if os.access(str(store.directory), os.W_OK):
        pytest.skip("root may write anywhere")
    assert is_loaded(network())
    other = network(scale=0.25)
    assert "cannot be written to: Permission denied." in other.explain()
    os.chmod(str(store.directory), 0o700)


def test_a_file_in_the_place_of_the_folder(store: Store) -> None:
    assert store.directory is not None
    store.directory.write_text("mine")
    check_right(network())
    assert store.directory.read_text() == "mine"


def test_a_folder_of_an_impossible_name() -> None:
    with config.change_flags(cache_dir="no\0folder"):
        function = network()
        assert "cannot be used: " in function.explain()
    check_right(function)


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    with config.change_flags(cache_dir=""):
        function = network()
        assert "there is no home folder to keep it in." in function.explain()
        check_right(function)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the rule of one platform")
def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_directory() == tmp_path / ".cache" / "ostinato"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "ostinato"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the XDG specification
    assert default_directory() == tmp_path / ".cache" / "ostinato"
    with config.change_flags(cache_dir="~/kept"):
        assert open_store().directory == tmp_path / "kept"


# ---- the cap --------------------------------------------------------------------------------------


def filled(store: Store, count: int, n_bytes: int) -> list[str]:
    """Entries, the first of which was used longest ago."""
    keys = [f"{i:064x}" for i in range(count)]
    for i, key in enumerate(keys):
        assert store.save(key, Entry("f", (Object(bytes(n_bytes), ()),)))
        os.utime(Path(str(store.directory)) / f"{key}.entry", (i, time.time() - 10**6 + i))
    return keys


def test_what_was_used_longest_ago_goes_first(store: Store) -> None:
    keys = filled(store, 10, 1000)
    assert store.load(keys[0]) is not None  # used now
    store.cap = 6 * 1400
    assert store.save("f" * 64, Entry("f", (Object(bytes(1000), ()),)))
    left = [k.path.stem for k in store.entries()]
    assert sum(k.n_bytes for k in store.entries()) <= store.cap
    assert "f" * 64 in left
    assert keys[0] in left
    assert left[:-2] == keys[-len(left) + 2 :]


def test_times_of_use_are_noted_at_most_once_an_hour(store: Store) -> None:
    (key,) = filled(store, 1, 10)
    (kept,) = store.entries()
    assert store.load(key) is not None
    noted = store.entries()[0].used
    assert noted > kept.used
    os.utime(kept.path, (noted - 60, noted - 60))
    assert store.load(key) is not None
    assert store.entries()[0].used == pytest.approx(noted - 60, abs=1)


def test_what_is_larger_than_the_cap_is_not_kept(store: Store) -> None:
    with config.change_flags(cache_size=0):
        function = network()
    assert "more than config.cache_size allows." in function.explain()
    assert store.entries() == []


def test_a_process_does_not_look_at_all_entries_whenever_it_writes_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    entries = Store.entries
    monkeypatch.setattr(Store, "entries", lambda self: looks.append(1) or entries(self))
    store.cap = 400_000
    filled(store, 100, 1000)  # a thirtieth of the cap each ten
    assert 1 < len(looks) < 12
    filled(store, 1000, 1000)
    monkeypatch.undo()
    assert sum(k.n_bytes for k in store.entries()) <= store.cap


def test_what_was_never_finished_is_deleted_after_an_hour(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(store, 1, 10)
    monkeypatch.setattr(cache, "_SEEN", {})  # as in another process
    old, new = (Path(str(store.directory)) / f".{'a' * 64}.{n}.new" for n in ("abc_1", "xyz"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    network()
    assert not old.exists()
    assert new.exists()


def test_nothing_else_in_the_folder_is_touched(store: Store) -> None:
    filled(store, 3, 10)
    mine = Path(str(store.directory)) / "notes.entry"
    mine.write_text("mine")
    store.cap = 1
    store._evict()
    assert len(store.entries()) == 1
    assert store.clear() == 1
    assert os.listdir(str(store.directory)) == ["notes.entry"]


# ---- the command ----------------------------------------------------------------------------------


def test_the_command(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    filled(store, 3, 2**20)
    assert cli.main(["cache", "info"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows == {
        "directory": str(store.directory),
        "used": "yes",
        "entries": "3",
        "size": "3.0 MB of at most 512 MB",
    }
    assert cli.main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "3 deleted\n"
    assert store.entries() == []
    with config.change_flags(cache=False):
        assert cli.main(["cache", "info"]) == 0
    assert "no: config.cache is False\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["cache"])


@posix
def test_the_command_tells_why_a_folder_is_not_used(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    filled(store, 1, 1)
    os.chmod(str(store.directory), 0o777)
    assert cli.main(["cache", "info"]) == 0
    assert "can be written to by other users\n" in capsys.readouterr().out


def test_clearing_tells_what_could_not_be_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(store, 2, 1)
    monkeypatch.setattr(cache, "_remove", lambda path: False)
    assert cli.main(["cache", "clear"]) == 1
    assert capsys.readouterr().out == "0 deleted, 2 could not be\n"
