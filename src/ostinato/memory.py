"""Bytes of memory: how users write them, and how many there are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ostinato.errors import OstinatoValueError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?|)b\s*", re.IGNORECASE)
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def read_bytes(text: str, what: str) -> int:
    """A number of bytes, such as "64MB" (of 10**6) or "2 GiB" (of 2**30).

    Raises
    ------
    OstinatoValueError
        If it is not one, or less than a byte; `what` says what was to be read.
    """
    found = _BYTES.fullmatch(text)
    if found is None or float(found[1]) * _UNITS[found[2].lower()] < 1:
        raise OstinatoValueError(f"{what} is a number of bytes such as '64MB' or '2GiB', not {text!r}")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def half(free: int) -> int:
    """About half of the bytes that are free, a power of two: so few programs are made, and found in the cache."""
    return 1 << max(0, (free // 2).bit_length() - 1)


def available_memory() -> int | None:
    """The bytes that this process could still take without swapping; None where that cannot be found out.

    What Linux says is available, or what is left to the control group of the process, if that is less.
    """
    found = [n for n in (_of_system(), _of_group()) if n is not None]
    return min(found, default=None)


def _of_system() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_group() -> int | None:
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        return None if most == "max" else int(most) - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
