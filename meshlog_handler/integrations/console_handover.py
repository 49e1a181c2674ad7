"""ConsoleHandover: removes the console handlers of loggers while their process forwards, and restores them afterwards.

A library that configures its own logger (``distributed``, ``ray``) gives it a console handler and disables propagation. The
client would receive its output as captured lines. After the handover it receives records, with name and level.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from ..worker.console_handlers import writes_to_console


class ConsoleHandover:
    """Removes handlers from the loggers of this process, and restores them. Not thread-safe.

    Handlers that write to stdout or stderr are removed, and those that `unwanted` selects. Create it before the process joins a
    client, because `give_back` restores the root logger's level of that time.
    """

    def __init__(self, unwanted: Callable[[logging.Handler], bool]) -> None:
        self._unwanted = unwanted
        self._root_level: int | None = logging.getLogger().level
        self._taken: list[tuple[logging.Logger, logging.Handler]] = []
        self._before: dict[logging.Logger, tuple[int, bool]] = {}

    def take(self) -> None:
        """Remove the handlers. The records of their loggers then propagate to the root logger."""
        for logger in _loggers():
            taken = [handler for handler in logger.handlers if writes_to_console(handler) or self._unwanted(handler)]
            for handler in taken:
                self._taken.append((logger, handler))
                logger.removeHandler(handler)
            if taken and logger.parent is not None:
                self._before[logger] = logger.level, logger.propagate
                # A program may silence a library by the level of its handler; the logger's level now does it.
                logger.setLevel(max(logger.level, min(handler.level for handler in taken)))
                logger.propagate = True

    def give_back(self) -> None:
        """Restore the handlers, and the levels of their loggers and of the root logger. A second call does nothing."""
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
