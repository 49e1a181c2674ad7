"""A Grid: a value for each rank and interval of time. The intervals become longer as the time does. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

V = TypeVar("V")
_FINEST: Final = -6
_COARSEST: Final = 40


class Grid(Generic[V]):
    """Keeps about `cells` values, and at most `most` intervals, of which a few are always there.

    The result does not depend on the order in which values are added: they are merged by `merge`, which must be associative and
    commutative.
    """

    def __init__(self, merge: Callable[[V, V], V], cells: int, fewest: int, most: int) -> None:
        self.rows: dict[int, dict[int, V]] = {}
        self._merge = merge
        self._limits = cells, fewest, most
        self._most = most
        self._power = _FINEST
        self._low = self._high = 0
        self.empty = True

    @property
    def width(self) -> float:
        """The length of an interval in seconds."""
        return float(2.0**self._power)

    @property
    def first(self) -> int:
        """The number of the first interval: it begins at ``first * width`` seconds since the epoch."""
        return self._low

    @property
    def bins(self) -> int:
        """The number of intervals."""
        return 0 if self.empty else self._high - self._low + 1

    def add(self, rank: int, time: float, value: V) -> None:
        """Add a value at a time in seconds since the epoch."""
        at = int(time / self.width)
        if self.empty:
            self.empty, self._low, self._high = False, at, at
        elif at < self._low or at > self._high:
            self._low, self._high = min(self._low, at), max(self._high, at)
            if self._high - self._low >= self._most:
                self._fit()
                at = int(time / self.width)
        row = self.rows.get(rank)
        if row is None:
            self.rows[rank] = {}
            self._limit()
            row, at = self.rows[rank], int(time / self.width)
        known = row.get(at)
        row[at] = value if known is None else self._merge(known, value)

    def _limit(self) -> None:
        cells, fewest, most = self._limits
        allowed = max(fewest, min(most, cells // len(self.rows)))
        if allowed < self._most:
            self._most = allowed
            self._fit()

    def _fit(self) -> None:
        """Make the intervals twice as long until there are few enough."""
        power = self._power
        while self._high - self._low >= self._most and self._power < _COARSEST:
            self._low >>= 1
            self._high >>= 1
            self._power += 1
        shift = self._power - power
        if not shift:
            return
        merge = self._merge
        for rank, row in self.rows.items():
            coarse: dict[int, V] = {}
            for at, value in row.items():
                known = coarse.get(at >> shift)
                coarse[at >> shift] = value if known is None else merge(known, value)
            self.rows[rank] = coarse
