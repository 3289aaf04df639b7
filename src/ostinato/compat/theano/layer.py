"""The modules that `import theano` finds: a table of them, thin modules, and the finder on `sys.meta_path`.

A thin module has no names of its own: it passes on those of its Ostinato module, so that classes, functions
and `config` are the same objects under both. To bring another module of Theano's into the layer, add a
line to `MODULES`. `install` and `uninstall` are in the package's `__init__`.
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType
from typing import Any

from ostinato.compat.theano.version import version
from ostinato.config import config
from ostinato.errors import OstinatoError

# Theano's module: the Ostinato module that has its names.
MODULES: dict[str, str] = {
    "theano": "ostinato",
    "theano.gradient": "ostinato.gradient",
    "theano.printing": "ostinato.printing",
    "theano.sandbox": "ostinato.compat.theano.sandbox",
    "theano.sandbox.rng_mrg": "ostinato.compat.theano.rng_mrg",
    "theano.scan_module": "ostinato.scan_module",
    "theano.tensor": "ostinato.tensor",
    "theano.tensor.nlinalg": "ostinato.tensor.nlinalg",
    "theano.tensor.nnet": "ostinato.tensor.nnet",
    "theano.tensor.shared_randomstreams": "ostinato.tensor.shared_randomstreams",
    "theano.tensor.slinalg": "ostinato.tensor.slinalg",
    "theano.version": "ostinato.compat.theano.version",
}


class TheanoImportError(OstinatoError, ModuleNotFoundError):
    """A module of Theano's that the layer does not have."""


class TheanoAttributeError(OstinatoError, AttributeError):
    """A name in one of Theano's modules that the layer does not have."""


def is_theano(fullname: str) -> bool:
    """Whether a module's name is Theano's, or below it."""
    return fullname == "theano" or fullname.startswith("theano.")


# ---- names ----------------------------------------------------------------------------------------


def _is_own(value: Any) -> bool:
    """Not a module, and not one of the helpers for annotations that a module without `__all__` imports."""
    helper = getattr(value, "__module__", None) in ("typing", "collections.abc", "__future__")
    return not helper and not isinstance(value, ModuleType)


def _offers(source: ModuleType, name: str) -> bool:
    """Whether a module has a public name that its thin module passes on."""
    listed = vars(source).get("__all__", vars(source))
    return not name.startswith("_") and name in listed and _is_own(getattr(source, name))


class TheanoModule(ModuleType):
    """A module under Theano's name, with the names of an Ostinato module."""

    def __init__(self, name: str, source: ModuleType, layer: Mapping[str, TheanoModule]) -> None:
        super().__init__(name, source.__doc__)
        self._source = source
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        # Passed on at every access: what is changed in the Ostinato module is seen here.
        if _offers(self._source, name):
            return getattr(self._source, name)
        if name == "__all__":
            return self._public()
        if name.startswith("__"):
            # The import system and inspect probe for these; they are no names of Theano's.
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise TheanoAttributeError(_missing(f"{self.__name__}.{name}", self._layer))

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self._public()} - {"_layer", "_source"})

    def _public(self) -> list[str]:
        passed_on = [name for name in dir(self._source) if _offers(self._source, name)]
        return sorted({*passed_on, *[name for name in vars(self) if not name.startswith("_")]})


def _missing(fullname: str, layer: Mapping[str, TheanoModule]) -> str:
    close = _close_to(fullname, layer)
    parent = fullname.rpartition(".")[0]
    if close:
        hint = f"close to it: {', '.join(close)}"
    elif parent in layer and parent != "theano":
        hint = f"dir({parent}) shows what is there"
    else:
        hint = f"its modules are {', '.join(layer)}"
    return f"{fullname} is not part of ostinato's Theano layer (yet); {hint}"


def _close_to(fullname: str, layer: Mapping[str, TheanoModule]) -> list[str]:
    """What may have been meant: the same name in another module, similar names in the same one, then in any."""
    parent, _, name = fullname.rpartition(".")
    public = {module: thin._public() for module, thin in layer.items()}
    moved = [f"{module}.{name}" for module, names in public.items() if name in names]
    similar = [f"{parent}.{match}" for match in difflib.get_close_matches(name, public.get(parent, []), 3)]
    if not moved and not similar:
        similar = [f"{m}.{n}" for m, names in public.items() for n in difflib.get_close_matches(name, names, 1, 0.8)]
    return [*moved, *similar][:3]


# ---- finding --------------------------------------------------------------------------------------


class TheanoFinder(MetaPathFinder):
    """Finds the layer's modules, and says of any other module below `theano` that it is not there."""

    def __init__(self) -> None:
        self.layer: dict[str, TheanoModule] = {}
        loader = _Loader(self.layer)
        for name, source in MODULES.items():
            self.layer[name] = TheanoModule(name, importlib.import_module(source), self.layer)
            # All are packages, so that the import system comes here, too, for what is not below them.
            spec = spec_from_loader(name, loader, origin="ostinato's Theano layer", is_package=True)
            assert spec is not None
            module_from_spec(spec)
            parent, _, child = name.rpartition(".")
            if parent:
                # `import theano` is enough to use theano.tensor.nnet, as it was with Theano.
                setattr(self.layer[parent], child, self.layer[name])
        vars(self.layer["theano"])["__version__"] = version

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not is_theano(fullname):
            return None
        if fullname in self.layer:
            return self.layer[fullname].__spec__
        # Without the attribute `name`, on purpose: `from theano import nothing` would swallow an error
        # that has it, and tell in its own words that the name cannot be imported.
        raise TheanoImportError(self._why_not(fullname))

    def _why_not(self, fullname: str) -> str:
        parent, _, name = fullname.rpartition(".")
        if parent in self.layer and name in self.layer[parent]._public():
            return f"{fullname} is not a module, but a name in one: from {parent} import {name}"
        return _missing(fullname, self.layer)


class _Loader(Loader):
    """Hands out the thin modules, which are made with the finder and kept there."""

    def __init__(self, layer: Mapping[str, TheanoModule]) -> None:
        self._layer = layer

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._layer[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "theano":
            _take_floatX(os.environ.get("THEANO_FLAGS", ""))


def _take_floatX(flags: str) -> None:
    """`floatX` from Theano's environment variable, in which programs set it before they import theano.

    The other flags there are about machinery that does not exist here, and about devices.
    """
    for flag in flags.split(","):
        name, _, value = flag.partition("=")
        if name.strip() == "floatX":
            config.floatX = value.strip()
