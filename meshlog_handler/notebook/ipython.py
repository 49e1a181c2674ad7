"""What is known about IPython's shells and ipykernel's kernels, of all versions since 6. Nothing of either is imported.

What a thread writes stands under the cell that its parent header names:

- ipykernel 6: ``OutStream._parent_header``, a ContextVar; where the thread has not set it, that of the thread which made it.
- ipykernel 7: the same variable, set by ``set_thread_parent``; else the request heard last, be it a completion.

ipykernel captures descriptors 1 and 2 by itself since version 6 (``OutStream.watch_fd_thread``), except where its option
``capture_fd_output`` is off, on systems other than Linux and macOS, and in a test of pytest.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from .fd_tee import FdTee

Cell = Mapping[str, Any]
"""The header of the request that runs a cell: what output refers to that stands under it."""

_BEAT_SEC: Final = 0.25


def find_shell() -> Any:
    """Return IPython's shell, or None."""
    # Not an import: a program without IPython pays for this look, and for nothing else.
    find: Callable[[], Any] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return find() if find is not None else None


def running_cell(shell: Any) -> Cell | None:
    """Return the cell that this thread runs, or else the one that the kernel runs; None in a terminal."""
    parent: Any = shell.get_parent() if hasattr(shell, "get_parent") else None
    header = parent.get("header") if isinstance(parent, Mapping) else None
    return header if isinstance(header, Mapping) and header else None


def write_under(cell: Cell, stream: Any) -> None:
    """Let what this thread writes to `stream` from now on stand under `cell`; do nothing if it is no notebook's stream."""
    choose = getattr(stream, "set_thread_parent", None)
    if choose is not None:
        choose(cell)
    else:
        variable = getattr(stream, "_parent_header", None)
        if isinstance(variable, ContextVar):
            variable.set(cell)


def own_output(shell: Any, before_write: Callable[[Any], None]) -> FdTee | None:
    """Return what shows the output of the kernel's own C code and subprocesses; None where that needs nothing.

    A terminal needs nothing, nor does a kernel that captures its descriptors by itself. One that echoes to them what it
    shows would show that for ever.
    """
    kernel = getattr(shell, "kernel", None)
    module = sys.modules.get("ipykernel.iostream")
    routes: dict[int, Callable[[str], None]] = {}
    for fd, name in ((1, "_stdout"), (2, "_stderr")):
        stream = getattr(kernel, name, None)
        if module is None or not isinstance(stream, module.OutStream):
            continue
        if not getattr(stream, "_should_watch", False) and getattr(stream, "echo", None) is None:
            routes[fd] = functools.partial(_write, before_write, stream)
    return FdTee(routes) if routes else None


def _write(before_write: Callable[[Any], None], stream: Any, text: str) -> None:
    before_write(stream)
    stream.write(text)


def of_parents_kernel(stream: Any) -> bool:
    """Tell whether a stream is that of a kernel which this process was forked from.

    What is written there the kernel shows by itself, past all that is captured.
    """
    kernel = getattr(stream, "_master_pid", None)
    return type(stream).__module__ == "ipykernel.iostream" and kernel is not None and kernel != os.getpid()


class Pulse:
    """Wakes the kernel's event loop now and then, while a cell runs, so that an interrupt ends an ``await`` at once.

    ipykernel 6 and 7 take an interrupt by ``add_callback`` on the loop's own thread, which does not wake it: without this,
    it is noticed when something else happens, such as the end of what is awaited. A cell that does not await, and an
    idle kernel, are not touched.
    """

    def __init__(self, shell: Any) -> None:
        self._loop = getattr(getattr(shell, "kernel", None), "io_loop", None)
        self._wanted = False
        self._beating = False

    def start(self) -> None:
        """Begin, from any thread. Starting twice is the same as once."""
        self._wanted = True
        if self._loop is not None:
            self._loop.add_callback(self._begin)

    def stop(self) -> None:
        """End, from any thread."""
        self._wanted = False

    def _begin(self) -> None:
        if not self._beating:
            self._beat()

    def _beat(self) -> None:
        self._beating = self._wanted
        if self._wanted and self._loop is not None:
            self._loop.call_later(_BEAT_SEC, self._beat)
