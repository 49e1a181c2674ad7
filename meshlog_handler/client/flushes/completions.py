"""The flushes that workers ask for themselves. Client thread only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from ...errors import ProtocolError
from ...protocol.messages import Complete, Completed
from ...system.waits import check_timeout
from ..peers.peer import Chosen, Peer
from ..peers.reactor import Reactor
from .flushes import Flushed, Flushes

MAX_COMPLETIONS: Final = 1000
"""Flushes that may wait for a worker when it asks for one more."""


class Completions:
    """Flushes a worker that asks for it with `flush`, and replies when everything it has logged is shown.

    If the client's own process asks, everything that processes logged which have ended is shown before, by `flush_ended`.
    """

    def __init__(
        self,
        reactor: Reactor,
        flushes: Flushes,
        *,
        flush: Callable[[Flushed, float, Chosen | None], object],
        flush_ended: Callable[[Flushed], object],
        own_token: str,
    ) -> None:
        self._reactor = reactor
        self._flushes = flushes
        self._flush = flush
        self._flush_ended = flush_ended
        self._own_token = own_token

    def asked(self, peer: Peer, message: Complete) -> None:
        """Carry out the request of a worker."""
        if len(self._flushes.waiting_for(peer)) >= MAX_COMPLETIONS:
            self._reactor.refuse(peer, ProtocolError(f"more than {MAX_COMPLETIONS} flushes wait for it at once"))
            return

        def reply(done: Flushed) -> None:
            receipt = done.result()
            self._reactor.send(peer, Completed(message.number, not (receipt.missing or receipt.busy)))

        def flush(_: object) -> None:
            self._flush(future, check_timeout(message.timeout), lambda each: each is peer)

        future: Flushed = Future()
        future.add_done_callback(reply)
        if peer.mesh != self._own_token:
            flush(None)
            return
        ended: Flushed = Future()
        ended.add_done_callback(flush)
        self._flush_ended(ended)
