"""Shared by the processes of a trial: a small mapped file in which each process counts what it has logged.

::

    header  stop:i64, lanes taken:i64
    lane    begun:i64  returned:i64  broken:i64  longest:i64 (ns)  since:i64 (ns)  seen:i64  astray:i64

A lane is one sequence of numbered records: from one thread, signal handler or finalizer of one process. When a process is
killed, its counts stay in the file.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Callable
from typing import Any, Final

NAME: Final = "fault"
LOGGER: Final = logging.getLogger(NAME)

_HEADER: Final = 8
_WORDS: Final = 8
_BEGUN, _RETURNED, _BROKEN, _LONGEST, _SINCE, _SEEN, _ASTRAY = range(7)
LANES: Final = 4096
_SIZE: Final = 8 * (_HEADER + LANES * _WORDS)


class Tally:
    """The mapped file. One process creates it and any process can open it; forked processes share the mapping."""

    def __init__(self, path: str, *, make: bool = False) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if make else 0), 0o600)
        try:
            if make:
                os.truncate(fd, _SIZE)
            self._map = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
        self.words = memoryview(self._map).cast("q")

    @property
    def stopped(self) -> bool:
        """Whether the workers should end."""
        return bool(self.words[0])

    def stop(self) -> None:
        """Tell the workers to end."""
        self.words[0] = 1

    def lane(self) -> Lane:
        """Take a new lane. Not safe for concurrent calls: the process that starts others takes the lanes for them."""
        number = self.words[1]
        assert number < LANES
        self.words[1] = number + 1
        return Lane(self, number)

    def lanes(self) -> list[Lane]:
        """Return all lanes taken so far."""
        return [Lane(self, number) for number in range(self.words[1])]

    def close(self) -> None:
        """Close this process's mapping."""
        self.words.release()
        self._map.close()


class Lane:
    """One sequence of records, numbered from 0. Used by one thread, with one call at a time."""

    def __init__(self, tally: Tally, number: int) -> None:
        self.number = number
        self._words = tally.words
        self._at = _HEADER + number * _WORDS

    def log(self, call: Callable[..., object] = LOGGER.info, msg: str = "%d %d", *args: Any, **more: Any) -> None:
        """Log the next record. Count the call when it has returned, or when an exception has broken it off."""
        words, at = self._words, self._at
        number = words[at + _BEGUN]
        returned = False
        words[at + _BEGUN] = number + 1
        begun = words[at + _SINCE] = time.monotonic_ns()
        try:
            call(msg, self.number, number, *args, **more)
            words[at + _RETURNED] += 1
            returned = True
        finally:
            if not returned:
                words[at + _BROKEN] += 1
            took = time.monotonic_ns() - begun
            words[at + _SINCE] = 0
            if took > words[at + _LONGEST]:
                words[at + _LONGEST] = took

    @property
    def inside(self) -> bool:
        """Whether a call is in progress."""
        return bool(self._words[self._at + _SINCE])

    def see(self, number: int) -> None:
        """Note that a record was shown, for a client that will be killed. Count it as `astray` if it is not the next one."""
        self._words[self._at + _ASTRAY] += number != self.seen
        self._words[self._at + _SEEN] = number + 1

    @property
    def seen(self) -> int:
        """Records shown by a client that uses `see`."""
        return int(self._words[self._at + _SEEN])

    @property
    def astray(self) -> int:
        """The shown records that were not the next ones."""
        return int(self._words[self._at + _ASTRAY])

    @property
    def begun(self) -> int:
        """Calls that have begun."""
        return int(self._words[self._at + _BEGUN])

    @property
    def returned(self) -> int:
        """Calls that have returned."""
        return int(self._words[self._at + _RETURNED])

    @property
    def broken(self) -> int:
        """Calls that an exception broke off: their records may or may not have arrived."""
        return int(self._words[self._at + _BROKEN])

    @property
    def longest(self) -> float:
        """Seconds of the longest call, including one that is still in progress."""
        since = self._words[self._at + _SINCE]
        pending = time.monotonic_ns() - since if since else 0
        return float(max(self._words[self._at + _LONGEST], pending)) / 1e9
