"""Waiting for something to become true, with a deadline: never a sleep that hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    what: str | Callable[[], str] = "",
    interval: float = 0.005,
) -> T:
    """Call `predicate` until it returns something true, and return that.

    Parameters
    ----------
    predicate : Callable[[], T]
        Asked at once, then every `interval` seconds, and a last time after the deadline.
    timeout : float
        Seconds.
    what : str or Callable[[], str]
        What was waited for, in words; a callable is asked at the deadline and can tell how things stand.

    Raises
    ------
    AssertionError
        If the deadline passes first.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        answer = predicate()
        if answer:
            return answer
        if late:
            words = (what() if callable(what) else what) or repr(predicate)
            raise AssertionError(f"waited {timeout:g} s for {words}; it returned {answer!r}")
        time.sleep(interval)
