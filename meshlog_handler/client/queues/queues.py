"""The ordinary queues that a client reads: when records are taken, and what follows when they are shown. Client thread only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...system.futures import give
from ..peers.peer import Peer
from ..peers.reactor import Reactor
from .queue_peer import ENDED, QueuePeer

_SIZE: Final = 512  # bytes of a record, approximately
_LOOK_SEC: Final = 0.01
"""The interval at which a busy queue is looked at. The first record after a silence is shown at once."""


class Queues:
    """The queues of a client. `removed` is called with each queue that has ended."""

    def __init__(self, reactor: Reactor, removed: Callable[[Peer], object]) -> None:
        self._reactor = reactor
        self._removed = removed
        self._due: dict[QueuePeer, float] = {}  # those that may have records, and when to look

    def add(self, peer: QueuePeer, *, streaming: bool) -> None:
        """Add a queue."""
        peer.streaming = streaming
        self._reactor.peers.add(peer)
        self._due[peer] = 0.0

    def look_at(self, peer: QueuePeer) -> None:
        """Take what was read from a queue in this turn."""
        if peer in self._reactor.peers:
            self._due[peer] = 0.0

    @property
    def deadline(self) -> float | None:
        """When `take` has something to do, or None."""
        return min(self._due.values(), default=None)

    def take(self, now: float) -> None:
        """Take what was read from the queues that are due."""
        for peer, due in tuple(self._due.items()):
            if now < due:
                continue
            peer.reader.idle = True  # before it is looked at: an item that arrives later wakes this thread
            items = peer.take_read()
            if items:
                peer.reader.idle = False
                self._due[peer] = now + _LOOK_SEC
                self._reactor.pipes.read.append((peer, items))
                self._reactor.taken += _SIZE * len(items)
            else:
                del self._due[peer]

    def shown(self, peer: QueuePeer, number: int) -> None:
        """Note that `-number` items of a queue are shown, or that the queue has ended and all of its records are shown."""
        peer.shown(-number)
        if number == ENDED and peer in self._reactor.peers:
            self._reactor.drop(peer, keep_journal=False)
            self._due.pop(peer, None)
            self._removed(peer)
            give(peer.reader.over, None)
