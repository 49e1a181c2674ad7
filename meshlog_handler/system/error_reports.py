"""What a thread says when it goes on after a failure: in bounded numbers, and nothing is raised meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

from .fd_capture import diagnose
from .waits import monotonic

_FIRST_SEC: Final = 1.0
_LONGEST_SEC: Final = 60.0
_MAX_KINDS: Final = 64


def describe(failure: BaseException) -> str:
    """Return the class and the text of an exception. Never raises, whatever its ``__str__`` does."""
    try:
        text = str(failure)
    except BaseException as worse:  # of the program's own class; it must not take the place of what went wrong
        text = f"(its text cannot be had: {type(worse).__name__})"
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def name_of(handler: object) -> str:
    """Return the ``repr`` of a handler; its class where that raises."""
    try:
        return repr(handler)
    except BaseException:  # as above
        return f"<{type(handler).__name__}>"


class ErrorReports:
    """Reports failures: the first of a kind at once, further ones together with their number, ever more seldom. One owner.

    Parameters
    ----------
    report : Callable[[str], object]
        Says one thing.
    clock : Callable[[], float]
        Seconds.
    """

    def __init__(self, report: Callable[[str], object] = diagnose, clock: Callable[[], float] = monotonic) -> None:
        self._report = report
        self._clock = clock
        self._kinds: dict[tuple[str, type[BaseException]], tuple[float, float, int]] = {}  # next report, pause, unreported

    def log(self, what: str, failure: BaseException) -> None:
        """Report that `what` failed, or count it where the same was reported a moment ago."""
        kind = (what, type(failure))
        now = self._clock()
        due, pause, unreported = self._kinds.pop(kind, (now, _FIRST_SEC, 0))
        if now < due:
            self._kinds[kind] = (due, pause, unreported + 1)
            return
        if len(self._kinds) >= _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        # A kind that was not heard of for long begins anew.
        pause = _FIRST_SEC if now > due + _LONGEST_SEC else min(2 * pause, _LONGEST_SEC)
        self._kinds[kind] = (now + pause, pause, 0)
        self._report(f"{what}: {describe(failure)}{_more(unreported)}")

    def close(self) -> None:
        """Report the numbers of what was only counted."""
        kinds, self._kinds = self._kinds, {}
        for (what, kind), (_, _, unreported) in kinds.items():
            if unreported:
                self._report(f"{what}: {kind.__name__}{_more(unreported)}")


def _more(count: int) -> str:
    return f" ({count:,} more like it were not reported)" if count else ""


def give(future: Future[Any], value: object) -> None:
    """Complete `future` with a result. It may be cancelled, and its callbacks may raise anything: the caller goes on."""
    _complete(lambda: future.set_result(value))


def refuse(future: Future[Any], error: BaseException) -> None:
    """Complete `future` with an error, as `give` does with a result."""
    _complete(lambda: future.set_exception(error))


def _complete(complete: Callable[[], object]) -> None:
    try:
        complete()
    except InvalidStateError:
        return  # whoever waited has cancelled it
    except BaseException as failure:  # SystemExit and the like; `Future` itself keeps back every Exception
        diagnose(f"a callback of a future raised {describe(failure)}")
