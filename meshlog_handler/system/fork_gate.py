"""Keeps forks and the work of a thread apart: a child must not inherit a lock that only that thread could release.

A handler that writes to ``sys.stdout`` holds the lock of its buffer for a moment. Python makes new locks in a forked child for
`logging`, but not for files: a child forked in that moment would hang at its first `print`, or at its end.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

from .waits import deadline_after, seconds_until

PATIENCE: Final = 0.25
"""Seconds that a fork waits, at most, for all gates together: a child of a longer wait has to live with what it finds."""


class ForkGate:
    """What a thread passes to do something that holds locks: ``with gate: ...``.

    A fork by any other thread waits until it is outside, and the thread does not pass again before the child is there.

    Attributes
    ----------
    wanted : bool
        A fork waits. Long work looks at this now and then, and goes outside.
    """

    def __init__(self) -> None:
        self._make_locks()
        _gates.add(self)

    def _make_locks(self) -> None:
        self.wanted = False
        self._inside = threading.Lock()  # held by the thread, or by a fork
        self._turn = threading.Lock()  # taken before: who wants to fork is not overtaken by a thread that is busy
        self._worker: int | None = None

    def __enter__(self) -> None:
        with self._turn:
            self._inside.acquire()
        self._worker = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._worker = None
        self._inside.release()

    def want(self) -> None:
        """Ask the thread to come out: before `close`."""
        self.wanted = self._worker != threading.get_ident()

    def close(self, taken: list[threading.Lock], deadline: float) -> None:
        """Let nobody pass: before a fork. Put the locks that are taken into `taken`, to be given to `reopen`.

        Waits until `deadline` for the thread inside.
        One by one: a signal handler that raises meanwhile ends this, and the fork goes on.
        """
        if self._worker == threading.get_ident():  # a handler forks
            return
        for lock in (self._turn, self._inside):
            if not lock.acquire(timeout=seconds_until(deadline)):
                break
            taken.append(lock)

    def reopen(self, taken: list[threading.Lock]) -> None:
        """Let the thread pass again."""
        self.wanted = False
        for lock in reversed(taken):
            lock.release()

    def forget(self) -> None:
        """In a forked child: there is no other thread any more."""
        self._make_locks()


_gates: Final[weakref.WeakSet[ForkGate]] = weakref.WeakSet()
_closed: Final[dict[int, list[tuple[ForkGate, list[threading.Lock]]]]] = {}
"""What a thread that forks has closed."""


def _before_fork() -> None:
    deadline = deadline_after(PATIENCE)
    closing = _closed.setdefault(threading.get_ident(), [])
    for gate in tuple(_gates):
        closing.append((gate, []))
        gate.want()  # while this waits for one, the threads of the others come out
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
