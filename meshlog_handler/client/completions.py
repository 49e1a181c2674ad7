"""The flushes that workers ask for themselves. Client thread only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from ..errors import ProtocolError
from ..protocol.messages import Complete, Completed
from .flushes import Flushed, Flushes
from .peer import Chosen, Peer
from .reactor import Reactor

MAX_COMPLETIONS: Final = 1000
"""Flushes that may wait for a worker when it asks for one more."""


class Completions:
    """Flushes a worker that asks for it with `flush`, and replies when everything it has logged is shown."""

    def __init__(self, reactor: Reactor, flushes: Flushes, flush: Callable[[Flushed, float, Chosen | None], object]) -> None:
        self._reactor = reactor
        self._flushes = flushes
        self._flush = flush

    def asked(self, peer: Peer, message: Complete) -> None:
        """Carry out the request of a worker."""
        if len(self._flushes.waiting_for(peer)) >= MAX_COMPLETIONS:
            self._reactor.refuse(peer, ProtocolError(f"more than {MAX_COMPLETIONS} flushes wait for it at once"))
            return

        def reply(done: Flushed) -> None:
            receipt = done.result()
            self._reactor.send(peer, Completed(message.number, not (receipt.missing or receipt.busy)))

        future: Flushed = Future()
        future.add_done_callback(reply)
        self._flush(future, float("inf") if message.timeout is None else message.timeout, lambda each: each is peer)
