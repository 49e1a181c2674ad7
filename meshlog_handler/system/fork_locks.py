"""Locks that a fork acquires first, so that a child does not inherit a lock that only another thread can release."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from .waits import deadline_after, seconds_until


class ForkLocks:
    """Reentrant locks that each fork acquires first, and releases when it is over.

    `locks` returns them, in order. A fork waits at most `seconds` for all of them together. Then it goes ahead, and the child
    may inherit held locks. The locks of objects made later are acquired first.
    """

    def __init__(self, locks: Callable[[], Iterable[Any]], seconds: float) -> None:
        self.seconds = seconds
        self._locks = locks
        self._held: dict[int, list[Any]] = {}  # by forking thread
        os.register_at_fork(before=self._acquire, after_in_parent=self._release, after_in_child=self._release_in_child)

    def _acquire(self) -> None:
        deadline = deadline_after(self.seconds)
        held = self._held.setdefault(threading.get_ident(), [])
        for lock in self._locks():
            held.append(lock)  # before it is acquired: a signal handler may raise, which ends this function but not the fork
            try:
                acquired = lock.acquire(timeout=seconds_until(deadline))
            except TypeError:  # a lock of the program, which takes no timeout
                acquired = False
            if not acquired:
                held.pop()

    def _release(self) -> None:
        for lock in reversed(self._held.pop(threading.get_ident(), [])):
            with contextlib.suppress(RuntimeError):  # it was not acquired, or `logging` has renewed it
                lock.release()

    def _release_in_child(self) -> None:
        self._release()
        self._held.clear()
