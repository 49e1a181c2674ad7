"""MeshFuture: the result of a background operation, for any event loop and any thread."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar

from ..system.futures import Awaited, finished
from ..system.shielded import run_whole
from ..system.waits import check_timeout

T = TypeVar("T")


class MeshFuture(Generic[T]):
    """The result of a call on a mesh, available later.

    ``await`` it in asyncio, trio or a library based on them; elsewhere, call `get`. Several threads and tasks may wait for
    it, repeatedly. A timeout or a cancelled task ends the wait, not the operation. If the operation fails and the error can
    no longer be retrieved, a `RuntimeWarning` reports it.

    Parameters
    ----------
    future : concurrent.futures.Future
        Receives the result. Its producer calls `set_running_or_notify_cancel` before it sets the result.
    what : str
        The operation, for messages: ``flush``, ``call of train on ranks 0-3``.

    Notes
    -----
    A `MeshFuture` belongs to its process: it cannot be pickled, and a forked child cannot wait for it.
    """

    def __init__(self, future: Future[T], what: str = "the result") -> None:
        self._outcome = _Outcome(what)
        self._future = future
        if not future.done():  # else there is nothing to do, and `concurrent.futures` would keep what a signal handler raises
            future.add_done_callback(self._outcome.completed)

    @classmethod
    def run(cls, fn: Callable[[], T], name: str) -> MeshFuture[T]:
        """Run `fn` on a new daemon thread named ``meshlog-`` and `name`."""
        future: Future[T] = Awaited.begun()
        made = cls(future, name)
        # An interrupted `Thread.start` can leave a lock that the new thread waits for.
        run_whole(threading.Thread(target=_run, args=(future, fn), name=f"meshlog-{name}", daemon=True).start)
        return made

    @classmethod
    def completed(cls, value: T) -> MeshFuture[T]:
        """Return a `MeshFuture` that is done with `value`."""
        future: Future[T] = Awaited()
        future.set_result(value)
        return cls(future)

    def done(self) -> bool:
        """Return whether the result or the error is available."""
        return self._future.done()

    def get(self, timeout: float | None = None) -> T:
        """Wait for the result and return it. Blocks the thread: in an event loop, use ``await`` instead.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits without a limit.

        Raises
        ------
        TimeoutError
            If the operation is not done in time. It continues, and `get` may be called again.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return self._future.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `get` does; return the error, or None if there is a result."""
        seconds = check_timeout(timeout)
        if not finished(self._future, seconds):
            raise TimeoutError(f"{self._outcome.what} is not done after {seconds:g} s and continues.")
        self._outcome.retrieved = True
        return self._future.exception()

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._future.done():
            # Without an event loop, or in an unknown kind of loop, `get` below blocks: there is no other way to wait.
            waiter = _wait_in_trio(self._future) or _wait_in_asyncio(self._future)
            if waiter is not None:
                yield from waiter
        return self.get()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._outcome.what}, {'done' if self.done() else 'pending'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a MeshFuture ({self._outcome.what}) cannot be pickled. Send the value that .get() returns.")

    def __del__(self) -> None:
        outcome = getattr(self, "_outcome", None)  # None: __init__ failed before it was set
        if outcome is not None:
            outcome.abandoned = True
            outcome.warn_if_lost(self._future)


class _Outcome:
    """The state that decides about the warning for an error. It outlives its `MeshFuture`, so that a later error also warns."""

    # The error and the end of the `MeshFuture` may come in either order; the later one finds the flag of the earlier and warns.
    # A finalizer may run at any time on any thread, so there is no lock: the atomic pop ensures a single warning.

    def __init__(self, what: str) -> None:
        self.what = what
        self.retrieved = False
        self.abandoned = False
        self._warnings = [True]

    def completed(self, future: Future[Any]) -> None:
        self.warn_if_lost(future)

    def warn_if_lost(self, future: Future[Any]) -> None:
        if self.retrieved or not self.abandoned or not future.done() or sys.is_finalizing():
            return
        error = future.exception()
        if error is None:
            return
        with suppress(IndexError):  # the other thread has warned
            self._warnings.pop()
            warnings.warn(
                f"{self.what} failed, and its result was never retrieved: {type(error).__name__}: {error}. "
                f"Await the returned MeshFuture, or call .get().",
                RuntimeWarning,
                stacklevel=2,
            )


def _run(future: Future[T], fn: Callable[[], T]) -> None:
    try:
        value = fn()
    except BaseException as error:  # the waiting caller receives every error
        future.set_exception(error)
    else:
        future.set_result(value)
    finally:
        del future, fn  # the traceback of the error refers to this frame


def _wait_in_trio(future: Future[Any]) -> Generator[Any, Any, object] | None:
    """In a trio task, return an iterator to ``yield from`` until `future` is done; elsewhere, None."""
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return None
    token, event = trio.lowlevel.current_trio_token(), trio.Event()

    def wake(_: Future[Any]) -> None:
        with suppress(trio.RunFinishedError):  # the loop has ended: no task waits
            token.run_sync_soon(event.set)

    future.add_done_callback(wake)
    waiter: Generator[Any, Any, object] = event.wait().__await__()
    return waiter


def _wait_in_asyncio(future: Future[Any]) -> Generator[Any, Any, object] | None:
    """In an asyncio task, return an iterator to ``yield from`` until `future` is done; elsewhere, None."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    waiter = loop.create_future()

    def release() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop was closed: no task waits
            loop.call_soon_threadsafe(release)

    future.add_done_callback(wake)
    made: Generator[Any, Any, object] = waiter.__await__()
    return made
