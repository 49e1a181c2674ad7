"""The pending flushes of a client and their receipts. Client thread only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from ..system.error_reports import ErrorReports, give
from ..system.waits import monotonic
from .peer import Peer
from .pending_flushes import PendingFlush, PendingFlushes
from .receipt import FlushReceipt
from .registry import MeshMember

Flushed = Future[FlushReceipt]

_MARGIN_SEC: Final = 0.5


class Flushes:
    """Completes each flush with a receipt when its last member has answered.

    `show_all` is called before each receipt: it shows all received records, including records that wait to be grouped.
    `behind` returns why the client has not shown all received records, or "".
    """

    def __init__(self, show_all: Callable[[], object], behind: Callable[[], str], error_reports: ErrorReports) -> None:
        self._show_all = show_all
        self._behind = behind
        self._error_reports = error_reports
        self._pending = PendingFlushes()
        self._open: dict[int, tuple[Flushed, Sequence[Peer]]] = {}

    def start(self, members: Sequence[Peer], dead: Iterable[MeshMember], timeout: float, future: Flushed) -> int:
        """Start a flush of `members`; return the version for their sentinels."""
        flush = self._pending.start([*members, *dead], monotonic(), timeout, dead)
        self._open[flush.version] = (future, members)
        if not flush.waiting:
            self._complete([flush])
        return flush.version

    def ack(self, version: int, peer: Peer) -> None:
        """Note that all records that `peer` logged before the sentinel are shown."""
        self._complete(self._pending.ack(version, peer))

    def mark_ended(self, peer: Peer) -> None:
        """Note that `peer` ended and that all of its records are shown."""
        self._complete(self._pending.mark_ended(peer))

    def expire(self, now: float) -> None:
        """Complete the flushes that are past their deadline."""
        self._complete(self._pending.expire(now))

    def close(self) -> None:
        """Complete all flushes, because the client stops."""
        self._complete(self._pending.close())

    def waiting_for(self, peer: Peer) -> list[int]:
        """Return the versions of the flushes that wait for `peer`."""
        return self._pending.waiting_for(peer)

    @property
    def deadline(self) -> float | None:
        """When `expire` next has flushes to complete, or None."""
        return self._pending.deadline

    def _complete(self, flushes: list[PendingFlush]) -> None:
        for flush in flushes:
            future, members = self._open.pop(flush.version)
            unanswered = [member.unanswered for member in members if member in flush.missing and member.unanswered]
            busy = self._behind() or "; ".join(unanswered) if flush.missing else ""
            try:
                self._show_all()
            except BaseException as failure:  # the caller waits for the receipt in any case
                self._error_reports.log("pending records cannot be shown", failure)
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
            ranks = _sorted(acked - missing), _sorted(missing), _sorted(dead)
            give(future, FlushReceipt(flush.version, *ranks, dropped, elapsed, busy))

    def unanswered(self, future: Flushed, members: Sequence[Peer], elapsed: float, busy: str) -> FlushReceipt:
        """Return the receipt of a flush of `members` as far as it has come. Any thread may call it."""
        flush = next((self._pending.get(version) for version, (each, _) in tuple(self._open.items()) if each is future), None)
        version, acked, dead = (flush.version, flush.acked, flush.dead) if flush is not None else (0, set(), set())
        known = acked | dead
        ranks = _sorted(_ranks(acked)), _sorted(_ranks(each for each in members if each not in known)), _sorted(_ranks(dead))
        return FlushReceipt(version, *ranks, sum(peer.stats.total_dropped for peer in members), elapsed, busy)


def time_downstream(timeout: float) -> float | None:
    """Return the timeout for a relay, so that its answer arrives in time; None is unlimited."""
    return None if timeout == float("inf") else max(timeout / 2, timeout - _MARGIN_SEC)


def _ranks(members: Iterable[object]) -> set[int]:
    return {rank for member in members for rank in member.ranks}  # type: ignore[attr-defined]  # peers and mesh members have them


def _sorted(ranks: set[int]) -> tuple[int, ...]:
    return tuple(sorted(ranks))
