"""Timeouts and deadlines. All deadlines belong to one clock, and every wait gets its seconds from this module.

The kernel rejects long waits: ``poll`` and ``epoll`` above 24.8 days, locks above 292 years, and all of them infinity. So a
single wait lasts at most `LONGEST_SEC`, and a loop then checks its deadline again.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ..errors import SettingError, quoted

T = TypeVar("T")

LONGEST_SEC: Final = 3600.0
"""Seconds that a single wait lasts at most."""

_ENDLESS_SEC: Final = 1e10

# Not `time.monotonic`: test tools such as freezegun freeze it, and a deadline of a frozen clock never passes.
monotonic: Final = functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
"""Return the time of the clock that all deadlines belong to, in seconds."""


def check_timeout(seconds: float | None) -> float:
    """Return the timeout that a caller gives, as a float; infinity (no limit) for None and for numbers from 1e10 up.

    Every public call with a timeout checks it here, before it does anything, and uses the result. Raises `SettingError`, a
    ``ValueError``, for anything else, including NaN and numbers below 0.
    """
    counted = _counted(seconds)
    if counted < 0:
        raise _invalid(seconds)
    return counted


def _counted(seconds: float | None) -> float:
    """Return seconds that are left, which may be below 0, as `check_timeout` does."""
    if seconds is None:
        return float("inf")
    if not hasattr(type(seconds), "__float__") or seconds != seconds:
        raise _invalid(seconds)
    return float(max(seconds, -_ENDLESS_SEC)) if seconds < _ENDLESS_SEC else float("inf")


def none_if_endless(seconds: float) -> float | None:
    """Return a timeout as messages and other libraries take it: None for infinity."""
    return None if seconds == float("inf") else seconds


def _invalid(seconds: object) -> SettingError:
    return SettingError(f"timeout={quoted(seconds)} is not valid. Valid: seconds as a number from 0, or None for no limit.")


def deadline_after(seconds: float | None) -> float:
    """Return the time `seconds` from now; infinity for None."""
    return monotonic() + _counted(seconds)


def capped(seconds: float | None) -> float:
    """Return the length of a single wait for a timeout of `seconds` (None: no limit), from 0 to `LONGEST_SEC`.

    Raises `SettingError` for NaN, with which a loop would spin, since its deadline never passes.
    """
    return min(max(0.0, _counted(seconds)), LONGEST_SEC)


def seconds_until(deadline: float | None, now: float | None = None) -> float:
    """Return the length of a single wait until `deadline` (None: no deadline), from `now` (None: the current time)."""
    return LONGEST_SEC if deadline is None else capped(deadline - (monotonic() if now is None else now))


def wait_in_parts(wait: Callable[[float], T], seconds: float | None) -> T:
    """Call `wait` with a number of seconds until its result is true, or `seconds` have passed; return its last result."""
    deadline = deadline_after(seconds)
    while True:
        part = seconds_until(deadline)
        result = wait(part)
        if result or part < LONGEST_SEC:
            return result


def ended(thread: threading.Thread, seconds: float | None) -> bool:
    """Wait up to `seconds` (None: no limit) until `thread` has ended; return whether it has."""

    def wait(part: float) -> bool:
        thread.join(part)
        return not thread.is_alive()

    return wait_in_parts(wait, seconds)
