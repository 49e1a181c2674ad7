"""Decode a worker's entries to templates and values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from struct import Struct
from struct import error as StructError
from types import NoneType
from typing import Any, Final

from ..errors import ProtocolError, quoted
from .codec import unpack
from .digests import blake2b
from .entries import DEFINE, FLUSH, HEADER, LARGE, MARK, MESSAGE, RECORD, SHAPED, TIMED, UINT64, walk
from .interning import layouts, shared, shared_key
from .record import MeshInfo, is_bounded
from .templates import NOT_NAMED, MessageTemplate, RecordTemplate, ShapedTemplate, TimedTemplate
from .templates import Item as Item
from .templates import TaggedTemplate as TaggedTemplate

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
_MAX_KEPT: Final = 1024  # bytes

_TAGS: Final[Mapping[str, type[TaggedTemplate]]] = {"-": TaggedTemplate}
"""The templates of schemas with tagged data, by their codes."""


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


def no_side_file(number: int) -> bytes:
    """Raise `ProtocolError`, for a stream that has no side files."""
    raise ProtocolError(f"a record in side file {number}, where none is expected")


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
        # Templates by the digest of their definition, and what those with one route share: there may be ten thousand decoders.
        self._known: dict[bytes, tuple[str, RecordTemplate]] = {}
        self._infos: dict[object, MeshInfo] = {}
        self._defined_bytes = 0

    def new_segment(self, generation: int = 0) -> None:
        """Forget the schemas: each segment of a journal defines them again."""
        self._schemas = {}
        self._defined_bytes = 0

    def learn(self, data: bytes) -> None:
        """Read only the schemas of entries whose records were shown before."""
        for kind, _, body, end in walk(data):
            if kind == DEFINE:
                self.decode(data[body - HEADER.size : end], 0, 1, [])

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
            if not NOT_NAMED.isdisjoint(named):
                named = {name: value for name, value in named.items() if name not in NOT_NAMED}
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
            return self._sized_records(schema, data, at, limit, items)
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

    def _sized_records(self, schema: _Schema, data: bytes, at: int, limit: int, items: list[Item]) -> int:
        """Do the same for up to `limit` records in a row of a schema with texts and other values that have a size."""
        unpack_from, fixed, sized, template = schema.fixed.unpack_from, schema.fixed.size, schema.sized, schema.template
        unchecked, kept, length = schema.unchecked, template.group is not None, len(data)
        kind = data[at : at + 4]  # and the number of the schema
        while True:
            parts = list(unpack_from(data, at))
            end = at + fixed
            for index, convert in sized:
                if convert is None:
                    parts[index] = None
                    continue
                begin, end = end, end + parts[index]
                parts[index] = convert(data[begin:end])
            if unchecked:
                _check_template(parts[unchecked])
            size = end - at - _HEADER_SIZE
            if parts[0] >> 32 != size or end > length:
                raise ProtocolError("malformed record: its size does not match its texts")
            if parts[1] > self.last:  # false for nan
                self.last = parts[1]
            item = (self.last, template, (*parts, MARK))
            items.append(item)
            if kept and size <= _MAX_KEPT:
                if template.newest is None:
                    self.touched.append(item)
                template.newest = item
            else:
                if not template.count:
                    self.touched.append(item)
                if self._keeps:
                    self.texts.append(item)
            template.count += 1
            limit -= 1
            if limit <= 0 or end >= length or data[end] != MARK or data[end + 1 : end + 5] != kind:
                return end
            at = end + 1

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
        digest = blake2b(body, digest_size=16).digest()
        codes, template = known = self._known.get(digest) or self._read_definition(body)
        if digest not in self._known and len(body) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
                self._infos.clear()
            self._known[digest] = known
            template.info = self._infos.setdefault(template.info.route, template.info)
            template.route, template.scope = shared_key(template.route), shared_key(template.scope)
            template.group = shared_key(template.group)
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
        raise ProtocolError("a message template has an unbounded width or precision, or repeats a name too often")


def _check_route(route: object) -> None:
    """Raise `ProtocolError` unless a route is one that a worker may send."""
    base, accepted = route if isinstance(route, tuple) and len(route) == 2 else (route, ())
    if not isinstance(base, (int, str, NoneType)) or (isinstance(base, str) and len(base) > _MAX_ROUTE):
        raise ProtocolError(f"invalid route: expected a number, or a name of at most {_MAX_ROUTE} characters")
    if not isinstance(accepted, tuple) or len(accepted) > _MAX_ACCEPTED or not all(type(each) is int for each in accepted):
        raise ProtocolError(f"invalid route: expected at most {_MAX_ACCEPTED} numbers of handlers")
