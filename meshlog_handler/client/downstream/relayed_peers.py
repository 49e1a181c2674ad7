"""RelayPeer: the client's view of a relay, one peer for many workers. Client thread only."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...errors import MAX_QUOTE, ProtocolError, printable
from ...protocol.decode import Item
from ...protocol.frames import MAX_CONTROL, FrameReader
from ...protocol.messages import Command, Goodbye, Hello, Message
from ...protocol.relay_messages import (
    FROM_RELAY,
    CommandDownstream,
    DownstreamEnded,
    DownstreamJoined,
    DownstreamPassed,
    DownstreamReached,
    FlushDownstream,
)
from ...protocol.relayed_records import RelayedTemplate
from ...system.error_reports import Tell
from ..flushes.flushes import time_downstream
from ..peers.peer import Chosen, Peer, Piece, Target
from ..peers.stats import RankStats
from .unconfirmed import Unconfirmed

ADMISSION_SEC: Final = 2.0
"""How long a flush waits for a worker that has a rank and whose joining its relay has not reported."""
_MAX_GRANTED: Final = 1024
MAX_DOWNSTREAM: Final = 65_536
MAX_HELD: Final = 256 << 20
"""Bytes of a relay's stream that may wait for a boundary, and of the boundaries."""
_MAX_TAIL: Final = 1 << 40


@dataclass(eq=False)
class RelayedPeer:
    """A worker downstream of a relay. `stats` are the latest that the relay sent."""

    mesh: str
    rank: int
    stats: RankStats
    journal: str = ""


class RelayPeer(Peer):
    """A relay and its downstream workers. It has no pipes and no rank.

    `watched` is whether the kernel can report its end, which it cannot if the connection comes through a tunnel.
    """

    relays = True
    accepts = (*FROM_RELAY, Goodbye)

    def __init__(self, sock: socket.socket, hello: Hello, journal: str, *, watched: bool, client: str | None = None) -> None:
        super().__init__(
            sock,
            hello,
            rank=None,
            journal=journal if watched else "",
            pipes={},
            coords={},
            max_line=0,
            process=hello.pid,
            relayed=RelayedTemplate,
            client=client,
        )
        self._frames = FrameReader(MAX_CONTROL)  # its messages cover many ranks
        self.watched = watched
        self.name = f"the relay on {printable(hello.hostname, MAX_QUOTE)}"
        self.downstream: dict[int, RelayedPeer] = {}
        self.replaced: list[RelayedPeer] = []  # downstream workers that have not ended, whose rank another one has got
        self.journals: dict[str, int] = {}  # with their ranks, of all workers downstream, until they are removed
        self.hidden = 0  # records, by its latest message
        self.unacknowledged: dict[str, int] = {}  # by mesh: the request of its latest default that is not acknowledged
        self.ranks_requested = 0
        self._granted: dict[int, float] = {}  # when new ranks were given of which it has not said yet that they have joined
        self._held: deque[Piece] = deque()  # beyond the last boundary
        self.held_bytes = 0  # of these, and of the boundaries
        self._boundaries: deque[DownstreamPassed] = deque()
        self.ahead = 0.0
        self.unconfirmed: Unconfirmed | None = None
        self.stepwise = False  # in a relay: `Checkpoints` calls `release`
        self.formers: list[RelayPeer] = []  # killed relays whose place this one has, as far as they are not removed yet

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes from the socket; return the messages among them, and the boundaries that were reached."""
        before = len(self.inbox)
        try:
            messages = super().receive(data)
        finally:
            self._hold(before)
        if self.held_bytes > MAX_HELD:
            raise ProtocolError(f"its boundaries are not reached: more than {MAX_HELD >> 20} MiB wait for one")
        return messages if self.stepwise else [*messages, *self.release()]

    def _hold(self, before: int) -> None:
        """Hold the pieces that were added to the inbox: they are taken when their boundary is reached."""
        for piece in self.inbox[before:]:
            self._held.append(piece)
            self.held_bytes += len(piece.data)
            self.inbox_bytes -= len(piece.data)
        del self.inbox[before:]

    def _take_held(self, piece: Piece) -> None:
        self.inbox.append(piece)
        self.inbox_bytes += len(piece.data)
        self.held_bytes -= len(piece.data)

    def release(self) -> list[DownstreamPassed]:
        """Let the pieces up to a boundary be taken that has arrived as a whole; return these boundaries."""
        reached = []
        while self._boundaries and self.place >= (self._boundaries[0].generation, self._boundaries[0].position):
            boundary = self._boundaries.popleft()
            self.held_bytes -= boundary.size
            reached.append(boundary)
            end = boundary.generation, boundary.position
            while self._held and (self._held[0].generation, self._held[0].start) < end:
                piece = self._held.popleft()
                if piece.generation == end[0] and piece.start + len(piece.data) > end[1]:
                    piece, rest = piece.split(end[1])
                    self._held.appendleft(rest)
                self._take_held(piece)
        return reached

    def replay(self, tell: Tell) -> None:
        """Read what was never sent from the relay's journal. If the relay ended in order, all of it counts."""
        before = len(self.inbox)
        super().replay(tell)
        self._hold(before)
        while self.left and self._held:
            self._take_held(self._held.popleft())

    def take(self, limit: int, items: list[Item]) -> int:
        """Take items, without what was shown of a killed relay."""
        before = len(items)
        used = super().take(limit, items)
        if self.unconfirmed is not None and self.unconfirmed.shown:
            items[before:] = self.unconfirmed.without_shown(items[before:])
        return used

    def was_replaced_by(self, other: RelayPeer) -> bool:
        """Return whether another relay has the directory that this one had."""
        ours, theirs = ((each.hello.hostname, each.hello.resumes) for each in (self, other))
        return bool(ours[1]) and ours == theirs

    def take_tail(self, tell: Tell) -> list[Item]:
        """Return what a killed relay has passed on after its last boundary. Its workers have most of it, and send it again."""
        while self._held:
            self._take_held(self._held.popleft())
        items: list[Item] = []
        try:
            self.take(_MAX_TAIL, items)
        except ProtocolError as failure:
            tell("the last records of a relay cannot be read", f"the last records of {self.name} cannot be read: {failure}")
        return [item for item in items if item[1] is not None]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The live downstream ranks."""
        return tuple(self.downstream)

    def note(self, message: Message) -> bool:
        """Apply a message that must take effect before later records are shown; True if it needs no further handling."""
        if isinstance(message, DownstreamPassed):
            self._boundaries.append(message)
            self.held_bytes += message.size
            return True
        if isinstance(message, DownstreamReached):
            if message.request in self.reached:  # else that flush has already ended here
                self.reached[message.request] = message
            self.hidden = message.hidden
            for rank, counters in message.counters.items():
                if rank in self.downstream:
                    self.downstream[rank].stats = RankStats.of(rank, counters)
            return True
        return False

    def request_rank(self) -> None:
        """Count a request for a rank that has no answer yet; `ProtocolError` if there are too many."""
        if self.ranks_requested >= MAX_DOWNSTREAM:
            raise ProtocolError(f"more than {MAX_DOWNSTREAM} requests for a rank at once")
        self.ranks_requested += 1

    def grant_rank(self, rank: int | None, now: float) -> None:
        """Note that a request is answered, with the rank of a new worker or None.

        A new worker may log before the relay's message arrives that it has joined.
        """
        self.ranks_requested -= 1
        if rank is not None:
            self._granted[rank] = now
            if len(self._granted) > _MAX_GRANTED:  # some never joined
                del self._granted[next(iter(self._granted))]

    @property
    def admits_until(self) -> float:
        """Until when a flush waits for its report of workers that join. It lies in the past if none does."""
        return max(self._granted.values(), default=float("-inf")) + ADMISSION_SEC

    def join(self, message: DownstreamJoined) -> None:
        """Add a worker that joined downstream; `ProtocolError` if there are too many."""
        if max(len(self.downstream) + len(self.replaced), len(self.journals)) >= MAX_DOWNSTREAM:
            raise ProtocolError(f"more than {MAX_DOWNSTREAM} workers downstream of one relay")
        self._granted.pop(message.rank, None)
        former = self.downstream.get(message.rank)
        if former is not None:
            self.replaced.append(former)
        stats = RankStats(message.rank, message.pid)
        self.downstream[message.rank] = RelayedPeer(message.mesh, message.rank, stats, message.journal)
        if message.journal:
            self.journals[message.journal] = message.rank

    def end(self, message: DownstreamEnded) -> RelayedPeer | None:
        """Remove a downstream worker that ended, and return it."""
        stats = RankStats.of(message.rank, message.counters)
        self.hidden = message.hidden
        ended = next((each for each in self.replaced if (each.rank, each.stats.pid) == (stats.rank, stats.pid)), None)
        if ended is not None:
            self.replaced.remove(ended)
        else:
            ended = self.downstream.pop(message.rank, None)
        if ended is not None:
            ended.stats = stats
        return ended

    def chosen(self, chosen: Chosen | None) -> Sequence[Target]:
        """Return the chosen downstream workers."""
        return [each for each in self.downstream.values() if chosen is None or chosen(each)]

    def flush_command(self, version: int, timeout: float, chosen: Chosen | None) -> Command:
        """Return the message that starts a flush. The relay's answer is kept until the flush has ended."""
        self.reached[version] = None
        ranks = None if chosen is None else tuple(each.rank for each in self.downstream.values() if chosen(each))
        return FlushDownstream(version, time_downstream(timeout), ranks)

    def command_for(self, command: Command, members: Sequence[Target]) -> Command:
        """Return the message that sends a command to `members`, which are downstream workers."""
        ranks = tuple(member.rank for member in members if member.rank is not None)
        return CommandDownstream(command.request, command.encode(), ranks)

    def counters(self) -> Mapping[int | None, RankStats]:
        """Return the counters of the downstream workers."""
        counters: dict[int | None, RankStats] = {rank: each.stats for rank, each in self.downstream.items()}
        for each in self.replaced:
            later = counters.get(each.rank)
            counters[each.rank] = each.stats if later is None else each.stats.merged(later)
        return counters


def counters_of(stats: RankStats) -> dict[str, Any]:
    """Return counters as plain data, for an upstream client."""
    return {name: getattr(stats, name) for name in RankStats.counted}
