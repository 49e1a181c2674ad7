"""Work that is done as a whole, though a signal handler raises an exception: it has a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .waits import LONGEST_SEC

T = TypeVar("T")


def run_shielded(fn: Callable[[], T], interrupted: Callable[[BaseException], object] | None = None) -> T:
    """Run `fn` on a thread of its own, and return what it returns, or raise what it raises.

    Python runs signal handlers on the main thread, between any two instructions. What one raises (Ctrl-C) meets only the
    wait here, and is raised when `fn` has ended: what `fn` begins, it completes.

    Parameters
    ----------
    fn : callable
        The work. Where no thread can be started (a process that ends), it runs on the calling thread.
    interrupted : callable or None
        Called on the calling thread with the exception, if `fn` has begun; `fn` is waited for after it.
    """
    begins = [True]  # whoever takes it decides whether the work is done: its thread, or an interrupted caller
    outcome: list[tuple[Any, BaseException | None]] = []
    threads: list[threading.Thread] = []
    over = threading.Lock()  # no Future, and no Event: an exception in the middle of their methods leaves them locked
    over.acquire()

    def work() -> None:
        with contextlib.suppress(IndexError):  # the caller was interrupted, and has taken it
            begins.pop()
            try:
                outcome.append((fn(), None))
            except BaseException as error:
                outcome.append((None, error))
            over.release()

    def launch() -> None:
        thread = threading.Thread(target=work, name="meshlog-apart", daemon=True)
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError:
            work()

    def wait() -> None:
        while not outcome:
            over.acquire(timeout=LONGEST_SEC)
        for thread in threads:
            thread.join()

    try:
        try:
            _start(launch)
        except RuntimeError:  # the interpreter ends, or there is no room for a thread
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
        with contextlib.suppress(IndexError):  # it has begun
            begins.pop()
            raise  # nothing has begun, and nothing will
        if interrupted is not None:
            interrupted(error)
        wait()
        raise
    finally:
        outcome.clear()  # an error holds this frame by its traceback


def _start(fn: Callable[[], object]) -> None:
    """Start a thread and do not wait for it, as `Thread.start` does, which is no place for an interrupt, either.

    `threading` is asked, and not `_thread`: in a program that gevent has patched it is the one of `native`.
    """
    functions = vars(threading)
    if "_start_joinable_thread" in functions:  # Python 3.13
        functions["_start_joinable_thread"](fn, daemon=True)
    else:
        functions["_start_new_thread"](fn, ())
