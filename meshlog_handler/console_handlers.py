"""A worker's console handlers are quiet about what is forwarded: the client shows it, and a line is shown once.

They stay where the program has put them, and work again as soon as nothing is forwarded.

::

    Logger.callHandlers, MemoryHandler, QueueListener -> Handler.handle -> is the record forwarded?
                                                            no: as ever
                                                           yes: filter, and for a console that is all

`logging.Handler.handle` is the one method by which the standard library runs a handler. While a worker forwards, the one
here takes its place. So it does not matter which logger a handler is on, when it was added, or by what.
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
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from .handler import MeshHandler
from .protocol.record import MeshRecord
from .system.descriptors import FileIdentity, identity
from .system.fd_capture import changes, original_fd
from .worker import membership, record_stream

_handle: Final = logging.Handler.handle
_handle_error: Final = logging.Handler.handleError
_NEAR: Final = 8
_CONSOLE: Final = (1, 2)


class _Muted:
    """What the current thread or task writes to the console is dropped. Contexts are copied, so that it must end in itself."""

    active = True
    wrote = False


class _Verdict(NamedTuple):
    """What becomes of a record when the handler that forwards it is reached. Further consoles may change it if not `final`."""

    record: logging.LogRecord
    passed: bool | logging.LogRecord
    final: bool = False


class _Place(NamedTuple):
    """Where `Logger.callHandlers` is: the logger it was called for, the one whose turn it is, and its handler."""

    first: logging.Logger
    logger: logging.Logger
    handler: logging.Handler


_muted: ContextVar[_Muted | None] = ContextVar("meshlog_muted", default=None)
_verdict: ContextVar[_Verdict | None] = ContextVar("meshlog_verdict", default=None)
_kept = threading.local()
_since: float | None = None
_places: frozenset[FileIdentity] | None = None
_kinds: dict[type, str] = {}
_consoles: weakref.WeakKeyDictionary[io.TextIOWrapper, tuple[int, bool]] = weakref.WeakKeyDictionary()
_muffled: weakref.WeakSet[io.TextIOWrapper] = weakref.WeakSet()
_told: weakref.WeakSet[logging.Handler] = weakref.WeakSet()


def start(places: frozenset[FileIdentity] | None = None) -> None:
    """Let console handlers be quiet about what a `MeshHandler` forwards to the client that this process has joined.

    Parameters
    ----------
    places : frozenset of Identity or None
        Where the client shows it, so that it would be seen twice. None: stdout and stderr are captured, and wherever they
        lead, it would be.
    """
    global _since, _places
    _places = places
    _consoles.clear()
    if _since is None:
        _since = time.time()  # what was logged before, and waits in a buffer, was not forwarded
        logging.Handler.handle = _quiet_handle  # type: ignore[method-assign]  # that is what this module does
        logging.Handler.handleError = _loud_handle_error  # type: ignore[method-assign]  # as above
        record_stream.shown_here = shown_by_console
        record_stream.show_late = _show_late


def stop() -> None:
    """Let all handlers work as they did. What others have put in the place of these methods meanwhile stays."""
    global _since, _places
    _since = _places = None
    if logging.Handler.handle is _quiet_handle:
        logging.Handler.handle = _handle  # type: ignore[method-assign]  # as in `start`
    if logging.Handler.handleError is _loud_handle_error:
        logging.Handler.handleError = _handle_error  # type: ignore[method-assign]  # as in `start`
    for file in tuple(_muffled):
        if getattr(vars(file).get("write"), "muffled", False):
            del file.write
    for mesh in tuple(_told):
        mesh.removeFilter(_as_on_console)
    _muffled.clear()
    _told.clear()
    _kinds.clear()


def leads_to_console(file: object) -> bool | None:
    """Tell whether a stream writes to this process's stdout or stderr; None if only its use would tell."""
    if not isinstance(file, io.TextIOWrapper):
        # A wrapper of a stream, such as Ray's and colorama's, tells where that leads.
        return True if callable(getattr(file, "fileno", None)) and _is_console(file) else None
    known = _consoles.get(file)
    if known is None or known[0] != changes():
        known = _consoles[file] = changes(), _is_console(file)
    return known[1]


def _is_console(file: Any) -> bool:
    try:
        fd = file.fileno()
    except Exception:  # closed, or no file behind it; or a wrapper of the program's own that is broken
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
    """Tell whether a console handler gets this record from its logger: then it need not be said in any other way."""
    logger = _logger_of(record)
    return logger is not None and any(
        record.levelno >= handler.level and writes_to_console(handler) for each in _upward(logger) for handler in each.handlers
    )


def _show_late(record: logging.LogRecord) -> bool:
    """Let the console handlers show a record that they were quiet about, for the client ended before it was forwarded."""
    logger = _logger_of(record) if getattr(_kept, "quiet", None) == (record.created, id(record)) else None
    if logger is None:
        return False
    for each in _upward(logger):
        for handler in each.handlers:
            if record.levelno >= handler.level and writes_to_console(handler):
                handler.handle(record)
    return True


def _quiet_handle(self: logging.Handler, record: logging.LogRecord) -> Any:
    """Stand for `logging.Handler.handle`."""
    kind = _kinds.get(type(self)) or _kind_of(type(self))
    if kind == "elsewhere":
        return _handle(self, record)
    console = None
    if kind == "stream":
        console = leads_to_console(self.stream)  # type: ignore[attr-defined]  # it is a StreamHandler
        if console is False:
            return _handle(self, record)
    if not _is_forwarded(record):
        if _muted.get() is None:
            return _handle(self, record)
        with _heard():
            return _handle(self, record)
    passed = self.filter(record)
    if self.filters:
        _note(self, record, passed)
    if not passed:
        return passed
    _kept.quiet = record.created, id(record)
    if isinstance(passed, logging.LogRecord):
        record = passed
    if console is None:
        _emit(self, record)
    return passed


def _loud_handle_error(self: logging.Handler, record: logging.LogRecord) -> None:
    """Stand for `logging.Handler.handleError`: what it says of a handler is not what the handler shows."""
    with _heard():
        _handle_error(self, record)


def _kind_of(cls: type) -> str:
    """Return where handlers of a class write: "stream" (to that and nowhere else), "elsewhere", or "anywhere"."""
    emit: Any = cls.emit  # type: ignore[attr-defined]  # it is a class of handlers
    if emit is logging.StreamHandler.emit:
        kind = "stream"
    elif getattr(emit, "__module__", None) in ("logging", "logging.handlers") or issubclass(cls, MeshHandler):
        kind = "elsewhere"
    else:
        kind = "anywhere"
    _kinds[cls] = kind
    return kind


def writes_to_console(handler: logging.Handler) -> bool:
    """Tell whether a handler is known to write to the console: by its own stream, or that of Rich's console."""
    return any(leads_to_console(stream) for stream in _streams_of(handler))


def _streams_of(handler: logging.Handler) -> Iterator[object]:
    yield getattr(handler, "stream", None)
    yield getattr(getattr(handler, "console", None), "file", None)


# -- What is forwarded -------------------------------------------------------------------------------------------------


def _is_forwarded(record: logging.LogRecord) -> bool:
    """Tell whether a record is forwarded, or has been; False if this process keeps it to itself."""
    if _since is None or record.created < _since or isinstance(record, MeshRecord) or record_stream.is_own(record):
        return False
    member = membership.current() or membership.rejoin()
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
    # The name of another logger or of none, or from another process: then its handlers run because some logger here has it.
    place = _place(record)
    return None if place is None else place.first


def _upward(logger: logging.Logger) -> Iterator[logging.Logger]:
    """Yield a logger, and those that it hands its records on to."""
    each: logging.Logger | None = logger
    while each is not None:
        yield each
        each = each.parent if each.propagate else None


def _forwards(handler: logging.Handler, record: logging.LogRecord) -> bool:
    # What filters of the program say of a record is known only when it is asked, and that must happen once.
    return (
        isinstance(handler, MeshHandler)
        and record.levelno >= handler.level
        and all(each is _as_on_console for each in handler.filters)
    )


# -- Filters of consoles -----------------------------------------------------------------------------------------------


class _AsOnConsole(logging.Filter):
    """Lets a `MeshHandler` forward a record as the filters of the console handlers before it have left it, or not at all."""

    def filter(self, record: logging.LogRecord) -> Any:
        verdict = _verdict.get()
        if verdict is None:
            return True
        _verdict.set(None)  # it keeps the record alive
        return verdict.passed if verdict.record is record else True


_as_on_console: Final = _AsOnConsole()


def _note(console: logging.Handler, record: logging.LogRecord, passed: bool | logging.LogRecord) -> None:
    """Note what the filters of a handler say of a record, where a `MeshHandler` is still to come."""
    place = _place(record) if writes_to_console(console) else None
    mesh = None if place is None else next((each for each in _after(place) if _forwards(each, record)), None)
    if place is None or mesh is None:
        return
    before = _verdict_on(record)
    if passed is record:  # as Python 3.12 says True
        passed = True
    if before is None:
        others = [each for level in _upward(place.first) for each in level.handlers if each is not console]
        others = [each for each in others if record.levelno >= each.level and writes_to_console(each)]
        if not all(each.filters for each in others) or (passed is True and not others):
            return
    elif before.final or before.passed is not False:  # one console that shows it is enough
        return
    _tell(mesh, _Verdict(record, passed))


def _emit(handler: logging.Handler, record: logging.LogRecord) -> None:
    """Let a handler that may write anywhere show a record that is forwarded: what it writes to the console is dropped."""
    place = _place(record)
    ahead = [] if place is None else list(_after(place))
    mesh = next((each for each in ahead if _forwards(each, record)), None)
    before = _verdict_on(record)
    final = before is not None and before.final
    if mesh is not None and not final:
        if before is not None and before.passed is False:
            with _heard():  # held back by a filter: it is not forwarded
                _run(handler, record)
            return
        if not any(each.filters and writes_to_console(each) for each in ahead):
            # Before what may end the process, as absl does for FATAL, or raise.
            mesh.handle(record)
            _tell(mesh, _Verdict(record, False, final=True))
            final = True
    with _unheard(handler) as muted:
        _run(handler, record)
    if mesh is not None and not final and muted.wrote:
        _tell(mesh, _Verdict(record, True, final=True))


def _run(handler: logging.Handler, record: logging.LogRecord) -> None:
    handler.acquire()
    try:
        handler.emit(record)
    finally:
        handler.release()


def _verdict_on(record: logging.LogRecord) -> _Verdict | None:
    verdict = _verdict.get()
    return verdict if verdict is not None and verdict.record is record else None


def _tell(mesh: logging.Handler, verdict: _Verdict) -> None:
    _verdict.set(verdict)
    if mesh not in _told:
        mesh.addFilter(_as_on_console)
        _told.add(mesh)


def _place(record: logging.LogRecord) -> _Place | None:
    """Return where the innermost `Logger.callHandlers` of this thread is, if it is for this record."""
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
    """Yield the handlers whose turn comes after that of this place."""
    handlers = place.logger.handlers
    if place.handler in handlers:
        yield from handlers[handlers.index(place.handler) + 1 :]
    if place.logger.propagate and place.logger.parent is not None:
        for each in _upward(place.logger.parent):
            yield from each.handlers


# -- Handlers that write anywhere --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _unheard(handler: logging.Handler) -> Iterator[_Muted]:
    """Drop what is written to the console meanwhile, by this thread or task."""
    for file in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__, *_streams_of(handler)):
        if isinstance(file, io.TextIOWrapper) and "write" not in vars(file) and leads_to_console(file):
            _muffle(file)
    muted = _Muted()
    before = _muted.set(muted)
    try:
        yield muted
    finally:
        muted.active = False
        _muted.reset(before)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Let what is written meanwhile come through, in the midst of `_unheard` as well."""
    before = _muted.set(None)
    try:
        yield
    finally:
        _muted.reset(before)


def _muffle(file: io.TextIOWrapper) -> None:
    write = file.write

    def write_if_heard(text: str, /) -> int:
        muted = _muted.get()
        if muted is None or not muted.active or not isinstance(text, str):  # bytes raise, by which some tell kinds of files
            return write(text)
        muted.wrote = True
        return len(text)

    write_if_heard.muffled = True  # type: ignore[attr-defined]  # how `stop` knows it
    file.write = write_if_heard  # type: ignore[method-assign]  # what print and every handler calls
    _muffled.add(file)
