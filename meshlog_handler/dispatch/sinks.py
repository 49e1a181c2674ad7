"""Sinks: which handlers show which record.

A *sink* holds the handlers of one `MeshHandler`, or those that a client was given. The *route* of a record names the
`MeshHandler` that accepted it, so that the client can find the sink:

- a number: the `MeshHandler` was created in the client's process, for its records and those of processes forked from it;
- a text: the handler's name in a configuration that several processes apply, or ``#2`` for the second one created by hand;
- None: the process only called `install`. The client's loggers decide: the record goes where a record of the same logger would
  go in the client's process.

A pair of a route and indices names the handlers of the sink whose filters accepted the record in its own process. For a handler
whose level that process has changed, the index is ``~index``: the level there applied, too.
"""

from __future__ import annotations

import itertools
import logging
from threading import RLock
from typing import Any, Final

from .sink import Sink

Route = int | str | tuple[int | str, tuple[int, ...]] | None

_MAX_SINKS: Final = 1024
_MAX_NARROWED: Final = 256


class Sinks:
    """The sinks of one client, by route. Any thread may call the methods."""

    def __init__(self, default: Sink | None = None) -> None:
        self.default = default  # if the client was given handlers
        self.version = 0  # increases with every change; `find` may then return other sinks
        self.never_direct = False  # handlers are only called on the client's thread
        self._numbers = itertools.count(1)
        self._by_number: dict[int, Sink] = {}
        self._by_name: dict[str, Sink] = {}
        self._narrowed: dict[tuple[int, tuple[int, ...]], Sink] = {}
        self._lock = RLock()  # a signal handler that logs may interrupt a configuration

    @property
    def routed(self) -> bool:
        """Whether a sink of a `MeshHandler` was added."""
        return bool(self._by_number)

    def all(self) -> tuple[Sink, ...]:
        """Return every sink once."""
        with self._lock:
            first = () if self.default is None else (self.default,)
            return (*first, *self._by_number.values(), *self._narrowed.values())

    def add(self, sink: Sink) -> None:
        """Add a sink and give it a number."""
        with self._lock:
            sink.number = next(self._numbers)
            sink.direct, sink.inherited = sink.window is None and not self.never_direct, None
            self._by_number[sink.number] = sink
            if len(self._by_number) > _MAX_SINKS:  # after many configurations: remove the oldest sink
                named = set(map(id, self._by_name.values()))
                oldest = next((each for each in self._by_number.values() if id(each) not in named), sink)
                del self._by_number[oldest.number]
            self.version += 1

    def reopen(self) -> None:
        """Let files be opened anew, which another process may have rotated."""
        for sink in self.all():
            sink.reopen()

    def set_default(self, sink: Sink) -> None:
        """Replace the handlers that the client was given."""
        with self._lock:
            if self.default is not None:
                sink.window, sink.keeps_files = self.default.window, self.default.keeps_files
            self.default = sink
            self.version += 1

    def name(self, sink: Sink, name: str) -> None:
        """Let other processes find a sink by a name. A sink that had this name keeps only its number."""
        with self._lock:
            self._by_name[name] = sink
            self.version += 1

    def retire(self, sink: Sink) -> None:
        """Remove a sink's names, because its `MeshHandler` was closed. It still shows records that it accepted before."""
        sink.stay_open()
        with self._lock:
            self._by_name = dict(filter(lambda named: named[1] is not sink, self._by_name.items()))
            self.version += 1

    def find(self, route: Route, logger_name: str) -> tuple[Sink, ...]:
        """Return the sinks that show a record of this route and logger."""
        with self._lock:
            base, accepted = route if isinstance(route, tuple) else (route, None)
            sink = self._by_number.get(base) if isinstance(base, int) else self._by_name.get(base) if base else None
            if sink is not None:
                return (sink,) if accepted is None else self._narrow(sink, accepted)
            if self._by_number:
                found = _of_logger(logger_name, set(map(id, self._by_number.values())))
                if found:
                    return found
            if self.default is not None:
                return (self.default,)
            return tuple(self._by_number.values())[-1:]

    def _narrow(self, sink: Sink, accepted: tuple[int, ...]) -> tuple[Sink, ...]:
        if not accepted:
            return ()
        key = (sink.number, accepted)
        narrowed = self._narrowed.get(key)
        if narrowed is None:
            if len(self._narrowed) >= _MAX_NARROWED:  # no program has so many, but a peer may send any indices
                return (sink,)
            narrowed = self._narrowed[key] = sink.narrowed(accepted)
        return (narrowed,)


def _of_logger(name: str, known: set[int]) -> tuple[Sink, ...]:
    """Return the sinks of each `MeshHandler` that a record of this logger reaches in this process."""
    loggers = logging.Logger.manager.loggerDict
    logger: Any = loggers.get(name)
    while name and not isinstance(logger, logging.Logger):
        name = name.rpartition(".")[0]
        logger = loggers.get(name)
    logger = logger if isinstance(logger, logging.Logger) else logging.root
    found: dict[int, Sink] = {}
    while logger is not None:
        for handler in logger.handlers:
            sink = getattr(handler, "sink", None)
            if isinstance(sink, Sink) and id(sink) in known:
                found[id(sink)] = sink
        logger = logger.parent if logger.propagate else None
    return tuple(found.values())
