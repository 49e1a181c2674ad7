"""Switches: changes of what is shown, each with its place in the stream of every proc. Client's thread alone.

::

    switch -> a sentinel to every proc -> its place in the stream: old settings before it, new ones behind it

What a proc logged before the call is treated by the old settings, what it logs after the call has returned by the new ones. A
proc that is stopped switches when its sentinel comes. Until every proc has passed it, both settings are kept (see `Era`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from .complaints import give
from .show import Era, Show
from .source import Source, Turn

Switched = Future[None]


@dataclass(eq=False)
class _Open:
    """A switch that procs have still to pass."""

    future: Switched
    waiting: set[Source]


class Switches:
    """Knows which procs have still to pass a switch.

    Parameters
    ----------
    show : Show
        Is told when an era has ended.
    """

    def __init__(self, show: Show) -> None:
        self._show = show
        self._open: dict[int, _Open] = {}

    def start(self, number: int, future: Switched, sources: Iterable[Source], streams: Callable[[Source], bool | None]) -> None:
        """Let `sources` pass switch `number`; `streams` tells whether each is shown behind it, None as before."""
        waiting = set(sources)
        for source in waiting:
            source.turns[number] = Turn(streams(source))
        self._open[number] = _Open(future, waiting)
        if not waiting:
            self._complete(number)

    def end(self, era: Era, sources: Iterable[Source]) -> None:
        """Let an era, of which nothing is left but what `sources` bring before their next switch, end with them."""
        for source in sources:
            era.users.add(source)
            for turn in _states(source):
                if turn.era is None:
                    turn.era = era
        if not era.users:
            self._show.end_era(era)

    def passed(self, number: int, source: Source) -> None:
        """Note that everything that `source` brought before its sentinel has been shown."""
        self._release(source, left=False)
        switch = self._open.get(number)
        if switch is not None:
            switch.waiting.discard(source)
            self._complete(number)

    def excuse(self, source: Source) -> None:
        """Note that `source` ended, and everything of it has been shown."""
        self._release(source, left=True)
        for number, switch in tuple(self._open.items()):
            switch.waiting.discard(source)
            self._complete(number)

    def close(self) -> None:
        """Complete all: the client stops."""
        for switch in tuple(self._open.values()):
            switch.waiting.clear()
        for number in tuple(self._open):
            self._complete(number)

    def _complete(self, number: int) -> None:
        if not self._open[number].waiting:
            give(self._open.pop(number).future, None)

    def _release(self, source: Source, *, left: bool) -> None:
        for era in tuple(self._show.eras):
            needed = not left and any(turn.era is era for turn in _states(source))
            if source in era.users and not needed:
                era.users.discard(source)
                if not era.users:
                    self._show.end_era(era)


def _states(source: Source) -> list[Source | Turn]:
    """Return what tells of eras: the one in which a proc is, and those in which it will be."""
    return [source, *source.turns.values()]
