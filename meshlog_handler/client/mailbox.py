"""The mailbox of the client's thread: a queue of calls from other threads, and a pipe that wakes the thread."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..errors import ClosedError
from ..system.diagnostics import diagnose
from ..system.error_reports import describe, give, refuse


@dataclass(frozen=True)
class Call:
    """A call of `fn` on the client's thread. Its result goes to `future`; without a future, a failure is reported.

    With `gives` False, `fn` completes the future itself later, and only an exception is passed to the future from here.
    """

    fn: Callable[[], Any]
    future: Future[Any] | None
    gives: bool = True

    def run(self) -> None:
        """Call `fn`, unless the caller has cancelled the future. Never raises."""
        future = self.future
        if future is not None and self.gives and not future.set_running_or_notify_cancel():
            return
        try:
            value = self.fn()
        except BaseException as failure:  # even SystemExit goes to the caller, and must not end this thread
            self.fail(failure)
        else:
            if future is not None and self.gives:
                give(future, value)

    def fail(self, failure: BaseException) -> None:
        """Pass the exception to the future, or report it. Never raises."""
        if self.future is None:
            diagnose(f"a call on the client's thread failed: {describe(failure)}")
        else:
            refuse(self.future, failure)


class Mailbox:
    """A queue of calls, and a pipe that holds a byte while there are calls. Any thread may `put`; the rest is the client's."""

    def __init__(self, calls: queue.SimpleQueue[Call]) -> None:
        self._calls = calls
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._closing = threading.RLock()  # a finalizer may call `put` while its thread is in `put`
        self._closed = False

    def put(self, fn: Callable[[], Any], future: Future[Any] | None, *, gives: bool = True) -> None:
        """Add a `Call`. Raises `ClosedError` after `close`."""
        with self._closing:
            if self._closed:
                raise ClosedError("this LogClient was stopped.")
            self._calls.put(Call(fn, future, gives))
            with contextlib.suppress(BlockingIOError):  # the pipe is full, so the thread wakes anyway
                os.write(self._write_fd, b"w")

    def run(self) -> None:
        """Run all pending calls. Never raises."""
        with contextlib.suppress(BlockingIOError):  # the pipe is empty
            while os.read(self.fd, 4096):
                continue
        while (call := self._next()) is not None:
            call.run()

    def _next(self) -> Call | None:
        try:
            return self._calls.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Refuse further calls and fail the pending ones. Nothing is written to a descriptor number that was reused since."""
        with self._closing:
            self._closed = True
            self.forget()
        while (call := self._next()) is not None:
            if call.future is not None:
                call.fail(ClosedError("this LogClient was stopped."))

    def forget(self) -> None:
        """Close the pipe once; in a forked child, close its copy of the parent's pipe."""
        fds, self.fd, self._write_fd = (self.fd, self._write_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
