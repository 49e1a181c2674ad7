"""How procs ended, in words. Pure: told of ends and exit codes, in whatever order they become known."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

from ..grouping.sizes import size_of
from ..protocol.decode import Item
from ..system.exit_status import signal_name
from ..system.signals import STOPPING

_MAX_ITEM: Final = 8192
_MAX_TEXT: Final = 2048

WORD_SEC = 15.0
"""Seconds a proc's end waits for its owner to say how it came: Monarch looks every ten seconds."""


class ExitedPeer(Protocol):
    """What an exit report is about.

    Attributes
    ----------
    exitcode : int or None
        Negative: the signal; None: not known.
    uncaught : str or None
        The uncaught exception by which the interpreter ended, in a line; "" if it ended in order; None if it did not end
        by itself, as far as is known.
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
    """What to say about the end of a proc."""

    level: int
    text: str


class ExitReports:
    """Brings together that a proc has been heard to its end, and how it ended. One owner."""

    def __init__(self) -> None:
        self._drained: dict[tuple[str, int | None], tuple[float, ExitedPeer | None]] = {}
        self._exits: dict[tuple[str, int | None], int] = {}

    def drained(self, ended: ExitedPeer, now: float) -> ExitReport | None:
        """Note that everything of a proc has been shown; return what to say of its end, None if nothing, or not yet."""
        key = ended.mesh, ended.rank
        exited = self._exits.pop(key, None)
        if exited is not None:
            return _by_owner(ended, exited)
        report = exit_report(ended)
        if not ended.mesh:  # a guest has no owner
            return report
        said = ended.exitcode == 0 or (report is not None and report.level >= logging.ERROR and ended.exitcode is not None)
        self._drained[key] = now + WORD_SEC, None if said else ended
        return report if said else None

    def exited(self, mesh: str, rank: int, exitcode: int) -> tuple[ExitedPeer, ExitReport | None] | None:
        """Note how a proc ended; return it and what to say, if it was heard to its end before and nothing was said then."""
        drained = self._drained.pop((mesh, rank), None)
        if drained is None:
            self._exits[mesh, rank] = exitcode
            return None
        ended = drained[1]
        return None if ended is None else (ended, _by_owner(ended, exitcode))

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to return or to forget, or None."""
        return min((deadline for deadline, _ in self._drained.values()), default=None)

    def expire(self, now: float) -> list[tuple[ExitedPeer, ExitReport]]:
        """Return what is known of ends of which no owner has said more, and forget them.

        An end of which nothing is known is left to the owner to tell: its engine may have ended the proc in order.
        """
        late = [key for key, (deadline, _) in self._drained.items() if now >= deadline]
        ends = [ended for _, ended in map(self._drained.pop, late) if ended is not None and ended.exitcode is not None]
        return [(ended, report) for ended in ends if (report := exit_report(ended)) is not None]


def exit_report(ended: ExitedPeer) -> ExitReport | None:
    """Tell a crash from an end that the process or its parent has chosen, by all that is known."""
    code = ended.exitcode
    if code == 0:
        return None
    if ended.uncaught:
        how = f"{signal_name(code)} (uncaught {ended.uncaught})" if code is not None else f"uncaught {ended.uncaught}"
        return _error(ended, f"ended by {how}")
    if ended.uncaught is None and code is None:
        return _error(ended, "is gone; the cause is not known to this process")
    if code is None or code > 0:
        if ended.uncaught is not None:
            return None  # it ran its exit functions: sys.exit(3) is its choice
        return ExitReport(logging.INFO, f"{_name(ended)} ended by {signal_name(code)}")
    if -code in STOPPING:
        return None  # a pool that ends, a service manager, Ctrl-C
    return _error(ended, f"ended by {signal_name(code)}")


def _by_owner(ended: ExitedPeer, exited: int) -> ExitReport | None:
    """Its owner expects every proc to end with 0, or says 0 of what it has ended itself."""
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
    """Return an item that `last_lines` spells, in place of one that takes much memory."""
    when, template, values = item
    if template is None or size_of(values) + size_of(template.base.get("msg")) <= _MAX_ITEM:
        return item
    return when, _Abridged(template, values), ()


class _Abridged:
    """The beginning of a long line or record, spelled."""

    __slots__ = ("captured", "final", "info", "text")

    def __init__(self, template: Any, values: Any) -> None:
        text = _spell(template.build(values))
        self.text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... [{len(text) - _MAX_TEXT:,} more characters]"
        self.info = template.info
        self.captured = template.captured
        self.final = not template.captured or template.line(values).final

    def line(self, _: object) -> _Abridged:
        """Return what says whether the line is complete."""
        return self


def last_lines(tail: Iterable[Item]) -> list[str]:
    """Return the last lines of a proc as they were shown, tracebacks by their last line."""
    # Read from a pipe and from a connection, they come in no order.
    in_time = sorted(tail, key=itemgetter(0))
    items = [(template, values) for _, template, values in in_time if template is not None]
    newest = {template.info.stream: place for place, (template, _) in enumerate(items) if template.captured}
    # A state that was replaced, or grew into a line, is no line; the newest of a stream is what it said last.
    return [
        template.text if isinstance(template, _Abridged) else _spell(template.build(values))
        for place, (template, values) in enumerate(items)
        if not template.captured or template.line(values).final or newest[template.info.stream] == place
    ]


def _spell(record: Any) -> str:
    text = record.getMessage().rstrip("\n")
    if record.exc_text:
        text = f"{text}: {record.exc_text.rstrip().rpartition(chr(10))[2]}"
    return text if record.meshlog.stream else f"{logging.getLevelName(record.levelno)} {record.name}: {text}"
