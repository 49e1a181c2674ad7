"""The messages between a client and its observers, which ask it and follow what it shows.

::

    observer -> client   Ask... (each has one Reply), Follow
    client -> observer   Reply, Missed, and DATA frames: segments of relayed records (see `relayed_records`)
"""

from __future__ import annotations

from ..errors import ProtocolError
from .messages import Message
from .ranks import check_ranks

_MAX_RANKS = 1 << 16
_MAX_NAME = 1024
_MAX_LEVEL = 255
_MAX_SEC = 3600
MAX_BACKLOG = 10_000
"""Records that an observer may ask for of those that were shown before."""


def _check_level(level: int) -> None:
    if not 0 <= level <= _MAX_LEVEL:
        raise ProtocolError(f"invalid level: expected 0 to {_MAX_LEVEL}")


def _check_seconds(seconds: float) -> None:
    if not 0 <= seconds <= _MAX_SEC:
        raise ProtocolError(f"invalid time: expected 0 to {_MAX_SEC} seconds")


# -- from the observer -------------------------------------------------------------------------------------------------


class Ask(Message):
    """Base of all questions. The client answers each with a `Reply` with the same `request`."""

    request: int


class AskAbout(Ask):
    """Ask what the client is: its process, its ranks, its counts."""


class AskStats(Ask):
    """Ask for the counters of all ranks."""


class AskInsight(Ask):
    """Ask for the observations of all ranks."""


class AskStacks(Ask):
    """Ask for the stacks of `ranks` (None: all) within `timeout` seconds."""

    ranks: tuple[int, ...] | None
    timeout: float | int

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks and the timeout are valid."""
        check_ranks(self.ranks, _MAX_RANKS)
        _check_seconds(self.timeout)


class AskFlush(Ask):
    """Flush all ranks within `timeout` seconds."""

    timeout: float | int

    def check(self) -> None:
        """Raise `ProtocolError` unless the timeout is valid."""
        _check_seconds(self.timeout)


class AskLevel(Ask):
    """Set the level of `logger` ("" is root) in `ranks` (None: all, also later ones), for `for_sec` seconds if given."""

    level: int
    logger: str
    ranks: tuple[int, ...] | None
    for_sec: float | int | None

    def check(self) -> None:
        """Raise `ProtocolError` unless the values are valid."""
        _check_level(self.level)
        check_ranks(self.ranks, _MAX_RANKS)
        if self.for_sec is not None and not 0 < self.for_sec < float("inf"):
            raise ProtocolError("invalid time: expected a positive number of seconds")
        if len(self.logger) > _MAX_NAME:
            raise ProtocolError(f"the name of a logger is longer than {_MAX_NAME} characters")


class Follow(Message):
    """Send what is shown from now on, of `level` and above and of `ranks` (None: all), after the last `backlog` records."""

    level: int
    ranks: tuple[int, ...] | None
    backlog: int

    def check(self) -> None:
        """Raise `ProtocolError` unless the values are valid."""
        _check_level(self.level)
        check_ranks(self.ranks, _MAX_RANKS)
        if not 0 <= self.backlog <= MAX_BACKLOG:
            raise ProtocolError(f"invalid backlog: expected 0 to {MAX_BACKLOG}")


FROM_OBSERVER = (AskAbout, AskStats, AskInsight, AskStacks, AskFlush, AskLevel, Follow)
"""What a client accepts from an observer."""

# -- from the client ---------------------------------------------------------------------------------------------------


class Reply(Message):
    """The reply to a question: the encoded `value`; `fault` is "", or the name of the error whose text is `error`."""

    request: int
    value: bytes
    fault: str
    error: str


class Missed(Message):
    """`count` records were not sent, `errors` of them of level ERROR or above: the observer does not read fast enough.

    To an observer that follows some levels or ranks only, these are the greatest numbers possible.
    """

    count: int
    errors: int
