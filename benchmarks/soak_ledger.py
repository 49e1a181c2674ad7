"""The account of the soak: what each life of each worker has sent, and what the client's handler received of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .soak_worker import LOGGER, PRINTED


class Lane(NamedTuple):
    """One sequence of numbers: of one rank, life, and source."""

    rank: int
    life: int
    lane: int


@dataclass
class Arrived:
    """The last number that arrived, and how many arrived."""

    last: int = 0
    count: int = 0


class Arrivals(logging.Handler):
    """Follows the numbers of each lane. A repeated number, or one out of order, is a fault; a missing number is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: dict[Lane, Arrived] = {}
        self.faults: list[str] = []
        self.count = self.others = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one record, or one captured line. Runs on the client's thread."""
        if record.__dict__.get("stream") == "stdout":
            _, life, number = map(str, record.getMessage().split())
            self._take(Lane(record.__dict__["rank"], int(life), PRINTED), int(number))
        elif record.name == LOGGER and isinstance(record.args, tuple):
            life, lane, number = map(str, record.args[:3])
            self._take(Lane(record.__dict__["rank"], int(life), int(lane)), int(number))
        else:
            self.others += 1

    def _take(self, lane: Lane, number: int) -> None:
        arrived = self.lanes.setdefault(lane, Arrived())
        if number <= arrived.last:
            self.faults.append(f"{lane}: {number} came after {arrived.last}")
        arrived.last = number
        arrived.count += 1
        self.count += 1


@dataclass
class Account:
    """The sums over all lives that have ended.

    Attributes
    ----------
    sent : int
        Calls that returned.
    begun : int
        Calls that did not return because their process was killed, and whose record arrived nevertheless.
    lost : int
        Calls that returned, and whose record did not arrive.
    """

    sent: int = 0
    begun: int = 0
    lost: int = 0

    def settle(self, arrivals: Arrivals, ended: Iterable[tuple[Lane, int, bool]]) -> None:
        """Compare, lane by lane, what was sent with what arrived; forget the lanes. Call after a flush without missing ranks.

        Parameters
        ----------
        ended : iterable of (Lane, int, bool)
            What was sent, and whether the process was killed.
        """
        for lane, sent, killed in ended:
            arrived = arrivals.lanes.pop(lane, Arrived())
            begun = arrived.last - sent
            if begun > 1 or (begun == 1 and not killed):
                arrivals.faults.append(f"{lane}: number {arrived.last} came, but only {sent} were sent")
            begun = max(0, begun)
            self.sent += sent
            self.begun += begun
            self.lost += sent - (arrived.count - begun)
