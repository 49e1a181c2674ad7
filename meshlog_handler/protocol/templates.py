"""Templates: what the records of one schema share, and how a record is built from its values.

Building a record is the most expensive step, so a record that is only counted is not built.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from ..errors import ProtocolError
from .exceptions import Failure, is_failure, signature, with_message
from .record import TEMPLATE, MeshInfo, MeshRecord, add_exception, has_words, with_text

Values = tuple[Any, ...]
Item = tuple[float, Any, Any]
"""``(time, template, values)``. A flush sentinel has None as template, and the stream's owner and the version as values."""

_EARLIEST: Final = -62_000_000_000.0  # in the year 5; `_LATEST` is shortly before the last date of the system's calendar
_LATEST: Final = 253_000_000_000.0
_LONGEST: Final = 1e15  # milliseconds
_STANDARD: Final = dict.fromkeys(sorted(TEMPLATE.__dict__.keys() - {"taskName"}))
"""The attributes of every record, for a peer that does not send all of them."""


class RecordTemplate:
    """What the records of one schema from one worker share. Values: ``(header, created, msecs, *args, commit byte)``."""

    # `count`: records so far. `newest`: the item of the latest one, or None (see `RecordDecoder.touched`).
    __slots__ = ("base", "count", "group", "info", "levelno", "newest", "rank", "route", "scope", "start")
    first = 3  # the index of the first argument in the values
    captured = False
    source: Hashable | None = None
    ordinary = True  # always a plain record; otherwise the dispatcher checks for captured lines and digests
    when = staticmethod(itemgetter(1))
    """Return the time at which a record was logged."""

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

    def line_of(self, values: Values) -> str | None:
        """Return the message if the record has no traceback and no stack, else None."""
        return self.text(values)

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

    `keys` are those of a mapping as arguments, or None, and `names` those of the attributes; each with its index in the values.
    `message` is the index of the message in the values, or 0 if the schema has it. `error` is the index of the message of an
    exception, or 0. Its traceback is in the schema.
    """

    __slots__ = ("_failure", "_prefix", "end", "error", "keys", "message", "names")

    def __init__(self, identity: Mapping[str, object], common: dict[str, Any], codes: str, start: float) -> None:
        args, names, trace = common.pop("shape")
        keys = args if isinstance(args, tuple) else ()
        count = args if isinstance(args, int) else len(args)
        texts = (*keys, *names)
        if count < 0 or count + len(names) != len(codes) or not all(isinstance(name, str) for name in texts):
            raise ProtocolError("malformed schema definition: its values and their names do not match")
        if not _NOT_IN_SHAPE.isdisjoint(names) or any(codes[count + names.index(each)] != "s" for each in _TEXTUAL & {*names}):
            raise ProtocolError("malformed schema definition: a value has a reserved name")
        super().__init__(identity, common, False, start)
        self.end = self.first + count
        self.keys: tuple[tuple[int, str], ...] | None = tuple(enumerate(keys, self.first)) if isinstance(args, tuple) else None
        self.names: tuple[tuple[int, str], ...] = tuple(enumerate(names, self.end))
        self.message, self.error = (self.end + names.index(each) if each in names else 0 for each in ("msg", "exc_info"))
        if self.error:
            self._prefix, self._failure = trace
            if not isinstance(self._prefix, str) or not self._failure or not is_failure(self._failure):
                raise ProtocolError("malformed schema definition: its traceback is missing or invalid")

    def line_of(self, values: Values) -> str | None:
        """Return the message if the record has no traceback, else None."""
        return None if self.error else self.text(values)

    def failure(self, values: Values) -> Failure | None:
        """Return the description of the exception, or None."""
        return with_message(self._failure, values[self.error]) if self.error else None

    def signature(self, values: Values) -> Hashable | None:
        """Return the exception's type and frames, or None."""
        return signature(self._failure) if self.error else None

    def args(self, values: Values) -> tuple[object, ...]:
        """Return the arguments of the message."""
        args = self._args(values)
        return args if isinstance(args, tuple) else (args,)

    def _args(self, values: Values) -> tuple[object, ...] | dict[str, object]:
        return values[4 : self.end] if self.keys is None else {key: values[at] for at, key in self.keys}

    def text(self, values: Values) -> str:
        """Return the message."""
        try:
            msg: str = values[self.message] if self.message else self.base["msg"]
            args = self._args(values)
            return msg % args if args else msg
        except Exception:
            return str(self.build(values).getMessage())

    def build(self, values: Values) -> MeshRecord:
        """Return a new record."""
        record = MeshRecord.__new__(MeshRecord)
        fields = self.base.copy()
        fields["args"] = self._args(values)
        created = fields["created"] = values[1]
        msecs = fields["msecs"] = values[2]
        relative = fields["relativeCreated"] = values[3]
        if not (_EARLIEST < created < _LATEST and -_LONGEST < msecs + relative < _LONGEST):
            _replace_invalid_times(fields)
        for at, name in self.names:
            fields[name] = values[at]
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

    def line_of(self, values: Values) -> None:
        """Return None: these records may have a traceback or a stack."""
        return

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


NOT_NAMED: Final = frozenset(TEMPLATE.__dict__) - {
    "msg",
    "thread",
    "threadName",
    "processName",
    "taskName",
    "relativeCreated",
    "exc_text",
    "stack_info",
}
"""Attributes from the schema and the header of a record, which its named values cannot override."""

_TEXTUAL: Final = frozenset(("msg", "exc_info"))
_NOT_IN_SHAPE: Final = (NOT_NAMED | {"relativeCreated", "exc_text", "stack_info"}) - _TEXTUAL


def are_texts(value: object) -> bool:
    """Return whether a value is a valid `MeshInfo.texts`."""
    return isinstance(value, tuple) and all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], int) and isinstance(each[1], str) for each in value
    )


_OURS: Final[Mapping[str, Callable[[object], bool]]] = {"failure": is_failure, "texts": are_texts}
