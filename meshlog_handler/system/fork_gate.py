"""Delays forks while a thread holds locks, so that a child does not inherit a lock that only that thread can release.

A handler that writes to ``sys.stdout`` briefly holds the lock of its buffer. Python renews the locks of `logging` in a forked
child, but not those of files: a child forked at that moment would hang at its first `print`, or at exit.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

from .waits import deadline_after, seconds_until

PATIENCE: Final = 0.25
"""Seconds that a fork waits at most, for all gates together. Then it goes ahead, and the child may inherit held locks."""


class ForkGate:
    """Protects a section that holds locks (``with gate: ...``) from forks.

    A fork by another thread waits until the section ends; the next section waits until the fork is over. `wanted` is true
    while a fork waits: long work checks it now and then, and leaves the section.
    """

    def __init__(self) -> None:
        self._make_locks()
        _gates.add(self)

    def _make_locks(self) -> None:
        self.wanted = False
        self._inside = threading.Lock()  # held by the thread, or by a fork
        self._turn = threading.Lock()  # taken before `_inside`, so that a busy thread cannot overtake a fork
        self._worker: int | None = None

    def __enter__(self) -> None:
        with self._turn:
            self._inside.acquire()
        self._worker = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._worker = None
        self._inside.release()

    def want(self) -> None:
        """Before `close`: ask the thread to leave its section."""
        self.wanted = self._worker != threading.get_ident()

    def close(self, taken: list[threading.Lock], deadline: float) -> None:
        """Before a fork: wait until `deadline` for the section to end, and keep new ones from starting.

        Each acquired lock is appended to `taken` at once, for `reopen`: a signal handler that raises meanwhile ends this call,
        but not the fork.
        """
        if self._worker == threading.get_ident():  # a handler forks
            return
        for lock in (self._turn, self._inside):
            if not lock.acquire(timeout=seconds_until(deadline)):
                break
            taken.append(lock)

    def reopen(self, taken: list[threading.Lock]) -> None:
        """Allow sections again."""
        self.wanted = False
        for lock in reversed(taken):
            lock.release()

    def forget(self) -> None:
        """In a forked child: renew the locks, since no other thread exists."""
        self._make_locks()


_gates: Final[weakref.WeakSet[ForkGate]] = weakref.WeakSet()
_closed: Final[dict[int, list[tuple[ForkGate, list[threading.Lock]]]]] = {}
"""By forking thread: the gates it has closed, with the locks it has acquired."""


def _before_fork() -> None:
    deadline = deadline_after(PATIENCE)
    closing = _closed.setdefault(threading.get_ident(), [])
    for gate in tuple(_gates):
        closing.append((gate, []))
        gate.want()  # the threads at all gates leave their sections at the same time
    for gate, taken in closing:
        gate.close(taken, deadline)


def _after_fork_in_parent() -> None:
    for gate, taken in _closed.pop(threading.get_ident(), ()):
        gate.reopen(taken)


def _after_fork_in_child() -> None:
    _closed.clear()
    for gate in tuple(_gates):
        gate.forget()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
