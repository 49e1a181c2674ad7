"""What becomes of a record at the client: complete files first, then grouping, then the handlers. Client's thread alone."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

from ..grouping.aggregator import Aggregator
from ..protocol.decode import Item
from ..protocol.record import MeshInfo, MeshRecord
from .era import Era
from .sink import Sink
from .sinks import Sinks

if TYPE_CHECKING:
    from ..client.peer import Peer
    from ..output.rank_files import RankFiles

_COUNT_SEC: Final = 5.0
OWN_NAME: Final = "meshlog"
"""The logger name of what the mesh itself has to say: deaths, drops."""

_OWN_ROUTE: Final = (None, OWN_NAME)


KEEP: Final = -1.0
"""In place of a window: as it is."""


class Dispatcher:
    """Shows items to handlers.

    Parameters
    ----------
    sinks : Sinks
        The handlers. Those of a record are found by the route of its template.
    files : RankFiles or None
        Gets everything, before any grouping.
    never, hide : sequence of str
        Regular expressions: lines never grouped, and lines not shown (the files have them).
    digests : bool
        Whether a client above merges on what is grouped here (see `Aggregator`).

    Attributes
    ----------
    shown : int
        Records given to handlers; one that several sinks show counts once.
    abandoned : bool
        Whether handlers get nothing any more: nobody waits for them. Any thread may set it.
    counted : threading.Event
        Set when the records that an abandoned client has not shown are counted. Until then its thread discards nothing.
    """

    def __init__(
        self,
        sinks: Sinks,
        files: RankFiles | None = None,
        never: Sequence[str] = (),
        hide: Sequence[str] = (),
        digests: bool = False,
    ) -> None:
        self.files = files
        self.shown = 0
        self.abandoned = False
        self.counted = threading.Event()
        self._held = 0  # by a thread that waits for the count
        self._giving: tuple[Sequence[logging.LogRecord], Iterator[logging.LogRecord]] = (), iter(())
        self._sinks = sinks
        self._flushed_at = 0
        self._unwritten = False
        self._hidden = 0
        self._never, self._hide = tuple(never), tuple(hide)
        self._digests = digests
        self._version = -1
        self._found: dict[Any, tuple[Sink, ...]] = {}
        self._grouping: tuple[Sink, ...] = ()
        self.eras: list[Era] = []
        self._within = False  # an earlier era
        self._refresh()

    # -- sinks -----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Take note of sinks that were added or changed: those with a window or a pattern to hide get an aggregator."""
        self._version = self._sinks.version
        self._found.clear()
        grouping = []
        for sink in self._sinks.all():
            if self._within:
                grouping += [sink] if sink.aggregator is not None else []
                continue
            if sink.aggregator is None and (sink.window is not None or self._hide):
                sink.aggregator = Aggregator(sink.window, never=self._never, hide=self._hide, digests=self._digests)
            if sink.aggregator is not None:
                grouping.append(sink)
            sink.direct = sink.number > 0 and sink.aggregator is None
        self._grouping = tuple(grouping)

    def _sinks_of(self, template: Any) -> tuple[Sink, ...]:
        """Return the sinks that show the records of a template."""
        route = template.route
        try:
            return self._found[route]
        except KeyError:
            found = self._found[route] = self._sinks.find(*route)
        if self._version != self._sinks.version:  # a narrowed sink is new
            self._refresh()
        return found

    @property
    def window(self) -> float | None:
        """The window that holds for every sink: the shortest one, or None where one shows each line at once."""
        windows = [sink.window for sink in self._sinks.all()]
        return None if None in windows else min(filter(None, windows), default=None)

    def switch(self, window: float | None, default: Sink | None = None) -> Era | None:
        """Group within `window` seconds (`KEEP`: as before), and show by another default sink, from now on.

        Returns
        -------
        Era or None
            The settings so far, until `end_era`; None if they are the same.
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
        """Show what is pending of an era: nothing more comes of it."""
        self.eras.remove(era)
        for sink, aggregator in era.aggregators.items():
            self._deliver(sink, aggregator.flush())
            self._hidden += aggregator.hidden
        if era.default is not None and era.default is not self._sinks.default:
            era.default.flush()  # no tick does so any more

    @contextlib.contextmanager
    def within(self, era: Era | None) -> Iterator[None]:
        """Show by the settings of an era."""
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

    def set_window(self, window: float | None) -> None:
        """Group within `window` seconds from now on (None: show each line at once); show what is pending."""
        era = self.switch(window)
        if era is not None:
            self.end_era(era)

    def _pending(self) -> list[tuple[Sink, Aggregator]]:
        """Return what groups, of earlier eras first."""
        pending = [pair for era in self.eras for pair in era.aggregators.items()]
        return [*pending, *((sink, sink.aggregator) for sink in self._grouping if sink.aggregator is not None)]

    @property
    def hidden(self) -> int:
        """Records that a hide pattern held back, or that came of procs that are not streamed."""
        return self._hidden + sum(aggregator.hidden for _, aggregator in self._pending())

    @property
    def deadline(self) -> float | None:
        """When `expire` has something to show, or None."""
        deadlines = [aggregator.deadline for _, aggregator in self._pending()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    @property
    def busy(self) -> object:
        """The handler that is at work, or None. Any thread may ask."""
        return next((sink.busy for sink in self._sinks.all() if sink.busy is not None), None)

    # -- records ---------------------------------------------------------------------------------------------------

    def dispatch(self, items: Iterable[Item], now: float) -> list[tuple[Peer, int]]:
        """Show `items`; return the flush sentinels that were among them."""
        if self._version != self._sinks.version:
            self._refresh()
        sentinels: list[tuple[Peer, int]] = []
        if self.files is None and not self._grouping:
            for _, template, values in items:
                if template is None:
                    sentinels.append(values)
                elif template.ordinary or not template.is_shown(values):
                    self._give(self._sinks_of(template), template.build(values))
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
                at_once.append(sink)
            else:
                self._deliver(sink, (aggregator.add_digest if digest else aggregator.add)(template, values, now))
        if at_once:
            self._give(at_once, template.build(values))

    def _end_bar(self, template: Any, values: tuple[Any, ...], *, hidden: bool = False) -> None:
        """Let consoles know of a line that ends a progress state, which may be shown later or in no other way.

        Of a `hidden` stream every state does: the last one that was shown is drawn no more.
        """
        if template.ends_bar(values) or (hidden and template.has_bar(values)):
            record = template.build(values)
            if hidden:
                record.meshlog = record.meshlog.but(bar_ends="dropped")
            for sink in self._sinks_of(template):
                sink.end_bar(record)
            self._flushed_at = -1  # there is something to flush

    def count(self, items: list[Item], now: float) -> list[Item]:
        """Take out the records that are only counted, by groups that have begun; return the rest. Calls no handler.

        Those whose arguments are numbers: they cost next to nothing, and what is said of them has no order. A group that is
        shown before its time, for want of room, may tell of records that came after it.
        """
        if self.files is not None or not self._grouping or self._version != self._sinks.version:
            return items
        rest: list[Item] = []
        calls: dict[Any, list[Any] | None] = {None: None}  # of sentinels, which have no template, none is counted
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
                assert aggregator is not None  # it counts them
                aggregator.add_calls(template, lines)
        return rest

    def _counts(self, template: Any, values: tuple[Any, ...], now: float) -> bool:
        if not template.ordinary:
            return False
        sinks = self._sinks_of(template)
        return len(sinks) == 1 and (aggregator := sinks[0].aggregator) is not None and aggregator.counts(template, values, now)

    def _group(self, template: Any, lines: list[Any], now: float) -> None:
        """Show, or hold back, complete captured lines of one stream."""
        for sink in self._sinks_of(template):
            if sink.aggregator is not None:
                self._deliver(sink, sink.aggregator.add_lines(template, lines, now))
            else:
                self._deliver(sink, [template.build(values) for values in lines])

    def write_only(self, items: Iterable[Item]) -> list[tuple[Peer, int]]:
        """Write `items` to the files and show nothing, but count them; return the flush sentinels among them."""
        sentinels: list[tuple[Peer, int]] = []
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
            self.shown += 1
            sink.deliver(record)

    def _await_count(self, record: logging.LogRecord) -> None:
        """Wait until what is not shown has been counted, this record included."""
        if not self.counted.is_set():
            self._held = _count_of(record)
            self.counted.wait(_COUNT_SEC)
            self._held = 0

    def _give(self, sinks: Sequence[Sink], record: logging.LogRecord) -> None:
        if self.abandoned:
            self._await_count(record)
            return
        self.shown += 1
        for sink in sinks:
            sink.deliver(record)

    @property
    def waiting(self) -> int:
        """How many records a handler that blocks keeps from being shown, its own included. Any thread, while it does."""
        records, left = self._giving
        held = sum(_count_of(record) for record in records[len(records) - length_hint(left) :])
        groups = {sink.aggregator for sink in self._grouping}.union(*(era.aggregators.values() for era in self.eras))
        return held + sum(each.pending for each in groups if each is not None) + (self.busy is not None) + self._held

    def show(self, record: logging.LogRecord) -> None:
        """Give one record to the handlers that show records of its logger."""
        self._give(self._sinks.find(None, record.name), record)

    def log(self, level: int, text: str, rank: int | None = None, pid: int | None = None) -> None:
        """Show a record of the mesh's own."""
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
        self._give(self._sinks.find(*_OWN_ROUTE), record)

    def took(self, size: int) -> None:
        """Note that records of `size` bytes were taken in: groups that take too much memory are shown."""
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.took(size))

    # -- time ------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Show the groups whose window has ended."""
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.expire(now))

    def end_tick(self) -> None:
        """Let handlers pass on what they buffered during this tick."""
        if self._sinks.routed:
            self._found.clear()  # loggers decide where some records go, and may change at any time
        if self.shown != self._flushed_at:
            self._flushed_at = self.shown
            for sink in self._sinks.all():
                sink.flush(per_tick=True)
        if self._unwritten and self.files is not None:
            self._unwritten = False
            self.files.flush()

    def flush(self) -> None:
        """Show every pending group and flush every handler and file."""
        for sink, aggregator in self._pending():
            self._deliver(sink, aggregator.flush())
        for sink in self._sinks.all():
            sink.flush()
        if self.files is not None:
            self.files.flush()

    def close(self) -> None:
        """Close the files. The handlers are their owners', and show what this process logs from now on."""
        if self.files is not None:
            self.files.close()
        for sink in self._sinks.all():
            sink.direct = sink.number > 0


def _count_of(record: logging.LogRecord) -> int:
    """Return for how many records one stands."""
    return getattr(getattr(record, "meshlog", None), "count", None) or 1
