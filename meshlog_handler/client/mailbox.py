"""Commands to the client's thread: calls from other threads, in their order, and what wakes it for them."""

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
from ..system.error_reports import describe, give, refuse
from ..system.fd_capture import diagnose


@dataclass(frozen=True)
class Call:
    """Run `fn` on the client's thread, and pass on what it returns; without a `future`, say what it raises.

    Attributes
    ----------
    gives : bool
        Whether what `fn` returns is the result. Else it comes later, and the future only learns of what `fn` raises.
    """

    fn: Callable[[], Any]
    future: Future[Any] | None
    gives: bool = True

    def run(self) -> None:
        """Run it, unless whoever waited has cancelled it. Never raises."""
        future = self.future
        if future is not None and self.gives and not future.set_running_or_notify_cancel():
            return
        try:
            value = self.fn()
        except BaseException as failure:  # SystemExit, too, is the caller's, and must not end the thread
            self.fail(failure)
        else:
            if future is not None and self.gives:
                give(future, value)

    def fail(self, failure: BaseException) -> None:
        """Pass on what was raised, or say it. Never raises."""
        if self.future is None:
            diagnose(f"a command of the client failed: {describe(failure)}")
        else:
            refuse(self.future, failure)


class Mailbox:
    """A queue of calls, and a pipe with a byte in it while there are some. Any thread may `put`; the rest is the client's."""

    def __init__(self, calls: queue.SimpleQueue[Call]) -> None:
        self._calls = calls
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._closing = threading.RLock()  # a finalizer may put something while its thread does
        self._closed = False

    def put(self, fn: Callable[[], Any], future: Future[Any] | None, *, gives: bool = True) -> None:
        """Let a `Call` be run. `ClosedError` after `close`."""
        with self._closing:
            if self._closed:
                raise ClosedError("this LogClient was stopped.")
            self._calls.put(Call(fn, future, gives))
            with contextlib.suppress(BlockingIOError):  # full of wake-ups: it will wake
                os.write(self._write_fd, b"w")

    def run(self) -> None:
        """Run what was put. Never raises."""
        with contextlib.suppress(BlockingIOError):  # that was the last wake-up
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
        """Run no more of them. No byte goes into a descriptor that is somebody else's by then."""
        with self._closing:
            self._closed = True
            self.forget()
        while (call := self._next()) is not None:
            if call.future is not None:
                call.fail(ClosedError("this LogClient was stopped."))

    def forget(self) -> None:
        """Close the pipe, once; in a forked child, its copy of the parent's."""
        fds, self.fd, self._write_fd = (self.fd, self._write_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)
