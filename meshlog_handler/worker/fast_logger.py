"""A shorter way from a logging call to the journal, for calls whose record would be the same on the standard way.

::

    logger.info(...) -> Logger._log -> [known call: pack its times and arguments] -> journal
                                       [any other call: the standard library]     -> LogRecord -> handlers -> journal

`enable` replaces the private method `logging.Logger._log`. The first call of each kind takes the standard way, and its record
shows what the later calls have in common. A later call of the same kind needs no `LogRecord`. These take the standard way:

- calls with ``exc_info``, ``extra``, ``stack_info`` or ``stacklevel``, with containers or a mapping as arguments, or with
  objects that the template does not format as their ``str``;
- loggers of another class, that are disabled, or that have filters or replaced methods;
- loggers whose records reach anything but one `MeshHandler` without filters that forwards them;
- all calls while the record factory, or one of the methods of `logging.Logger` that a record passes, is not the standard one,
  or while `logging.logThreads`, `logProcesses`, `logMultiprocessing` or `logAsyncioTasks` is off.

Each call checks this again, so that the next call sees a change.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType, FunctionType
from typing import Any, Final

from ..protocol.encode import GET_MESSAGE, STRUCT_TYPES, texts_of
from ..protocol.entries import MARK
from ..protocol.packers import Packer, codes_in
from ..protocol.record import PLAIN_SIZE
from ..protocol.shapes import message_key, schema_key

_LOGGER: Final = logging.Logger
_ROOT: Final = logging.RootLogger
_RECORD: Final = logging.LogRecord
_logging: Final[Any] = logging
"""The module, with its private names: the state that each record depends on."""
_LOG: Final = _LOGGER._log
_HANDLE: Final = _LOGGER.handle
_CALL_HANDLERS: Final = _LOGGER.callHandlers
_MAKE_RECORD: Final = _LOGGER.makeRecord
_FIND_CALLER: Final = _LOGGER.findCaller
_FILTER: Final = _LOGGER.filter
_INIT: Any = _RECORD.__init__
_GET_LEVEL_NAME: Final = logging.getLevelName
_BUILTIN: Any = type(time.time)
_CONTAINERS: Final = frozenset((list, tuple, dict))
_PASSED: Final = {"handle", "callHandlers", "makeRecord", "findCaller", "filter", "emit"}
_MAX_SITES: Final = 16_384
_MAX_KINDS: Final = 256
_MAX_CODES: Final = 1024
_MAX_SITES_OF_CODE: Final = 256
_MAX_MISSES: Final = 256
"""Calls of one code object that could not be learned. After that many, its unknown calls take the standard way at once."""
_IN_NANOSECONDS: Final = sys.version_info >= (3, 13)
_HAS_TASK_NAME: Final = sys.version_info >= (3, 12)
_MORE_LEVELS: Final = 1 if sys.version_info < (3, 11) else 0
"""Up to Python 3.10, `Logger.findCaller` begins at the caller of the method that called `_log`, and there is one frame more."""

# The standard library's own methods, and none that another package put in their place before this module was imported. From
# Python 3.14 on, a record that is logged while another one is handled may be left out: not known here.
_IS_STANDARD: Final = not hasattr(_LOGGER, "_is_disabled") and all(
    isinstance(method, FunctionType) and method.__code__.co_filename == _logging._srcfile
    for method in (_LOG, _HANDLE, _CALL_HANDLERS, _MAKE_RECORD, _FIND_CALLER)
)


_handler_kind: Any = None
_handler_handle: Any = None


def enable(kind: type[logging.Handler]) -> bool:
    """Use the short way for records that reach one handler of exactly this class; return whether it is used.

    The handler has `record_stream`, `route` and `sink`, as `MeshHandler` does. Idempotent.
    """
    global _handler_kind, _handler_handle
    if _IS_STANDARD and _LOGGER._log is _LOG:
        _LOGGER._log = _fast_log  # type: ignore[method-assign]  # there is no public place for it
    if _LOGGER._log is not _fast_log:
        return False
    _handler_kind, _handler_handle = kind, kind.handle
    return True


def disable() -> None:
    """Let all calls take the standard way."""
    global _handler_kind
    _handler_kind = None
    if _LOGGER._log is _fast_log:
        _LOGGER._log = _LOG  # type: ignore[method-assign]  # as above


def _as_standard(function: Any) -> Any:
    """Return the function as if the module `logging` had defined it: `Logger.findCaller` skips the frames of that module."""
    code = function.__code__.replace(co_filename=_logging._srcfile or "")
    return FunctionType(code, globals(), function.__name__, function.__defaults__, function.__closure__)


@_as_standard
def _fast_log(
    self: Any,
    level: int,
    msg: object,
    args: tuple[object, ...],
    exc_info: Any = None,
    extra: Any = None,
    stack_info: bool = False,
    stacklevel: int = 1,
) -> None:
    frame: Any
    handlers: list[Any]
    new = written = False
    data = schemas = None
    try:
        node, cls = self, self.__class__
        while not (handlers := node.handlers) and node.propagate and node.parent is not None:
            node = node.parent
        if (
            exc_info is None
            and extra is None
            and not stack_info
            and stacklevel == 1
            and msg.__class__ is str
            and not (args and args[0].__class__ in _CONTAINERS)
            and len(handlers) == 1
            and (handler := handlers[0]).__class__ is _handler_kind
            and (stream := handler.record_stream) is not None
            and ((sink := handler.sink) is None or not sink.direct)
            and not (self.filters or self.disabled or handler.filters)
            and level.__class__ is int
            and handler.level <= level
            and (cls is _LOGGER or cls is _ROOT)
            and cls.handle is _HANDLE
            and cls.filter is _FILTER
            and cls.callHandlers is _CALL_HANDLERS
            and cls.makeRecord is _MAKE_RECORD
            and cls.findCaller is _FIND_CALLER
            and _handler_kind.handle is _handler_handle
            and _logging._logRecordFactory is _RECORD
            and _RECORD.__init__ is _INIT
            and _RECORD.getMessage is GET_MESSAGE
            and logging.getLevelName is _GET_LEVEL_NAME
            and _logging._srcfile is not None
            and time.time.__class__ is _BUILTIN  # a program's own clock may look at the frames of its callers
            and logging.logThreads
            and logging.logProcesses
            and logging.logMultiprocessing
            and (not _HAS_TASK_NAME or _logging.logAsyncioTasks)
            and (node.parent is None or not node.propagate or _is_last(node.parent))
        ):
            frame = sys._getframe(1 + _MORE_LEVELS)
            while (code := frame.f_code).co_filename == _logging._srcfile:
                frame = frame.f_back
            modules = sys.modules
            processes = modules.get("multiprocessing")
            task = None
            if _HAS_TASK_NAME and (asyncio := modules.get("asyncio")) is not None:
                loop = asyncio._get_running_loop()
                if loop is not None and (current := asyncio.current_task(loop)) is not None:
                    task = current.get_name()
            # All that the record takes from its surroundings. The first number stands for the code object: the table refers to
            # the object, so that no other one has this number.
            site = (
                id(code),
                frame.f_lasti,
                self.name,
                cls,
                len(self.__dict__),
                len(handler.__dict__),
                level,
                _logging._levelToName.get(level),
                threading.get_ident(),
                threading.current_thread().name,
                None if processes is None else processes.current_process().name,
                task,
                handler.route,
            )
            schemas, write, mark = stream.appender
            kinds = schemas.sites.get(site)
            pack, values = None, args
            if kinds is not None:
                if args:
                    pack = kinds.get((msg, *map(type, args)))
                else:
                    pack = kinds.get(msg)
                    if pack is None:
                        pack, values = kinds.get(None), (msg,)
            if pack is None:
                known = schemas.codes.get(id(code))
                new = (known is None or known[2] < _MAX_MISSES) and _is_learned(msg, tuple(map(type, args)))
            elif len(args) == 1 and args[0].__class__ not in STRUCT_TYPES and isinstance(args[0], Mapping):
                pack = None  # `logging` may take it for the values of names
            else:
                if _IN_NANOSECONDS:
                    now = time.time_ns()
                    created = now / 1e9
                    msecs = (now % 1_000_000_000) // 1_000_000 + 0.0
                    if msecs == 999.0 and int(created) != now // 1_000_000_000:
                        msecs = 0.0
                    relative = (now - _logging._startTime) / 1e6
                else:
                    created = time.time()
                    msecs = int((created - int(created)) * 1000) + 0.0
                    relative = (created - _logging._startTime) * 1000
                data = pack(created, msecs, relative, *values)
                write(data)
                written = True
                mark(MARK)
                if stream.idle:
                    stream.wake()
                return
    except Exception as failure:
        # A full segment, or a value that the schema does not have. After the write, only the commit byte can fail: a full
        # segment has no room for it, and needs none.
        if written:
            return
        texts = texts_of(failure, data, schemas)
        if texts:
            args = tuple(texts.get(index, arg) for index, arg in enumerate(args))
    if new:
        _log_and_learn(self, level, msg, args, frame, handler, site)
    else:
        if _MORE_LEVELS:
            stacklevel = max(stacklevel, 1) + _MORE_LEVELS
        _LOG(self, level, msg, args, exc_info, extra, stack_info, stacklevel)


def _is_last(node: Any) -> bool:
    """Return whether no logger from `node` on has a handler."""
    while node is not None and not node.handlers:
        node = node.parent if node.propagate else None
    return node is None


def _is_learned(template: str, kinds: tuple[type, ...]) -> bool:
    """Return whether calls with arguments of these types are learned: not containers, which the program may change."""
    codes = codes_in(template, kinds)
    return codes is not None and "p" not in codes


@_as_standard
def _log_and_learn(
    self: Any, level: int, msg: str, args: tuple[object, ...], frame: FrameType, handler: Any, site: tuple[object, ...]
) -> None:
    try:
        path, line, function, stack = self.findCaller(False, 1 + _MORE_LEVELS)
    except ValueError:
        path, line, function, stack = "(unknown file)", 0, "(unknown function)", None
    record = self.makeRecord(self.name, level, path, line, msg, args, None, function, None, stack)
    self.handle(record)
    with contextlib.suppress(Exception):  # the record is handled, and the next call takes the standard way again
        _learn(self, record, args, frame, handler, site)


def _learn(
    logger: logging.Logger,
    record: logging.LogRecord,
    args: tuple[object, ...],
    frame: FrameType,
    handler: Any,
    site: tuple[object, ...],
) -> None:
    """Note how to pack the calls from this site, if the record has a schema and is from there."""
    code, fields, stream = frame.f_code, record.__dict__, handler.record_stream
    if (
        (record.pathname, record.lineno, record.funcName) != (code.co_filename, frame.f_lineno, code.co_name)
        or record.__class__ is not _RECORD
        or len(fields) != PLAIN_SIZE
        or record.args is not args
        or not _is_learned(record.msg, tuple(map(type, args)))
        or not _PASSED.isdisjoint((*logger.__dict__, *handler.__dict__))
        or stream is None
    ):
        return
    schemas = stream.appender[0]
    key: object = (record.msg, *map(type, args)) if args else record.msg
    pack: Packer | None = schemas.get((schema_key(fields), (_RECORD, *map(type, args)), handler.route))
    if pack is None and not args:
        key, pack = None, schemas.get((message_key(fields), _RECORD, str, handler.route))
    kinds = schemas.sites.get(site)
    if kinds is None:
        # Code that a program compiles again and again, or runs in ever new threads or tasks, is not learned any more.
        known = schemas.codes.get(id(code))
        if known is None and len(schemas.codes) < _MAX_CODES:
            known = schemas.codes[id(code)] = [code, 0, 0]
        if known is None:
            return
        if known[1] >= _MAX_SITES_OF_CODE or len(schemas.sites) >= _MAX_SITES:
            known[2] += 1
            return
        known[1] += 1
        kinds = schemas.sites[site] = {}
    if pack is not None and len(kinds) < _MAX_KINDS:
        kinds[key] = pack
    elif (known := schemas.codes.get(id(code))) is not None:
        known[2] += 1
