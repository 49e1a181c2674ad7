"""Warnings in workers: the client's filters apply there, and warnings that pass them are logged.

Filters are sent as plain data. Categories are sent by name and not imported: a category of a package that the worker has not
loaded costs nothing, and matches once the package is loaded.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Final, TextIO

from ..protocol.codec import NotPlain, pack
from ..protocol.messages import LogWarnings

LOGGER: Final = "py.warnings"
"""The logger for warnings, as in ``logging.captureWarnings``."""


def warnings_command() -> LogWarnings:
    """Return a command to log warnings by the current filters, without those that cannot be encoded."""
    return LogWarnings(0, tuple(encoded for each in warnings.filters if (encoded := _encode_filter(each)) is not None))


def _encode_filter(entry: Any) -> tuple[object, ...] | None:
    try:
        action, message, category, module, line = entry
        classes = category if isinstance(category, tuple) else (category,)
        names = tuple((each.__module__, each.__qualname__) for each in classes)
        encoded = str(action), _encode_match(message), names, _encode_match(module), int(line)
        pack(encoded)
    except (TypeError, ValueError, AttributeError, NotPlain):
        return None  # a program added it to the list directly, unchecked
    return encoded


def _encode_match(match: Any) -> object:
    """Encode what a text must match: None, an equal text, or a regular expression as its pattern and flags."""
    return match if match is None or isinstance(match, str) else (match.pattern, match.flags)


def log_warnings(filters: Iterable[Any]) -> None:
    """Replace this process's filters by those of a command, and log each warning that passes them."""
    found = [
        (action, _match(message), _categories(names), _match(module), line) for action, message, names, module, line in filters
    ]
    global _before
    if _before is None:
        _before = (list(warnings.filters), warnings.showwarning)
    warnings.resetwarnings()  # also clears what the old filters decided
    warnings.filters.extend(found)  # type: ignore[attr-defined]  # typeshed declares a sequence; it is a list
    warnings.showwarning = _log


def restore_warnings() -> None:
    """Undo `log_warnings`."""
    global _before
    if _before is not None:
        (filters, show), _before = _before, None
        if warnings.showwarning is _log:  # else the program has replaced the function since
            warnings.resetwarnings()
            warnings.filters[:] = filters  # type: ignore[index]  # as above
            warnings.showwarning = show


_before: tuple[list[Any], Any] | None = None


def _match(encoded: Any) -> Any:
    return encoded if encoded is None or isinstance(encoded, str) else re.compile(*encoded)


def _categories(names: Any) -> type | tuple[type, ...]:
    found = tuple(_category(module, name) for module, name in names)
    return found[0] if len(found) == 1 else found


def _category(module: str, name: str) -> type:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else _Named(name, (Warning,), {"__module__": module, "__qualname__": name})


class _Named(type):
    """Replaces a category that is not loaded: classes that inherit from a class of the same name are its subclasses."""

    def __subclasscheck__(cls, other: type) -> bool:
        return any((each.__module__, each.__qualname__) == (cls.__module__, cls.__qualname__) for each in other.__mro__)


def _log(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning as ``logging.captureWarnings`` does, but with the warning's file and line in the record."""
    # Grouping uses the file and line: the same warning of many ranks becomes one line, and different warnings stay separate.
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if file is not None:
        file.write(text)
        return
    logger = logging.getLogger(LOGGER)
    if logger.isEnabledFor(logging.WARNING):
        record = logger.makeRecord(LOGGER, logging.WARNING, filename, lineno, text.rstrip("\n"), (), None)
        logger.handle(record)
