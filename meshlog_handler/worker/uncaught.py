"""The exception that ends this process, as one line: for the report of its end."""

from __future__ import annotations

import sys
import traceback
from typing import Any, Final

_SIZE: Final = 256

_printed: BaseException | None = None
_shown_before: BaseException | None = None
"""The last exception shown as uncaught before this process joined, by an interactive prompt or in the parent."""


def begin() -> None:
    """Note what was shown as uncaught until now: it does not end this process."""
    global _shown_before
    _shown_before = getattr(sys, "last_value", None)


def note_in_child() -> None:
    """Let `line` find the exception that ends a child of `multiprocessing`."""
    # From Python 3.13 on, a child prints the exception before it runs its exit functions, and does not store it.
    print_exc = traceback.print_exc
    if hasattr(print_exc, "notes"):
        return

    def print_and_note(*args: Any, **options: Any) -> None:
        global _printed
        if sys._getframe(1).f_code.co_name == "_bootstrap":
            _printed = sys.exc_info()[1]
        print_exc(*args, **options)

    print_and_note.notes = True  # type: ignore[attr-defined]  # marks it for a second call
    traceback.print_exc = print_and_note


def line() -> str:
    """Return a line about the exception that ends this process, or "". Called by exit functions."""
    # Children of `multiprocessing` run exit functions while the exception is handled; other processes run them after it was
    # shown.
    error = sys.exc_info()[1] or _printed or getattr(sys, "last_value", None)
    if error is None or error is _shown_before or isinstance(error, (SystemExit, KeyboardInterrupt)):
        return ""
    return traceback.format_exception_only(type(error), error)[-1].strip()[:_SIZE]
