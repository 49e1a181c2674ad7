"""A relay takes the parts of the relays below it a few at a time, as far as its upstream client confirms them."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.client.downstream.checkpoints import Checkpoints
from meshlog_handler.client.downstream.relayed_peers import RelayPeer
from meshlog_handler.client.relay.underway import LinesUnderway
from meshlog_handler.journal.layout import START
from meshlog_handler.protocol.frames import CONTROL, data_head, frame
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.protocol.relay_messages import DownstreamPassed, PassedReceived

HELLO = Hello(4711, "node", None, None, "", (), True, 1.0, relay=True)
PART = 1000
ROOM = 2500


class Middle:
    """The boundaries of a relay, with relays below it."""

    def __init__(self, relays: list[RelayPeer]) -> None:
        self.upstream = SimpleNamespace(passed_bytes=0, room=ROOM, place=(1, START), postponed=False, sent=[])
        self.upstream.send = self.upstream.sent.append
        self.upstream.lines = LinesUnderway()
        self.relays = relays
        self.reactor = SimpleNamespace(messages=deque(), taken_from=None, take_more=lambda _: None, send=lambda *_: True)
        reactor: Any = self.reactor
        dispatcher: Any = SimpleNamespace(deadline=None)
        upstream: Any = self.upstream
        self.checkpoints = Checkpoints(reactor, dispatcher, upstream)
        for relay in relays:
            self.checkpoints.joined(relay)

    def step(self) -> list[int]:
        """Take a step, and pass on everything that may be taken then; return the numbers of the relays that it is from."""
        self.checkpoints.step(0.0, True)
        released = [number for number, relay in enumerate(self.relays) if relay.inbox]
        for number in released:
            self.upstream.passed_bytes += self.relays[number].inbox_bytes
            self.relays[number].inbox.clear()
            self.relays[number].inbox_bytes = 0
        while self.reactor.messages:
            self.checkpoints.reached(*self.reactor.messages.popleft())
        return released

    def confirm(self) -> None:
        """Confirm, as the upstream client does, everything that was passed on up to the last boundary."""
        self.checkpoints.confirmed(PassedReceived(self.upstream.sent[-1].request, 0.0))


@pytest.fixture
def relays() -> Iterator[list[RelayPeer]]:
    """Relays that have each sent two parts, of which the second one has no boundary yet."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = [RelayPeer(ours, HELLO, "", watched=False) for _ in range(10)]
        for relay in made:
            relay.stepwise = True
            relay.receive(data_head(1, START, 2 * PART) + bytes(2 * PART) + boundary(1))
        yield made


def boundary(number: int) -> bytes:
    return frame(CONTROL, DownstreamPassed(number, 1, START + number * PART, (), ()).encode())


def test_a_relay_takes_as_much_from_those_below_it_as_it_has_room_for(relays: list[RelayPeer]) -> None:
    middle = Middle(relays)
    for expected in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
        assert middle.step() == expected
        relays[0].receive(boundary(2))
        assert middle.checkpoints.full
        assert middle.step() == [], "no more, until it is confirmed"
        middle.confirm()
        assert not middle.checkpoints.full
    assert middle.step() == [0, 9], "each of them has its turn"


def test_a_client_that_is_no_relay_is_never_full(relays: list[RelayPeer]) -> None:
    middle = Middle([])
    checkpoints = Checkpoints(middle.checkpoints._reactor, middle.checkpoints._dispatcher, None)
    checkpoints.step(0.0, True)
    assert not checkpoints.full
