"""``meshlog follow``: shows what a running client shows, with filters, grouping and another format."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...dispatch.dispatcher import Dispatcher
from ...dispatch.sink import Sink
from ...dispatch.sinks import Sinks
from ...errors import printable
from ...lines.framer import strip_ansi_text
from ...output.console import ConsoleHandler, flushing_threads
from ...output.json_formatter import JsonFormatter
from ...output.terminal import Output
from ...protocol.decode import Item
from ...protocol.ranks import format_ranks
from ...system.waits import deadline_after, monotonic, seconds_until
from ..messages import note
from .observer import Observer

_TOLD_SEC: Final = 5.0
_TICK_SEC: Final = 0.25
_READ_SEC: Final = 1.0
_MAX_LINE: Final = 1 << 20


@dataclass(frozen=True)
class Filters:
    """What to show: records of `level` and above and of `ranks` (None: all), whose text has a match of `pattern`."""

    level: int = 0
    ranks: frozenset[int] | None = None
    pattern: re.Pattern[str] | None = None
    window: float | None = None
    backlog: int = 0


class SafeOutput:
    """Writes to stdout; escapes all that a terminal could take for a command."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write a text."""
        safe = "\n".join(printable(line, _MAX_LINE) for line in strip_ansi_text(text).split("\n"))
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(safe.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def isatty(self) -> bool:
        """Return False: no progress bar is drawn here."""
        return False

    def flush(self) -> None:
        """Flush stdout."""
        sys.stdout.flush()


class _Console(ConsoleHandler):
    """Writes nothing after the first error of its output, which it keeps in `failure`."""

    failure: BaseException | None = None

    def _write(self, output: Output, parts: list[str | bytes], count: int) -> None:
        if self.failure is None:
            try:
                output.write(parts)
            except BaseException as failure:  # Ctrl-C, too: see `_uninterrupted`
                self.failure = failure


def follow(observer: Observer, filters: Filters, *, as_json: bool) -> None:
    """Show what the client shows until it ends. Errors of stdout propagate."""
    output: Any = sys.stdout if as_json else SafeOutput()
    console = _Console(output, output, JsonFormatter() if as_json else None)
    dispatcher = Dispatcher(Sinks(Sink((console,), window=filters.window)))
    flushing_threads[threading.get_ident()] = set()
    observer.start_following(filters.level, filters.ranks, filters.backlog)
    if filters.ranks is not None:
        note_absent(filters.ranks, observer.about()["ranks"])
    left_out, told, due = _LeftOut(observer, filters), 0, 0.0
    while (items := observer.items(_seconds(dispatcher.deadline))) is not None:
        now = monotonic()
        with _uninterrupted():  # the dispatcher would take Ctrl-C for a failure of its handler
            dispatcher.dispatch([item for item in items if filters.pattern is None or _has(item, filters.pattern)], now)
            dispatcher.expire(now)
            dispatcher.end_tick()
        if console.failure is not None:
            raise console.failure
        if observer.dropped > told and now >= due:
            note(f"{left_out.more()} are left out: they are shown faster than this command reads them")
            told, due = observer.dropped, deadline_after(_TOLD_SEC)
    dispatcher.flush()
    console.finish()
    del flushing_threads[threading.get_ident()]
    if console.failure is not None:
        raise console.failure
    if observer.dropped > told:
        note(f"{left_out.more()} were left out: they were shown faster than this command read them")


def note_absent(wanted: Collection[int], known: Sequence[int]) -> None:
    """Say which ranks the run does not have: they are shown if they join."""
    absent = set(wanted).difference(known)
    if absent:
        has = f"it has {format_ranks(known)}" if known else "no rank has joined it yet"
        note(f"this run has no {format_ranks(absent)}: {has}. A rank that joins later is shown")


class _LeftOut:
    """What an observer has missed, in words."""

    def __init__(self, observer: Observer, filters: Filters) -> None:
        self._observer = observer
        self._at_most = "up to " if filters.level or filters.ranks is not None else ""
        self._records = self._errors = 0

    def more(self) -> str:
        """Return what was left out since the last call."""
        records, errors = self._observer.dropped - self._records, self._observer.dropped_errors - self._errors
        self._records, self._errors = self._observer.dropped, self._observer.dropped_errors
        return f"{self._at_most}{records:,} records ({self._at_most if errors else ''}{errors:,} of level ERROR or above)"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the end of this context if Ctrl-C came within it.

    A write to stdout ends at a second one, or `_READ_SEC` later: nothing reads it.
    """
    came: list[int] = []

    def note_it(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, note_it)
        signal.setitimer(signal.ITIMER_REAL, _READ_SEC)

    before = signal.signal(signal.SIGINT, note_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.setitimer(signal.ITIMER_REAL, 0)
    if came:
        raise KeyboardInterrupt


def _seconds(deadline: float | None) -> float | None:
    return None if deadline is None else min(_TICK_SEC, seconds_until(deadline))


def _has(item: Item, pattern: re.Pattern[str]) -> bool:
    _, template, values = item
    if template is None or template.is_shown(values):
        return True
    record = template.build(values)
    text = record.getMessage()
    return pattern.search(f"{text}\n{record.exc_text}" if record.exc_text else text) is not None
