"""The flush ledger: which flush waits for whom. Pure: told what happened and what time it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from ..protocol.ranks import format_ranks
from .receipt import FlushReceipt


@dataclass(eq=False)
class OpenFlush:
    """A flush under way: `waiting`, `acked`, `dead` and `missing` share out the members it began with."""

    version: int
    started: float
    deadline: float
    waiting: set[Hashable]
    acked: set[Hashable] = field(default_factory=set)
    dead: set[Hashable] = field(default_factory=set)
    missing: set[Hashable] = field(default_factory=set)


class FlushLedger:
    """Keeps the flushes under way, any number at once.

    Members are whatever identifies a proc to the caller. Versions rise; an answer to version N counts for N and for
    nothing else. Every method that can complete flushes returns those it completed. Not thread-safe: one owner.
    """

    def __init__(self) -> None:
        self._version = 0
        self._open: dict[int, OpenFlush] = {}

    def __len__(self) -> int:
        return len(self._open)

    def start(self, members: Iterable[Hashable], now: float, timeout: float, dead: Iterable[Hashable] = ()) -> OpenFlush:
        """Open a flush that waits for `members`, until `now + timeout`; `dead` ones are excused from the start.

        The caller must treat a flush whose ``waiting`` is empty as complete: it is not kept.
        """
        self._version += 1
        flush = OpenFlush(self._version, now, now + timeout, set(members), dead=set(dead))
        flush.waiting -= flush.dead
        if flush.waiting:
            self._open[flush.version] = flush
        return flush

    def get(self, version: int) -> OpenFlush | None:
        """Return an open flush by its version."""
        return self._open.get(version)

    def ack(self, version: int, member: Hashable) -> list[OpenFlush]:
        """Note that all that `member` logged before flush `version` has been shown. Late, unknown answers count for nothing."""
        flush = self._open.get(version)
        if flush is None or member not in flush.waiting:
            return []
        flush.waiting.discard(member)
        flush.acked.add(member)
        return self._completed([flush])

    def waiting_for(self, member: Hashable) -> list[int]:
        """Return the versions of the flushes that wait for `member`, oldest first."""
        return [flush.version for flush in self._open.values() if member in flush.waiting]

    def excuse(self, member: Hashable) -> list[OpenFlush]:
        """Note that `member` ended: no open flush waits for it any longer."""
        touched = [flush for flush in self._open.values() if member in flush.waiting]
        for flush in touched:
            flush.waiting.discard(member)
            flush.dead.add(member)
        return self._completed(touched)

    def expire(self, now: float) -> list[OpenFlush]:
        """End the flushes whose time is over; who still waits is missing."""
        late = [flush for flush in self._open.values() if now >= flush.deadline]
        for flush in late:
            flush.missing |= flush.waiting
            flush.waiting.clear()
        return self._completed(late)

    def close(self) -> list[OpenFlush]:
        """End all flushes, as `expire` does: the owner stops."""
        return self.expire(float("inf"))

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to do next, or None."""
        return min((flush.deadline for flush in self._open.values()), default=None)

    def _completed(self, flushes: list[OpenFlush]) -> list[OpenFlush]:
        done = [flush for flush in flushes if not flush.waiting]
        for flush in done:
            del self._open[flush.version]
        return done


def explain_missing(receipt: FlushReceipt) -> str:
    """Say, for a person, who was silent and what to do."""
    total = len(receipt.acked) + len(receipt.missing) + len(receipt.dead)
    if receipt.busy:
        return (
            f"the flush ended after {receipt.elapsed:.1f} s because of this process, not of its ranks: {receipt.busy}. "
            f"{len(receipt.acked)} of {total} ranks were shown up to the flush. "
            f"Give a longer timeout, or a handler that does not block (`logging.handlers.QueueHandler`)."
        )
    return (
        f"flush {receipt.version} ended after {receipt.elapsed:.1f} s: {len(receipt.acked)} of {total} answered, "
        f"missing {format_ranks(receipt.missing)}. A rank that is stopped (SIGSTOP, a debugger) or that holds the "
        f"GIL in native code cannot answer; what it logged is kept and shown when it goes on. "
        f"Give a longer timeout, or look at the rank with a debugger."
    )
