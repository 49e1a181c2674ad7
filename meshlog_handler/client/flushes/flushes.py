"""The pending flushes of a client and their receipts. Client thread only."""

from __future__ import annotations

import enum
import itertools
import socket
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from ...errors import MAX_QUOTE, printable
from ...protocol.ranks import format_ranks
from ...system.error_reports import ErrorReports
from ...system.futures import give
from ...system.waits import monotonic, none_if_endless
from ..peers.peer import Peer
from ..peers.registry import MeshMember
from .acknowledgements import Acknowledgements, Pending
from .receipt import FlushReceipt

Flushed = Future[FlushReceipt]

_MARGIN_SEC: Final = 0.5


class Fate(enum.Enum):
    """What became of a member of a flush."""

    ACKED = enum.auto()
    DEAD = enum.auto()
    MISSING = enum.auto()


class Flushes:
    """Completes each flush with a receipt when its last member has answered.

    `show_all` is called before each receipt: it shows all received records, including records that wait to be grouped.
    `behind` returns why the client has not shown all received records, or "". `first` is the version of the first flush.
    """

    def __init__(
        self, show_all: Callable[[], object], behind: Callable[[], str], error_reports: ErrorReports, first: int = 1
    ) -> None:
        self._show_all = show_all
        self._behind = behind
        self._error_reports = error_reports
        self._pending: Acknowledgements[Fate] = Acknowledgements(self._complete, itertools.count(first))

    def start(self, members: Sequence[Peer], dead: Iterable[MeshMember], timeout: float, future: Flushed) -> int:
        """Start a flush of `members`; return the version for their sentinels."""
        version, now = self._pending.number(), monotonic()
        known = dict.fromkeys(dead, Fate.DEAD)
        self._pending.start(version, future, members, answers=known, started=now, deadline=now + timeout)
        return version

    def ack(self, version: int, peer: Peer) -> None:
        """Note that all records that `peer` logged before the sentinel are shown."""
        self._pending.note(version, peer, Fate.ACKED)

    def mark_ended(self, peer: Peer) -> None:
        """Note that `peer` ended and that all of its records are shown."""
        self._pending.note_all(peer, Fate.DEAD)

    def expire(self, now: float) -> None:
        """Complete the flushes that are past their deadline."""
        self._pending.expire(now, Fate.MISSING)

    def close(self) -> None:
        """Complete all flushes, because the client stops."""
        self._pending.close(Fate.MISSING)

    def waiting_for(self, peer: Peer) -> list[int]:
        """Return the versions of the flushes that wait for `peer`."""
        return self._pending.waiting_for(peer)

    @property
    def deadline(self) -> float | None:
        """When `expire` next has flushes to complete, or None."""
        return self._pending.deadline

    def _complete(self, flush: Pending[Fate]) -> None:
        acked, missing, dead = (_ranks(flush.members(fate)) for fate in (Fate.ACKED, Fate.MISSING, Fate.DEAD))
        late: list[Any] = flush.members(Fate.MISSING)
        busy = self._behind() or "; ".join(peer.unanswered for peer in late if peer.unanswered) if late else ""
        try:
            self._show_all()
        except BaseException as failure:  # the caller waits for the receipt in any case
            self._error_reports.log("pending records cannot be shown", failure)
        dropped = 0
        silent = {peer.hello.hostname for peer in late}
        for peer, fate in flush.answers.items():
            if not isinstance(peer, Peer):  # a member that was dead before
                continue
            dropped += peer.stats.total_dropped
            reached = peer.reached.pop(flush.number, None)
            if reached is not None and fate is Fate.ACKED:
                acked.difference_update(peer.ranks)  # in place: there may be a thousand relays
                acked.update(reached.acked)
                missing.update(reached.missing)
                if reached.missing:
                    silent.add(peer.hello.hostname)
                dead.update(reached.dead)
                dropped += reached.dropped
        elapsed = monotonic() - flush.started
        ranks = _sorted(acked - missing), _sorted(missing), _sorted(dead)
        hosts = tuple(sorted(printable(each, MAX_QUOTE) for each in silent - {socket.gethostname()}))
        give(flush.future, FlushReceipt(flush.number, *ranks, dropped, elapsed, busy, hosts))

    def unanswered(self, future: Flushed, members: Sequence[Peer], elapsed: float, busy: str) -> FlushReceipt:
        """Return the receipt of a flush of `members` as far as it has come. Any thread may call it."""
        flush = self._pending.of(future)
        answers = dict(flush.answers) if flush is not None else {}
        acked, dead = ([member for member, each in answers.items() if each is fate] for fate in (Fate.ACKED, Fate.DEAD))
        ranks = _sorted(_ranks(acked)), _sorted(_ranks(each for each in members if each not in answers)), _sorted(_ranks(dead))
        version = flush.number if flush is not None else 0
        return FlushReceipt(version, *ranks, sum(peer.stats.total_dropped for peer in members), elapsed, busy)


def explain_missing(receipt: FlushReceipt) -> str:
    """Return the message of a flush with missing ranks: the cause, and what to do."""
    total = len(receipt.acked) + len(receipt.missing) + len(receipt.dead)
    if receipt.busy:
        return (
            f"flush ended after {receipt.elapsed:.1f} s because of this process, not because of its ranks: {receipt.busy}. "
            f"{len(receipt.acked)} of {total} ranks were shown up to the flush. "
            f"Give a longer timeout, or a handler that does not block (`logging.handlers.QueueHandler`)."
        )
    where = f" on {', '.join(receipt.hosts)}" if receipt.hosts else ""
    far = ", or whose host cannot be reached," if receipt.hosts else ""
    return (
        f"flush {receipt.version} ended after {receipt.elapsed:.1f} s: {len(receipt.acked)} of {total} answered, "
        f"missing {format_ranks(receipt.missing)}{where}. A rank that is stopped (SIGSTOP, a debugger) or that holds the "
        f"GIL in native code{far} cannot answer; its records are kept, and shown when it continues. "
        f"Give a longer timeout, or look at the rank with a debugger."
    )


def time_downstream(timeout: float) -> float | None:
    """Return the timeout for a relay, so that its answer arrives in time; None is unlimited."""
    return none_if_endless(max(timeout / 2, timeout - _MARGIN_SEC))


def _ranks(members: Iterable[object]) -> set[int]:
    return {rank for member in members for rank in member.ranks}  # type: ignore[attr-defined]  # peers and mesh members have them


def _sorted(ranks: set[int]) -> tuple[int, ...]:
    return tuple(sorted(ranks))
