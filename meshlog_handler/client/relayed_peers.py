"""RelayPeer: the client's view of a relay, one peer for many workers. Client thread only."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import MAX_QUOTE, ProtocolError, printable
from ..journal.shown import ShownMark
from ..protocol.frames import MAX_CONTROL, FrameReader
from ..protocol.messages import Command, Goodbye, Hello, Message, Welcome
from ..protocol.relay_messages import (
    FROM_RELAY,
    CommandDownstream,
    DownstreamEnded,
    DownstreamJoined,
    DownstreamReached,
    FlushDownstream,
)
from ..protocol.relayed_records import RelayedTemplate
from ..transport.listener import NewConnection
from .flushes import time_downstream
from .peer import Chosen, Peer, Target
from .stats import RankStats

MAX_DOWNSTREAM: Final = 65_536


@dataclass(eq=False)
class RelayedPeer:
    """A worker downstream of a relay. `stats` are the latest that the relay sent."""

    mesh: str
    rank: int
    stats: RankStats


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
        self.hidden = 0  # records, by its latest message
        self.unacknowledged: dict[str, int] = {}  # by mesh: the request of its latest default that is not acknowledged
        self.ranks_requested = 0

    @property
    def ranks(self) -> tuple[int, ...]:
        """The live downstream ranks."""
        return tuple(self.downstream)

    def note(self, message: Message) -> bool:
        """Apply a message that must take effect before later records are shown; True if it needs no further handling."""
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

    def join(self, message: DownstreamJoined) -> RelayedPeer:
        """Add a worker that joined downstream; `ProtocolError` if there are too many."""
        if len(self.downstream) >= MAX_DOWNSTREAM:
            raise ProtocolError(f"more than {MAX_DOWNSTREAM} workers downstream of one relay")
        stats = RankStats(message.rank, message.pid)
        self.downstream[message.rank] = joined = RelayedPeer(message.mesh, message.rank, stats)
        return joined

    def end(self, message: DownstreamEnded) -> RelayedPeer | None:
        """Remove a downstream worker that ended, and return it."""
        stats = RankStats.of(message.rank, message.counters)
        self.hidden = message.hidden
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
        return {rank: each.stats for rank, each in self.downstream.items()}


def peer_of(
    connection: NewConnection,
    welcome: Welcome,
    coords: Mapping[str, int | str],
    max_line: int,
    client: str,
    mark: ShownMark | None = None,
) -> Peer:
    """Return the peer of a new connection."""
    hello, sock, pid = connection.hello, connection.sock, connection.pid
    if hello.relay:
        # Through a tunnel, the kernel only knows the process at the end of the tunnel.
        return RelayPeer(sock, hello, welcome.journal, watched=connection.here and hello.pid == pid, client=client)
    peer = Peer(
        sock,
        hello,
        rank=welcome.rank,
        journal=welcome.journal,
        pipes=connection.pipes,
        coords=coords,
        max_line=max_line,
        process=pid,
        client=client,
        mark=mark,
    )
    peer.watched = connection.here
    return peer


def counters_of(stats: RankStats) -> dict[str, Any]:
    """Return counters as plain data, for an upstream client."""
    return {name: getattr(stats, name) for name in RankStats.counted}
