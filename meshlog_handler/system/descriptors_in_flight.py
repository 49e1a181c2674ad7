"""Descriptors that a thread holds for a while, until they have an owner: a forked child closes its copies of them.

The end of a connection, or of a pipe, that a child holds without knowing hides from the other end that this process died:
its logging calls would wait for a client that is gone, and its prints for a reader.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from .fork_gate import ForkGate


class DescriptorsInFlight:
    """Descriptors without an owner. Any thread.

    Attributes
    ----------
    gate : ForkGate
        Where it is held, no fork comes in between.
    """

    def __init__(self) -> None:
        self.gate = ForkGate()
        self._fds: set[int] = set()

    def take(self, make: Callable[[], Iterable[int]]) -> list[int]:
        """Return the descriptors that `make` opens. It must not wait, for forks wait for it."""
        with self.gate:
            fds = list(make())
            self._fds.update(fds)
        return fds

    # Where no fork comes in between: with the gate held, or by a thread that holds one of its own.

    def close(self, fds: Iterable[int]) -> None:
        """Close descriptors that were taken. One that is closed, or has an owner, is not: its number may be another's."""
        for fd in fds:
            with contextlib.suppress(KeyError):  # as said
                self._fds.remove(fd)
                _close(fd)

    def arrive(self, fds: Iterable[int]) -> None:
        """Note that descriptors have an owner."""
        self._fds.difference_update(fds)

    def forget(self) -> None:
        """In a forked child: close its copies."""
        while self._fds:
            _close(self._fds.pop())


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # the program has closed it, and nobody has the number since
        os.close(fd)
