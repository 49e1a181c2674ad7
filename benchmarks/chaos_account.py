"""The schedule and the account of `benchmarks.chaos`. Pure: no processes, no clock."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_FAULTS: Final = {"kill a worker": 8, "kill a relay": 5, "cut": 2, "stop the client": 2, "observe": 2}
_LONGEST: Final = {"cut": 30.0, "stop the client": 8.0, "observe": 5.0}
_ENDS: Final = {"cut": "join", "stop the client": "continue the client", "observe": "kill the observer"}
PAUSE_SEC: Final = 2.0


class Event(NamedTuple):
    """Something that is done, `at` seconds after the start, to a host or to the worker in one of its slots."""

    at: float
    what: str
    host: int
    slot: int


def schedule(seed: int, seconds: float, hosts: int, slots: int, pause: float = PAUSE_SEC) -> list[Event]:
    """Return the faults of a run, in order. `pause` is the mean time between them.

    Each cut, stop and observer ends within the run, before the next one begins.
    """
    chance = random.Random(seed)
    events: list[Event] = []
    busy: dict[tuple[str, int], float] = {}
    at = chance.expovariate(1 / pause)
    while at < seconds:
        (what,) = chance.choices(tuple(_FAULTS), tuple(_FAULTS.values()))
        host, slot = chance.randrange(hosts), chance.randrange(slots)
        key = what, host if what == "cut" else 0
        if at >= busy.get(key, 0.0):
            events.append(Event(at, what, host, slot))
            if what in _ENDS:
                busy[key] = min(seconds, at + 1.0 + chance.random() ** 2 * (_LONGEST[what] - 1.0))
                events.append(Event(busy[key], _ENDS[what], host, slot))
        at += chance.expovariate(1 / pause)
    return sorted(events)


class Told(NamedTuple):
    """What a worker has written after each logging call.

    Attributes
    ----------
    rank : int
        Its rank; -1 if it has not joined.
    sent : int
        Calls that returned.
    longest : float
        Seconds of the longest call.
    ended : bool
        Whether it ended by itself.
    """

    rank: int
    sent: int
    longest: float
    ended: bool


@dataclass
class Arrived:
    """The records of one worker that were shown. `absent`: ranges of numbers that were passed over, first and after last."""

    last: int = 0
    count: int = 0
    twice: int = 0
    late: int = 0
    absent: list[tuple[int, int]] = field(default_factory=list)

    def take(self, number: int) -> None:
        """Count a record."""
        if number > self.last:
            if number > self.last + 1:
                self.absent.append((self.last + 1, number))
            self.last = number
            self.count += 1
            return
        for at, (first, after) in enumerate(self.absent):
            if first <= number < after:
                self.absent[at : at + 1] = [each for each in ((first, number), (number + 1, after)) if each[0] < each[1]]
                self.late += 1
                self.count += 1
                return
        self.twice += 1


@dataclass
class Sum:
    """The account of the workers in one slot of a host, one after the other."""

    workers: int = 0
    sent: int = 0
    arrived: int = 0
    twice: int = 0
    late: int = 0
    dropped: int = 0
    longest: float = 0.0


def balance(
    told: Mapping[str, Told], arrived: Mapping[str, Arrived], dropped: Mapping[int, int]
) -> tuple[dict[str, Sum], list[str]]:
    """Return the account by slot, and what is wrong with it. `dropped` are the counted drops by rank.

    A worker is named by its slot and its number there, such as ``h1-0/7``. A call during which its process was killed may have
    left a record, or a counted drop, or nothing.
    """
    sums: dict[str, Sum] = defaultdict(Sum)
    faults: list[str] = []
    of_rank: dict[int, list[str]] = defaultdict(list)
    for name, each in told.items():
        of_rank[each.rank].append(name)
        found, row = arrived.get(name, Arrived()), sums[name.partition("/")[0]]
        row.workers += 1
        row.sent += each.sent
        row.arrived += found.count
        row.twice += found.twice
        row.late += found.late
        row.longest = max(row.longest, each.longest)
        if found.twice or found.late:
            faults.append(f"{name}: {found.twice} records were shown twice, {found.late} out of order")
    faults += [f"records of {name}, which is not known" for name in arrived.keys() - told.keys()]
    for rank, names in of_rank.items():
        counted = dropped.get(rank, 0)
        sums[names[0].partition("/")[0]].dropped += counted
        sent = sum(told[name].sent for name in names)
        shown = sum(arrived.get(name, Arrived()).count for name in names)
        killed = sum(not told[name].ended for name in names)
        if rank >= 0 and len({name.partition("/")[0] for name in names}) > 1:
            faults.append(f"rank {rank} was given to several processes: {', '.join(names)}")
        if not 0 <= shown + counted - sent <= killed:
            faults.append(
                f"{', '.join(names)} (rank {rank}): sent {sent:,}, arrived {shown:,}, counted as lost {counted:,}, "
                f"{'killed' if killed else 'ended'}, last {[arrived.get(name, Arrived()).last for name in names]}, "
                f"absent {[each for name in names for each in arrived.get(name, Arrived()).absent][:5]}"
            )
    return dict(sums), faults


def growth(samples: Sequence[int]) -> int:
    """Return how much the maximum grew from the second quarter of the samples to the last one."""
    quarter = len(samples) // 4
    return max(samples[-quarter:]) - max(samples[quarter : 2 * quarter]) if quarter else 0


def rows(sums: Mapping[str, Sum]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{'worker':10}{'lives':>7}{'sent':>12}{'arrived':>12}{'twice':>7}{'counted':>9}{'longest call':>14}"
    total = Sum()
    for name, each in sorted(sums.items()):
        yield _row(name, each)
        for column in ("workers", "sent", "arrived", "twice", "late", "dropped"):
            setattr(total, column, getattr(total, column) + getattr(each, column))
        total.longest = max(total.longest, each.longest)
    yield _row("all", total)


def _row(name: str, each: Sum) -> str:
    return (
        f"{name:10}{each.workers:>7}{each.sent:>12,}{each.arrived:>12,}{each.twice:>7}{each.dropped:>9,}{each.longest:>12.2f} s"
    )


def told_of(words: Iterable[int]) -> Told:
    """Return what a worker has written, as numbers."""
    rank, sent, longest, ended = words
    return Told(rank - 1, sent, longest / 1e6, bool(ended))
