"""Descriptors that do not have an owner yet. A forked child closes its copies of them.

A descriptor leaked into a forked child keeps the connection or pipe open after this process exits. The other end would then
wait: its logging calls for a client, its prints for a reader.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from .fork_gate import ForkGate


class DescriptorsInFlight:
    """Descriptors without an owner. Any thread may use it. No fork happens while its `gate` is held."""

    def __init__(self) -> None:
        self.gate = ForkGate()
        self._fds: set[int] = set()

    def take(self, make: Callable[[], Iterable[int]]) -> list[int]:
        """Return the descriptors that `make` opens. `make` must not block: forks wait for it."""
        with self.gate:
            fds = list(make())
            self._fds.update(fds)
        return fds

    # The caller of the methods below holds this gate or its own, so that no fork happens meanwhile.

    def close(self, fds: Iterable[int]) -> None:
        """Close the descriptors that are still without an owner. The numbers of the others may have been reused."""
        for fd in fds:
            with contextlib.suppress(KeyError):  # closed before, or has an owner
                self._fds.remove(fd)
                _close(fd)

    def arrive(self, fds: Iterable[int]) -> None:
        """Record that descriptors have an owner now."""
        self._fds.difference_update(fds)

    def forget(self) -> None:
        """In a forked child: close the copies."""
        while self._fds:
            _close(self._fds.pop())


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # the program has closed it
        os.close(fd)
