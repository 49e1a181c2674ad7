"""TimedQueue: a queue like `queue.SimpleQueue`, whose timeouts hold.

Before Python 3.13, ``SimpleQueue.get(timeout=...)`` waits without end if a signal interrupts its thread and the timeout has
passed when the thread runs again. `os.setuid` interrupts every thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from typing import Generic, TypeVar

from .waits import deadline_after, monotonic, seconds_until

T = TypeVar("T")


class TimedQueue(Generic[T]):
    """A queue for one thread that gets items. Any thread, signal handler or finalizer may call `put_nowait`."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._filled = threading.Lock()  # released by `put_nowait`
        self._filled.acquire()

    def put_nowait(self, item: T) -> None:
        """Add an item; never blocks."""
        self._items.append(item)
        with contextlib.suppress(RuntimeError):  # it is released already
            self._filled.release()

    def get(self, timeout: float | None = None) -> T:
        """Return the next item; wait up to `timeout` seconds (None: no limit) for one. Raises `queue.Empty`."""
        deadline = deadline_after(timeout)
        over = False
        while True:
            with contextlib.suppress(IndexError):  # it is empty
                return self._items.popleft()
            if over:
                raise queue.Empty
            over = not self._filled.acquire(timeout=seconds_until(deadline)) and monotonic() >= deadline

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()
