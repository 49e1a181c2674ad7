"""What a client counts of each rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from ..errors import ProtocolError


@dataclass(slots=True)  # there may be ten thousand
class RankStats:
    """Exact counters of one rank; read them as attributes or by name, ``stats[3].received`` or ``stats[3]["received"]``.

    Attributes
    ----------
    rank : int or None
        None is the client's own process.
    pid : int
        Of the process that bears the rank (the latest one, where a worker was replaced).
    alive : bool
        Whether it is still connected or running.
    received : int
        Records received, replayed ones included.
    replayed : int
        Those of them read from the journal after the process had ended.
    duplicates : int
        Records that came a second time and were discarded.
    lines : int
        Captured lines received.
    dropped : dict[str, int]
        Records that were dropped, by reason.
    last_seq : int
        Sequence number of the last record received: the first is 1.
    last_seen : float
        When something of this rank was received last, in seconds since the epoch.
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

    counted: ClassVar = (
        "pid",
        "alive",
        "received",
        "replayed",
        "duplicates",
        "lines",
        "dropped",
        "last_seq",
        "last_seen",
    )

    @classmethod
    def of(cls, rank: int, counters: Mapping[str, Any]) -> RankStats:
        """Return what a relay says of a rank below it; `ProtocolError` if that cannot be."""
        stats = cls(rank, 0)
        for name in cls.counted:
            value = counters.get(name)
            if type(value) is not type(getattr(stats, name)):
                raise ProtocolError(f"no counter {name} is {value!r}")
            setattr(stats, name, value)
        return stats

    def __getitem__(self, name: str) -> Any:
        """Return a counter by name."""
        return getattr(self, name)

    @property
    def total_dropped(self) -> int:
        """Records dropped, for whatever reason."""
        return sum(self.dropped.values())

    def merged(self, newer: RankStats) -> RankStats:
        """Return the counters of a rank that two processes bore, one after the other."""
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


class Stats(dict[Any, RankStats]):
    """Counters by rank; the client's own process is under None.

    Attributes
    ----------
    received, dropped : int
        Sums over all ranks.
    hidden, shown : int
        Records that a hide pattern or a mode without streaming held back, and records that were given to the handlers.
    """

    def __init__(self, ranks: Mapping[Any, RankStats], hidden: int, shown: int) -> None:
        super().__init__(ranks)
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


EARLIER: Final = "earlier"
"""The key of the counters of ranks that ended so long ago that they are not kept one by one."""

MAX_PAST: Final = 4096


class PastStats(dict[Any, RankStats]):
    """Counters of ranks that ended: of the latest ones each, of all others together."""

    def remember(self, counters: Mapping[int | None, RankStats]) -> None:
        """Add the last counters of ranks that end."""
        for rank, stats in counters.items():
            before = self.pop(rank, None)
            self[rank] = before.merged(stats) if before is not None else stats
        while len(self) > MAX_PAST + 1:
            oldest = next(rank for rank in self if rank != EARLIER)
            earlier = self.get(EARLIER) or RankStats(None, 0, alive=False)
            self[EARLIER] = earlier.merged(replace(self.pop(oldest), rank=None, pid=0))
