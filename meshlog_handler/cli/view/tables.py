"""Tables of runs and of ranks, as text. Pure: the widths and the time are arguments."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ...errors import printable
from ...insight.parts import TROUBLES, RankInsight, text_beside_rank, trouble_of
from ...insight.report import Insight
from ...insight.series import finest
from ...protocol.ranks import format_ranks

HEAD: Final = ("rank", "state", "seen", "rate", "records", "warn", "error", "drop", "progress", "last line")
RIGHT: Final = frozenset(("rank", "seen", "rate", "records", "warn", "error", "drop", "pid", "ranks"))
_DAY_SEC: Final = 86400.0
_MAX_CELL: Final = 1000
_MAX_PROGRESS: Final = 40


class Row(NamedTuple):
    """One rank: its number, its trouble or "", and the cells."""

    rank: int
    trouble: str
    cells: tuple[str, ...]


def rows_of(insight: Insight, order: str = "trouble") -> list[Row]:
    """Return a row for each rank, sorted by one of `ORDERS`."""
    behind = {rank for each in insight.progress for rank in each.behind}
    ranks = sorted(insight.ranks, key=lambda rank: (*ORDERS[order](insight.ranks[rank], rank in behind), rank))
    return [_row(rank, insight.ranks[rank], rank in behind) for rank in ranks]


def _row(rank: int, each: RankInsight, behind: bool) -> Row:
    trouble = trouble_of(each, behind)
    state = "behind" if each.state == "running" and behind else each.state
    progress = printable("  ".join(f"{label} {_number(value)}" for label, value in finest(each.progress).items()), _MAX_CELL)
    cells = (
        str(rank),
        state,
        f"{each.last_seen:.0f}s" if each.last_seen >= 1 else "now",
        f"{each.rate:.1f}/s",
        f"{each.records + each.lines:,}",
        str(each.warnings or ""),
        str(each.errors or ""),
        str(each.dropped or ""),
        progress if len(progress) <= _MAX_PROGRESS else f"{progress[: _MAX_PROGRESS - 3]}...",
        printable(each.last_line, _MAX_CELL),
    )
    return Row(rank, trouble, cells)


ORDERS: Final[Mapping[str, Callable[[RankInsight, bool], tuple[Any, ...]]]] = {
    "trouble": lambda each, behind: (TROUBLES.index(trouble_of(each, behind)), each.state == "ended"),
    "rank": lambda each, behind: (),
    "rate": lambda each, behind: (each.rate,),
    "seen": lambda each, behind: (-each.last_seen,),
    "records": lambda each, behind: (-each.records - each.lines,),
}
"""The orders of the ranks, each with its key: the first rank is the one with the smallest."""


def heading(insight: Insight, about: Mapping[str, Any], now: float) -> list[str]:
    """Return the lines above the table: the run, the number of ranks in each state, and what went wrong first."""
    states: dict[str, int] = {}
    for each in insight.ranks.values():
        states[each.state] = states.get(each.state, 0) + 1
    rate = sum(each.rate for each in insight.ranks.values() if each.state not in ("dead", "ended"))
    records = sum(each.records + each.lines for each in insight.ranks.values())
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items(), key=lambda each: -each[1]))
    lines = [
        f"{about.get('pid')}  {printable(str(about.get('command')), _MAX_CELL)}",
        f"{len(insight.ranks)} ranks: {counted or 'nothing was received yet'}; up {duration(now - about['since'])}; "
        f"{records:,} records and lines, {rate:.1f}/s",
    ]
    if insight.failures:
        first = insight.failures[0]
        lines.append(f"first failure: {format_ranks(first.ranks)}: {printable(text_beside_rank(first), _MAX_CELL)}")
    return lines


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return a table as text; no line is longer than `width` characters (None: no limit)."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(size) if name in RIGHT else cell.ljust(size) for name, cell, size in zip(head, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(line if width is None else line[:width] for line in lines)


def table_of_runs(told: Sequence[Mapping[str, Any]], width: int | None, now: float) -> str:
    """Return a table of runs."""
    rows = []
    for each in told:
        ranks, live, records = each["ranks"], each["live"], each["records"]
        count = "?" if ranks is None else str(ranks) if live == ranks else f"{live}/{ranks}"
        many = "?" if records is None else f"{records:,}"
        rows.append((str(each["pid"]), count, since(each["since"], now), many, printable(each["command"], _MAX_CELL)))
    return text_table(("pid", "ranks", "since", "records", "command"), rows, width)


def since(when: float, now: float) -> str:
    """Return a time of this day as hours, minutes and seconds, any other with its date."""
    return time.strftime("%H:%M:%S" if now - when < _DAY_SEC else "%Y-%m-%d %H:%M", time.localtime(when))


def duration(seconds: float) -> str:
    """Return seconds as ``1:02:03``."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
