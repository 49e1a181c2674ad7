"""FlushReceipt: the result of a flush."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FlushReceipt:
    """The result of a flush.

    Attributes
    ----------
    version : int
        The number of the flush; it rises by one with each flush.
    acked : tuple[int, ...]
        Ranks for which every line logged before the flush is shown.
    missing : tuple[int, ...]
        Ranks that did not answer before the timeout.
    dead : tuple[int, ...]
        Ranks that ended; their records were recovered and are shown. Without a mesh of fixed ranks: since the last flush.
    dropped : int
        Records dropped so far by all ranks of the flush, for any reason (see ``stats()``).
    elapsed : float
        Seconds.
    busy : str
        If ranks are missing because of the client itself: what its thread was doing, such as a handler that blocks, and for
        how long. `version` is then 0 if the flush had not begun.
    hosts : tuple[str, ...]
        Other hosts with missing ranks.
    """

    version: int
    acked: tuple[int, ...]
    missing: tuple[int, ...]
    dead: tuple[int, ...]
    dropped: int
    elapsed: float
    busy: str = ""
    hosts: tuple[str, ...] = ()
