"""What stands at both ends of a benchmark: the logger, and handlers that do nothing or count."""

from __future__ import annotations

import logging
import threading
from typing import Final

from .crew import DEADLINE

LOGGER: Final = "benchmark"


class Nop(logging.Handler):
    """A handler that does nothing: what is left is the cost of a logging call itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Do nothing."""


class Counter(logging.Handler):
    """Counts records; one that stands for many counts as many.

    Parameters
    ----------
    total : int
        How many will come.
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
        """Count what is text already."""
        self.shown += 1
        self.count += 1
        if self.count >= self.total:
            self._all.set()

    def expect(self, total: int) -> None:
        """Say anew how many will come."""
        self._all.clear()
        self.total = total
        if self.count >= total:
            self._all.set()

    def wait(self) -> None:
        """Wait until all are there; `TimeoutError` tells how many are not."""
        if not self._all.wait(DEADLINE):
            raise TimeoutError(f"{self.total - self.count:,} of {self.total:,} records did not arrive")


def bare_logger(handler: logging.Handler) -> logging.Logger:
    """Return the benchmark's logger, at INFO, with this handler and no other."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers[:] = [handler]
    return logger
