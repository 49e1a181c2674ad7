"""Descriptors on their way to their owner: a forked child closes its copies of them.

The end of a connection, or of a pipe, that a child holds without knowing hides from the other end that this process died:
its logging calls would wait for a client that is gone, and its prints for a reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from .fork_gate import ForkGate


class Transit:
    """Descriptors that a thread has, and that are to become somebody else's, who closes them in a forked child."""

    def __init__(self) -> None:
        self._gate = ForkGate()
        self._fds: set[int] = set()

    def take(self, make: Callable[[], Iterable[int]]) -> list[int]:
        """Return the descriptors that `make` opens. It must not wait: a fork, which cannot come in between, does so too."""
        with self._gate:
            fds = list(make())
            self._fds.update(fds)
        return fds

    def close(self, fds: Iterable[int], how: Callable[[int], object] = os.close) -> None:
        """Close descriptors that were taken."""
        with self._gate:
            for fd in fds:
                how(fd)
                self._fds.discard(fd)

    def arrive(self, fds: Iterable[int]) -> None:
        """Note that descriptors have an owner. Where no fork can come in between: by a thread that has a gate of its own."""
        self._fds.difference_update(fds)

    def close_all(self) -> None:
        """Close what has not arrived: in a forked child, its copies."""
        while self._fds:
            os.close(self._fds.pop())
