"""The reception, with a proc that is this process's child."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from meshlog_handler.client.peer import Peer
from meshlog_handler.client.reactor import Reactor
from meshlog_handler.protocol.messages import Hello, Welcome

from ...waiting import until


def a_source(pid: int) -> tuple[Peer, socket.socket]:
    """Return what the client knows of a proc, and the proc's end of the connection."""
    ours, theirs = socket.socketpair()
    hello = Hello(pid, "here", 0, 0, "", (), False, 0.0)
    return Peer(ours, hello, 0, "", {}, {}, 1000, pid), theirs


def test_a_process_forked_while_a_death_is_noted_does_not_close_what_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork copies the client's memory as it is at that instant; the copy then closes every descriptor it knows of."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    source, theirs = a_source(child.pid)
    reception = Reactor()
    reception.add(source, Welcome(0, "", ()))
    assert source.pidfd >= 0
    known_when_closed: list[tuple[int, int]] = []
    really_close = os.close

    def close(fd: int) -> None:
        really_close(fd)
        known_when_closed.append((fd, source.pidfd))  # what a process forked at this instant would find

    monkeypatch.setattr("meshlog_handler.client.peer.os.close", close)

    def finished() -> bool:
        reception.read(reception.wait(0.1))
        return bool(reception.finished)

    until(finished)
    assert known_when_closed
    assert all(known == -1 for _, known in known_when_closed)
    reception.forget()
    theirs.close()
    child.wait()
