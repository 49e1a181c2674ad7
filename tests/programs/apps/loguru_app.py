"""loguru and `logging` in one program: ``loguru_app.py into|from METHOD``.

``into``: loguru's records go to `logging`. ``from``: those of `logging` go to loguru, which shows them.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys

from loguru import logger
from swap import swapped_handlers


class InterceptHandler(logging.Handler):
    """Hands records to loguru, as its documentation shows."""

    def emit(self, record: logging.LogRecord) -> None:
        """Give level, text and exception on."""
        logger.opt(exception=record.exc_info).log(record.levelname, record.getMessage())


def configure() -> None:
    """Connect the two."""
    logger.remove()
    if sys.argv[1] == "from":
        logger.add(sys.stdout, format="{level} {message}", backtrace=False, diagnose=False)
        logger.add("loguru.log", format="{level.name} {message}", level="WARNING", backtrace=False, diagnose=False)
        logging.basicConfig(handlers=swapped_handlers(InterceptHandler()), level=logging.INFO, force=True)
    else:
        console, file = logging.StreamHandler(sys.stdout), logging.FileHandler("logging.log")
        console.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        file.setFormatter(logging.Formatter("%(levelname)s %(name)s %(funcName)s %(processName)s %(message)s"))
        for handler in swapped_handlers(console, file):
            logger.add(handler, format="{message}", backtrace=False, diagnose=False, catch=False)


def work(number: int) -> None:
    """Log by the side that is not shown directly."""
    if multiprocessing.get_start_method() != "fork":
        configure()
    if sys.argv[1] == "from":
        log = logging.getLogger("app")
        log.info("child %d of %s", number, "two")
        log.warning(f"child {number} warns")
        try:
            int("no number")
        except ValueError:
            log.exception("child %d fails", number)
    else:
        logger.info("child {} of {}", number, "two")
        logger.bind(user="bob").warning(f"child {number} warns {{braces}}")
        try:
            int("no number")
        except ValueError:
            logger.exception("child {} fails", number)


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    configure()
    children = [multiprocessing.Process(target=work, args=(number,), name=f"work-{number}") for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    (logging.getLogger("main") if sys.argv[1] == "from" else logger).info("main ends")
