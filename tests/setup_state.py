"""The state of the process that tests and the package change."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from dataclasses import dataclass, fields
from typing import Any, TextIO


@dataclass(frozen=True)
class Setup:
    """The root logger, the standard streams and the package's environment variables, at one time.

    The handlers that pytest puts on the root logger are left out: pytest adds them again in each phase of a test.
    """

    root_level: int
    root_handlers: list[logging.Handler]
    root_filters: list[object]
    disabled_up_to: int
    stdout: TextIO
    stderr: TextIO
    showwarning: object
    environment: dict[str, str]

    @classmethod
    def take(cls) -> Setup:
        """Take a snapshot."""
        root = logging.getLogger()
        return cls(
            root_level=root.level,
            root_handlers=[handler for handler in root.handlers if not _is_pytests(handler)],
            root_filters=list(root.filters),
            disabled_up_to=logging.root.manager.disable,
            stdout=sys.stdout,
            stderr=sys.stderr,
            showwarning=warnings.showwarning,
            environment=_own_environment(),
        )

    def changed(self) -> list[str]:
        """Name everything that has changed since this snapshot."""
        now = Setup.take()
        pairs = ((field.name, getattr(self, field.name), getattr(now, field.name)) for field in fields(self))
        return [f"{name}: was {was!r}, is {is_!r}" for name, was, is_ in pairs if was != is_]

    def restore(self) -> None:
        """Restore everything. Handlers that are removed from the root logger are not closed."""
        root = logging.getLogger()
        root.setLevel(self.root_level)
        root.handlers[:] = [*self.root_handlers, *filter(_is_pytests, root.handlers)]
        root.filters[:] = self.root_filters  # type: ignore[assignment]  # the saved value
        logging.disable(self.disabled_up_to)
        sys.stdout, sys.stderr = self.stdout, self.stderr
        for name in _own_environment().keys() - self.environment.keys():
            del os.environ[name]
        os.environ.update(self.environment)


@dataclass(frozen=True)
class Loggers:
    """Every logger's level, handlers, filters and switches, at one time."""

    states: dict[logging.Logger, dict[str, Any]]
    disabled_up_to: int

    @classmethod
    def take(cls) -> Loggers:
        """Take a snapshot."""
        return cls({logger: _state(logger) for logger in _loggers()}, logging.root.manager.disable)

    def restore(self) -> None:
        """Restore every logger; a logger created since then becomes as if new. Close the handlers added since then."""
        kept = {handler for state in self.states.values() for handler in state["handlers"]}
        added: set[logging.Handler] = set()
        for logger in _loggers():
            added.update(handler for handler in logger.handlers if not _is_pytests(handler))
            vars(logger).update(self.states.get(logger) or _state(logging.Logger(logger.name)))
        for handler in added - kept:
            handler.close()
        logging.disable(self.disabled_up_to)  # also clears the loggers' caches of enabled levels


def _state(logger: logging.Logger) -> dict[str, Any]:
    state = {name: vars(logger)[name] for name in ("level", "propagate", "disabled", "handlers", "filters")}
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MESHLOG_")}


def _is_pytests(handler: logging.Handler) -> bool:
    return type(handler).__module__ == "_pytest.logging"
