"""Calls within calls: what logs a record while this thread shows another one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Set
from types import CodeType
from typing import Any, Final

_BESIDE: Final = frozenset(("__str__", "__repr__", "__format__", "getMessage", "format", "filter", "doRollover", "__del__"))
"""The functions that format or filter a record or change files, and finalizers: what they log does not cause itself."""

_FOR_FINALIZERS: Final = frozenset(("call_exception_handler", "_showwarning"))
"""The functions by which finalizers written in C log: those of asyncio's futures and of files that were not closed."""


def interrupts_showing(showing: Set[CodeType]) -> bool:
    """Return whether code that formats a record, changes files or handles a signal logs, and not the handler itself.

    `showing` is the code of the functions that call handlers. One of them called the current function, and one is active once
    more.
    """
    frame = sys._getframe(2)
    names, codes = set(), set()
    while frame is not None and frame.f_code not in showing:
        names.add(frame.f_code.co_name)
        codes.add(frame.f_code)
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return not (_BESIDE | _FOR_FINALIZERS).isdisjoint(names) or not _signal_handlers().isdisjoint(codes)


def _signal_handlers() -> set[CodeType]:
    """Return the code of the functions that handle signals in this process."""
    found: set[CodeType] = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        code = getattr(handler, "__code__", None)
        if isinstance(code, CodeType):
            found.add(code)
    return found
