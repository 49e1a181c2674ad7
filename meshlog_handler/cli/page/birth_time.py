"""The creation time of a file, which Python's `os.stat` does not return on Linux."""

from __future__ import annotations

import os
import struct
from functools import cache
from typing import Any, Final

from ...system.c_library import ctypes, libc

_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_PLACE: Final = 80
_SIZE: Final = 256


def birth_time(path: str) -> float | None:
    """Return the creation time of a file in seconds since the epoch, or None if the system or file system does not know it."""
    try:
        born = getattr(os.stat(path), "st_birthtime", None)
        if born is not None:
            return float(born)
        call = _statx()
        if call is None:
            return None
        buffer = ctypes.create_string_buffer(_SIZE)
        if call(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
            return None
        seconds, part = struct.unpack_from("=qI", buffer, _PLACE)
        known = struct.unpack_from("=I", buffer)[0] & _STATX_BTIME
    except OSError:  # it is gone
        return None
    return float(seconds + part / 1e9) if known else None


@cache
def _statx() -> Any:
    try:
        return None if ctypes is None else libc().statx
    except (AttributeError, OSError):  # an older C library, or another system
        return None
