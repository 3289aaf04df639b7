"""Configuration: flags and their checks, environment variables, blocks that change flags for one thread or task."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ostinato
import ostinato.tensor as T
from ostinato.config import Config, config
from ostinato.errors import UnknownFlagError

FLAGS = {
    "floatX": "float64",
    "mode": "native",
    "verify": False,
    "cache": True,
    "cache_dir": "",
    "cache_size": 512,
    "threads": 0,
    "device": "cpu",
    "gpu_precision": "ieee",
    "memory_budget": "auto",
    "gpu_replay": False,
    "compute_test_value": "off",
    "exception_verbosity": "low",
    "optimizer": "fast_run",
    "profile": False,
    "allow_gc": True,
}


@pytest.fixture
def fresh() -> Config:
    """Flags as they are without environment variables, apart from those of the process."""
    return Config({})


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {name: getattr(config, name) for name in FLAGS}
    yield
    for name, value in before.items():
        setattr(config, name, value)


def test_defaults(fresh: Config) -> None:
    assert {name: getattr(fresh, name) for name in FLAGS} == FLAGS


def test_text_shows_each_flag_its_value_and_what_it_does(fresh: Config) -> None:
    fresh.floatX = "float32"
    lines = str(fresh).splitlines()
    assert len(lines) == len(FLAGS)
    assert lines[0].startswith("floatX = 'float32'    # ")
    assert all(line.split("# ")[1] for line in lines)


def test_flags_are_listed_for_completion(fresh: Config) -> None:
    assert set(FLAGS) <= set(dir(fresh))
    assert "change_flags" in dir(fresh)


# ---- setting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floatX_is_the_dtype_of_what_has_none(dtype: str) -> None:
    config.floatX = dtype
    assert T.vector("x").dtype == dtype
    assert T.zeros(3).dtype == dtype
    assert T.constant(0.5).dtype == dtype
    assert T.dvector("x").dtype == "float64"


def test_floatX_does_not_change_variables_made_before() -> None:
    x = T.vector("x")
    config.floatX = "float32"
    assert x.dtype == "float64"


@pytest.mark.parametrize(
    ("flag", "value", "choices"),
    [
        ("floatX", "float128", "'float16', 'float32', 'float64'"),
        ("floatX", None, "'float16', 'float32', 'float64'"),
        ("floatX", ["float32"], "'float16', 'float32', 'float64'"),
        ("verify", "yes", "False, True"),
        ("verify", 2, "False, True"),
        ("compute_test_value", True, "'off', 'ignore', 'warn', 'raise'"),
    ],
)
def test_a_value_that_is_no_choice(fresh: Config, flag: str, value: Any, choices: str) -> None:
    with pytest.raises(ostinato.OstinatoValueError) as caught:
        setattr(fresh, flag, value)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == f"config.{flag} is one of {choices}, not {value!r}"
    assert getattr(fresh, flag) == FLAGS[flag]


def test_booleans_may_be_given_as_numbers(fresh: Config) -> None:
    fresh.verify = 1
    assert fresh.verify is True


def test_flags_without_choices_take_anything(fresh: Config) -> None:
    fresh.optimizer = "none"
    assert fresh.optimizer == "none"


@pytest.mark.parametrize("name", ["cuda", "cuda0", "cuda:1", "gpu", "gpu0"])
def test_names_of_gpus(fresh: Config, name: str) -> None:
    """Theano's and torch's, with the number of one."""
    fresh.device = name
    assert fresh.device == "cuda"
    assert Config({"OSTINATO_DEVICE": name}).device == "cuda"
    with fresh.change_flags(device="cpu"):
        assert fresh.device == "cpu"


@pytest.mark.parametrize("name", ["gpus", "cuda:x", "tpu", "opencl0:0", None, ""])
def test_names_of_no_device(fresh: Config, name: Any) -> None:
    with pytest.raises(ostinato.OstinatoValueError) as caught:
        fresh.device = name
    assert str(caught.value) == f"config.device is one of 'cpu', 'cuda', 'auto', not {name!r}"


@pytest.mark.parametrize("value", [-1, True, 1.5, "512", None])
def test_a_number_that_is_none(fresh: Config, value: Any) -> None:
    with pytest.raises(ostinato.OstinatoValueError) as caught:
        fresh.cache_size = value
    assert str(caught.value) == f"config.cache_size is an int of 0 or more, not {value!r}"
    fresh.cache_size = 0
    assert fresh.cache_size == 0


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("floatx", "did you mean 'floatX'?"),
        ("FLOATX", "did you mean 'floatX'?"),
        ("float_X", "did you mean 'floatX'?"),
        ("compute_test_values", "did you mean 'compute_test_value'?"),
        ("warn_on_everything", "there is floatX, mode, verify, cache"),
    ],
)
@pytest.mark.parametrize("how", ["get", "set", "change_flags"])
def test_unknown_flag(fresh: Config, wrong: str, hint: str, how: str) -> None:
    use: dict[str, Callable[[], Any]] = {
        "get": lambda: getattr(fresh, wrong),
        "set": lambda: setattr(fresh, wrong, 1),
        "change_flags": lambda: fresh.change_flags(**{wrong: 1}).__enter__(),
    }
    with pytest.raises(ostinato.OstinatoError) as caught:
        use[how]()
    assert isinstance(caught.value, AttributeError)
    assert str(caught.value).startswith(f"there is no configuration flag {wrong!r}; {hint}")


def test_hasattr_tells_which_flags_there_are(fresh: Config) -> None:
    assert hasattr(fresh, "floatX")
    assert not hasattr(fresh, "floatY")


# ---- blocks ---------------------------------------------------------------------------------------


def test_block() -> None:
    with config.change_flags(floatX="float32", verify=True):
        assert (config.floatX, config.verify) == ("float32", True)
        assert T.scalar().dtype == "float32"
        with config.change_flags(floatX="float16"):
            assert (config.floatX, config.verify) == ("float16", True)
        assert (config.floatX, config.verify) == ("float32", True)
    assert (config.floatX, config.verify) == ("float64", False)


def test_block_ends_also_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), config.change_flags(floatX="float32"):
        raise ZeroDivisionError
    assert config.floatX == "float64"


def test_block_with_one_wrong_flag_changes_none() -> None:
    with pytest.raises(ostinato.OstinatoValueError), config.change_flags(floatX="float32", verify="no"):
        raise AssertionError("the block was entered")
    assert config.floatX == "float64"


def test_setting_within_a_block_that_changes_the_flag_ends_with_the_block() -> None:
    with config.change_flags(floatX="float32"):
        config.floatX = "float16"
        assert config.floatX == "float16"
        config.verify = True  # not a flag of the block: set for the process
    assert config.floatX == "float64"
    assert config.verify is True


def test_decorator() -> None:
    @config.change_flags(floatX="float32")
    def make(name: str) -> Any:
        """Make a vector."""
        return T.vector(name)

    for _ in range(2):  # not used up by the first call
        assert make("x").dtype == "float32"
        assert config.floatX == "float64"
    assert make.__name__ == "make"
    assert make.__doc__ == "Make a vector."


def test_decorator_of_a_recursive_function() -> None:
    @config.change_flags(floatX="float32")
    def depth(n: int) -> list[str]:
        return [config.floatX, *(depth(n - 1) if n else [])]

    assert depth(3) == ["float32"] * 4
    assert config.floatX == "float64"


def test_a_block_is_for_its_own_thread() -> None:
    inside, seen = threading.Event(), {}
    finish = threading.Event()

    def change() -> None:
        with config.change_flags(floatX="float32"):
            inside.set()
            finish.wait(10)
            seen["changing"] = config.floatX

    thread = threading.Thread(target=change)
    thread.start()
    assert inside.wait(10)
    seen["other"] = config.floatX
    with config.change_flags(floatX="float16"):
        finish.set()
        thread.join(10)
        seen["own"] = config.floatX
    assert seen == {"other": "float64", "changing": "float32", "own": "float16"}


def test_a_thread_starts_with_the_flags_of_the_process() -> None:
    seen = []
    config.verify = True
    with config.change_flags(floatX="float32"):
        thread = threading.Thread(target=lambda: seen.append((config.floatX, config.verify)))
        thread.start()
        thread.join(10)
    assert seen == [("float64", True)]


def test_a_block_is_for_its_own_task() -> None:
    async def work(dtype: str) -> str:
        with config.change_flags(floatX=dtype):
            await asyncio.sleep(0)
            return T.scalar().dtype

    async def both() -> list[str]:
        return await asyncio.gather(work("float32"), work("float16"))

    assert asyncio.run(both()) == ["float32", "float16"]
    assert config.floatX == "float64"


# ---- environment ----------------------------------------------------------------------------------


def test_environment_variables() -> None:
    environ = {"OSTINATO_FLOATX": "float32", "OSTINATO_VERIFY": "1", "OSTINATO_DEVICE": "gpu", "FLOATX": "float16"}
    read = Config(environ)
    assert (read.floatX, read.verify, read.device, read.allow_gc) == ("float32", True, "cuda", True)


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("True", True), ("0", False), ("FALSE", False)]
)
def test_booleans_in_the_environment(text: str, value: bool) -> None:
    assert Config({"OSTINATO_VERIFY": text}).verify is value


@pytest.mark.parametrize(
    ("variable", "text", "choices"),
    [
        ("OSTINATO_FLOATX", "single", "float16, float32, float64"),
        ("OSTINATO_FLOATX", "", "float16, float32, float64"),
        ("OSTINATO_VERIFY", "on", "0, 1, false, true"),
    ],
)
def test_a_wrong_environment_variable_is_named(variable: str, text: str, choices: str) -> None:
    with pytest.raises(ostinato.OstinatoValueError) as caught:
        Config({variable: text})
    assert str(caught.value) == f"the environment variable {variable} is one of {choices}, not {text!r}"


def test_numbers_in_the_environment() -> None:
    assert Config({"OSTINATO_CACHE_SIZE": "64"}).cache_size == 64
    for text in ("", "-1", "64 MB"):
        with pytest.raises(ostinato.OstinatoValueError) as caught:
            Config({"OSTINATO_CACHE_SIZE": text})
        message = f"the environment variable OSTINATO_CACHE_SIZE is an int of 0 or more, not {text!r}"
        assert str(caught.value) == message


def _run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OSTINATO_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_environment_of_a_process() -> None:
    code = "import ostinato, ostinato.tensor as T; print(T.vector().dtype, ostinato.config.verify)"
    done = _run(code, OSTINATO_FLOATX="float32", OSTINATO_VERIFY="true")
    assert (done.stdout, done.stderr) == ("float32 True\n", "")


def test_a_process_with_a_wrong_environment_variable() -> None:
    done = _run("import ostinato", OSTINATO_FLOATX="double")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "the environment variable OSTINATO_FLOATX is one of float16, float32, float64, not 'double'"
    )


def test_flags_can_be_monkeypatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests of users' code do; afterwards the flag is what it was."""
    before = ostinato.config.floatX
    with monkeypatch.context() as patch:
        patch.setattr(ostinato.config, "floatX", "float32")
        assert T.scalar().dtype == "float32"
    assert ostinato.config.floatX == before
    ostinato.config.floatX = "float16"
    del ostinato.config.floatX
    assert ostinato.config.floatX == before
    with pytest.raises(UnknownFlagError):
        del ostinato.config.nonsense
