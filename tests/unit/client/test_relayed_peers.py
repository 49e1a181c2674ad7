"""The peer of a relay keeps the answers to open flushes, and no other answers."""

from __future__ import annotations

import socket

from meshlog_handler.client.relayed_peers import RelayPeer
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.protocol.relay_messages import DownstreamReached

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
