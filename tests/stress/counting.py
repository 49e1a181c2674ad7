"""Counts what arrives: each record of each lane exactly once, in order."""

from __future__ import annotations

import logging
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .tally import NAME, Lane, Tally

Numbers = Mapping[int, "array[int]"]
"""The numbers of the records that arrived, by lane, in order of arrival."""


class Counting(logging.Handler):
    """A client's handler that notes the lane and number of each record.

    `before` is called with each record first: it may raise, hang or be slow. `others` are records that belong to no lane:
    captured lines, and records of the mesh itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
        self.others: list[str] = []
        self.before: Callable[[logging.LogRecord], object] | None = None
        self.tally: Tally | None = None  # for a client that will be killed

    def handle(self, record: logging.LogRecord) -> bool:
        """Note a record."""
        if record.name == NAME:
            lane, number, *_ = record.args  # type: ignore[misc]  # a tuple of at least two
            self.numbers[lane].append(number)  # type: ignore[index, arg-type]  # numbers, according to the template
            if self.tally is not None:
                Lane(self.tally, lane).see(number)  # type: ignore[arg-type]  # as above
            if self.before is not None:
                self.before(record)
        else:
            self.others.append(f"{record.name}: {record.getMessage()}")
        return True


@dataclass
class Counts:
    """What was sent and what arrived, in one try or many.

    `longest` is a survivor's longest call in seconds; `waited` is the same where calls must wait, for a slow or stopped client.
    """

    kills: int = 0
    sent: int = 0
    received: int = 0
    lost: int = 0
    dropped: int = 0
    duplicated: int = 0
    longest: float = 0.0
    waited: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Add the counts of another try."""
        self.kills += other.kills
        self.sent += other.sent
        self.received += other.received
        self.lost += other.lost
        self.dropped += other.dropped
        self.duplicated += other.duplicated
        self.longest = max(self.longest, other.longest)
        self.waited = max(self.waited, other.waited)
        self.problems += other.problems


def judge(lanes: Sequence[Lane], numbers: Numbers, dropped: int) -> Counts:
    """Compare what arrived with what was logged; `dropped` is the client's own count of dropped records.

    A record is lost if its logging call returned, and it neither arrived nor was counted as dropped.
    """
    counts = Counts(dropped=dropped)
    all_missing = unexcused = 0
    told: list[str] = []
    for lane in lanes:
        found = numbers.get(lane.number, array("q"))
        once = set(found)
        counts.sent += lane.returned
        counts.received += len(found)
        counts.duplicated += len(found) - len(once)
        if once and max(once) >= lane.begun:
            counts.problems.append(f"lane {lane.number} logged {lane.begun:,} records, and number {max(once):,} arrived")
        ordered = list(dict.fromkeys(found))
        if ordered != sorted(ordered):
            at = next(at for at in range(1, len(ordered)) if ordered[at] < ordered[at - 1])
            counts.problems.append(f"lane {lane.number} is out of order: {ordered[max(0, at - 3) : at + 3]}")
        missing = [number for number in range(lane.begun) if number not in once]
        all_missing += len(missing)
        if missing and missing[-1] == lane.begun - 1 and lane.begun > lane.returned + lane.broken:
            missing.pop()  # the unfinished call: its record may have been logged, counted as dropped, or neither
        if len(missing) > lane.broken:
            unexcused += len(missing) - lane.broken
            told.append(
                f"lane {lane.number} ({lane.begun:,} begun, {lane.returned:,} returned) lacks {len(missing):,}, "
                f"from {missing[0]:,} to {missing[-1]:,}"
            )
    strange = numbers.keys() - {lane.number for lane in lanes}
    if strange:
        counts.problems.append(f"records of lanes {sorted(strange)} that nobody took")
    counts.lost = max(0, unexcused - dropped)
    if counts.lost:
        counts.problems.append(f"{counts.lost:,} records are lost ({dropped:,} dropped): {'; '.join(told[:5])}")
    if dropped > all_missing:
        counts.problems.append(f"{dropped:,} records are said to be dropped where {all_missing:,} are missing")
    if counts.duplicated:
        counts.problems.append(f"{counts.duplicated:,} records came twice")
    return counts
