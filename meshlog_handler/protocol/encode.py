"""Encode a record with all of its data in the logging call.

Records of one call site share nearly everything. The first record of a *schema* defines it. Each later record has only its
times and its arguments, packed by one call of `struct`. The logging call runs this code: no lock, no clock, no thread.
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

from .codec import MAX_INT, NotPlain, pack
from .entries import DEFINE, HEADER, MAX_ENTRY, MESSAGE, RECORD, TIMED
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
"""The time at which `relativeCreated` was 0, in milliseconds."""

PLAIN_SIZE: Final = len(_TEMPLATE.__dict__)
"""The number of attributes of a record without `extra` that no formatter has changed."""

_SHARED: Final = (
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
schema_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter("msg", *_SHARED)
"""What the records of one schema share. The last attributes are None in a plain record: others stay off the fast path."""

message_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(*_SHARED)
"""What the records of one schema share if each has another message, and no arguments."""

_place_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "pathname", "lineno", "levelno", "levelname", "name", "funcName", "filename", "module"
)
_thread_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "thread", "threadName", "process", "processName"
)

_TEXTS: Final = frozenset((str,))
_STRUCT_CODES: Final[dict[type, str]] = {int: "q", float: "d", bool: "?", str: "s"}
STRUCT_TYPES: Final = frozenset(_STRUCT_CODES)
# Schemas of one call site, without and with arguments. Further records are sent whole: an f-string makes a new message at
# each call, while a template varies only with the threads that use it.
_SITE_LIMIT: Final = {False: 4, True: 64}
_MAX_THREADS: Final = 64
TIMES: Final = Struct("<ddd")
_TIMED_HEADER: Final = Struct("<BxHIddd")
MAX_SCHEMAS: Final = 0xFFFF


class SchemaTable(dict[object, Packer]):
    """The schemas that one segment of the journal defines so far."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = itertools.count(1)  # `next` is one C call: safe in any thread and signal handler
        self.tagged: dict[object, int] = {}
        self.known: dict[object, int] = {}  # see `encode_known`
        self.schema_count: dict[object, int] = {}
        self.threads: dict[object, int] = {}
        self.origins: dict[object, bytes] = {}
        # See `worker.fast_logger`: how to pack the calls from one place, and the code objects of these places.
        self.sites: dict[object, dict[object, Packer]] = {}
        self.codes: dict[int, list[Any]] = {}


class EncodedRecord:
    """An encoded record, and the schema that it defines, if any."""

    __slots__ = ("_key", "_known", "_table", "_value", "data")

    def __init__(
        self,
        data: bytes,
        table: SchemaTable,
        key: object = None,
        value: Packer | int | None = None,
        *,
        known: tuple[object, int] | None = None,
    ) -> None:
        self.data = data
        self._table, self._key, self._value, self._known = table, key, value, known

    def commit_schema(self) -> None:
        """Let later records use the schema. Call it after the append, never before."""
        if isinstance(self._value, int):
            self._table.tagged[self._key] = self._value
        elif self._value is not None:
            self._table[self._key] = self._value
        if self._known is not None:
            key, schema = self._known
            self._table.known[key] = schema


class Rendered(NamedTuple):
    """The result of the record's own code, such as ``__str__`` of its arguments. That code runs only once."""

    msg: object
    args: object
    named: dict[str, object]
    text: str | None
    ours: dict[str, object]

    def tail(self, named: dict[str, object]) -> tuple[object, ...]:
        """Return the tagged data, with `named` in place of ``self.named``."""
        return (self.args, named, self.text, self.ours) if self.ours else (self.args, named, self.text)


class RecordEncoder:
    """Encodes one record for a segment, and again if another segment replaces it meanwhile. Renders the arguments once.

    Rendering runs code of the user, which may log too: repeated for each segment, it might never end. Unless `fast`, later
    records of the same schema do not take the fast path. `texts` are the results of this process's formatters.
    """

    __slots__ = ("_fast", "_record", "_rendered", "_route", "_texts")

    def __init__(self, record: logging.LogRecord, route: object = None, *, fast: bool = True, texts: object = ()) -> None:
        self._record = record
        self._route = route
        self._texts = texts
        self._fast = fast and not texts
        self._rendered: Rendered | None = None

    def __call__(self, table: SchemaTable) -> EncodedRecord:
        """Encode the record for the segment of `table`."""
        try:
            return self._encode(table)
        except Exception:  # attributes that no logger sets, such as a text as time or an unhashable name
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
        return _encode_tagged(record, self._rendered, table, self._route, fast=self._fast)


def encode_record(record: logging.LogRecord, table: SchemaTable) -> EncodedRecord:
    """Encode any record. It never raises an `Exception` (but a ``__str__`` may raise `KeyboardInterrupt`).

    Arguments and extras that are not plain data are rendered, and the message with them, so that the client shows the same
    text as this process. A text that describes the failure replaces a value that cannot be rendered.
    """
    return RecordEncoder(record)(table)


def _struct_codes(record: logging.LogRecord) -> str | None:
    """Return the `struct` codes of the arguments, or None if the record has other data that needs the tagged form."""
    fields, args = record.__dict__, record.args
    kinds = tuple(map(type, args or ()))
    if (
        type(record.msg) is not str
        or not STRUCT_TYPES.issuperset(kinds)
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
        count = table.schema_count.get(place, 0)
        full = count >= _SITE_LIMIT[bool(args)]
        if full and not args:
            return _encode_message(record, place, table, route)
        if full and len(fields) == PLAIN_SIZE:  # the fast path has searched the table already
            return None
        key = (schema_key(fields), (record.__class__, *map(type, args)), route)
        # Known if another handler has formatted the record: that adds an attribute, so the fast path skips it.
        known = table.get(key)
        if known is not None:
            return EncodedRecord(known(record.created, record.msecs, record.relativeCreated, *args), table)
        if full:
            return None
        schema = next(table.ids)
        if schema > MAX_SCHEMAS:
            return None
        table.schema_count[place] = count + 1
        packer = _packer(schema, codes)
        data = packer(record.created, record.msecs, record.relativeCreated, *args)
        define = _define(schema, TIMED + codes, record, record.msg, route)
    except Exception:  # an int beyond 64 bits, a lone surrogate, an odd attribute: the tagged form can encode it
        return None
    return EncodedRecord(define + data, table, key, packer)


def _encode_message(
    record: logging.LogRecord, place: tuple[object, ...], table: SchemaTable, route: object
) -> EncodedRecord | None:
    """Encode a record without arguments by a schema whose message is data. The caller catches every `Exception`."""
    key = (message_key(record.__dict__), record.__class__, str, route)
    packer, define, committed = table.get(key), b"", None
    if packer is None:
        count = table.threads.get(place, 0)
        schema = next(table.ids) if count < _MAX_THREADS else MAX_SCHEMAS + 1
        if schema > MAX_SCHEMAS:
            return None
        table.threads[place] = count + 1
        committed = packer = _packer(schema, "s")
        define = _define(schema, TIMED + MESSAGE, record, "", route)
    data = packer(record.created, record.msecs, record.relativeCreated, record.msg)
    return EncodedRecord(define + data, table, key, committed)


def _packer(schema: int, codes: str) -> Packer:
    """Return the function that packs a record of this schema from ``(created, msecs, relativeCreated, *args)``."""
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
            raise ValueError("this record needs a side file")  # the slow path writes it there
        return pack_fixed(RECORD, schema, fixed + len(tail), created, msecs, relative, *values) + tail

    return pack_with_text


def _render(record: logging.LogRecord) -> Rendered:
    """Return the data of this one record as plain data.

    `named` has the extras, and the traceback and the stack, if any. `text` is the message if the client could not format it to
    the same text. `ours` has the attributes of the client's `MeshInfo` in which records of this process differ.
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
        # structlog puts an exception there, and its formatter at the client reads it.
        own_text = _message(record)
        if "failure" in ours or _describe(_exc_info(record.msg["exc_info"]), ours):  # type: ignore[index]  # a dict
            msg["exc_info"], text = True, own_text
    if record.stack_info:
        named["stack_info"] = text_of(record.stack_info)
    return Rendered(msg, args, named, text, ours)


def _encode_tagged(
    record: logging.LogRecord, rendered: Rendered, table: SchemaTable, route: object, *, fast: bool
) -> EncodedRecord:
    """Encode the data of this one record in the tagged form: ``(args, named, text)``, and `ours` if it is not empty.

    A schema for each message of an f-string, or for each of a thousand threads, would cost more than it saves. If there are
    many of them, the message, and then also the thread, is a part of the data.
    """
    fields = record.__dict__
    msg, named = rendered.msg, rendered.named
    place: tuple[object, ...] = (*_place_key(fields), route)
    thread = (*_thread_key(fields), fields.get("taskName"))
    fixed: tuple[object, ...] = (place, thread, msg)
    if type(record.msg) is not str or not record.args or table.schema_count.get(place, 0) >= _SITE_LIMIT[bool(record.args)]:
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
        counts = table.schema_count if "msg" not in named else table.threads
        counts[place] = counts.get(place, 0) + 1
        define = _define(schema, TIMED + "-", record, msg if type(msg) is str and "msg" not in named else "", route)
    tail = pack(rendered.tail(named))
    times = TIMES.pack(record.created, record.msecs, record.relativeCreated)
    data = HEADER.pack(RECORD, schema, TIMES.size + len(tail)) + times + tail
    known = None
    if (
        fast
        and schema
        and rendered.text is None
        and not rendered.ours
        and not (record.exc_text or record.stack_info)
        and fields["exc_info"] is None
        and type(record.msg) is str
        and type(record).getMessage is _GET_MESSAGE
    ):
        if len(fixed) == 3:
            known = (schema_key(fields), record.__class__, str, route), schema
        elif not record.args and "thread" not in named:
            known = (message_key(fields), record.__class__, str, route), schema
    committed = committed if schema else None
    return EncodedRecord(define + data, table, fixed if committed else None, committed, known=known)


def encode_known(record: logging.LogRecord, table: SchemaTable, route: object) -> bytes | None:
    """Return the entry of a record of plain data whose schema is known, or None.

    Unlike in `RecordEncoder`, no code of the program runs here.
    """
    fields, args = record.__dict__, record.args
    if not (args.__class__ is tuple or args.__class__ is dict) or not _is_plain(args):
        return None
    # Records with arguments share their message. Without arguments, it is in the data of each.
    shared = schema_key(fields) if args else message_key(fields)
    schema = table.known.get((shared, record.__class__, record.msg.__class__, route))
    if schema is None:
        return None
    named: dict[str, object] = {}
    if len(fields) != PLAIN_SIZE:
        named = {name: value for name, value in fields.items() if name not in STANDARD}
        if "getMessage" in named or not _TEXTS.issuperset(map(type, named)) or not _is_plain(named):
            return None
    if not args:
        named["msg"] = record.msg
    try:
        tail = pack((args, named, None))
    except NotPlain:  # a huge int, or a list that has grown a list meanwhile
        return None
    if len(tail) > MAX_ENTRY:  # it needs a side file
        return None
    size = TIMES.size + len(tail)
    return _TIMED_HEADER.pack(RECORD, schema, size, record.created, record.msecs, record.relativeCreated) + tail


def _is_plain(values: Any) -> bool:
    """Return whether the items of a tuple or dict are scalars, or containers of scalars."""
    if values.__class__ is dict:
        if not SCALARS.issuperset(map(type, values)):
            return False
        values = values.values()
    return SCALARS.issuperset(map(type, values)) or all(map(_is_flat, values))


def _is_flat(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return SCALARS.issuperset(map(type, value)) and SCALARS.issuperset(map(type, value.values()))
    return kind in SCALARS or ((kind is tuple or kind is list) and SCALARS.issuperset(map(type, value)))


def _define(schema: int, codes: str, record: logging.LogRecord, msg: str, route: object) -> bytes:
    """Return the DEFINE entry of the schema of a record."""
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
    """Return the attribute ``taskName`` if the record has it (Python 3.12 and later)."""
    fields = record.__dict__
    return {"taskName": plain(fields["taskName"])} if _HAS_TASK_NAME and "taskName" in fields else {}


def definition(schema: int, codes: str, start: float, common: dict[str, object]) -> bytes:
    """Return the DEFINE entry of a schema; `start` is the zero of relative times, in milliseconds."""
    body = pack((codes, start, common))
    return HEADER.pack(DEFINE, schema, len(body)) + body


def _render_message(record: logging.LogRecord) -> tuple[object, object, str | None]:
    """Return message and arguments as plain data, and the text if the client could not format them to the same text."""
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
    except Exception:  # the client shows template and arguments, and the reason
        return None
    return exact_text(text)


def _exc_text(record: logging.LogRecord, ours: dict[str, object]) -> str | None:
    """Return the traceback as text, and add the description of the exception to `ours`."""
    exc_info: Any = record.exc_info
    if not exc_info:
        return text_of(record.exc_text) if record.exc_text else None
    try:
        trace = _describe(exc_info, ours)
        if record.exc_text:
            return exact_text(record.exc_text)
        return format_exception(trace) if trace else exact_text(_FORMATTER.formatException(exc_info))
    except Exception as failure:  # not an exception, or one whose attributes raise
        what = getattr(exc_info[0], "__name__", None) if isinstance(exc_info, tuple) and exc_info else None
        return f"<the traceback of {what or text_of(exc_info)} cannot be formatted: {type(failure).__name__}>"


def _describe(exc_info: Any, ours: dict[str, object]) -> TracebackException | None:
    """Add the description of an exception to `ours`; return its `TracebackException`, or None if there is no exception."""
    if exc_info == (None, None, None):
        ours["failure"] = NO_FAILURE
    if type(exc_info) is not tuple or len(exc_info) != 3 or not issubclass(type(exc_info[1]), BaseException):
        return None
    error = exc_info[1]
    trace = TracebackException(type(error), error, exc_info[2], compact=True)
    with contextlib.suppress(Exception):  # an odd exception has only its text
        ours["failure"] = describe(error, trace)
    return trace


def _exc_info(value: object) -> object:
    """Return exception information for the ``exc_info`` of a logging call: a tuple, an exception, or True."""
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    return sys.exc_info() if value is True and sys.exc_info()[1] is not None else value


_FORMATTER: Final = logging.Formatter()


def _repaired(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy of a record with attributes that can be encoded."""
    repaired = logging.LogRecord("", 0, "", 0, "", (), None)
    fields = repaired.__dict__
    for name, value in tuple(record.__dict__.items()):
        if name in ("created", "msecs", "relativeCreated", "levelno"):
            with contextlib.suppress(Exception):  # otherwise the value of a new record remains
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
