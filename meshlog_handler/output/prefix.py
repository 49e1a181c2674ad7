"""What stands before each line: a template over the fields of a record."""

from __future__ import annotations

import logging
import string
from collections.abc import Callable, Mapping
from operator import attrgetter, itemgetter
from typing import Any, Final

from ..errors import SettingError
from ..protocol.record import ORIGIN, MeshInfo

_RESET: Final = "\x1b[0m"
# None of these is the colour of a level.
_RANK_COLOURS: Final = tuple(f"\x1b[{code}m" for code in (36, 32, 35, 34, 96, 92, 95, 94))
_MAX_CACHED: Final = 65536

# What each field is called on the record, and a value to try a template with.
_FIELDS: Final[dict[str, tuple[str, Any]]] = {
    "rank": ("rank", 0),
    "local_rank": ("local_rank", 0),
    "hostname": ("hostname", "host"),
    "coords": ("coords", {}),
    "stream": ("stream", "stdout"),
    "pid": ("process", 1),
    "process": ("process", 1),
    "processName": ("processName", "MainProcess"),
    "name": ("name", "root"),
    "levelname": ("levelname", "INFO"),
    "levelno": ("levelno", logging.INFO),
    "module": ("module", "module"),
    "filename": ("filename", "module.py"),
    "funcName": ("funcName", "function"),
    "lineno": ("lineno", 1),
    "thread": ("thread", 1),
    "threadName": ("threadName", "MainThread"),
    "created": ("created", 0.0),
    "asctime": ("asctime", "2000-01-01 00:00:00,000"),
}
# By these a prefix is not worth remembering, or cannot be.
_EVER_NEW: Final = frozenset(("coords", "created", "asctime", "lineno", "thread"))


class Prefix:
    """Makes prefixes, and remembers them.

    Parameters
    ----------
    template : str
        Of `str.format`.
    format_time : Callable[[logging.LogRecord], str]
        Makes the field ``asctime``.

    Raises
    ------
    SettingError
        If `template` cannot be used; the message lists the fields there are.

    Notes
    -----
    Any thread may use it: at worst, two of them make the same prefix.
    """

    def __init__(self, template: str, format_time: Callable[[logging.LogRecord], str]) -> None:
        self._names = _check(template)
        self._template = template
        self._format_time = format_time
        self._origin = attrgetter(*dict.fromkeys(("rank", *(name for name in self._names if name in ORIGIN))))
        others = [_FIELDS[name][0] for name in self._names if name not in ORIGIN]
        self._others: Callable[[dict[str, Any]], object] = itemgetter(*others) if others else _nothing
        self._lasting = _EVER_NEW.isdisjoint(self._names)
        self._plain: dict[object, str] = {}
        self._coloured: dict[object, str] = {}

    def of(self, record: logging.LogRecord, info: MeshInfo, *, colour: bool) -> str:
        """Return the prefix of a record that has a rank, coloured by that or not."""
        try:
            return (self._coloured if colour else self._plain)[self._origin(info), self._others(record.__dict__)]
        except (KeyError, TypeError):  # a new one, or a record that lacks a field, or has an odd one
            return self._make(record, info, colour)

    def _make(self, record: logging.LogRecord, info: MeshInfo, colour: bool) -> str:
        fields = {**record.__dict__, **info.attributes()}
        values: dict[str, Any] = {name: fields.get(_FIELDS[name][0]) for name in self._names}
        if "asctime" in values:
            values["asctime"] = self._format_time(record)
        if "stream" in values and values["stream"] is None:
            values["stream"] = "log"
        if isinstance(values.get("coords"), Mapping):
            values["coords"] = _Coords(values["coords"])
        try:
            text = self._template.format_map({name: _UNKNOWN if value is None else value for name, value in values.items()})
        except Exception:  # a value of another kind than it should be
            text = f"[{fields['rank']}] "
        if colour and text:
            body = text.rstrip()
            text = f"{_RANK_COLOURS[hash(fields['rank']) % len(_RANK_COLOURS)]}{body}{_RESET}{text[len(body) :]}"
        if self._lasting:
            try:
                known = self._coloured if colour else self._plain
                if len(known) >= _MAX_CACHED:
                    known.clear()
                known[self._origin(info), self._others(fields)] = text
            except (KeyError, TypeError):
                return text
        return text


def _nothing(fields: dict[str, Any]) -> None:
    """Return what records have in common of which only the origin matters."""


class _Unknown:
    """A value the record does not have: a dash, as wide as asked for."""

    def __format__(self, spec: str) -> str:
        try:
            return format("-", spec)
        except ValueError:  # a format for numbers
            return "-"

    def __str__(self) -> str:
        return "-"


_UNKNOWN: Final = _Unknown()


class _Coords(dict[str, Any]):
    """Coordinates, as ``gpus=1,hosts=0`` or one of them."""

    def __missing__(self, name: str) -> _Unknown:
        return _UNKNOWN

    def __format__(self, spec: str) -> str:
        return format(",".join(f"{name}={value}" for name, value in self.items()) or "-", spec)


class _SampleCoords(_Coords):
    def __missing__(self, name: str) -> Any:
        return 0


def _check(template: str) -> tuple[str, ...]:
    """Return the names of the fields of `template`; it is tried on a record where all are known."""
    samples = {name: sample for name, (_, sample) in _FIELDS.items()}
    samples["coords"] = _SampleCoords()
    try:
        parts = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        names = {name.partition(".")[0].partition("[")[0] for name in parts}
        unknown = sorted(names.difference(_FIELDS))
        if unknown:
            raise ValueError(f"there is no field {', '.join(map(repr, unknown))}")
        template.format_map(samples)
    except Exception as cause:
        raise SettingError(
            f"prefix={template!r} cannot be used: {cause}. Valid: a text with fields in braces, as in '[{{rank}}] ', or "
            f"None. Fields: {', '.join(_FIELDS)}; one coordinate is coords[gpus]. A brace is written twice."
        ) from None
    return tuple(name for name in _FIELDS if name in names)
