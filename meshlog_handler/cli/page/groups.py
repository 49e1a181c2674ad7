"""Kinds of lines: those that differ only in numbers and names, with their ranks, their ranges and their curves. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import median
from typing import Any, Final, NamedTuple

from ...grouping.merge import Shaped
from ...grouping.similarity import mask_digits, tokenize_line
from ...grouping.texts import TextRun
from ...insight.series import label_of, measure_text
from ...protocol.ranks import rank_ranges
from .events import Event, headline
from .grid import Grid

MAX_KINDS: Final = 2048
_MAX_KNOWN: Final = 16384
_MAX_TEXT: Final = 256
_MAX_CURVES: Final = 24
_CURVE_CELLS: Final = 100_000
_ALL_CURVES: Final = 64
_FEW_CURVES: Final = 8
_GROWING: Final = 0.9


class Latest(NamedTuple):
    """The latest line of a kind in an interval."""

    time: float
    text: str


class Kind:
    """Lines of one shape, source and level."""

    __slots__ = ("count", "curves", "first", "first_rank", "last", "level", "ranks", "runs", "shape", "shaped", "source")

    def __init__(self, event: Event, shape: str, shaped: Shaped) -> None:
        self.level = event.level
        self.source = event.source
        self.shape = shape
        self.shaped = shaped
        self.runs: list[TextRun] = []
        self.count = 0
        self.ranks: set[int] = set()
        self.first, self.first_rank = event.time, event.rank
        self.last = event.time
        self.curves: Grid[Latest] | None = None

    @property
    def order(self) -> tuple[str, str, int]:
        """The sort key of kinds that are otherwise equal, so that the order of their lines has no influence."""
        return self.shape, self.source, self.level


class Kinds:
    """All kinds of lines of a run, as far as there is room; `others` counts the rest."""

    def __init__(self) -> None:
        self.others = 0
        self._kinds: dict[tuple[int, str, str], Kind] = {}
        self._known: dict[tuple[int, str, bytes], tuple[Kind, TextRun]] = {}
        self._curves: list[Kind] = []

    def add(self, event: Event) -> None:
        """Take an event."""
        text = headline(event.text)[:_MAX_TEXT]
        key = event.level, event.source, mask_digits(text)
        known = self._known.get(key)
        if known is None:
            found = self._find(event, text, key)
            if found is None:
                self.others += event.lines
                return
            kind = found
        else:
            kind, run = known
            run.add(text)
        kind.count += event.lines
        if event.rank >= 0:
            kind.ranks.add(event.rank)
        if event.time < kind.first:
            kind.first, kind.first_rank = event.time, event.rank
        elif event.time == kind.first:
            kind.first_rank = min(kind.first_rank, event.rank)
        elif event.time > kind.last:
            kind.last = event.time
        if kind.curves is not None:
            kind.curves.add(event.rank, event.time, Latest(event.time, text))

    def _find(self, event: Event, text: str, key: tuple[int, str, bytes]) -> Kind | None:
        tokens = tokenize_line(text)
        place = event.level, event.source, tokens.shape
        kind = self._kinds.get(place)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                return None
            kind = self._kinds[place] = Kind(event, tokens.shape, Shaped.of(tokens))
            if event.level < logging.WARNING and any(token.is_number for token in tokens.tokens):
                self._add_curves(kind)
        else:
            kind.shaped.add(tokens.tokens)
        if not tokens.has_names:  # the digit mask of a text with an id seldom recurs
            if len(self._known) >= _MAX_KNOWN:
                self.settle()
                self._known.clear()
            run = TextRun(kind.shaped, tokens.tokens, len(text))
            kind.runs.append(run)
            self._known[key] = kind, run
        return kind

    def _add_curves(self, kind: Kind) -> None:
        """Keep the numbers of a kind over time. At the limit, the rarest of the others gives up its place."""
        if len(self._curves) >= _MAX_CURVES:
            rarest = min(self._curves, key=lambda each: each.count)
            rarest.curves = None
            self._curves.remove(rarest)
        kind.curves = Grid(max, _CURVE_CELLS, 8, 96)
        self._curves.append(kind)

    def settle(self) -> None:
        """Merge what the runs hold."""
        for kind in self._kinds.values():
            for run in kind.runs:
                run.reduce()
            if len(self._known) >= _MAX_KNOWN:
                kind.runs.clear()

    def groups(self, most: int) -> list[dict[str, Any]]:
        """Return the kinds, warnings and worse first, then by their number."""
        self.settle()
        ordered = sorted(self._kinds.values(), key=lambda each: (-max(each.level, 20), -each.count, each.order))
        # Each level has a share, so that a thousand warnings do not hide the usual lines.
        chosen = [*ordered[: most // 2], *sorted(ordered[most // 2 :], key=lambda each: -each.count)[: most - most // 2]]
        return [
            {
                "text": kind.shaped.render(),
                "level": kind.level,
                "source": kind.source,
                "count": kind.count,
                "ranks": rank_ranges(kind.ranks),
                "rank_count": len(kind.ranks),
                "first": kind.first,
                "first_rank": kind.first_rank,
                "last": kind.last,
            }
            for kind in chosen
        ]

    def left_out(self, groups: Iterable[Mapping[str, Any]]) -> int:
        """Return how many lines are in none of these groups."""
        total = self.others + sum(each.count for each in self._kinds.values())
        return int(total - sum(each["count"] for each in groups))

    # -- curves ------------------------------------------------------------------------------------------------------

    def curves(self, behind: dict[str, tuple[int, ...]], most: int) -> list[dict[str, Any]]:
        """Return the numbers that grow, over time. `behind` has the ranks to mark by label."""
        found = []
        for kind in sorted(self._curves, key=lambda each: each.order):
            assert kind.curves is not None  # see `_add_curves`
            measured = {rank: _measured(row, kind.shape) for rank, row in kind.curves.rows.items()}
            place = _growing(measured.values())
            if place is not None:
                found.append((kind, place, measured))
        labels = {id(kind): label_of(kind.shape, place) for kind, place, _ in found}
        shared = Counter(labels.values())
        curves = []
        for kind, place, measured in found:
            label = labels[id(kind)]
            label = label if shared[label] == 1 else kind.shape
            assert kind.curves is not None  # see above
            curves.append(_curve(label, kind.curves, place, measured, behind.get(label, ())))
        curves.sort(key=lambda each: (-len(each["behind"]), -each["rank_count"], each["label"]))
        return curves[:most]


Row = dict[int, tuple["float | None", ...]]


def _measured(row: dict[int, Latest], shape: str) -> Row:
    """Return the numbers of each interval, of the lines of this shape."""
    made = ((at, measure_text(sample.text, sample.time)) for at, sample in sorted(row.items()))
    return {at: sample.numbers for at, (_, sample) in made}


def _growing(rows: Iterable[Row]) -> int | None:
    """Return the place of the number that grows in most ranks; whole numbers first."""
    several = [list(row.values()) for row in rows if len(row) > 1]
    if not several:
        return None
    fractional = None
    for place in range(min(len(numbers) for row in several for numbers in row)):
        columns = [[numbers[place] for numbers in row] for row in several]
        known = [[value for value in column if value is not None] for column in columns]
        grows = sum(len(each) > 1 and each == sorted(each) and each[0] < each[-1] for each in known)
        if grows < _GROWING * len(several):
            continue
        if all(value.is_integer() for column in known for value in column):
            return place
        fractional = place if fractional is None else fractional
    return fractional


def _curve(label: str, grid: Grid[Latest], place: int, rows: dict[int, Row], behind: Collection[int]) -> dict[str, Any]:
    """Return one number over time: of all ranks the least, the median and the greatest, and the ranks that are marked."""
    values = {rank: dict(_column(row, place)) for rank, row in sorted(rows.items())}
    values = {rank: row for rank, row in values.items() if row}
    shown = sorted(behind)[:_FEW_CURVES] if len(values) > _ALL_CURVES else list(values)
    first, bins = grid.first, grid.bins
    low: list[float | None] = []
    middle: list[float | None] = []
    high: list[float | None] = []
    latest: dict[int, float] = {}
    for at in range(first, first + bins):
        for rank, row in values.items():
            if at in row:
                latest[rank] = row[at]
        numbers = list(latest.values())
        low.append(min(numbers, default=None))
        middle.append(float(median(numbers)) if numbers else None)
        high.append(max(numbers, default=None))
    return {
        "label": label,
        "from": first * grid.width,
        "width": grid.width,
        "low": low,
        "median": middle,
        "high": high,
        "curves": [[rank, [[at - first, value] for at, value in values[rank].items()]] for rank in shown if rank in values],
        "behind": sorted(behind),
        "rank_count": len(values),
        "at": [[rank, row[max(row)]] for rank, row in values.items() if rank in set(behind) or len(values) <= _ALL_CURVES],
    }


def _column(row: Row, place: int) -> Iterator[tuple[int, float]]:
    for at, numbers in row.items():
        value = numbers[place] if place < len(numbers) else None
        if value is not None:
            yield at, value
