"""The C library of this process, where Python has `ctypes`."""

from __future__ import annotations

import contextlib
import sys
from functools import lru_cache
from typing import Any

try:
    import ctypes as ctypes  # imported here: a forked child could block on an import that a thread has begun
except ImportError:  # Python was built without it
    ctypes = None  # type: ignore[assignment]  # callers check it


@lru_cache
def libc() -> Any:
    """Return the C library. Raises `OSError` if it cannot be opened."""
    return ctypes.CDLL(None)


@lru_cache
def prepare_thread_ends() -> None:
    """Load what a daemon thread needs to end with its process, while there are descriptors and memory for it.

    Up to Python 3.13, such a thread calls ``pthread_exit``. The GNU C library then loads ``libgcc_s``, and aborts the process
    if it cannot: a process that has used up its descriptors would end by SIGABRT.
    """
    if ctypes is not None and sys.platform == "linux" and sys.version_info < (3, 14):
        with contextlib.suppress(OSError):  # another C library, which needs none
            ctypes.CDLL("libgcc_s.so.1")
