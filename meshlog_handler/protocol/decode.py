"""Decode a worker's entries to templates and values, and to a `LogRecord` only if it is shown.

Building a record is the most expensive step, so a record that is only counted is not built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from struct import Struct
from struct import error as StructError
from types import NoneType
from typing import Any, Final

from ..errors import ProtocolError, quoted
from .codec import unpack
from .entries import DEFINE, FLUSH, HEADER, LARGE, MARK, MESSAGE, RECORD, SHAPED, TIMED, UINT64, walk
from .exceptions import Failure, is_failure, signature, with_message
from .interning import layouts, shared
from .record import MeshInfo, MeshRecord, add_exception, has_words, is_bounded, with_text

Values = tuple[Any, ...]
Item = tuple[float, Any, Any]
"""``(time, template, values)``. A flush sentinel has None as template, and the stream's owner and the version as values."""

ASIDE_COST: Final = 1024
"""The number of bytes of a side file that count as one item more."""

_PLAIN_CODES: Final = "qd?s"
_CODES: Final = _PLAIN_CODES + "bpn"
_MAX_DEFINED_BYTES: Final = 64 << 20
_MAX_KNOWN: Final = 4096
_MAX_KNOWN_BYTES: Final = 4096  # a longer schema contains its message, and does not occur again
_MAX_ROUTE: Final = 1024
_MAX_ACCEPTED: Final = 256
_TIMES: Final = {False: Struct("<dd"), True: Struct("<ddd")}
_NOTHING: Final[dict[str, Any]] = {}
_NAMES: Final = frozenset((str,))
_TEXTS: Final = frozenset((str, NoneType))
_HEADER_SIZE: Final = HEADER.size
_HEADER64: Final = Struct("<Q")
_TEXT_FIELDS: Final = frozenset(("name", "msg", "levelname", "pathname"))


_EARLIEST: Final = -62_000_000_000.0  # in the year 5; `_LATEST` is shortly before the last date of the system's calendar
_LATEST: Final = 253_000_000_000.0
_LONGEST: Final = 1e15  # milliseconds
_MAX_KEPT: Final = 1024  # bytes

_STANDARD: Final = dict.fromkeys(sorted(vars(logging.makeLogRecord({})).keys() - {"taskName"}))
"""The attributes of every record, for a peer that does not send all of them."""


class RecordTemplate:
    """What the records of one schema from one worker share. Values: ``(header, created, msecs, *args, commit byte)``."""

    # `count`: records so far. `newest`: the item of the latest one, or None (see `RecordDecoder.touched`).
    __slots__ = ("base", "count", "group", "info", "levelno", "newest", "rank", "route", "scope", "start")
    first = 3  # the index of the first argument in the values
    captured = False
    ordinary = True  # always a plain record; otherwise the dispatcher checks for captured lines and digests

    def __init__(self, identity: Mapping[str, object], common: dict[str, Any], has_args: bool, start: float) -> None:
        # Selects the sink of the records (see `dispatch.sinks`). Without a route, the name of the logger selects it.
        self.route: tuple[Any, str] = (common.pop("route", None), common["name"])
        # The worker cannot override the values that the client knows.
        self.info = MeshInfo(**identity, route=self.route[0])  # type: ignore[arg-type]  # made by the client
        self.base: dict[str, Any] = {
            **_STANDARD,
            **self.info.attributes(),
            **common,
            "exc_info": None,
            "exc_text": None,
            "stack_info": None,
        }
        self.start = start
        self.count = 0
        self.newest: Item | None = None
        self.rank = self.info.rank
        self.levelno: int = common["levelno"]
        place = (common["name"] if self.route[0] is None else self.route, common["pathname"], common["lineno"])
        # The arguments of a template without words, such as "%s", may have any meaning, so its texts are grouped.
        self.group: Hashable | None = (*place, common["msg"]) if has_args and has_words(common["msg"]) else None
        self.scope: Hashable = place

    def args(self, values: Values) -> tuple[object, ...]:
        """Return the arguments of the message."""
        return values[self.first : -1]

    def columns(self, lines: Sequence[Values]) -> Sequence[Sequence[object]]:
        """Return the arguments of many messages as columns."""
        return list(zip(*lines, strict=True))[self.first : -1]

    def text(self, values: Values) -> str:
        """Return the message."""
        try:
            args = values[self.first : -1]
            text: str = self.base["msg"] % args if args else self.base["msg"]
            return text
        except Exception:
            return str(self.build(values).getMessage())

    def signature(self, values: Values) -> Hashable | None:
        """Return None: these records have no exception."""
        return None

    def failure(self, values: Values) -> Failure | None:
        """Return None: these records have no exception."""
        return None

    def build(self, values: Values) -> MeshRecord:
        """Return a new record."""
        record = MeshRecord.__new__(MeshRecord)
        fields = self.base.copy()
        fields["args"] = values[3:-1]
        created = fields["created"] = values[1]
        msecs = fields["msecs"] = values[2]
        relative = fields["relativeCreated"] = created * 1000 - self.start
        if not (_EARLIEST < created < _LATEST and -_LONGEST < msecs + relative < _LONGEST):
            _replace_invalid_times(fields)
        record.__dict__ = fields
        record.meshlog = self.info
        return record


def _replace_invalid_times(fields: dict[str, Any]) -> None:
    """Replace times that no formatter can write by 0: a peer may send any number, and a program may set it."""
    if not _EARLIEST < fields["created"] < _LATEST:
        fields["created"] = 0.0
    for name in ("msecs", "relativeCreated"):
        if not -_LONGEST < fields[name] < _LONGEST:
            fields[name] = 0.0


class TimedTemplate(RecordTemplate):
    """A schema with relative times. Values: ``(header, created, msecs, relativeCreated, *args, commit byte)``."""

    __slots__ = ()
    first = 4

    def build(self, values: Values) -> MeshRecord:
        """Return a new record."""
        record = MeshRecord.__new__(MeshRecord)
        fields = self.base.copy()
        fields["args"] = values[4:-1]
        created = fields["created"] = values[1]
        msecs = fields["msecs"] = values[2]
        relative = fields["relativeCreated"] = values[3]
        if not (_EARLIEST < created < _LATEST and -_LONGEST < msecs + relative < _LONGEST):
            _replace_invalid_times(fields)
        record.__dict__ = fields
        record.meshlog = self.info
        return record


class MessageTemplate(TimedTemplate):
    """A schema whose message is data. Values: ``(header, created, msecs, relativeCreated, msg, commit byte)``."""

    __slots__ = ()

    def args(self, values: Values) -> tuple[object, ...]:
        """Return the arguments of the message: none."""
        return ()

    def text(self, values: Values) -> str:
        """Return the message."""
        text: str = values[4]
        return text

    def build(self, values: Values) -> MeshRecord:
        """Return a new record."""
        record = super().build(values)
        record.__dict__.update(msg=values[4], args=())
        return record


class ShapedTemplate(TimedTemplate):
    """A schema that names its values. Values: ``(header, created, msecs, relativeCreated, *args, *attributes, commit byte)``.

    `keys` are those of a mapping as arguments, or None. `names` are those of the attributes. `message` is the index of the
    message in the values, or 0 if the schema has it. `error` is the index of the message of an exception, or 0. Its traceback
    is in the schema.
    """

    __slots__ = ("_failure", "_prefix", "end", "error", "keys", "message", "names")

    def __init__(self, identity: Mapping[str, object], common: dict[str, Any], codes: str, start: float) -> None:
        args, names, trace = common.pop("shape")
        self.keys: tuple[str, ...] | None = args if isinstance(args, tuple) else None
        count = args if isinstance(args, int) else len(args)
        self.names: tuple[str, ...] = names
        texts = (*(self.keys or ()), *names)
        if count < 0 or count + len(names) != len(codes) or not all(isinstance(name, str) for name in texts):
            raise ProtocolError("malformed schema definition: its values and their names do not match")
        if not _NOT_IN_SHAPE.isdisjoint(names) or any(codes[count + names.index(each)] != "s" for each in _TEXTUAL & {*names}):
            raise ProtocolError("malformed schema definition: a value has a reserved name")
        super().__init__(identity, common, False, start)
        self.end = self.first + count
        self.message, self.error = (self.end + names.index(each) if each in names else 0 for each in ("msg", "exc_info"))
        if self.error:
            self._prefix, self._failure = trace
            if not isinstance(self._prefix, str) or not self._failure or not is_failure(self._failure):
                raise ProtocolError("malformed schema definition: its traceback is none")

    def failure(self, values: Values) -> Failure | None:
        """Return the description of the exception, or None."""
        return with_message(self._failure, values[self.error]) if self.error else None

    def signature(self, values: Values) -> Hashable | None:
        """Return the exception's type and frames, or None."""
        return signature(self._failure) if self.error else None

    def args(self, values: Values) -> tuple[object, ...]:
        """Return the arguments of the message."""
        args = values[4 : self.end]
        return args if self.keys is None else (dict(zip(self.keys, args, strict=True)),)

    def text(self, values: Values) -> str:
        """Return the message."""
        try:
            msg: str = values[self.message] if self.message else self.base["msg"]
            args: Any = values[4 : self.end]
            if args and self.keys is not None:
                args = dict(zip(self.keys, args, strict=True))
            return msg % args if args else msg
        except Exception:
            return str(self.build(values).getMessage())

    def build(self, values: Values) -> MeshRecord:
        """Return a new record."""
        record = MeshRecord.__new__(MeshRecord)
        fields, end = self.base.copy(), self.end
        args = values[4:end]
        fields["args"] = args if self.keys is None else dict(zip(self.keys, args, strict=True))
        created = fields["created"] = values[1]
        msecs = fields["msecs"] = values[2]
        relative = fields["relativeCreated"] = values[3]
        if not (_EARLIEST < created < _LATEST and -_LONGEST < msecs + relative < _LONGEST):
            _replace_invalid_times(fields)
        fields.update(zip(self.names, values[end:-1], strict=True))
        record.__dict__ = fields
        record.meshlog = self.info
        if self.error:
            text = values[self.error]
            failure = with_message(self._failure, text)
            fields["exc_text"] = f"{self._prefix}: {text}" if text else self._prefix
            add_exception(fields, failure, None)
            record.meshlog = self.info.but(failure=failure)
        return record


class TaggedTemplate(RecordTemplate):
    """A schema whose records have tagged data. Values: ``(header, created, msecs, args, named, text, ours)``.

    `named` has attributes and the program's extras; `ours` has attributes of the record's `MeshInfo`. If the definition makes
    the schema `timed`, `named` has ``relativeCreated`` too.
    """

    __slots__ = ("timed",)

    def __init__(self, identity: Mapping[str, object], common: dict[str, Any], has_args: bool, start: float) -> None:
        super().__init__(identity, common, False, start)
        self.timed = False

    def of(self, args: object, named: dict[str, Any], ours: dict[str, Any]) -> TaggedTemplate:
        """Return the template of a record with these values; raise `ProtocolError` if they are invalid."""
        if ours and not all(name in _OURS and _OURS[name](value) for name, value in ours.items()):
            raise ProtocolError("malformed record: expected no attributes except failure and texts")
        return self

    def args(self, values: Values) -> tuple[object, ...]:
        """Return the arguments of the message."""
        args = values[3]
        return args if isinstance(args, tuple) else (args,)

    def text(self, values: Values) -> str:
        """Return the message."""
        text: str | None = values[5]
        return text if text is not None else self.build(values).getMessage()

    def failure(self, values: Values) -> Failure | None:
        """Return the description of the exception, or None."""
        failure: Failure | None = values[6].get("failure")
        return failure

    def signature(self, values: Values) -> Hashable | None:
        """Return the exception's type and frames, or None."""
        failure = self.failure(values)
        return None if failure is None else signature(failure)

    def build(self, values: Values) -> MeshRecord:
        """Return a new record."""
        _, created, msecs, args, named, text, ours = values
        fields = self.base.copy()
        fields["args"] = args
        fields["created"] = created
        fields["msecs"] = msecs
        fields["relativeCreated"] = created * 1000 - self.start
        fields.update(named)
        relative = fields["relativeCreated"]
        if not (_EARLIEST < created < _LATEST and -_LONGEST < msecs + relative < _LONGEST):
            _replace_invalid_times(fields)
        if text is not None:
            fields["msg"] = with_text(fields["msg"], args, text)
        if not ours:
            return MeshRecord.of(fields, self.info)
        if "failure" in ours:
            add_exception(fields, ours["failure"], text)
        return MeshRecord.of(fields, self.info.but(**ours))


# Attributes from the schema and the header of a record, which its named values cannot override.
_NOT_NAMED: Final = frozenset(logging.makeLogRecord({}).__dict__) - {
    "msg",
    "thread",
    "threadName",
    "processName",
    "taskName",
    "relativeCreated",
    "exc_text",
    "stack_info",
}


_TEXTUAL: Final = frozenset(("msg", "exc_info"))
_NOT_IN_SHAPE: Final = (_NOT_NAMED | {"relativeCreated", "exc_text", "stack_info"}) - _TEXTUAL


def are_texts(value: object) -> bool:
    """Return whether a value is a valid `MeshInfo.texts`."""
    return isinstance(value, tuple) and all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], int) and isinstance(each[1], str) for each in value
    )


_TAGS: Final[Mapping[str, type[TaggedTemplate]]] = {"-": TaggedTemplate}
"""The templates of schemas with tagged data, by their codes."""


_OURS: Final[Mapping[str, Callable[[object], bool]]] = {"failure": is_failure, "texts": are_texts}


class _Schema:
    """The layout of the records of one schema with `struct` codes."""

    __slots__ = ("committed", "fixed", "header", "sized", "template", "unchecked")

    def __init__(self, schema: int, codes: str, template: RecordTemplate) -> None:
        self.template = template
        codes = "dd" + codes.replace(TIMED, "d").replace(SHAPED, "").replace(MESSAGE, "s")
        self.sized = [(index + 1, _SIZED[code]) for index, code in enumerate(codes) if code in _SIZED]
        self.fixed, self.committed = layouts(codes.translate(_LAYOUT))
        # The index of a message that is not checked yet and has arguments, or 0.
        self.unchecked = template.message if isinstance(template, ShapedTemplate) and template.end > template.first else 0
        packed = HEADER.pack(RECORD, schema, self.fixed.size - HEADER.size)
        # The whole header of a record without texts as one number, to compare kind, schema and size at once.
        self.header: int = _HEADER64.unpack(packed)[0] if not self.sized else -1


_SIZED: Final[Mapping[str, Callable[[bytes], object] | None]] = {"s": bytes.decode, "b": bytes, "p": unpack, "n": None}
"""How to decode values of these codes; the value of `struct` is their size. A None takes a byte that says nothing."""

_LAYOUT: Final = str.maketrans("sbpn", "III?")


class RecordDecoder:
    """Decodes the stream of one worker. Pure, for one thread at a time; invalid bytes raise `ProtocolError` and nothing else.

    Every record has the attributes in `identity`: rank, local_rank, hostname, coords. `read_large` returns the entries of a
    side file by its number. `owner` is a part of each flush sentinel. `relayed` is the template for relayed records, or None
    if the peer is not a relay.

    Attributes
    ----------
    touched : list of Item
        The first record of each template since the owner has emptied the list and set ``template.newest`` of these templates to
        None. ``template.newest`` is the latest one; it stays None if the records are in `texts`.
    texts : list of Item
        Records whose template says little about their text, such as those of f-strings. The owner empties the list after each
        `decode`. A relay's records are in neither list.
    """

    def __init__(
        self,
        identity: Mapping[str, object],
        read_large: Callable[[int], bytes],
        owner: object = None,
        relayed: type[TaggedTemplate] | None = None,
    ) -> None:
        self.identity = identity
        self._tagged = _TAGS if relayed is None else {**_TAGS, "+": relayed}
        self._owner = owner
        self.last = 0.0
        self.sentinels = 0
        self.aside = 0  # bytes read from side files
        self.touched: list[Item] = []
        self.texts: list[Item] = []
        self._keeps = relayed is None
        self._read_large = read_large
        self._schemas: dict[int, _Schema | TaggedTemplate] = {}
        self._known: dict[bytes, tuple[str, RecordTemplate]] = {}
        self._defined_bytes = 0

    def new_segment(self) -> None:
        """Forget the schemas: each segment of a journal defines them again."""
        self._schemas = {}
        self._defined_bytes = 0

    def decode(self, data: bytes, at: int, limit: int, items: list[Item]) -> int:
        """Append up to about `limit` items from ``data[at:]`` to `items`; return where to continue, ``len(data)`` at the end.

        A side file counts as one item more for each `ASIDE_COST` of its bytes. Raise `ProtocolError` for an invalid entry:
        `items` has the items before it, and the rest of `data` is invalid.
        """
        end = len(data)
        view = memoryview(data)
        until = len(items) + limit
        try:
            while at < end and len(items) < until:
                kind = data[at]
                if kind == MARK:
                    at += 1
                elif kind == RECORD:
                    at = self._record(data, view, at, until - len(items), items)
                else:
                    aside = self.aside
                    at = self._other(data, at, kind, items)
                    until -= (self.aside - aside) // ASIDE_COST
        except (StructError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as cause:
            raise ProtocolError(f"an entry cannot be read: {type(cause).__name__}: {cause}") from None
        return at

    def _record(self, data: bytes, view: memoryview, at: int, limit: int, items: list[Item]) -> int:
        number: int
        size: int
        _, number, size = HEADER.unpack_from(data, at)
        schema = self._schemas[number]
        last = self.last
        if isinstance(schema, TaggedTemplate):
            end = at + _HEADER_SIZE + size
            if end > len(data):
                raise ProtocolError("a record is incomplete")
            times = _TIMES[schema.timed]
            created, msecs, *relative = times.unpack_from(data, at + _HEADER_SIZE)
            tagged: Any = unpack(data[at + _HEADER_SIZE + times.size : end])
            args, named, text, *rest = tagged  # a wrong count is a ValueError, caught by the caller
            ours = rest[0] if rest else _NOTHING
            if (
                type(named) is not dict
                or type(ours) is not dict
                or not _NAMES.issuperset(map(type, (*named, *ours) if ours else named))
            ):
                raise ProtocolError("malformed record: expected dicts of named values with texts as keys")
            if not _TEXTS.issuperset(map(type, (text, named.get("exc_text"), named.get("stack_info")))):
                raise ProtocolError("malformed record: its message, traceback or stack is not a text")
            if not _NOT_NAMED.isdisjoint(named):
                named = {name: value for name, value in named.items() if name not in _NOT_NAMED}
            if relative:
                named["relativeCreated"] = relative[0]
            if args and text is None:
                _check_template(named.get("msg", schema.base["msg"]))
            self.last = last = created if created > last else last
            item: Item = (last, schema.of(args, named, ours), (0, created, msecs, args, named, text, ours))
            items.append(item)
            if self._keeps:
                if not schema.count:
                    self.touched.append(item)
                schema.count += 1
                self.texts.append(item)
            return end
        if schema.sized:
            parts = list(schema.fixed.unpack_from(data, at))
            end = at + schema.fixed.size
            for index, convert in schema.sized:
                if convert is None:
                    parts[index] = None
                    continue
                begin, end = end, end + parts[index]
                parts[index] = convert(data[begin:end])
            if schema.unchecked:
                _check_template(parts[schema.unchecked])
            if end != at + _HEADER_SIZE + size or end > len(data):
                raise ProtocolError("malformed record: its size does not match its texts")
            self.last = last = parts[1] if parts[1] > last else last
            template = schema.template
            item = (last, template, (*parts, MARK))
            items.append(item)
            if template.group is None or size > _MAX_KEPT:
                if not template.count:
                    self.touched.append(item)
                if self._keeps:
                    self.texts.append(item)
            else:
                if template.newest is None:
                    self.touched.append(item)
                template.newest = item
            template.count += 1
            return end
        header, template = schema.header, schema.template
        stride = schema.committed.size
        run = min(limit, (len(data) - at) // stride)
        # Most programs log a few schemas in turn, so a run pays off only if the next record has the same schema.
        # One byte of the schema's number rules out most others, and costs less than two slices.
        if run > 1 and data[at + 2] == data[at + stride + 2] and data[at : at + 8] == data[at + stride : at + stride + 8]:
            before = len(items)
            append = items.append
            for values in schema.committed.iter_unpack(view[at : at + run * stride]):
                if values[0] != header or values[-1] != MARK:
                    break
                if values[1] > last:  # false for nan
                    last = values[1]
                append((last, template, values))
            self.last = last
            if len(items) > before:
                template.count += len(items) - before
                if template.newest is None:
                    self.touched.append(items[before])
                template.newest = items[-1]
                return at + (len(items) - before) * stride
        values = schema.fixed.unpack_from(data, at)
        if values[0] != header:
            raise ProtocolError("malformed record: its size is not that of its schema")
        self.last = last = values[1] if values[1] > last else last
        item = (last, template, (*values, MARK))
        items.append(item)
        template.count += 1
        if template.newest is None:
            self.touched.append(item)
        template.newest = item
        return at + schema.fixed.size

    def _other(self, data: bytes, at: int, kind: int, items: list[Item]) -> int:
        size: int
        _, schema, size = HEADER.unpack_from(data, at)
        body = at + HEADER.size
        end = body + size
        if end > len(data):
            raise ProtocolError("an entry is incomplete")
        if kind == DEFINE:
            self._define(schema, bytes(data[body:end]))
        elif kind == FLUSH:
            items.append((self.last, None, (self._owner, UINT64.unpack_from(data, body)[0])))
            self.sentinels += 1  # last, because an incomplete sentinel does not count
        elif kind == LARGE:
            number = UINT64.unpack_from(data, body)[0]
            try:
                self._decode_large(self._read_large(number), items)
            except ProtocolError as failure:  # only this record is lost
                items.append((self.last, self._note(f"a record cannot be read: {failure}"), (0, self.last, 0.0, MARK)))
        else:
            raise ProtocolError(f"unknown entry kind {kind:#04x}")
        return end

    def _decode_large(self, data: bytes, items: list[Item]) -> None:
        self.aside += len(data)
        if any(kind == LARGE for kind, *_ in walk(data)):
            raise ProtocolError("a side file refers to a side file")
        # Schemas in a side file are for its records only: no other record uses them, and they may be as large as the record.
        schemas, defined = self._schemas, self._defined_bytes
        self._schemas = dict(schemas)
        try:
            self.decode(data, 0, len(data), items)
        finally:
            self._schemas, self._defined_bytes = schemas, defined

    def _note(self, text: str) -> RecordTemplate:
        """Return the template of a record that this package logs in place of a lost record."""
        fields = logging.LogRecord("meshlog", logging.WARNING, "", 0, text, (), None).__dict__
        unknown = dict.fromkeys(("thread", "threadName", "process", "processName"))
        return RecordTemplate(self.identity, {**fields, **unknown}, False, self.last * 1000)

    def _define(self, number: int, body: bytes) -> None:
        self._defined_bytes += len(body)
        if self._defined_bytes > _MAX_DEFINED_BYTES:
            raise ProtocolError(f"more than {_MAX_DEFINED_BYTES} bytes of schemas in one segment")
        known = self._known.get(body)
        if known is None:
            known = self._read_definition(body)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            if len(body) <= _MAX_KNOWN_BYTES:
                self._known[body] = known
        codes, template = known
        self._schemas[number] = template if isinstance(template, TaggedTemplate) else _Schema(number, codes, template)

    def _read_definition(self, body: bytes) -> tuple[str, RecordTemplate]:
        definition: Any = unpack(body)
        codes, start, common = definition  # a wrong count is a ValueError, caught by the caller
        if not isinstance(common, dict) or not isinstance(codes, str) or not isinstance(start, float):
            raise ProtocolError("malformed schema definition")
        of_args = codes.removeprefix(TIMED)
        of_message = codes == TIMED + MESSAGE
        if of_args.removeprefix(SHAPED).strip(_CODES) and of_args not in self._tagged and not of_message:
            raise ProtocolError(f"malformed schema definition: invalid codes {quoted(codes)}")
        common = {shared(str(name)): shared(value) for name, value in common.items()}
        if not isinstance(common["levelno"], int) or not all(isinstance(common[name], str) for name in _TEXT_FIELDS):
            raise ProtocolError("malformed schema definition: no level, or a text is missing")
        hash(common["lineno"])
        if of_args not in self._tagged:
            _check_template(common["msg"])
        _check_route(common.get("route"))
        timed = codes != of_args
        tagged = self._tagged.get(of_args)
        if tagged is not None:
            template = tagged(self.identity, common, True, start)
            template.timed = timed
            return codes, template
        if of_message:
            return codes, MessageTemplate(self.identity, common, False, start)
        if of_args.startswith(SHAPED):
            if not timed:
                raise ProtocolError("malformed schema definition: a shape without times")
            return codes, ShapedTemplate(self.identity, common, of_args.removeprefix(SHAPED), start)
        kind = TimedTemplate if timed else RecordTemplate
        # Containers and None have no template that merges them: these records are grouped by their texts.
        return codes, kind(self.identity, common, bool(of_args) and not of_args.strip(_PLAIN_CODES), start)


def _check_template(msg: object) -> None:
    """Raise `ProtocolError` for a template that could make a text of any length: the worker must send the text instead."""
    if isinstance(msg, str) and not is_bounded(msg):
        raise ProtocolError("a message template has an unbounded width or precision")


def _check_route(route: object) -> None:
    """Raise `ProtocolError` unless a route is one that a worker may send."""
    base, accepted = route if isinstance(route, tuple) and len(route) == 2 else (route, ())
    if not isinstance(base, (int, str, NoneType)) or (isinstance(base, str) and len(base) > _MAX_ROUTE):
        raise ProtocolError(f"invalid route: expected a number, or a name of at most {_MAX_ROUTE} characters")
    if not isinstance(accepted, tuple) or len(accepted) > _MAX_ACCEPTED or not all(type(each) is int for each in accepted):
        raise ProtocolError(f"invalid route: expected at most {_MAX_ACCEPTED} numbers of handlers")
