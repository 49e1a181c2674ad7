"""Exit reports: how workers ended, as text. Pure: ends and exit codes may become known in either order."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

from ..grouping.sizes import size_of
from ..protocol.decode import Item
from ..system.exit_status import signal_name
from ..system.signals import STOPPING

MAX_ITEM: Final = 8192
"""Bytes of a line or record beyond which only its beginning is kept."""

_MAX_TEXT: Final = 2048
_REPLACED: Final = 155
"""The exit code of a worker of billiard, and so of Celery, that has done its number of tasks (``maxtasksperchild``)."""

EXIT_CODE_SEC = 15.0
"""Seconds that an exit report waits for the exit code from the worker's owner. Monarch checks every ten seconds."""


class ExitedPeer(Protocol):
    """The worker that an exit report describes.

    Attributes
    ----------
    exitcode : int or None
        Negative: the number of the signal; None: unknown.
    uncaught : str or None
        One line about the uncaught exception that ended the interpreter. "": the interpreter exited normally. None: it did
        not end by itself, as far as is known.
    """

    rank: int | None
    pid: int
    mesh: str
    exitcode: int | None
    uncaught: str | None

    @property
    def tail(self) -> Iterable[Item]:
        """The last lines and records."""


class ExitReport(NamedTuple):
    """A line about the end of a worker."""

    level: int
    text: str


class ExitReports:
    """Joins two facts about a worker: all of its records are shown, and its exit code is known. One owner."""

    def __init__(self) -> None:
        self._drained: dict[tuple[str, int | None], tuple[float, ExitedPeer | None]] = {}
        self._exits: dict[tuple[str, int | None], int] = {}

    def drained(self, ended: ExitedPeer, now: float) -> ExitReport | None:
        """Note that all records of a worker are shown; return its exit report, or None if it has no report, or not yet."""
        key = ended.mesh, ended.rank
        exited = self._exits.pop(key, None)
        if exited is not None:
            return _by_owner(ended, exited)
        report = exit_report(ended)
        if not ended.mesh:  # a worker outside of a mesh has no owner
            return report
        reported = ended.exitcode == 0 or (report is not None and report.level >= logging.ERROR and ended.exitcode is not None)
        self._drained[key] = now + EXIT_CODE_SEC, None if reported else ended
        return report if reported else None

    def exited(self, mesh: str, rank: int | None, exitcode: int) -> tuple[ExitedPeer, ExitReport | None] | None:
        """Note an exit code; return the worker and its report if the worker is drained and its end not reported yet."""
        drained = self._drained.pop((mesh, rank), None)
        if drained is None:
            self._exits[mesh, rank] = exitcode
            return None
        ended = drained[1]
        return None if ended is None else (ended, _by_owner(ended, exitcode))

    @property
    def deadline(self) -> float | None:
        """When `expire` has entries to return or to remove, or None."""
        return min((deadline for deadline, _ in self._drained.values()), default=None)

    def expire(self, now: float) -> list[tuple[ExitedPeer, ExitReport]]:
        """Remove the workers whose owner has reported nothing in time; return the reports of those whose exit code is known.

        An unknown end is left to the owner, because its engine may have ended the process normally.
        """
        late = [key for key, (deadline, _) in self._drained.items() if now >= deadline]
        ends = [ended for _, ended in map(self._drained.pop, late) if ended is not None and ended.exitcode is not None]
        return [(ended, report) for ended in ends if (report := exit_report(ended)) is not None]


def exit_report(ended: ExitedPeer) -> ExitReport | None:
    """Return the report by all that is known: an error for a crash; INFO or None for an end by the process or its parent."""
    code = ended.exitcode
    if code in (0, _REPLACED):
        return None
    if ended.uncaught:
        how = f"{signal_name(code)} (uncaught {ended.uncaught})" if code is not None else f"uncaught {ended.uncaught}"
        return _error(ended, f"ended by {how}")
    if ended.uncaught is None and code is None:
        return _error(ended, "is gone; the cause is not known to this process")
    if code is None or code > 0:
        if ended.uncaught is not None:
            return None  # it ran its exit functions, as after sys.exit(3)
        return ExitReport(logging.INFO, f"{_name(ended)} ended by {signal_name(code)}")
    if -code in STOPPING:
        return None  # sent by a pool that ends, a service manager, Ctrl-C
    return _error(ended, f"ended by {signal_name(code)}")


def _by_owner(ended: ExitedPeer, exited: int) -> ExitReport | None:
    """Return the report by the owner's exit code. An owner expects 0, and reports 0 for a process that it has ended itself."""
    if ended.exitcode is None:
        ended.exitcode = exited
    return _error(ended, f"ended by {signal_name(ended.exitcode)}") if ended.exitcode else None


def _name(ended: ExitedPeer) -> str:
    return f"rank {ended.rank} (pid {ended.pid})"


def _error(ended: ExitedPeer, how: str) -> ExitReport:
    text = f"{_name(ended)} {how}"
    lines = last_lines(ended.tail)
    return ExitReport(logging.ERROR, "\n    ".join((f"{text}; its last lines:", *lines)) if lines else text)


def abridged(item: Item) -> Item:
    """Return an item that `last_lines` can format, in place of one that takes much memory."""
    when, template, values = item
    if template is None or size_of(values) + size_of(template.base.get("msg")) <= MAX_ITEM:
        return item
    return when, _Abridged(template, values), ()


class _Abridged:
    """The formatted beginning of a long line or record."""

    __slots__ = ("captured", "final", "info", "text")

    def __init__(self, template: Any, values: Any) -> None:
        text = _format(template.build(values))
        self.text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... [{len(text) - _MAX_TEXT:,} more characters]"
        self.info = template.info
        self.captured = template.captured
        self.final = not template.captured or template.line(values).final

    def line(self, _: object) -> _Abridged:
        """Return an object whose `final` says whether the line is complete."""
        return self


def last_lines(tail: Iterable[Item]) -> list[str]:
    """Return the last lines of a worker as they were shown, each traceback as its last line."""
    # Items of pipes and of the connection arrive in no common order.
    in_time = sorted(tail, key=itemgetter(0))
    items = [item for item in in_time if item[1] is not None]
    newest = {template.info.stream: place for place, (_, template, _) in enumerate(items) if template.captured}
    lines: list[str] = []
    before = None
    for place, (when, template, values) in enumerate(items):
        # A progress state that was replaced, or became a line, is left out, except the newest one of each stream.
        if template.captured and not template.line(values).final and newest[template.info.stream] != place:
            continue
        line = template.text if isinstance(template, _Abridged) else _format(template.build(values))
        if template.captured or (when, line) != before:  # else another MeshHandler has forwarded the same record
            lines.append(line)
        before = when, line
    return lines


def last_records(tail: Iterable[Item]) -> list[logging.LogRecord]:
    """Return the records and complete lines among the last ones, the oldest first. Long ones are left out."""
    return [
        template.build(values)
        for _, template, values in sorted(tail, key=itemgetter(0))
        if template is not None and not isinstance(template, _Abridged) and (template.ordinary or not template.is_shown(values))
    ]


def last_text(tail: Iterable[Item]) -> str:
    """Return the text of the last line or record, or "". A long one is cut."""
    items = [item for item in tail if item[1] is not None]
    if not items:
        return ""
    _, template, values = max(reversed(items), key=itemgetter(0))  # of equal times, the one that arrived last
    text: str = template.text if isinstance(template, _Abridged) else template.text(values)
    return text.rstrip("\n")[:_MAX_TEXT]


def _format(record: Any) -> str:
    text = record.getMessage().rstrip("\n")
    if record.exc_text:
        text = f"{text}: {record.exc_text.rstrip().rpartition(chr(10))[2]}"
    return text if record.meshlog.stream else f"{logging.getLevelName(record.levelno)} {record.name}: {text}"
