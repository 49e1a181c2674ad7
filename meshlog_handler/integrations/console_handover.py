"""Loggers that write to the console by themselves step aside while their process forwards, and step back after it.

A library that configures a logger of its own (``distributed``, ``ray``) gives it a console handler and cuts it off from the
root logger. Captured, what that writes would arrive as bare lines; handed over, it arrives as records, with name and level.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from ..console_handlers import writes_to_console


class ConsoleHandover:
    """Takes handlers off the loggers of this process, and gives them back. One thread at a time.

    Parameters
    ----------
    unwanted : Callable[[logging.Handler], bool]
        Which handlers are taken, besides those that write to stdout or stderr.

    Notes
    -----
    Made before the process joins a client: the root logger's level is given back as it is then.
    """

    def __init__(self, unwanted: Callable[[logging.Handler], bool]) -> None:
        self._unwanted = unwanted
        self._root_level: int | None = logging.getLogger().level
        self._taken: list[tuple[logging.Logger, logging.Handler]] = []
        self._before: dict[logging.Logger, tuple[int, bool]] = {}

    def take(self) -> None:
        """Take the handlers off. A logger that had some hands its records on to the root logger."""
        for logger in _loggers():
            taken = [handler for handler in logger.handlers if writes_to_console(handler) or self._unwanted(handler)]
            for handler in taken:
                self._taken.append((logger, handler))
                logger.removeHandler(handler)
            if taken and logger.parent is not None:
                self._before[logger] = logger.level, logger.propagate
                # Who silences a library by its handler's level, and not by its logger's, is heeded, too.
                logger.setLevel(max(logger.level, min(handler.level for handler in taken)))
                logger.propagate = True

    def give_back(self) -> None:
        """Put back the handlers, and the levels of their loggers and of the root logger. The second time does nothing."""
        if self._root_level is not None:
            logging.getLogger().setLevel(self._root_level)
            self._root_level = None
        for logger, (level, propagate) in self._before.items():
            logger.setLevel(level)
            logger.propagate = propagate
        for logger, handler in self._taken:
            logger.addHandler(handler)
        self._taken.clear()
        self._before.clear()


def _loggers() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    yield root
    yield from (each for each in tuple(root.manager.loggerDict.values()) if isinstance(each, logging.Logger))
