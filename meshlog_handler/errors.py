"""The errors of this package. A docstring names the cause: the caller, or something external.

This module imports nothing of the package.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .client.flushes.receipt import FlushReceipt


MAX_QUOTE: Final = 200
"""Characters of a value that `quoted` returns."""

_MAX_REASON: Final = 1000

# Control characters but the tab, surrogates, and what changes the direction of text, ends a line or is invisible.
_UNSAFE: Final = (
    "[\0-\x08\n-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, limit: int) -> str:
    """Return a text of another process as one line for a terminal or an error: unsafe characters are escaped, and it is cut."""
    shown = text[:limit]
    if not shown.isprintable():
        shown = re.sub(_UNSAFE, lambda found: found[0].encode("unicode_escape").decode(), shown)
    return shown if len(text) <= limit else f"{shown}... [{len(text) - limit:,} more characters]"


class _Quotes(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = MAX_QUOTE // 2

    def repr_bytes(self, value: bytes, level: int) -> str:
        """Return the `repr` of the beginning, so that nothing large is made."""
        return self.repr1(value[: MAX_QUOTE // 4], level) if len(value) > MAX_QUOTE // 4 else repr(value)


_quotes: Final = _Quotes()


def quoted(value: Any) -> str:
    """Return the `repr` of a caller's value, or of data of another process, abridged and without unsafe characters."""
    try:
        shown = _quotes.repr(value)
    except Exception:  # such as an integer of more digits than Python converts
        shown = f"<{type(value).__name__} without a repr>"
    return printable(shown, MAX_QUOTE)


class MeshlogError(Exception):
    """Base of all errors of this package."""


class SettingError(MeshlogError, ValueError):
    """Caller error: a setting, option or environment variable has an invalid value."""


class DirectoryError(SettingError, OSError):
    """Caller error: the directory that an argument or an environment variable names cannot be used. `cause` says why."""

    def __init__(self, text: str, cause: OSError) -> None:
        OSError.__init__(self, cause.errno, cause.strerror, cause.filename)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:  # a pool pickles the errors of its workers
        return type(self), (self._text, OSError(self.errno, self.strerror, self.filename)), vars(self)


class ClosedError(MeshlogError, RuntimeError):
    """Caller error: the object is stopped, or was not started."""


class ForwardingDisabledWarning(UserWarning):
    """The caller asked to stream from processes that have no forwarder."""


class ConnectError(MeshlogError, ConnectionError):
    """External error: no client accepts the connection at the address, or the client rejects the key."""


class ProtocolError(MeshlogError):
    """External error: bytes from a peer do not follow the wire format. The text may quote them: it is cut and escaped."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text, _MAX_REASON))


class FlushTimeout(MeshlogError, TimeoutError):
    """A flush timed out: some ranks did not acknowledge it.

    Attributes
    ----------
    receipt : FlushReceipt
        The result for the other ranks; ``receipt.missing`` has the ranks that did not acknowledge.
    """

    def __init__(self, message: str, receipt: FlushReceipt) -> None:
        super().__init__(message)
        self.receipt = receipt

    def __reduce__(self) -> tuple[Any, ...]:  # a pool pickles the errors of its workers
        return type(self), (str(self), self.receipt), vars(self)


class BusyError(MeshlogError, TimeoutError):
    """External error: the client's thread does not respond because a handler blocks. The message names the handler."""


class RankError(MeshlogError):
    """A call on the mesh failed on some ranks. Its cause (``__cause__``) has the remote traceback of the first failure.

    Attributes
    ----------
    reasons : Mapping[int, str]
        One line per failed rank with the reason.
    ranks : tuple of int
        The failed ranks, in order.
    """

    def __init__(self, message: str, reasons: Mapping[int, str]) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)
        self.ranks = tuple(sorted(self.reasons))

    def __reduce__(self) -> tuple[Any, ...]:  # a pool pickles the errors of its workers
        return type(self), (str(self), self.reasons), vars(self)


class RankDied(RankError):
    """A rank exited before or during a call. The message has the signal or exit code."""


class ConfigRefused(RankError):
    """Some ranks rejected a configuration. Every rank keeps its previous configuration."""


class RemoteTraceback(Exception):
    """The traceback, as text, of an exception raised in another process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
