"""The reports about dropped records. Client thread only."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from ...dispatch.dispatcher import Dispatcher
from ...protocol.decode import Item
from ...system.error_reports import ErrorReports
from ..peers.peer import Peer
from ..peers.reactor import Reactor
from ..peers.stats import UNREADABLE, UNSENT

_REPORT_SEC: Final = 1.0


class DropReports:
    """Logs, for each worker, how many of its records were dropped, why, and at which level."""

    def __init__(self, dispatcher: Dispatcher, reactor: Reactor, error_reports: ErrorReports) -> None:
        self._dispatcher = dispatcher
        self._reactor = reactor
        self._error_reports = error_reports
        self._next = 0.0

    def count(self, item: Item, failure: BaseException) -> None:
        """Report a record that could not be shown, and count it as dropped."""
        template = item[1]
        self._error_reports.log("a record cannot be shown and is left out", failure)
        if template is None:
            return
        for peer in self._reactor.peers:
            if peer.rank == template.rank:
                peer.count_drop(UNREADABLE, template.levelno, 1)
                return

    def is_due(self, now: float) -> bool:
        """Return whether it is time for `report`: once a second."""
        return now >= self._next

    def report(self, now: float) -> None:
        """Log the new drops of all workers."""
        self._next = now + _REPORT_SEC
        for peer in self._reactor.peers:
            self.report_peer(peer)

    def report_peer(self, peer: Peer) -> None:
        """Log the new drops of a worker."""
        if peer.unreported:
            self._dispatcher.log(logging.WARNING, peer.drop_report(), peer.rank, peer.pid)

    def report_unsent(self, unsent: Mapping[int, int]) -> None:
        """Log the lines that were lost with the relay before this one, of ranks that have not come back."""
        for rank, count in unsent.items():
            self._dispatcher.log(logging.WARNING, f"dropped {count:,} records (rank {rank}, INFO, {UNSENT})", rank)
