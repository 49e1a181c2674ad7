"""FlushReceipt: what a flush reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FlushReceipt:
    """What a flush reached.

    Attributes
    ----------
    version : int
        The number of the flush; rises by one with each.
    acked : tuple[int, ...]
        Ranks whose every line logged before the flush has been shown.
    missing : tuple[int, ...]
        Ranks that were silent until the timeout.
    dead : tuple[int, ...]
        Ranks that ended; what they had logged was recovered and has been shown.
    dropped : int
        Records dropped so far, by all ranks of the flush, for whatever reason (see ``stats()``).
    elapsed : float
        Seconds.
    busy : str
        Where ranks are missing for the client's own sake: what its thread was doing meanwhile, such as a handler that
        blocks, and for how long. Then `version` is 0 if the flush had not begun.
    """

    version: int
    acked: tuple[int, ...]
    missing: tuple[int, ...]
    dead: tuple[int, ...]
    dropped: int
    elapsed: float
    busy: str = ""
