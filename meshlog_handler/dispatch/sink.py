"""Sink: handlers that show records together, on the client's thread or on the one that logs."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import weakref
from collections.abc import Callable, Sequence
from logging import LogRecord
from threading import get_ident
from types import NoneType
from typing import Any, Final, NamedTuple

from ..grouping.aggregator import Aggregator
from ..output.named_handlers import NamedHandler, ShownBy
from ..protocol.encode import PLAIN_SIZE
from ..protocol.record import MeshInfo, shown_kind
from ..system import unpatched
from ..system.error_reports import describe, name_of
from ..system.fd_capture import diagnose
from ..system.waits import deadline_after, seconds_until
from ..worker.record_stream import internal_threads, transport_threads
from .wrapped_handlers import (
    Accepted,
    WithFormatter,
    any_formatter_of,
    behind,
    filter_of,
    formats_exceptions,
    formatter_of,
    without_text,
    writes_text,
)

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
            unpatched.share(handler)
        self._handlers = handlers
        self._plan: _Plan | None = None

    def set_formatter(self, formatter: logging.Formatter | None) -> None:
        """Give handlers that have no formatter of their own this one, for records of this sink."""
        plain = [handler.given_to if isinstance(handler, WithFormatter) else handler for handler in self.handlers]
        self.handlers = tuple(plain if formatter is None else [WithFormatter(each, formatter) for each in plain])

    def stay_open(self) -> None:
        """Let closed files be opened again for what is still to be shown: logging closes those of this mode for good."""
        for handler in map(behind, self._handlers):
            if isinstance(handler, logging.FileHandler) and handler.mode == "w":
                handler.mode = "a"

    def _make_plan(self) -> _Plan:
        if not self._handlers:
            from ..output.console import ConsoleHandler

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
                    handler.handle(without_text(record) if record.exc_info and formats_exceptions(handler) else record)
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
        if thread in showing or (thread in internal_threads and thread not in transport_threads):
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
        if filtered and shown is not record:  # what a filter has set is seen by later handlers, as in plain logging
            ours = {"meshlog", *own_fields()}
            fields.update({name: value for name, value in shown.__dict__.items() if name not in ours})

    @property
    def particular(self) -> bool:
        """Whether a handler has filters, or a formatter of the program's own: these are called where records are logged."""
        return any(filter_of(handler) is not None or formatter_of(handler) is not None for handler in self.handlers)

    def prepared(self, record: LogRecord, info: MeshInfo) -> Prepared:
        """Ask the filters, which may change the record, and the formatters of the program's own.

        They may look at what only the thread that logs knows: a context variable, the current request or task.
        """
        accepted: list[tuple[int, ShownBy, LogRecord, dict[str, Any]]] = []
        for index, handler in enumerate(self.handlers):
            accepts = filter_of(handler)
            passed = True if accepts is None else accepts(record)
            if not passed:
                continue
            seen = passed if isinstance(passed, LogRecord) else record
            if seen is not record and not writes_text(handler):  # only one record is sent: change it for all handlers
                record.__dict__.update(seen.__dict__)
                seen = record
            accepted.append((index, handler, seen, dict(seen.__dict__)))
        texts: list[tuple[int, str]] = []
        for index, handler, seen, fields in accepted:
            formatter = formatter_of(handler)
            if formatter is None and writes_text(handler) and not _same(fields, record.__dict__):
                formatter = any_formatter_of(handler)  # this handler alone has seen the record like this
            if formatter is not None and (seen.levelno >= handler.level or not self.respect_handler_level):
                with contextlib.suppress(Exception):  # the client formats it, and says what is wrong
                    texts.append((index, str(formatter.format(_with(seen, info, fields)))))
        return Prepared(tuple(index for index, *_ in accepted), tuple(texts))

    def narrowed(self, indices: Sequence[int]) -> Sink:
        """Return a sink of some of the handlers, whose filters have been asked already."""
        chosen = [Accepted(self.handlers[index], index) for index in indices if 0 <= index < len(self.handlers)]
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


def _same(fields: dict[str, Any], others: dict[str, Any]) -> bool:
    """Tell whether two records have the same attributes; not by ``==``, which is anything for objects of a program."""
    return fields.keys() == others.keys() and all(fields[name] is others[name] for name in fields)


def _with(record: LogRecord, info: MeshInfo, earlier: dict[str, Any] | None = None) -> LogRecord:
    """Return a copy of a record, as it is or was earlier, that has what a client adds; a program's extra keeps its name."""
    fields = record.__dict__ if earlier is None else earlier
    kind = shown_kind(record.__class__)
    shown: LogRecord = kind.__new__(kind)
    shown.__dict__ = more = dict(fields)
    more.update(own_fields() if info is _own else info.attributes())
    if len(fields) > PLAIN_SIZE:
        more.update(fields)
    shown.meshlog = info
    return shown


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


_FORK_SEC: Final = 0.25
"""Seconds that a fork waits, at most, for threads that are inside of a handler."""

_held: Final[dict[int, list[Any]]] = {}
"""The locks that a thread that forks has acquired."""


def _before_fork() -> None:
    """Wait until no other thread is inside of a handler, and let none enter.

    A handler that writes to ``sys.stderr`` holds the lock of its buffer meanwhile. A child inherits that lock, and no thread
    there can release it. (`logging` makes only its own locks anew.)
    """
    deadline = deadline_after(_FORK_SEC)
    held = _held.setdefault(get_ident(), [])
    handlers = (getattr(handler, "handler", None) or handler for sink in tuple(_sinks) for handler in sink.handlers)
    locks = {id(lock): lock for handler in handlers if (lock := getattr(handler, "lock", None)) is not None}
    # The lock of the module is first, as where `logging.config` replaces handlers.
    for lock in (vars(logging)["_lock"], *locks.values()) if locks else ():
        held.append(lock)  # before it is acquired: a signal handler may raise in between
        if not lock.acquire(timeout=seconds_until(deadline)):
            held.pop()


def _release() -> None:
    for lock in reversed(_held.pop(get_ident(), [])):
        with contextlib.suppress(RuntimeError):  # it was not acquired, or `logging` has made it anew
            lock.release()


def _after_fork_in_child() -> None:
    # The client is the parent's: what the child logs goes there, where it can.
    for sink in tuple(_sinks):
        sink.direct = False
        sink.busy = None
        sink._showing.clear()
    _release()
    _held.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_release, after_in_child=_after_fork_in_child)
