"""The thread that watches the procs of a mesh: it writes what is to be sent, reads answers, and learns of ends.

It waits for everything at once, never for one thing, and runs no code of the program: what an answer holds is unpickled
by another thread, the `ResultLoader`. That a proc has ended it is told by the kernel. It never waits for the end of a stream,
which a grandchild can hold open.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import ClosedError, ProtocolError
from ..protocol.messages import decode
from ..system.error_reports import ErrorReports
from ..system.waits import capped, monotonic, seconds_until
from .pending_call import End, PendingCall
from .proc import ProcHandle
from .result_loader import ResultLoader
from .rpc import DONE, FAILED, CallFailure

GRACE_SEC: Final = 0.5
"""Seconds that the other ranks have to answer, or fail as well, once one has failed."""

_SILENT_SEC: Final = 10.0
_POLL_SEC: Final = 0.2
_PAUSE_SEC: Final = 0.01
_PIECE: Final = 256 * 1024


class Supervisor:
    """Watches procs.

    Any thread may call the public methods; `post` and `wake` take no lock, so that a finalizer may call them, too.

    Parameters
    ----------
    procs : sequence of Proc
        All that there will be; each is watched from `add` on.
    name : str
        Of the mesh, for the thread's name.
    on_exit : Callable[[int, int, int or None], None] or None
        Called on this thread with rank, pid and exit code (None: nobody knows) when a proc has ended.
    """

    def __init__(self, procs: Sequence[ProcHandle], name: str, on_exit: Callable[[int, int, int | None], None] | None) -> None:
        self.procs = procs
        self.lock = threading.Lock()
        self.idle = threading.Event()
        self._on_exit = on_exit
        self._result_loader = ResultLoader(f"meshlog-results-{name}")
        self._thread = threading.Thread(target=self._run, name=f"meshlog-procs-{name}", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._posted: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._finishing = False
        self._given_up = False
        self._error_reports = ErrorReports()
        _watchers.add(self)

    # -- for any thread --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start both threads."""
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
        try:
            self._result_loader.start()
            self._thread.start()
        except RuntimeError:  # no room for another thread
            self._close()
            raise

    def dispose(self) -> None:
        """Give up everything, without ever having started."""
        self._close()

    def add(self, proc: ProcHandle) -> None:
        """Watch a proc, whose child and socket are there."""
        self.post(lambda: self._begin(proc))

    def post(self, action: Callable[[], object]) -> None:
        """Run `action` on the watcher's thread; never, if that has ended."""
        self._posted.append(action)
        self.wake()

    def wake(self) -> None:
        """Let the watcher look at the outboxes."""
        with contextlib.suppress(OSError):  # it is full of reasons to wake up; or closed, and there is nobody to wake
            self._wake_write.send(b"\0")

    def finish(self) -> None:
        """End as soon as no proc is left; `idle` is set then."""
        self._finishing = True
        self.wake()

    def give_up(self) -> None:
        """End, whatever is left."""
        self._given_up = True
        self.wake()

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every proc that is left."""
        self.post(lambda: self._signal(number))

    def join(self, timeout: float) -> None:
        """Wait for both threads, up to `timeout` seconds."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(capped(timeout))
        self._result_loader.join(timeout)

    # -- on the watcher's thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._given_up or (self._finishing and self._all_gone())):
                for key, events in self._selector.select(self._patience()):
                    self._do(key.data, events)
                self._do(self._expire)
        finally:
            self._close()

    def _do(self, step: Callable[..., object], *args: Any) -> None:
        """Do something; say it if it fails. An error with one proc must not end all others."""
        try:
            step(*args)
        except Exception as failure:
            self._error_reports.log("the thread that watches the procs goes on after a failure", failure)
            time.sleep(_PAUSE_SEC)  # one that fails again and again leaves the processor to others

    def _all_gone(self) -> bool:
        return all(proc.gone or proc.child is None for proc in self.procs)

    def _signal(self, number: signal.Signals) -> None:
        for proc in self.procs:
            if proc.child is not None and not proc.gone:
                proc.child.send_signal(number)

    def _patience(self) -> float:
        wait = seconds_until(self._timers[0][0] if self._timers else None)
        if any(proc.child is not None and not proc.child.prompt and not proc.gone for proc in self.procs):
            return min(wait, _POLL_SEC)
        return wait

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (monotonic() + seconds, next(self._order), action))

    def _expire(self) -> None:
        while self._timers and self._timers[0][0] <= monotonic():
            heapq.heappop(self._timers)[2]()
        for proc in self.procs:
            if proc.child is not None and not proc.child.prompt and not proc.gone and proc.child.poll() is not None:
                self._ended(proc)

    def _woken(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):  # read to the end
            while self._wake_read.recv(4096):
                continue
        while self._posted:
            self._do(self._posted.popleft())
        for proc in self.procs:
            self._write(proc)

    def _begin(self, proc: ProcHandle) -> None:
        assert proc.child is not None
        assert proc.sock is not None
        proc.sock.setblocking(False)
        self._selector.register(proc.child.sentinel, selectors.EVENT_READ, lambda events: self._ended(proc))
        self._listen(proc, selectors.EVENT_READ)

    def _listen(self, proc: ProcHandle, events: int) -> None:
        """Wait for these events of the proc's socket, and no others."""
        if proc.sock is None or events == proc.events:
            return
        if proc.events == 0:
            self._selector.register(proc.sock, events, lambda ready: self._on_socket(proc, ready))
        elif events:
            self._selector.modify(proc.sock, events, lambda ready: self._on_socket(proc, ready))
        else:
            self._selector.unregister(proc.sock)
        proc.events = events

    def _on_socket(self, proc: ProcHandle, ready: int) -> None:
        if ready & selectors.EVENT_WRITE:
            self._write(proc)
        if ready & selectors.EVENT_READ:
            self._read(proc)

    def _write(self, proc: ProcHandle) -> None:
        if proc.events:
            with self.lock:
                left = proc.send()
            self._listen(proc, selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0))

    def _read(self, proc: ProcHandle, to_the_end: bool = False) -> None:
        """Read what there is; unless it is the last time, let others have their turn after some megabytes."""
        pieces = 0
        while proc.sock is not None and (to_the_end or pieces < 16):
            try:
                data = proc.sock.recv(_PIECE)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # reset: it died with something of ours unread
            if not data:
                self._hang_up(proc)
                return
            pieces += 1
            try:
                for frame in proc.reader.feed(data):
                    self._answer(proc, *frame)
            except ProtocolError as error:
                self._reject(proc, error)

    def _answer(self, proc: ProcHandle, kind: int, number: int, payload: bytes) -> None:
        with self.lock:
            call = proc.pending.pop(number, None)
        if call is None:
            return  # its caller was told of another rank's failure before
        if kind == DONE:
            call.returned(proc.rank, payload)
        elif kind == FAILED:
            call.failed(proc.rank, decode(payload, CallFailure))
        else:
            raise ProtocolError(f"rank {proc.rank} sent a frame of kind {kind}")
        self._progress(call)

    def _progress(self, call: PendingCall) -> None:
        if call.complete:
            self._result_loader.settle(call)
        elif call.failing and not call.in_grace:
            call.in_grace = True
            self._after(GRACE_SEC, lambda: self._cut_off(call))

    def _cut_off(self, call: PendingCall) -> None:
        """The call has failed; who has not answered by now is not waited for."""
        if call.complete:
            return
        with self.lock:
            for proc in self.procs:
                proc.pending.pop(call.number, None)
        self._result_loader.settle(call)

    def _reject(self, proc: ProcHandle, error: ProtocolError) -> None:
        """Its program wrote into a descriptor that is not its own. Nothing that it says can be believed any more."""
        self._close_socket(proc)
        if proc.child is not None:
            proc.child.send_signal(signal.SIGKILL)
            self._lose(proc, End(proc.rank, proc.child.pid, f"was ended: its connection to the client brought {error}"))

    def _hang_up(self, proc: ProcHandle) -> None:
        """It will not answer any more. How it ended is known in a moment, if that is why."""
        self._close_socket(proc)
        self._after(_SILENT_SEC, lambda: self._silent(proc))

    def _silent(self, proc: ProcHandle) -> None:
        if not proc.gone and proc.child is not None:
            self._lose(proc, End(proc.rank, proc.child.pid, "closed its connection to the client, though it goes on"))

    def _ended(self, proc: ProcHandle) -> None:
        child = proc.child
        if proc.gone or child is None:
            return
        proc.gone = True  # before anything that can fail: it is not looked at again
        self._selector.unregister(child.sentinel)
        self._do(lambda: self._read(proc, to_the_end=True))
        code = child.poll()
        # A fork server that is killed reports its children as ended while they go on.
        child.send_signal(signal.SIGKILL)
        self._close_socket(proc)
        if self._on_exit is not None:
            self._do(self._on_exit, proc.rank, child.pid, code)
        proc.exitcode = code
        self._lose(proc, End.by(proc.rank, child.pid, code))
        child.close()

    def _lose(self, proc: ProcHandle, end: End) -> None:
        """Whatever was asked of it fails for this reason, and so will what is asked from now on."""
        with self.lock:
            proc.end = end
            calls = list(proc.pending.values())
            proc.pending.clear()
            proc.outbox.clear()
        for call in calls:
            call.failed(proc.rank, end)
            self._progress(call)

    def _close_socket(self, proc: ProcHandle) -> None:
        self._listen(proc, 0)
        if proc.sock is not None:
            proc.sock.close()
            proc.sock = None

    def _close(self) -> None:
        """Leave nothing and nobody behind, also where an error brought the thread here."""
        with self.lock:
            calls = {call.number: call for proc in self.procs for call in proc.pending.values()}
            for proc in self.procs:
                proc.pending.clear()
                proc.outbox.clear()
                if proc.end is None:
                    proc.end = End(proc.rank, proc.pid or 0, "is no longer looked after")
        for call in calls.values():
            if call.failing:
                self._result_loader.settle(call)
            else:
                call.refuse(ClosedError(f"the mesh was stopped before {call.what} was done."))
        self._result_loader.stop()
        try:
            for proc in self.procs:
                if proc.child is not None and not proc.gone:
                    proc.child.send_signal(signal.SIGKILL)
                    proc.child.close()
            self._forget()
        finally:
            _watchers.discard(self)
            self.idle.set()

    def _forget(self) -> None:
        """Close the sockets; in a forked child, these are copies. Takes no lock: there, another thread may have held it."""
        for proc in self.procs:
            if proc.sock is not None:
                proc.sock.close()
                proc.sock = None
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()


_watchers: weakref.WeakSet[Supervisor] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A proc that holds the client's end of another's socket would hide the client's death from it.
    for supervisor in tuple(_watchers):
        supervisor._forget()
    _watchers.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
