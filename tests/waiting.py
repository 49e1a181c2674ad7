"""Waits for a condition with a deadline, instead of sleeping for a guessed time."""

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
    """Call `predicate` until it returns something true; return that value.

    Parameters
    ----------
    predicate : Callable[[], T]
        Called at once, then every `interval` seconds, and once more after the deadline.
    timeout : float
        Seconds.
    what : str or Callable[[], str]
        Describes what was waited for. A callable is called at the deadline and can describe the current state.

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
