"""Handlers named in the configuration that is being read, found when they are first needed.

`logging.config` makes handlers one after the other; one that names another cannot look it up while it is being made.
(`dictConfig` knows this of its own classes alone, and of `QueueHandler` subclasses in its own way since Python 3.12.)
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from ..errors import SettingError
from ..system import live_clients
from ..system.fd_capture import diagnose

_CONFIG_SEC: Final = 10.0


class ShownBy(Protocol):
    """What the client asks of a handler."""

    @property
    def level(self) -> int:
        """Records below it are not for this handler, where levels are respected."""

    def handle(self, record: logging.LogRecord, /) -> Any:
        """Show a record."""

    def flush(self) -> None:
        """Pass on what is buffered."""


def check_handlers(handlers: Iterable[ShownBy]) -> tuple[ShownBy, ...]:
    """Return handlers as a tuple.

    Raises
    ------
    SettingError
        If one of them is no handler.
    """
    checked = tuple(handlers)
    for handler in checked:
        if not (hasattr(handler, "handle") and hasattr(handler, "level")):
            raise SettingError(f"{handler!r} is not a logging.Handler. Valid: handlers, or none of them for the console.")
    return checked


class NamedHandler:
    """Stands for the handler that a configuration calls `name`.

    Looked up with each use, until it is there, by the thread that shows records.
    """

    def __init__(self, name: str, configured: Mapping[str, Any]) -> None:
        self.name = name
        self._configured: Mapping[str, Any] | None = configured
        self._handler: logging.Handler | None = None
        self._complained = False

    @property
    def level(self) -> int:
        """The level of the handler it stands for."""
        handler = self._find()
        return handler.level if handler is not None else logging.NOTSET

    @property
    def flush_per_tick(self) -> bool:
        """Whether the handler it stands for wants `flush` after each of the client's ticks."""
        return bool(getattr(self._handler, "flush_per_tick", False))

    def handle(self, record: logging.LogRecord) -> Any:
        """Show a record; while the configuration is not complete, on the standard library's handler of last resort."""
        handler = self._find()
        if handler is not None:
            return handler.handle(record)
        if logging.lastResort is not None:
            return logging.lastResort.handle(record)
        return False

    def flush(self) -> None:
        """Flush the handler it stands for."""
        if self._handler is not None:
            self._handler.flush()

    @property
    def handler(self) -> logging.Handler | None:
        """The handler it stands for, or None while the configuration is not complete."""
        return self._find()

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
        """Look again when the configuration is complete: `logging.config` holds logging's lock until then.

        Who configures never waits for the client's thread, so that this ends.
        """
        lock: Any = logging._lock  # type: ignore[attr-defined]  # it has no public name
        if lock.acquire(timeout=_CONFIG_SEC):
            lock.release()
        return configured.get(self.name)


def keep_whole(name: str, handler: logging.Handler) -> None:
    """Say once that other processes that apply the same configuration empty the file of a handler that shows records here.

    They do so before code of this package runs there. What is written here afterwards leaves no hole in the file.
    """
    if not isinstance(handler, logging.FileHandler) or not handler.mode.startswith("w") or handler.delay:
        return
    if not live_clients.any_running():
        return  # this process does not show the records of others
    if handler.stream is not None:
        with contextlib.suppress(OSError, ValueError):  # it is closed
            fd = handler.stream.fileno()
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    if handler.baseFilename not in _told:
        _told.add(handler.baseFilename)
        diagnose(
            f"handler {name!r} opens {handler.baseFilename} with mode {handler.mode!r}: every spawned process that applies "
            f'this configuration empties the file. Write "mode": "a", or "delay": True.'
        )


_told: Final[set[str]] = set()


def resolve(handlers: Sequence[str | logging.Handler]) -> list[ShownBy]:
    """Return handlers; in place of each name, what stands for it.

    Raises
    ------
    SettingError
        If a name is given and no configuration is being read.
    """
    if not any(isinstance(handler, str) for handler in handlers):
        return [handler for handler in handlers if not isinstance(handler, str)]
    configured = _being_read()
    if configured is None:
        raise SettingError(
            f"MeshHandler(handlers={list(handlers)!r}) names handlers, but no configuration is being read that defines "
            f"them. Outside of logging.config, give the handlers themselves."
        )
    return [NamedHandler(handler, configured) if isinstance(handler, str) else handler for handler in handlers]


def _being_read() -> Mapping[str, Any] | None:
    """Return the handlers, by name, of the configuration that `logging.config` is reading on this thread.

    `dictConfig` and `fileConfig` both hold them in a local called ``handlers``, in every supported Python; tests say
    so for each.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging.config":
            handlers = frame.f_locals.get("handlers")
            if isinstance(handlers, Mapping):
                return handlers
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return None
