"""The relays of a client: what it says to them, and what they say of the procs below. Client's thread alone.

::

    procs -> relay, a client of its own -> client           a relay's client may be a relay itself
    orders, windows, ranks  <-> answers, who joined and ended
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from ..errors import ProtocolError
from ..protocol.messages import Answer, Command, Commit, Message, Prepare
from ..protocol.relay_messages import (
    CommandDownstream,
    DefaultDownstream,
    DownstreamEnded,
    DownstreamJoined,
    DownstreamReplies,
    RankGranted,
    RankRequest,
    StreamDownstream,
    WindowDownstream,
)
from .peer import Chosen, Peer
from .pending_commands import PendingCommands
from .reactor import Reactor
from .registry import Registry
from .relayed_peers import RelayPeer, counters_of
from .stats import RankStats

_MOST_SEC: Final = 0.5
_PART: Final = 4


def window_downstream(window: float | None) -> float | None:
    """Return how long a relay may hold lines back: little, for they wait again above; much of what it gets is alike."""
    return None if window is None else min(window / _PART, _MOST_SEC)


class Upstream(Protocol):
    """The way up, of a client that is a relay itself. Called on its thread, or those of its door; never waits long."""

    def joined(self, message: DownstreamJoined) -> None:
        """Tell of a proc that joined."""

    def ended(self, message: DownstreamEnded) -> None:
        """Tell of a proc that ended."""

    def claim(self, granted: Callable[[int], None]) -> None:
        """Ask for a rank; `granted` is called with it, on any thread."""


class Relays:
    """Says to relays, and hears from them, what goes beyond records and flushes.

    Parameters
    ----------
    remember : Callable
        Takes the last counters of ranks that have ended.
    post : Callable
        Runs something on the client's thread, from any other.
    above : Above or None
        Where this client is a relay itself.
    window : float or None
        In which this client groups, in seconds.
    hidden_here : Callable
        Returns how many records this client has hidden itself.
    """

    def __init__(
        self,
        reactor: Reactor,
        registry: Registry,
        commands: PendingCommands,
        remember: Callable[[Mapping[int | None, RankStats]], None],
        post: Callable[[Callable[[], Any]], object],
        upstream: Upstream | None,
        window: float | None,
        hidden_here: Callable[[], int],
    ) -> None:
        self._reactor = reactor
        self._registry = registry
        self._commands = commands
        self._remember = remember
        self._post = post
        self.upstream = upstream
        self._window = window
        self._hidden_here = hidden_here
        self._hidden_by_former = 0  # relays, which have ended

    @property
    def hidden(self) -> int:
        """How many records were hidden, here and below."""
        return self._hidden_here() + self._hidden_by_former + sum(relay.hidden for relay in self._relays())

    # -- to them ---------------------------------------------------------------------------------------------------

    def greet(self, peer: Peer) -> None:
        """Tell a relay that has joined what holds; tell above of a proc that has."""
        if isinstance(peer, RelayPeer):
            self._send(peer, WindowDownstream(0, window_downstream(self._window)))
            for mesh_or_all, streaming in self._registry.streaming().items():
                self._send(peer, StreamDownstream(0, streaming, None if mesh_or_all is None else (), mesh_or_all))
            for mesh, command in self._registry.defaults():
                self._send_default(peer, mesh, command)
        elif self.upstream is not None and peer.rank is not None and not peer.external:
            coords = dict(peer.coords)
            self.upstream.joined(DownstreamJoined(peer.rank, peer.mesh, peer.pid, peer.hello.hostname, coords))

    def set_window(self, window: float | None) -> None:
        """Let relays group as this client does."""
        self._window = window
        self._tell(WindowDownstream(0, window_downstream(window)))

    def set_default(self, mesh: str, command: Command) -> None:
        """Let an order hold for whoever joins later, anywhere below."""
        for relay in self._relays():
            self._send_default(relay, mesh, command)

    def _send_default(self, relay: RelayPeer, mesh: str, command: Command) -> None:
        request = self._commands.number()
        relay.unacknowledged.append((request, mesh, command))
        self._send(relay, DefaultDownstream(request, mesh, command.encode()))

    def _send_defaults_to(self, relay: RelayPeer, joined: DownstreamJoined) -> None:
        """Give a proc the orders that began to stand while it joined: it may have been let in without them."""
        for _, mesh, command in relay.unacknowledged:
            if mesh == joined.mesh:
                number = self._commands.number()
                given = command.replaced(request=number)
                self._send(relay, CommandDownstream(number, given.encode(), (joined.rank,)))
                if isinstance(command, Prepare):
                    commit = Commit(self._commands.number(), number)
                    self._send(relay, CommandDownstream(commit.request, commit.encode(), (joined.rank,)))

    def stream(self, streaming: bool, chosen: Chosen | None, mesh: str | None) -> None:
        """Let relays pass on, or not, what the chosen procs say, and those that join `mesh` later."""
        for relay in self._relays():
            ranks = None if chosen is None else tuple(rank for rank, each in relay.downstream.items() if chosen(each))
            if ranks is None or ranks or mesh is not None:
                self._send(relay, StreamDownstream(0, streaming, ranks, mesh))

    # -- from them -------------------------------------------------------------------------------------------------

    def handle(self, relay: Peer, message: Message) -> None:
        """Take what a relay says. One that says what cannot be is not listened to any longer."""
        assert isinstance(relay, RelayPeer)  # other sources accept no such messages
        try:
            self._note(relay, message)
        except ProtocolError as failure:
            self._reactor.refuse(relay, failure)

    def _note(self, relay: RelayPeer, message: Message) -> None:
        if isinstance(message, RankRequest):
            request = message.request

            def grant(rank: int) -> None:
                self._post(lambda: self._send(relay, RankGranted(request, rank)))

            self.claim(grant)
        elif isinstance(message, DownstreamJoined):
            relay.join(message)
            self._registry.joined(message.mesh, message.rank)
            self._send_defaults_to(relay, message)
            if self.upstream is not None:
                self.upstream.joined(message)
        elif isinstance(message, DownstreamEnded):
            ended = relay.end(message)
            if ended is not None:
                self._commands.excuse(ended, "ended before it answered")
                self._remember({ended.rank: ended.stats})
                self._registry.ended(ended.mesh, ended.rank)
                if self.upstream is not None:
                    self.upstream.ended(message.replaced(hidden=self.hidden))
        elif isinstance(message, DownstreamReplies):
            relay.unacknowledged = [each for each in relay.unacknowledged if each[0] != message.request]
            for rank, error in message.answers:
                if rank in relay.downstream:
                    self._commands.answer(relay.downstream[rank], Answer(message.request, error))

    def claim(self, granted: Callable[[int], None]) -> None:
        """Find a rank for a newcomer, here or above."""
        if self.upstream is not None:
            self.upstream.claim(granted)
        else:
            granted(self._registry.next_rank())

    def part(self, peer: Peer) -> None:
        """Take leave of a source: of all the procs below, if it is a relay."""
        if isinstance(peer, RelayPeer):
            for rank, each in tuple(peer.downstream.items()):
                each.stats.alive = False
                self.handle(peer, DownstreamEnded(rank, counters_of(each.stats), peer.hidden))
            self._hidden_by_former += peer.hidden
            peer.hidden = 0
        elif self.upstream is not None and peer.rank is not None and not peer.external:
            self.upstream.ended(DownstreamEnded(peer.rank, counters_of(peer.stats), self.hidden))

    def _relays(self) -> list[RelayPeer]:
        return [peer for peer in self._reactor.peers if isinstance(peer, RelayPeer)]

    def _tell(self, message: Message) -> None:
        for relay in self._relays():
            self._send(relay, message)

    def _send(self, relay: RelayPeer, message: Message) -> None:
        self._reactor.send(relay, message)


def plain_counters(stats: Mapping[Any, Any]) -> dict[int, dict[str, Any]]:
    """Return the counters of all ranks as plain data."""
    return {rank: counters_of(each) for rank, each in stats.items() if rank is not None}
