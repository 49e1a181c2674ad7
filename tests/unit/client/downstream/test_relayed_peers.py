"""The peer of a relay keeps the answers to open flushes, and what may be sent again; both are bounded."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from meshlog_handler.client.downstream import relayed_peers
from meshlog_handler.client.downstream.relayed_peers import RelayPeer
from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.layout import START
from meshlog_handler.protocol.frames import CONTROL, data_head, frame
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.protocol.relay_messages import DownstreamPassed, DownstreamReached

HELLO = Hello(4711, "node", None, None, "", (), True, 1.0, relay=True)


def test_an_answer_to_a_flush_that_has_ended_is_not_kept() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        relay = RelayPeer(ours, HELLO, "", watched=False)
        relay.flush_command(7, 1.0, None)
        for version in range(1000):
            assert relay.note(DownstreamReached(version, (0,), (), (), 0, {}, 0))
        assert set(relay.reached) == {7}
        answer = relay.reached.pop(7)
        assert answer is not None
        assert answer.acked == (0,)
        relay.note(DownstreamReached(7, (0,), (), (), 0, {}, 0))
        assert relay.reached == {}


PASSED = ("/run/journal", 3, 1, 16, 0, 5, ())


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[RelayPeer]:
    monkeypatch.setattr(relayed_peers, "MAX_HELD", 4096)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield RelayPeer(ours, HELLO, "", watched=False)


def data(start: int, size: int) -> bytes:
    """Return a frame with some bytes of the relay's stream."""
    return data_head(1, start, size) + bytes(size)


def boundary(number: int, position: int) -> bytes:
    return frame(CONTROL, DownstreamPassed(number, 1, position, (PASSED,), ()).encode())


def test_what_a_relay_sends_is_shown_up_to_its_last_boundary(relay: RelayPeer) -> None:
    assert relay.receive(data(START, 1000)) == []
    assert not relay.inbox
    (reached,) = relay.receive(boundary(1, START + 600))
    assert isinstance(reached, DownstreamPassed)
    assert [(piece.start, len(piece.data)) for piece in relay.inbox] == [(START, 600)]
    assert relay.receive(boundary(2, START + 1500)) == [], "not all of its bytes have arrived"
    assert len(relay.receive(data(START + 1000, 500))) == 1
    assert sum(len(piece.data) for piece in relay.inbox) == 1500


def test_a_relay_whose_boundaries_are_not_reached_is_disconnected(relay: RelayPeer) -> None:
    sent = b"".join(boundary(number, 1 << 20) for number in range(100))
    with pytest.raises(ProtocolError, match="boundaries are not reached"):
        relay.receive(sent)


def test_a_relay_that_sends_no_boundaries_is_disconnected(relay: RelayPeer) -> None:
    sent = b"".join(data(START + 100 * number, 100) for number in range(100))
    with pytest.raises(ProtocolError, match="boundaries are not reached"):
        relay.receive(sent)


def test_boundaries_that_were_reached_take_no_room(relay: RelayPeer) -> None:
    for number in range(100):
        relay.receive(data(START + 100 * number, 100) + boundary(number, START + 100 * number + 100))
    assert sum(len(piece.data) for piece in relay.inbox) == 10_000
