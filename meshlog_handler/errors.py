"""The errors of this package. A docstring names the cause: the caller, or something external.

This module imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client.receipt import FlushReceipt


class MeshlogError(Exception):
    """Base of all errors of this package."""


class SettingError(MeshlogError, ValueError):
    """Caller error: a setting, option or environment variable has an invalid value."""


class ClosedError(MeshlogError, RuntimeError):
    """Caller error: the object is stopped, or was not started."""


class ForwardingDisabledWarning(UserWarning):
    """The caller asked to stream from processes that have no forwarder."""


class ConnectError(MeshlogError, ConnectionError):
    """External error: no client accepts the connection at the address, or the client rejects the key."""


class ProtocolError(MeshlogError):
    """External error: bytes from a peer do not follow the wire format."""


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
