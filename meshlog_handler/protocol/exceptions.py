"""Describe exceptions as data, and make stand-ins from that data: the client's formatters format these like the originals.

A *failure* is plain data: ``(base, module, name, message, notes, frames, cause, context, group)``. `base` is the built-in
exception from which the type derives; `cause`, `context` and the members of `group` are failures or None. A frame is
``(file, line, function, end line, column, end column)``. The failure of a SyntaxError has one more item: the attributes in
`_SOURCE`. Pure.
"""

from __future__ import annotations

import builtins
import linecache
import os
import stat
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from traceback import FrameSummary, TracebackException
from types import CodeType, FunctionType, TracebackType
from typing import Any, Final

from .plain import exact_text

Frame = tuple[str, int, str, int | None, int | None, int | None]
Failure = tuple[Any, ...]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

NO_FAILURE: Final[Failure] = ()
"""The failure for ``(None, None, None)``, the exception information without an exception."""

_MAX_FRAMES: Final = 100
_MAX_CHAIN: Final = 8  # each contains the next, and the depth of plain data is limited
_MAX_GROUP: Final = 32
_MAX_PATH: Final = 4096
_MAX_NAME: Final = 1024
_MAX_LINE: Final = 1 << 30
_MAX_COLUMN: Final = 1 << 16
_MAX_LINES: Final = 1 << 10
_MAX_SOURCE: Final = 1 << 24
_NO_COLUMNS: Final = (-1, -1)
_SOURCE: Final = ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset")
_MAX_TEXT: Final = 1 << 16


def describe(error: BaseException, trace: TracebackException) -> Failure:
    """Return the failure of an exception with its causes, contexts and members. `trace` is its `TracebackException`."""
    return _describe(error, trace, _MAX_CHAIN)


def _describe(error: BaseException, trace: TracebackException, left: int) -> Failure:
    def related(other: BaseException | None, its: TracebackException | None) -> Failure | None:
        return _describe(other, its, left - 1) if other is not None and its is not None and left > 1 else None

    kind = type(error)
    base = next((each.__name__ for each in kind.__mro__ if each.__module__ == "builtins"), "Exception")
    frames = tuple(map(_frame, trace.stack if len(trace.stack) <= _MAX_FRAMES else _both_ends(trace.stack)))
    group = getattr(trace, "exceptions", None)
    return (
        base,
        exact_text(kind.__module__)[:_MAX_NAME],
        exact_text(kind.__qualname__)[:_MAX_NAME],
        exact_text(str(trace)),
        _notes(getattr(trace, "__notes__", None)),
        frames,
        related(error.__cause__, trace.__cause__),
        related(error.__context__, trace.__context__),
        None if not group else tuple(map(related, error.exceptions[:_MAX_GROUP], group)),  # type: ignore[attr-defined]  # a group
        *([_source(error, trace)] if isinstance(error, SyntaxError) else []),
    )


def _notes(notes: Any) -> tuple[str, ...] | None:
    """Return the notes that `traceback` writes, each as text."""
    if notes is None:
        return None
    if isinstance(notes, Sequence) and (not isinstance(notes, (str, bytes)) or _splits_texts()):
        return tuple(_safe(note, str, "note") for note in notes)
    return (_safe(notes, repr, "__notes__"),)


def _splits_texts() -> bool:
    """Return whether `traceback` takes each character of a text for a note, as in Python 3.11."""
    probe: Any = Exception()
    probe.__notes__ = "ab"
    return len(list(TracebackException(Exception, probe, None).format_exception_only())) > 2


def _safe(value: object, convert: Callable[[object], str], what: str) -> str:
    try:
        return str.__str__(convert(value))
    except Exception:  # as in `traceback`
        return f"<{what} {convert.__name__}() failed>"


def _source(error: SyntaxError, trace: TracebackException) -> tuple[str | int | None, ...]:
    """Return the place of a syntax error, as `traceback` shows it."""
    found: list[str | int | None] = []
    for name in _SOURCE:
        own: Any = getattr(error, name, None)
        value = own if type(own) is int else getattr(trace, name, own)  # `traceback` makes texts of the numbers of lines
        if type(value) is int:
            value = value if 0 <= value <= (_MAX_LINE if name.endswith("lineno") else _MAX_COLUMN) else None
        found.append(value if value is None or type(value) is int else exact_text(value)[:_MAX_TEXT])
    return tuple(found)


def _both_ends(stack: list[FrameSummary]) -> list[FrameSummary]:
    half = _MAX_FRAMES // 2
    return [*stack[:half], *stack[-half:]]


def _frame(frame: FrameSummary) -> Frame:
    places = (getattr(frame, name, None) for name in ("end_lineno", "colno", "end_colno"))
    names = exact_text(frame.filename)[:_MAX_PATH], exact_text(frame.name)[:_MAX_NAME]
    return (names[0], frame.lineno or 0, names[1], *places)  # type: ignore[return-value]  # three


def is_failure(value: object, left: int = _MAX_CHAIN) -> bool:
    """Return whether the data from a peer is a valid failure."""
    if value == NO_FAILURE and left == _MAX_CHAIN:
        return True
    if not isinstance(value, tuple) or len(value) not in (9, 10) or left < 1:
        return False
    base, module, name, message, notes, frames, cause, context, group, *source = value
    return (
        all(isinstance(text, str) for text in (base, module, name, message))
        and max(len(base), len(module), len(name)) <= _MAX_NAME
        and (notes is None or (isinstance(notes, tuple) and all(isinstance(note, str) for note in notes)))
        and isinstance(frames, tuple)
        and len(frames) <= _MAX_FRAMES
        and all(map(_is_frame, frames))
        and all(other is None or is_failure(other, left - 1) for other in (cause, context))
        and (group is None or _is_group(group, left - 1))
        and all(map(_is_source, source))
    )


def _is_source(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != len(_SOURCE):
        return False
    places = {name: each for name, each in zip(_SOURCE, value, strict=True) if each is not None}
    numbers = {name: each for name, each in places.items() if type(each) is int}
    texts = [each for name, each in places.items() if name not in numbers and "offset" not in name]
    return (
        len(numbers) + len(texts) == len(places)
        and all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts)
        and all(0 <= each <= (_MAX_LINE if name.endswith("lineno") else _MAX_COLUMN) for name, each in numbers.items())
    )


def _is_group(value: object, left: int) -> bool:
    return (
        isinstance(value, tuple) and len(value) <= _MAX_GROUP and all(each is None or is_failure(each, left) for each in value)
    )


def _is_frame(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 6 or not isinstance(value[0], str) or not isinstance(value[2], str):
        return False
    line, *places = value[1], *value[3:]
    if len(value[0]) > _MAX_PATH or len(value[2]) > _MAX_NAME:
        return False
    return _is_place(line) and all(place is None or _is_place(place) for place in places)


def _is_place(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_LINE


def signature(failure: Failure) -> Hashable | None:
    """Return the key by which exceptions are grouped: the type and the place of each frame, without the message."""
    if failure == NO_FAILURE:
        return None
    _, module, name, _, _, frames, *_ = failure
    return (f"{module}.{name}", *(frame[:2] for frame in frames))


def with_message(failure: Failure, message: str) -> Failure:
    """Return a failure with another message."""
    return (*failure[:3], message, *failure[4:])


def exc_info(failure: Failure) -> ExcInfo:
    """Return stand-ins for a type, an exception and a traceback, in the form of `sys.exc_info`.

    The type has the original's name, module and built-in base. The exception has its message, notes, cause and context. The
    traceback has its files, lines and functions. `traceback` formats both to the same text if it finds the same source files.
    """
    if failure == NO_FAILURE:
        return None, None, None
    error = _stand_in(failure)
    return type(error), error, error.__traceback__


def _stand_in(failure: Failure) -> _StandIn:
    base, module, name, message, notes, frames, cause, context, group, *source = failure
    members = [_stand_in(each) for each in group or () if each is not None]
    kind = _kind(base, module, name, bool(members), bool(source))
    error = kind.__new__(kind, message, members) if members else kind.__new__(kind, message)
    error.args, error.failure = (message,), failure
    for attribute, value in zip(_SOURCE, *source, strict=True) if source else ():
        setattr(error, attribute, value)
    if notes:
        error.__notes__ = list(notes)  # type: ignore[attr-defined]  # read from Python 3.11 on
    error.__traceback__, error.meshlog_frames = _traceback(frames)  # type: ignore[attr-defined]  # keeps the frames suspended
    if cause is not None:
        error.__cause__ = _stand_in(cause)
    if context is not None:
        error.__context__ = _stand_in(context)
    return error


class _StandIn(BaseException):
    """An exception of another process. It has the original's message and can be pickled."""

    failure: Failure

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return _stand_in, (self.failure,)


@lru_cache(maxsize=256)
def _kind(base: str, module: str, name: str, is_group: bool, has_source: bool) -> type[_StandIn]:
    """Return the stand-in for an exception type."""
    found: Any = getattr(builtins, base, None)
    if not isinstance(found, type) or not issubclass(found, BaseException) or issubclass(found, SyntaxError) != has_source:
        found = SyntaxError if has_source else Exception  # `traceback` needs more attributes of a SyntaxError
    if is_group != ("Group" in found.__name__):
        found = getattr(builtins, "BaseExceptionGroup" if is_group else "Exception", Exception)
    # A peer may send any text, but the name of a type must not have a null character or a lone surrogate.
    own = "".join(each if each.isprintable() else "?" for each in name.rpartition(".")[2])
    return type(own, (_StandIn, found), {"__module__": module, "__qualname__": name})


@lru_cache(maxsize=64)
def _traceback(frames: tuple[Frame, ...]) -> tuple[TracebackType | None, list[Any]]:
    """Return a traceback, and the generators that keep its frames suspended.

    A suspended frame has no caller. A finished frame would keep its caller alive, with all local variables there.
    """
    found: TracebackType | None = None
    suspended = []
    for frame in reversed(frames):
        generator = _suspended(frame)
        suspended.append(generator)
        found = TracebackType(found, generator.gi_frame, generator.gi_frame.f_lasti, frame[1])
    return found, suspended


@lru_cache(maxsize=4096)
def _suspended(frame: Frame) -> Any:
    """Return a suspended generator whose frame appears to be in this file, line and function."""
    filename, line, function, end, column, end_column = frame
    lines = 0 if end is None else min(max(0, end - line), _MAX_LINES)
    columns = (column, end_column) if column is not None and end_column is not None else _NO_COLUMNS
    if max(columns) > _MAX_COLUMN or (not lines and columns[1] < columns[0]):
        columns = _NO_COLUMNS
    filename = _safe_filename(filename)
    code = _code(lines, *columns)
    named: dict[str, Any] = {"co_qualname": function} if sys.version_info >= (3, 11) else {}
    code = code.replace(co_filename=filename, co_name=function, co_firstlineno=line, **named)
    generator = FunctionType(code, _GLOBALS)()
    next(generator)
    return generator


def _safe_filename(filename: str) -> str:
    """Return the name, in brackets if `linecache` must not read the file: a device, a FIFO, a directory, or a huge file."""
    try:
        status = os.stat(filename)
    except OSError:  # not on this host
        return filename
    except ValueError:  # no file can have this name
        return f"<{filename!a}>"
    # Files of /proc and /sys without a size may have no end, or block: /proc/self/pagemap, /proc/kmsg.
    if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _MAX_SOURCE:
        return f"<{filename}>"
    _make_room(filename, status.st_size)
    return filename


def _make_room(filename: str, size: int) -> None:
    """Let `linecache` forget the files of all frames when they take too much memory together: a peer may name any files."""
    _sources[filename] = size
    if sum(list(_sources.values())) > _MAX_SOURCES:
        for name in tuple(_sources):
            linecache.cache.pop(name, None)
        _sources.clear()
        _sources[filename] = size
        _suspended.cache_clear()  # a frame that is made again counts again
        _traceback.cache_clear()


_sources: Final[dict[str, int]] = {}
_MAX_SOURCES: Final = 1 << 26


_GLOBALS: Final[dict[str, Any]] = {"__name__": "meshlog_handler.protocol.exceptions"}
_ONLY_AST: Final = 0x400
"""`ast.PyCF_ONLY_AST`. The module is not imported: that takes a tenth of a worker's start."""


@lru_cache(maxsize=1024)
def _code(lines: int, column: int, end_column: int) -> CodeType:
    """Return the code of a generator whose ``yield`` has these columns and ends `lines` lines below its first line."""
    tree: Any = compile("def suspended():\n yield", "<meshlog>", "exec", _ONLY_AST)
    function = tree.body[0]
    for node in (function, function.body[0], function.body[0].value):
        node.lineno, node.col_offset, node.end_lineno, node.end_col_offset = 1, column, 1 + lines, end_column
    module = compile(tree, "<meshlog>", "exec")
    return next(each for each in module.co_consts if isinstance(each, CodeType))
