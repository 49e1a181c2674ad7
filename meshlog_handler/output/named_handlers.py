"""NamedHandler: a handler given by its name in a `logging.config` configuration.

`logging.config` creates handlers one after the other, so a handler cannot look up another one while it is created.
(`dictConfig` resolves names for its own classes only, and since Python 3.12 in another way for subclasses of `QueueHandler`.)
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from logging.handlers import BaseRotatingHandler
from typing import Any, Final, Protocol

from ..errors import SettingError, quoted
from ..system import live_clients
from ..system.diagnostics import diagnose

_CONFIG_SEC: Final = 10.0


class ShownBy(Protocol):
    """The part of a handler that the client uses."""

    @property
    def level(self) -> int:
        """The lowest level that the handler shows, if the client respects handler levels."""

    def handle(self, record: logging.LogRecord, /) -> Any:
        """Show a record."""

    def flush(self) -> None:
        """Write buffered records."""


def check_handlers(handlers: Iterable[ShownBy]) -> tuple[ShownBy, ...]:
    """Return handlers as a tuple. Raise `SettingError` if one of them is not a handler."""
    checked = tuple(handlers)
    for handler in checked:
        if not (hasattr(handler, "handle") and hasattr(handler, "level")):
            raise SettingError(f"{quoted(handler)} is not a logging.Handler. Pass handler objects, or nothing for the console.")
    return checked


class NamedHandler:
    """A proxy for the handler that a configuration calls `name`.

    The thread that shows records looks the handler up at each use until it exists.
    """

    def __init__(self, name: str, configured: Mapping[str, Any]) -> None:
        self.name = name
        self._configured: Mapping[str, Any] | None = configured
        self._handler: logging.Handler | None = None
        self._complained = False

    @property
    def level(self) -> int:
        """The level of the handler; `logging.NOTSET` until the configuration is complete."""
        handler = self._find()
        return handler.level if handler is not None else logging.NOTSET

    @property
    def flush_per_tick(self) -> bool:
        """Whether the handler needs a `flush` after each tick of the client."""
        return bool(getattr(self._handler, "flush_per_tick", False))

    def handle(self, record: logging.LogRecord) -> Any:
        """Pass the record to the handler, or to `logging.lastResort` until the configuration is complete."""
        handler = self._find()
        if handler is not None:
            return handler.handle(record)
        if logging.lastResort is not None:
            return logging.lastResort.handle(record)
        return False

    def flush(self) -> None:
        """Flush the handler."""
        if self._handler is not None:
            self._handler.flush()

    @property
    def handler(self) -> logging.Handler | None:
        """The handler, or None until the configuration is complete."""
        return self._find()

    @property
    def configured(self) -> object:
        """The handler, or what the configuration says of it."""
        return self._handler if self._configured is None else self._configured.get(self.name)

    def _find(self) -> logging.Handler | None:
        if self._handler is None and self._configured is not None:
            found = self._configured.get(self.name)
            if not isinstance(found, logging.Handler) and not self._complained:
                found = self._when_configured(self._configured)
            if isinstance(found, logging.Handler):
                self._handler, self._configured = found, None
                keep_whole(self.name, found)
            elif not self._complained:
                self._complained = True
                if found is None:
                    valid = ", ".join(map(repr, self._configured))
                    diagnose(f"MeshHandler: no handler is named {self.name!r}. Valid: {valid}.")
        return self._handler

    def _when_configured(self, configured: Mapping[str, Any]) -> Any:
        """Wait until the configuration is complete, and look again."""
        # `logging.config` holds the lock of `logging` while it configures. The configuring thread never waits for the client's
        # thread, so this cannot deadlock.
        lock: Any = logging._lock  # type: ignore[attr-defined]  # it has no public name
        if lock.acquire(timeout=_CONFIG_SEC):
            lock.release()
        return configured.get(self.name)


def rotating_files(handlers: Iterable[ShownBy]) -> list[str]:
    """Return the absolute paths of the files that these handlers rotate, also before the configuration is complete."""
    found = []
    for handler in handlers:
        what = handler.configured if isinstance(handler, NamedHandler) else handler
        if isinstance(what, BaseRotatingHandler):
            found.append(what.baseFilename)
        elif isinstance(what, Mapping) and str(what.get("class")).endswith("RotatingFileHandler"):
            found += [os.path.abspath(name) for name in (what.get("filename"),) if isinstance(name, str)]
    return found


def keep_whole(name: str, handler: logging.Handler) -> None:
    """Warn once if other processes that apply the same configuration truncate the log file of this handler.

    They truncate it before code of this package runs there. ``O_APPEND`` prevents a hole before later writes of this process.
    """
    if not isinstance(handler, logging.FileHandler) or not handler.mode.startswith("w") or handler.delay:
        return
    if not live_clients.any_running():
        return  # this process shows no records of other processes
    if handler.stream is not None:
        with contextlib.suppress(OSError, ValueError):  # closed
            fd = handler.stream.fileno()
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    if handler.baseFilename not in _told:
        _told.add(handler.baseFilename)
        diagnose(
            f"handler {name!r} opens {handler.baseFilename} with mode {handler.mode!r}: every spawned process that applies "
            f'this configuration empties the file. Write "mode": "a", or "delay": True.'
        )


_told: Final[set[str]] = set()


def resolve(given: Iterable[str | logging.Handler]) -> list[ShownBy]:
    """Replace each name by a `NamedHandler`. Raise `SettingError` for a name if no configuration is being read."""
    handlers = tuple(given)
    check_handlers(handler for handler in handlers if not isinstance(handler, str))
    if not any(isinstance(handler, str) for handler in handlers):
        return [handler for handler in handlers if not isinstance(handler, str)]
    configured = _being_read()
    if configured is None:
        raise SettingError(
            f"MeshHandler(handlers={list(handlers)!r}) names handlers, but no configuration is being read that defines them. "
            f"Outside of logging.config, pass handler objects."
        )
    return [NamedHandler(handler, configured) if isinstance(handler, str) else handler for handler in handlers]


def _being_read() -> Mapping[str, Any] | None:
    """Return the handlers, by name, of the configuration that `logging.config` is reading on this thread."""
    # `dictConfig` and `fileConfig` keep them in a local variable named ``handlers`` in every supported Python version. Tests
    # check this for each.
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging.config":
            handlers = frame.f_locals.get("handlers")
            if isinstance(handlers, Mapping):
                return handlers
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return None
