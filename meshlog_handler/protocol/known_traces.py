"""Tracebacks that were formatted before: the next exception of this type from the same lines needs only its message.

`find` returns such a traceback only if `traceback` would write the same text, apart from the message: the frames are at the
same instructions, the source files are unchanged, and the exception has no notes, cause or context.
"""

from __future__ import annotations

import builtins
import itertools
import linecache
import os
import sys
from functools import lru_cache
from typing import Any, Final

from .exceptions import Failure, with_message

_MAX_FRAMES: Final = 40
_MAX_KNOWN: Final = 256
# `traceback` computes suggestions for these from the state of the program, or reads more attributes than the text.
_PARTICULAR: Final = (
    SyntaxError,
    NameError,
    AttributeError,
    ImportError,
    getattr(builtins, "BaseExceptionGroup", SyntaxError),
)
_MESSAGE: Final = 3
"""The index of the message in a failure."""

_FAILED: Final = "<exception str() failed>"
"""What `traceback` writes for an exception whose ``__str__`` raises."""

_numbers: Final = itertools.count(1)


class KnownTrace:
    """A traceback and an exception's type. `number` identifies it. `prefix` is the text up to the message."""

    __slots__ = ("_codes", "_sources", "failure", "number", "prefix")

    def __init__(self, codes: tuple[Any, ...], sources: dict[str, Any], failure: Failure, prefix: str) -> None:
        self._codes = codes  # keeps the code objects, so that no other one has the same identifier
        self._sources: Any = sources
        self.failure, self.prefix = failure, prefix
        self.number = next(_numbers)

    def is_current(self) -> bool:
        """Return whether the source files are unchanged."""
        cache: Any = linecache.cache
        for name, source in self._sources.items():
            if cache.get(name) is not source:
                return False
            size, changed, path = source[0], source[1], source[3]
            if changed is not None:  # as `linecache.checkcache`; None: it does not look for changes
                try:
                    status = os.stat(path)
                except OSError:
                    return False
                if (size, changed) != (status.st_size, status.st_mtime):
                    return False
        return True


_known: Final[dict[tuple[object, ...], KnownTrace]] = {}


def _key(exc_info: Any) -> tuple[object, ...] | None:
    """Return the type of the exception and the places of its frames; None if its text may depend on more."""
    if exc_info.__class__ is not tuple or len(exc_info) != 3 or hasattr(sys, "tracebacklimit"):
        return None
    _, error, trace = exc_info
    kind: Any = type(error)
    if (
        not _is_plain(kind)
        or error.__cause__ is not None
        or (error.__context__ is not None and not error.__suppress_context__)
        or getattr(error, "__notes__", None) is not None
    ):
        return None
    found: list[object] = [kind, kind.__module__, kind.__qualname__]  # a program may change the names
    while trace is not None:
        found += (id(trace.tb_frame.f_code), trace.tb_lasti, trace.tb_lineno)
        trace = trace.tb_next
    return tuple(found) if 3 < len(found) <= 3 + 3 * _MAX_FRAMES else None


@lru_cache(maxsize=256)
def _is_plain(kind: type) -> bool:
    """Return whether exceptions of a type have the attributes of all exceptions, read in the standard way."""
    return (
        issubclass(kind, BaseException)
        and not issubclass(kind, _PARTICULAR)
        and kind.__getattribute__ is BaseException.__getattribute__
        and not any(
            name in base.__dict__
            for base in kind.__mro__
            if base not in (BaseException, object)
            for name in ("__getattr__", "__cause__", "__context__", "__suppress_context__", "__notes__")
        )
    )


def find(exc_info: Any) -> KnownTrace | None:
    """Return the known traceback with the same text, or None. Any thread may call it."""
    key = _key(exc_info)
    known = None if key is None else _known.get(key)
    return known if known is not None and known.is_current() else None


def learn(exc_info: Any, text: str, failure: Failure) -> KnownTrace | None:
    """Note a traceback with its text and failure; return None if later ones cannot be derived from it."""
    key = _key(exc_info)
    message = failure[_MESSAGE] if failure else None
    if key is None or message in (None, _FAILED):
        return None
    prefix = text.removesuffix(f": {message}") if message else text
    skeleton = with_message(failure, "")
    known = find(exc_info)
    if known is not None and (known.prefix, known.failure) == (prefix, skeleton):
        return known
    codes, trace = [], exc_info[2]
    while trace is not None:
        codes.append(trace.tb_frame.f_code)
        trace = trace.tb_next
    sources = {code.co_filename: linecache.cache.get(code.co_filename) for code in codes}
    if any(source is None or len(source) != 4 for source in sources.values()):  # not read, or not from a file
        return None
    if (message and prefix == text) or not prefix.endswith(failure[2]):
        return None
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    known = KnownTrace(tuple(codes), sources, skeleton, prefix)
    _known[key] = known
    return known
