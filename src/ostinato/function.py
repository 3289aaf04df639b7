"""`function`: a symbolic computation made callable.

Inputs, outputs, updates and givens become one closed Graph; passes rewrite it, a backend compiles it,
and a `Function` checks arguments, runs it and commits updates of shared variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ostinato.backends import compile_closed, mode_name
from ostinato.closing import Closed, In, closed
from ostinato.config import config
from ostinato.device import Choice, choose
from ostinato.errors import (
    OstinatoTypeError,
    OstinatoValueError,
    bullet_list,
)
from ostinato.graph import Graph
from ostinato.memory import read_bytes
from ostinato.ops.leaf import describe
from ostinato.rewrite.notes import listening
from ostinato.rewrite.pipeline import rewrite
from ostinato.shared import SHARED_VALUES
from ostinato.types import TensorType


class Function:
    """A compiled computation; made by `function`.

    Attributes
    ----------
    name : str or None
    choice : Choice
        The device on which it runs, its backend, and why.
    """

    def __init__(
        self, closed: Closed, keys: Any, choice: Choice, name: str | None, allow_input_downcast: bool | None
    ) -> None:
        self.name, self.choice = name, choice
        self._closed, self._floatX = closed.graph, config.floatX
        self._is_native = choice.device == "cpu" and mode_name(choice.mode) == "native"
        self._inputs, self._shared, self._updated = closed.inputs, closed.shared, closed.updated
        self._keys = keys
        self._allow_downcast = allow_input_downcast
        names = [i.name for i in closed.inputs]
        self._by_name = {n: k for k, n in enumerate(names) if n and names.count(n) == 1}
        self._kinds = [_kind(i.variable.type) for i in closed.inputs]
        self._defaults = [_default(i, k, allow_input_downcast) for k, i in enumerate(closed.inputs)]
        if config.verify:
            self.graph  # noqa: B018 - the passes are verified as they run
        self._run = self._compiled(closed.graph)
        # The C function of natively compiled code: it takes arrays that are ready, and returns None for others.
        # It is all there is to do in a plain function: no shared variables, and outputs as they come.
        self._is_plain = not closed.shared and not closed.updated and keys in ("one", "list")
        single = self._is_plain and keys == "one"
        self._direct = None if any(i.strict for i in closed.inputs) else _direct(self._run, single)

    def _compiled(self, closed: Graph) -> Any:
        return compile_closed(self.choice.mode, closed, lambda: self.graph)

    @cached_property
    def graph(self) -> Graph:
        """What is computed, after all rewrites: inputs and shared variables to outputs and updates.

        It is made when it is asked for: code that is loaded does not need it.
        """
        with config.change_flags(floatX=self._floatX), listening() as self._notes:
            return rewrite(self._closed, self._is_native)

    @property
    def notes(self) -> list[str]:
        """What the rewrites did, a sentence each."""
        self.graph  # noqa: B018 - the rewrites tell when they run
        report = getattr(self._run, "report", None)
        return [*self._notes, *(report.notes() if report else ())]

    @property
    def compilations(self) -> int:
        """How often the function was compiled: once for all sizes, per kernel on a GPU; 0 if it is interpreted."""
        return getattr(self._run, "compilations", 0)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the computation.

        Parameters
        ----------
        *args, **kwargs : one value per input, in order or by name; inputs with a default may be left out.

        Returns
        -------
        array, list, dict or None
            In the form in which the outputs were given. All arrays are new; a scalar is an array of no dimensions.

        Raises
        ------
        OstinatoTypeError
            If arguments are missing, too many, or do not fit; all problems in one message.

        Notes
        -----
        Shared variables are updated together after everything was computed. If anything fails, none is.
        """
        if self._direct is not None:
            # Where arguments stand is found out here, all else about them by the C function.
            given = args if len(args) == len(self._inputs) and not kwargs else self._in_order(args, kwargs)
            found = self._direct(*given) if self._is_plain else self._direct(*given, *self._shared_values())
            if found is not None:
                return found if self._is_plain else self._finished(found)
        arrays = self._arguments(args, kwargs)
        arrays += self._shared_values(ready=False)
        found = self._direct(*arrays) if self._direct is not None else None
        if found is not None:
            return found if self._is_plain else self._finished(found)
        return self._finished(_fresh(self._run(arrays), arrays))

    def _in_order(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Arguments and defaults by position; None among them, or too many, if anything is wrong."""
        given = [*args, *self._defaults[len(args) :]]
        for name, value in kwargs.items():
            position = self._by_name.get(name, -1)
            if position < len(args):
                return (None,)
            given[position] = value
        return given

    def _shared_values(self, ready: bool = True) -> list[Any]:
        """The values of shared variables; if they need not be `ready`, those that lie on a GPU come back from there."""
        if not self._shared:
            return []
        with SHARED_VALUES:
            return [s._value for s in self._shared] if ready else [s._on_host() for s in self._shared]

    def _finished(self, results: list[Any]) -> Any:
        """Commit updates; the outputs as they were asked for."""
        if self._updated:
            n = len(results) - len(self._updated)
            values = results[n:]
            del results[n:]
            with SHARED_VALUES:
                for variable, value in zip(self._updated, values, strict=True):
                    variable._value = value
        return results if self._keys == "list" else self._shaped(results)

    def explain(self, stage: str | None = None, arguments: Sequence[Any] | None = None) -> str:
        """What was made of the computation, in plain words; or the text of one stage of compiling it.

        How long compiling took, stage by stage, or loading; what calls NumPy; the loops that were made, which
        of them run step by step and which many elements at a time; and the bytes that a call takes.

        Parameters
        ----------
        stage : str, optional
            `"graph"` for the graph after all rewrites; natively compiled functions have `"nest"`, the loop
            nest, `"llvm"`, and `"time"`, where the time of compiling went; functions on a GPU have `"triton"`,
            the kernels made so far.
        arguments : list, optional
            Arguments of a call: bytes are then given as numbers and not as formulas of sizes.

        Raises
        ------
        OstinatoValueError
            If the function has no such stage; the message lists those that it has.
        OstinatoTypeError
            If the arguments do not fit.
        """
        from ostinato.explain import explain

        given = None if arguments is None else [*self._arguments(arguments, {}), *self._shared_values()]
        return explain(self, getattr(self._run, "report", None), stage, given)

    def memory(self, *args: Any, **kwargs: Any) -> dict[str, int | None]:
        """The bytes of memory that a call takes, before it is made: from sizes alone, nothing runs.

        Parameters
        ----------
        *args, **kwargs : as for a call.

        Returns
        -------
        dict
            From what takes memory to bytes, or to None where only the values of a run tell how many, as where a
            condition ends a loop:

            - `"result: NAME"` for every output and `"update: NAME"` for every update of a shared variable, which the
              caller keeps;
            - `"on the way: WHAT"` for what is held while the function runs: states and recorded rows of loops, and
              values that are named, or by their operations, with the line that made them. Where several are never
              there at the same time and share a place, this is told;
            - `"peak"`: all results and the most that there is at a time on the way.

        Raises
        ------
        OstinatoTypeError
            If the arguments do not fit.
        OstinatoValueError
            If the function is not compiled natively: what takes memory is not known before it runs.

        Notes
        -----
        Not counted are the arguments, what NumPy takes in operations that have no native form, and, where threads share
        the lanes of a loop, copies of what these have in common. If the call would take so much that it
        falls back on keeping less (see `config.memory_budget`), the figures are those of what then runs.
        """
        measure = getattr(self._run, "memory", None)
        if measure is None:
            raise OstinatoValueError(
                f"{self} is not compiled natively, so what takes memory is not known before it runs; "
                "compile it with mode='native'"
            )
        results, buffers, most = measure([*self._arguments(args, kwargs), *self._shared_values(ready=False)])
        table: dict[str, int | None] = dict(zip(self._result_names(), results, strict=True))
        table |= {f"on the way: {what}": n for what, n in buffers.items() if n != 0}
        known = [n for n in (most, *results) if n is not None]
        table["peak"] = sum(known) if len(known) == 1 + len(results) else None
        return table

    def _result_names(self) -> list[str]:
        """What results are called, each differently: keys, names or places of outputs, and shared variables."""
        outputs = self._closed.results[: len(self._closed.results) - len(self._updated)]
        keys = self._keys if isinstance(self._keys, (list, tuple)) else [None] * len(outputs)
        own = [k or n.name for k, n in zip(keys, outputs, strict=True)]
        names = [f"result: {n if n and own.count(n) == 1 else k}" for k, n in enumerate(own)]
        updated = [s.name for s in self._updated]
        return names + [f"update: {n if n and updated.count(n) == 1 else k}" for k, n in enumerate(updated)]

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        given: list[Any] = [None] * len(self._inputs)
        given[: len(args)] = args[: len(given)]
        problems = self._place_keywords(given, len(args), kwargs) if kwargs else []
        if len(args) > len(given):
            problems.append(f"expected at most {len(given)} argument(s), got {len(args)}")
        arrays: list[Any] = []
        expected = zip(self._inputs, self._kinds, given, self._defaults, strict=True)
        for position, (spec, (dtype, ndim), value, default) in enumerate(expected):
            if type(value) is np.ndarray and value.dtype is dtype and value.ndim == ndim:
                arrays.append(value)  # what every call asks first, so it is quick
                continue
            if value is None and default is None:
                problems.append(f"missing input {position}: {describe(spec.variable)}")
                continue
            try:
                arrays.append(default if value is None else spec.convert(value, position, self._allow_downcast))
            except OstinatoTypeError as error:
                problems.append(str(error))
        if problems:
            raise OstinatoTypeError(f"{self}: {bullet_list(problems)}")
        return arrays

    def _place_keywords(self, given: list[Any], n_positional: int, kwargs: Mapping[str, Any]) -> list[str]:
        """Put keyword arguments at their places in `given`; what is wrong with them."""
        problems = []
        for name, value in kwargs.items():
            if name in self._by_name and self._by_name[name] >= n_positional:
                given[self._by_name[name]] = value
            elif name in self._by_name:
                problems.append(f"input {name!r} is given twice")
            elif any(i.name == name for i in self._inputs):
                problems.append(f"several inputs are named {name!r}; give them by position")
            else:
                known = ", ".join(map(repr, self._by_name)) or "none with a name"
                problems.append(f"there is no input named {name!r}; there is {known}")
        return problems

    def _shaped(self, outputs: list[Any]) -> Any:
        if self._keys is None:
            return None
        if self._keys == "one":
            return outputs[0]
        return outputs if self._keys == "list" else dict(zip(self._keys, outputs, strict=True))

    def __str__(self) -> str:
        names = ", ".join(i.name or str(i.variable.type) for i in self._inputs)
        return f"{self.name or 'function'}({names})"

    def __repr__(self) -> str:
        return f"<ostinato {self}>"

    def __copy__(self) -> Function:
        return self  # nothing in it changes, and shared variables stay shared

    def __deepcopy__(self, memo: object) -> Function:
        return self

    def __reduce__(self) -> Any:
        raise OstinatoTypeError(
            f"{self} cannot be pickled; build it again where it is needed: its code is loaded from the cache"
        )


def _kind(type_: TensorType) -> tuple[np.dtype[Any], int]:
    """Dtype and number of dimensions that tell that an array fits; -1 if its sizes must be looked at too."""
    known = any(s is not None for s in type_.shape)
    return np.dtype(type_.dtype), -1 if known else type_.ndim


def _direct(run: Any, single: bool) -> Callable[..., Any] | None:
    make = getattr(run, "direct", None)
    return None if make is None else make(single)


def _default(spec: In, position: int, allow_downcast: bool | None) -> np.ndarray[Any, Any] | None:
    if spec.value is None:
        return None
    try:
        return np.array(spec.convert(spec.value, position, allow_downcast))
    except OstinatoTypeError as error:
        raise OstinatoTypeError(f"function: the default value of {error}") from None


def _fresh(results: list[Any], arguments: list[Any]) -> list[np.ndarray[Any, Any]]:
    """The results as arrays that share memory with nothing else and may be written to."""
    taken = {id(a) for a in arguments}
    fresh: list[np.ndarray[Any, Any]] = []
    for value in results:
        array = np.asarray(value)
        if array.base is not None or not array.flags.writeable or id(array) in taken:
            array = np.array(array, order="C")
        taken.add(id(array))
        fresh.append(array)
    return fresh


def function(
    inputs: Any,
    outputs: Any = None,
    mode: Any = None,
    updates: Any = None,
    givens: Any = None,
    no_default_updates: Any = False,
    accept_inplace: bool = False,
    name: str | None = None,
    rebuild_strict: bool = True,
    allow_input_downcast: bool | None = None,
    profile: Any = None,
    on_unused_input: str | None = None,
    device: Any = None,
) -> Function:
    """Compile a computation.

    Parameters
    ----------
    inputs : list of variables or `In`
        What a call gives values for. Inner variables of the graph may be inputs too: what they were computed
        from is then not needed.
    outputs : variable, list, dict with string keys, or None
        What a call returns, in this form.
    mode : str, optional
        A backend's name, such as `"native"` or `"reference"`; `config.mode` unless given.
    device : {"cpu", "cuda", "auto"}, optional
        Where the function runs; `config.device` unless given, or "cpu" where `mode` is. With "cuda", each loop is
        one kernel of a GPU. Calls then take tensors of torch too, and whatever has `__dlpack__`, without a copy if
        they lie on the GPU, and return tensors. With "auto", that is done if there is a GPU and a loop has more
        than one scalar chain of states; `explain()` says what was chosen and why.
    updates : mapping or list of pairs (shared variable, expression), optional
        New values of shared variables, set together after each successful call.
    givens : mapping or list of pairs (variable, replacement), optional
        Replacements made in outputs and updates before anything else, all at once.
    name : str, optional
        For messages.
    allow_input_downcast : bool, optional
        Whether arguments may be converted with loss of precision. By default only bare Python numbers (and
        lists of them) are, to floats; with False nothing is.
    on_unused_input : {"raise", "warn", "ignore"}
        What to do about an input that nothing needs.
    no_default_updates : bool or list of shared variables
        Which variables do not get the update that they bring with them (`default_update`): all with True. The
        draws of random streams do; without these updates every call draws the same numbers.
    accept_inplace, rebuild_strict, profile
        Accepted for Theano's sake.

    Returns
    -------
    Function

    Raises
    ------
    MissingInputError
        If the computation needs a variable that is no input; all of them are named.
    UnusedInputError
        See `on_unused_input`.
    OstinatoTypeError, ShapeError
        If an update or a replacement does not fit what it is for.
    DeviceError
        If a GPU is asked for and cannot be used; the message says what is missing.
    """
    found, keys = closed(inputs, outputs, updates, givens, no_default_updates, on_unused_input or "raise")
    if config.memory_budget not in ("auto", "none"):
        from ostinato.rewrite.checkpoints import with_budget

        found = found._replace(graph=with_budget(found.graph, read_bytes(config.memory_budget, "memory_budget")))
    choice = choose(device, mode, found.graph)
    return _kind_of_function(choice)(found, keys, choice, name, allow_input_downcast)


def _kind_of_function(choice: Choice) -> type[Function]:
    if choice.device == "cpu":
        return Function
    from ostinato.device_function import DeviceFunction

    return DeviceFunction
