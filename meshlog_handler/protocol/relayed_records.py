"""Relayed records: a relay encodes the records that it would show, and its client decodes them. Pure.

A relay forwards for many ranks, so each relayed record has its origin, unlike a record in a worker's stream. A line that the
relay has grouped is a *digest*: a count, ranks, and a few samples. The client merges the samples to the same line.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf
from types import NoneType
from typing import Any, Final

from ..errors import ProtocolError, quoted
from .codec import NotPlain, pack, unpack
from .encode import MAX_SCHEMAS, TIMES, EncodedRecord, SchemaTable, definition
from .entries import HEADER, RECORD, TIMED
from .exceptions import is_failure
from .messages import check_coords
from .plain import exact_text, plain
from .ranks import is_rank
from .record import GROUPED, ORIGIN, STANDARD, MeshInfo, MeshRecord, WithText, add_exception, has_words, info_of, with_text
from .templates import TaggedTemplate, Values, are_texts

CODES: Final = "+"
"""The codes of a schema for relayed records, in place of `struct` codes."""

_COMMON: Final = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName")
_THREAD: Final = ("thread", "threadName", "process", "processName")
_LEFT_OUT: Final = frozenset(
    (
        *_COMMON,
        *_THREAD,
        "args",
        "created",
        "msecs",
        "relativeCreated",
        "exc_info",
        "exc_text",
        "stack_info",
        "message",
        "asctime",
    )
)
_ALWAYS: Final = STANDARD - {"message", "asctime", "taskName"}
_KINDS: Final = ((int, NoneType), (int, NoneType), (str, NoneType), (dict,), (str, NoneType))
_COPIES: Final = (*ORIGIN, *GROUPED)
_OURS: Final[Mapping[str, Callable[[object], bool]]] = {
    "progress": lambda value: isinstance(value, bool),
    "partial": lambda value: isinstance(value, bool),
    "bar": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "bar_ends": lambda value: value in ("kept", "dropped"),
    "raw": lambda value: isinstance(value, str),
    "count": lambda value: isinstance(value, int) and value > 0,
    "ranks": lambda value: isinstance(value, tuple) and all(map(is_rank, value)),
    "span_sec": lambda value: isinstance(value, float) and 0 <= value < inf,
    "failure": is_failure,
    "texts": are_texts,
    "digest": lambda value: isinstance(value, tuple),
}
"""The attributes of a `MeshInfo` that a relayed record may have besides its origin, with a check for each."""
_GROUPED: Final = frozenset((int, float, bool, str))
_PLAIN: Final = frozenset(("relativeCreated", "taskName"))
_MAX_VARIANTS: Final = 16_384


def encode_relayed(record: logging.LogRecord, table: SchemaTable) -> EncodedRecord:
    """Encode a record of another process with all of its data, including its origin and the lines that it stands for.

    Records of one call site share a schema, whatever their rank and thread. The origin is packed separately, to the same bytes
    each time, so that the client decodes it only once.
    """
    fields, info = record.__dict__, info_of(record)
    args = fields["args"]
    msg, digest = fields["msg"], info.digest
    text: str | None = None
    if isinstance(msg, WithText):
        text, msg = msg.text, plain(msg)
        if isinstance(msg, dict) and info.failure is not None and isinstance(fields["msg"].get("exc_info"), BaseException):
            msg["exc_info"] = True  # as it arrived
    shared = digest[0] if digest is not None else msg if args and type(msg) is str else None
    key = (*map(fields.__getitem__, _COMMON), shared, info.route)
    named = {name: value for name, value in fields.items() if name not in _LEFT_OUT}
    for name in _COPIES:  # `ours` has these values; a different value is an extra of the program
        if name in named and named[name] is getattr(info, name):
            del named[name]
    if shared is msg:
        del named["msg"]
    else:
        named["msg"] = msg
    for name in ("exc_text", "stack_info"):
        if fields[name] is not None:
            named[name] = fields[name]
    ours = {name: value for name in _OURS if (value := getattr(info, name)) is not None and value is not False}
    ours["by"] = _pack_origin(info, fields, table)
    schema = table.tagged.get(key)
    defined, committed = b"", None
    if schema is None:
        committed = next(table.ids)
        schema = committed if committed <= MAX_SCHEMAS else 0
        common = {**dict.fromkeys(_ALWAYS), **{name: fields[name] for name in _COMMON}, "msg": shared or ""}
        if info.route is not None:
            common["route"] = info.route
        defined = definition(schema, TIMED + CODES, 0.0, common)
    try:
        tail = pack((args, named, text, ours))
    except NotPlain:  # a filter or formatter of the relay has added an object
        named = {exact_text(name): plain(value) for name, value in named.items()}
        tail = pack((plain(args), named, record.getMessage(), ours))
    times = TIMES.pack(fields["created"], fields["msecs"], fields["relativeCreated"])
    data = HEADER.pack(RECORD, schema, TIMES.size + len(tail)) + times + tail
    return EncodedRecord(defined + data, table, key if committed and schema else None, committed if schema else None)


def _pack_origin(info: MeshInfo, fields: Mapping[str, Any], table: SchemaTable) -> bytes:
    values = [*map(info.__getattribute__, ORIGIN), *map(fields.get, _THREAD)]
    coords = info.coords
    key = (*values[:3], tuple(coords.items()), *values[4:])
    try:
        known = table.origins.get(key)
        if known is None:
            known = table.origins[key] = pack(tuple(values))
        return known
    except (NotPlain, TypeError):  # values that no client has set
        return pack(tuple(map(plain, values)))


class RelayedTemplate(TaggedTemplate):
    """A schema whose records come from many ranks. Values: see `TaggedTemplate`.

    `digest`: its records are digests, see `samples`. `alone`: its records are progress states or parts of captured lines,
    which are not grouped.
    """

    __slots__ = ("_variants", "alone", "digest", "source")
    ordinary = False

    def __init__(self, identity: Mapping[str, object], common: dict[str, Any], has_args: bool, start: float) -> None:
        super().__init__(identity, common, has_args, start)
        self.digest = self.alone = False
        self.source: Hashable | None = None
        self._variants: dict[Hashable, RelayedTemplate] = {}

    def of(self, args: object, named: dict[str, Any], ours: dict[str, Any]) -> RelayedTemplate:
        """Return the template for a record's rank and kind; raise `ProtocolError` if its values are invalid."""
        by = ours.pop("by", None)
        if not all(name in _OURS and _OURS[name](value) for name, value in ours.items()):
            raise ProtocolError(f"a relayed record has invalid attributes: {quoted(ours)}")
        samples = ours.get("digest")
        # As in the relay: a record with extras is grouped by its text.
        by_template = named.keys() <= _PLAIN and type(args) is tuple and bool(args) and _GROUPED.issuperset(map(type, args))
        if samples is not None:
            _check_digest(samples, ours)
            by_template = samples[0] is not None
        alone = bool(ours.get("progress") or ours.get("partial"))
        known = self._variants.get((by, by_template, alone, samples is not None)) if type(by) is bytes else None
        return known or self._variant(by, by_template, alone, samples is not None)

    def _variant(self, by: object, by_template: bool, alone: bool, digest: bool) -> RelayedTemplate:
        found = unpack(by) if isinstance(by, bytes) else None
        if not isinstance(found, tuple) or len(found) != len(ORIGIN) + len(_THREAD):
            raise ProtocolError("a relayed record has no valid origin")
        origin, thread = found[: len(ORIGIN)], found[len(ORIGIN) :]
        if not all(isinstance(value, kinds) for value, kinds in zip(origin, _KINDS, strict=True)):
            raise ProtocolError("a relayed record has an invalid rank, host, coordinates or stream")
        check_coords(origin[ORIGIN.index("coords")] or {})
        variant = copy.copy(self)
        variant._variants = {}
        variant.info = info = MeshInfo(**dict(zip(ORIGIN, origin, strict=True)), route=self.route[0], client=self.info.client)
        variant.base = base = {**self.base, **info.attributes(), **dict(zip(_THREAD, thread, strict=True))}
        stream = info.stream
        variant.rank, variant.alone, variant.digest = info.rank, alone, digest
        place = (base["name"] if self.route[0] is None else self.route, base["pathname"], base["lineno"])
        variant.group = (*place, base["msg"]) if by_template and stream is None and has_words(base["msg"]) else None
        variant.scope = place if stream is None else (stream, self.levelno)
        variant.source = None if stream is None else (stream, info.hostname, base["process"])
        if len(self._variants) >= _MAX_VARIANTS:
            self._variants.clear()
        self._variants[by, by_template, alone, digest] = variant
        return variant

    def build(self, values: Values) -> MeshRecord:
        """Return a new record, equal to the one that the relay would have shown."""
        _, created, msecs, args, named, text, ours = values
        fields = self.base.copy()
        for name in GROUPED:
            if name in ours:
                fields[name] = ours[name]
        fields.update(named, args=args, created=created, msecs=msecs)
        if text is not None:
            fields["msg"] = with_text(fields["msg"], args, text)
        if "failure" in ours:
            add_exception(fields, ours["failure"], text)
        return MeshRecord.of(fields, self.info.but(**ours) if ours else self.info)

    def joined(self, lines: Sequence[Values]) -> Values:
        """Return several captured lines as one, with newlines between them."""
        _, created, msecs, args, named, _, ours = lines[0]
        text, raws = "\n".join(map(self.text, lines)), [values[6].get("raw") for values in lines]
        if None not in raws:
            ours = {**ours, "raw": "\n".join(raws)}
        return (0, created, msecs, args, {**named, "msg": text}, None, ours)

    def is_shown(self, values: Values) -> bool:
        """Return whether a line has no text to show, but only ends a progress state."""
        ours = values[6]
        return bool("bar_ends" in ours and not ours.get("raw"))

    def has_bar(self, values: Values) -> bool:
        """Return whether a line is or was a progress state."""
        return "bar" in values[6]

    def ends_bar(self, values: Values) -> str | None:
        """Return what happens to a displayed progress state; see `CapturedTemplate.ends_bar`."""
        ends: str | None = values[6].get("bar_ends")
        return ends

    def weight(self, values: Values) -> tuple[int, Sequence[int], float]:
        """Return how many lines a digest stands for, their ranks, and the time of the last one."""
        ours = values[6]
        return ours["count"], ours["ranks"], values[1] + ours.get("span_sec", 0.0)

    def samples(self, values: Values) -> list[Values]:
        """Return single lines that merge to the same line as a digest; at most as many as it stands for."""
        _, created, msecs, _, named, _, ours = values
        msg, samples = ours["digest"]
        single = {name: value for name, value in ours.items() if name not in ("digest", *GROUPED)}
        if msg is not None:
            named = {**named, "msg": msg}
            return [(0, created, msecs, args, named, None, single) for args in samples]
        return [(0, created, msecs, (), named, text, single) for text in samples]


def _check_digest(digest: tuple[Any, ...], ours: Mapping[str, Any]) -> None:
    if len(digest) != 2 or not isinstance(digest[1], list) or not digest[1]:
        raise ProtocolError("malformed digest: expected a template and samples")
    kind = str if digest[0] is None else tuple
    if not isinstance(digest[0], (str, type(None))) or not all(isinstance(sample, kind) for sample in digest[1]):
        raise ProtocolError("malformed digest: its samples are neither arguments of its template nor texts")
    if "ranks" not in ours or ours.get("count", 0) < len(digest[1]):
        raise ProtocolError("malformed digest: its ranks are missing, or its count is less than the number of its samples")
