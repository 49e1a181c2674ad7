"""Switches: changes of what is shown, each with its place in the stream of every proc. Client's thread alone.

::

    switch -> a sentinel to every proc -> its place in the stream: old settings before it, new ones behind it

What a proc logged before the call is treated by the old settings, what it logs after the call has returned by the new ones. A
proc that is stopped switches when its sentinel comes. Until every proc has passed it, both settings are kept (see `Era`).
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from ..dispatch.dispatcher import KEEP, Dispatcher
from ..dispatch.era import Era
from ..dispatch.pacer import Pacer
from ..dispatch.sink import Sink
from ..system.error_reports import give
from .orders import PendingCommands
from .peer import Chosen, Peer, Turn
from .reactor import Reactor
from .registry import Registry
from .relays import Relays

Switched = Future[None]

SWITCH_SEC: Final = 5.0
"""Seconds that a switch waits for silent procs, which switch later."""


@dataclass(eq=False)
class _OpenSwitch:
    """A switch that procs have still to pass."""

    future: Switched
    waiting: set[Peer]


class Switches:
    """Begins switches, and knows which procs have still to pass them."""

    def __init__(
        self, show: Dispatcher, tray: Pacer, reception: Reactor, relays: Relays, registry: Registry, orders: PendingCommands
    ) -> None:
        self._show = show
        self._tray = tray
        self._reception = reception
        self._relays = relays
        self._registry = registry
        self._orders = orders
        self._open: dict[int, _OpenSwitch] = {}

    def begin(
        self,
        future: Switched,
        window: float | None,
        streaming: bool | None,
        chosen: Chosen | None,
        mesh: str | None,
        default: Sink | None,
    ) -> None:
        """Change what is shown, here and below; `future` is done when all have passed the switch.

        `window` may be `KEEP`. `streaming` is for the chosen procs and for those that join `mesh` later; None: as before.
        `default` are other handlers.
        """
        sources = tuple(self._reception.sources)
        era = self._show.switch(window, default)
        if window != KEEP:
            self._relays.set_window(window)
        if streaming is not None:
            if chosen is None or mesh is not None:
                self._registry.stream(streaming, None if chosen is None else mesh)
            self._relays.stream(streaming, chosen, mesh)
        if era is not None:
            self._tray.end(era)
            self._end(era, sources)

        def streams(source: Peer) -> bool | None:
            meant = chosen is None or (not source.relays and chosen(source))
            return streaming if meant and (source.turns or source.streaming != streaming) else None

        changed = {source for source in sources if era is not None or source.relays or streams(source) is not None}
        number = self._orders.number()
        self._open[number] = _OpenSwitch(future, changed)
        for source in tuple(changed):
            source.turns[number] = Turn(streams(source))
            if not source.ended:  # else all that comes was logged before
                self._send_sentinel(source, number)
        self._complete(number)

    def _send_sentinel(self, source: Peer, number: int) -> None:
        if not source.adopted and self._reception.send(source, source.flush_order(number, SWITCH_SEC, None)):
            return
        if source in self._reception.cut_off:
            self._reception.bring_sentinel(source, number)
        else:
            self._reception.turn_now(source, number)

    def _end(self, era: Era, sources: tuple[Peer, ...]) -> None:
        """Let an era, of which nothing is left but what `sources` bring before their next switch, end with them."""
        for source in sources:
            era.users.add(source)
            for state in _states(source):
                if state.era is None:
                    state.era = era
        if not era.users:
            self._show.end_era(era)

    def passed(self, number: int, source: Peer) -> None:
        """Note that everything that `source` brought before its sentinel has been shown."""
        self._release(source, left=False)
        switch = self._open.get(number)
        if switch is not None:
            switch.waiting.discard(source)
            self._complete(number)

    def excuse(self, source: Peer) -> None:
        """Note that `source` ended, and everything of it has been shown."""
        self._release(source, left=True)
        for number, switch in tuple(self._open.items()):
            switch.waiting.discard(source)
            self._complete(number)

    def close(self) -> None:
        """Complete all: the client stops."""
        for number, switch in tuple(self._open.items()):
            switch.waiting.clear()
            self._complete(number)

    def _complete(self, number: int) -> None:
        if not self._open[number].waiting:
            give(self._open.pop(number).future, None)

    def _release(self, source: Peer, *, left: bool) -> None:
        for era in tuple(self._show.eras):
            needed = not left and any(state.era is era for state in _states(source))
            if source in era.users and not needed:
                era.users.discard(source)
                if not era.users:
                    self._show.end_era(era)


def _states(source: Peer) -> list[Peer | Turn]:
    """Return what tells of eras: the one in which a proc is, and those in which it will be."""
    return [source, *source.turns.values()]
