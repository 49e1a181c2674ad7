"""A mailbox: a queue of calls for the one thread that reads it, and a pipe that wakes this thread."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from ..errors import ClosedError
from .descriptors import Held
from .diagnostics import diagnose
from .error_reports import describe
from .futures import give, refuse


class Call(NamedTuple):
    """A call of `fn` on the thread of a mailbox. Its result goes to `future`; without a future, a failure is reported.

    With `gives` False, `fn` completes the future itself later, and only an exception is passed to the future from here.
    """

    fn: Callable[[], Any]
    future: Future[Any] | None
    gives: bool
    where: str

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
            diagnose(f"a call on {self.where} failed: {describe(failure)}")
        else:
            refuse(self.future, failure)


class Mailbox:
    """A queue of calls, and a pipe that holds a byte while there are calls.

    Any thread and any finalizer may call `put` and `wake`; only the thread that reads the mailbox calls the other methods.
    `where` names that thread in reports of failures; `owner` is what a call after the end was stopped with.
    """

    def __init__(self, where: str, owner: str) -> None:
        self._where = where
        self._owner = owner
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._reader, self._writer = map(Held, os.pipe())
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writer.fd, False)
        self._closing = threading.RLock()  # a finalizer may call `put` while its thread is in `put`
        self._closed = False

    def __len__(self) -> int:
        return self._calls.qsize()

    @property
    def intact(self) -> bool:
        """Whether its descriptors still are its pipe: the program may have closed all descriptors and reused their numbers."""
        return self._reader.intact and self._writer.intact

    @property
    def fd(self) -> int:
        """The read end of the pipe."""
        return self._reader.fd

    def put(self, fn: Callable[[], Any], future: Future[Any] | None = None, *, gives: bool = True) -> None:
        """Add a `Call`. Raises `ClosedError` after `close`, and after the program has closed the descriptors."""
        with self._closing:
            if self._closed or not self.intact:
                raise self._stopped()
            self._calls.put(Call(fn, future, gives, self._where))
            self.wake()

    def wake(self) -> None:
        """Wake the thread, if the mailbox is not closed."""
        with self._closing:
            if not self._closed and self.intact:
                with contextlib.suppress(BlockingIOError):  # the pipe is full, so the thread wakes anyway
                    os.write(self._writer.fd, b"w")

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

    def _stopped(self) -> ClosedError:
        return ClosedError(f"{self._owner} was stopped.")

    def close(self) -> None:
        """Refuse further calls and fail the pending ones. Nothing is written to a descriptor number that was reused since."""
        with self._closing:
            self._close_pipe()
        while (call := self._next()) is not None:
            if call.future is not None:
                call.fail(self._stopped())

    def forget(self) -> None:
        """In a forked child: close its copy of the pipe. Another thread of the parent may have held the lock."""
        self._closing = threading.RLock()
        self._close_pipe()

    def _close_pipe(self) -> None:
        self._closed = True
        self._reader.close()
        self._writer.close()
