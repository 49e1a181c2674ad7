"""Runs work on a separate thread, so that it completes even if a signal handler raises an exception."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .waits import LONGEST_SEC

T = TypeVar("T")


def run_shielded(fn: Callable[[], T], interrupted: Callable[[BaseException], object] | None = None) -> T:
    """Run `fn` on a separate thread, and return its result or raise its exception.

    Python runs signal handlers on the main thread, between any two instructions. An exception of a handler (Ctrl-C) interrupts
    only the wait in this function, and is raised after `fn` has completed. If `fn` has begun, `interrupted` is called with the
    exception first, on the calling thread. `fn` runs on the calling thread if no thread can be started (at exit), if the
    calling thread is not the main one, or if it holds the lock of `logging`, for which `fn` might wait.
    """
    if threading.current_thread() is not threading.main_thread() or vars(logging)["_lock"]._is_owned():
        return fn()
    begins = [True]  # the work runs if its thread pops this item, and does not if an interrupted caller pops it first
    outcome: list[tuple[Any, BaseException | None]] = []
    threads: list[threading.Thread] = []
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
        except RuntimeError:  # the interpreter exits, or no thread can be started
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


def _start(fn: Callable[[], object]) -> None:
    """Start a thread without the wait of `Thread.start`, which is not safe from interrupts either.

    Uses `threading`, not `_thread`: in a program patched by gevent, `threading` is the copy made by `unpatched`.
    """
    functions = vars(threading)
    if "_start_joinable_thread" in functions:  # Python 3.13
        functions["_start_joinable_thread"](fn, daemon=True)
    else:
        functions["_start_new_thread"](fn, ())
