"""Sinks: the handlers that show records, and which of them show which record.

A *sink* is what one `MeshHandler` shows by, or what a client was given. A record's *route* names the `MeshHandler` that
accepted it, so that its sink can be found in the client's process:

- a number: made in the client's process; records of that process and of those forked from it;
- a text: the name of the handler in a configuration that several processes apply, or ``#2`` for the second one made by hand;
- None: a process that only called `install`. The client's own loggers decide: the record goes where a record of the same
  logger would go in the client's process.

A pair of a route and indices names those handlers of the sink whose filters accepted the record in its own process.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from logging import LogRecord
from threading import RLock, get_ident
from types import NoneType
from typing import Any, Final, NamedTuple

from . import native
from .aggregate import Aggregator
from .capture import diagnose
from .complaints import describe, name_of
from .freeze import PLAIN_SIZE
from .mesh_record import MeshInfo, MeshRecord, info_of, shown_kind
from .named_handlers import NamedHandler, ShownBy
from .stream import carriers, own_threads

Route = int | str | tuple[int | str, tuple[int, ...]] | None

_MAX_SINKS: Final = 1024
_MAX_NARROWED: Final = 256
_HANDLE: Final = logging.Handler.handle


class Sink:
    """Handlers that show records together.

    Any thread may call `show_here`. `window` and `aggregator` belong to the client's thread.

    Parameters
    ----------
    handlers : sequence of handlers
        In the order in which they get each record.
    respect_handler_level : bool
        Whether a handler gets only records of its own level and above.
    window : float or None
        Seconds in which similar lines become one.

    Attributes
    ----------
    direct : bool
        Whether records of this process go to the handlers on the thread that logs them.
    keeps_files : bool
        Whether the client also writes them to a file per rank.
    number : int
        Its route; 0 until a client knows it.
    busy : handler or None
        The handler that the client's thread has called.
    """

    def __init__(self, handlers: Sequence[ShownBy], respect_handler_level: bool = True, window: float | None = None) -> None:
        self.handlers = tuple(handlers)
        self.respect_handler_level = respect_handler_level
        self.window = window
        self.direct = self.keeps_files = False
        self.number = 0
        self.aggregator: Aggregator | None = None
        self.busy: ShownBy | None = None
        self._showing: set[int] = set()
        self._reported: set[int] = set()
        _sinks.add(self)

    @property
    def handlers(self) -> tuple[ShownBy, ...]:
        """The handlers. Those that a configuration names are found once it is complete."""
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: tuple[ShownBy, ...]) -> None:
        for handler in handlers:
            native.share(handler)
        self._handlers = handlers
        self._plan: _Plan | None = None

    def set_formatter(self, formatter: logging.Formatter | None) -> None:
        """Give handlers that have no formatter of their own this one, for records of this sink."""
        plain = [handler.given_to if isinstance(handler, _WithFormatter) else handler for handler in self.handlers]
        self.handlers = tuple(plain if formatter is None else [_WithFormatter(each, formatter) for each in plain])

    def _make_plan(self) -> _Plan:
        if not self._handlers:
            from .console import ConsoleHandler

            self.handlers = (ConsoleHandler(),)
        found = [handler.handler or handler if isinstance(handler, NamedHandler) else handler for handler in self._handlers]
        plan = _plan(found)
        if not any(isinstance(handler, NamedHandler) for handler in found):
            self.handlers = tuple(found)
            self._plan = plan
        return plan

    def deliver(self, record: logging.LogRecord) -> None:
        """Give a record to the handlers, on the client's thread. Nothing that a handler raises passes; it is said once."""
        level = record.levelno
        for handler in self._handlers:
            self.busy = handler
            try:
                if not self.respect_handler_level or level >= handler.level:
                    handler.handle(_without_text(record) if record.exc_info and _formats_exceptions(handler) else record)
            except BaseException as failure:  # SystemExit, too: it would end the thread for all ranks
                self.report(handler, failure)
        self.busy = None

    def show_here(self, record: logging.LogRecord) -> None:
        """Give the handlers a copy that has what a client adds, on this thread.

        What a handler logs meanwhile is not shown by the same sink: it would feed itself. A handler that raises what is no
        `Exception` ends the logging call with it, as in plain logging.
        """
        thread = get_ident()
        showing = self._showing
        if thread in showing or (thread in own_threads and thread not in carriers):
            return
        showing.add(thread)
        filtered = False
        try:
            fields = record.__dict__
            plan = self._plan or self._make_plan()
            indifferent, steps = plan
            shown = record if indifferent else _with(record, own_info())
            level = record.levelno
            for handler, formatter, filters, emit, flush in steps:
                if level < handler.level and self.respect_handler_level:
                    continue
                if indifferent and handler.formatter is not formatter:
                    self._plan, indifferent = None, False  # it may need what a client adds
                    shown = _with(record, own_info())
                try:
                    if emit is not None and not filters:  # what `logging.Handler.handle` does, at half its cost
                        with handler.lock:
                            emit(shown)
                    else:
                        filtered = True
                        handler.handle(shown)
                    if flush:
                        handler.flush()
                except Exception as failure:
                    self.report(handler, failure)
        finally:
            showing.discard(thread)
        if filtered and shown is not record:  # what a filter has added is seen by later handlers, as in plain logging
            for name, value in shown.__dict__.items():
                if name not in own_fields():
                    fields.setdefault(name, value)

    @property
    def particular(self) -> bool:
        """Whether a handler has filters, or a formatter of the program's own: these are called where records are logged."""
        return any(_filter_of(handler) is not None or _formatter_of(handler) is not None for handler in self.handlers)

    def prepared(self, record: LogRecord, info: MeshInfo) -> Prepared:
        """Ask the filters, which may change the record, and the formatters of the program's own.

        They may look at what only the thread that logs knows: a context variable, the current request or task.
        """
        accepted: list[int] = []
        texts: list[tuple[int, str]] = []
        for index, handler in enumerate(self.handlers):
            accepts = _filter_of(handler)
            passed = True if accepts is None else accepts(record)
            if not passed:
                continue
            if isinstance(passed, LogRecord) and passed is not record:
                record.__dict__.update(passed.__dict__)
            accepted.append(index)
            formatter = _formatter_of(handler)
            if formatter is not None and (record.levelno >= handler.level or not self.respect_handler_level):
                with contextlib.suppress(Exception):  # the client formats it, and says what is wrong
                    texts.append((index, str(formatter.format(_with(record, info)))))
        return Prepared(tuple(accepted), tuple(texts))

    def narrowed(self, indices: Sequence[int]) -> Sink:
        """Return a sink of some of the handlers, whose filters have been asked already."""
        chosen = [_Accepted(self.handlers[index], index) for index in indices if 0 <= index < len(self.handlers)]
        return Sink(chosen, self.respect_handler_level, self.window)

    def end_bar(self, record: logging.LogRecord) -> None:
        """Tell the handlers that draw progress states that one has ended."""
        for handler in self._handlers:
            end_bar = getattr(getattr(handler, "handler", None) or handler, "end_bar", None)
            if end_bar is not None:
                try:
                    end_bar(record)
                except BaseException as failure:  # as in `deliver`
                    self.report(handler, failure)

    def flush(self, *, per_tick: bool = False) -> None:
        """Flush the handlers; with `per_tick`, those alone that want it after each of the client's ticks."""
        for handler in self.handlers:
            self.busy = handler
            try:
                if not per_tick or getattr(handler, "flush_per_tick", False):
                    handler.flush()
            except ValueError:
                continue  # its stream is closed: there is nothing to flush, and a record that it should show would fail
            except BaseException as failure:  # as in `deliver`
                self.report(handler, failure)
        self.busy = None

    def report(self, handler: ShownBy, failure: BaseException) -> None:
        """Say once what a handler raised."""
        if id(handler) not in self._reported:
            self._reported.add(id(handler))
            diagnose(f"handler {name_of(handler)} raises, here and silently from now on: {describe(failure)}")


class Prepared(NamedTuple):
    """What the filters and formatters of a sink's handlers said of a record in the process that logged it."""

    accepted: tuple[int, ...]
    texts: tuple[tuple[int, str], ...]


class _Wrapped:
    """A handler that is called in another way than by its `handle`."""

    def __init__(self, handler: ShownBy) -> None:
        self.given_to = handler

    @property
    def handler(self) -> Any:
        """The handler itself; what stands for it while a configuration is not complete."""
        return getattr(self.given_to, "handler", None) or self.given_to

    @property
    def level(self) -> int:
        """The handler's level."""
        return self.given_to.level

    @property
    def flush_per_tick(self) -> bool:
        """Whether the handler wants `flush` after each of the client's ticks."""
        return bool(getattr(self.given_to, "flush_per_tick", False))

    def handle(self, record: LogRecord) -> Any:
        """Show a record."""
        return self.given_to.handle(record)

    def flush(self) -> None:
        """Flush the handler."""
        self.given_to.flush()


class _WithFormatter(_Wrapped):
    """A handler that uses the formatter of its MeshHandler, unless it has one of its own."""

    def __init__(self, handler: ShownBy, formatter: logging.Formatter) -> None:
        super().__init__(handler)
        self._formatter = formatter

    @property
    def formatter(self) -> logging.Formatter | None:
        """The formatter that is in force."""
        own = getattr(self.handler, "formatter", None)
        return self._formatter if own is None or getattr(self.handler, "has_default_formatter", False) else own

    def handle(self, record: LogRecord) -> Any:
        """Show a record."""
        handler = self.handler
        if not isinstance(handler, logging.Handler):
            return handler.handle(record)
        handler.acquire()
        before, handler.formatter = handler.formatter, self.formatter
        try:
            return handler.handle(record)
        finally:
            handler.formatter = before
            handler.release()


class _Accepted(_Wrapped):
    """A handler whose filters have accepted the record in the process that logged it, and whose formatter may have had it."""

    def __init__(self, handler: ShownBy, index: int) -> None:
        super().__init__(handler)
        self._index = index

    def handle(self, record: LogRecord) -> Any:
        """Do what `logging.Handler.handle` does after its filters."""
        handler = self.handler
        if not isinstance(handler, logging.Handler):
            return handler.handle(record)
        text = dict(info_of(record).texts or ()).get(self._index)
        handler.acquire()
        before, handler.formatter = handler.formatter, getattr(self.given_to, "formatter", handler.formatter)
        kept = {"format": vars(handler)["format"]} if "format" in vars(handler) else {}
        try:
            if text is not None:
                vars(handler)["format"] = lambda _: text  # what its `emit` writes
            handler.emit(record)
        finally:
            if text is not None:
                del vars(handler)["format"]
                vars(handler).update(kept)
            handler.formatter = before
            handler.release()
        return True


def _filter_of(handler: ShownBy) -> Callable[[LogRecord], Any] | None:
    found: Any = getattr(handler, "handler", None) or handler
    return found.filter if getattr(found, "filters", None) else None


def _formats_exceptions(handler: ShownBy) -> bool:
    """Tell whether the formatter of a handler has a `formatException` of the program's."""
    formatter = getattr(handler, "formatter", None)
    return formatter is not None and getattr(type(formatter), "formatException", _FORMAT_EXCEPTION) is not _FORMAT_EXCEPTION


def _without_text(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy without the traceback's text, so that `logging.Formatter.format` asks for it."""
    return MeshRecord.of({**record.__dict__, "exc_text": None}, info_of(record))


_FORMAT_EXCEPTION: Final = logging.Formatter.formatException


def _formatter_of(handler: ShownBy) -> Any:
    """Return the formatter of a handler if it is the program's own: not the standard library's, nor one of this package."""
    found: Any = handler if isinstance(handler, _WithFormatter) else getattr(handler, "handler", None) or handler
    formatter = getattr(found, "formatter", None)
    kind = type(formatter)
    return None if kind in (logging.Formatter, NoneType) or kind.__module__.partition(".")[0] == __package__ else formatter


class _Plan(NamedTuple):
    """What `Sink.show_here` needs of its handlers: looked up once, not for every record.

    `indifferent` handlers write the same whether or not a record has what a client adds. A step is a handler, its formatter
    and filters, its `emit` where its `handle` is the standard library's, and whether to flush it after a record.
    """

    indifferent: bool
    steps: Sequence[tuple[Any, Any, Sequence[Any], Callable[[LogRecord], Any] | None, bool]]


def _plan(handlers: Sequence[Any]) -> _Plan:
    steps = []
    for handler in handlers:
        standard = isinstance(handler, logging.Handler) and type(handler).handle is _HANDLE and handler.lock is not None
        filters, flush = getattr(handler, "filters", ()), bool(getattr(handler, "flush_per_tick", False))
        steps.append((handler, getattr(handler, "formatter", None), filters, handler.emit if standard else None, flush))
    return _Plan(all(map(_is_indifferent, handlers)), steps)


def _is_indifferent(handler: Any) -> bool:
    """Tell whether a handler of the standard library writes the same text whether or not a record has what a client adds."""
    if not isinstance(handler, logging.StreamHandler) or type(handler).__module__ not in ("logging", "logging.handlers"):
        return False
    if type(handler.formatter) not in (logging.Formatter, NoneType):
        return False
    plain = logging.makeLogRecord({"msg": "text"})
    marked = logging.makeLogRecord({**plain.__dict__, **dict.fromkeys(own_fields(), "\0")})
    try:
        return handler.format(plain) == handler.format(marked)
    except Exception:  # it needs what only a client adds, or what the program adds to its records
        return False


def _with(record: LogRecord, info: MeshInfo) -> LogRecord:
    """Return a copy of a record of this process that has what a client adds; an extra of the program keeps its name."""
    fields = record.__dict__
    kind = shown_kind(record.__class__)
    shown: LogRecord = kind.__new__(kind)
    shown.__dict__ = more = dict(fields)
    more.update(own_fields() if info is _own else info.attributes())
    if len(fields) > PLAIN_SIZE:
        more.update(fields)
    shown.meshlog = info
    return shown


class Sinks:
    """The sinks of one client, by route.

    Any thread may call the methods.

    Parameters
    ----------
    default : Sink or None
        Of a client that was given handlers.

    Attributes
    ----------
    version : int
        Rises with every change: what was found before may be found elsewhere now.
    """

    def __init__(self, default: Sink | None = None) -> None:
        self.default = default
        self.version = 0
        self._numbers = itertools.count(1)
        self._by_number: dict[int, Sink] = {}
        self._by_name: dict[str, Sink] = {}
        self._narrowed: dict[tuple[int, tuple[int, ...]], Sink] = {}
        self._lock = RLock()  # a configuration may be interrupted by a signal handler that logs

    @property
    def routed(self) -> bool:
        """Whether some are a MeshHandler's."""
        return bool(self._by_number)

    def all(self) -> tuple[Sink, ...]:
        """Return every sink, each once."""
        with self._lock:
            first = () if self.default is None else (self.default,)
            return (*first, *self._by_number.values(), *self._narrowed.values())

    def add(self, sink: Sink) -> None:
        """Give a sink a number."""
        with self._lock:
            sink.number = next(self._numbers)
            sink.direct = sink.window is None
            self._by_number[sink.number] = sink
            if len(self._by_number) > _MAX_SINKS:  # thousands of configurations ago
                named = set(map(id, self._by_name.values()))
                oldest = next((each for each in self._by_number.values() if id(each) not in named), sink)
                del self._by_number[oldest.number]
            self.version += 1

    def set_default(self, sink: Sink) -> None:
        """Give the client other handlers of its own."""
        with self._lock:
            if self.default is not None:
                sink.window, sink.keeps_files = self.default.window, self.default.keeps_files
            self.default = sink
            self.version += 1

    def name(self, sink: Sink, name: str) -> None:
        """Let other processes find a sink by a name; one that had it before keeps only its number."""
        with self._lock:
            self._by_name[name] = sink
            self.version += 1

    def retire(self, sink: Sink) -> None:
        """Take a sink's names away: its MeshHandler was closed. What it accepted before is still shown by it."""
        for handler in sink.handlers:
            # A configuration that takes another's place closes its files, and one with this mode is not opened again.
            if isinstance(handler, logging.FileHandler) and handler.mode == "w":
                handler.mode = "a"
        with self._lock:
            self._by_name = {name: each for name, each in self._by_name.items() if each is not sink}
            self.version += 1

    def find(self, route: Route, logger_name: str) -> tuple[Sink, ...]:
        """Return the sinks that show a record of this route and logger."""
        with self._lock:
            base, accepted = route if isinstance(route, tuple) else (route, None)
            sink = self._by_number.get(base) if isinstance(base, int) else self._by_name.get(base) if base else None
            if sink is not None:
                return (sink,) if accepted is None else self._narrow(sink, accepted)
            if self._by_number:
                found = _of_logger(logger_name, set(map(id, self._by_number.values())))
                if found:
                    return found
            if self.default is not None:
                return (self.default,)
            return tuple(self._by_number.values())[-1:]

    def _narrow(self, sink: Sink, accepted: tuple[int, ...]) -> tuple[Sink, ...]:
        if not accepted:
            return ()
        key = (sink.number, accepted)
        narrowed = self._narrowed.get(key)
        if narrowed is None:
            if len(self._narrowed) >= _MAX_NARROWED:  # no program has so many; a peer may say anything
                return (sink,)
            narrowed = self._narrowed[key] = sink.narrowed(accepted)
        return (narrowed,)


def _of_logger(name: str, known: set[int]) -> tuple[Sink, ...]:
    """Return the sinks of the MeshHandlers that a record of this logger reaches in this process."""
    loggers = logging.Logger.manager.loggerDict
    logger: Any = loggers.get(name)
    while name and not isinstance(logger, logging.Logger):
        name = name.rpartition(".")[0]
        logger = loggers.get(name)
    logger = logger if isinstance(logger, logging.Logger) else logging.root
    found: dict[int, Sink] = {}
    while logger is not None:
        for handler in logger.handlers:
            sink = getattr(handler, "sink", None)
            if isinstance(sink, Sink) and id(sink) in known:
                found[id(sink)] = sink
        logger = logger.parent if logger.propagate else None
    return tuple(found.values())


def own_info() -> MeshInfo:
    """Return what the mesh knows about every record of the client's own process."""
    global _own, _own_fields
    if _own is None:
        _own = MeshInfo(hostname=socket.gethostname())
        _own_fields = _own.attributes()
    return _own


def own_fields() -> dict[str, Any]:
    """Return what such a record carries beside its own attributes."""
    own_info()
    return _own_fields


_own: MeshInfo | None = None
_own_fields: dict[str, Any] = {}

_sinks: Final[weakref.WeakSet[Sink]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The client is the parent's: what the child logs goes there, where it can.
    for sink in tuple(_sinks):
        sink.direct = False
        sink.busy = None
        sink._showing.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
