"""The relays of a client: commands to them, and their messages about downstream workers. Client thread only.

::

    workers -> relay, with its own client -> client         a relay's client may itself have relays
    commands, windows, ranks  <-> answers, joined and ended workers
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...dispatch.dispatcher import Dispatcher
from ...errors import ProtocolError
from ...protocol.decode import Item
from ...protocol.messages import Command, Commit, Message, Prepare, reason_of
from ...protocol.relay_messages import (
    CommandDownstream,
    DefaultDownstream,
    DownstreamEnded,
    DownstreamJoined,
    DownstreamPassed,
    DownstreamReplies,
    DownstreamStacks,
    PassedReceived,
    RankGranted,
    RankRequest,
    StreamDownstream,
    WindowDownstream,
)
from ...system.waits import monotonic
from ...worker.next_client import PATIENCE_SEC
from ..flushes.acknowledgements import Acknowledgements
from ..peers.peer import Chosen, Peer
from ..peers.reactor import Reactor
from ..peers.registry import Registry
from ..peers.stats import UNSENT, RankStats
from .checkpoints import Checkpoints
from .passed_streams import PassedStreams
from .relayed_peers import RelayPeer, counters_of
from .unconfirmed import Unconfirmed

if TYPE_CHECKING:
    from ..relay.uplink import Uplink

_MOST_SEC: Final = 0.5
_PART: Final = 4


def window_downstream(window: float | None) -> float | None:
    """Return the window of a relay. It is short, as lines wait again upstream, but long enough to group many similar lines."""
    return None if window is None else min(window / _PART, _MOST_SEC)


class Relays:
    """Exchanges messages with relays, apart from records and flushes.

    `remember` takes the last counters of ranks that ended. `post` runs a function on the client's thread, from any thread.
    `dispatcher` is that of this client.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        registry: Registry,
        commands: Acknowledgements[str | bytes | None],
        remember: Callable[[Mapping[int | None, RankStats]], None],
        post: Callable[[Callable[[], Any]], object],
        upstream: Uplink | None,
        dispatcher: Dispatcher,
    ) -> None:
        self._reactor = reactor
        self._registry = registry
        self._commands = commands
        self._remember = remember
        self._post = post
        self.upstream = upstream
        self._window = dispatcher.window
        self._dispatcher = dispatcher
        self.checkpoints = Checkpoints(reactor, dispatcher, upstream)
        self._hidden_by_former = 0  # by relays that have ended
        self._streams = PassedStreams()
        self._waiting: dict[RelayPeer, list[Callable[[], None]]] = {}  # for the end of a killed relay
        self.unconfirmed = Unconfirmed()

    @property
    def hidden(self) -> int:
        """The number of hidden records, here and downstream."""
        return self._dispatcher.hidden + self._hidden_by_former + sum(relay.hidden for relay in self._relays())

    def clocks(self) -> dict[str, float]:
        """Return the seconds by which the clocks of hosts with relays are ahead."""
        return {relay.hello.hostname: relay.ahead for relay in self._relays()}

    @property
    def deadline(self) -> float | None:
        """When a boundary or a tail is due, or None."""
        return min((due for due in (self.checkpoints.deadline, self.unconfirmed.deadline) if due is not None), default=None)

    @property
    def admits_until(self) -> float:
        """Until when a flush waits for workers that join a relay. It lies in the past if none does."""
        return max((relay.admits_until for relay in self._relays()), default=float("-inf"))

    def living(self) -> dict[int, dict[str, Any]]:
        """Return the counters of the processes that have not ended, for the upstream client, which has those of the others."""
        living: dict[int, RankStats] = {}
        for peer in self._reactor.peers:
            if isinstance(peer, RelayPeer):
                living.update((rank, each.stats) for rank, each in peer.downstream.items())
            elif peer.rank is not None and not peer.ended:
                living[peer.rank] = living[peer.rank].merged(peer.stats) if peer.rank in living else peer.stats
        return {rank: counters_of(stats) for rank, stats in living.items()}

    def ask_to_keep_waiting(self) -> None:
        """Ask throttled workers to wait, unless the upstream client takes nothing: then their policy applies."""
        if not self.checkpoints.full:
            self._reactor.ask_to_keep_waiting()

    # -- to relays -------------------------------------------------------------------------------------------------

    def peer_joined(self, peer: Peer) -> None:
        """Send the current settings to a relay that joined; report any other peer that joined to the upstream client."""
        unsent = 0 if peer.rank is None else self._registry.unsent.pop(peer.rank, 0)
        if unsent:
            peer.count_drop(UNSENT, logging.INFO, unsent)
        if isinstance(peer, RelayPeer):
            peer.unconfirmed = self.unconfirmed
            self.checkpoints.joined(peer)
            peer.formers = [each for each in self._relays() if each is not peer and each.was_replaced_by(peer)]
            self._send(peer, WindowDownstream(0, window_downstream(self._window)))
            for mesh_or_all, streaming in self._registry.streaming().items():
                self._send(peer, StreamDownstream(0, streaming, None if mesh_or_all is None else (), mesh_or_all))
            for mesh, command in self._registry.defaults():
                self._send_default(peer, mesh, command)
        elif self.upstream is not None and peer.rank is not None and not peer.external:
            joined = DownstreamJoined(peer.rank, peer.mesh, peer.pid, peer.hello.hostname, dict(peer.coords), peer.journal)
            self.upstream.send(joined)

    def set_window(self, window: float | None) -> None:
        """Set the windows of the relays by the window of this client."""
        self._window = window
        for relay in self._relays():
            self._send(relay, WindowDownstream(0, window_downstream(window)))

    def set_default(self, mesh: str, command: Command) -> None:
        """Add a default command for workers that join later, anywhere downstream."""
        for relay in self._relays():
            self._send_default(relay, mesh, command)

    def _send_default(self, relay: RelayPeer, mesh: str, command: Command) -> None:
        request = self._commands.number()
        relay.unacknowledged[mesh] = request
        self._send(relay, DefaultDownstream(request, mesh, command.encode()))

    def _send_defaults_to(self, relay: RelayPeer, joined: DownstreamJoined) -> None:
        """Send a worker all defaults of its mesh if one changed while it joined: the relay may have admitted it without it.

        The registry has them. A relay that acknowledges nothing therefore costs a number for each mesh.
        """
        if joined.mesh not in relay.unacknowledged:
            return
        for mesh, command in self._registry.defaults():
            if mesh == joined.mesh:
                number = self._commands.number()
                given = command.replaced(request=number)
                self._send(relay, CommandDownstream(number, given.encode(), (joined.rank,)))
                if isinstance(command, Prepare):
                    commit = Commit(self._commands.number(), number)
                    self._send(relay, CommandDownstream(commit.request, commit.encode(), (joined.rank,)))

    def stream(self, streaming: bool, chosen: Chosen | None, mesh: str | None) -> None:
        """Make relays pass on or suppress the records of chosen workers, and of workers that join `mesh` later."""
        for relay in self._relays():
            ranks = None if chosen is None else tuple(rank for rank, each in relay.downstream.items() if chosen(each))
            if ranks is None or ranks or mesh is not None:
                self._send(relay, StreamDownstream(0, streaming, ranks, mesh))

    # -- from relays -----------------------------------------------------------------------------------------------

    def handle(self, relay: Peer, message: Message) -> None:
        """Handle a message of a relay. After a malformed message, the connection is closed."""
        assert isinstance(relay, RelayPeer)  # other peers accept no such messages
        try:
            self._note(relay, message)
        except ProtocolError as failure:
            self._reactor.refuse(relay, failure)

    def _note(self, relay: RelayPeer, message: Message) -> None:
        if isinstance(message, RankRequest):
            self._rank_requested(relay, message)
        elif isinstance(message, DownstreamPassed):
            self._passed(relay, message)
        elif isinstance(message, DownstreamJoined):
            self._joined(relay, message)
        elif isinstance(message, DownstreamEnded):
            self._ended(relay, message)
        elif isinstance(message, DownstreamReplies):
            for mesh, request in tuple(relay.unacknowledged.items()):
                if request == message.request:
                    del relay.unacknowledged[mesh]
            for rank, error in message.answers:
                self._answered(relay, message.request, rank, reason_of(error))
        elif isinstance(message, DownstreamStacks):
            for rank, index in message.answers:
                found = message.found[index] if index < len(message.found) else "its relay had no room for its stacks"
                self._answered(relay, message.request, rank, found)

    def _rank_requested(self, relay: RelayPeer, message: RankRequest) -> None:
        relay.request_rank()

        def send(granted: RankGranted) -> None:
            relay.grant_rank(None if message.journal else granted.rank, monotonic())
            self._send(relay, granted.replaced(request=message.request))

        def grant(granted: RankGranted) -> None:
            self._post(lambda: send(granted))

        if message.journal:
            self._claim_after_formers(relay, message.journal, grant)
        else:  # a new worker has sent nothing before
            self.claim("", grant)

    def _passed(self, relay: RelayPeer, message: DownstreamPassed) -> None:
        relay.ahead = message.ahead
        for journal in message.removed:
            relay.journals.pop(journal, None)
        if self.upstream is None:
            self._streams.passed(message.passed, message.removed)
            self._send(relay, PassedReceived(message.request, time.time()))
        else:
            self.checkpoints.reached(relay, message)

    def _joined(self, relay: RelayPeer, message: DownstreamJoined) -> None:
        relay.join(message)
        if self._streams.joined(message):
            self.unconfirmed.resumed(message.rank)
        self._registry.joined(message.mesh, message.rank)
        self._send_defaults_to(relay, message)
        if self.upstream is not None:
            self.upstream.send(message)

    def _ended(self, relay: RelayPeer, message: DownstreamEnded) -> None:
        ended = relay.end(message)
        if ended is None:
            return
        if relay in self._reactor.peers:
            self._streams.ended(ended.journal, ended.stats)
        else:
            ended.stats = self._streams.counted(ended.journal, ended.stats)
        self._commands.note_all(ended, "ended before it answered")
        self._remember({ended.rank: ended.stats})
        if ended.rank not in relay.downstream:
            self._registry.ended(ended.mesh, ended.rank)
        if self.upstream is not None:
            self.upstream.send(message.replaced(hidden=self.hidden))

    def _answered(self, relay: RelayPeer, request: int, rank: int, answer: str | bytes | None) -> None:
        if rank in relay.downstream:
            self._commands.note(request, relay.downstream[rank], answer)

    def _claim_after_formers(self, relay: RelayPeer, journal: str, grant: Callable[[RankGranted], None]) -> None:
        """Find what is known of a journal, after all that the killed relays have sent whose place `relay` has."""
        relay.formers = [each for each in relay.formers if each in self._reactor.peers]
        if not relay.formers:
            self.claim(journal, grant)
            return
        former = relay.formers[0]
        self._waiting.setdefault(former, []).append(partial(self._claim_after_formers, relay, journal, grant))
        if not former.watched:  # its tunnel may still be open
            self._reactor.ended(former)

    def claim(self, journal: str, granted: Callable[[RankGranted], None]) -> None:
        """Find a rank for a new worker, or what is known of a journal, here or upstream."""
        if self.upstream is not None:
            self.upstream.claim(journal, granted)
        elif journal:
            granted(self._streams.granted(0, journal, 0))
        else:
            granted(RankGranted(0, self._registry.next_rank()))

    def add_ended(self, peer: Peer) -> None:
        """Add a worker of which only the journal is left, after its relay was killed."""
        peer.streaming = self._registry.streams(peer.mesh)
        peer.sides.defer = True
        self._reactor.peers.add(peer)
        self.peer_joined(peer)
        self._reactor.ended(peer)

    def take_tail(self, relay: Peer, now: float) -> list[Item]:
        """Return what a relay that ended has passed on after its last boundary, and what is not sent again."""
        assert isinstance(relay, RelayPeer)
        resuming = frozenset(relay.journals.values())  # also those that have ended: its replacement reads their journals
        size = relay.held_bytes
        tail = relay.take_tail(self._reactor.error_reports.tell)
        return self.unconfirmed.add(tail, resuming, now + PATIENCE_SEC, size)

    def peer_ended(self, peer: Peer) -> None:
        """Note that a peer ended; if it is a relay, that all of its downstream workers ended."""
        if isinstance(peer, RelayPeer):
            for each in (*peer.replaced, *peer.downstream.values()):
                each.stats.alive = False
                self.handle(peer, DownstreamEnded(each.rank, counters_of(each.stats), peer.hidden))
            self.checkpoints.ended(peer)
            self._hidden_by_former += peer.hidden
            peer.hidden = 0
            for claim in self._waiting.pop(peer, ()):
                claim()
        elif self.upstream is not None and peer.rank is not None and not peer.external:
            self.upstream.send(DownstreamEnded(peer.rank, counters_of(peer.stats), self.hidden))

    def _relays(self) -> list[RelayPeer]:
        return [peer for peer in self._reactor.peers if isinstance(peer, RelayPeer)]

    def _send(self, relay: RelayPeer, message: Message) -> None:
        self._reactor.send(relay, message)
