"""The counters of each rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final

from ...errors import ProtocolError, quoted
from ...journal.layout import DROP_REASONS

UNREADABLE: Final = "unreadable"
UNSENT: Final = "unsent"
"""Captured lines that a relay had read and not passed on, or not known to have arrived, when it left."""
REASONS: Final = frozenset((*DROP_REASONS, UNREADABLE, UNSENT))
"""Why records may be dropped: for a reason of the worker or of a relay, or because the client cannot show them."""


@dataclass(slots=True)  # there may be ten thousand
class RankStats:
    """Exact counters of one rank; read them as attributes or by name, ``stats[3].received`` or ``stats[3]["received"]``.

    Attributes
    ----------
    rank : int or None
        None is the client's own process.
    pid : int
        The process that has the rank (the latest one, where a worker was replaced).
    alive : bool
        Whether it is still connected or running.
    received : int
        Records received, including replayed ones.
    replayed : int
        Received records that were read from the journal after the process had ended.
    duplicates : int
        Records that arrived a second time and were discarded.
    lines : int
        Captured lines received.
    dropped : dict[str, int]
        Dropped records, by reason.
    last_seq : int
        Sequence number of the last record received; the first record is 1.
    last_seen : float
        Time of the last data from this rank, in seconds since the epoch.
    """

    rank: int | None
    pid: int
    alive: bool = True
    received: int = 0
    replayed: int = 0
    duplicates: int = 0
    lines: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    last_seq: int = 0
    last_seen: float = 0.0

    counted: ClassVar[tuple[str, ...]]  # what a relay sends: all but the rank

    @classmethod
    def of(cls, rank: int, counters: Mapping[str, Any]) -> RankStats:
        """Return the counters that a relay sent for a rank; `ProtocolError` if they are malformed."""
        stats = cls(rank, 0)
        for name in cls.counted:
            value = counters.get(name)
            if type(value) is not type(getattr(stats, name)) or not _is_count(value):
                raise ProtocolError(f"malformed counter {name}: {quoted(value)}")
            setattr(stats, name, value)
        return stats

    def __getitem__(self, name: str) -> Any:
        """Return a counter by name."""
        return getattr(self, name)

    @property
    def total_dropped(self) -> int:
        """Records dropped, for any reason."""
        return sum(self.dropped.values())

    def merged(self, newer: RankStats) -> RankStats:
        """Return the sums of two processes that had the same rank, one after the other."""
        reasons = {**self.dropped, **newer.dropped}
        dropped = {reason: self.dropped.get(reason, 0) + newer.dropped.get(reason, 0) for reason in reasons}
        return RankStats(
            newer.rank,
            newer.pid,
            self.alive or newer.alive,
            self.received + newer.received,
            self.replayed + newer.replayed,
            self.duplicates + newer.duplicates,
            self.lines + newer.lines,
            dropped,
            self.last_seq + newer.last_seq,
            max(self.last_seen, newer.last_seen),
        )


RankStats.counted = tuple(each.name for each in fields(RankStats) if each.name != "rank")


class Stats(dict[Any, RankStats]):
    """Counters by rank; the counters of the client's own process are under None.

    Attributes
    ----------
    received, dropped : int
        Sums over all ranks.
    hidden, shown : int
        Records that a hide pattern or a mode without streaming suppressed, and records that were passed to the handlers.
    clocks : dict of str to float
        Seconds by which the clocks of other hosts are ahead of the client's, by host name. Records of several hosts that arrive
        together are shown in the order of their times by one clock. Each record has the time that its process gave it.
    """

    def __init__(
        self, ranks: Mapping[Any, RankStats], hidden: int, shown: int, clocks: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(ranks)
        self.clocks = dict(clocks or {})
        self.hidden = hidden
        self.shown = shown

    @property
    def received(self) -> int:
        """Records received from all ranks."""
        return sum(each.received for each in self.values())

    @property
    def dropped(self) -> int:
        """Records dropped by all ranks."""
        return sum(each.total_dropped for each in self.values())


def _is_count(value: Any) -> bool:
    """Return whether a counter of a relay is possible, of the right type as it is."""
    if isinstance(value, dict):
        return value.keys() <= REASONS and all(type(count) is int and count >= 0 for count in value.values())
    return bool(value >= 0)


EARLIER: Final = "earlier"
"""The key of the sums of ranks that ended so long ago that they are not kept one by one."""

MAX_PAST: Final = 4096


class PastStats(dict[Any, RankStats]):
    """Counters of ranks that ended: one entry for each of the latest ranks, and one entry for the sum of all others."""

    def remember(self, counters: Mapping[int | None, RankStats]) -> None:
        """Add the final counters of ranks that ended."""
        for rank, stats in counters.items():
            before = self.pop(rank, None)
            self[rank] = before.merged(stats) if before is not None else stats
        while len(self) > MAX_PAST + 1:
            oldest = next(rank for rank in self if rank != EARLIER)
            earlier = self.get(EARLIER) or RankStats(None, 0, alive=False)
            self[EARLIER] = earlier.merged(replace(self.pop(oldest), rank=None, pid=0))
