"""The store of machine code on disk: one file per entry, named by its key, in a folder of the user's own.

Whoever can write here can make the user's programs run what they like. So the folder must belong to the
user and be writable by nobody else; a folder that is not so is not used. Every entry carries a digest of
itself, which guards against accidents, and is read without executing anything of it.

An entry:

    sha256 of all that follows, in hexadecimal, and a newline
    JSON: format, key, symbol, per object its size and the library functions that it calls; and a newline
    the objects

Nothing here raises: without a store, or with a full one, everything works, only slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ostinato.config import config

FORMAT = 1
_SUFFIX = ".entry"
_ENTRY = re.compile(r"[0-9a-f]{64}\.entry")
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.[\w]+\.new")
_TOUCH_AFTER = 3600  # seconds: a time of use need not be more exact
_ABANDONED_AFTER = 3600  # seconds: a file that is still being written by then never will be
_EVICT_TO = 0.9  # of the cap, so that not every new entry evicts
# A process looks again how much there is after it wrote so much of the cap.
_LOOK_AFTER = 1 / 16

# Per folder: how many bytes this process found in it when it last looked, and how many it wrote since.
_SEEN: dict[str, tuple[int, int]] = {}


class Object(NamedTuple):
    """Code of one module, with no address of any process in it.

    Attributes
    ----------
    image : bytes
        An object file.
    externals : tuple of str
        The functions of libraries that it calls: names that `externals.address_of` knows.
    """

    image: bytes
    externals: tuple[str, ...]


class Entry(NamedTuple):
    """What is kept of a compiled function.

    Attributes
    ----------
    symbol : str
        The function to call.
    objects : tuple of Object
        The modules to link.
    marks : tuple of str
        What else its caller has to know; the cache does not care.
    """

    symbol: str
    objects: tuple[Object, ...]
    marks: tuple[str, ...] = ()


class Kept(NamedTuple):
    """A file of the store."""

    path: Path
    n_bytes: int
    used: float  # seconds since the epoch


def default_directory() -> Path | None:
    """Where this platform keeps what can be made again; None where the user has no home."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "ostinato" / "Cache" if base else None
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ostinato"
    base = given if os.path.isabs(given) else str(home / ".cache")
    return Path(base) / "ostinato"


@dataclass
class Store:
    """The entries of a folder.

    Attributes
    ----------
    directory : Path or None
    cap : int
        How many bytes it may hold; what was used longest ago goes first.
    problem : str
        Why it is not used, or what went wrong last; empty if nothing did.
    """

    directory: Path | None
    cap: int
    problem: str = ""

    # ---- reading ----------------------------------------------------------------------------------

    def load(self, key: str) -> Entry | None:
        """The entry of a key; None if there is none that is whole. What is not whole is deleted."""
        directory = self._directory()
        if directory is None:
            return None
        path = directory / f"{key}{_SUFFIX}"
        try:
            with _open_own(path) as file:
                entry = _decode(key, file.read())
                _touch(file, path)
                return entry
        except FileNotFoundError:
            return None
        except (OSError, _DamagedError):
            _remove(path)
            return None

    def _directory(self) -> Path | None:
        """The folder, made if it is not there; None if it cannot be trusted."""
        if self.directory is None:
            self.problem = "there is no home folder to keep it in"
            return None
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            self.problem = _distrust(os.stat(self.directory), f"the folder {self.directory}")
        except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
            self.problem = f"the folder {self.directory} cannot be used: {getattr(error, 'strerror', error)}"
        return None if self.problem else self.directory

    # ---- writing ----------------------------------------------------------------------------------

    def save(self, key: str, entry: Entry) -> bool:
        """Keep an entry; whether that could be done. Another process sees all of it or nothing."""
        data = _encode(key, entry)
        directory = self._directory()
        if directory is None:
            return False
        if len(data) > self.cap:
            self.problem = f"its {len(data)} bytes are more than config.cache_size allows"
            return False
        try:
            _write(directory / f"{key}{_SUFFIX}", data)
        except OSError as error:
            self.problem = f"the folder {directory} cannot be written to: {error.strerror}"
            return False
        if self._is_time_to_look(len(data)):
            self._evict()
        return True

    def _is_time_to_look(self, n_bytes: int) -> bool:
        """Whether there could be too much: with thousands of entries, to look takes longer than to write.

        A process looks before its first entry is kept, when what it found and wrote would be too much, and again
        after it wrote a part of what may be there, since others write too.
        """
        found, written = _SEEN.get(str(self.directory), (None, 0))
        written += n_bytes
        if found is not None and found + written <= self.cap and written <= self.cap * _LOOK_AFTER:
            _SEEN[str(self.directory)] = (found, written)
            return False
        return True

    def _evict(self) -> None:
        """Delete what was used longest ago while there is too much, and what was never finished."""
        kept = self.entries()
        total = sum(k.n_bytes for k in kept)
        enough = _EVICT_TO * self.cap if total > self.cap else total
        for oldest in kept[:-1]:
            if total <= enough:
                break
            _remove(oldest.path)
            total -= oldest.n_bytes
        _SEEN[str(self.directory)] = (total, 0)
        for left in self._files(_TEMPORARY):
            if left.used < time.time() - _ABANDONED_AFTER:
                _remove(left.path)

    # ---- as a whole -------------------------------------------------------------------------------

    def is_usable(self) -> bool:
        """Whether entries would be looked for and kept; if not, `problem` says why."""
        if not config.cache:
            self.problem = "config.cache is False"
            return False
        return self._directory() is not None

    def entries(self) -> list[Kept]:
        """All entries, what was used longest ago first."""
        return sorted(self._files(_ENTRY), key=lambda k: (k.used, k.path.name))

    def clear(self) -> int:
        """Delete all entries, and nothing else that may be in the folder; how many there were."""
        return sum(_remove(k.path) for k in [*self._files(_ENTRY), *self._files(_TEMPORARY)])

    def _files(self, pattern: re.Pattern[str]) -> list[Kept]:
        found: list[Kept] = []
        if self.directory is None:
            return found
        with contextlib.suppress(OSError), os.scandir(self.directory) as files:
            for file in files:
                if pattern.fullmatch(file.name):
                    with contextlib.suppress(OSError):  # another process may have deleted it
                        about = file.stat(follow_symlinks=False)
                        found.append(Kept(Path(file.path), about.st_size, about.st_mtime))
        return found


def open_store() -> Store:
    """The store that `config` speaks of."""
    given = config.cache_dir
    directory = Path(os.path.expanduser(given)) if given else default_directory()
    return Store(directory, config.cache_size << 20)


# ---- files ----------------------------------------------------------------------------------------


def _distrust(about: os.stat_result, what: str) -> str:
    """Why somebody else could have written a file or folder; empty if nobody could."""
    if not hasattr(os, "geteuid"):
        return ""  # Windows: folders of a user's profile are the user's by their access lists
    if about.st_uid != os.geteuid():
        return f"{what} belongs to another user"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{what} can be written to by other users"
    return ""


class _DamagedError(Exception):
    """A file is not the entry that it should be."""


def _open_own(path: Path) -> BinaryIO:
    """A file for reading; an error unless it is an ordinary file that only the user can write to."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or _distrust(about, "it"):
        file.close()
        raise _DamagedError
    return file


def _touch(file: BinaryIO, path: Path) -> None:
    """Note that an entry was used now."""
    now = time.time()
    if os.fstat(file.fileno()).st_mtime < now - _TOUCH_AFTER:
        with contextlib.suppress(OSError):
            os.utime(file.fileno() if os.utime in os.supports_fd else path, (now, now))


def _write(path: Path, data: bytes) -> None:
    """A whole file at once: under a name of its own, then renamed over what may be there."""
    number, name = tempfile.mkstemp(".new", f".{path.stem}.", path.parent)  # owner only, and never a link
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        _remove(Path(name))
        raise


def _remove(path: Path) -> bool:
    """Delete a file if that can be done."""
    with contextlib.suppress(OSError):
        os.unlink(path)
        return True
    return False


# ---- the form of an entry -------------------------------------------------------------------------


def _encode(key: str, entry: Entry) -> bytes:
    objects = [{"size": len(o.image), "externals": o.externals} for o in entry.objects]
    header = {"format": FORMAT, "key": key, "symbol": entry.symbol, "objects": objects, "marks": entry.marks}
    rest = b"\n".join([json.dumps(header).encode(), b"".join(o.image for o in entry.objects)])
    return b"\n".join([hashlib.sha256(rest).hexdigest().encode(), rest])


def _decode(key: str, data: bytes) -> Entry:
    digest, _, rest = data.partition(b"\n")
    if digest != hashlib.sha256(rest).hexdigest().encode():
        raise _DamagedError
    text, _, images = rest.partition(b"\n")
    try:
        header: dict[str, Any] = json.loads(text)
        if (header["format"], header["key"]) != (FORMAT, key):
            raise _DamagedError
        objects = []
        for o in header["objects"]:
            objects.append(Object(images[: o["size"]], tuple(map(str, o["externals"]))))
            images = images[o["size"] :]
        return Entry(str(header["symbol"]), tuple(objects), tuple(map(str, header["marks"])))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _DamagedError from None
