"""Handlers that a sink calls with another formatter, or after their filters have run."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from logging import LogRecord
from typing import Any, Final

from ..output.named_handlers import ShownBy
from ..protocol.record import ORIGIN, MeshRecord, info_of

_PACKAGE: Final = __name__.partition(".")[0]


class Wrapped:
    """A handler that a sink does not call by its own `handle`."""

    def __init__(self, handler: ShownBy) -> None:
        self.given_to = handler

    @property
    def handler(self) -> Any:
        """The wrapped handler, or its placeholder while a configuration is incomplete."""
        return behind(self.given_to)

    @property
    def level(self) -> int:
        """The handler's level."""
        return self.given_to.level

    @property
    def flush_per_tick(self) -> bool:
        """Whether the handler is to be flushed after each tick of the client."""
        return bool(getattr(self.given_to, "flush_per_tick", False))

    def handle(self, record: LogRecord) -> Any:
        """Show a record."""
        return self.given_to.handle(record)

    def flush(self) -> None:
        """Flush the handler."""
        self.given_to.flush()


class WithFormatter(Wrapped):
    """A handler that uses the formatter of its `MeshHandler`, unless it has a formatter."""

    def __init__(self, handler: ShownBy, formatter: logging.Formatter) -> None:
        super().__init__(handler)
        self._formatter = formatter

    @property
    def formatter(self) -> logging.Formatter | None:
        """The formatter that applies."""
        own = getattr(self.handler, "formatter", None)
        return self._formatter if own is None or getattr(self.handler, "has_default_formatter", False) else own

    def handle(self, record: LogRecord) -> Any:
        """Show a record."""
        handler = self.handler
        if not isinstance(handler, logging.Handler):
            return handler.handle(record)
        handler.acquire()
        before, handler.formatter = handler.formatter, self.formatter
        try:
            return handler.handle(record)
        finally:
            handler.formatter = before
            handler.release()


class Accepted(Wrapped):
    """A handler whose filters, and perhaps its formatter, have run in the process that logged the record."""

    def __init__(self, handler: ShownBy, index: int, at_any_level: bool = False) -> None:
        super().__init__(handler)
        self._index, self._at_any_level = index, at_any_level

    @property
    def level(self) -> int:
        """The handler's level, unless the level in that process applied."""
        return logging.NOTSET if self._at_any_level else self.given_to.level

    def handle(self, record: LogRecord) -> Any:
        """Do what `logging.Handler.handle` does after the filters."""
        handler = self.handler
        if not isinstance(handler, logging.Handler):
            return handler.handle(record)
        texts = [text for index, text in info_of(record).texts or () if index == self._index]
        handler.acquire()
        before, handler.formatter = handler.formatter, getattr(self.given_to, "formatter", handler.formatter)
        try:
            if not texts:
                handler.emit(record)
            for text in texts:
                with _replaced(handler, "format", partial(_as_formatted, text)):  # `emit` writes it
                    handler.emit(record)
        finally:
            handler.formatter = before
            handler.release()
        return True


@contextlib.contextmanager
def _replaced(handler: logging.Handler, name: str, method: Callable[[LogRecord], Any]) -> Iterator[None]:
    """Replace a method of a handler, whose lock the caller holds."""
    attributes = vars(handler)
    kept = {name: attributes[name]} if name in attributes else {}
    attributes[name] = method
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(kept)


def _as_formatted(text: str, record: LogRecord) -> str:
    return text


def handle_of(handler: ShownBy) -> Callable[[LogRecord], list[LogRecord]] | None:
    """Return a function that calls a handler's own `handle`, and returns what that gives to `emit`; None if it has none."""
    found = behind(handler)
    return partial(_handled, found) if isinstance(found, logging.Handler) and _has_own(found, "handle") else None


def _handled(handler: logging.Handler, record: LogRecord) -> list[LogRecord]:
    emitted: list[LogRecord] = []
    handler.acquire()
    try:
        with _replaced(handler, "emit", emitted.append):
            handler.handle(record)
    finally:
        handler.release()
    return emitted


def behind(handler: ShownBy) -> Any:
    """Return the handler that a name or a wrapper stands for; otherwise the handler itself."""
    return getattr(handler, "handler", None) or handler


def filter_of(handler: ShownBy) -> Callable[[LogRecord], Any] | None:
    """Return the method by which a handler rejects records, or None if it accepts all."""
    found = behind(handler)
    filters = getattr(found, "filters", None) or (isinstance(found, logging.Handler) and _has_own(found, "filter"))
    return found.filter if filters else None


def handles_as_logging(handler: logging.Handler) -> bool:
    """Return whether `handle`, and what it calls before and after `emit`, are those of `logging.Handler`."""
    return not any(_has_own(handler, name) for name in ("handle", "filter", "acquire", "release"))


def _has_own(handler: logging.Handler, name: str) -> bool:
    return name in vars(handler) or getattr(type(handler), name) is not getattr(logging.Handler, name)


def formats_exceptions(handler: ShownBy) -> bool:
    """Return whether the formatter of a handler overrides `formatException`."""
    formatter = getattr(handler, "formatter", None)
    return formatter is not None and getattr(type(formatter), "formatException", _FORMAT_EXCEPTION) is not _FORMAT_EXCEPTION


def without_text(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy without the traceback text, so that `logging.Formatter.format` calls `formatException`."""
    return MeshRecord.of({**record.__dict__, "exc_text": None}, info_of(record))


_FORMAT_EXCEPTION: Final = logging.Formatter.formatException


def any_formatter_of(handler: ShownBy) -> Any:
    """Return the formatter of a handler; by default, that of `logging`."""
    return getattr(handler if isinstance(handler, WithFormatter) else behind(handler), "formatter", None) or _DEFAULT


class _OwnFormat:
    """The `format` of a handler that overrides it, in place of a formatter."""

    def __init__(self, handler: logging.Handler, formatter: Any) -> None:
        self._handler, self._formatter = handler, formatter
        self._style = getattr(formatter, "_style", None)  # it has the defaults

    def format(self, record: LogRecord) -> Any:
        """Call `format` as the `handle` of the handler does: with its lock, and with the formatter that applies."""
        handler = self._handler
        handler.acquire()
        before, handler.formatter = handler.formatter, self._formatter
        try:
            return handler.format(record)
        finally:
            handler.formatter = before
            handler.release()


def formatter_of(handler: ShownBy) -> Any:
    """Return what formats the records of a handler if it is the program's: not from the standard library or this package."""
    formatter, found = any_formatter_of(handler), behind(handler)
    if isinstance(found, logging.Handler) and _has_own(found, "format"):
        return _OwnFormat(found, None if formatter is _DEFAULT else formatter)
    kind = type(formatter)
    if kind.__module__.partition(".")[0] == _PACKAGE:
        return None
    # A program may also replace a method of one formatter, such as `format` or `converter`.
    return None if kind is logging.Formatter and not any(map(callable, vars(formatter).values())) else formatter


def defaults_of(formatter: Any) -> frozenset[str]:
    """Return the names, among those that a client adds to records, for which a formatter has a default."""
    style = getattr(formatter, "__dict__", {}).get("_style")
    defaults = getattr(style, "__dict__", {}).get("_defaults")
    return _ADDED.intersection(defaults) if isinstance(defaults, Mapping) else frozenset()


def with_defaults(record: LogRecord, names: frozenset[str], own: Mapping[str, Any] | None = None) -> LogRecord:
    """Return a record without those of the attributes `names` that have no value, so that the formatter's defaults are used.

    A record of the client's process, or of a process without a rank, has no value for any of them. Extras in `own` stay.
    """
    info = info_of(record)
    fields, ours = record.__dict__, info.attributes()
    empty = [name for name in names if name in fields and (info.rank is None or ours[name] is None)]
    empty = [name for name in empty if name not in own] if own is not None else [n for n in empty if fields[n] is ours[n]]
    if not empty:
        return record
    made = copy.copy(record)
    for name in empty:
        del made.__dict__[name]
    return made


_ADDED: Final = frozenset(ORIGIN)


def writes_text(handler: ShownBy) -> bool:
    """Return whether a handler writes the formatted text and uses nothing else of the record."""
    found = behind(handler)
    kind = type(found)
    return (
        isinstance(found, logging.StreamHandler) and kind.emit.__module__ in _WRITERS and kind.format is logging.Handler.format
    )


_DEFAULT: Final = logging.Formatter()
_WRITERS: Final = ("logging", "logging.handlers")
"""The modules of `StreamHandler`, `FileHandler` and the rotating handlers."""
