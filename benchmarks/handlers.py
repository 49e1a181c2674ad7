"""Both ends of a benchmark: the logger, and handlers that do nothing or count."""

from __future__ import annotations

import logging
import threading
from typing import Final

from .crew import DEADLINE

LOGGER: Final = "benchmark"


class Nop(logging.Handler):
    """A handler that does nothing: the remaining cost is that of a logging call itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Do nothing."""


class Counter(logging.Handler):
    """Counts records; a record that stands for many counts as many.

    Parameters
    ----------
    total : int
        How many will arrive.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.count = 0
        self.shown = 0
        self.total = total
        self._all = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Count the record."""
        self.shown += 1
        self.count += record.__dict__.get("count", 1)
        if self.count >= self.total:
            self._all.set()

    def take_text(self, text: str) -> None:
        """Count lines that arrive as text."""
        self.shown += 1
        self.count += 1
        if self.count >= self.total:
            self._all.set()

    def expect(self, total: int) -> None:
        """Set anew how many will arrive."""
        self._all.clear()
        self.total = total
        if self.count >= total:
            self._all.set()

    def wait(self) -> None:
        """Wait until all have arrived; `TimeoutError` says how many are missing."""
        if not self._all.wait(DEADLINE):
            raise TimeoutError(f"{self.total - self.count:,} of {self.total:,} records did not arrive")


def bare_logger(handler: logging.Handler) -> logging.Logger:
    """Return the benchmark's logger, at INFO, with only this handler."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [handler]
    return logger
