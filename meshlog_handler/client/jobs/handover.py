"""Handover: how the client of a job takes over from an earlier client, and hands over to the next. Client thread only."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Final

from ...protocol.messages import Welcome
from ...protocol.relay_messages import Passed
from ...system.lock_files import is_held
from ..peers.peer import Peer
from ..peers.reactor import Reactor
from .succession import Leftover, Succession

_EXIT_SEC: Final = 10.0
_LOOK_SEC: Final = 0.01
_MAX_FIRST: Final = 1 << 31


class Handover:
    """Used by `ClientLoop`. A client without a job has no `succession`: then it does nothing.

    A client that `relays` may take over streams, too: see `Registry`.
    `adopt` makes the peer of a process that has ended. `removed` is called with each peer whose rest the next client shows.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        succession: Succession | None,
        adopt: Callable[[Leftover], Peer],
        removed: Callable[[Peer], object],
        relays: bool,
    ) -> None:
        self._takes_over = succession is not None or relays
        self._reactor = reactor
        self._succession = succession
        self._adopt = adopt
        self._pid = os.getpid()
        self._removed = removed
        self._ends = False
        self._exits: dict[Peer, float] = {}  # processes that exit, and how long to wait for them

    @property
    def first_number(self) -> int:
        """The number of the first flush and the first request of this client."""
        # A stream that is read once more has the sentinels of the earlier client, whose numbers must not count here.
        return 1 if not self._takes_over else random.SystemRandom().randrange(1, _MAX_FIRST)

    @property
    def due(self) -> float | None:
        """When `take_over` next has something to do, or None."""
        return None if self._succession is None or self._ends else self._succession.due

    def take_over(self, now: float) -> None:
        """Show the journals of processes that ended with an earlier client, or without another one."""
        if self._succession is None or self._ends:
            return
        for leftover in self._succession.ended(now):
            peer = self._adopt(leftover)
            peer.external = peer.watched = False
            peer.left = True  # nothing is known of its end
            self._reactor.add(peer, Welcome(None, "", ()))
            self._reactor.ended(peer)

    def begin(self) -> None:
        """Take over what is there now, and then nothing more."""
        if self._succession is not None and self._succession.due is not None:
            self.take_over(self._succession.due)
        self._ends = True

    def release(self, peer: Peer) -> None:
        """Release a worker, because this client ends."""
        if peer.mark is not None and peer.pid != self._pid:
            self._reactor.hand_over(peer)
        else:
            self._reactor.release(peer)

    def let_go(self, now: float) -> None:
        """Close the connections of processes that are handed over, when everything received from them is shown."""
        for peer in [each for each in self._reactor.peers if each.handed_over and not each.ended and not each.inbox]:
            if peer.sock is not None:
                self._reactor.shut(peer)
                continue
            if peer.uncaught is not None:  # it exits, so it may not find another client: its journal is shown here
                if not is_held(peer.journal):
                    peer.left = True
                    self._reactor.ended(peer)
                    continue
                if now < self._exits.setdefault(peer, now + _EXIT_SEC):
                    self._reactor.disconnected[peer] = now + _LOOK_SEC
                    continue
            self._reactor.drop(peer, keep_journal=True)
            self._removed(peer)

    def joins_again(self, journal: str) -> Passed | None:
        """Drop the former connections of a process that goes on with its journal; return what was taken of it, if anything."""
        known = None
        for former in [peer for peer in tuple(self._reactor.peers) if peer.journal == journal]:
            known = former.passed()
            self._removed(former)
            self._reactor.drop(former, keep_journal=True)
        return known

    def shown(self, peer: Peer) -> None:
        """Note that all records of a peer that has ended were shown."""
        if peer.mark is not None and self._succession is not None:
            self._succession.note_end()
