"""Locks that a fork acquires first, so that a child does not inherit a lock that only another thread can release.

The order at a fork, whatever module is imported first: the lock of `logging`, imports and joining (`acquire_first`), then the
locks inside which these may be waited for (`ForkLocks`). `logging` acquires its lock at each fork, too, and without a limit: a
fork that waited for it with locks of ours would never end while a thread that configures logging waits for one of ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from .waits import LONGEST_SEC, deadline_after, seconds_until


def acquire_first(lock: Callable[[], Any], seconds: float) -> None:
    """Let each fork wait up to `seconds` for a reentrant lock, before all `ForkLocks`; `lock` returns it.

    A thread that holds any of these locks may wait for any other: a fork waits for one only while it holds none.
    """
    _first.append((lock, seconds))


class ForkLocks:
    """Reentrant locks that each fork acquires, and releases when it is over.

    `locks` returns them, in order. A fork waits at most `seconds` for all of them together. Then it goes ahead, and the child
    may inherit held locks. The locks of objects made later are acquired first.
    """

    def __init__(self, locks: Callable[[], Iterable[Any]], seconds: float) -> None:
        self.seconds = seconds
        self.locks = locks
        _groups.append(self)


def forking() -> bool:
    """Return whether this thread forks: the locks are acquired, and are not released yet, in the parent or in the child."""
    return threading.get_ident() in _held


def _logging_lock() -> Any:
    return vars(logging)["_lock"]


_first: Final[list[tuple[Callable[[], Any], float]]] = [(_logging_lock, LONGEST_SEC)]  # after that time, `logging` itself waits
_groups: Final[list[ForkLocks]] = []
_held: Final[dict[int, list[Any]]] = {}
"""What a fork has acquired, by forking thread."""


def _before_fork() -> None:
    held = _held.setdefault(threading.get_ident(), [])
    _acquire_together([(lock(), deadline_after(seconds)) for lock, seconds in _first], held)
    for group in reversed(_groups):
        deadline = deadline_after(group.seconds)
        for lock in group.locks():
            _acquire(lock, deadline, held)


def _acquire_together(wanted: list[tuple[Any, float]], held: list[Any]) -> None:
    """Acquire locks, each until its deadline, without a wait while one of them is held: other threads may use any order."""
    while wanted:
        if not _acquire(*wanted[0], held):
            del wanted[0]  # it is past its deadline
            continue
        busy = next((place for place in range(1, len(wanted)) if not _acquire(wanted[place][0], 0.0, held)), None)
        if busy is None:
            return
        _release(held)
        wanted.insert(0, wanted.pop(busy))  # the next one to wait for


def _acquire(lock: Any, deadline: float, held: list[Any]) -> bool:
    held.append(lock)  # before it is acquired: a signal handler may raise, which ends the hook but not the fork
    try:
        acquired: bool = lock.acquire(timeout=seconds_until(deadline))
    except TypeError:  # a lock of the program, which takes no timeout
        acquired = False
    if not acquired:
        held.pop()
    return acquired


def _release(held: list[Any]) -> None:
    while held:
        with contextlib.suppress(RuntimeError):  # it was not acquired, or `logging` has renewed it
            held.pop().release()


def _after_fork_in_parent() -> None:
    _release(_held.pop(threading.get_ident(), []))


def _after_fork_in_child() -> None:
    _after_fork_in_parent()
    _held.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
