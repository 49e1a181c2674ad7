"""Logs how workers ended. Client thread only."""

from __future__ import annotations

import logging

from ...dispatch.dispatcher import Dispatcher
from ...protocol.ranks import format_ranks
from ...system.exit_status import signal_name
from ...system.signals import STOPPING
from ...system.waits import monotonic
from ..health.insights import Insights
from ..peers.peer import Peer
from .exit_reports import ExitedPeer, ExitReport, ExitReports


class ExitLog:
    """Logs how workers ended, after their last records."""

    def __init__(self, dispatcher: Dispatcher, insights: Insights) -> None:
        self._dispatcher = dispatcher
        self._insights = insights
        self._reports = ExitReports()

    @property
    def deadline(self) -> float | None:
        """When the next report must be written without an exit code."""
        return self._reports.deadline

    def exited(self, mesh: str, rank: int | None, exitcode: int) -> None:
        """Note the exit code that the owner of a worker has reported."""
        reported = self._reports.exited(mesh, rank, exitcode)
        if reported is not None:
            self._log(*reported)

    def expire(self, now: float) -> None:
        """Report the workers whose exit code has not come in time."""
        for ended, report in self._reports.expire(now):
            self._log(ended, report)

    def worker(self, peer: Peer) -> None:
        """Report the end of a worker, now or when its exit code is known."""
        if not peer.left or peer.uncaught:
            self._log(peer, self._reports.drained(peer, monotonic()))

    def external(self, peer: Peer) -> None:
        """Report the end of a process that a launcher has started, if it failed."""
        # A process that joined as a launcher's rank (see `execute`) may be ended by the launcher.
        if peer.exitcode and not (peer.watched and -peer.exitcode in STOPPING):
            text = f"rank {peer.rank} (pid {peer.pid}) ended by {signal_name(peer.exitcode)}"
            self._log(peer, ExitReport(logging.ERROR, text))

    def relay(self, peer: Peer) -> None:
        """Report the end of a relay, and with it of its ranks."""
        if peer.ranks and not peer.left:
            text = f"{peer.name} (pid {peer.pid}) is gone, and with it {format_ranks(peer.ranks)}"
            self._dispatcher.log(logging.ERROR, text, None, peer.pid)
            for rank in peer.ranks:
                self._insights.died(rank, text)

    def _log(self, ended: ExitedPeer, report: ExitReport | None) -> None:
        if report is not None:
            if report.level >= logging.ERROR:
                self._insights.died(ended.rank, report.text)
            self._dispatcher.log(report.level, report.text, ended.rank, ended.pid)
