"""The model of the page: takes events in any order, and keeps a bounded part of them, reduced to what a page can show. Pure.

::

    Event -> PageModel.add -> rank x time, kinds of lines, last lines of each rank -> to_dict() -> the page
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ...errors import printable
from ...insight.report import Insight
from ...lines.framer import strip_ansi_text
from ...protocol.ranks import rank_ranges
from .events import CLIENT, Event
from .grid import Grid
from .groups import Kinds

ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""A cell of the map is one character: 12 magnitudes of its count for each of 5 levels. A point is an empty cell."""

_MAGNITUDES: Final = 12
_CELLS: Final = 1_200_000
_FEWEST_BINS: Final = 60
_MOST_BINS: Final = 240
_MAX_KEPT: Final = 2000
_MAX_LISTED: Final = 100
_MAX_GROUPS: Final = 400
_MAX_CURVES: Final = 8
_MAX_REPORTS: Final = 20
_MAX_VALUES: Final = 4
_EARLIEST: Final = 1e8
_LATEST: Final = 1e11

Line = tuple[float, int, str, str, int]


class PageModel:
    """What a page shows of a run. Not thread-safe.

    Parameters
    ----------
    max_lines : int
        About so many lines are kept, the last ones of each rank, and so many warnings and errors.
    max_text : int
        About so many characters of them are shown.
    """

    def __init__(self, max_lines: int = 30_000, max_text: int = 2_500_000) -> None:
        self._max_lines = max_lines
        self._max_text = max_text
        self._map: Grid[int] = Grid(_merged_cells, _CELLS, _FEWEST_BINS, _MOST_BINS)
        self._kinds = Kinds()
        self._last: dict[int, list[Line]] = {}
        self._notable: dict[int, list[Line]] = {}
        self._counts: dict[int, int] = {}
        self._seen: dict[int, float] = {}
        self._reports: list[tuple[float, str]] = []
        self.total = 0
        self.untimed = 0

    def add(self, event: Event, parts: Sequence[Event] | None = None) -> None:
        """Take an event. If it is a group of lines, `parts` are lines with its least and its greatest numbers."""
        if not _EARLIEST < event.time < _LATEST:  # no clock says that: a peer may send any number
            self.untimed += event.lines
            return
        rank = event.rank
        self.total += event.lines
        self._counts[rank] = self._counts.get(rank, 0) + event.lines
        if event.time > self._seen.get(rank, 0.0):
            self._seen[rank] = event.time
        self._map.add(rank, event.time, event.lines << 3 | _class_of(event.level))
        for each in (event,) if parts is None else parts:
            self._kinds.add(each)
        text = event.text if len(event.text) <= _MAX_KEPT else f"{event.text[:_MAX_KEPT]}... [{len(event.text):,} characters]"
        line = event.time, event.level, event.source, text, event.lines
        self._keep(self._last, rank, line)
        if rank == CLIENT and event.level >= logging.ERROR:
            self._reports = sorted([*self._reports, (event.time, text)])[-_MAX_REPORTS:]
        if event.level >= logging.WARNING:
            self._keep(self._notable, rank, line)

    def _keep(self, kept: dict[int, list[Line]], rank: int, line: Line) -> None:
        lines = kept.setdefault(rank, [])
        lines.append(line)
        most = self._per_rank
        if len(lines) > 2 * most + 8:
            lines.sort()
            del lines[:-most]

    @property
    def _per_rank(self) -> int:
        return max(2, min(300, self._max_lines // max(1, len(self._seen))))

    @property
    def latest(self) -> float:
        """The time of the latest event in seconds since the epoch; 0 before the first one."""
        return max(self._seen.values(), default=0.0)

    def to_dict(self, insight: Insight, about: Mapping[str, Any]) -> dict[str, Any]:
        """Return all of it as plain data for ``json.dumps``. `about` is added: the name of the run, the present time, ..."""
        ranks = sorted({*self._seen, *insight.ranks})
        groups = self._kinds.groups(_MAX_GROUPS)
        return {
            **about,
            "total": self.total,
            "untimed": self.untimed,
            **self._to_map(ranks),
            **self._to_ranks(ranks, insight, about["now"], about["live"]),
            **self._to_lines({rank: at for at, rank in enumerate(ranks)}),
            "reports": [[time, shown(text.partition("\n")[0], 500)] for time, text in self._reports],
            **_to_findings(insight),
            "groups": [_safe(each, "text", "source") for each in groups],
            "ungrouped": self._kinds.left_out(groups),
            "progress": self._to_progress(insight),
        }

    def _to_map(self, ranks: Iterable[int]) -> dict[str, Any]:
        grid = self._map
        return {
            "from": grid.first * grid.width,
            "width": grid.width,
            "bins": grid.bins,
            "rows": [_row(grid.rows.get(rank, {}), grid.first, grid.bins) for rank in ranks],
        }

    def _to_ranks(self, ranks: list[int], insight: Insight, now: float, live: bool) -> dict[str, Any]:
        known = [insight.ranks.get(rank) for rank in ranks]
        states = ["" if each is None else each.state for each in known]
        # After the end of a run, it is not known of a rank that did not crash when it ended.
        running = "running" if live else "ended"
        return {
            "ranks": ranks,
            "states": [running if state == "running" else state for state in states],
            "counts": [
                max(self._counts.get(rank, 0), each.records + each.lines if each is not None else 0)
                for rank, each in zip(ranks, known, strict=True)
            ],
            "warnings": [0 if each is None else each.warnings for each in known],
            "errors": [0 if each is None else each.errors for each in known],
            "dropped": sum(each.dropped for each in known if each is not None),
            "seen": [
                round(now - each.last_seen if each is not None else self._seen.get(rank, now), 3)
                for rank, each in zip(ranks, known, strict=True)
            ],
        }

    def _to_progress(self, insight: Insight) -> list[dict[str, Any]]:
        behind = {each.label: each.behind for each in insight.progress}
        rates = {each.label: each.rate for each in insight.progress}
        curves = self._kinds.curves(behind, _MAX_CURVES)
        return [_safe({**each, "rate": rates.get(each["label"])}, "label") for each in curves]

    def _to_lines(self, places: Mapping[int, int]) -> dict[str, Any]:
        """Return the kept lines in order of time, with each text once."""
        most = self._per_rank
        found: set[tuple[float, int, int, str, str, int]] = set()
        for kept in (self._last, self._notable):
            for rank, lines in kept.items():
                for time, level, source, text, count in sorted(lines)[-most:]:
                    found.add((time, places[rank], level, source, text, count))
        limit = max(120, self._max_text // max(1, len(found)))
        texts: dict[str, int] = {}
        sources: dict[str, int] = {}
        first = self._map.first * self._map.width
        told: list[list[Any]] = []
        for time, place, level, source, text, count in sorted(found):
            told.append(
                [
                    round((time - first) * 1000),
                    place,
                    level,
                    sources.setdefault(shown(source, 100), len(sources)),
                    texts.setdefault(shown(text, limit), len(texts)),
                    *([count] if count > 1 else ()),
                ]
            )
        return {"lines": told, "texts": list(texts), "sources": list(sources)}


def shown(text: str, limit: int) -> str:
    """Return a text for the page: control characters, and what changes the direction of text, are escaped."""
    cut = text if len(text) <= limit else f"{text[:limit]}... [{len(text) - limit:,} more characters]"
    if "\x1b" in cut:
        cut = strip_ansi_text(cut)
    if cut.isascii() and cut.isprintable():
        return cut
    return "\n".join(printable(line, len(line)) for line in cut.split("\n"))


def _class_of(level: int) -> int:
    return 0 if level < 20 else 1 if level < 30 else 2 if level < 40 else 3 if level < 50 else 4


def _merged_cells(one: int, other: int) -> int:
    """Return the sum of the counts, and the greatest level."""
    return ((one >> 3) + (other >> 3)) << 3 | max(one & 7, other & 7)


def _row(row: Mapping[int, int], first: int, bins: int) -> str:
    made = ["."] * bins
    for at, cell in row.items():
        magnitude = min(_MAGNITUDES - 1, (cell >> 3).bit_length() - 1)
        made[at - first] = ALPHABET[(cell & 7) * _MAGNITUDES + magnitude]
    return "".join(made)


def _safe(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**found, **{name: shown(found[name], 500) for name in names}}


def _to_findings(insight: Insight) -> dict[str, Any]:
    return {
        "failures": [
            {
                "signature": shown(each.signature, 300),
                "text": shown(each.text, 2000),
                "ranks": rank_ranges(each.ranks),
                "rank_count": len(each.ranks),
                "rank": each.first_rank,
                "time": each.first_time,
            }
            for each in insight.failures[:_MAX_LISTED]
        ],
        "behind": [
            {
                "label": shown(each.label, 300),
                "ranks": rank_ranges(each.behind),
                "rank_count": len(each.behind),
                "values": [[rank, each.values[rank]] for rank in each.slowest[:_MAX_VALUES]],
                "median": each.median,
            }
            for each in insight.progress[:_MAX_LISTED]
            if each.behind
        ],
        "silent": [[rank, round(seconds, 1), shown(line, 300)] for rank, seconds, line in insight.silent[:_MAX_LISTED]],
        "missing": [
            {
                "text": shown(each.text, 300),
                "reached": len(each.reached),
                "missing": rank_ranges(each.missing),
                "missing_count": len(each.missing),
            }
            for each in insight.missing[:_MAX_LISTED]
        ],
        "different": [
            {"text": shown(each.text, 300), "level": each.level, "ranks": rank_ranges(each.ranks)}
            for each in insight.different[:_MAX_LISTED]
        ],
    }
