"""Suppression of a worker's console handlers for forwarded records, which the client shows: each record is shown once.

The handlers stay installed, and show records again as soon as nothing is forwarded.

::

    Logger.callHandlers, MemoryHandler, QueueListener -> Handler.handle -> is the record forwarded?
                                                            no: unchanged
                                                           yes: filter only, if it writes to the console

The standard library runs every handler through `logging.Handler.handle`. While a worker forwards, this module replaces that
method. So it does not matter which logger has the handler, when it was added, or by what code.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from ..protocol.record import MeshRecord
from ..system.descriptors import FileIdentity, identity
from ..system.fd_capture import changes, original_fd
from ..system.standard_streams import of_parents_kernel
from . import record_stream, this_process

_handle: Final = logging.Handler.handle
_handle_error: Final = logging.Handler.handleError
_NEAR: Final = 8
_OUR_CONSOLE: Final = __name__.replace("worker.console_handlers", "output.console")
_CONSOLE: Final = (1, 2)


class _Suppression:
    """While active, console output of the current thread or task is dropped."""

    active = True  # a flag, because tasks copy the context: resetting the variable does not reach the copies
    wrote = False


class _Verdict(NamedTuple):
    """What the forwarding handler does with a record. Later console handlers may change it unless `final`."""

    record: logging.LogRecord
    passed: bool | logging.LogRecord
    final: bool = False


class _Place(NamedTuple):
    """The position of `Logger.callHandlers`: the logger it was called for, the current logger, and the current handler."""

    first: logging.Logger
    logger: logging.Logger
    handler: logging.Handler


_suppression: ContextVar[_Suppression | None] = ContextVar("meshlog_suppression", default=None)
_verdict: ContextVar[_Verdict | None] = ContextVar("meshlog_verdict", default=None)
_last = threading.local()
_since: float | None = None
_places: frozenset[FileIdentity] | None = None
_kinds: dict[type, str] = {}
_consoles: weakref.WeakKeyDictionary[io.TextIOWrapper, tuple[int, bool]] = weakref.WeakKeyDictionary()
_wrapped_files: weakref.WeakSet[Any] = weakref.WeakSet()
_filtered: weakref.WeakSet[logging.Handler] = weakref.WeakSet()


def start(places: frozenset[FileIdentity] | None = None) -> None:
    """Suppress console handlers for records that a `MeshHandler` forwards to the client of this process."""
    # `places` are the files to which the client writes: only handlers that write to them would show a record twice. None means
    # that stdout and stderr are captured: handlers that write to them would show it twice, wherever they lead.
    global _since, _places
    _places = places
    _consoles.clear()
    if _since is None:
        _since = time.time()  # records from before, such as those in a buffer, were not forwarded
        logging.Handler.handle = _suppressing_handle  # type: ignore[method-assign]  # the purpose of this module
        logging.Handler.handleError = _unsuppressed_handle_error  # type: ignore[method-assign]  # as above
        record_stream.shown_here = shown_by_console
        record_stream.show_late = _show_late


def stop() -> None:
    """Undo `start`, except for methods that other code has replaced since."""
    global _since, _places
    _since = _places = None
    if logging.Handler.handle is _suppressing_handle:
        logging.Handler.handle = _handle  # type: ignore[method-assign]  # as in `start`
    if logging.Handler.handleError is _unsuppressed_handle_error:
        logging.Handler.handleError = _handle_error  # type: ignore[method-assign]  # as in `start`
    for file in tuple(_wrapped_files):
        if getattr(vars(file).get("write"), "suppressible", False):
            del file.write
    for mesh in tuple(_filtered):
        mesh.removeFilter(_as_on_console)
    _wrapped_files.clear()
    _filtered.clear()
    _kinds.clear()


def leads_to_console(file: object) -> bool | None:
    """Return whether a stream writes to this process's stdout or stderr; None if that is unknown until it writes."""
    if not isinstance(file, io.TextIOWrapper):
        if _places is None and of_parents_kernel(file):
            return True
        # Wrappers of a stream, such as those of Ray and colorama, have the `fileno` of that stream.
        return True if callable(getattr(file, "fileno", None)) and _is_console(file) else None
    known = _consoles.get(file)
    if known is None or known[0] != changes():
        known = _consoles[file] = changes(), _is_console(file)
    return known[1]


def _is_console(file: Any) -> bool:
    try:
        fd = file.fileno()
    except Exception:  # closed, or without a file, or a broken wrapper of the program
        return False
    if type(fd) is not int:
        return False
    place = identity(fd)
    if _places is not None:
        return place in _places
    if fd in _CONSOLE:
        return True
    ends = (*_CONSOLE, *filter(None, map(original_fd, _CONSOLE)))
    return place is not None and any(identity(end) == place for end in ends)


def shown_by_console(record: logging.LogRecord) -> bool:
    """Return whether a console handler gets this record from its logger, so that nothing else need show it."""
    logger = _logger_of(record)
    return logger is not None and any(
        record.levelno >= handler.level and writes_to_console(handler) for each in _upward(logger) for handler in each.handlers
    )


def _show_late(record: logging.LogRecord) -> bool:
    """Let console handlers show a suppressed record, because the client ended before it was forwarded."""
    logger = _logger_of(record) if getattr(_last, "suppressed", None) == (record.created, id(record)) else None
    if logger is None:
        return False
    for each in _upward(logger):
        for handler in each.handlers:
            if record.levelno >= handler.level and writes_to_console(handler):
                handler.handle(record)
    return True


def _suppressing_handle(self: logging.Handler, record: logging.LogRecord) -> Any:
    """Replace `logging.Handler.handle`."""
    kind = _kinds.get(type(self)) or _kind_of(type(self))
    if kind == "elsewhere":
        return _handle(self, record)
    console = None
    if kind == "stream":
        console = leads_to_console(next(_streams_of(self)))
        if console is False:
            return _handle(self, record)
    if not _is_forwarded(record):
        if _suppression.get() is None:
            return _handle(self, record)
        with _unsuppressed():
            return _handle(self, record)
    passed = self.filter(record)
    if self.filters:
        _store_verdict(self, record, passed)
    if not passed:
        return passed
    _last.suppressed = record.created, id(record)
    if isinstance(passed, logging.LogRecord):
        record = passed
    if console is None:
        _emit(self, record)
    return passed


def _unsuppressed_handle_error(self: logging.Handler, record: logging.LogRecord) -> None:
    """Replace `logging.Handler.handleError`: its report about a handler is not suppressed."""
    with _unsuppressed():
        _handle_error(self, record)


def _kind_of(cls: type) -> str:
    """Return where handlers of a class write: "stream" (only to their stream), "elsewhere" or "anywhere"."""
    emit: Any = cls.emit  # type: ignore[attr-defined]  # a class of handlers
    if emit is logging.StreamHandler.emit or getattr(emit, "__module__", None) == _OUR_CONSOLE:
        kind = "stream"
    elif getattr(emit, "__module__", None) in ("logging", "logging.handlers") or forwards(cls):
        kind = "elsewhere"
    else:
        kind = "anywhere"
    _kinds[cls] = kind
    return kind


def forwards(handler: object) -> bool:
    """Return whether a handler, or a class of handlers, is a `MeshHandler`."""
    return getattr(handler, "forwards", False) is True


def writes_to_console(handler: logging.Handler) -> bool:
    """Return whether a handler is known to write to the console, by its stream or by the stream of a Rich console."""
    return any(leads_to_console(stream) for stream in _streams_of(handler))


def _streams_of(handler: logging.Handler) -> Iterator[object]:
    ours = getattr(handler, "console_stream", None)
    yield ours() if callable(ours) else getattr(handler, "stream", None)
    yield getattr(getattr(handler, "console", None), "file", None)


# -- Forwarded records -------------------------------------------------------------------------------------------------


def _is_forwarded(record: logging.LogRecord) -> bool:
    """Return whether a record is, or was, forwarded."""
    if _since is None or record.created < _since or isinstance(record, MeshRecord) or record_stream.is_own(record):
        return False
    member = this_process.current() or this_process.rejoin()
    if member is None or member.rank is None or member.stream is None or member.stream.client_gone or member.stream.ended:
        return False
    logger = _logger_of(record)
    return logger is not None and any(_forwards(handler, record) for each in _upward(logger) for handler in each.handlers)


def _logger_of(record: logging.LogRecord) -> logging.Logger | None:
    """Return the logger of a record, if it was logged in this process."""
    if record.process in (None, os.getpid()):
        root = logging.getLogger()
        logger = root if record.name == root.name else root.manager.loggerDict.get(record.name)
        if isinstance(logger, logging.Logger):
            return logger
    # A record with another name, or from another process: a logger that handles it here is on the call stack.
    place = _place(record)
    return None if place is None else place.first


def _upward(logger: logging.Logger) -> Iterator[logging.Logger]:
    """Yield a logger and the loggers to which its records propagate."""
    each: logging.Logger | None = logger
    while each is not None:
        yield each
        each = each.parent if each.propagate else None


def _forwards(handler: logging.Handler, record: logging.LogRecord) -> bool:
    # The result of the program's filters is unknown until they run, and they must run only once.
    return forwards(handler) and record.levelno >= handler.level and all(_lets_pass(each, record) for each in handler.filters)


def _lets_pass(accepts: object, record: logging.LogRecord) -> bool:
    return accepts is _as_on_console or (accepts is is_left_to_root and is_left_to_root(record))


def is_left_to_root(record: logging.LogRecord) -> bool:
    """Return whether no other `MeshHandler` forwards a record: a filter for the one that `install` puts on the root logger."""
    place = _place(record)  # the logger may have another name than the record
    logger = _logger_of(record) if place is None else place.first
    return logger is None or not any(
        forwards(handler) and record.levelno >= handler.level and is_left_to_root not in handler.filters
        for each in _upward(logger)
        for handler in each.handlers
    )


# -- Filters of consoles -----------------------------------------------------------------------------------------------


class _AsOnConsole(logging.Filter):
    """Makes a `MeshHandler` apply the result of the filters of earlier console handlers: it may reject or change a record."""

    def filter(self, record: logging.LogRecord) -> Any:
        verdict = _verdict.get()
        if verdict is None:
            return True
        _verdict.set(None)  # it would keep the record alive
        return verdict.passed if verdict.record is record else True


_as_on_console: Final = _AsOnConsole()


def _store_verdict(console: logging.Handler, record: logging.LogRecord, passed: bool | logging.LogRecord) -> None:
    """Store the filter result of a console handler for a later `MeshHandler`."""
    place = _place(record) if writes_to_console(console) else None
    mesh = None if place is None else next((each for each in _after(place) if _forwards(each, record)), None)
    if place is None or mesh is None:
        return
    before = _verdict_on(record)
    if passed is record:  # Python 3.12 and later return the record instead of True
        passed = True
    if before is None:
        others = [each for level in _upward(place.first) for each in level.handlers if each is not console]
        others = [each for each in others if record.levelno >= each.level and writes_to_console(each)]
        if not all(each.filters for each in others) or (passed is True and not others):
            return
    elif before.final or before.passed is not False:  # one console handler that shows it is enough
        return
    _set_verdict(mesh, _Verdict(record, passed))


def _emit(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Let a handler that may write anywhere emit a forwarded record, and drop what it writes to the console."""
    place = _place(record)
    ahead = [] if place is None else list(_after(place))
    mesh = next((each for each in ahead if _forwards(each, record)), None)
    before = _verdict_on(record)
    final = before is not None and before.final
    if mesh is not None and not final:
        if before is not None and before.passed is False:
            with _unsuppressed():  # rejected by a filter: it is not forwarded
                _run(handler, record)
            return
        if not any(each.filters and writes_to_console(each) for each in ahead):
            # Forward first: the handler may raise or end the process, as absl does for FATAL.
            mesh.handle(record)
            _set_verdict(mesh, _Verdict(record, False, final=True))
            final = True
    with _suppressed(handler) as suppression:
        _run(handler, record, muted=callable(getattr(handler, "console_stream", None)) and writes_to_console(handler))
    if mesh is not None and not final and suppression.wrote:
        _set_verdict(mesh, _Verdict(record, True, final=True))


def _run(handler: Any, record: logging.LogRecord, *, muted: bool = False) -> None:
    """Let a handler emit a record. `muted`: it is a subclass of our console, and leaves out what it writes itself."""
    handler.acquire()
    before, verdict = getattr(handler, "muted", False), _verdict.get()
    try:
        if muted:
            handler.muted = True
        handler.emit(record)
    finally:
        if muted:
            handler.muted = before
        _verdict.set(verdict)  # what the handler has logged may have replaced it
        handler.release()


def _verdict_on(record: logging.LogRecord) -> _Verdict | None:
    verdict = _verdict.get()
    return verdict if verdict is not None and verdict.record is record else None


def _set_verdict(mesh: logging.Handler, verdict: _Verdict) -> None:
    _verdict.set(verdict)
    if mesh not in _filtered:
        mesh.addFilter(_as_on_console)
        _filtered.add(mesh)


def _place(record: logging.LogRecord) -> _Place | None:
    """Return the position of the innermost `Logger.callHandlers` on this thread, if it handles this record."""
    frame = sys._getframe(2)
    for _ in range(_NEAR):
        if frame.f_code.co_name == "callHandlers" and frame.f_globals.get("__name__") == "logging":
            found = frame.f_locals
            return _Place(found["self"], found["c"], found["hdlr"]) if found["record"] is record else None
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def _after(place: _Place) -> Iterator[logging.Handler]:
    """Yield the handlers that `Logger.callHandlers` calls after this position."""
    handlers = place.logger.handlers
    if place.handler in handlers:
        yield from handlers[handlers.index(place.handler) + 1 :]
    if place.logger.propagate and place.logger.parent is not None:
        for each in _upward(place.logger.parent):
            yield from each.handlers


# -- Handlers that write anywhere --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _suppressed(handler: logging.Handler) -> Iterator[_Suppression]:
    """Drop what this thread or task writes to the console inside the block."""
    for file in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__, *_streams_of(handler)):
        # A proxy that passes on what is set would give the method to the stream behind it, which it would call without end.
        settable = type(file).__setattr__ is object.__setattr__ and "write" not in getattr(file, "__dict__", ("write",))
        if settable and leads_to_console(file):
            _wrap_write(file)
    suppression = _Suppression()
    before = _suppression.set(suppression)
    try:
        yield suppression
    finally:
        suppression.active = False
        _suppression.reset(before)


@contextlib.contextmanager
def _unsuppressed() -> Iterator[None]:
    """Write to the console inside the block, even inside `_suppressed`."""
    before = _suppression.set(None)
    try:
        yield
    finally:
        _suppression.reset(before)


def _wrap_write(file: Any) -> None:
    write: Callable[[str], int] = file.write

    def write_unless_suppressed(text: str, /) -> int:
        suppression = _suppression.get()
        # Bytes must raise an error: programs use that to test the kind of a file.
        if suppression is None or not suppression.active or not isinstance(text, str):
            return write(text)
        suppression.wrote = True
        return len(text)

    write_unless_suppressed.suppressible = True  # type: ignore[attr-defined]  # `stop` looks for it
    with contextlib.suppress(AttributeError, TypeError):  # not a class of the standard library, nor an ordinary one
        _wrapped_files.add(file)
        file.write = write_unless_suppressed  # print and every handler call it
