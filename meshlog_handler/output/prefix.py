"""Prefix: the text before each line, made from a template and the fields of a record."""

from __future__ import annotations

import logging
import string
from collections.abc import Callable, Mapping
from operator import attrgetter, itemgetter
from typing import Any, Final

from ..errors import SettingError, printable, quoted
from ..protocol.record import ORIGIN, MeshInfo

_RESET: Final = "\x1b[0m"
# Levels use other colours.
_RANK_COLOURS: Final = tuple(f"\x1b[{code}m" for code in (36, 32, 35, 34, 96, 92, 95, 94))
_MAX_CACHED: Final = 65536
_MAX_NAME: Final = 255

# For each field: the attribute of the record, and a sample value to check a template with.
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
# Prefixes with these fields are not cached: they change often, or cannot be a key.
_EVER_NEW: Final = frozenset(("coords", "created", "asctime", "lineno", "thread"))


class Prefix:
    """Makes prefixes from a template, and caches them. Raises `SettingError` if the template is invalid.

    Any thread may use it; at worst, two threads make the same prefix.
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
        """Return the prefix of a record that has a rank, optionally coloured by rank."""
        try:
            return (self._coloured if colour else self._plain)[self._origin(info), self._others(record.__dict__)]
        except (KeyError, TypeError):  # not cached, or the record lacks a field or has an unhashable one
            return self._make(record, info, colour)

    def known(self, info: MeshInfo, *, colour: bool) -> str | None:
        """Return the prefix if it was made before and depends on nothing but `info`; otherwise None."""
        if self._others is not _nothing:
            return None
        try:
            return (self._coloured if colour else self._plain).get((self._origin(info), None))
        except TypeError:  # coordinates
            return None

    def _make(self, record: logging.LogRecord, info: MeshInfo, colour: bool) -> str:
        fields = {**record.__dict__, **info.attributes()}
        values: dict[str, Any] = {name: fields.get(_FIELDS[name][0]) for name in self._names}
        if "asctime" in values:
            values["asctime"] = self._format_time(record)
        if "stream" in values and values["stream"] is None:
            values["stream"] = "log"
        if isinstance(values.get("coords"), Mapping):
            values["coords"] = _Coords(values["coords"])
        if isinstance(values.get("hostname"), str):
            values["hostname"] = printable(values["hostname"], _MAX_NAME)
        try:
            text = self._template.format_map({name: _UNKNOWN if value is None else value for name, value in values.items()})
        except Exception:  # a value of an unexpected type
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
    """Return the second part of the cache key for templates that use only fields of the origin."""


class _Unknown:
    """A missing value: a dash, padded to the requested width."""

    def __format__(self, spec: str) -> str:
        try:
            return format("-", spec)
        except ValueError:  # a format for numbers
            return "-"

    def __str__(self) -> str:
        return "-"


_UNKNOWN: Final = _Unknown()


class _Coords(dict[str, Any]):
    """Coordinates, formatted as ``gpus=1,hosts=0``. A missing coordinate is a dash."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return printable(value, _MAX_NAME) if isinstance(value, str) else value

    def __missing__(self, name: str) -> _Unknown:
        return _UNKNOWN

    def __format__(self, spec: str) -> str:
        return format(printable(",".join(f"{name}={value}" for name, value in self.items()), _MAX_NAME) or "-", spec)


class _SampleCoords(_Coords):
    def __missing__(self, name: str) -> Any:
        return 0


def _check(template: str) -> tuple[str, ...]:
    """Return the names of the fields of `template`, after checking it with sample values."""
    samples = {name: sample for name, (_, sample) in _FIELDS.items()}
    samples["coords"] = _SampleCoords()
    try:
        parts = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        names = {name.partition(".")[0].partition("[")[0] for name in parts}
        unknown = sorted(names.difference(_FIELDS))
        if unknown:
            raise ValueError(f"unknown field {', '.join(map(repr, unknown))}")
        template.format_map(samples)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as cause:
        raise SettingError(
            f"prefix={quoted(template)} cannot be used: {cause}. Expected a text with fields in braces, such as '[{{rank}}] ', "
            f"or None. Fields: {', '.join(_FIELDS)}; coords[gpus] is one coordinate. Write a literal brace twice."
        ) from None
    return tuple(name for name in _FIELDS if name in names)
