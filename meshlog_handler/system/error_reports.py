"""Reports of failures after which a thread continues: their number is bounded, and reporting raises nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

from .diagnostics import diagnose
from .waits import monotonic

_FIRST_SEC: Final = 1.0
_LONGEST_SEC: Final = 60.0
_MAX_KINDS: Final = 64


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


class ErrorReports:
    """Reports the first failure of each kind at once, and later ones with their count at growing intervals. One owner."""

    def __init__(self, report: Callable[[str], object] = diagnose, clock: Callable[[], float] = monotonic) -> None:
        self._report = report
        self._clock = clock
        self._kinds: dict[tuple[str, type[BaseException]], tuple[float, float, int]] = {}  # next report, pause, unreported

    def log(self, what: str, failure: BaseException) -> None:
        """Report that `what` failed, or count the failure if the same kind was reported recently."""
        kind = (what, type(failure))
        now = self._clock()
        due, pause, unreported = self._kinds.pop(kind, (now, _FIRST_SEC, 0))
        if now < due:
            self._kinds[kind] = (due, pause, unreported + 1)
            return
        if len(self._kinds) >= _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        # After a long time without failures of this kind, the intervals start again.
        pause = _FIRST_SEC if now > due + _LONGEST_SEC else min(2 * pause, _LONGEST_SEC)
        self._kinds[kind] = (now + pause, pause, 0)
        self._report(f"{what}: {describe(failure)}{_more(unreported)}")

    def close(self) -> None:
        """Report the counts of failures that were not reported."""
        kinds, self._kinds = self._kinds, {}
        for (what, kind), (_, _, unreported) in kinds.items():
            if unreported:
                self._report(f"{what}: {kind.__name__}{_more(unreported)}")


def _more(count: int) -> str:
    return f" ({count:,} more like it were not reported)" if count else ""


def give(future: Future[Any], value: object) -> None:
    """Complete `future` with a result. Never raises, even if it was cancelled or its callbacks raise."""
    _complete(lambda: future.set_result(value))


def refuse(future: Future[Any], error: BaseException) -> None:
    """Complete `future` with an error, as `give` does with a result."""
    _complete(lambda: future.set_exception(error))


def _complete(complete: Callable[[], object]) -> None:
    try:
        complete()
    except InvalidStateError:
        return  # it was cancelled
    except BaseException as failure:  # SystemExit and similar; `Future` itself logs every Exception
        diagnose(f"a callback of a future raised {describe(failure)}")
