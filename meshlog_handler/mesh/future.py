"""MeshFuture: the result of something that goes on in the background, to be awaited in any event loop, or waited for."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar

from ..system.waits import Awaited, finished

T = TypeVar("T")


class MeshFuture(Generic[T]):
    """What a call on a mesh returns at once: the promise of its result.

    ``await`` it in asyncio, trio, or what is built on them; in any other place, ``get`` it. Both may be done more than
    once, by several threads and tasks at a time. To stop waiting (a timeout, a task that is cancelled) does not stop what
    is waited for. An error that nobody asked for is a `RuntimeWarning` when it is certain that nobody will.

    Parameters
    ----------
    future : concurrent.futures.Future
        Gets the result. Whoever sets it calls `set_running_or_notify_cancel` first.
    what : str
        What is waited for, for messages: ``flush``, ``call of train on ranks 0-3``.

    Notes
    -----
    It stays in its process: it cannot be pickled, and a forked child cannot wait for it.
    """

    def __init__(self, future: Future[T], what: str = "the result") -> None:
        self._outcome = _Outcome(what)
        self._future = future
        future.add_done_callback(self._outcome.completed)

    @classmethod
    def run(cls, fn: Callable[[], T], name: str) -> MeshFuture[T]:
        """Run `fn` on a thread of its own, a daemon named ``meshlog-`` and `name`."""
        future: Future[T] = Awaited()
        future.set_running_or_notify_cancel()
        made = cls(future, name)
        threading.Thread(target=_run, args=(future, fn), name=f"meshlog-{name}", daemon=True).start()
        return made

    @classmethod
    def completed(cls, value: T) -> MeshFuture[T]:
        """Return one that is done."""
        future: Future[T] = Awaited()
        future.set_result(value)
        return cls(future)

    def done(self) -> bool:
        """Tell whether the result, or the error, is there."""
        return self._future.done()

    def get(self, timeout: float | None = None) -> T:
        """Wait for the result. Blocks the thread: in an event loop, ``await`` instead.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits for as long as it takes.

        Raises
        ------
        TimeoutError
            If it is not done in time. It goes on, and can be waited for again.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame by its traceback
        return self._future.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `get` does; return the error, or None if there is a result."""
        if not finished(self._future, timeout):
            raise TimeoutError(f"{self._outcome.what} is not done after {timeout:g} s; it goes on.")
        self._outcome.asked = True
        return self._future.exception()

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._future.done():
            # Without one of these loops (or in one of a kind unknown here) `get` blocks: there is no other way to wait.
            waiter = _wait_in_trio(self._future) or _wait_in_asyncio(self._future)
            if waiter is not None:
                yield from waiter
        return self.get()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._outcome.what}, {'done' if self.done() else 'under way'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a MeshFuture ({self._outcome.what}) stays in its process: send what .get() returns instead.")

    def __del__(self) -> None:
        outcome = getattr(self, "_outcome", None)  # None: __init__ did not come that far
        if outcome is not None:
            outcome.abandoned = True
            outcome.warn_if_lost(self._future)


class _Outcome:
    """What is known about who asked. It outlives the `MeshFuture`, to warn of an error that comes after it has gone.

    Whichever comes last, the error or the end of the `MeshFuture`, finds the other's mark: one of them warns. Takes no
    lock, for a finalizer may run at any instant on any thread; that one alone warns is the pop's doing.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.asked = False
        self.abandoned = False
        self._warnings = [True]

    def completed(self, future: Future[Any]) -> None:
        self.warn_if_lost(future)

    def warn_if_lost(self, future: Future[Any]) -> None:
        if self.asked or not self.abandoned or not future.done() or sys.is_finalizing():
            return
        error = future.exception()
        if error is None:
            return
        with suppress(IndexError):  # the other one has warned
            self._warnings.pop()
            warnings.warn(
                f"{self.what} failed, and nobody asked for the result: {type(error).__name__}: {error}. "
                f"Await what the call returns, or .get() it.",
                RuntimeWarning,
                stacklevel=2,
            )


def _run(future: Future[T], fn: Callable[[], T]) -> None:
    try:
        value = fn()
    except BaseException as error:  # whatever it is, it belongs to who waits
        future.set_exception(error)
    else:
        future.set_result(value)
    finally:
        del future, fn  # the error holds this frame by its traceback


def _wait_in_trio(future: Future[Any]) -> Generator[Any, Any, object] | None:
    """Return what to yield from in a trio task until `future` is done; None elsewhere."""
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return None
    token, event = trio.lowlevel.current_trio_token(), trio.Event()

    def wake(_: Future[Any]) -> None:
        with suppress(trio.RunFinishedError):  # nobody waits any more
            token.run_sync_soon(event.set)

    future.add_done_callback(wake)
    waiter: Generator[Any, Any, object] = event.wait().__await__()
    return waiter


def _wait_in_asyncio(future: Future[Any]) -> Generator[Any, Any, object] | None:
    """Return what to yield from in an asyncio task until `future` is done; None elsewhere."""
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
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(release)

    future.add_done_callback(wake)
    made: Generator[Any, Any, object] = waiter.__await__()
    return made
