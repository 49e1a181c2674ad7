"""Tries faults, and reports the results in a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from .counting import Counts
from .faults import Fault

HEADS = ("fault", "tries", "kills", "sent", "received", "lost", "dropped", "twice", "longest", "waited")
Row = tuple[str, int, Counts]


def try_all(faults: Iterable[Fault], tries: int, seed: int, tell: Callable[[str], object] = print) -> list[Row]:
    """Try each fault so many times; report each problem when it appears, and each fault when it is done."""
    rows: list[Row] = []
    for each in faults:
        total, begun = Counts(), time.monotonic()
        for number in range(tries):
            counts = each.attempt(f"{seed}.{number}")
            for problem in counts.problems:
                tell(problem)
            total.add(counts)
        rows.append((each.name, tries, total))
        tell(f"{line(rows[-1], 45)}   [{time.monotonic() - begun:.0f} s]")
    return rows


def line(row: Row, width: int) -> str:
    """Return a row of the table."""
    name, tries, counts = row
    numbers = [tries, counts.kills, counts.sent, counts.received, counts.lost, counts.dropped, counts.duplicated]
    cells = "".join(f"{number:>13,}" for number in numbers)
    calls = "".join(f"{seconds:>9.3f} s" if seconds else f"{'':>11}" for seconds in (counts.longest, counts.waited))
    return f"{name:<{width}}{cells}{calls}{f'  {len(counts.problems)} PROBLEMS' if counts.problems else ''}"


def table(rows: Sequence[Row]) -> str:
    """Return the whole table, with a line of totals."""
    width = max(len(row[0]) for row in rows) + 1
    total = Counts()
    for _, _, counts in rows:
        total.add(counts)
    head = f"{HEADS[0]:<{width}}" + "".join(f"{title:>{13 if title in HEADS[:-2] else 11}}" for title in HEADS[1:])
    rule = "-" * len(head)
    lines = [head, rule, *(line(row, width) for row in rows), rule, line(("all", sum(row[1] for row in rows), total), width)]
    return "\n".join(lines)
