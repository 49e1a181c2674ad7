"""Futures: waits for them that no timeout and no signal handler breaks, and their completion, which never raises."""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as NotInTime
from typing import Any, TypeVar

from .diagnostics import diagnose
from .error_reports import describe
from .waits import capped, wait_in_parts

T = TypeVar("T")


class Awaited(Future[T]):
    """A future whose methods are safe from exceptions of signal handlers; used by `finished`.

    Other futures use a `threading.Condition`. An exception in the middle of its methods leaves it locked, and the next thread
    that uses the future would block forever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition: Any = _Guard()
        self._over = False
        self._locks: list[Any] = []
        self.add_done_callback(_release)

    @classmethod
    def begun(cls) -> Awaited[T]:
        """Return one that cannot be cancelled: a caller that stops waiting (asyncio cancels it) does not end the work."""
        made = cls()
        made.set_running_or_notify_cancel()
        return made

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` until the future is done or cancelled; return whether it is."""
        waiter = threading.Lock()
        waiter.acquire()
        self._locks.append(waiter)
        if self._over or waiter.acquire(timeout=capped(seconds)):
            return True
        with contextlib.suppress(ValueError):  # released meanwhile, and so removed
            self._locks.remove(waiter)
        return self._over

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it, as for every future."""
        return super().result(self._waited(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the exception and return it, as for every future."""
        return super().exception(self._waited(timeout))

    def _waited(self, timeout: float | None) -> float:
        if not finished(self, timeout):
            raise NotInTime
        return 0.0


class _Guard(_thread.RLock):  # type: ignore[misc]  # it is final in typeshed only
    """The lock of an `Awaited`. An interpreter's own lock is released in a ``with`` statement whatever a handler raises."""

    def notify_all(self) -> None:
        """Do nothing: `wait` uses other locks."""


def _release(future: Future[Any]) -> None:
    assert isinstance(future, Awaited)
    future._over = True
    for waiter in tuple(future._locks):  # a later waiter sees `_over`
        waiter.release()


def finished(future: Future[Any], seconds: float | None) -> bool:
    """Wait up to `seconds` (None: no limit) until `future` is done or cancelled; return whether it is."""

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
