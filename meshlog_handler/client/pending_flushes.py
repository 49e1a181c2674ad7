"""The pending flushes: for which members each one waits. Pure: events and the time are passed in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from ..protocol.ranks import format_ranks
from .receipt import FlushReceipt


@dataclass(eq=False)
class PendingFlush:
    """A pending flush. Each of its members is in exactly one of `waiting`, `acked`, `dead` and `missing`."""

    version: int
    started: float
    deadline: float
    waiting: set[Hashable]
    acked: set[Hashable] = field(default_factory=set)
    dead: set[Hashable] = field(default_factory=set)
    missing: set[Hashable] = field(default_factory=set)


class PendingFlushes:
    """Keeps any number of pending flushes. Not thread-safe: one owner.

    Members are any hashable objects. Versions rise, and an acknowledgement of version N counts for N only. Each method that can
    complete flushes returns the flushes that it completed.
    """

    def __init__(self) -> None:
        self._version = 0
        self._open: dict[int, PendingFlush] = {}

    def __len__(self) -> int:
        return len(self._open)

    def start(self, members: Iterable[Hashable], now: float, timeout: float, dead: Iterable[Hashable] = ()) -> PendingFlush:
        """Open a flush that waits for `members` until `now + timeout`, except for the `dead` ones.

        A flush whose `waiting` is empty is complete and not kept. The caller must handle it.
        """
        self._version += 1
        flush = PendingFlush(self._version, now, now + timeout, set(members), dead=set(dead))
        flush.waiting -= flush.dead
        if flush.waiting:
            self._open[flush.version] = flush
        return flush

    def get(self, version: int) -> PendingFlush | None:
        """Return an open flush by its version."""
        return self._open.get(version)

    def ack(self, version: int, member: Hashable) -> list[PendingFlush]:
        """Note that all records of `member` before the sentinel of flush `version` are shown. Other answers have no effect."""
        flush = self._open.get(version)
        if flush is None or member not in flush.waiting:
            return []
        flush.waiting.discard(member)
        flush.acked.add(member)
        return self._completed([flush])

    def waiting_for(self, member: Hashable) -> list[int]:
        """Return the versions of the flushes that wait for `member`, oldest first."""
        return [flush.version for flush in self._open.values() if member in flush.waiting]

    def mark_ended(self, member: Hashable) -> list[PendingFlush]:
        """Note that `member` ended: no open flush waits for it any longer."""
        touched = [flush for flush in self._open.values() if member in flush.waiting]
        for flush in touched:
            flush.waiting.discard(member)
            flush.dead.add(member)
        return self._completed(touched)

    def expire(self, now: float) -> list[PendingFlush]:
        """Complete the flushes that are past their deadline. Members that they still wait for are missing."""
        late = [flush for flush in self._open.values() if now >= flush.deadline]
        for flush in late:
            flush.missing |= flush.waiting
            flush.waiting.clear()
        return self._completed(late)

    def close(self) -> list[PendingFlush]:
        """Complete all flushes as `expire` does, because the owner stops."""
        return self.expire(float("inf"))

    @property
    def deadline(self) -> float | None:
        """When `expire` next has flushes to complete, or None."""
        return min((flush.deadline for flush in self._open.values()), default=None)

    def _completed(self, flushes: list[PendingFlush]) -> list[PendingFlush]:
        done = [flush for flush in flushes if not flush.waiting]
        for flush in done:
            del self._open[flush.version]
        return done


def explain_missing(receipt: FlushReceipt) -> str:
    """Return the message of a flush with missing ranks: the cause, and what to do."""
    total = len(receipt.acked) + len(receipt.missing) + len(receipt.dead)
    if receipt.busy:
        return (
            f"flush ended after {receipt.elapsed:.1f} s because of this process, not because of its ranks: {receipt.busy}. "
            f"{len(receipt.acked)} of {total} ranks were shown up to the flush. "
            f"Give a longer timeout, or a handler that does not block (`logging.handlers.QueueHandler`)."
        )
    return (
        f"flush {receipt.version} ended after {receipt.elapsed:.1f} s: {len(receipt.acked)} of {total} answered, "
        f"missing {format_ranks(receipt.missing)}. A rank that is stopped (SIGSTOP, a debugger) or that holds the "
        f"GIL in native code cannot answer; its records are kept, and shown when it continues. "
        f"Give a longer timeout, or look at the rank with a debugger."
    )
