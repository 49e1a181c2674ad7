"""Encode a record with all of its data in the logging call.

Records of one call site share nearly everything. The first record of a *schema* defines it. Each later record has only its
times and its arguments, packed by one call of `struct`. The logging call runs this code: no lock, no clock, no thread.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import sys
from collections.abc import Callable, Container
from operator import itemgetter
from struct import Struct
from traceback import TracebackException
from typing import Any, Final, NamedTuple

from . import known_traces
from .codec import MAX_INT, pack
from .entries import DEFINE, HEADER, MESSAGE, RECORD, SHAPED, TIMED
from .exceptions import NO_FAILURE, describe
from .known_traces import KnownTrace
from .packers import OBJECT, PLAIN_CODES, NotPacked, Packer, Texts, are_texts, as_number, codes_in, is_flat, packer, texts_in
from .plain import SCALARS, Copier, exact_text, once, plain, text_of
from .record import PLAIN_SIZE, STANDARD, TEMPLATE, is_bounded, message_of
from .shapes import ERROR, HAS_TASK_NAME, Shape, form_of, message_key, schema_key, shape_of
from .traceback_text import format_exception

GET_MESSAGE: Final[Any] = logging.LogRecord.getMessage if logging.LogRecord.getMessage.__module__ == "logging" else None
"""The standard library's. None if another package replaced it before this module was imported: messages are rendered here."""

_NOT_NAMED: Final = (STANDARD | {"getMessage"}) - {ERROR}
_START: Final = TEMPLATE.created * 1000 - TEMPLATE.relativeCreated
"""The time at which `relativeCreated` was 0, in milliseconds."""

_place_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "pathname", "lineno", "levelno", "levelname", "name", "funcName", "filename", "module"
)
_thread_key: Final[Callable[[dict[str, object]], tuple[object, ...]]] = itemgetter(
    "thread", "threadName", "process", "processName"
)

_TEXTS: Final = frozenset((str,))
STRUCT_TYPES: Final = frozenset(PLAIN_CODES)
# Schemas of one call site, without and with arguments. Further records are sent whole: an f-string makes a new message at
# each call, while a template varies only with the threads that use it.
_SITE_LIMIT: Final = {False: 4, True: 64}
_MAX_THREADS: Final = 64
_FORM_LIMIT: Final = (64, 16, 64)  # a form of many threads costs little more than one of many messages
TIMES: Final = Struct("<ddd")
MAX_SCHEMAS: Final = 0xFFFF


class SchemaTable(dict[object, Packer]):
    """The schemas that one segment of the journal defines so far."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = itertools.count(1)  # `next` is one C call: safe in any thread and signal handler
        self.tagged: dict[object, int] = {}
        self.shapes: dict[object, int] = {}  # how many shapes each place has
        self.schema_count: dict[object, int] = {}
        self.threads: dict[object, int] = {}
        self.origins: dict[object, bytes] = {}
        # See `worker.fast_logger`: how to pack the calls from one place, and the code objects of these places.
        self.sites: dict[object, dict[object, Packer]] = {}
        self.codes: dict[int, list[Any]] = {}
        self.objects: dict[int, str] = {}  # the codes of schemas with objects, by number

    def add_packer(self, schema: int, codes: str) -> Packer:
        """Return the packer of a new schema."""
        if OBJECT in codes:
            self.objects[schema] = codes
        return packer(schema, codes)


class EncodedRecord:
    """An encoded record, and the schema that it defines, if any."""

    __slots__ = ("_key", "_table", "_value", "data")

    def __init__(self, data: bytes, table: SchemaTable, key: object = None, value: Packer | int | None = None) -> None:
        self.data = data
        self._table, self._key, self._value = table, key, value

    def commit_schema(self) -> None:
        """Let later records use the schema. Call it after the append, never before."""
        if isinstance(self._value, int):
            self._table.tagged[self._key] = self._value
        elif self._value is not None:
            self._table[self._key] = self._value


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

    __slots__ = ("_fast", "_record", "_rendered", "_route", "_shape", "_texts")

    def __init__(self, record: logging.LogRecord, route: object = None, *, fast: bool = True, texts: object = ()) -> None:
        self._record = record
        self._route = route
        self._texts = texts
        self._fast = fast and not texts
        self._rendered: Rendered | None = None
        self._shape: Shape | None = None

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
            if self._fast and _is_regular(record):
                with contextlib.suppress(Exception):  # an int beyond 64 bits, a lone surrogate, an odd attribute
                    shape = self._shape = self._shape or _rendered(record)
                    encoded = _encode_struct(record, shape, table, self._route)
                    encoded = encoded or _encode_shape(record, shape, table, self._route, None)
                    if encoded is not None:
                        return encoded
                if self._shape is not None:
                    values, codes = self._shape[2:]
                    texts = {index: values[index] for index, code in enumerate(codes) if code == OBJECT}
                    record = self._record = with_texts(record, texts)
            self._rendered = _render(record)
            if self._texts:
                self._rendered.ours["texts"] = self._texts
        if self._fast and record.exc_info and _is_regular(record, traced=True):
            with contextlib.suppress(Exception):  # a value that no schema can hold
                encoded = self._encode_traced(record, self._rendered, table)
                if encoded is not None:
                    return encoded
        return _encode_tagged(record, self._rendered, table, self._route)

    def _encode_traced(self, record: logging.LogRecord, rendered: Rendered, table: SchemaTable) -> EncodedRecord | None:
        """Encode a record with an exception by a schema that has the traceback. The caller catches every `Exception`."""
        text, failure = rendered.named["exc_text"], rendered.ours["failure"]
        trace = known_traces.learn(record.exc_info, str(text), failure)  # type: ignore[arg-type]  # a failure
        if trace is None:
            return None
        shape = self._shape = self._shape or _rendered(record, rendered)
        return _encode_shape(record, shape, table, self._route, trace)


def encode_record(record: logging.LogRecord, table: SchemaTable) -> EncodedRecord:
    """Encode any record. It never raises an `Exception` (but a ``__str__`` may raise `KeyboardInterrupt`).

    Arguments and extras that are not plain data are rendered, and the message with them, so that the client shows the same
    text as this process. A text that describes the failure replaces a value that cannot be rendered.
    """
    return RecordEncoder(record)(table)


def _is_regular(record: logging.LogRecord, *, traced: bool = False) -> bool:
    """Return whether a record has only a message and arguments, formatted in the standard way: no traceback, no stack."""
    return (
        type(record.msg) is str
        and (traced or not record.exc_info)
        and not (record.exc_text or record.stack_info)
        and type(record).getMessage is GET_MESSAGE
        and is_bounded(record.msg)
    )


def _encode_struct(record: logging.LogRecord, shape: Shape, table: SchemaTable, route: object) -> EncodedRecord | None:
    """Encode a record whose values are its arguments, or return None. The caller catches every `Exception`."""
    shared, names, args, codes = shape
    fields = record.__dict__
    if names or not isinstance(shared, int):
        return None
    place = _place_of(record)
    count = table.schema_count.get(place, 0)
    full = count >= _SITE_LIMIT[bool(args)]
    if full and not args:
        return _encode_message(record, place, table, route)
    if full and len(fields) == PLAIN_SIZE:  # the fast path has searched the table already
        return None
    key = (schema_key(fields), (type(record), *map(type, record.args or ())), route)
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
    made = table.add_packer(schema, codes)
    data = made(record.created, record.msecs, record.relativeCreated, *args)
    define = _define(schema, TIMED + codes.replace(OBJECT, "s"), record, record.msg, route)
    return EncodedRecord(define + data, table, key, made)


def _place_of(record: logging.LogRecord) -> tuple[object, ...]:
    return (record.pathname, record.lineno, record.levelno, record.name)


def _encode_message(
    record: logging.LogRecord, place: tuple[object, ...], table: SchemaTable, route: object
) -> EncodedRecord | None:
    """Encode a record without arguments by a schema whose message is data. The caller catches every `Exception`."""
    key = (message_key(record.__dict__), type(record), str, route)
    made, define, committed = table.get(key), b"", None
    if made is None:
        count = table.threads.get(place, 0)
        schema = next(table.ids) if count < _MAX_THREADS else MAX_SCHEMAS + 1
        if schema > MAX_SCHEMAS:
            return None
        table.threads[place] = count + 1
        committed = made = packer(schema, "s")
        define = _define(schema, TIMED + MESSAGE, record, "", route)
    data = made(record.created, record.msecs, record.relativeCreated, record.msg)
    return EncodedRecord(define + data, table, key, committed)


def _fits(msg: str, shape: Shape) -> bool:
    """Return whether the client makes the same text of this message and of what is sent of the arguments."""
    args, names, _, codes = shape
    codes = codes[: len(codes) - len(names)]
    return are_texts(msg, codes) if isinstance(args, int) else OBJECT not in codes


def _rendered(record: logging.LogRecord, done: Rendered | None = None) -> Shape:
    """Return the shape of a record, with texts in place of objects; raise `ValueError` if no schema can have it.

    If the record is rendered already, the texts are from `done`: no code of the program runs again.
    """
    shape = shape_of(record)
    if shape is None or not _fits(record.msg, shape):
        raise ValueError("a value whose text is not known from what is sent of it")
    args, names, values, codes = shape
    keys = args if isinstance(args, tuple) else ()
    if not _TEXTS.issuperset(map(type, (*names, *keys))) or not _NOT_NAMED.isdisjoint(names):
        raise ValueError("a name that is no text, or is reserved")
    texts: tuple[object, ...] = values
    if done is not None:
        own = done.args if type(done.args) is tuple else values[: len(values) - len(names)]
        texts = (*own, *(done.ours["failure"][3] if name == ERROR else done.named[name] for name in names))  # type: ignore[index]  # a failure
    sent = [text_of(text) if code == OBJECT else each for each, text, code in zip(values, texts, codes, strict=True)]
    return args, names, tuple(sent), codes


def _encode_shape(
    record: logging.LogRecord, shape: Shape, table: SchemaTable, route: object, trace: KnownTrace | None
) -> EncodedRecord | None:
    """Encode a record by a schema that names its values, or return None. The caller catches every `Exception`."""
    place = _place_of(record)
    plain_args = not shape[1] and isinstance(shape[0], int)
    # Form 0 of plain arguments is that of `_encode_struct`, which has found no schema.
    for number in (0, 1, 2) if record.args and not plain_args else (1, 2):
        key, (args, names, values, codes) = form_of(number, record, shape, route, trace)
        made, define, committed = table.get(key), b"", None
        if made is None:
            count = table.shapes.get((number, place), 0)
            schema = next(table.ids) if count < _FORM_LIMIT[number] else MAX_SCHEMAS + 1
            if schema > MAX_SCHEMAS:
                continue
            table.shapes[number, place] = count + 1
            committed = made = table.add_packer(schema, codes)
            sent, msg = TIMED + SHAPED + codes.replace(OBJECT, "s"), "" if number else record.msg
            define = _define(schema, sent, record, msg, route, shape=(args, names, trace and (trace.prefix, trace.failure)))
        data = made(record.created, record.msecs, record.relativeCreated, *values)
        return EncodedRecord(define + data, table, key, committed)
    return None


def encode_known(
    record: logging.LogRecord, table: SchemaTable, route: object, internal: Container[object] = ()
) -> bytes | None:
    """Return the entry of a record whose shape is known, or None. Raise an `Exception` if the schema cannot hold its values.

    Records of the threads in `internal` are none of the program's.
    """
    shape = shape_of(record)
    if shape is None or record.msg.__class__ is not str or type(record).getMessage is not GET_MESSAGE:
        return None
    args, _, values, _ = shape
    trace = None
    if record.exc_info is not None:
        trace = known_traces.find(record.exc_info)
        if trace is None:
            return None
    if args:
        made = table.get(form_of(0, record, shape, route, trace)[0])
        if made is not None:
            return made(record.created, record.msecs, record.relativeCreated, *values)
        if not (is_bounded(record.msg) and _fits(record.msg, shape)):
            return None
    for number in (1, 2):
        key, (_, _, values, _) = form_of(number, record, shape, route, trace)
        made = table.get(key)
        if made is not None and (number == 1 or not (record.thread is None or record.thread in internal)):
            return made(record.created, record.msecs, record.relativeCreated, *values)
    return None


def texts_of(failure: Exception, data: bytes | None, table: SchemaTable | None) -> Texts:
    """Return the texts that objects made for a record that could not be packed, or was packed to `data` but not written."""
    if isinstance(failure, NotPacked):
        return failure.texts
    codes = table.objects.get(HEADER.unpack_from(data)[1]) if data is not None and table is not None else None
    return {} if codes is None or data is None else texts_in(data, codes)


def with_texts(record: logging.LogRecord, texts: Texts) -> logging.LogRecord:
    """Return a record in which these texts stand for the objects among the values of its shape, or the record itself."""
    shape = shape_of(record) if texts else None
    if shape is None:
        return record
    args, names, values, _ = shape
    values = tuple(texts.get(index, value) for index, value in enumerate(values))
    count = len(values) - len(names)
    made = copy.copy(record)
    made.args = values[:count] if isinstance(args, int) else dict(zip(args, values, strict=False))  # type: ignore[call-overload]  # the keys
    made.__dict__.update((name, value) for name, value in zip(names, values[count:], strict=True) if name != ERROR)
    return made


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


def _encode_tagged(record: logging.LogRecord, rendered: Rendered, table: SchemaTable, route: object) -> EncodedRecord:
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
    return EncodedRecord(define + data, table, fixed if committed and schema else None, committed if schema else None)


def _define(
    schema: int, codes: str, record: logging.LogRecord, msg: str, route: object, *, shape: tuple[object, ...] | None = None
) -> bytes:
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
    if shape is not None:
        common["shape"] = shape
    return definition(schema, codes, _START, common)


def _task_name(record: logging.LogRecord) -> dict[str, object]:
    """Return the attribute ``taskName`` if the record has it (Python 3.12 and later)."""
    fields = record.__dict__
    return {"taskName": plain(fields["taskName"])} if HAS_TASK_NAME and "taskName" in fields else {}


def definition(schema: int, codes: str, start: float, common: dict[str, object]) -> bytes:
    """Return the DEFINE entry of a schema; `start` is the zero of relative times, in milliseconds."""
    body = pack((codes, start, common))
    return HEADER.pack(DEFINE, schema, len(body)) + body


def _render_message(record: logging.LogRecord) -> tuple[object, object, str | None]:
    """Return message and arguments as plain data, and the text if the client could not format them to the same text."""
    args: object = record.args
    kind = type(record.msg)
    own = type(record).getMessage is not GET_MESSAGE or "getMessage" in record.__dict__
    as_is = not own and (kind is not str or is_bounded(record.msg))
    if kind is str and as_is and type(args) is tuple:
        if all(map(_is_scalar, args)):
            return record.msg, args, None
        codes = codes_in(record.msg, tuple(map(type, args)))
        if codes is not None and are_texts(record.msg, codes):
            with contextlib.suppress(Exception):  # an object whose number is too large, or that has none
                sent = tuple(map(as_number, args, codes))
                if all(map(_is_sent, sent, codes)):
                    return record.msg, tuple(map(_as_text, sent, codes)), None
    text = None
    if kind is str and as_is and type(args) in (tuple, dict) and (seen := once(args)) is not args:
        with contextlib.suppress(Exception):  # a conversion that needs the object itself
            text = exact_text(record.msg % seen)
            args = seen
    copier = Copier()
    msg = text_of(record.msg) if issubclass(kind, str) else copier.copy(record.msg)
    if args is None or isinstance(args, (tuple, dict, list)):
        args = copier.copy(args)
    else:
        args = (copier.copy(args),)
        copier.exact = False
    if copier.exact and as_is and kind is type(msg):
        return msg, args, None
    text = _message(record) if text is None else text
    if text is None and kind is str and not as_is:
        text = message_of(record)  # the client formats no such template
    return msg, args, None if text == msg and not args else text


def _is_scalar(value: object) -> bool:
    kind = type(value)
    return kind in SCALARS and (kind is not int or -MAX_INT <= value < MAX_INT)  # type: ignore[operator]  # kind is int


def _as_text(value: object, code: str) -> object:
    return text_of(value) if code == OBJECT else value


def _is_sent(value: Any, code: str) -> bool:
    """Return whether a value with this code arrives as itself, or as its text."""
    if code == OBJECT:
        return True
    if code != "p":
        return _is_scalar(value)
    return is_flat(value) and all(map(_is_scalar, (*value, *value.values()) if type(value) is dict else value))


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
