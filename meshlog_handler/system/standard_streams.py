"""The standard streams of a process whose parent had replaced them before the fork."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any


def stand_on_descriptors(replaced: Callable[[Any], bool] = lambda stream: True) -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` write to descriptors 1 and 2, where they are captured.

    A forked process can inherit substitutes (of a notebook or a test runner) that bypass the descriptors. Of the streams that
    do not use their descriptor, those for which `replaced` returns true are replaced.
    """
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream without a file is replaced
            if isinstance(stream, io.TextIOWrapper) and stream.fileno() == fd:
                continue
        if not replaced(stream):
            continue
        try:
            raw = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False))
        except OSError:
            continue  # the descriptor is closed
        made = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace" if fd == 2 else None, line_buffering=True)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)


def of_parents_kernel(stream: Any) -> bool:
    """Return whether `stream` belongs to a kernel that this process was forked from.

    The kernel itself shows what is written to such a stream, and the capture does not see it.
    """
    kernel = getattr(stream, "_master_pid", None)
    return type(stream).__module__ == "ipykernel.iostream" and kernel is not None and kernel != os.getpid()
