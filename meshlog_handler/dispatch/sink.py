"""Sink: handlers that show records together, on the client thread or on the thread that logs."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import socket
import time
import weakref
from collections.abc import Iterable, Sequence
from logging import LogRecord
from threading import get_ident
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ..output.named_handlers import NamedHandler, ShownBy
from ..output.needed_extras import needed_extras
from ..protocol.plain import SCALARS
from ..protocol.record import PLAIN_SIZE, MeshInfo, shown_kind
from ..system import unpatched
from ..system.diagnostics import diagnose
from ..system.error_reports import describe, name_of
from ..system.fork_locks import ForkLocks
from ..worker.record_stream import internal_threads, transport_threads
from .nested_calls import interrupts_showing
from .wrapped_handlers import (
    Accepted,
    WithFormatter,
    any_formatter_of,
    behind,
    defaults_of,
    filter_of,
    formats_exceptions,
    formatter_of,
    handle_of,
    handles_as_logging,
    with_defaults,
    without_text,
    writes_text,
)

if TYPE_CHECKING:  # a worker needs no more
    from ..grouping.aggregator import Aggregator


class Sink:
    """Handlers that show records together, and get each record in the given order.

    Any thread may call `show_here`. `window` (seconds) and `aggregator` belong to the client thread. With
    `respect_handler_level`, a handler gets only records at its level and above.
    """

    def __init__(self, handlers: Sequence[ShownBy], respect_handler_level: bool = True, window: float | None = None) -> None:
        self.handlers = tuple(handlers)
        self.respect_handler_level = respect_handler_level
        self.window = window
        # `direct`: whether handlers get this process's records on the threads that log them. `keeps_files`: whether the client
        # also writes the records to a file per rank.
        self.direct = self.keeps_files = False
        self.number = 0  # the route; 0 until the sink is added to a client
        self.aggregator: Aggregator | None = None
        self._tap: Tap | None = None
        self.busy: ShownBy | None = None  # the handler that the client thread is calling
        self._showing: dict[int, int] = {}  # by thread that shows a record: how many more it may show meanwhile
        # In a forked process whose parent has the client: the formatter and level of each handler there, and if it has filters.
        self.inherited: Sequence[tuple[Any, int, bool]] | None = None
        self._reported: set[int] = set()
        _sinks.add(self)

    @property
    def handlers(self) -> tuple[ShownBy, ...]:
        """The handlers. Those that a configuration names are looked up when it is complete."""
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: tuple[ShownBy, ...]) -> None:
        for handler in handlers:
            unpatched.share(handler)
        self._handlers = handlers
        self._plan: _Plan | None = None
        self._defaults: dict[int, frozenset[str]] | None = None  # by handler: see `defaults_of`

    def set_formatter(self, formatter: logging.Formatter | None) -> None:
        """Set the formatter, for records of this sink, of handlers that have none."""
        plain = [handler.given_to if isinstance(handler, WithFormatter) else handler for handler in self.handlers]
        self.handlers = tuple(plain if formatter is None else [WithFormatter(each, formatter) for each in plain])

    @property
    def tap(self) -> Tap | None:
        """Also gets each record that `show_here` shows."""
        return self._tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        if tap is not self._tap:
            self._tap, self._plan = tap, None

    def stay_open(self) -> None:
        """Let closed files reopen for records that are still to be shown: `logging` does not reopen files of mode "w"."""
        for handler in map(behind, self._handlers):
            if isinstance(handler, logging.FileHandler) and handler.mode == "w":
                handler.mode = "a"

    def reopen(self) -> None:
        """Let each file be opened anew for the next record: while this process only forwarded, another one wrote to it."""
        self.stay_open()
        for handler in map(behind, self._handlers):
            if not isinstance(handler, logging.FileHandler) or handler.lock is None:
                continue
            with handler.lock:
                stream, handler.stream = handler.stream, None  # as `logging` does with delay=True
                if stream is not None:
                    stream.close()
                if isinstance(handler, logging.handlers.TimedRotatingFileHandler):
                    handler.rolloverAt = handler.computeRollover(int(time.time()))

    def _make_plan(self) -> _Plan:
        if not self._handlers:
            from ..output.console import ConsoleHandler

            self.handlers = (ConsoleHandler(),)
        found = [handler.handler or handler if isinstance(handler, NamedHandler) else handler for handler in self._handlers]
        plan = _plan(found)
        if self._tap is not None:
            plan = _Plan(plan.indifferent, [*plan.steps, (_Tapped(self._tap), None, False, False, frozenset())])
        if not any(isinstance(handler, NamedHandler) for handler in found):
            self.handlers = tuple(found)
            self._plan = plan
        return plan

    def deliver(self, record: logging.LogRecord) -> None:
        """Give a record to the handlers, on the client thread. An exception of a handler is reported once and not raised."""
        level = record.levelno
        defaults = self._find_defaults() if self._defaults is None else self._defaults
        _calling[thread := get_ident()] = self
        for handler in self._handlers:
            self.busy = handler
            try:
                if not self.respect_handler_level or level >= handler.level:
                    shown = without_text(record) if record.exc_info and formats_exceptions(handler) else record
                    if defaults and id(handler) in defaults:
                        shown = with_defaults(shown, defaults[id(handler)])
                    handler.handle(shown)
            except BaseException as failure:  # SystemExit, too: it would end the thread for all ranks
                self.report(handler, failure)
        self._end_calls(thread)

    def _end_calls(self, thread: int) -> None:
        self.busy = None
        _calling.pop(thread, None)
        if self._showing:
            self._showing.pop(thread, None)

    def _find_defaults(self) -> dict[int, frozenset[str]]:
        found = {id(handler): names for handler in self._handlers if (names := defaults_of(any_formatter_of(handler)))}
        self._defaults = found
        return found

    def deliver_line(self, text: str, info: MeshInfo, level: int) -> bool:
        """Do as `deliver` with a record of this message. The only handler is a console; return False if it needs the record."""
        handler: Any = self._handlers[0]
        if level < handler.level and self.respect_handler_level:
            return True
        self.busy = handler
        _calling[thread := get_ident()] = self
        try:
            return bool(handler.show_line(text, info, level))
        except BaseException as failure:  # SystemExit, too: see `deliver`
            self.report(handler, failure)
            return True
        finally:
            self._end_calls(thread)

    def show_of_handler(self, record: logging.LogRecord) -> None:
        """Do as `show_here` with a record that must not be forwarded, if the client's handlers log it while they are called."""
        grouped = self.aggregator
        ours = self.number > 0 and self.inherited is None and get_ident() in _calling
        if ours and not (grouped is not None and grouped.hides(record.getMessage())):
            self.show_here(record)

    def show_here(self, record: logging.LogRecord) -> None:
        """Give the handlers a copy with the attributes that a client adds, on this thread."""
        # This sink does not show records that its handlers log meanwhile: they would trigger themselves. As in plain logging,
        # what is raised but not an `Exception` ends the logging call.
        thread = get_ident()
        if thread in internal_threads and thread not in transport_threads:
            calling = _calling.get(thread)
            if calling is None:
                return
            calling._showing.setdefault(thread, _MAX_WITHIN)
        showing = self._showing
        within = showing.get(thread)
        if within is None:
            showing[thread] = _MAX_WITHIN
        elif within and interrupts_showing(_CALLS):
            showing[thread] = within - 1  # this bounds the records of code that formats itself
        else:
            if within == 0:
                _report_too_many()
            return
        filtered = False
        try:
            fields = record.__dict__
            plan = self._plan or self._make_plan()
            indifferent, steps = plan
            shown = record if indifferent else _with(record, own_info())
            level = record.levelno or 0  # None in a record without a level, for which only this handler was called
            for handler, formatter, standard, flush, names in steps:
                if level < handler.level and self.respect_handler_level:
                    continue
                if (indifferent or standard) and handler.formatter is not formatter:
                    self._plan, names = None, defaults_of(handler.formatter)
                    if indifferent:
                        indifferent, shown = False, _with(record, own_info())  # the formatter may need what a client adds
                try:
                    given = with_defaults(shown, names, fields) if names else shown
                    if standard and not handler.filters:  # as `logging.Handler.handle`, at half the cost
                        with handler.lock:
                            handler.emit(given)
                        if given is not shown:
                            shown.exc_text = given.exc_text  # as in plain logging, the first formatter formats it for all
                    else:
                        filtered = True
                        handler.handle(given)
                        if given is not shown:
                            shown.__dict__.update(given.__dict__)
                    if flush:
                        handler.flush()
                except Exception as failure:
                    self.report(handler, failure)
        finally:
            if within is None:
                showing.pop(thread, None)  # a handler may fork, and a child forgets it
        if filtered and shown is not record:  # later handlers see what a filter has set, as in plain logging
            ours = {**own_fields(), "meshlog": own_info()}
            fields.update({name: value for name, value in shown.__dict__.items() if value is not ours.get(name, ours)})

    @property
    def particular(self) -> bool:
        """Whether a handler has filters, a formatter or a `handle` of the program, or one that a forked process has changed."""
        # These run in the process that logs.
        own = ((filter_of(each), formatter_of(each), handle_of(each)) for each in self.handlers)
        return (
            any(found is not None for each in own for found in each)
            or any(True in self._changes(index, each) for index, each in enumerate(self.handlers))
            or any(filtered for _, _, filtered in self.inherited or ())  # else the client would run a filter removed here
        )

    @property
    def needed(self) -> frozenset[str]:
        """The extras that formatters of `logging` need as they are (see `output.needed_extras`)."""
        return frozenset().union(*(needed_extras(any_formatter_of(handler)) for handler in self.handlers))

    def _changes(self, index: int, handler: ShownBy) -> tuple[bool, bool]:
        """Return whether a handler has another formatter and another level in this process than in the client's."""
        if self.inherited is None or index >= len(self.inherited):
            return False, False
        formatter, level, _ = self.inherited[index]
        return any_formatter_of(handler) is not formatter, self.respect_handler_level and handler.level != level

    def is_particular(self, record: LogRecord) -> bool:
        """Return whether something of the program, or a formatter that needs an extra as it is, gets a record here."""
        return self.particular or not _are_data(record, self.needed)

    def prepared(self, record: LogRecord, info: MeshInfo) -> Prepared:
        """Run the filters and the program's `handle` methods, which may change the record, and the program's formatters."""
        # They may use state of the thread that logs, such as a context variable or the current request or task.
        accepted: list[int] = []
        given: list[tuple[int, ShownBy, LogRecord, dict[str, Any], bool]] = []
        for index, handler in enumerate(self.handlers):
            # As in plain logging, a handler's filters do not get what is below its level. The client leaves it out, too, unless
            # this process has changed the level, and so decides.
            reached = not self.respect_handler_level or record.levelno >= handler.level
            own_level = self._changes(index, handler)[1]
            if own_level and not reached:
                continue
            handle = handle_of(handler) if reached else None
            accepts = filter_of(handler) if reached else None
            passed: Any = handle(record) if handle is not None else True if accepts is None else accepts(record)
            if not passed:
                continue
            accepted.append(~index if own_level else index)
            several = isinstance(passed, list) and len(passed) > 1
            for each in passed if isinstance(passed, list) else (passed,):
                seen = each if isinstance(each, LogRecord) else record
                if seen is not record and not writes_text(handler):  # only one record is sent: change it for all handlers
                    record.__dict__.update(seen.__dict__)
                    seen = record
                if reached:
                    given.append((index, handler, seen, dict(seen.__dict__), several))
        texts: list[tuple[int, str]] = []
        # As in plain logging, the first formatter formats the traceback for all: it keeps the text in the record.
        trace, own_trace = record.exc_text, False
        for index, handler, seen, fields, several in given:
            formatter, writes = formatter_of(handler), writes_text(handler)
            if self._changes(index, handler)[0] or not _are_data(record, needed_extras(any_formatter_of(handler))):
                formatter = formatter or any_formatter_of(handler)
            if formatter is None and writes and (several or own_trace or not _same(fields, record.__dict__)):
                formatter = any_formatter_of(handler)  # only this handler got this version of the record
            with contextlib.suppress(Exception):  # the client formats it and reports the error
                if formatter is None and writes and record.exc_info and not trace:
                    trace = any_formatter_of(handler).formatException(record.exc_info)
                if formatter is not None:
                    shown = with_defaults(_with(seen, info, fields), defaults_of(formatter), fields)
                    shown.exc_text = shown.exc_text or trace
                    texts.append((index, str(formatter.format(shown))))
                    own_trace = shown.exc_text is not None and (own_trace or shown.exc_text != trace)
                    trace = shown.exc_text
        return Prepared(tuple(accepted), tuple(texts))

    def narrowed(self, indices: Sequence[int]) -> Sink:
        """Return a sink of the handlers with these indices, whose filters have already run; with ``~index``, at any level."""
        places = [(~index, True) if index < 0 else (index, False) for index in indices]
        chosen = [Accepted(self.handlers[at], at, at_any_level) for at, at_any_level in places if at < len(self.handlers)]
        sink = Sink(chosen, self.respect_handler_level, self.window)
        sink._showing = self._showing  # what the handlers log must not trigger them
        return sink

    def end_bar(self, record: logging.LogRecord) -> None:
        """Notify the handlers that draw progress states that a state has ended."""
        for handler in self._handlers:
            end_bar = getattr(behind(handler), "end_bar", None)
            if end_bar is not None:
                try:
                    end_bar(record)
                except BaseException as failure:  # SystemExit, too: see `deliver`
                    self.report(handler, failure)

    def flush(self, *, per_tick: bool = False) -> None:
        """Flush the handlers; with `per_tick`, only those that are to be flushed after each tick of the client."""
        self._defaults = None  # a program may replace a formatter
        _calling[thread := get_ident()] = self
        for handler in self.handlers:
            self.busy = handler
            try:
                if getattr(handler, "flush_per_tick", False) or not (per_tick or _discards(handler)):
                    handler.flush()
            except ValueError:
                continue  # the stream is closed: nothing is left to flush, and showing a record would fail
            except BaseException as failure:  # SystemExit, too: see `deliver`
                self.report(handler, failure)
        self._end_calls(thread)

    def report(self, handler: ShownBy, failure: BaseException) -> None:
        """Report an exception of a handler, once per handler."""
        if id(handler) not in self._reported:
            self._reported.add(id(handler))
            diagnose(f"handler {name_of(handler)} failed: {describe(failure)}. Its further errors are not reported.")


_CALLS: Final = frozenset(each.__code__ for each in (Sink.show_here, Sink.deliver, Sink.deliver_line, Sink.flush))
"""The functions that call handlers."""

_calling: Final[dict[int, Sink]] = {}
"""By client thread: the sink whose handlers it is calling. Other sinks show what these log, as in plain logging."""


class Tap(Protocol):
    """Gets what handlers get, for observers."""

    def handle(self, record: logging.LogRecord) -> None:
        """Take a record that handlers get. Client thread only."""

    def end_bar(self, record: logging.LogRecord) -> None:
        """Take the notice that a progress state has ended. Client thread only."""

    def handle_elsewhere(self, record: logging.LogRecord) -> None:
        """Take a record that another thread shows itself, with or without what a client adds. Any thread."""


class _Tapped:
    """A tap in the place of a handler."""

    level, formatter = logging.NOTSET, None

    def __init__(self, tap: Tap) -> None:
        self.handle = tap.handle_elsewhere


class Prepared(NamedTuple):
    """The results of a sink's filters and formatters for a record, from the process that logged it."""

    accepted: tuple[int, ...]  # indices of the handlers whose filters accepted the record
    texts: tuple[tuple[int, str], ...]  # the index of a handler, and the formatted text


class _Plan(NamedTuple):
    """The attributes of the handlers that `Sink.show_here` needs: looked up once, not for every record.

    `indifferent` handlers write the same text with or without the attributes that a client adds. A step is a handler, its
    formatter, whether its `handle` and what that calls are the standard library's, whether to flush it after each record, and
    `defaults_of` the formatter.
    """

    indifferent: bool
    steps: Sequence[tuple[Any, Any, bool, bool, frozenset[str]]]


def _plan(handlers: Sequence[Any]) -> _Plan:
    steps = []
    for handler in handlers:
        standard = isinstance(handler, logging.Handler) and handler.lock is not None and handles_as_logging(handler)
        flush = bool(getattr(handler, "flush_per_tick", False))
        steps.append((handler, getattr(handler, "formatter", None), standard, flush, defaults_of(any_formatter_of(handler))))
    return _Plan(all(map(_is_indifferent, handlers)), steps)


def _is_indifferent(handler: Any) -> bool:
    """Return whether a handler is of the standard library and writes the same text with or without what a client adds."""
    if not isinstance(handler, logging.StreamHandler) or type(handler).__module__ not in ("logging", "logging.handlers"):
        return False
    if type(handler.formatter) not in (logging.Formatter, NoneType):
        return False
    plain = logging.makeLogRecord({"msg": "text"})
    marked = logging.makeLogRecord({**plain.__dict__, **dict.fromkeys(own_fields(), "\0")})
    try:
        return handler.format(plain) == handler.format(marked)
    except Exception:  # the format needs attributes that the client or the program adds
        return False


def _discards(handler: ShownBy) -> bool:
    """Return whether `flush` would throw away what a handler collects, instead of writing it."""
    return getattr(type(behind(handler)), "flush", None) is logging.handlers.BufferingHandler.flush


def _are_data(record: LogRecord, names: Iterable[str]) -> bool:
    """Return whether the client gets these extras of a record as they are."""
    return all(type(record.__dict__.get(name)) in SCALARS for name in names)


def _same(fields: dict[str, Any], others: dict[str, Any]) -> bool:
    """Return whether two records have identical attributes. Objects of a program may define any ``==``."""
    return fields.keys() == others.keys() and all(fields[name] is others[name] for name in fields)


def _with(record: LogRecord, info: MeshInfo, earlier: dict[str, Any] | None = None) -> LogRecord:
    """Return a copy of a record, or of its `earlier` state, with what a client adds. A program's extras take precedence."""
    fields = record.__dict__ if earlier is None else earlier
    kind = shown_kind(type(record))
    shown: LogRecord = kind.__new__(kind)
    shown.__dict__ = more = dict(fields)
    more.update(own_fields() if info is _own else info.attributes())
    if len(fields) > PLAIN_SIZE:
        more.update(fields)
    shown.meshlog = info
    return shown


def own_info() -> MeshInfo:
    """Return the `MeshInfo` of every record of the client's own process."""
    global _own, _own_fields
    if _own is None:
        _own = MeshInfo(hostname=socket.gethostname())
        _own_fields = _own.attributes()
    return _own


def own_fields() -> dict[str, Any]:
    """Return the attributes that a client adds to such a record."""
    own_info()
    return _own_fields


_own: MeshInfo | None = None
_own_fields: dict[str, Any] = {}

_MAX_WITHIN: Final = 50
_reported: Final[list[bool]] = []


def _report_too_many() -> None:
    if not _reported:
        _reported.append(True)
        diagnose(f"of the records that are logged while another one is shown, only the first {_MAX_WITHIN} are shown")


_sinks: Final[weakref.WeakSet[Sink]] = weakref.WeakSet()


def _locks() -> Sequence[Any]:
    """Return the locks of all handlers: a fork waits until no other thread is inside a handler, and lets none enter."""
    # A handler that writes to ``sys.stderr`` holds the lock of its buffer. A child inherits this lock, and none of its threads
    # can release it. (`logging` recreates only its own locks.)
    handlers = (behind(handler) for sink in tuple(_sinks) for handler in sink.handlers)
    locks = {id(lock): lock for handler in handlers if (lock := getattr(handler, "lock", None)) is not None}
    return tuple(locks.values())


def _after_fork_in_child() -> None:
    # The client belongs to the parent. The child forwards its records to it if possible.
    _calling.clear()
    for sink in tuple(_sinks):
        if sink.inherited is None:
            sink.inherited = [(any_formatter_of(each), each.level, filter_of(each) is not None) for each in sink.handlers]
        sink.direct = False
        sink.busy = None
        sink._showing.clear()


fork_locks: Final = ForkLocks(_locks, seconds=0.25)
os.register_at_fork(after_in_child=_after_fork_in_child)
