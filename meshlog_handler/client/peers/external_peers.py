"""Processes whose output a launcher passes to the client (see `LogClient.adopt`). Client thread only."""

from __future__ import annotations

from .peer import Peer


class ExternalPeers:
    """Their peers by rank, to find the one that belongs to the connection of the same process."""

    def __init__(self) -> None:
        self._peers: dict[int | None, Peer] = {}

    def add(self, peer: Peer) -> None:
        """Add a peer, unless another process uses the same rank."""
        known = self._peers.get(peer.rank)
        if known is None or known.ended:
            self._peers[peer.rank] = peer

    def of_member(self, mesh: str, rank: int | None) -> Peer | None:
        """Return the peer of a mesh with this rank, or None."""
        peer = self._peers.get(rank)
        return peer if peer is not None and peer.mesh == mesh else None

    def of_connection(self, peer: Peer) -> Peer | None:
        """Return the external peer with the pipes of `peer`, if `peer` is the separate connection of that process."""
        if peer.external or peer.mesh:
            return None
        external = self._peers.get(peer.rank)
        unranked = self._peers.get(None)  # it may get a rank when it joins
        return unranked if external is None and unranked is not None and unranked.pid == peer.pid else external

    def remove(self, peer: Peer) -> None:
        """Remove a peer."""
        if self._peers.get(peer.rank) is peer:
            del self._peers[peer.rank]
