"""Delays forks while a thread holds locks, so that a child does not inherit a lock that only that thread can release.

A handler that writes to ``sys.stdout`` briefly holds the lock of its buffer. Python renews the locks of `logging` in a forked
child, but not those of files: a child forked at that moment would hang at its first `print`, or at exit.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Final

from .fork_locks import ForkLocks


class ForkGate:
    """Protects a section that holds locks (``with gate: ...``) from forks.

    A fork by another thread waits until the section ends; the next section waits until the fork is over. `wanted` is true
    while a fork waits: long work checks it now and then, and leaves the section.
    """

    def __init__(self) -> None:
        self.renew()
        _gates.add(self)

    def renew(self) -> None:
        """Make new locks; also in a forked child, where no other thread exists."""
        self.wanted = False
        self.inside = threading.RLock()  # held by the thread, or by a fork
        self.turn = threading.RLock()  # taken before `inside`, so that a busy thread cannot overtake a fork

    def __enter__(self) -> None:
        with self.turn:
            self.inside.acquire()

    def __exit__(self, *_: object) -> None:
        self.inside.release()


_gates: Final[weakref.WeakSet[ForkGate]] = weakref.WeakSet()


def _close() -> list[Any]:
    gates = tuple(_gates)
    for gate in gates:
        gate.wanted = True  # the threads at all gates leave their sections at the same time
    return [lock for gate in gates for lock in (gate.turn, gate.inside)]


def _after_fork_in_parent() -> None:
    for gate in tuple(_gates):
        gate.wanted = False


def _after_fork_in_child() -> None:
    for gate in tuple(_gates):
        gate.renew()


fork_locks: Final = ForkLocks(_close, seconds=0.25)
os.register_at_fork(after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
