"""A mesh in a notebook: what its procs say stands under the right cell, before that cell ends.

- A flusher at the end of each cell, one for the session however many meshes there are.
- The console of a client writes under the cell that runs, or the one that started the mesh: `show_under`.
- Descriptors 1 and 2 of the kernel's process are captured, for C code and subprocesses, where the kernel does not do it.
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

from ..client.log_client import LogClient
from ..client.receipt import FlushReceipt
from ..errors import ClosedError, SettingError
from ..output.console import ConsoleHandler
from ..protocol.ranks import format_ranks
from ..system.fd_capture import flush_streams
from ..system.waits import monotonic
from .fd_tee import FdTee
from .ipython import Cell, Pulse, find_shell, own_output, running_cell, write_under

FLUSH_SEC: Final = 3.0
"""Seconds that the ranks have, at the end of a cell, to say that everything has been shown."""

_SILENT_SEC: Final = 0.5  # for those that did not say so at the end of the cell before
_MARGIN_SEC: Final = 1.0
_PLACES: Final = ("running", "starting")

_place = "running"
_session: Session | None = None
_inherited: Any = None
# Reentrant: the garbage collector may stop a mesh, which then detaches, at any place.
_lock = threading.RLock()


class HasClient(Protocol):
    """What shows by a client, as `LoggingMeshClient` does."""

    @property
    def client(self) -> LogClient:
        """The client."""


def current_cell() -> Cell | None:
    """Return what names the cell that this thread runs in, or else the one that runs; None outside of notebooks."""
    shell = _shell()
    return running_cell(shell) if shell is not None else None


def attach_if_notebook(client: LogClient | HasClient, started_by: Cell | None = None) -> bool:
    """Let a client behave in a notebook, or in a terminal's IPython; elsewhere do nothing.

    Attaching twice is the same as once. A mesh of this package does it by itself. Any thread may call it, from within a cell.

    Parameters
    ----------
    client : LogClient, or what has one as its `client`
        One that runs. Referred to weakly. Only the console it made itself follows the cells; handlers given to it are left
        alone.
    started_by : Mapping or None
        The cell that started it, as `current_cell` returned it there. None: the cell that runs.

    Returns
    -------
    bool
        Whether IPython runs here.

    Notes
    -----
    Monarch's ``logging_option`` does the same: a flusher at the end of cells, and a capture of descriptors.
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
    """Take a client off the notebook; None: all. With the last one goes the flusher, and the capture of descriptors.

    Done when a mesh is stopped, at the end of the cell in which its client stopped or was collected, and at exit.
    Detaching twice is the same as once. Any thread may call it.
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
    """Choose the cell under which the notebook shows what procs say.

    Parameters
    ----------
    place : str
        ``"running"``: the cell that runs when it is shown, or the last one that ran. ``"starting"``: for each mesh, the cell
        that started it; some front ends show nothing there once that cell has ended.

    Raises
    ------
    SettingError
        For anything else (a ``ValueError``).
    """
    global _place
    if place not in _PLACES:
        raise SettingError(f"show_under({place!r}) names no cell. Valid: {', '.join(map(repr, _PLACES))}.")
    _place = place


class Session:
    """An IPython shell with clients. `_cell_starts` and `_cell_ended` run on the shell's thread, the rest on any."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.running = running_cell(shell)
        self._clients: weakref.WeakSet[LogClient] = weakref.WeakSet()
        self._silent: weakref.WeakSet[LogClient] = weakref.WeakSet()
        self._fd_tee: FdTee | None = None
        self._pulse = Pulse(shell)

    def open(self) -> None:
        """Listen to the shell. Opening twice is the same as once: IPython registers no function twice."""
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
        """Begin with a client, or go on with it."""
        if client not in self._clients:
            self._clients.add(client)
            console = client.console
            if isinstance(console, ConsoleHandler):
                console.before_write = functools.partial(self._choose_cell, started_by or self.running)

    def remove(self, client: LogClient | None) -> None:
        """End with a client, or with all."""
        for each in self._clients.copy() if client is None else (client,):
            self._clients.discard(each)
            console = each.console
            if isinstance(console, ConsoleHandler):
                console.before_write = None

    def clients(self) -> list[LogClient]:
        """Return the clients that run; take leave of the others."""
        for client in self._clients.copy():
            if not client.running:
                self.remove(client)
        return list(self._clients)

    def close(self) -> None:
        """Leave the shell as it was."""
        for event, function in (("pre_run_cell", self._cell_starts), ("post_run_cell", self._cell_ended)):
            with contextlib.suppress(ValueError):  # the user took off all of them
                self.shell.events.unregister(event, function)
        atexit.unregister(detach)
        self.remove(None)
        self._pulse.stop()
        if self._fd_tee is not None:
            self._fd_tee.stop()

    def forget(self) -> None:
        """In a forked child: give up what is the parent's."""
        if self._fd_tee is not None:
            self._fd_tee.forget()

    def _cell_starts(self, info: object = None) -> None:
        # Not fired for what front ends run silently, completions and inspections: where that goes, nobody looks.
        self.running = running_cell(self.shell)
        self._pulse.start()

    def _cell_ended(self, result: object = None) -> None:
        self._pulse.stop()
        try:
            # What printf holds back, for it writes to a pipe. Where the kernel itself shows that, it does so in a moment.
            flush_streams((1, 2))
            if self._fd_tee is not None:
                self._fd_tee.drain()
            error = getattr(result, "error_in_exec", None)
            # Interrupted, by KeyboardInterrupt or asyncio's CancelledError: whoever did that does not want to wait.
            self._flush(_SILENT_SEC if isinstance(error, BaseException) and not isinstance(error, Exception) else FLUSH_SEC)
        except KeyboardInterrupt:
            _say("interrupted; what procs said last is shown under a later cell")
        _close_unused()

    def _flush(self, timeout: float) -> None:
        clients = self.clients()
        patience = {client: _SILENT_SEC if client in self._silent else timeout for client in clients}
        deadline = monotonic() + max(patience.values(), default=0.0) + _MARGIN_SEC
        flushes: list[tuple[LogClient, Future[FlushReceipt]]] = []
        for client in clients:
            with contextlib.suppress(ClosedError):  # it was stopped meanwhile, and has shown everything
                flushes.append((client, client.flush_soon(patience[client])))
        for client, future in flushes:
            trouble = _trouble(future, max(0.0, deadline - monotonic()))
            if trouble:
                self._silent.add(client)
                _say(trouble)
            else:
                self._silent.discard(client)

    def _choose_cell(self, started_by: Cell | None, stream: Any) -> None:
        """Let what this thread writes stand under the cell chosen by `show_under`."""
        cell = started_by if _place == "starting" and started_by is not None else self.running
        if cell is not None:
            write_under(cell, stream)


def _trouble(future: Future[FlushReceipt], timeout: float) -> str:
    """Wait for a flush; say what is wrong with it, in one line, or return nothing."""
    try:
        receipt = future.result(timeout)
    except NotDone:
        return "a handler holds up what procs say; it is shown later"
    except ClosedError:
        return ""
    if not receipt.missing:
        return ""
    total = len(receipt.acked) + len(receipt.missing) + len(receipt.dead)
    return (
        f"{format_ranks(receipt.missing)} of {total} silent for {receipt.elapsed:.1f} s (stopped, or in native code that "
        f"holds the GIL): what was said last there is shown later"
    )


def _say(text: str) -> None:
    if sys.stderr is not None:
        print(f"meshlog: {text}", file=sys.stderr)


def _of(client: LogClient | HasClient) -> LogClient:
    given: Any = client
    found: LogClient = getattr(given, "client", given)
    return found


def _shell() -> Any:
    """Return IPython's shell, or None. That of the process which this one was forked from runs no cells here."""
    shell = find_shell()
    return shell if shell is not _inherited else None


def _after_fork_in_child() -> None:
    global _session, _lock, _inherited
    session, _session, _lock = _session, None, threading.RLock()
    if session is not None:
        _inherited = session.shell
        session.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
