"""What a relay has passed on of its workers' streams, and what its upstream client has of that. Client thread only.

::

    worker -- records --> relay -- records, then a boundary: "rank 3 up to here" --> client
    worker <-- "kept" --- relay <-- "received" ------------------------------------- client

A worker keeps what it has sent until the client above has it. So a relay that is killed takes nothing with it: its
replacement gets from the client how far it has come with each worker, and from the workers the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...dispatch.dispatcher import Dispatcher
from ...protocol.messages import Kept
from ...protocol.relay_messages import DownstreamPassed, PassedReceived
from ..peers.peer import Peer
from ..peers.reactor import Reactor
from .clocks import ClockEstimate
from .relayed_peers import RelayPeer

if TYPE_CHECKING:
    from ..relay.uplink import Uplink

_PART_SEC: Final = 0.2
"""Seconds for which groups may grow before they are passed on with their boundary."""

_POSTPONED_SEC: Final = 0.02


@dataclass
class _Sent:
    """A boundary that the upstream client has not confirmed."""

    number: int
    at: float
    passed_bytes: int
    workers: list[tuple[Peer, int, int]]  # with the generation, and the last side file
    relays: list[tuple[Peer, int]]  # with the number of its boundary
    files: list[tuple[str, Sequence[str]]]  # of workers that ended


class Checkpoints:
    """The boundaries of a relay. `upstream` is None in a client that is not part of a relay: then nothing happens."""

    def __init__(self, reactor: Reactor, dispatcher: Dispatcher, upstream: Uplink | None) -> None:
        self._reactor = reactor
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._numbers = itertools.count(1)
        self._place = 0, 0
        self._since: float | None = None
        self._from_relays: dict[Peer, list[DownstreamPassed]] = {}
        self._ended: list[tuple[tuple[object, ...], Sequence[str]]] = []
        self._removed: list[str] = []
        self._sent: deque[_Sent] = deque()
        self._confirmed_bytes = 0
        self._kept: dict[Peer, int] = {}
        self._clock = ClockEstimate()
        self.deadline: float | None = None
        self.relays: list[RelayPeer] = []
        if upstream is not None:
            reactor.taken_from = set()

    def joined(self, relay: RelayPeer) -> None:
        """Add a relay downstream, if this client is part of a relay: its parts are taken as a whole.

        A boundary upstream must not be within one of them, because it is not known how far its workers have come there.
        """
        if self._upstream is not None:
            relay.stepwise = True
            self.relays.append(relay)

    def ended(self, relay: RelayPeer) -> None:
        """Remove a relay."""
        if relay in self.relays:
            self.relays.remove(relay)

    @property
    def _within(self) -> bool:
        """Whether parts of relays are being taken."""
        return any(relay.inbox for relay in self.relays)

    @property
    def full(self) -> bool:
        """Whether so much is on its way that nothing more is to be taken from the workers."""
        return self._left < 0 and not self._within

    @property
    def _left(self) -> float:
        """How many bytes more may be on their way."""
        upstream = self._upstream
        return float("inf") if upstream is None else upstream.room - (upstream.passed_bytes - self._confirmed_bytes)

    def reached(self, relay: Peer, boundary: DownstreamPassed) -> None:
        """Add a boundary of a relay downstream. It is confirmed when the upstream client has what comes before it."""
        self._from_relays.setdefault(relay, []).append(boundary)

    def finished(self, peer: Peer, *, keep_journal: bool) -> bool:
        """Add a worker that ended; return whether its files stay for now.

        Unless they are kept, they are removed when the upstream client has its records.
        """
        if self._upstream is None or not _counts(peer):
            return keep_journal
        self._kept.pop(peer, None)
        self._ended.append((tuple(peer.passed()), () if keep_journal else tuple(peer.journal_files())))
        return True

    def step(self, now: float, idle: bool) -> None:
        """Send a boundary if anything was passed on since the last one. `idle`: everything that was taken was passed on."""
        whole = idle and not self._within
        self._send_boundary(now, whole)
        if whole and not self.full:
            left = self._left
            for place, relay in enumerate(self.relays, 1):
                self._reactor.messages.extend((relay, boundary) for boundary in relay.release())
                self._reactor.take_more(relay)
                left -= relay.inbox_bytes
                if left < 0:
                    self.relays = [*self.relays[place:], *self.relays[:place]]  # next time, the others come first
                    break

    def _send_boundary(self, now: float, whole: bool) -> None:
        upstream, taken_from = self._upstream, self._reactor.taken_from
        self.deadline = None
        if upstream is None or taken_from is None:
            return
        if upstream.postponed:
            self.deadline = now + _POSTPONED_SEC
        ready = {relay: known for relay, known in self._from_relays.items() if not relay.inbox}
        changed = upstream.place != self._place or taken_from or ready or self._ended
        if not changed or not whole:
            return
        if self._dispatcher.deadline is not None:
            self._since = now if self._since is None else self._since
            if now < self._since + _PART_SEC:
                self.deadline = self._since + _PART_SEC
                return
            self._dispatcher.flush()
        self._since = None
        workers = [peer for peer in taken_from if _counts(peer)]
        taken_from.clear()
        passed = [(peer, peer.passed()) for peer in workers]
        for relay in ready:
            del self._from_relays[relay]
        boundaries = [(relay, each) for relay, known in ready.items() for each in known]
        sent = _Sent(
            next(self._numbers),
            time.time(),
            upstream.passed_bytes,
            [(peer, each.generation, peer.sides.last) for peer, each in passed],
            [(relay, known[-1].request) for relay, known in ready.items()],
            [(str(each[0]), files) for each, files in self._ended],
        )
        fields = [
            *(tuple(each) for _, each in passed),
            *(each for _, boundary in boundaries for each in boundary.passed),
            *(each for each, _ in self._ended),
        ]
        removed = [*self._removed, *(name for _, boundary in boundaries for name in boundary.removed)]
        self._ended, self._removed = [], []
        self._sent.append(sent)
        upstream.lines.boundary(sent.number)
        self._place = upstream.place
        upstream.send(DownstreamPassed(sent.number, *self._place, tuple(fields), tuple(removed), self._clock.ahead))

    def confirmed(self, answer: PassedReceived) -> None:
        """Note that the upstream client has everything up to a boundary."""
        if self._upstream is not None:
            self._upstream.lines.confirmed(answer.request)
        while self._sent and self._sent[0].number <= answer.request:
            sent = self._sent.popleft()
            if sent.number == answer.request:
                self._clock.add(sent.at, answer.now, time.time())
            self._confirmed_bytes = sent.passed_bytes
            for peer, generation, last_side in sent.workers:
                peer.sides.acknowledge(last_side)
                if generation > self._kept.get(peer, 0) and peer.sock is not None:
                    self._kept[peer] = generation
                    self._reactor.send(peer, Kept(generation))
            for relay, boundary in sent.relays:
                self._reactor.send(relay, PassedReceived(boundary, time.time()))
            for journal, files in sent.files:
                for path in files:
                    with contextlib.suppress(OSError):  # never created, or removed by its owner
                        os.unlink(path)
                self._removed.append(journal)


def _counts(peer: Peer) -> bool:
    """Return whether a peer is a worker that could send its stream again."""
    return peer.rank is not None and bool(peer.journal) and not peer.relays
