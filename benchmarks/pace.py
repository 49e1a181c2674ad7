"""Logging at an even pace, for a number of calls or until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def log_evenly(log: Callable[[int], object], per_second: float, count: int, stop: threading.Event | None = None) -> int:
    """Call ``log(number)`` `count` times at an even pace, or until `stop` is set; return the number of calls.

    After a sleep that was too long, it catches up.
    """
    began = time.perf_counter()
    for number in range(count):
        ahead = began + number / per_second - time.perf_counter()
        if stop is not None and stop.is_set():
            return number
        if ahead > 0:
            time.sleep(ahead)
        log(number)
    return count


class Pacer:
    """A thread that calls `log` at a fixed rate until `stop`."""

    def __init__(self, log: Callable[[int], Any], per_second: float) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=log_evenly, args=(log, per_second, 1 << 62, self._stop), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
