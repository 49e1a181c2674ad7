"""The levels of loggers before a command changed them: restored when its time is over, or when the client is gone."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Mapping
from typing import Any

from ..system.waits import monotonic, seconds_until

Saved = tuple[dict[str, int], list[tuple[float, int, str, int]], dict[str, int]]


def level_of(name: str) -> int:
    """Return the level of a logger; "" is the root logger."""
    return logging.getLogger(name or None).level


def leveled(config: Mapping[str, Any]) -> list[str]:
    """Return the loggers whose levels an incremental `dictConfig` dictionary sets; "" is the root logger."""
    loggers = config.get("loggers")
    entries = {**(loggers if isinstance(loggers, dict) else {}), "": config.get("root")}
    return [
        name for name, entry in entries.items() if config.get("incremental") and isinstance(entry, dict) and "level" in entry
    ]


class TimedLevels:
    """Remembers levels, and reverts those whose time is over. Any thread may call `restore`; one thread the rest."""

    def __init__(self) -> None:
        self._reverts: list[tuple[float, int, str, int]] = []
        self._reverting: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._set: dict[str, int] = {}  # the levels that commands have set; what the program has set since then stays
        self._ids = itertools.count()

    def changed(self, before: Mapping[str, int], for_sec: float | None) -> None:
        """Note that a command has changed the levels of loggers, for `for_sec` seconds, or None.

        Parameters
        ----------
        before : Mapping
            The levels before, by logger. A logger whose change is not over yet reverts to the level before that change.
        """
        self._reverts = [revert for revert in self._reverts if revert[2] not in before]
        heapq.heapify(self._reverts)
        for name, level in before.items():
            level = self._reverting.pop(name, level)
            self._first.setdefault(name, level)
            self._set[name] = level_of(name)
            if for_sec is not None:
                self._reverting[name] = level
                heapq.heappush(self._reverts, (monotonic() + for_sec, next(self._ids), name, level))

    def saved(self) -> Saved:
        """Return the reverts that are due later, for `load`."""
        return dict(self._reverting), list(self._reverts), dict(self._set)

    def load(self, saved: Saved) -> None:
        """Undo the calls of `changed` since `saved`."""
        self._reverting, self._reverts, self._set = saved

    def revert_due(self) -> float | None:
        """Revert the levels whose time is over; return the seconds until the next revert, or None."""
        while self._reverts:
            wait = seconds_until(self._reverts[0][0])
            if wait > 0:
                return wait
            _, _, name, level = heapq.heappop(self._reverts)
            self._reverting.pop(name, None)
            self._reset(name, level)
        return None

    def restore(self) -> None:
        """Set each logger back to its level before the first command for it, unless the program has set another one."""
        while self._first:
            self._reset(*self._first.popitem())

    def _reset(self, name: str, level: int) -> None:
        if level_of(name) == self._set.get(name):
            self._set[name] = level
            logging.getLogger(name or None).setLevel(level)
