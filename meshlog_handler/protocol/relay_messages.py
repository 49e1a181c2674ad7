"""The messages between a client and its relays. A relay is a client itself, and forwards for the workers downstream."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import ProtocolError, quoted
from .immutable import field
from .messages import Command, Message, check_coords, check_names, check_path, check_seconds, check_stacks
from .ranks import check_ranks

_MAX_RANKS = 1 << 20
_MAX_DROPS = 128
_MAX_REASON = 32
_MAX_NUMBER = 1 << 62
_ENTRY_SIZE = 256
_MAX_AHEAD = 1e10


def _check_hidden(hidden: int) -> None:
    if hidden < 0:
        raise ProtocolError(f"invalid count of hidden records: {hidden}")


def _is_count(drop: object) -> bool:
    """Return whether this is a reason, a level and a count."""
    return isinstance(drop, tuple) and tuple(map(type, drop)) == (str, int, int) and len(drop[0]) <= _MAX_REASON


# -- from the client ---------------------------------------------------------------------------------------------------


class FlushDownstream(Command):
    """Flush `ranks` (None: all) downstream within `timeout` seconds (None: no limit), then append the sentinel like `Flush`."""

    timeout: float | int | None
    ranks: tuple[int, ...] | None

    def check(self) -> None:
        """Raise `ProtocolError` unless the timeout and the ranks are valid."""
        check_seconds(self.timeout)
        check_ranks(self.ranks, _MAX_RANKS)


class CommandDownstream(Command):
    """Send an encoded command to `ranks`. The relay replies with `DownstreamReplies`."""

    command: bytes
    ranks: tuple[int, ...]

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        check_ranks(self.ranks, _MAX_RANKS)


class DefaultDownstream(Command):
    """Make an encoded command the default for workers of `mesh` that join later. No reply."""

    mesh: str
    command: bytes


class WindowDownstream(Command):
    """Group similar lines for at most `window` seconds (None: do not group) before forwarding them. No reply."""

    window: float | int | None


class StreamDownstream(Command):
    """Forward `ranks` (None: all) and workers that join `mesh` later (None: no mesh), or stop to forward them. No reply."""

    streaming: bool
    ranks: tuple[int, ...] | None
    mesh: str | None = None

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        check_ranks(self.ranks, _MAX_RANKS)


class InsightDownstream(Command):
    """Ask what the relay knows about its ranks, with their processor time if `work`. It replies with `DownstreamInsight`."""

    work: bool = False


class RankGranted(Command):
    """The reply to the `RankRequest` with the same `request`: the worker's rank.

    `known`: what the client has of the journal in the request, as fields of `Passed`; None if it knows nothing of it. `mesh`,
    `pid`, `hostname` and `coords` are then those of its worker, and `ended` is whether the end of the worker was reported.
    """

    rank: int
    known: tuple[Any, ...] | None = None
    mesh: str = ""
    pid: int = 0
    hostname: str = ""
    coords: dict[str, int | str] = field(default_factory=dict)
    ended: bool = False

    def check(self) -> None:
        """Raise `ProtocolError` unless the names, coordinates and counters are valid."""
        check_names(self.hostname, self.mesh)
        check_coords(self.coords)
        if self.known is not None:
            Passed.of(self.known)


class PassedReceived(Command):
    """The client has everything up to the `DownstreamPassed` with this `request`. `now` is the time on its clock."""

    now: float


# -- from the relay ----------------------------------------------------------------------------------------------------


class RankRequest(Message):
    """Request a rank for a new worker that has none and asks to join the relay; or, with a `journal`, what is known of it."""

    request: int
    journal: str = ""

    def check(self) -> None:
        """Raise `ProtocolError` unless the path is valid."""
        check_path(self.journal)


class DownstreamJoined(Message):
    """A worker has joined downstream."""

    rank: int
    mesh: str
    pid: int
    hostname: str
    coords: dict[str, int | str]
    journal: str = ""

    def check(self) -> None:
        """Raise `ProtocolError` unless the names, coordinates and path are valid."""
        check_names(self.hostname, self.mesh)
        check_coords(self.coords)
        check_path(self.journal)


class DownstreamEnded(Message):
    """A worker downstream has ended or disconnected; all of its records have been forwarded.

    `counters` are its final counters. `hidden` is the number of records of all workers that the relay has hidden so far.
    """

    rank: int
    counters: dict[str, Any]
    hidden: int

    def check(self) -> None:
        """Raise `ProtocolError` unless the count is valid."""
        _check_hidden(self.hidden)


class Passed(NamedTuple):
    """What was passed on of one worker's stream: the entries before ``(generation, position)`` of its journal.

    `side` is the last side file among them. `received` counts their records, and `drops` has the counts of the dropped ones
    as ``(reason, level, count)``.
    """

    journal: str
    rank: int
    generation: int
    position: int
    side: int
    received: int
    drops: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, value: object) -> Passed:
        """Return it from plain data; raise `ProtocolError` if it is malformed."""
        kinds = (str, int, int, int, int, int, tuple)
        if not isinstance(value, tuple) or len(value) != len(kinds) or not all(map(isinstance, value, kinds)):
            raise ProtocolError("malformed position in a worker's stream")
        passed = cls(*value)
        check_path(passed.journal)
        if len(passed.drops) > _MAX_DROPS or not all(map(_is_count, passed.drops)):
            raise ProtocolError("malformed position in a worker's stream: the counts of dropped records are not valid")
        counts = [count for _, _, count in passed.drops]
        if min(*passed[1:6], *counts) < 0 or max(*passed[1:6], *counts) >= _MAX_NUMBER:
            raise ProtocolError("malformed position in a worker's stream: a number is out of range")
        return passed


class DownstreamPassed(Message):
    """A boundary: up to ``(generation, position)`` of its stream, a relay has passed on whole parts of its workers' streams.

    `passed` says which, as fields of `Passed`. The client shows nothing beyond the last boundary: if the relay is killed, its
    workers send that again. `removed` are journals that do not exist any more. `ahead` is how many seconds the clock of the
    relay's host is ahead of the client's.
    """

    request: int
    generation: int
    position: int
    passed: tuple[tuple[Any, ...], ...]
    removed: tuple[str, ...]
    ahead: float = 0.0

    def check(self) -> None:
        """Raise `ProtocolError` unless the positions are valid."""
        for each in self.passed:
            Passed.of(each)
        if not all(isinstance(each, str) for each in self.removed):
            raise ProtocolError("malformed names of journals")
        if not abs(self.ahead) < _MAX_AHEAD:
            raise ProtocolError(f"a clock cannot be {quoted(self.ahead)} seconds ahead")

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        fields = sum(_ENTRY_SIZE * (1 + len(each[6])) + len(each[0]) for each in self.passed)
        return _ENTRY_SIZE + fields + sum(_ENTRY_SIZE + len(each) for each in self.removed)


class DownstreamReplies(Message):
    """The replies to a forwarded command: ``(rank, error or None)`` for each rank."""

    request: int
    answers: tuple[tuple[int, str | None], ...]

    def check(self) -> None:
        """Raise `ProtocolError` unless the replies are valid."""
        if not all(
            isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], int) and isinstance(each[1], (str, type(None)))
            for each in self.answers
        ):
            raise ProtocolError("malformed reply: expected a rank, and an error or None")


class DownstreamStacks(Message):
    """The stacks of workers, in reply to a forwarded `TakeStacks`: ``(rank, index)``, where `index` is a place in `found`.

    Equal stacks are there once. An `index` that is too large means that there was no room.
    """

    request: int
    answers: tuple[tuple[int, int], ...]
    found: tuple[bytes, ...]

    def check(self) -> None:
        """Raise `ProtocolError` unless the answers and stacks are valid."""
        check_stacks(self.found)
        if not all(
            isinstance(each, tuple)
            and len(each) == 2
            and isinstance(each[0], int)
            and isinstance(each[1], int)
            and each[1] >= 0
            for each in self.answers
        ):
            raise ProtocolError("malformed stacks: expected a rank and an index")


class DownstreamReached(Message):
    """The result of a flush downstream. The relay sends it before the sentinel.

    `counters` are the present ones by rank. `hidden`: see `DownstreamEnded`.
    """

    request: int
    acked: tuple[int, ...]
    missing: tuple[int, ...]
    dead: tuple[int, ...]
    dropped: int
    counters: dict[int, dict[str, Any]]
    hidden: int

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        for ranks in (self.acked, self.missing, self.dead):
            check_ranks(ranks, _MAX_RANKS)
        if not all(isinstance(rank, int) and isinstance(each, dict) for rank, each in self.counters.items()):
            raise ProtocolError("malformed counters: expected a dict of counters by rank")
        _check_hidden(self.hidden)


class DownstreamInsight(Message):
    """The reply to an `InsightDownstream`: encoded observations of ranks, see `insight.observation`."""

    request: int
    observations: bytes


FROM_RELAY: tuple[type[Message], ...] = (
    RankRequest,
    DownstreamJoined,
    DownstreamEnded,
    DownstreamPassed,
    DownstreamReplies,
    DownstreamStacks,
    DownstreamReached,
    DownstreamInsight,
)
