"""The supervisor of the procs of a mesh: a thread that sends calls, receives responses and detects exits.

It waits for all events at once and runs no user code: `ResultLoader` unpickles the results on another thread. The kernel
reports the exit of a proc. The supervisor never waits for end of file, because a grandchild can keep a stream open.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from ..errors import ClosedError, ProtocolError
from ..protocol.messages import decode
from ..system.error_reports import ErrorReports
from ..system.futures import Awaited, give
from ..system.mailbox import Mailbox
from ..system.waits import capped, monotonic, seconds_until
from .pending_call import End, PendingCall
from .proc import ProcHandle
from .process import Process
from .result_loader import ResultLoader
from .rpc import DONE, FAILED, CallFailure

GRACE_SEC: Final = 0.5
"""Seconds in which the other ranks may still respond after one has failed."""

_SILENT_SEC: Final = 10.0
_POLL_SEC: Final = 0.2
_PAUSE_SEC: Final = 0.01
_PIECE: Final = 256 * 1024


class Supervisor:
    """Supervises procs, each after `add`.

    Any thread may call the public methods, and a finalizer `post` and `wake`. `on_exit` is called on this thread with rank, pid
    and exit code (None: unknown) when a proc has ended.
    """

    def __init__(self, procs: Sequence[ProcHandle], name: str, on_exit: Callable[[int, int, int | None], None] | None) -> None:
        self.procs = procs
        self.lock = threading.Lock()
        self.idle: Future[None] = Awaited()
        self._on_exit = on_exit
        self._result_loader = ResultLoader(f"meshlog-results-{name}")
        self._thread = threading.Thread(target=self._run, name=f"meshlog-procs-{name}", daemon=True)
        self._selector = selectors.DefaultSelector()
        self._mailbox = Mailbox("the thread that supervises the procs", "this mesh")
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._finishing = False
        self._given_up = False
        self._error_reports = ErrorReports()
        _supervisors.add(self)

    # -- any thread ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start both threads."""
        self._selector.register(self._mailbox.fd, selectors.EVENT_READ, self._woken)
        try:
            self._result_loader.start()
            self._thread.start()
        except RuntimeError:  # thread limit reached
            self.close()
            raise

    def add(self, proc: ProcHandle) -> None:
        """Supervise a proc that has a child process and a socket."""
        self.post(lambda: self._register(proc))

    def post(self, action: Callable[[], object]) -> None:
        """Run `action` on the supervisor thread, unless the thread has ended."""
        with contextlib.suppress(ClosedError):  # the thread has ended
            self._mailbox.put(action)

    def wake(self) -> None:
        """Make the supervisor send the outboxes."""
        self._mailbox.wake()

    def finish(self) -> None:
        """End when no proc is left; `idle` is then done."""
        self._finishing = True
        self.wake()

    def give_up(self) -> None:
        """End even if procs are left."""
        self._given_up = True
        self.wake()

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every remaining proc."""
        self.post(lambda: self._signal(number))

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for both threads."""
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(capped(timeout))
        self._result_loader.join(timeout)

    # -- supervisor thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._given_up or (self._finishing and not self._running)):
                for key, events in self._selector.select(self._patience()):
                    self._run_step(key.data, events)
                self._run_step(self._expire)
        finally:
            self.close()

    def _run_step(self, step: Callable[..., object], *args: Any) -> None:
        """Run a step; report an exception, because an error with one proc must not end the others."""
        try:
            step(*args)
        except Exception as failure:
            self._error_reports.log("the supervisor of the procs continues after an error", failure)
            time.sleep(_PAUSE_SEC)  # a step that fails repeatedly must not use all processor time

    @property
    def _running(self) -> list[tuple[ProcHandle, Process]]:
        """The procs that have started and not ended, with their processes."""
        return [(proc, proc.child) for proc in self.procs if proc.child is not None and not proc.gone]

    def _signal(self, number: signal.Signals) -> None:
        for _, child in self._running:
            child.send_signal(number)

    def _patience(self) -> float:
        wait = seconds_until(self._timers[0][0] if self._timers else None)
        return wait if all(child.prompt for _, child in self._running) else min(wait, _POLL_SEC)

    def _after(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._timers, (monotonic() + seconds, next(self._order), action))

    def _expire(self) -> None:
        while self._timers and self._timers[0][0] <= monotonic():
            heapq.heappop(self._timers)[2]()
        for proc, child in self._running:
            if not child.prompt and child.poll() is not None:
                self._ended(proc)

    def _woken(self, events: int) -> None:
        self._mailbox.run()
        for proc in self.procs:
            self._write(proc)

    def _register(self, proc: ProcHandle) -> None:
        assert proc.child is not None
        assert proc.sock is not None
        proc.sock.setblocking(False)
        self._selector.register(proc.child.sentinel, selectors.EVENT_READ, lambda events: self._ended(proc))
        self._set_events(proc, selectors.EVENT_READ)

    def _set_events(self, proc: ProcHandle, events: int) -> None:
        """Wait for exactly these events of the proc's socket."""
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
            self._set_events(proc, selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0))

    def _read(self, proc: ProcHandle, to_the_end: bool = False) -> None:
        """Read available data; unless `to_the_end`, stop after 4 MiB so that other procs are served."""
        pieces = 0
        while proc.sock is not None and (to_the_end or pieces < 16):
            try:
                data = proc.sock.recv(_PIECE)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # connection reset: the proc exited before it read all sent data
            if not data:
                self._disconnect(proc)
                return
            pieces += 1
            try:
                for frame in proc.reader.feed(data):
                    self._handle_frame(proc, *frame)
            except ProtocolError as error:
                self._reject(proc, error)

    def _handle_frame(self, proc: ProcHandle, kind: int, number: int, payload: bytes) -> None:
        with self.lock:
            call = proc.pending.pop(number, None)
        if call is None:
            return  # the call has already failed because of another rank
        if kind == DONE:
            call.returned(proc.rank, payload)
        elif kind == FAILED:
            call.failed(proc.rank, decode(payload, CallFailure))
        else:
            raise ProtocolError(f"rank {proc.rank} sent an unexpected frame of kind {kind}")
        self._progress(call)

    def _progress(self, call: PendingCall) -> None:
        if call.complete:
            self._result_loader.settle(call)
        elif call.failing and not call.in_grace:
            call.in_grace = True
            self._after(GRACE_SEC, lambda: self._end_grace(call))

    def _end_grace(self, call: PendingCall) -> None:
        """Settle a failed call without the ranks that have not responded."""
        if call.complete:
            return
        with self.lock:
            for proc in self.procs:
                proc.pending.pop(call.number, None)
        self._result_loader.settle(call)

    def _reject(self, proc: ProcHandle, error: ProtocolError) -> None:
        """Kill a proc that wrote to a descriptor it does not own: nothing it sends can be trusted."""
        self._close_socket(proc)
        if proc.child is not None:
            proc.child.send_signal(signal.SIGKILL)
            self._fail_calls(
                proc, End(proc.rank, proc.child.pid, f"was killed: protocol error on its connection to the client: {error}")
            )

    def _disconnect(self, proc: ProcHandle) -> None:
        """Close the connection of a proc that closed its end. If the proc has exited, the kernel reports it shortly."""
        self._close_socket(proc)
        self._after(_SILENT_SEC, lambda: self._fail_silent(proc))

    def _fail_silent(self, proc: ProcHandle) -> None:
        if not proc.gone and proc.child is not None:
            self._fail_calls(proc, End(proc.rank, proc.child.pid, "closed its connection to the client without exiting"))

    def _ended(self, proc: ProcHandle) -> None:
        child = proc.child
        if proc.gone or child is None:
            return
        proc.gone = True  # set before anything that can fail: the proc is not handled again
        self._selector.unregister(child.sentinel)
        self._run_step(lambda: self._read(proc, to_the_end=True))
        code = child.poll()
        # A killed fork server reports its children as ended while they still run.
        child.send_signal(signal.SIGKILL)
        self._close_socket(proc)
        if self._on_exit is not None:
            self._run_step(self._on_exit, proc.rank, child.pid, code)
        proc.exitcode = code
        self._fail_calls(proc, End.by(proc.rank, child.pid, code))
        child.close()

    def _fail_calls(self, proc: ProcHandle, end: End) -> None:
        """Fail the pending calls of a proc, and all later ones, with `end`."""
        with self.lock:
            proc.end = end
            calls = list(proc.pending.values())
            proc.pending.clear()
            proc.outbox.clear()
        for call in calls:
            call.failed(proc.rank, end)
            self._progress(call)

    def _close_socket(self, proc: ProcHandle) -> None:
        self._set_events(proc, 0)
        if proc.sock is not None:
            proc.sock.close()
            proc.sock = None

    def close(self) -> None:
        """Fail the remaining calls, kill the remaining procs and release all resources.

        The supervisor thread calls it at its end, also after an error; another thread only if that thread was never started.
        """
        with self.lock:
            calls = self._drop_calls()
        for call in calls:
            if call.failing:
                self._result_loader.settle(call)
            else:
                call.refuse(ClosedError(f"the mesh was stopped before {call.what} was done."))
        self._result_loader.stop()
        try:
            for _, child in self._running:
                child.send_signal(signal.SIGKILL)
                child.close()
            self._close_sockets()
            self._mailbox.close()
        finally:
            _supervisors.discard(self)
            give(self.idle, None)

    def _drop_calls(self) -> list[PendingCall]:
        calls = {call.number: call for proc in self.procs for call in proc.pending.values()}
        for proc in self.procs:
            proc.pending.clear()
            proc.outbox.clear()
            if proc.end is None:
                proc.end = End(proc.rank, proc.pid or 0, "is no longer supervised")
        return list(calls.values())

    def _close_sockets(self) -> None:
        """Close the sockets. No lock: in a forked child, a thread of the parent may have held it."""
        for proc in self.procs:
            if proc.sock is not None:
                proc.sock.close()
                proc.sock = None
        self._selector.close()

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors.

        A proc that holds the client's end of another proc's socket keeps that connection open after the client exits.
        """
        self._close_sockets()
        self._mailbox.forget()


_supervisors: weakref.WeakSet[Supervisor] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for supervisor in tuple(_supervisors):
        supervisor.forget()
    _supervisors.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
