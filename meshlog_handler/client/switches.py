"""Switches: changes of what is shown, each with a position in the stream of every worker. Client thread only.

::

    switch -> a sentinel to every worker -> its position in the stream: old settings before it, new settings after it

The old settings apply to records logged before the call, the new settings to records logged after the call has returned. A
stopped worker switches when its sentinel arrives. Both settings are kept until every worker has passed it (see `Era`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final

from ..dispatch.dispatcher import KEEP, Dispatcher
from ..dispatch.era import Era
from ..dispatch.pacer import Pacer
from ..dispatch.sink import Sink
from ..system.futures import give
from .downstream.relays import Relays
from .flushes.acknowledgements import Acknowledgements
from .peers.peer import Chosen, Peer, Turn
from .peers.reactor import Reactor
from .peers.registry import Registry

Switched = Future[None]

SWITCH_SEC: Final = 5.0
"""Seconds that a switch waits for workers that do not answer. They switch later."""


class Switches:
    """Starts switches, and keeps which peers have not passed them yet."""

    def __init__(
        self, show: Dispatcher, *, pacer: Pacer, reactor: Reactor, relays: Relays, registry: Registry, numbers: Iterator[int]
    ) -> None:
        self._show = show
        self._pacer = pacer
        self._reactor = reactor
        self._relays = relays
        self._registry = registry
        self._pending: Acknowledgements[None] = Acknowledgements(lambda switch: give(switch.future, None), numbers)

    def begin(
        self,
        future: Switched,
        window: float | None,
        streaming: bool | None,
        chosen: Chosen | None,
        mesh: str | None,
        default: Sink | None,
    ) -> None:
        """Change what is shown, here and downstream; `future` is done when all peers have passed the switch.

        `window` may be `KEEP`. `streaming` applies to the chosen workers and to workers that join `mesh` later; None changes
        nothing. `default` is a sink that replaces the handlers.
        """
        peers = tuple(self._reactor.peers)
        era = self._show.switch(window, default)
        if window != KEEP:
            self._relays.set_window(window)
        if streaming is not None:
            if chosen is None or mesh is not None:
                self._registry.stream(streaming, None if chosen is None else mesh)
            self._relays.stream(streaming, chosen, mesh)
        if era is not None:
            self._pacer.end(era)
            self._end(era, peers)

        def streams(peer: Peer) -> bool | None:
            meant = chosen is None or (not peer.relays and chosen(peer))
            return streaming if meant and (peer.turns or peer.streaming != streaming) else None

        changed = {peer for peer in peers if era is not None or peer.relays or streams(peer) is not None}
        number = self._pending.number()
        for peer in changed:
            peer.turns[number] = Turn(streams(peer))
            if not peer.ended:  # else all remaining records were logged before
                self._send_sentinel(peer, number)
        self._pending.start(number, future, changed)

    def _send_sentinel(self, peer: Peer, number: int) -> None:
        if not peer.external and self._reactor.send(peer, peer.flush_command(number, SWITCH_SEC, None)):
            return
        if peer in self._reactor.disconnected:
            self._reactor.add_sentinel(peer, number)
        else:
            self._reactor.turn_now(peer, number)

    def _end(self, era: Era, peers: tuple[Peer, ...]) -> None:
        """End an era when `peers` have passed their next switch; nothing else uses it."""
        for peer in peers:
            era.users.add(peer)
            for state in _states(peer):
                if state.era is None:
                    state.era = era
        if not era.users:
            self._show.end_era(era)

    def passed(self, number: int, peer: Peer) -> None:
        """Note that all records of `peer` before its sentinel are shown."""
        self._release(peer, left=False)
        self._pending.note(number, peer, None)

    def mark_ended(self, peer: Peer) -> None:
        """Note that `peer` ended and that all of its records are shown."""
        self._release(peer, left=True)
        self._pending.note_all(peer, None)

    def close(self) -> None:
        """Complete all switches, because the client stops."""
        self._pending.close(None)

    def _release(self, peer: Peer, *, left: bool) -> None:
        for era in tuple(self._show.eras):
            needed = not left and any(state.era is era for state in _states(peer))
            if peer in era.users and not needed:
                era.users.discard(peer)
                if not era.users:
                    self._show.end_era(era)


def _states(peer: Peer) -> list[Peer | Turn]:
    """Return all that refers to eras: the peer for its current era, and its turns for later ones."""
    return [peer, *peer.turns.values()]
