"""The flushes under way at a client: who is waited for, and who gets the receipt. Client's thread alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from ..system.error_reports import ErrorReports, give
from ..system.waits import monotonic
from .flush_ledger import FlushLedger, OpenFlush
from .peer import Peer
from .receipt import FlushReceipt
from .registry import MeshMember

Flushed = Future[FlushReceipt]

_MARGIN_SEC: Final = 0.5


class Flushes:
    """Gives each flush its receipt when the last one has answered.

    Parameters
    ----------
    show_all : Callable[[], object]
        Called before a receipt is given: what was received is shown then, also what waited to be grouped.
    behind : Callable[[], str]
        Says what keeps the client from showing what has arrived, or nothing.
    complaints : Complaints
        Says what goes wrong.
    """

    def __init__(self, show_all: Callable[[], object], behind: Callable[[], str], error_reports: ErrorReports) -> None:
        self._show_all = show_all
        self._behind = behind
        self._error_reports = error_reports
        self._ledger = FlushLedger()
        self._open: dict[int, tuple[Flushed, Sequence[Peer]]] = {}

    def start(self, members: Sequence[Peer], dead: Iterable[MeshMember], timeout: float, future: Flushed) -> int:
        """Begin to wait for `members`; return the version for their sentinels."""
        flush = self._ledger.start([*members, *dead], monotonic(), timeout, dead)
        self._open[flush.version] = (future, members)
        if not flush.waiting:
            self._complete([flush])
        return flush.version

    def ack(self, version: int, peer: Peer) -> None:
        """Note that all that `peer` logged before the sentinel has been shown."""
        self._complete(self._ledger.ack(version, peer))

    def excuse(self, peer: Peer) -> None:
        """Note that `peer` ended, and everything of it has been shown."""
        self._complete(self._ledger.excuse(peer))

    def expire(self, now: float) -> None:
        """End the flushes whose time is over."""
        self._complete(self._ledger.expire(now))

    def close(self) -> None:
        """End all: the client stops."""
        self._complete(self._ledger.close())

    def waiting_for(self, peer: Peer) -> list[int]:
        """Return the versions of the flushes that wait for `peer`."""
        return self._ledger.waiting_for(peer)

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to do, or None."""
        return self._ledger.deadline

    def _complete(self, flushes: list[OpenFlush]) -> None:
        for flush in flushes:
            future, members = self._open.pop(flush.version)
            busy = self._behind() if flush.missing else ""
            try:
                self._show_all()
            except BaseException as failure:  # the receipt is given all the same: somebody waits for it
                self._error_reports.log("what is pending cannot be shown", failure)
            acked, missing, dead = (_ranks(each) for each in (flush.acked, flush.missing, flush.dead))
            dropped = sum(peer.stats.total_dropped for peer in members)
            for peer in members:
                reached = peer.reached.pop(flush.version, None)
                if reached is not None and peer in flush.acked:
                    acked = acked - set(peer.ranks) | set(reached.acked)
                    missing |= set(reached.missing)
                    dead |= set(reached.dead)
                    dropped += reached.dropped
            elapsed = monotonic() - flush.started
            ranks = _spell(acked - missing), _spell(missing), _spell(dead)
            give(future, FlushReceipt(flush.version, *ranks, dropped, elapsed, busy))

    def unanswered(self, future: Flushed, members: Sequence[Peer], elapsed: float, busy: str) -> FlushReceipt:
        """Return what a flush of `members` has reached so far. Any thread."""
        flush = next((self._ledger.get(version) for version, (each, _) in tuple(self._open.items()) if each is future), None)
        version, acked, dead = (flush.version, flush.acked, flush.dead) if flush is not None else (0, set(), set())
        known = acked | dead
        ranks = _spell(_ranks(acked)), _spell(_ranks(each for each in members if each not in known)), _spell(_ranks(dead))
        return FlushReceipt(version, *ranks, sum(peer.stats.total_dropped for peer in members), elapsed, busy)


def time_downstream(timeout: float) -> float | None:
    """Return the time a relay has for a flush, so that its answer is here in time; None for as long as it takes."""
    return None if timeout == float("inf") else max(timeout / 2, timeout - _MARGIN_SEC)


def _ranks(members: Iterable[object]) -> set[int]:
    return {rank for member in members for rank in member.ranks}  # type: ignore[attr-defined]  # sources and members have them


def _spell(ranks: set[int]) -> tuple[int, ...]:
    return tuple(sorted(ranks))
