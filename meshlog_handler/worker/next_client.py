"""How a process continues its stream with another client when its client is gone.

::

    the client of a job  -> its next client, which may be in this process: see `job_member`
    a relay              -> its replacement, at the same address
    another client       -> none

`Membership` keeps its journal, its levels and its captured output. The next client says from where on it needs the stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ..errors import ConnectError
from ..system.waits import monotonic

PATIENCE_SEC: Final = 30.0
"""Seconds for which a process waits for the next client."""

_LOOK_SEC: Final = 0.005
_LONGEST_LOOK_SEC: Final = 0.1


def patiently(attempt: Callable[[], bool], goes_on: Callable[[], bool], seconds: float = PATIENCE_SEC) -> bool:
    """Call `attempt` until it returns True, or `goes_on` returns False; return False if neither does within `seconds`."""
    deadline, pause = monotonic() + seconds, _LOOK_SEC
    while goes_on():
        try:
            if attempt():
                return True
        except ConnectError as failure:  # the client has just ended, or the next one does not listen yet
            if isinstance(failure.__cause__, RuntimeError):  # no thread can be started
                raise
        if monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_LOOK_SEC)
    return True
