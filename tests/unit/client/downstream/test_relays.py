"""What the client keeps for its relays is bounded, even if a relay answers nothing and reads nothing."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshlog_handler.client.downstream import relayed_peers
from meshlog_handler.client.downstream.relayed_peers import RelayPeer, counters_of
from meshlog_handler.client.downstream.relays import Relays
from meshlog_handler.client.flushes.acknowledgements import FIRST_REQUEST, Acknowledgements
from meshlog_handler.client.peers.reactor import Reactor
from meshlog_handler.client.peers.registry import Registry
from meshlog_handler.client.peers.stats import RankStats
from meshlog_handler.dispatch.dispatcher import Dispatcher
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.protocol.frames import CONTROL, MAX_CONTROL, FrameReader
from meshlog_handler.protocol.messages import Command, Commit, Hello, Message, Prepare, Welcome, decode, level_config
from meshlog_handler.protocol.relay_messages import (
    CommandDownstream,
    DefaultDownstream,
    DownstreamEnded,
    DownstreamJoined,
    DownstreamPassed,
    DownstreamReplies,
    RankGranted,
    RankRequest,
)

from .test_unconfirmed import items

HELLO = Hello(4711, "node", None, None, "", (), True, 1.0, relay=True)


class Upstream:
    """An upstream client that answers no request for a rank."""

    def __init__(self) -> None:
        self.claims: list[Callable[[RankGranted], None]] = []

    def send(self, message: Message) -> None:
        """Do nothing."""

    def claim(self, journal: str, granted: Callable[[RankGranted], None]) -> None:
        """Keep the request."""
        self.claims.append(granted)


class Scene:
    """A client's relays, and one relay whose messages are made by hand."""

    def __init__(self, upstream: Any = None) -> None:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.relay = RelayPeer(ours, HELLO, "", watched=False)
        self.reactor, self.registry = Reactor(), Registry("own")
        numbers = itertools.count(FIRST_REQUEST)
        commands: Acknowledgements[str | bytes | None] = Acknowledgements(lambda pending: None, numbers)
        self.registry.add_mesh("mesh", None)
        self.remembered: dict[int | None, RankStats] = {}
        self.relays = Relays(
            self.reactor,
            registry=self.registry,
            commands=commands,
            remember=self.remembered.update,
            post=lambda call: call(),
            upstream=upstream,
            dispatcher=Dispatcher(Sinks()),
        )
        self.reactor.add(self.relay, Welcome(None, "", ()))
        self.relays.peer_joined(self.relay)
        self._frames = FrameReader(MAX_CONTROL)
        self.acknowledge(self.received())

    def received(self) -> list[Command]:
        """Return the commands that the relay has received since the last call."""
        found = []
        for kind, payload in self._frames.feed(self.theirs.recv(1 << 20)):
            assert kind == CONTROL
            message: Message = decode(payload, Command, Welcome)
            if isinstance(message, Command):
                found.append(message)
        return found

    def acknowledge(self, commands: list[Command]) -> None:
        """Acknowledge the defaults among `commands`."""
        for command in commands:
            if isinstance(command, DefaultDownstream):
                self.relays.handle(self.relay, DownstreamReplies(command.request, ()))

    def set_default(self, command: Command) -> None:
        """Add a default, as `Calls.commit` does."""
        self.registry.set_default("mesh", command)
        self.relays.set_default("mesh", command)

    def join(self, rank: int) -> list[Command]:
        """Let a worker join below the relay, and return the commands to it."""
        self.relays.handle(self.relay, DownstreamJoined(rank, "mesh", 1, "host", {}))
        try:
            received = self.received()
        except BlockingIOError:
            return []
        commands = [decode(each.command, Command) for each in received if isinstance(each, CommandDownstream)]
        return [each.replaced(request=0) for each in commands if not isinstance(each, Commit)]

    def close(self) -> None:
        """Close both ends."""
        self.reactor.close()
        self.theirs.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


LEVEL, WHOLE = Prepare(0, level_config(10, "app"), final=True), Prepare(0, {"version": 1})


def test_a_relay_that_acknowledges_nothing_costs_one_number_for_each_mesh(scene: Scene) -> None:
    for level in range(1000):
        scene.set_default(LEVEL.replaced(config=level_config(level, "app")))
        scene.received()
    assert list(scene.relay.unacknowledged) == ["mesh"]
    assert all(type(number) is int for number in scene.relay.unacknowledged.values())


def test_a_worker_that_joins_before_the_relay_has_acknowledged_gets_the_defaults_of_its_mesh(scene: Scene) -> None:
    for command in (WHOLE, LEVEL):
        scene.set_default(command)
    defaults = scene.received()
    first = scene.join(0)
    assert WHOLE in first
    assert LEVEL in first
    scene.acknowledge(defaults[:1])
    assert LEVEL in scene.join(1), "one is not acknowledged"
    scene.acknowledge(defaults)
    assert scene.relay.unacknowledged == {}
    assert scene.join(2) == []


def test_a_relay_that_requests_too_many_ranks_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(relayed_peers, "MAX_DOWNSTREAM", 100)
    upstream = Upstream()
    scene = Scene(upstream)
    for number in range(100):
        scene.relays.handle(scene.relay, RankRequest(number))
    upstream.claims[0](RankGranted(0, 7))
    scene.relays.handle(scene.relay, RankRequest(100))
    assert scene.relay.sock is not None, "an answer makes room for one more"
    scene.relays.handle(scene.relay, RankRequest(101))
    assert scene.relay.sock is None
    assert len(upstream.claims) == 101
    assert "more than 100 requests for a rank at once" in capfd.readouterr().err
    scene.close()


def test_a_replacement_learns_of_a_journal_when_all_relays_have_ended_whose_place_it_has() -> None:
    scene = Scene()
    pairs = [socket.socketpair() for _ in range(20)]
    relays = [RelayPeer(ours, HELLO.replaced(resumes="/run/one"), "", watched=False) for ours, _ in pairs]
    for relay in relays:
        scene.reactor.add(relay, Welcome(None, "", ()))
        scene.relays.peer_joined(relay)
    *formers, replacement = relays
    scene.relays.handle(replacement, RankRequest(1, "/run/one/journal"))
    for former in formers:
        assert replacement.ranks_requested == 1, "another relay may still have passed on records of this journal"
        scene.reactor.drop(former, keep_journal=True)
        scene.relays.peer_ended(former)
    assert replacement.ranks_requested == 0
    for _, theirs in pairs:
        theirs.close()
    scene.close()


def test_a_worker_that_gets_the_rank_of_one_that_has_not_ended_here_is_kept(scene: Scene) -> None:
    for pid in (1, 2):
        scene.relays.handle(scene.relay, DownstreamJoined(3, "", pid, "host", {}, f"/journal/{pid}"))
    first = RankStats(3, 1, received=10, dropped={"full": 5})
    scene.relays.handle(scene.relay, DownstreamEnded(3, counters_of(first), 0))
    assert scene.relay.ranks == (3,)
    assert scene.remembered == {3: first}
    assert [each.pid for each in scene.relay.counters().values()] == [2]


def test_records_of_a_worker_that_has_ended_are_not_shown_before_its_journal_is_removed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    tails = [items(3), items(3)]
    monkeypatch.setattr(RelayPeer, "take_tail", lambda self, tell: tails.pop())
    scene.relays.handle(scene.relay, DownstreamJoined(3, "", 1, "host", {}, "/journal"))
    scene.relays.handle(scene.relay, DownstreamEnded(3, counters_of(RankStats(3, 1)), 0))
    assert scene.relays.take_tail(scene.relay, 0.0) == [], "the replacement of the relay reads the journal"
    scene.relays.handle(scene.relay, DownstreamPassed(1, 0, 0, (), ("/journal",)))
    assert len(scene.relays.take_tail(scene.relay, 0.0)) == 2
