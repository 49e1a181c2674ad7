"""Makes the peer of a new connection, and that of a worker of which only the journal is left. Client thread only."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from ..journal.layout import START
from ..journal.shown import ShownMark
from ..protocol.messages import Hello, Welcome
from ..protocol.relay_messages import Passed, RankGranted
from ..transport.listener import NewConnection
from .downstream.relayed_peers import RelayPeer
from .peers.peer import Peer


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
    if hello.resumes and not hello.job:
        peer.resume(connection.known or nothing_passed(welcome.journal, welcome.rank or 0))
    return peer


def nothing_passed(journal: str, rank: int) -> Passed:
    """Return the place before the first entry of a journal."""
    return Passed(journal, rank, 0, START, 0, 0, ())


def ended_peer(journal: str, rank: int, granted: RankGranted, max_line: int, client: str) -> Peer:
    """Return the peer of a worker that ended without a relay: only its journal is left."""
    hello = Hello(
        pid=granted.pid,
        hostname=granted.hostname or socket.gethostname(),
        rank=rank,
        local_rank=None,
        mesh=granted.mesh,
        captured=(),
        forwarding=True,
        started=0.0,
    )
    peer = Peer(
        None,
        hello,
        rank=rank,
        journal=journal,
        pipes={},
        coords=granted.coords,
        max_line=max_line,
        process=granted.pid,
        client=client,
    )
    peer.external = False
    peer.left = granted.ended
    peer.resume(Passed.of(granted.known) if granted.known is not None else nothing_passed(journal, rank))
    return peer
