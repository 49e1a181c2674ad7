"""The standard streams of a process that was forked from one which had put something else in their place."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any


def stand_on_descriptors(replaced: Callable[[Any], bool] = lambda stream: True) -> None:
    """Let ``sys.stdout`` and ``sys.stderr`` be files on descriptors 1 and 2, where they are captured.

    A forked process can have its parent's substitutes (of a notebook, of a test runner), which lead past the descriptors.

    Parameters
    ----------
    replaced : Callable[[Any], bool]
        Tells which streams to replace of those that are not on their descriptor.
    """
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # no file behind it: it is replaced
            if isinstance(stream, io.TextIOWrapper) and stream.fileno() == fd:
                continue
        if not replaced(stream):
            continue
        try:
            raw = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False))
        except OSError:
            continue  # the descriptor is closed: the program runs without
        made = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace" if fd == 2 else None, line_buffering=True)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)
