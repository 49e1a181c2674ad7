"""What becomes of a record at the client: complete files first, then grouping, then the handlers. Client's thread alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from .aggregate import Aggregator
from .capture import diagnose
from .mesh_record import MeshRecord
from .named_handlers import ShownBy
from .source import Source
from .thaw import Item

if TYPE_CHECKING:
    from .rank_files import RankFiles

OWN_NAME: Final = "meshlog"
"""The logger name of what the mesh itself has to say: deaths, drops."""


class Show:
    """Shows items to handlers.

    Parameters
    ----------
    handlers : sequence of handlers
        Called for every record shown, in order.
    respect_handler_level : bool
        Whether a handler gets only records of its own level and above.
    files : RankFiles or None
        Gets everything, before any grouping.
    never, hide : sequence of str
        Regular expressions: lines never grouped, and lines not shown (the files have them).
    digests : bool
        Whether a client above merges on what is grouped here (see `Aggregator`).
    """

    def __init__(
        self,
        handlers: Sequence[ShownBy],
        respect_handler_level: bool,
        files: RankFiles | None,
        window: float | None,
        never: Sequence[str],
        hide: Sequence[str],
        digests: bool = False,
    ) -> None:
        self.files = files
        self.shown = 0
        self._flushed_at = 0
        self._unwritten = False
        self._hidden = 0
        self._never, self._hide = tuple(never), tuple(hide)
        self._digests = digests
        self._complained: set[int] = set()
        self._aggregator: Aggregator | None = None
        self.set_handlers(handlers, respect_handler_level)
        self.set_window(window)

    def set_handlers(self, handlers: Sequence[ShownBy], respect_handler_level: bool) -> None:
        """Show by other handlers from now on."""
        self._handlers = tuple(handlers)
        self._respect = respect_handler_level

    def set_window(self, window: float | None) -> None:
        """Group within `window` seconds from now on (None: show each line at once); first show what is pending."""
        self.window = window
        aggregator = self._aggregator
        if aggregator is not None:
            for record in aggregator.set_window(window):
                self.show(record)
            if window is None and not self._hide:
                self._hidden += aggregator.hidden
                self._aggregator = None
        elif window is not None or self._hide:
            self._aggregator = Aggregator(window, never=self._never, hide=self._hide, digests=self._digests)

    @property
    def hidden(self) -> int:
        """Records that a hide pattern held back."""
        return self._hidden + (self._aggregator.hidden if self._aggregator is not None else 0)

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to show, or None."""
        return self._aggregator.deadline if self._aggregator is not None else None

    def dispatch(self, items: Sequence[Item], now: float) -> list[tuple[Source, int]]:
        """Show `items`; return the flush sentinels that were among them."""
        sentinels: list[tuple[Source, int]] = []
        aggregator = self._aggregator
        if self.files is None and aggregator is None:
            show = self.show
            for _, template, values in items:
                if template is None:
                    sentinels.append(values)
                elif not (template.captured and template.is_shown(values)):
                    show(template.build(values))
            return sentinels
        captured: Any = None
        lines: list[Any] = []
        for _, template, values in items:
            if lines and template is not captured:
                self._group(captured, lines, now)
                lines = []
            if template is None:
                sentinels.append(values)
                continue
            if self.files is not None:
                self._write(self.files, template, values)
            if not template.ordinary:
                if template.captured and aggregator is not None and template.is_whole(values):
                    captured = template
                    lines.append(values)
                    continue
                if lines:
                    self._group(captured, lines, now)
                    lines = []
                self._dispatch_odd(template, values, now)
            elif aggregator is None:
                self.show(template.build(values))
            else:
                for record in aggregator.add(template, values, now):
                    self.show(record)
        if lines:
            self._group(captured, lines, now)
        return sentinels

    def count(self, items: list[Item], now: float) -> list[Item]:
        """Take out the records that are only counted, by groups that have begun; return the rest. Calls no handler.

        Those whose arguments are numbers: they cost next to nothing, and what is said of them has no order. A group that is
        shown before its time, for want of room, may tell of records that came after it.
        """
        aggregator = self._aggregator
        if self.files is not None or aggregator is None:
            return items
        rest: list[Item] = []
        calls: dict[Any, list[Any] | None] = {None: None}  # of sentinels, which have no template, none is counted
        for item in items:
            _, template, values = item
            try:
                known = calls[template]
            except KeyError:
                known = calls[template] = [] if template.ordinary and aggregator.counts(template, values, now) else None
            if known is None:
                rest.append(item)
            else:
                known.append(values)
        for template, lines in calls.items():
            if lines:
                aggregator.add_calls(template, lines)
        return rest

    def _group(self, template: Any, lines: list[Any], now: float) -> None:
        """Show, or hold back, complete captured lines of one stream."""
        assert self._aggregator is not None  # or else they were not put together
        for record in self._aggregator.add_lines(template, lines, now):
            self.show(record)

    def _dispatch_odd(self, template: Any, values: tuple[Any, ...], now: float) -> None:
        """Show what is left of a captured line, or what a relay passes on."""
        if template.captured and template.is_shown(values):
            return
        aggregator = self._aggregator
        if aggregator is None or template.captured or template.alone:
            self.show(template.build(values))
            return
        add = aggregator.add_digest if template.digest else aggregator.add
        for record in add(template, values, now):
            self.show(record)

    def write_only(self, items: Sequence[Item]) -> list[tuple[Source, int]]:
        """Write `items` to the files and show nothing; return the flush sentinels among them."""
        for _, template, values in items:
            if template is not None and self.files is not None:
                self._write(self.files, template, values)
        return [values for _, template, values in items if template is None]

    def _write(self, files: RankFiles, template: Any, values: tuple[Any, ...]) -> None:
        self._unwritten = True
        if not template.captured:
            files.record(template.rank, template.build(values))
        elif (line := template.line(values)).final:
            files.line(template.rank, template.base["stream"], line.raw)

    def show(self, record: logging.LogRecord) -> None:
        """Give one record to the handlers. One that raises is reported once, and the others get the record."""
        self.shown += 1
        level = record.levelno
        for handler in self._handlers:
            try:
                if not self._respect or level >= handler.level:
                    handler.handle(record)
            except Exception as failure:
                if id(handler) not in self._complained:
                    self._complained.add(id(handler))
                    diagnose(f"handler {handler!r} raises, here and silently from now on: {type(failure).__name__}: {failure}")

    def say(self, level: int, text: str, rank: int | None = None, pid: int | None = None) -> None:
        """Show a record of the mesh's own."""
        record = MeshRecord.__new__(MeshRecord)
        record.__dict__ = {
            **logging.makeLogRecord({}).__dict__,
            "name": OWN_NAME,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": text,
            "args": (),
            "created": time.time(),
            "process": pid,
            "rank": rank,
            "local_rank": None,
            "hostname": None,
            "coords": {},
            "stream": None,
        }
        if self.files is not None:
            self.files.record(rank, record)
        self.show(record)

    def expire(self, now: float) -> None:
        """Show the groups whose window has ended."""
        if self._aggregator is not None:
            for record in self._aggregator.expire(now):
                self.show(record)

    def end_tick(self) -> None:
        """Let handlers pass on what they buffered during this tick."""
        if self.shown != self._flushed_at:
            self._flushed_at = self.shown
            for handler in self._handlers:
                if getattr(handler, "flush_per_tick", False):
                    self._flush(handler)
        if self._unwritten and self.files is not None:
            self._unwritten = False
            self.files.flush()

    def flush(self) -> None:
        """Show every pending group and flush every handler and file."""
        if self._aggregator is not None:
            for record in self._aggregator.flush():
                self.show(record)
        for handler in self._handlers:
            self._flush(handler)
        if self.files is not None:
            self.files.flush()

    def _flush(self, handler: ShownBy) -> None:
        try:
            handler.flush()
        except Exception as failure:
            if id(handler) not in self._complained:
                self._complained.add(id(handler))
                diagnose(f"handler {handler!r} cannot flush: {type(failure).__name__}: {failure}")

    def close(self) -> None:
        """Close the files. The handlers are their owners'."""
        if self.files is not None:
            self.files.close()
