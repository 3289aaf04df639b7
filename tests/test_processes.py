"""Functions in many threads, after a fork, and on their way to another process."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest

import ostinato
import ostinato.tensor as T
from ostinato.errors import OstinatoTypeError

MODES = ["native", "reference"]


def scaled(factor: float, mode: str) -> Any:
    x = T.dvector("x")
    return ostinato.function([x], T.cumsum(x * factor), mode=mode, name="scaled")


@pytest.mark.parametrize("mode", MODES)
def test_functions_cannot_be_pickled_and_say_so(mode: str) -> None:
    with pytest.raises(OstinatoTypeError, match=r"scaled\(x\) cannot be pickled; build it again"):
        pickle.dumps(scaled(2.0, mode))


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_of_a_function_is_the_function(mode: str) -> None:
    run = scaled(2.0, mode)
    assert copy.copy(run) is run
    assert copy.deepcopy({"run": run})["run"] is run


def test_functions_are_compiled_in_many_threads_at_once() -> None:
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        with ostinato.config.change_flags(cache=False):
            found[k] = scaled(float(k), "native")([1.0, 2.0]).tolist()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {k: [k, 3 * k] for k in range(6)}


FORK = """
import os, ostinato, ostinato.tensor as T

def scaled(factor):
    x = T.dvector("x")
    return ostinato.function([x], T.cumsum(x * factor))

before = scaled(3.0)
before([0.0])
child = os.fork()
good = before([1.0, 2.0]).tolist() == [3, 9] and scaled(5.0)([1.0, 2.0]).tolist() == [5, 15]
if child == 0:
    os._exit(0 if good else 1)
assert good and os.waitpid(child, 0)[1] == 0
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_goes_on_with_functions_and_compiles_others() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
