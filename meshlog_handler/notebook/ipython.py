"""Access to the internals of IPython and of ipykernel since version 6. Neither is imported.

The output of a thread appears under the cell that its parent header names:

- ipykernel 6: ``OutStream._parent_header``, a ContextVar. A thread that has not set it uses the value of its parent thread.
- ipykernel 7: the same variable, set by ``set_thread_parent``. Without it, the last request counts, even a completion.

Since version 6, ipykernel captures descriptors 1 and 2 itself (``OutStream.watch_fd_thread``), except if its option
``capture_fd_output`` is off, on systems other than Linux and macOS, and under pytest.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from .fd_tee import FdTee

Cell = Mapping[str, Any]
"""The header of the request that runs a cell. Output that refers to it appears under that cell."""

_BEAT_SEC: Final = 0.25


def find_shell() -> Any:
    """Return IPython's shell, or None."""
    # Not an import: a program without IPython pays only for this lookup.
    find: Callable[[], Any] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return find() if find is not None else None


def running_cell(shell: Any) -> Cell | None:
    """Return the cell that this thread runs, or the cell that the kernel runs. Return None in a terminal."""
    parent: Any = shell.get_parent() if hasattr(shell, "get_parent") else None
    header = parent.get("header") if isinstance(parent, Mapping) else None
    return header if isinstance(header, Mapping) and header else None


def write_under(cell: Cell, stream: Any) -> None:
    """Direct later output of this thread to `cell`. Do nothing if `stream` is not a notebook's stream."""
    choose = getattr(stream, "set_thread_parent", None)
    if choose is not None:
        choose(cell)
    else:
        variable = getattr(stream, "_parent_header", None)
        if isinstance(variable, ContextVar):
            variable.set(cell)


def own_output(shell: Any, before_write: Callable[[Any], None]) -> FdTee | None:
    """Return an `FdTee` for the output of the kernel's C code and subprocesses, or None if none is needed.

    A terminal needs none, and neither does a kernel that captures its descriptors itself. A kernel that echoes its output to
    them must not have one: it would show its own output for ever.
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


class Pulse:
    """Wakes the kernel's event loop every 0.25 s while a cell runs, so that an interrupt ends an ``await`` at once.

    ipykernel 6 and 7 handle an interrupt by ``add_callback`` on the loop's thread, which does not wake the loop. Without the
    pulse, the loop handles the interrupt only at its next event, such as the end of the ``await``. A cell without ``await``
    and an idle kernel are not affected.
    """

    def __init__(self, shell: Any) -> None:
        self._loop = getattr(getattr(shell, "kernel", None), "io_loop", None)
        self._wanted = False
        self._beating = False

    def start(self) -> None:
        """Start the pulse, unless it is running. Any thread may call it."""
        self._wanted = True
        if self._loop is not None:
            self._loop.add_callback(self._begin)

    def stop(self) -> None:
        """Stop the pulse. Any thread may call it."""
        self._wanted = False

    def _begin(self) -> None:
        if not self._beating:
            self._beat()

    def _beat(self) -> None:
        self._beating = self._wanted
        if self._wanted and self._loop is not None:
            self._loop.call_later(_BEAT_SEC, self._beat)
