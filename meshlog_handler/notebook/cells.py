"""Notebook cells: the output of workers appears under the right cell, before that cell ends.

- Each session has one flusher, which runs at the end of each cell for all clients.
- The console of a client writes under the running cell, or under the cell that started the client (see `show_under`).
- Descriptors 1 and 2 of the kernel's process are captured for C code and subprocesses if the kernel does not capture them.
- An interrupt ends an ``await`` of the mesh at once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import threading
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from typing import Any, Final, Literal, Protocol

from ..client.flushes.receipt import FlushReceipt
from ..client.log_client import LogClient
from ..errors import ClosedError, SettingError, quoted
from ..output.console import ConsoleHandler
from ..protocol.ranks import format_ranks
from ..system.fd_capture import flush_streams
from ..system.waits import monotonic
from .fd_tee import FdTee
from .ipython import Cell, Pulse, find_shell, own_output, running_cell, write_under

FLUSH_SEC: Final = 3.0
"""Seconds that the flush at the end of a cell waits for the ranks."""

_SILENT_SEC: Final = 0.5  # for clients whose last flush was incomplete
_MARGIN_SEC: Final = 1.0
_PLACES: Final = ("running", "starting")

_place = "running"
_session: Session | None = None
_inherited: Any = None
# Reentrant: the garbage collector may stop a mesh at any point, and the mesh then detaches its client.
_lock = threading.RLock()


class HasClient(Protocol):
    """An object with a client, such as `LoggingMeshClient`."""

    @property
    def client(self) -> LogClient:
        """The client."""


def current_cell() -> Cell | None:
    """Return the header of the cell that this thread runs, or of the running cell. Return None outside of notebooks."""
    shell = _shell()
    return running_cell(shell) if shell is not None else None


def attach_if_notebook(client: LogClient | HasClient, started_by: Cell | None = None) -> bool:
    """Attach a client to a notebook, or to IPython in a terminal. Elsewhere, do nothing.

    Attaching a client twice has no further effect. A mesh of this package attaches its client itself. Any thread may call it,
    while a cell runs.

    Parameters
    ----------
    client : LogClient, or an object with a `client` attribute
        A running client. Only a weak reference is kept. Only the client's default console follows the cells; handlers that
        were given to the client are not changed.
    started_by : Mapping or None
        The cell that started the client, as returned by `current_cell` in that cell. None: the running cell.

    Returns
    -------
    bool
        Whether this process runs IPython.

    Notes
    -----
    Monarch's ``logging_option`` works in the same way: it flushes at the end of each cell, and captures descriptors.
    """
    shell = _shell()
    if shell is None:
        return False
    global _session
    with _lock:
        session = _session if _session is not None and _session.shell is shell else Session(shell)
        session.add(_of(client), started_by)
        previous, _session = _session, session
        if previous is not None and previous is not session:
            previous.close()
        session.open()
    return True


def detach(client: LogClient | HasClient | None = None) -> None:
    """Detach a client from the notebook. Detaching the last client ends the flusher and the capture of descriptors.

    A client is detached automatically when its mesh is stopped, at the end of the cell in which it was stopped or garbage
    collected, and at exit. Detaching a client twice has no further effect. Any thread may call it.

    Parameters
    ----------
    client : LogClient, or an object with a `client` attribute, or None
        The client to detach. None: all clients.
    """
    with _lock:
        if _session is not None:
            _session.remove(None if client is None else _of(client))
            _close_unused()


def _close_unused() -> None:
    global _session
    with _lock:
        if _session is not None and not _session.clients():
            _session.close()
            _session = None


def show_under(place: Literal["running", "starting"]) -> None:
    """Choose the cell under which the notebook shows the output of workers.

    Parameters
    ----------
    place : {"running", "starting"}
        ``"running"``: the cell that runs when the output is shown, or the last cell that ran. ``"starting"``: the cell that
        started the client; some front ends show nothing under a cell that has ended.

    Raises
    ------
    SettingError
        If `place` has another value. It is a ``ValueError``.
    """
    global _place
    if place not in _PLACES:
        raise SettingError(f"show_under({quoted(place)}) does not name a cell. Valid: {', '.join(map(repr, _PLACES))}.")
    _place = place


class Session:
    """An IPython shell and its clients. `_cell_starts` and `_cell_ended` run on the shell's thread, other methods on any."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.running = running_cell(shell)
        self._clients: weakref.WeakSet[LogClient] = weakref.WeakSet()
        self._silent: weakref.WeakSet[LogClient] = weakref.WeakSet()
        self._fd_tee: FdTee | None = None
        self._pulse = Pulse(shell)

    def open(self) -> None:
        """Register the callbacks. Opening twice has no further effect, since IPython registers a function only once."""
        self.shell.events.register("pre_run_cell", self._cell_starts)
        self.shell.events.register("post_run_cell", self._cell_ended)
        if self._fd_tee is None:
            self._fd_tee = own_output(self.shell, lambda stream: self._choose_cell(None, stream))
        if self._fd_tee is not None:
            self._fd_tee.start()
        self._pulse.start()
        atexit.unregister(detach)
        atexit.register(detach)

    def add(self, client: LogClient, started_by: Cell | None) -> None:
        """Add a client, unless it is already attached."""
        if client not in self._clients:
            self._clients.add(client)
            console = client.console
            if isinstance(console, ConsoleHandler):
                console.before_write = functools.partial(self._choose_cell, started_by or self.running)

    def remove(self, client: LogClient | None) -> None:
        """Remove a client, or all."""
        for each in self._clients.copy() if client is None else (client,):
            self._clients.discard(each)
            console = each.console
            if isinstance(console, ConsoleHandler):
                console.before_write = None

    def clients(self) -> list[LogClient]:
        """Remove the clients that do not run, and return the others."""
        for client in self._clients.copy():
            if not client.running:
                self.remove(client)
        return list(self._clients)

    def close(self) -> None:
        """Restore the shell."""
        for event, function in (("pre_run_cell", self._cell_starts), ("post_run_cell", self._cell_ended)):
            with contextlib.suppress(ValueError):  # the user unregistered all callbacks
                self.shell.events.unregister(event, function)
        atexit.unregister(detach)
        self.remove(None)
        self._pulse.stop()
        if self._fd_tee is not None:
            self._fd_tee.stop()

    def forget(self) -> None:
        """In a forked child: release the parent's descriptors."""
        if self._fd_tee is not None:
            self._fd_tee.forget()

    def _cell_starts(self, info: object = None) -> None:
        # IPython does not fire this for silent executions, completions and inspections; their output has no visible cell.
        self.running = running_cell(self.shell)
        self._pulse.start()

    def _cell_ended(self, result: object = None) -> None:
        self._pulse.stop()
        try:
            # C code buffers its output, since it writes to a pipe. If the kernel captures that pipe, it shows the output soon.
            flush_streams((1, 2))
            if self._fd_tee is not None:
                self._fd_tee.drain()
            error = getattr(result, "error_in_exec", None)
            # After an interrupt (KeyboardInterrupt, or CancelledError of asyncio), the user does not want to wait.
            self._flush(_SILENT_SEC if isinstance(error, BaseException) and not isinstance(error, Exception) else FLUSH_SEC)
        except KeyboardInterrupt:
            _print("interrupted: the last output is shown under a later cell")
        _close_unused()

    def _flush(self, timeout: float) -> None:
        clients = self.clients()
        patience = {client: _SILENT_SEC if client in self._silent else timeout for client in clients}
        deadline = monotonic() + max(patience.values(), default=0.0) + _MARGIN_SEC
        flushes: list[tuple[LogClient, Future[FlushReceipt]]] = []
        for client in clients:
            with contextlib.suppress(ClosedError):  # the client was stopped, and has shown everything
                flushes.append((client, client.flush_soon(patience[client])))
        for client, future in flushes:
            trouble = _trouble(future, max(0.0, deadline - monotonic()))
            if trouble:
                self._silent.add(client)
                _print(trouble)
            else:
                self._silent.discard(client)

    def _choose_cell(self, started_by: Cell | None, stream: Any) -> None:
        """Direct the output of this thread to the cell chosen by `show_under`."""
        cell = started_by if _place == "starting" and started_by is not None else self.running
        if cell is not None:
            write_under(cell, stream)


def _trouble(future: Future[FlushReceipt], timeout: float) -> str:
    """Wait for a flush. Return its problem in one line, or ""."""
    try:
        receipt = future.result(timeout)
    except NotDone:
        return "a handler delays the output; it is shown later"
    except ClosedError:
        return ""
    if not receipt.missing:
        return ""
    total = len(receipt.acked) + len(receipt.missing) + len(receipt.dead)
    return (
        f"{format_ranks(receipt.missing)} of {total} silent for {receipt.elapsed:.1f} s (stopped, or in native code that "
        f"holds the GIL): the last output is shown later"
    )


def _print(text: str) -> None:
    if sys.stderr is not None:
        print(f"meshlog: {text}", file=sys.stderr)


def _of(client: LogClient | HasClient) -> LogClient:
    given: Any = client
    found: LogClient = getattr(given, "client", given)
    return found


def _shell() -> Any:
    """Return IPython's shell, or None. A shell inherited from the parent by a fork does not count: it runs no cells here."""
    shell = find_shell()
    return shell if shell is not _inherited else None


def _after_fork_in_child() -> None:
    global _session, _lock, _inherited
    session, _session, _lock = _session, None, threading.RLock()
    if session is not None:
        _inherited = session.shell
        session.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
