"""Every error this package raises, named by whose fault it is. A leaf: imports nothing of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client.receipt import FlushReceipt


class MeshlogError(Exception):
    """Base of all errors of this package."""


class SettingError(MeshlogError, ValueError):
    """The caller's: a setting, option or environment variable has a value that cannot be used."""


class ClosedError(MeshlogError, RuntimeError):
    """The caller's: the object was stopped before this call."""


class ForwardingDisabledWarning(UserWarning):
    """The caller asked to stream from procs that have no forwarder."""


class ConnectError(MeshlogError, ConnectionError):
    """Outside: no client answers at the address, or it refuses the key."""


class ProtocolError(MeshlogError):
    """Outside: bytes from a peer do not follow the wire format."""


class FlushTimeout(MeshlogError, TimeoutError):
    """A flush ended by its timeout; some ranks did not answer.

    Attributes
    ----------
    receipt : FlushReceipt
        What was reached nevertheless; ``receipt.missing`` are the silent ranks.
    """

    def __init__(self, message: str, receipt: FlushReceipt) -> None:
        super().__init__(message)
        self.receipt = receipt


class BusyError(MeshlogError, TimeoutError):
    """Outside: the thread that shows the logs does not answer, for one of its handlers blocks; the message names it."""


class RankError(MeshlogError):
    """A call on the mesh failed on some ranks.

    Attributes
    ----------
    reasons : Mapping[int, str]
        For each failed rank, one line that says why. The first failure's remote traceback is the error's cause.
    """

    def __init__(self, message: str, reasons: Mapping[int, str]) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)
        self.ranks = tuple(sorted(self.reasons))


class RankDied(RankError):
    """A rank ended while, or before, it was called; the message names the signal or exit code."""


class ConfigRefused(RankError):
    """A configuration was refused by some ranks; every rank is as it was before."""


class RemoteTraceback(Exception):
    """Carries, as text, the traceback of an exception raised in another process."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
