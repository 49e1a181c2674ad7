"""Runs work to its end even if a signal handler raises an exception: on a separate thread, or on the calling thread."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeVar

from .c_library import ctypes, libc
from .waits import LONGEST_SEC

T = TypeVar("T")


def run_shielded(fn: Callable[[], T], interrupted: Callable[[BaseException], object] | None = None) -> T:
    """Run `fn` on a separate thread, and return its result or raise its exception.

    Python runs signal handlers on the main thread, between any two instructions. An exception of a handler (Ctrl-C) interrupts
    only the wait in this function, and is raised after `fn` has completed. If `fn` has begun, `interrupted` is called with the
    exception first, on the calling thread. `fn` runs on the calling thread if no thread can be started (at exit), or if the
    calling thread is not the main one. If that thread holds the lock of `logging`, for which `fn` might wait, see `run_whole`.
    """
    if threading.current_thread() is not threading.main_thread():
        return fn()
    if vars(logging)["_lock"]._is_owned():
        return run_whole(fn, interrupted)
    begins = [True]  # the work runs if its thread pops this item, and does not if an interrupted caller pops it first
    outcome: list[tuple[Any, BaseException | None]] = []
    over = threading.Lock()  # not a Future or an Event: an exception in their methods leaves them locked
    over.acquire()

    def work() -> None:
        with contextlib.suppress(IndexError):  # the caller was interrupted, and popped the item
            begins.pop()
            try:
                outcome.append((fn(), None))
            except BaseException as error:
                outcome.append((None, error))
            over.release()

    def wait() -> None:
        while not outcome:
            over.acquire(timeout=LONGEST_SEC)
        if thread.ident is not None:
            thread.join()

    thread = threading.Thread(target=work, name="meshlog-apart")
    try:
        try:
            thread.daemon = True
            run_whole(thread.start)  # an interrupted `Thread.start` can leave a lock that the new thread waits for
        except RuntimeError:  # the interpreter exits, or no daemon thread can be started
            if thread.ident is not None:  # the thread runs: a signal handler raised the error
                raise
            work()
        wait()
        result: T
        result, failure = outcome[0]
        if failure is not None:
            raise failure
        return result
    except BaseException as error:
        if outcome and outcome[0][1] is error:
            raise
        with contextlib.suppress(IndexError):  # `fn` has begun
            begins.pop()
            raise  # `fn` will not run
        if interrupted is not None:
            interrupted(error)
        wait()
        raise
    finally:
        outcome.clear()  # the traceback of an error references this frame


def run_whole(fn: Callable[[], T], interrupted: Callable[[BaseException], object] | None = None) -> T:
    """Run `fn` on the calling thread, and raise what signal handlers raise meanwhile after it.

    For work that belongs to the calling thread, such as a fork, and takes a short time. `interrupted` is called with the
    exception first. Handlers that raise nothing run as usual. A forked child has the program's handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return fn()
    hold = _Hold(interrupted)
    try:
        hold.begin()
        return fn()
    finally:
        hold.end()
        if hold.raised:
            raise hold.raised.pop()


class _Hold:
    """Holds back the exceptions of the program's signal handlers. Main thread only."""

    def __init__(self, interrupted: Callable[[BaseException], object] | None) -> None:
        self.raised: list[BaseException] = []
        self._interrupted = interrupted
        self._handlers: dict[int, Any] = {
            number: handler for number in range(1, signal.NSIG) if callable(handler := signal.getsignal(number))
        }
        self._restarting = frozenset(filter(_restarts, self._handlers))
        self._holding = True

    def begin(self) -> None:
        _holds.append(self)
        with contextlib.suppress(ValueError):  # in a subinterpreter, where no signal handlers run
            for number in self._handlers:
                self._set(number, self._handle)

    def _set(self, number: int, handler: Any) -> None:
        signal.signal(number, handler)
        if number in self._restarting:  # which `signal.signal` ends
            signal.siginterrupt(number, False)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handlers[number](number, frame)
        except BaseException as error:
            if not self._holding:
                raise
            self.raised.append(error)
            if self._interrupted is not None:
                self._interrupted(error)

    def end(self) -> None:
        self._holding = False  # first: until its own handler is back, a signal is handled as if it were
        try:
            self._restore()
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:  # else `fn` has set another
                self._set(number, handler)
        with contextlib.suppress(ValueError):  # it is not the first try
            _holds.remove(self)


_holds: list[_Hold] = []

_FLAGS_AT: Final = 8 + 128
"""The offset of ``sa_flags`` in a ``struct sigaction``, after the handler and the mask."""

_SA_RESTART: Final = 0x10000000


def _restarts(number: int) -> bool:
    """Whether the program has set `signal.siginterrupt` to False for a signal. Python has no function that tells."""
    if ctypes is None or sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
        return False
    action = ctypes.create_string_buffer(1024)  # larger than the structure
    libc().sigaction(number, None, action)
    return bool(ctypes.c_int.from_buffer(action, _FLAGS_AT).value & _SA_RESTART)


def _after_fork_in_child() -> None:
    for hold in reversed(_holds[:]):
        hold.end()
        hold.raised.clear()  # the parent's


os.register_at_fork(after_in_child=_after_fork_in_child)
