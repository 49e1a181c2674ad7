"""Passes records at the client to complete files first, then to groups, then to handlers. Client thread only."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

from ..grouping.aggregator import Aggregator
from ..output.console import ConsoleHandler, flush_shown, keeping, show_kept
from ..output.prompts import LOOK_SEC
from ..protocol.decode import Item
from ..protocol.record import MeshInfo, MeshRecord
from ..system.waits import monotonic
from .era import Era
from .sink import Sink, Tap
from .sinks import Sinks

if TYPE_CHECKING:
    from ..output.rank_files import RankFiles

_COUNT_SEC: Final = 5.0
OWN_NAME: Final = "meshlog"
"""The logger name of the client's own records, such as exit reports and dropped records."""

_OWN_ROUTE: Final = (None, OWN_NAME)

KEEP: Final = -1.0
"""In place of a window: do not change it."""


Sentinel = tuple[Any, int]
"""The peer whose stream has the sentinel, and the number of the flush."""


class Dispatcher:
    """Writes all items to `files`, and shows them by the sinks of their routes.

    `never` and `hide` are regular expressions for lines that are not grouped, and for lines that are not shown but written to
    the files. `first_level` and `digests`, which is for relays, are those of the `Aggregator`. `handle` gets the
    sinks and each record that they are to show; None: the sinks get it at once.
    """

    def __init__(
        self,
        sinks: Sinks,
        files: RankFiles | None = None,
        *,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
        digests: bool = False,
        first_level: int = logging.WARNING,
        handle: Callable[[Sequence[Sink], logging.LogRecord], object] | None = None,
    ) -> None:
        self.files = files
        self._handle = handle
        self._tap: Tap | None = None
        self._tap_level, self._noted = float("inf"), float(logging.ERROR)
        self.shown = 0  # records given to handlers; a record that several sinks show counts once
        self.errors = 0  # those of them of level ERROR and above
        self.abandoned = False  # handlers get no more records, because no caller waits for them. Any thread may set it.
        # Set when the unshown records of an abandoned client are counted. Until then, the client thread discards no record.
        self.counted = threading.Event()
        self._held = 0  # records held by a thread that waits for `counted`
        self._withheld = 0  # records that handlers did not get since
        self._giving: tuple[Sequence[logging.LogRecord], Iterator[logging.LogRecord]] = (), iter(())
        self._sinks = sinks
        self._flushed_at = 0
        self._unwritten = False
        self._hidden = 0
        self._never, self._hide = tuple(never), tuple(hide)
        self._digests, self._first_level = digests, first_level
        self._version = -1
        self._found: dict[Any, tuple[Sink, ...]] = {}
        self._grouping: tuple[Sink, ...] = ()
        self.eras: list[Era] = []
        self._within = False  # whether the settings of an earlier era apply
        self._refresh()

    # -- sinks -----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Update the lists of sinks. A sink with a window or a pattern to hide gets an aggregator."""
        self._version = self._sinks.version
        self._found.clear()
        grouping = []
        for sink in self._sinks.all():
            sink.tap = self._tap
            if self._within:
                grouping += [sink] if sink.aggregator is not None else []
                continue
            if sink.aggregator is None and (sink.window is not None or self._hide):
                sink.aggregator = Aggregator(
                    sink.window, never=self._never, hide=self._hide, digests=self._digests, first_level=self._first_level
                )
            if sink.aggregator is not None:
                grouping.append(sink)
            sink.direct = sink.number > 0 and sink.aggregator is None and not self._sinks.never_direct
        self._grouping = tuple(grouping)

    @property
    def tap(self) -> Tap | None:
        """Gets each shown record of `tap_level` and above, before the handlers do."""
        return self._tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        self._tap = tap
        self._refresh()

    @property
    def tap_level(self) -> float:
        """The lowest level of the records that the tap gets: for others, it costs nothing. Infinite: it gets none."""
        return self._tap_level

    @tap_level.setter
    def tap_level(self, level: float) -> None:
        self._tap_level, self._noted = level, min(level, logging.ERROR)

    def _sinks_of(self, template: Any) -> tuple[Sink, ...]:
        """Return the sinks that show the records of a template."""
        route = template.route
        try:
            return self._found[route]
        except KeyError:
            found = self._found[route] = self._sinks.find(*route)
        if self._version != self._sinks.version:  # `find` has created a narrowed sink
            self._refresh()
        return found

    @property
    def window(self) -> float | None:
        """The shortest window of all sinks, or None if a sink shows each line at once."""
        windows = [sink.window for sink in self._sinks.all()]
        return None if None in windows else min(filter(None, windows), default=None)

    def switch(self, window: float | None, default: Sink | None = None) -> Era | None:
        """Group within `window` seconds (`KEEP`: as before) and use another default sink from now on.

        Return the previous settings, for use until `end_era`, or None if the settings do not change.
        """
        sinks = self._sinks.all()
        if default is None and (window == KEEP or all(sink.window == window for sink in sinks)):
            return None
        era = Era(self._sinks.default, {sink: sink.aggregator for sink in sinks if sink.aggregator is not None})
        self.eras.append(era)
        for sink in sinks:
            sink.aggregator = None
        if default is not None:
            self._sinks.set_default(default)
        if window != KEEP:
            for sink in self._sinks.all():
                sink.window = window
        self._refresh()
        return era

    def end_era(self, era: Era) -> None:
        """Show the pending groups of an era, which gets no more records."""
        self.eras.remove(era)
        for sink, aggregator in era.aggregators.items():
            self._deliver(sink, aggregator.flush())
            self._hidden += aggregator.hidden
        if era.default is not None and era.default is not self._sinks.default:
            era.default.flush()  # ticks no longer flush it

    @contextlib.contextmanager
    def within(self, era: Era | None) -> Iterator[None]:
        """Apply the settings of an era in this context."""
        if era is None:
            yield
            return
        now = Era(self._sinks.default, {sink: sink.aggregator for sink in self._sinks.all() if sink.aggregator is not None})
        self._within = True
        self._set(era)
        try:
            yield
        finally:
            self._set(now)
            self._within = False
            self._refresh()
            if era.default is not None and era.default is not now.default:
                era.default.flush(per_tick=True)

    def _set(self, era: Era) -> None:
        self._sinks.default = era.default
        for sink in self._sinks.all():
            sink.aggregator = era.aggregators.get(sink)
        self._refresh()

    def _pending(self) -> list[tuple[Sink, Aggregator]]:
        """Return the sinks with aggregators, those of earlier eras first."""
        pending = [pair for era in self.eras for pair in era.aggregators.items()]
        return [*pending, *((sink, sink.aggregator) for sink in self._grouping if sink.aggregator is not None)]

    @property
    def hidden(self) -> int:
        """The number of records that matched a hide pattern, or that came from workers that are not streamed."""
        return self._hidden + sum(aggregator.hidden for _, aggregator in self._pending())

    @property
    def deadline(self) -> float | None:
        """The time at which `expire` has something to show or `end_tick` is to look for a debugger's prompt, or None."""
        deadlines = [aggregator.deadline for _, aggregator in self._pending()]
        first = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if keeping:
            look = monotonic() + LOOK_SEC
            return look if first is None else min(first, look)
        return first

    @property
    def busy(self) -> object:
        """The handler that the client thread is calling, or None. Any thread may read it."""
        return next((sink.busy for sink in self._sinks.all() if sink.busy is not None), None)

    # -- records ---------------------------------------------------------------------------------------------------

    def dispatch(self, items: Iterable[Item], now: float) -> list[Sentinel]:
        """Show `items`; return the flush sentinels among them."""
        if self._version != self._sinks.version:
            self._refresh()
        sentinels: list[Sentinel] = []
        if self.files is None and not self._grouping:
            for _, template, values in items:
                if template is None:
                    sentinels.append(values)
                elif template.ordinary or not template.is_shown(values):
                    sinks = self._sinks_of(template)
                    if not self._give_line(sinks, template, values):
                        self._give(sinks, template.build(values))
                else:
                    self._end_bar(template, values)
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
            if template.captured and self._grouping and template.is_whole(values):
                self._end_bar(template, values)
                captured = template
                lines.append(values)
                continue
            self._dispatch_one(template, values, now)
        if lines:
            self._group(captured, lines, now)
        return sentinels

    def _dispatch_one(self, template: Any, values: tuple[Any, ...], now: float) -> None:
        if not template.ordinary:
            self._end_bar(template, values)
            if template.is_shown(values):
                return
        alone = not template.ordinary and (template.captured or template.alone)
        digest = not template.ordinary and not alone and template.digest
        at_once: list[Sink] = []
        for sink in self._sinks_of(template):
            aggregator = sink.aggregator
            if aggregator is None or alone:
                if aggregator is not None:
                    self._deliver(sink, aggregator.ahead_of(template, now))
                at_once.append(sink)
            else:
                self._deliver(sink, (aggregator.add_digest if digest else aggregator.add)(template, values, now))
        if at_once:
            self._give(at_once, template.build(values))

    def _end_bar(self, template: Any, values: tuple[Any, ...], *, hidden: bool = False) -> None:
        """Notify consoles of a line that ends a progress state, because the line may be shown later or not at all."""
        # Every state of a `hidden` stream ends the progress state on display, which is then no longer drawn.
        if template.ends_bar(values) or (hidden and template.has_bar(values)):
            record = template.build(values)
            if hidden:
                record.meshlog = record.meshlog.but(bar_ends="dropped")
            for sink in self._sinks_of(template):
                sink.end_bar(record)
            if self._tap is not None:
                self._tap.end_bar(record)
            self._flushed_at = -1  # makes `end_tick` flush

    def count(self, items: list[Item], now: float) -> list[Item]:
        """Add the records that open groups only count, and return the other items. Calls no handler."""
        # These are records whose arguments are numbers. They cost almost nothing, and their order does not matter. A group that
        # is shown early, to limit memory, may include records that came after it.
        if self.files is not None or not self._grouping or self._version != self._sinks.version:
            return items
        rest: list[Item] = []
        calls: dict[Any, list[Any] | None] = {None: None}  # sentinels have no template and are not counted
        for item in items:
            _, template, values = item
            try:
                known = calls[template]
            except KeyError:
                known = calls[template] = [] if self._counts(template, values, now) else None
            if known is None:
                rest.append(item)
            else:
                known.append(values)
        for template, lines in calls.items():
            if lines:
                aggregator = self._sinks_of(template)[0].aggregator
                assert aggregator is not None  # `_counts` has checked it
                aggregator.add_calls(template, lines)
        return rest

    def _counts(self, template: Any, values: tuple[Any, ...], now: float) -> bool:
        if not template.ordinary:
            return False
        sinks = self._sinks_of(template)
        return len(sinks) == 1 and (aggregator := sinks[0].aggregator) is not None and aggregator.counts(template, values, now)

    def _group(self, template: Any, lines: list[Any], now: float) -> None:
        """Show or group complete captured lines of one stream."""
        for sink in self._sinks_of(template):
            if sink.aggregator is not None:
                self._deliver(sink, sink.aggregator.add_lines(template, lines, now))
            else:
                self._deliver(sink, [template.build(values) for values in lines])

    def write_only(self, items: Iterable[Item]) -> list[Sentinel]:
        """Write `items` to the files without showing them, and count them as hidden; return the flush sentinels among them."""
        sentinels: list[Sentinel] = []
        for _, template, values in items:
            if template is None:
                sentinels.append(values)
                continue
            if not template.ordinary:
                self._end_bar(template, values, hidden=True)
            self._hidden += 1 if not template.captured or template.line(values).final else 0
            if self.files is not None:
                self._write(self.files, template, values)
        return sentinels

    def _write(self, files: RankFiles, template: Any, values: tuple[Any, ...]) -> None:
        self._unwritten = True
        if not template.captured:
            files.record(template.rank, template.build(values))
        elif (line := template.line(values)).final:
            files.line(template.rank, template.info.stream, line.raw)

    def _deliver(self, sink: Sink, records: Sequence[logging.LogRecord]) -> None:
        left = iter(records)
        self._giving = records, left
        for record in left:
            if self.abandoned:
                self._await_count(record)
                return
            self._give((sink,), record)

    def abandon(self, seconds: float) -> None:
        """Let handlers get no more records: another client shows them. Any thread. `seconds`: see `MarkingDispatcher`."""
        self.abandoned = True
        self.counted.set()

    def _await_count(self, record: logging.LogRecord) -> None:
        """Wait until the unshown records, including this one, are counted."""
        self._withheld += 1
        if not self.counted.is_set():
            self._held = _count_of(record)
            self.counted.wait(_COUNT_SEC)
            self._held = 0

    def _give(self, sinks: Sequence[Sink], record: logging.LogRecord) -> None:
        if self.abandoned:
            self._await_count(record)
            return
        self.shown += 1
        if record.levelno >= self._noted:
            self._note_shown(sinks, record)
        if self._handle is not None:
            self._handle(sinks, record)
            return
        for sink in sinks:
            sink.deliver(record)

    def _note_shown(self, sinks: Sequence[Sink], record: logging.LogRecord) -> None:
        """Count an error; pass a record to the tap if it is to get it."""
        self.errors += record.levelno >= logging.ERROR
        if self._tap is not None and sinks and record.levelno >= self._tap_level:
            self._tap.handle(record)

    def _give_line(self, sinks: Sequence[Sink], template: Any, values: tuple[Any, ...]) -> bool:
        """Show the text of a line on a console without making a record; return False if it needs one."""
        if self.abandoned or self._handle is not None or len(sinks) != 1 or template.levelno >= self._tap_level:
            return False
        handlers = sinks[0].handlers
        if len(handlers) != 1 or type(handlers[0]) is not ConsoleHandler:
            return False
        text = template.line_of(values)
        if text is None:
            return False
        self.shown += 1
        if sinks[0].deliver_line(text, template.info, template.levelno):
            self.errors += template.levelno >= logging.ERROR
            return True
        self.shown -= 1
        return False

    @property
    def waiting(self) -> int:
        """The number of records that wait for a blocked handler, including its own. Any thread may read it meanwhile."""
        records, left = self._giving
        held = sum(_count_of(record) for record in records[len(records) - length_hint(left) :])
        groups = {sink.aggregator for sink in self._grouping}.union(*(era.aggregators.values() for era in self.eras))
        return held + sum(each.pending for each in groups if each is not None) + (self.busy is not None) + self._held

    def show(self, record: logging.LogRecord) -> None:
        """Give one record to the handlers that show records of its logger."""
        self._give(self._sinks.find(None, record.name), record)

    def log(self, level: int, text: str, rank: int | None = None, pid: int | None = None) -> None:
        """Show a record of the client itself, about a rank after what is held of it."""
        info = MeshInfo(rank)
        fields = {
            **logging.makeLogRecord({}).__dict__,
            **info.attributes(),
            "name": OWN_NAME,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": text,
            "args": (),
            "created": time.time(),
            "process": pid,
        }
        record = MeshRecord.of(fields, info)
        if self.files is not None:
            self.files.record(rank, record)
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.end(rank, monotonic(), whole=rank is None))
        self._give(self._sinks.find(*_OWN_ROUTE), record)

    def took(self, size: int) -> None:
        """Note that records of `size` bytes were added; show groups that take too much memory."""
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.took(size))

    # -- time ------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Show the groups whose windows have ended."""
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.expire(now))

    def end_tick(self) -> None:
        """Flush the records that handlers and files buffered during this tick."""
        if self._sinks.routed:
            self._found.clear()  # the sinks of some records depend on loggers, which may change at any time
        if self.shown != self._flushed_at:
            self._flushed_at = self.shown
            for sink in self._sinks.all():
                sink.flush(per_tick=True)
            flush_shown()
        for console in tuple(keeping):
            console.flush()
        if self._unwritten and self.files is not None:
            self._unwritten = False
            self.files.flush()

    def flush(self) -> None:
        """Show every pending group; flush every handler and file."""
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.flush())
        for sink in self._sinks.all():
            sink.flush()
        flush_shown()
        show_kept()
        if self.files is not None:
            self.files.flush()

    def close(self) -> None:
        """Close the files. The handlers stay open and, from now on, show records on the threads that log them."""
        if self.files is not None:
            self.files.close()
        for sink in self._sinks.all():
            sink.direct = sink.number > 0


def _count_of(record: logging.LogRecord) -> int:
    """Return the number of records that a record represents."""
    return getattr(getattr(record, "meshlog", None), "count", None) or 1
