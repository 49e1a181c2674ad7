"""MeshRecord: a record at the client, and MeshInfo: what the mesh knows about it. Pure."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from types import MethodType
from typing import Any, Final, NoReturn

from .exceptions import Failure, exc_info

# Not `logging.makeLogRecord`: what a factory of this program adds is no attribute of every record.
TEMPLATE: Final = logging.LogRecord("", 0, "", 0, "", (), None)
FORMATTED: Final = ("message", "asctime")
STANDARD: Final = frozenset((*TEMPLATE.__dict__, *FORMATTED))
"""The attributes of records without `extra`, and those that formatters add."""

PLAIN_SIZE: Final = len(TEMPLATE.__dict__)
"""The number of attributes of a record without `extra` that no formatter has changed."""

_CONVERSION: Final = re.compile(r"%(\(.*?\))?[-#0 +]*(\d+|\*)?(\.(\d+|\*))?[hlL]?.", re.DOTALL)


class MeshInfo:
    """What the mesh knows about a record. Immutable; many records share one.

    Attributes
    ----------
    rank, local_rank : int or None
        The ranks of the process that logged; None for the process that shows the records.
    hostname : str or None
        The host of that process.
    coords : dict
        The coordinates of the rank by dimension. Do not change the dictionary.
    stream : {"stdout", "stderr"} or None
        The stream of a captured line; None for a logging call.
    count : int or None
        The number of lines that an aggregated record stands for; None for a single record.
    ranks : tuple of int or None
        The ranks of those lines.
    span_sec : float or None
        The seconds from the first of those lines to the last one, as they were logged.
    progress, partial : bool
        `progress`: a captured line that the next state replaces. `partial`: one that is incomplete, or was partly shown before.
    bar : int or None
        For a progress state, the number of its bar among the bars of that rank and stream.
    bar_ends : {"kept", "dropped"} or None
        Whether the last state of the bar stays as a line or is removed; None if the bar continues.
    raw : str or None
        The bytes of a captured line, decoded with ``surrogateescape``; None if the message is the same text.
    failure : tuple or None
        The description of an exception; see `protocol.exceptions`.
    digest : tuple or None
        Samples of a group. The client of a relay uses them to merge the group with others.
    route : int, str, tuple or None
        The `MeshHandler` that accepted the record (see `dispatch.sinks`).
    texts : tuple or None
        The results of formatters in the process that logged: pairs of a handler's index and a text.
    client : str or None
        The token of the client that shows the record, by which it recognizes the record if a queue returns it.
    """

    __slots__ = (
        "bar",
        "bar_ends",
        "client",
        "coords",
        "count",
        "digest",
        "failure",
        "hostname",
        "local_rank",
        "partial",
        "progress",
        "rank",
        "ranks",
        "raw",
        "route",
        "span_sec",
        "stream",
        "texts",
    )
    rank: int | None
    local_rank: int | None
    hostname: str | None
    coords: dict[str, Any]
    stream: str | None
    count: int | None
    ranks: tuple[int, ...] | None
    span_sec: float | None
    progress: bool
    partial: bool
    bar: int | None
    bar_ends: str | None
    raw: str | None
    failure: Failure | None
    digest: tuple[str | None, list[Any]] | None
    route: Any
    texts: tuple[tuple[int, str], ...] | None
    client: str | None

    def __init__(
        self,
        rank: int | None = None,
        local_rank: int | None = None,
        hostname: str | None = None,
        coords: Mapping[str, Any] | None = None,
        *,
        stream: str | None = None,
        **others: Any,
    ) -> None:
        own = {"rank": rank, "local_rank": local_rank, "hostname": hostname, "coords": {} if coords is None else coords}
        for name, value in {**_UNSET, **own, "stream": stream, **others}.items():
            _set(self, name, value)

    def but(self, **changes: Any) -> MeshInfo:
        """Return a copy with some attributes changed."""
        changed = MeshInfo.__new__(MeshInfo)
        for put, value in zip(_put_each, _values_of(self), strict=True):
            put(changed, value)
        for name, value in changes.items():
            _set(changed, name, value)
        return changed

    def attributes(self) -> dict[str, Any]:
        """Return the values that are also attributes of the record, unless the program has extras of the same names."""
        return {name: getattr(self, name) for name in ORIGIN}

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"MeshInfo cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"MeshInfo cannot be changed: {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, ({name: getattr(self, name) for name in MeshInfo.__slots__},)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MeshInfo):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in MeshInfo.__slots__)

    __hash__ = None  # type: ignore[assignment]  # it holds a dict

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in (*ORIGIN, *GROUPED) if getattr(self, name) is not None)
        return f"MeshInfo({', '.join(shown)})"


ORIGIN: Final = ("rank", "local_rank", "hostname", "coords", "stream")
"""The attributes of a `MeshInfo` that every record has too, unless the program has an extra of the same name."""

GROUPED: Final = ("count", "ranks", "span_sec")
"""The attributes that an aggregated record has too."""

_UNSET: Final[Mapping[str, Any]] = {**dict.fromkeys(MeshInfo.__slots__), "progress": False, "partial": False}
_set: Final = object.__setattr__
_values_of: Final = attrgetter(*MeshInfo.__slots__)
_put_each: Final = [MeshInfo.__dict__[name].__set__ for name in MeshInfo.__slots__]


def _restored(values: dict[str, Any]) -> MeshInfo:
    return MeshInfo(**values)


class MeshRecord(logging.LogRecord):
    """A record at the client.

    Attributes
    ----------
    meshlog : MeshInfo
        What the mesh knows about the record. It has a separate slot, so that no extra can hide it, and so that a formatter
        that writes all attributes of a record does not write it.
    """

    __slots__ = ("meshlog",)
    meshlog: MeshInfo

    @classmethod
    def of(cls, fields: dict[str, Any], info: MeshInfo) -> MeshRecord:
        """Return a record with these attributes. The record owns the dictionary."""
        record = cls.__new__(cls)
        record.__dict__ = fields
        record.meshlog = info
        return record

    @property  # type: ignore[misc]  # read-only: the layout of no other class fits
    def __class__(self) -> Any:
        """The class without the slot: formatters such as coloredlogs' give it to an object with a copy of the attributes."""
        return logging.LogRecord

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # A traceback cannot be pickled, so unpickling makes the stand-ins again.
        return _restored_record, (type(self), self.__dict__ | {"exc_info": None}, self.meshlog)

    @property
    def getMessage(self) -> Callable[[], str]:
        """The method that returns the message, or template, arguments and the reason if they cannot be formatted.

        It is a property, so that an extra of the same name does not hide it.
        """
        return MethodType(message_of, self)


def message_of(record: logging.LogRecord) -> str:
    """Return the message of a record, or template, arguments and the reason if they cannot be formatted."""
    try:
        text = str(record.msg)
        return str(text % record.args) if record.args else text
    except Exception as failure:
        return f"{_repr_of(record.msg)} {_repr_of(record.args)} [cannot be formatted: {type(failure).__name__}: {failure}]"


def _restored_record(kind: type[MeshRecord], fields: dict[str, Any], info: MeshInfo) -> MeshRecord:
    if info.failure is not None and fields.get("exc_text") is not None:
        fields["exc_info"] = exc_info(info.failure)
    return kind.of(fields, info)


def add_exception(fields: dict[str, Any], failure: Failure, text: str | None) -> None:
    """Add stand-ins for an exception to the attributes of a record, and to its message if that is a dict with the exception."""
    msg = fields["msg"]
    found = exc_info(failure)
    if fields["exc_text"] is not None:
        fields["exc_info"] = found
    if isinstance(msg, dict) and msg.get("exc_info") is True:
        fields["msg"] = DictWithText({**msg, "exc_info": found[1]})
        fields["msg"].text = str(msg) if text is None else text


def shown_kind(kind: Any) -> Any:
    """Return a subclass of a record class with a slot for a `MeshInfo`, for records that this process logs and shows."""
    known = _shown_kinds.get(kind)
    if known is None:
        fields = {
            "__slots__": ("meshlog",),
            "__module__": kind.__module__,
            "__class__": property(lambda record: kind),  # as in `MeshRecord`
            "__reduce_ex__": _reduce_shown,
        }
        known = kind if issubclass(kind, MeshRecord) else type(kind.__name__, (kind,), fields)
        _shown_kinds[kind] = known
    return known


_shown_kinds: Final[dict[Any, Any]] = {}


def _reduce_shown(record: Any, protocol: object) -> tuple[Any, ...]:
    return _shown_again, (type(record).__base__, record.__dict__, record.meshlog)


def _shown_again(kind: Any, fields: dict[str, Any], info: MeshInfo) -> Any:
    made = shown_kind(kind)
    record = made.__new__(made)
    record.__dict__.update(fields)
    record.meshlog = info
    return record


def info_of(record: logging.LogRecord) -> MeshInfo:
    """Return what the mesh knows about a record.

    For another class of record, or a copy of the attributes only, the result is made from the attributes.
    """
    info = getattr(record, "meshlog", None)
    if type(info) is MeshInfo:
        return info
    fields = record.__dict__
    known: dict[str, Any] = {name: value for name, kinds in _KINDS.items() if isinstance(value := fields.get(name), kinds)}
    return MeshInfo(**known)


_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "rank": int,
    "local_rank": int,
    "hostname": str,
    "coords": dict,
    "stream": str,
    "count": int,
    "ranks": tuple,
    "span_sec": float,
}


class WithText:
    """A message that always formats to the same text as in its process, whatever the arguments are.

    Arguments that were rendered there may not fit the template any more, and rendered data may have another text. Many
    formatters copy a record and format the copy, which has the same text too. Equal to the message; it can be pickled.
    """

    text: str

    def __str__(self) -> str:
        return Template(self.text, self.text)


class Template(WithText, str):
    """A message that is a template."""

    def __new__(cls, template: str, text: str) -> Template:
        """Return a template that formats to `text`."""
        made = super().__new__(cls, template)
        made.text = text
        return made

    def __str__(self) -> str:
        return self

    def __mod__(self, args: object) -> str:
        return self.text

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # str's own are fewer
        return str.__str__(self), self.text


class DictWithText(WithText, dict[Any, Any]):
    """A message that is a dict."""


class ListWithText(WithText, list[Any]):
    """A message that is a list."""


class TupleWithText(WithText, tuple[Any, ...]):
    """A message that is a tuple."""


_WITH_TEXT: Final[Mapping[type, Callable[[Any], Any]]] = {dict: DictWithText, list: ListWithText, tuple: TupleWithText}


def _gives(template: object, args: object, text: str) -> bool:
    """Return whether a template and arguments format to a text."""
    try:
        return (str(template) % args if args else str(template)) == text
    except Exception:
        return False


def with_text(msg: Any, args: object, text: str) -> Any:
    """Return a message in place of `msg` that formats to `text` in any record with these arguments."""
    if (type(msg) is not str or is_bounded(msg)) and _gives(msg, args, text):
        return msg
    if type(msg) is str:
        return Template(msg, text) if args else text
    kind = _WITH_TEXT.get(type(msg))
    if kind is None:
        return Template(text, text) if args else text
    made = kind(msg)
    made.text = text
    return made


def is_bounded(template: str) -> bool:
    """Return whether the text of a template is never much longer than the template and its arguments.

    A huge width or precision, or one that is an argument, makes a text of any length, and so does a name that is repeated: each
    time, the text contains the whole value.
    """
    if "%" not in template:
        return True
    if len(template) <= _SHORT:
        return _is_bounded(template)
    # For each opening parenthesis without a closing one, the rest of the template is searched.
    return template.count("%(") * len(template) <= _MAX_SEARCHED and _is_bounded.__wrapped__(template)


@lru_cache(maxsize=4096)
def _is_bounded(template: str) -> bool:
    size = 0
    names: list[str] = []
    for conversion in _CONVERSION.finditer(template):
        name = conversion[1]
        if name is not None:
            # The name goes on to the parenthesis that closes the first one, and what is behind it is not found here.
            if "(" in name[1:] or names.count(name) == _MAX_REPEATS:
                return False
            names.append(name)
        for part in conversion.group(2, 4):
            if part == "*" or (part and len(part) > len(str(_MAX_WIDTH))):
                return False
            size += int(part or 0)
    return size <= _MAX_WIDTH


_SHORT: Final = 512
_MAX_SEARCHED: Final = 1 << 20
_MAX_WIDTH: Final = 65536
_MAX_REPEATS: Final = 4


def has_words(template: str) -> bool:
    """Return whether a template has letters outside its conversions. One like ``%s: %s`` has none."""
    return any(map(str.isalpha, _CONVERSION.sub("", template)))


def mask_conversions(template: str) -> str:
    """Return a template with each conversion, such as ``%d``, replaced by ``#``."""
    return _CONVERSION.sub(lambda match: "%" if match[0] == "%%" else "#", template)


def _repr_of(value: object) -> str:
    if type(value) is str:
        return value
    try:
        return repr(value)
    except Exception:  # Python does not print an int of more than 4300 digits
        return f"<{type(value).__name__} without a repr>"
