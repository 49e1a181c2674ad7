"""Reports of failures after which a thread continues, and of what peers do: bounded in number, and reporting raises nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from .diagnostics import diagnose
from .waits import monotonic

AT_ONCE: Final = 10
"""Reports of one kind about peers that are not delayed. In a minute, there are at most 5 others of this kind."""

_FIRST_SEC: Final = 1.0
_LONGEST_SEC: Final = 60.0
_MAX_KINDS: Final = 64

Tell = Callable[[str, str], object]
"""`ErrorReports.tell`."""


def describe(failure: BaseException) -> str:
    """Return the class and the text of an exception. Never raises, whatever its ``__str__`` does."""
    try:
        text = str(failure)
    except BaseException as worse:  # from a class of the program; it must not replace the failure
        text = f"(no text: str() raised {type(worse).__name__})"
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def name_of(handler: object) -> str:
    """Return the ``repr`` of a handler, or its class if ``repr`` raises."""
    try:
        return repr(handler)
    except BaseException:  # from a class of the program
        return f"<{type(handler).__name__}>"


class _Kind(NamedTuple):
    """When the next report of a kind is due, the interval before it, how many were left out, and how many need not wait."""

    due: float
    pause: float
    unreported: int
    at_once: int


class ErrorReports:
    """Reports the first of each kind at once, and later ones with their count at growing intervals. Any thread."""

    def __init__(self, report: Callable[[str], object] = diagnose, clock: Callable[[], float] = monotonic) -> None:
        self._report = report
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}  # by what is said of a kind in `close`
        self._lock = threading.RLock()  # a signal handler that reports may interrupt a report

    def log(self, what: str, failure: BaseException) -> None:
        """Report that `what` failed, or count the failure if the same kind was reported recently."""
        self._say(f"{what}: {type(failure).__name__}", f"{what}: {describe(failure)}", 1)

    def tell(self, kind: str, text: str) -> None:
        """Report what a peer caused, or count it if it is not among the first `AT_ONCE` of its kind. No peer chooses `kind`."""
        self._say(kind, text, AT_ONCE)

    def _say(self, kind: str, text: str, at_once: int) -> None:
        with self._lock:
            more = self._count(kind, self._clock(), at_once)
        if more is not None:
            self._report(f"{text}{_more(more)}")

    def _count(self, kind: str, now: float, at_once: int) -> int | None:
        """Return how many of this kind were left out if one is to be reported now; else count one more, and return None."""
        due, pause, unreported, left = self._kinds.pop(kind, _Kind(now, _FIRST_SEC, 0, at_once))
        if now < due:
            self._kinds[kind] = _Kind(due, pause, unreported + 1, left)
            return None
        if len(self._kinds) >= _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        if now > due + _LONGEST_SEC:  # after a long time without failures of this kind, everything starts again
            pause, left = _FIRST_SEC, at_once
        else:
            pause = min(2 * pause, _LONGEST_SEC)
        self._kinds[kind] = _Kind(now, _FIRST_SEC, 0, left - 1) if left > 1 else _Kind(now + pause, pause, 0, 0)
        return unreported

    def close(self) -> None:
        """Report the counts of failures that were not reported."""
        kinds, self._kinds = self._kinds, {}
        for kind, (_, _, unreported, _) in kinds.items():
            if unreported:
                self._report(f"{kind}{_more(unreported)}")


def _more(count: int) -> str:
    return f" ({count:,} more like it were not reported)" if count else ""
