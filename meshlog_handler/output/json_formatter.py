"""JsonFormatter: formats a record as one line of JSON for other programs."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

from .. import settings
from ..errors import SettingError, quoted
from ..lines.framer import strip_ansi_text
from ..protocol.record import STANDARD, info_of

_ALWAYS: Final = ("rank", "stream")
_IF_KNOWN: Final = ("local_rank", "hostname", "coords", "count", "ranks", "span_sec")
_OURS: Final = frozenset((*_ALWAYS, *_IF_KNOWN))
_MAX_DEPTH: Final = 20
_MAX_BITS: Final = 4096


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line. Never raises on a record.

    Every object has the keys timestamp (ISO 8601, UTC), level, name, message, rank and stream. If known, it has
    local_rank, hostname, coords, process, exc_text and stack_info, and for an aggregated record count, ranks and span_sec. The
    attributes given as ``extra`` follow; a name that is already a key gets an underscore appended. Values that JSON cannot
    express are written as text.

    Parameters
    ----------
    fmt : None
        Not supported, since every object has the same keys. Present for ``logging.config``.
    datefmt : str or None
        Format for `time.strftime`, in UTC. None: ISO 8601 with microseconds.
    style : str
        Has no effect without `fmt`.
    validate, defaults
        As in `logging.Formatter`. `defaults` gives extras for records that lack them.
    ensure_ascii : bool
        Write non-ASCII characters as ``\\uXXXX``, which every encoding supports.

    Raises
    ------
    SettingError
        If `fmt` is given.

    Notes
    -----
    Any thread may use it.
    """

    def __init__(
        self,
        fmt: None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        validate: bool = True,
        *,
        defaults: Mapping[str, Any] | None = None,
        ensure_ascii: bool = True,
    ) -> None:
        if fmt is not None:
            raise SettingError(
                f"fmt={quoted(fmt)}: JsonFormatter takes no format, its objects have the same keys. Leave it out."
            )
        super().__init__(None, datefmt, style, validate)
        self._defaults = dict(defaults or {})
        self._encode = json.JSONEncoder(
            ensure_ascii=settings.check_flag(ensure_ascii, "ensure_ascii"),
            allow_nan=False,
            default=_text,
            separators=(", ", ": "),
        ).encode
        self._ensure_ascii = ensure_ascii

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object, without a line feed."""
        fields = self._fields(record)
        try:
            text = self._encode(fields)
        except Exception:  # a key that is not a string, NaN, a circular reference
            text = self._encode(_plain(fields, _MAX_DEPTH))
        return text if self._ensure_ascii else text.translate(_ESCAPED)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of the record in UTC."""
        try:
            if datefmt is not None:
                return time.strftime(datefmt, time.gmtime(record.created))
            seconds, microseconds = divmod(round(record.created * 1e6), 1_000_000)
            return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{microseconds:06d}Z"
        except Exception:  # not a valid calendar time
            return _text(record.created)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        known, info = record.__dict__, info_of(record)
        try:
            message = record.getMessage()
        except Exception as failure:
            message = f"{_text(record.msg)} {_text(record.args)} [cannot be formatted: {type(failure).__name__}]"
        if info.stream is not None:
            message = strip_ansi_text(message)
        fields: dict[str, Any] = {
            "timestamp": self.formatTime(record, self.datefmt),
            "level": known.get("levelname"),
            "name": known.get("name"),
            "message": message,
        }
        for name in _ALWAYS:
            fields[name] = getattr(info, name)
        for name in _IF_KNOWN:
            if (value := getattr(info, name)) is not None:
                fields[name] = value
        if known.get("process") is not None:
            fields["process"] = known["process"]
        exc_text = known.get("exc_text")
        if not exc_text and known.get("exc_info"):
            try:
                exc_text = self.formatException(known["exc_info"])
            except Exception:  # an exception that cannot be formatted
                exc_text = _text(known["exc_info"])
        if exc_text:
            fields["exc_text"] = exc_text
        if known.get("stack_info"):
            fields["stack_info"] = known["stack_info"]
        for extras in (known, self._defaults):
            for name, value in tuple(extras.items()):
                if name not in STANDARD and not (name in _OURS and value is getattr(info, name)):
                    key = f"{name}_" if name in _TAKEN else name
                    while extras is known and key in fields:
                        key += "_"
                    fields.setdefault(key, value)
        return fields


_TAKEN: Final = _OURS | {"timestamp", "level"}
# Line separators for some readers, though not in JSON; and surrogates, which no encoding supports.
_ESCAPED: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029, *range(0xD800, 0xE000))}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as failure:
        return f"<{type(value).__name__} that cannot be shown: {type(failure).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    """Return a copy of `value` that JSON can express."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if value.bit_length() < _MAX_BITS else hex(value)
    if kind is float:
        return value if math.isfinite(value) else _text(value)
    if depth and kind in (list, tuple):
        return [_plain(item, depth - 1) for item in value]
    if depth and kind is dict:
        return {_text(key): _plain(item, depth - 1) for key, item in tuple(value.items())}
    return _text(value)
