"""How a process goes on with its stream when its client is gone.

::

    the client of a job  -> its next client, which may be in this process: see `job_member`
    a relay              -> its replacement, at the same address
    another client       -> none

`Membership` keeps its journal, its levels and its captured output. The next client says from where on it needs the stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import ConnectError
from ..system.waits import monotonic

if TYPE_CHECKING:
    from .member import JoinOptions, Membership

PATIENCE_SEC: Final = 30.0
"""Seconds for which a process waits for the next client."""

_LOOK_SEC: Final = 0.005
_LONGEST_LOOK_SEC: Final = 0.1


class Job(Protocol):
    """The part of `job_member.JobMember` that `member` and `this_process` use."""

    @property
    def begins_again(self) -> bool:
        """Whether this process may show the job once more, by a new client."""

    @property
    def exits(self) -> bool:
        """Whether this process exits, and leaves the rest to the next client."""

    def find_next(self, member: Membership) -> None:
        """Let `member` go on with the next client, if there is one in time."""

    def rejoin(self, options: JoinOptions) -> Membership | None:
        """In a forked child whose parent's client is gone: take part again."""


job: Job | None = None
"""This process's part in a job."""


def patiently(attempt: Callable[[], bool], goes_on: Callable[[], bool], seconds: float = PATIENCE_SEC) -> bool:
    """Call `attempt` until it returns True, for so many seconds while `goes_on`; return whether it did, or need not go on."""
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
