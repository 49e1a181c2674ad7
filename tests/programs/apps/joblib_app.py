"""joblib: its reusable workers, which idle when the program ends: ``joblib_app.py BACKEND``."""

from __future__ import annotations

import logging
import sys

import usual
from joblib import Parallel, delayed

log = logging.getLogger("app")


def work(number: int) -> int:
    """Configure logging where it is not yet, as the workers of a cluster do, and log."""
    if not logging.getLogger().handlers:
        usual.configure()
    log.info("task %d begins", number)
    if number % 3 == 0:
        log.warning("task %d is a multiple of three", number)
    return number


if __name__ == "__main__":
    usual.configure()
    backend = sys.argv[1]
    log.info("sum %d", sum(Parallel(2, backend=backend)(delayed(work)(number) for number in range(8))))
    log.info("sum %d", sum(Parallel(2, backend=backend)(delayed(work)(number) for number in range(8, 12))))
    log.info("main ends")
