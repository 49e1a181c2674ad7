"""How long to wait. Deadlines are times of one clock, and every wait takes its seconds from here.

The kernel refuses long waits: ``poll`` and ``epoll`` above 24.8 days, a lock above 292 years, all of them infinity. No wait is
longer than `LONGEST_SEC` at a time; a loop then looks at its deadline again.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, Final, TypeVar

from ..errors import SettingError

T = TypeVar("T")

LONGEST_SEC: Final = 3600.0
"""Seconds that one wait lasts at most."""

_ENDLESS_SEC: Final = 1e10

# Not `time.monotonic`: tests of programs freeze and move that (freezegun), and a deadline of a frozen clock never comes.
monotonic: Final = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
"""Return the seconds of the clock that all deadlines belong to."""


def check_timeout(seconds: float | None) -> float | None:
    """Return `seconds` if it is a number; None if it is None, infinity, or above any time that is worth counting.

    Raises
    ------
    SettingError
        For anything else, NaN included (a ``ValueError``).
    """
    if seconds is None:
        return None
    if not isinstance(seconds, (int, float)) or seconds != seconds:
        raise SettingError(f"timeout={seconds!r} is not a time to wait. Valid: seconds as a number, or None for no limit.")
    return float(seconds) if seconds < _ENDLESS_SEC else None


def deadline_after(seconds: float | None) -> float:
    """Return the time at which `seconds` from now are over; infinity for None."""
    counted = check_timeout(seconds)
    return float("inf") if counted is None else monotonic() + counted


def capped(seconds: float | None) -> float:
    """Return how long to wait at a time, of `seconds` in all (None: without end): a number from 0 to `LONGEST_SEC`.

    Raises
    ------
    SettingError
        For NaN: a loop would spin, for its deadline never comes.
    """
    counted = check_timeout(seconds)
    return LONGEST_SEC if counted is None else min(max(0.0, counted), LONGEST_SEC)


def seconds_until(deadline: float | None, now: float | None = None) -> float:
    """Return how long to wait at a time for `deadline` (None: there is none), from `now` (None: the clock is asked)."""
    return LONGEST_SEC if deadline is None else capped(deadline - (monotonic() if now is None else now))


def wait_in_parts(wait: Callable[[float], T], seconds: float | None) -> T:
    """Call `wait` with seconds until it returns something true, or `seconds` are over; return what it returned last."""
    deadline = deadline_after(seconds)
    while True:
        part = seconds_until(deadline)
        result = wait(part)
        if result or part < LONGEST_SEC:
            return result


class Awaited(Future[T]):
    """A future for whose result `finished` waits so that an exception of a signal handler does no harm.

    One that is raised in the middle of the methods of `threading.Condition`, by which other futures wait, leaves it locked:
    whoever sets the result would wait for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._over = False
        self._locks: list[Any] = []
        self.add_done_callback(_release)

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, or cancelled; return whether it is."""
        waiter = threading.Lock()
        waiter.acquire()
        self._locks.append(waiter)
        return self._over or waiter.acquire(timeout=capped(seconds))


def _release(future: Future[Any]) -> None:
    assert isinstance(future, Awaited)
    future._over = True
    for waiter in future._locks:  # one that comes later has seen that it is over
        waiter.release()


def finished(future: Future[Any], seconds: float | None) -> bool:
    """Wait up to `seconds` (None: without end) until `future` is done, or cancelled; return whether it is."""

    def wait(part: float) -> bool:
        if isinstance(future, Awaited):
            return future.wait(part)
        try:
            future.exception(part)
        except CancelledError:
            return True
        except NotInTime:
            return future.done()
        return True

    return wait_in_parts(wait, seconds)


def ended(thread: threading.Thread, seconds: float | None) -> bool:
    """Wait up to `seconds` (None: without end) until `thread` has ended; return whether it has."""

    def wait(part: float) -> bool:
        thread.join(part)
        return not thread.is_alive()

    return wait_in_parts(wait, seconds)
