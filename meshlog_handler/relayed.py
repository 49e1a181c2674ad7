"""Records of other processes, passed on: a relay freezes what it would show, and its client thaws that. Pure.

A relay speaks for many ranks, so that here, other than in a proc's own stream, each record says whose it is. What the
relay has grouped already is a *digest*: a count, ranks, and a few samples that merge again to what was merged there.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

from .entries import HEADER, RECORD
from .errors import ProtocolError
from .freeze import MAX_SHAPES, STANDARD, TIMES, Frozen, ShapeTable, definition, plain_or_text
from .thaw import DIGEST, MeshRecord, TaggedTemplate, Values
from .wire import NotPlain, pack

CODES: Final = "+"
"""What the definition of such a shape has in place of `struct` codes."""

_COMMON: Final = ("name", "levelno", "levelname", "pathname", "filename", "module", "lineno", "funcName")
_LEFT_OUT: Final = frozenset((*_COMMON, "args", "created", "msecs", "exc_info", "message", "asctime", "frozen_text"))
_ALWAYS: Final = STANDARD - {"message", "asctime"}
_GROUPED: Final = frozenset((int, float, bool, str))
_MAX_VARIANTS: Final = 65_536


def freeze_relayed(record: logging.LogRecord, table: ShapeTable) -> Frozen:
    """Freeze a record that came from another process, whole: also whose it is, and what it tells of.

    Records of one call site share a shape, whatever rank and thread they come from.
    """
    fields = record.__dict__
    args = fields["args"]
    msg, digest = fields["msg"], fields.get(DIGEST)
    shared = digest[0] if digest is not None else msg if args else None
    key = (*map(fields.__getitem__, _COMMON), shared)
    named = {name: value for name, value in fields.items() if name not in _LEFT_OUT}
    if shared is msg:
        del named["msg"]
    shape = table.tagged.get(key)
    defined, learnt = b"", None
    if shape is None:
        learnt = next(table.ids)
        shape = learnt if learnt <= MAX_SHAPES else 0
        common = {**dict.fromkeys(_ALWAYS), **{name: fields[name] for name in _COMMON}, "msg": shared or ""}
        defined = definition(shape, CODES, 0.0, common)
    try:
        tail = pack((args, named, fields.get("frozen_text")))
    except NotPlain:  # a filter or formatter of the relay's has put something into it
        tail = pack((plain_or_text(args), {str(name): plain_or_text(named[name]) for name in named}, record.getMessage()))
    data = HEADER.pack(RECORD, shape, TIMES.size + len(tail)) + TIMES.pack(fields["created"], fields["msecs"]) + tail
    return Frozen(defined + data, table, key if learnt and shape else None, learnt if shape else None)


class RelayedTemplate(TaggedTemplate):
    """A shape whose records come from many ranks. Values: as of a `TaggedTemplate`.

    Attributes
    ----------
    digest : bool
        Its records are digests: see `samples`.
    alone : bool
        Its records are shown each by itself: states and parts of captured lines.
    """

    __slots__ = ("_variants", "alone", "digest")
    ordinary = False

    def __init__(self, identity: Mapping[str, object], common: dict[str, Any], has_args: bool, start: float) -> None:
        super().__init__(identity, common, has_args, start)
        self.digest = self.alone = False
        self._variants: dict[Hashable, RelayedTemplate] = {}

    def of(self, args: object, named: Mapping[str, Any]) -> RelayedTemplate:
        """Return what the records of one rank, and of one kind, have in common.

        Raises
        ------
        ProtocolError
            If the record cannot be what it says.
        """
        rank, stream, samples = named.get("rank"), named.get("stream"), named.get(DIGEST)
        by_template = type(args) is tuple and bool(args) and _GROUPED.issuperset(map(type, args)) and stream is None
        if samples is not None:
            _check_digest(samples, named)
            by_template = samples[0] is not None
        alone = bool(named.get("progress") or named.get("partial"))
        try:
            known = self._variants.get((rank, stream, by_template, alone, samples is not None))
        except TypeError:
            raise ProtocolError("a record of no rank or stream that there can be") from None
        if known is not None:
            return known
        if not isinstance(rank, (int, type(None))) or not isinstance(stream, (str, type(None))):
            raise ProtocolError("a record of no rank or stream that there can be")
        if len(self._variants) >= _MAX_VARIANTS:
            self._variants.clear()
        variant = copy.copy(self)
        variant._variants = {}
        variant.rank, variant.alone, variant.digest = rank, alone, samples is not None
        place = (self.base["name"], self.base["pathname"], self.base["lineno"])
        variant.group = (*place, self.base["msg"]) if by_template else None
        variant.scope = place if stream is None else (stream, self.levelno)
        self._variants[rank, stream, by_template, alone, samples is not None] = variant
        return variant

    def text(self, values: Values) -> str:
        """Return the message."""
        if values[5] is not None:
            text: str = values[5]
            return text
        return self.build(values).getMessage()

    def build(self, values: Values) -> logging.LogRecord:
        """Return a new record: as the relay would have shown it."""
        record = MeshRecord.__new__(MeshRecord)
        _, created, msecs, args, named, text = values
        fields = self.base.copy()
        fields.update(named, args=args, created=created, msecs=msecs)
        if text is not None:
            fields["frozen_text"] = text
        record.__dict__ = fields
        return record

    def weight(self, values: Values) -> tuple[int, Sequence[int]]:
        """Return how many lines a digest tells of, and of which ranks."""
        return values[4]["count"], values[4]["ranks"]

    def samples(self, values: Values) -> list[Values]:
        """Return single lines that, merged, say what a digest says; no more than it has lines."""
        _, created, msecs, _, named, _ = values
        msg, samples = named[DIGEST]
        single = {name: value for name, value in named.items() if name not in (DIGEST, "count", "ranks")}
        if msg is not None:
            single["msg"] = msg
            return [(0, created, msecs, args, single, None) for args in samples]
        return [(0, created, msecs, (), single, text) for text in samples]


def _check_digest(digest: object, named: Mapping[str, Any]) -> None:
    count, ranks = named.get("count"), named.get("ranks")
    if not isinstance(digest, tuple) or len(digest) != 2 or not isinstance(digest[1], list) or not digest[1]:
        raise ProtocolError("a digest is a template and samples")
    kind = str if digest[0] is None else tuple
    if not isinstance(digest[0], (str, type(None))) or not all(isinstance(sample, kind) for sample in digest[1]):
        raise ProtocolError("a digest's samples are arguments of its template, or texts")
    if not isinstance(count, int) or count < len(digest[1]):
        raise ProtocolError("a digest tells of as many lines as it has samples, or more")
    if not isinstance(ranks, tuple) or not all(isinstance(rank, int) for rank in ranks):
        raise ProtocolError("a digest's ranks are numbers")
