"""Format tracebacks like `traceback`, but format equal stacks only once."""

from __future__ import annotations

import linecache
import sys
from traceback import FrameSummary, StackSummary, TracebackException, format_exception_only
from typing import Any, Final

if sys.version_info >= (3, 15):
    # From Python 3.15 on, `traceback` imports a module when it first formats. A child that is forked while another thread does
    # so could never import it.
    format_exception_only(None)

_MAX_KNOWN: Final = 256
_MAX_FRAMES: Final = 40

_Key = tuple[tuple[object, ...], ...]

_known: dict[_Key, tuple[list[object], list[str]]] = {}
"""The entries of `linecache` and the lines for each stack. The entry of a source file changes with the file."""


def format_exception(trace: TracebackException) -> str:
    """Return the text of an exception with its causes, contexts and members, without the final newline."""
    for each in _chain(trace):
        each.stack = _Stack(each.stack)
    return "".join(trace.format()).removesuffix("\n")


def _chain(trace: TracebackException) -> list[TracebackException]:
    found = [trace]
    for each in found:
        members = getattr(each, "exceptions", None) or ()
        found += [other for other in (each.__cause__, each.__context__, *members) if other is not None]
    return found


class _Stack(StackSummary):
    """A stack that reuses the lines of equal stacks."""

    def format(self, **options: Any) -> list[str]:
        """Return the lines. Any thread may call it."""
        if any(options.values()) or len(self) > _MAX_FRAMES:  # with colours, or too large to keep
            return super().format(**options)
        key = tuple(map(_key, self))
        lines = _known.get(key)
        if lines is None or any(map(_differ, lines[0], self)):
            made = super().format(**options)
            sources: list[object] = [linecache.cache.get(frame.filename) for frame in self]
            if None in sources:  # not a file, or not read yet
                return made
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            lines = _known[key] = (sources, made)
        return lines[1]


def _differ(source: object, frame: FrameSummary) -> bool:
    return linecache.cache.get(frame.filename) is not source


def _key(frame: FrameSummary) -> tuple[object, ...]:
    places = (getattr(frame, "end_lineno", None), getattr(frame, "colno", None), getattr(frame, "end_colno", None))
    return (frame.filename, frame.lineno, frame.name, *places)
