"""Warnings end to end: the client's filters hold in a proc, and what they let pass there is logged, where it was raised.

Filters travel as plain data. A category is named, not imported: one of a package that the proc has not loaded costs nothing,
and matches once it is loaded.
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
"""Where the standard library's ``logging.captureWarnings`` logs warnings, too."""


def warnings_command() -> LogWarnings:
    """Return the order to log warnings by the filters that hold here and now, but for those that cannot be spelled."""
    return LogWarnings(0, tuple(spelt for each in warnings.filters if (spelt := _spell_filter(each)) is not None))


def _spell_filter(entry: Any) -> tuple[object, ...] | None:
    try:
        action, message, category, module, line = entry
        classes = category if isinstance(category, tuple) else (category,)
        names = tuple((each.__module__, each.__qualname__) for each in classes)
        spelt = str(action), _spell_match(message), names, _spell_match(module), int(line)
        pack(spelt)
    except (TypeError, ValueError, AttributeError, NotPlain):
        return None  # somebody put it there by hand, past the functions that check
    return spelt


def _spell_match(match: Any) -> object:
    """Spell what a text has to match: a regular expression as its pattern and flags; a text that has to be equal; or None."""
    return match if match is None or isinstance(match, str) else (match.pattern, match.flags)


def log_warnings(filters: Iterable[Any]) -> None:
    """Let the filters of an order take the place of this process's own, and log each warning that they let pass."""
    found = [
        (action, _match(message), _categories(names), _match(module), line) for action, message, names, module, line in filters
    ]
    global _before
    if _before is None:
        _before = (list(warnings.filters), warnings.showwarning)
    warnings.resetwarnings()  # what was decided by the old ones is forgotten, too
    warnings.filters.extend(found)  # type: ignore[attr-defined]  # it is a list, though shown as any sequence
    warnings.showwarning = _log


def restore_warnings() -> None:
    """Undo `log_warnings`."""
    global _before
    if _before is not None:
        (filters, show), _before = _before, None
        if warnings.showwarning is _log:  # else somebody has put a function of theirs in its place, and knows why
            warnings.resetwarnings()
            warnings.filters[:] = filters  # type: ignore[index]  # as above
            warnings.showwarning = show


_before: tuple[list[Any], Any] | None = None


def _match(spelt: Any) -> Any:
    return spelt if spelt is None or isinstance(spelt, str) else re.compile(*spelt)


def _categories(names: Any) -> type | tuple[type, ...]:
    found = tuple(_category(module, name) for module, name in names)
    return found[0] if len(found) == 1 else found


def _category(module: str, name: str) -> type:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else _Named(name, (Warning,), {"__module__": module, "__qualname__": name})


class _Named(type):
    """Stands in a filter for a category that is not loaded: a class is one of its subclasses if it descends from that name."""

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
    """Log a warning as ``logging.captureWarnings`` does, but with the place that it warns of as that of the record.

    By that it groups: the same warning of many ranks is one, and different ones stay apart.
    """
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if file is not None:
        file.write(text)
        return
    logger = logging.getLogger(LOGGER)
    if logger.isEnabledFor(logging.WARNING):
        record = logger.makeRecord(LOGGER, logging.WARNING, filename, lineno, text.rstrip("\n"), (), None)
        logger.handle(record)
