"""The reactor, with a worker that is a child of this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from meshlog_handler.client.peers.peer import Peer
from meshlog_handler.client.peers.reactor import Reactor
from meshlog_handler.protocol.messages import Hello, Prepare, Welcome, level_config
from meshlog_handler.protocol.relay_messages import Passed

from ....waiting import until


def a_peer(pid: int) -> tuple[Peer, socket.socket]:
    """Return a peer, and the worker's end of its connection."""
    ours, theirs = socket.socketpair()
    hello = Hello(pid, "here", 0, 0, "", (), False, 0.0)
    return Peer(ours, hello, rank=0, journal="", pipes={}, coords={}, max_line=1000, process=pid), theirs


def test_a_child_forked_while_an_exit_is_noted_does_not_close_the_pidfd_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork copies the client's memory as it is at that moment. The copy then closes every descriptor number in it."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    peer, theirs = a_peer(child.pid)
    reactor = Reactor()
    reactor.add(peer, Welcome(0, "", ()))
    assert peer.pidfd >= 0
    known_when_closed: list[tuple[int, int]] = []
    really_close = os.close

    def close(fd: int) -> None:
        really_close(fd)
        known_when_closed.append((fd, peer.pidfd))  # what a child forked at this moment would find

    monkeypatch.setattr("meshlog_handler.client.peers.peer.os.close", close)

    def finished() -> bool:
        reactor.read(reactor.wait(0.1))
        return bool(reactor.finished)

    until(finished)
    assert known_when_closed
    assert all(known == -1 for _, known in known_when_closed)
    reactor.forget()
    theirs.close()
    child.wait()


def test_a_worker_that_does_not_read_is_disconnected_when_too_much_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meshlog_handler.client.peers.reactor.MAX_OUTBOX", 1 << 20)
    peer, theirs = a_peer(os.getpid())
    reactor = Reactor()
    reactor.add(peer, Welcome(0, "", ()))
    message, sent = Prepare(1, level_config(20, "x" * 100_000)), 0
    while reactor.send(peer, message):
        sent += 1
        assert len(peer.outbox) < 2 << 20
    assert sent > 10, "what fits is kept for it"
    assert peer.sock is None
    assert "does not read: more than 1 MiB wait for it" in capfd.readouterr().err
    reactor.close()
    theirs.close()


class _Ahead(Peer):
    """A peer on a host whose clock is an hour ahead."""

    ahead = 3600.0


def test_what_arrives_together_is_in_the_order_of_one_clock() -> None:
    reactor = Reactor()
    (near, first), (other, second) = a_peer(os.getpid()), a_peer(os.getpid())
    far = _Ahead(None, other.hello, rank=1, journal="", pipes={}, coords={}, max_line=1000, process=other.pid)
    reactor.pipes.read += [(near, [(1.0, None, "a"), (3.0, None, "c")]), (far, [(3602.0, None, "b"), (3604.0, None, "d")])]
    assert [values for _, _, values in reactor.collect(10).shown] == ["a", "b", "c", "d"]
    for each in (near, other):
        each.close(keep_journal=True)
    reactor.close()
    first.close()
    second.close()


def test_the_next_boundary_of_a_relay_has_what_the_former_connection_of_a_worker_passed_on() -> None:
    reactor = Reactor()
    reactor.taken_from = set()
    new, one = a_peer(os.getpid())
    again, other = a_peer(os.getpid())
    again.resume(Passed("", 0, 2, 500, 0, 9, ()))
    with one, other:
        for peer in (new, again):
            reactor.add(peer, Welcome(0, "", ()))
        assert reactor.taken_from == {again}
        assert again.passed()[2:4] == (2, 500)
        reactor.close()
