"""Summaries of failed ranks: the first failure with its last lines, then the others in groups."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ...grouping.tracebacks import HEAD
from ...lines.framer import strip_ansi_text
from ...protocol.ranks import format_ranks
from ...system.exit_status import signal_name

_INTERRUPTED: Final = (-signal.SIGINT, 128 + signal.SIGINT)
_ENDED_BY_OTHERS: Final = (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL)


@dataclass(frozen=True)
class RankFailure:
    """A rank that failed. `exitcode` is negative for a signal, None if unknown. `when` is in seconds since the epoch."""

    rank: int
    pid: int
    exitcode: int | None
    when: float
    last_lines: tuple[str, ...] = ()


def failure_summary(failures: Iterable[RankFailure], total: int) -> str:
    """Return a summary of failures in any order, without a final line feed; "" if there are none.

    It shows the first failure with its last lines, and groups the others by cause and exception. Among failures at the same
    time, a rank that ended by itself comes before one ended by SIGTERM or SIGKILL. After a Ctrl-C, there is no traceback.
    """
    known = sorted(failures, key=lambda failure: (failure.when, failure.exitcode in _ENDED_BY_OTHERS, failure.rank))
    if not known:
        return ""
    first, *others = known
    if _is_interrupted(first):
        return _with_groups(f"interrupted (Ctrl-C): {len(known)} of {total} ranks ended", known, first.when)
    text = [
        f"{len(known)} of {total} ranks failed" + (f", rank {first.rank} first:" if others else ":"),
        f"rank {first.rank} (pid {first.pid}): {_cause(first)} at {_clock(first.when)}"
        + ("; its last lines:" if first.last_lines else ""),
        *(f"    {line}" for line in _lines(first)),
    ]
    if not others:
        return "\n".join(text)
    return "\n".join(text) + "\n" + _with_groups("then:", others, first.when)


def command_summary(failure: RankFailure, command: str, *, was_stopped: bool) -> str:
    """Return a summary of the end of a single command; `was_stopped`: by a signal that was sent to it."""
    if was_stopped or failure.exitcode is None:
        how = f"ended by {signal_name(failure.exitcode)}" if failure.exitcode is not None else "still alive after SIGKILL"
        return f"stopped {command} (pid {failure.pid}): {how}"
    text = f"{command} (pid {failure.pid}): {_cause(failure)} at {_clock(failure.when)}"
    return "\n".join([text + ("; its last lines:" if failure.last_lines else ""), *(f"    {line}" for line in _lines(failure))])


class RankEnd(NamedTuple):
    """How a rank ended, and after how many seconds. `was_stopped`: a signal of the launcher ended it."""

    rank: int
    pid: int
    exitcode: int | None
    seconds: float
    was_stopped: bool


def end_table(ends: Sequence[RankEnd]) -> str:
    """Return a table with one row per rank, headed by how many of them succeeded."""
    rows = [("rank", "pid", "seconds", "end")]
    for each in ends:
        how = signal_name(each.exitcode) if each.exitcode is not None else "still alive"
        seconds = f"{each.seconds:.2f}" if each.exitcode is not None else "-"
        rows.append((str(each.rank), str(each.pid), seconds, how + (", stopped" if each.was_stopped else "")))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    head = f"{sum(each.exitcode == 0 for each in ends)} of {len(ends)} ranks succeeded:"
    table = ["  ".join([*map(str.rjust, row[:3], widths), row[3]]) for row in rows]
    return "\n".join([head, *(f"    {row}" for row in table)])


def stdin_hint(failures: Iterable[RankFailure], reader: int | None) -> str:
    """Return how to give a standard input to ranks that failed without one; "" if there are none. `reader` has one."""
    ranks = [each.rank for each in failures if each.rank != reader and any(map(_is_end_of_input, _lines(each)))]
    if not ranks:
        return ""
    verb = "has" if len(ranks) == 1 else "have"
    return (
        f"{format_ranks(ranks)} {verb} no standard input, which input() and breakpoint() need. "
        f"--stdin RANK gives meshlog's to one rank"
    )


def _is_end_of_input(line: str) -> bool:
    return line == "EOFError: EOF when reading a line" or line.startswith("bdb.BdbQuit")


def _with_groups(head: str, failures: Sequence[RankFailure], start: float) -> str:
    groups: dict[tuple[str, str], list[RankFailure]] = {}
    for failure in failures:
        groups.setdefault((_cause(failure), _exception(failure).partition(":")[0]), []).append(failure)
    text = [head]
    for (cause, _), members in groups.items():
        first = members[0]
        later = f", {first.when - start:.1f} s later" if first.when - start >= 0.05 else ""
        said = _exception(first) or next(iter(_lines(first)[-1:]), "")
        said = f": {said}" if said and not _is_interrupted(first) else ""
        text.append(f"    {format_ranks(member.rank for member in members)}: {cause}{later}{said}")
    return "\n".join(text)


def _cause(failure: RankFailure) -> str:
    cause = signal_name(failure.exitcode)
    if failure.exitcode is not None and 128 < failure.exitcode < 128 + signal.NSIG:
        # The exit code of a shell whose command was killed.
        return f"{cause} ({signal_name(128 - failure.exitcode)})"
    return cause


def _is_interrupted(failure: RankFailure) -> bool:
    return failure.exitcode in _INTERRUPTED or _exception(failure).startswith("KeyboardInterrupt")


def _lines(failure: RankFailure) -> list[str]:
    """Return the last lines without colours and line feeds."""
    return [strip_ansi_text(line) for text in failure.last_lines for line in text.splitlines()]


def _exception(failure: RankFailure) -> str:
    """Return the last line of the last traceback among the last lines, or ""."""
    lines = _lines(failure)
    start = max((index for index, line in enumerate(lines) if HEAD in line), default=None)
    if start is None:
        return ""
    margin = lines[start].partition("Traceback")[0]
    for line in lines[start + 1 :]:
        line = line.removeprefix(margin)
        if line and not line[0].isspace():
            return line
    return ""


def _clock(when: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(when))}.{int(when % 1 * 1000):03d}"
