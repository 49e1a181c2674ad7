"""Freeze a record: all that the process saw of it, as bytes, at the call.

Records of one call site share nearly everything. The first one of a *shape* defines it; after that, a record is its
time and its arguments, packed by one call of `struct`. Runs in the logging call: no lock, no clock, no thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from struct import Struct
from traceback import TracebackException
from typing import Any, Final, NamedTuple

from .codec import MAX_INT, pack
from .entries import DEFINE, HEADER, MAX_ENTRY, RECORD, TIMED
from .exceptions import NO_FAILURE, describe
from .plain import SCALARS, Copier, exact_text, plain, text_of
from .record import is_bounded
from .traceback_text import format_exception

Packer = Callable[..., bytes]

_HAS_TASK_NAME: Final = sys.version_info >= (3, 12)
_GET_MESSAGE: Final = logging.LogRecord.getMessage
_TEMPLATE: Final = logging.LogRecord("", 0, "", 0, "", (), None)
STANDARD: Final = frozenset((*_TEMPLATE.__dict__, "message", "asctime"))

_START: Final = _TEMPLATE.created * 1000 - _TEMPLATE.relativeCreated
"""When `relativeCreated` was 0, in milliseconds."""

PLAIN_SIZE: Final = len(_TEMPLATE.__dict__)
"""The number of attributes of a record without `extra`, which no formatter has touched."""

schema_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "msg",
    "lineno",
    "levelno",
    "levelname",
    "name",
    "pathname",
    "filename",
    "module",
    "funcName",
    "thread",
    "threadName",
    "process",
    "processName",
    "exc_info",
    "exc_text",
    "stack_info",
    *(("taskName",) if _HAS_TASK_NAME else ()),
)
"""What records of one shape have in common. The last ones are None in a plain record; one that has them is no plain one."""

_place_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "pathname", "lineno", "levelno", "levelname", "name", "funcName", "filename", "module"
)
_thread_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "thread", "threadName", "process", "processName"
)

_STRUCT_CODES: Final[dict[type, str]] = {int: "q", float: "d", bool: "?", str: "s"}
_STRUCT_TYPES: Final = frozenset(_STRUCT_CODES)
# Shapes of one call site before the next ones are sent whole: an f-string makes a new message at each call, while
# a template varies only with the threads that use it.
_MAX_VARIETY: Final = {False: 4, True: 64}
_MAX_THREADS: Final = 64
TIMES: Final = Struct("<ddd")
MAX_SCHEMAS: Final = 0xFFFF


class SchemaTable(dict[object, Packer]):
    """The shapes defined so far in one segment of the journal.

    `ids` gives each new shape its number (one C call: safe in any thread and signal handler).
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids = itertools.count(1)
        self.tagged: dict[object, int] = {}
        self.variety: dict[object, int] = {}
        self.threads: dict[object, int] = {}
        self.who: dict[object, bytes] = {}


class EncodedRecord:
    """A frozen record, and what the table learns once its bytes stand in the segment."""

    __slots__ = ("_key", "_table", "_value", "data")

    def __init__(self, data: bytes, table: SchemaTable, key: object = None, value: Packer | int | None = None) -> None:
        self.data = data
        self._table, self._key, self._value = table, key, value

    def commit_schema(self) -> None:
        """Let later records of the shape use its definition. Call after the append, never before."""
        if isinstance(self._value, int):
            self._table.tagged[self._key] = self._value
        elif self._value is not None:
            self._table[self._key] = self._value


class Rendered(NamedTuple):
    """What running the record's own code has given: that is done once."""

    msg: object
    args: object
    named: dict[str, object]
    text: str | None
    ours: dict[str, object]

    def tail(self, named: dict[str, object]) -> tuple[object, ...]:
        """Return what is written of it, with `named` in place of its own."""
        return (self.args, named, self.text, self.ours) if self.ours else (self.args, named, self.text)


class RecordEncoder:
    """A record to be frozen, again where the segment changes under it. Its arguments are rendered once, at the call.

    Rendering runs code of the user's, which may log, too: done anew for each segment, it might never come to an end.
    Unless `fast`, later records of its shape do not take the fast path. `texts` are what formatters made of it.
    """

    __slots__ = ("_fast", "_record", "_rendered", "_route", "_texts")

    def __init__(self, record: logging.LogRecord, route: object = None, *, fast: bool = True, texts: object = ()) -> None:
        self._record = record
        self._route = route
        self._texts = texts
        self._fast = fast and not texts
        self._rendered: Rendered | None = None

    def __call__(self, table: SchemaTable) -> EncodedRecord:
        """Freeze for the segment that `table` belongs to."""
        try:
            return self._encode(table)
        except Exception:  # attributes that no logger sets: a time that is text, an unhashable name
            self._record = _repaired(self._record)
            return self._encode(table)

    def _encode(self, table: SchemaTable) -> EncodedRecord:
        record = self._record
        if self._rendered is None:
            codes = _struct_codes(record) if self._fast else None
            if codes is not None:
                encoded = _encode_struct(record, codes, table, self._route)
                if encoded is not None:
                    return encoded
            self._rendered = _render(record)
            if self._texts:
                self._rendered.ours["texts"] = self._texts
        return _encode_tagged(record, self._rendered, table, self._route)


def encode_record(record: logging.LogRecord, table: SchemaTable) -> EncodedRecord:
    """Freeze any record, however odd.

    Arguments and extras that are not plain data are rendered here, and the message with them, so that the client's
    text equals the process's own. What cannot be rendered says so in its place. Raises nothing but what is no
    `Exception` (a KeyboardInterrupt out of a ``__str__``).
    """
    return RecordEncoder(record)(table)


def _struct_codes(record: logging.LogRecord) -> str | None:
    """Return the `struct` codes of the arguments, if the record has nothing else that needs a description of its own."""
    fields, args = record.__dict__, record.args
    kinds = tuple(map(type, args or ()))
    if (
        type(record.msg) is not str
        or not _STRUCT_TYPES.issuperset(kinds)
        or (type(args) is not tuple and args)
        or record.exc_info
        or record.exc_text
        or record.stack_info
        or type(record).getMessage is not _GET_MESSAGE
        or not is_bounded(record.msg)
        or (len(fields) > PLAIN_SIZE and not STANDARD.issuperset(fields))
    ):
        return None
    return "".join([_STRUCT_CODES[kind] for kind in kinds])


def _encode_struct(record: logging.LogRecord, codes: str, table: SchemaTable, route: object) -> EncodedRecord | None:
    args = tuple(record.args or ())
    fields = record.__dict__
    place = (record.pathname, record.lineno, record.levelno, record.name)
    try:
        variety = table.variety.get(place, 0)
        full = variety >= _MAX_VARIETY[bool(args)]
        if full and len(fields) == PLAIN_SIZE:  # the fast path has looked
            return None
        key = (schema_key(fields), (record.__class__, *map(type, args)), route)
        # Known where another handler has formatted the record: that leaves an attribute, and it is not taken for plain.
        known = table.get(key)
        if known is not None:
            return EncodedRecord(known(record.created, record.msecs, record.relativeCreated, *args), table)
        if full:
            return None
        schema = next(table.ids)
        if schema > MAX_SCHEMAS:
            return None
        table.variety[place] = variety + 1
        packer = _packer(schema, codes)
        data = packer(record.created, record.msecs, record.relativeCreated, *args)
        define = _define(schema, TIMED + codes, record, record.msg, route)
    except Exception:  # an int beyond 64 bits, a lone surrogate, an odd attribute: the tagged form can say it
        return None
    return EncodedRecord(define + data, table, key, packer)


def _packer(schema: int, codes: str) -> Packer:
    """Return what packs a record of this shape from ``(created, msecs, relativeCreated, *args)``."""
    layout = Struct("<BxHIddd" + codes.replace("s", "I"))
    fixed = layout.size - HEADER.size
    if "s" not in codes:
        return partial(layout.pack, RECORD, schema, fixed)
    texts = tuple(index for index, code in enumerate(codes) if code == "s")
    pack_fixed = layout.pack

    def pack_with_text(created: float, msecs: float, relative: float, *args: object) -> bytes:
        values = list(args)
        tail = b""
        for index in texts:
            text = args[index].encode()  # type: ignore[attr-defined]  # the key holds the argument types
            values[index] = len(text)
            tail += text
        if len(tail) > MAX_ENTRY:
            raise ValueError("this record stands in a side file")  # the slow path puts it there
        return pack_fixed(RECORD, schema, fixed + len(tail), created, msecs, relative, *values) + tail

    return pack_with_text


def _render(record: logging.LogRecord) -> Rendered:
    """Return, as plain data, all that is the record's own.

    `named` holds extras, and what more there is; `text` is the message, where the client could not format it to the
    same text; `ours` is what the client's `MeshInfo` of the record holds beside what all records of the proc have.
    """
    fields = record.__dict__
    extras = [] if STANDARD.issuperset(fields) else [name for name in tuple(fields) if name not in STANDARD]
    named: dict[str, object] = {
        name if type(name) is str else exact_text(name): value if type(value := fields[name]) is str else plain(value)
        for name in extras
    }
    msg, args, text = _render_message(record)
    ours: dict[str, object] = {}
    exc_text = _exc_text(record, ours)
    if exc_text:
        named["exc_text"] = exc_text
    if type(msg) is dict and msg.get("exc_info"):
        # structlog has an exception there, and its formatter at the client asks for it.
        own_text = _message(record)
        if "failure" in ours or _describe(_exc_info(record.msg["exc_info"]), ours):  # type: ignore[index]  # a dict
            msg["exc_info"], text = True, own_text
    if record.stack_info:
        named["stack_info"] = text_of(record.stack_info)
    return Rendered(msg, args, named, text, ours)


def _encode_tagged(record: logging.LogRecord, rendered: Rendered, table: SchemaTable, route: object) -> EncodedRecord:
    """Freeze what differs as tagged data: ``(args, named, text)``, and `ours` where there is something.

    A shape for each message that an f-string makes, or for each of a thousand threads, would cost more than it saves: of
    such records the message, and then the thread, too, is data.
    """
    fields = record.__dict__
    msg, named = rendered.msg, rendered.named
    place: tuple[object, ...] = (*_place_key(fields), route)
    thread = (*_thread_key(fields), fields.get("taskName"))
    fixed: tuple[object, ...] = (place, thread, msg)
    if type(record.msg) is not str or not record.args or table.variety.get(place, 0) >= _MAX_VARIETY[bool(record.args)]:
        fixed = (place, thread)
        named = {**named, "msg": msg}
        if table.threads.get(place, 0) >= _MAX_THREADS and fixed not in table.tagged:
            fixed = (place, record.process)
            named.update(
                thread=plain(record.thread),
                threadName=plain(record.threadName),
                processName=plain(record.processName),
                **_task_name(record),
            )
    schema = table.tagged.get(fixed)
    define, committed = b"", None
    if schema is None:
        committed = next(table.ids)
        schema = committed if committed <= MAX_SCHEMAS else 0
        counts = table.variety if "msg" not in named else table.threads
        counts[place] = counts.get(place, 0) + 1
        define = _define(schema, TIMED + "-", record, msg if type(msg) is str and "msg" not in named else "", route)
    tail = pack(rendered.tail(named))
    times = TIMES.pack(record.created, record.msecs, record.relativeCreated)
    data = HEADER.pack(RECORD, schema, TIMES.size + len(tail)) + times + tail
    return EncodedRecord(define + data, table, fixed if committed and schema else None, committed if schema else None)


def _define(schema: int, codes: str, record: logging.LogRecord, msg: str, route: object) -> bytes:
    """Return the DEFINE entry of a shape: what its records have in common, by attribute name."""
    common = {
        "name": text_of(record.name),
        "msg": msg,
        "levelno": int(record.levelno),
        "levelname": text_of(record.levelname),
        "pathname": text_of(record.pathname),
        "filename": plain(record.filename),
        "module": plain(record.module),
        "lineno": plain(record.lineno),
        "funcName": plain(record.funcName),
        "thread": plain(record.thread),
        "threadName": plain(record.threadName),
        "process": plain(record.process),
        "processName": plain(record.processName),
        **_task_name(record),
    }
    if route is not None:
        common["route"] = route
    return definition(schema, codes, _START, common)


def _task_name(record: logging.LogRecord) -> dict[str, object]:
    """Return the attribute ``taskName`` where Python gives records one."""
    fields = record.__dict__
    return {"taskName": plain(fields["taskName"])} if _HAS_TASK_NAME and "taskName" in fields else {}


def definition(schema: int, codes: str, start: float, common: dict[str, object]) -> bytes:
    """Return the DEFINE entry of a shape; relative times count from `start`, in milliseconds."""
    body = pack((codes, start, common))
    return HEADER.pack(DEFINE, schema, len(body)) + body


def _render_message(record: logging.LogRecord) -> tuple[object, object, str | None]:
    """Return message and arguments as plain data, and the text if the client could not make the same of them."""
    args: object = record.args
    kind = type(record.msg)
    own = type(record).getMessage is not _GET_MESSAGE or "getMessage" in record.__dict__
    as_is = not own and (kind is not str or is_bounded(record.msg))
    if kind is str and as_is and type(args) is tuple and all(map(_is_scalar, args)):
        return record.msg, args, None
    copier = Copier()
    msg = text_of(record.msg) if issubclass(kind, str) else copier.copy(record.msg)
    if args is None or isinstance(args, (tuple, dict, list)):
        args = copier.copy(args)
    else:
        args = (copier.copy(args),)
        copier.exact = False
    if copier.exact and as_is and kind is type(msg):
        return msg, args, None
    text = _message(record)
    return msg, args, None if text == msg and not args else text


def _is_scalar(value: object) -> bool:
    kind = type(value)
    return kind in SCALARS and (kind is not int or -MAX_INT <= value < MAX_INT)  # type: ignore[operator]  # kind is int


def _message(record: logging.LogRecord) -> str | None:
    try:
        text: object = record.getMessage()
    except Exception:  # the client shows template and arguments, and says what is wrong
        return None
    return exact_text(text)


def _exc_text(record: logging.LogRecord, ours: dict[str, object]) -> str | None:
    """Return the traceback as text, and note what is known of the exception."""
    exc_info: Any = record.exc_info
    if not exc_info:
        return text_of(record.exc_text) if record.exc_text else None
    try:
        told = _describe(exc_info, ours)
        if record.exc_text:
            return exact_text(record.exc_text)
        return format_exception(told) if told else exact_text(_FORMATTER.formatException(exc_info))
    except Exception as failure:  # no exception's, or one that breaks when it is looked at
        what = getattr(exc_info[0], "__name__", None) if isinstance(exc_info, tuple) and exc_info else None
        return f"<the traceback of {what or text_of(exc_info)} cannot be formatted: {type(failure).__name__}>"


def _describe(exc_info: Any, ours: dict[str, object]) -> TracebackException | None:
    """Note what is known of an exception, and return what can write its traceback; None where there is no exception."""
    if exc_info == (None, None, None):
        ours["failure"] = NO_FAILURE
    if type(exc_info) is not tuple or len(exc_info) != 3 or not issubclass(type(exc_info[1]), BaseException):
        return None
    error = exc_info[1]
    told = TracebackException(type(error), error, exc_info[2], compact=True)
    with contextlib.suppress(Exception):  # one that is odd has only its text
        ours["failure"] = describe(error, told)
    return told


def _exc_info(value: object) -> object:
    """Return exception information given as a logging call takes it: as such, as an exception, or as True; else None."""
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    return sys.exc_info() if value is True and sys.exc_info()[1] is not None else value


_FORMATTER: Final = logging.Formatter()


def _repaired(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record like `record` whose every attribute can be written down."""
    repaired = logging.LogRecord("", 0, "", 0, "", (), None)
    fields = repaired.__dict__
    for name, value in tuple(record.__dict__.items()):
        if name in ("created", "msecs", "relativeCreated", "levelno"):
            with contextlib.suppress(Exception):  # what is no number stays as in a new record
                number = type(fields[name])(value)
                fields[name] = max(-MAX_INT, min(number, MAX_INT - 1)) if name == "levelno" else number
        elif name == "args":
            fields[name] = value if type(value) in (tuple, dict) else (value,)
        elif name == "exc_info":
            fields[name] = value if type(value) is tuple else None
        elif name in STANDARD and name != "msg" and type(value) not in (str, int, float, type(None)):
            fields[name] = text_of(value)
        else:
            fields[name] = value
    return repaired
