"""Another library as a system: its adapter runs in a process of a Python that has it, and answers lines of JSON.

A line to the adapter asks for one quantity of one program, with all arguments; a line from it has arrays, or says why
not. Nothing of Ostinato is imported there. What takes too long is stopped, and the next question starts anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ostinato.errors import OstinatoValueError
from ostinato.testing.conformance.cells import Answer
from ostinato.testing.conformance.peers import decode, encode
from ostinato.testing.conformance.program import Program

# The module of each adapter in `peers`, by the name of its system.
PEERS = {
    "jax": "jax_",
    "pytensor": "pytensor_",
    "pytensor (Python)": "pytensor_python",
    "torch": "torch_",
    "torch (Python loop)": "torch_loop",
}

_HERE = Path(__file__).parent
_START = "import sys; sys.path.insert(0, sys.argv[1]); from peers import serve; serve(sys.argv[2])"
_SECONDS_TO_START = 120.0


class PeerSystem:
    """A library in a process of its own.

    Parameters
    ----------
    name : one of `PEERS`.
    python : the Python that has it; this one unless given.
    timeout : for one answer, in seconds.
    command : what to start instead of an adapter, for tests.

    Raises
    ------
    OstinatoValueError
        From `versions`, if the adapter cannot be started.
    """

    def __init__(
        self, name: str, python: str | None = None, timeout: float = 120.0, command: Sequence[str] | None = None
    ) -> None:
        if command is None and name not in PEERS:
            raise OstinatoValueError(f"there is no adapter for {name!r}; there is {', '.join(PEERS)}")
        self.name, self.timeout = name, timeout
        self._command = list(command or (python or sys.executable, "-c", _START, str(_HERE), PEERS[name]))
        self._process: _Process | None = None

    def versions(self) -> dict[str, str]:
        """Of the library and what it runs on."""
        return dict(self._started().greeting["versions"])

    def answer(self, program: Program, quantity: str, dtype: str) -> Answer:
        """Ask the adapter; stop it if there is no answer in time."""
        begun = time.perf_counter()
        request = {
            "program": program.name,
            "quantity": quantity,
            "dtype": dtype,
            "arguments": {n: encode(a) for n, a in program.arrays(dtype).items()},
            "directions": {n: encode(a) for n, a in program.directions(dtype).items()},
            "calls": program.calls,
        }
        try:
            reply = self._started().ask(request, self.timeout)
        except _NoAnswerError as error:
            self.close()
            return Answer(error.status, reason=str(error), seconds=time.perf_counter() - begun)
        seconds = time.perf_counter() - begun
        if reply.get("status") != "ok":
            return Answer(str(reply.get("status")), reason=str(reply.get("reason", ""))[:400], seconds=seconds)
        draws = reply.get("draws")
        return Answer("ok", [decode(a) for a in reply["arrays"]], None if draws is None else decode(draws), "", seconds)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _started(self) -> _Process:
        if self._process is None:
            try:
                self._process = _started(self._command)
            except _NoAnswerError as error:
                raise OstinatoValueError(f"{self.name} cannot be run by {self._command[0]}: {error}") from None
        return self._process


class _NoAnswerError(Exception):
    """The adapter ended, or took too long."""

    status = "raises"


class _TooLongError(_NoAnswerError):
    status = "timeout"


class _Process:
    """The adapter's process, with a thread that waits for its lines."""

    greeting: dict[str, Any]

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for name in [n for n in environment if n.startswith("COV")]:
            del environment[name]
        pipe = subprocess.PIPE
        try:
            self._popen = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=self._errors, env=environment, text=True
            )
        except OSError as error:
            self._errors.close()
            raise _NoAnswerError(f"{error.strerror}") from None
        assert self._popen.stdout is not None
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(self._popen.stdout, self._lines), daemon=True).start()

    def ask(self, request: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        """Send a request, if there is one, and wait for a line."""
        try:
            if request is not None:
                assert self._popen.stdin is not None
                self._popen.stdin.write(json.dumps(request) + "\n")
                self._popen.stdin.flush()
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise _TooLongError(f"no answer in {seconds:g} s") from None
        except OSError:
            line = None
        if line is None:
            raise _NoAnswerError(f"the process ended: {self._last_words()}")
        try:
            reply = json.loads(line)
        except ValueError:
            raise _NoAnswerError(f"an answer that is no JSON: {line[:80]!r}") from None
        return dict(reply)

    def end(self) -> None:
        """End the process and wait for it."""
        self._popen.kill()
        self._popen.wait()
        for file in (self._popen.stdin, self._popen.stdout, self._errors):
            _close(file)

    def _last_words(self) -> str:
        self._popen.wait(timeout=10)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().split("\n")
        return lines[-1][:300] or f"exit code {self._popen.returncode}"


def _started(command: Sequence[str]) -> _Process:
    """A process that has told its versions."""
    process = _Process(command)
    try:
        process.greeting = process.ask(None, _SECONDS_TO_START)
        if "versions" not in process.greeting:
            raise _NoAnswerError(process.greeting.get("reason", "it does not tell its versions"))
    except _NoAnswerError:
        process.end()
        raise
    return process


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:  # closed meanwhile
        pass
    lines.put(None)


def _close(file: Any) -> None:
    with contextlib.suppress(OSError):  # what was not sent yet cannot be any more
        file.close()


def is_importable(module: str, python: str | None) -> bool:
    """Whether a Python has a module, found out without importing it."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return subprocess.run([python or sys.executable, "-c", code, module], check=False).returncode == 0
