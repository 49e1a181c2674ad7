"""The messages between a client and its relays. A relay is a client itself, and forwards for the workers downstream."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import ProtocolError
from .messages import Command, Message, check_coords, check_names, check_stacks

_MAX_RANKS = 1 << 20
_MAYBE_INT = (int, type(None))
_MAYBE_RANKS = (tuple, type(None))


def _check_ranks(ranks: tuple[object, ...] | None) -> None:
    if ranks is not None and (len(ranks) > _MAX_RANKS or not all(isinstance(rank, int) for rank in ranks)):
        raise ProtocolError(f"invalid ranks: expected at most {_MAX_RANKS} whole numbers")


def _check_hidden(hidden: int) -> None:
    if hidden < 0:
        raise ProtocolError(f"invalid count of hidden records: {hidden}")


# -- from the client ---------------------------------------------------------------------------------------------------


class FlushDownstream(Command):
    """Flush `ranks` (None: all) downstream within `timeout` seconds (None: no limit), then append the sentinel like `Flush`."""

    timeout: float | None
    ranks: tuple[int, ...] | None
    types: ClassVar = {"request": (int,), "timeout": (float, int, type(None)), "ranks": _MAYBE_RANKS}

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        _check_ranks(self.ranks)


class CommandDownstream(Command):
    """Send an encoded command to `ranks`. The relay replies with `DownstreamReplies`."""

    command: bytes
    ranks: tuple[int, ...]
    types: ClassVar = {"request": (int,), "command": (bytes,), "ranks": (tuple,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        _check_ranks(self.ranks)


class DefaultDownstream(Command):
    """Make an encoded command the default for workers of `mesh` that join later. No reply."""

    mesh: str
    command: bytes
    types: ClassVar = {"request": (int,), "mesh": (str,), "command": (bytes,)}


class WindowDownstream(Command):
    """Group similar lines for at most `window` seconds (None: do not group) before forwarding them. No reply."""

    window: float | None
    types: ClassVar = {"request": (int,), "window": (float, int, type(None))}


class StreamDownstream(Command):
    """Forward `ranks` (None: all) and workers that join `mesh` later (None: no mesh), or stop to forward them. No reply."""

    streaming: bool
    ranks: tuple[int, ...] | None
    mesh: str | None = None
    types: ClassVar = {"request": (int,), "streaming": (bool,), "ranks": _MAYBE_RANKS, "mesh": (str, type(None))}

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        _check_ranks(self.ranks)


class InsightDownstream(Command):
    """Ask what the relay knows about its ranks. It replies with `DownstreamInsight`."""

    types: ClassVar = {"request": (int,)}


class RankGranted(Command):
    """The reply to the `RankRequest` with the same `request`: the new worker's rank."""

    rank: int
    types: ClassVar = {"request": (int,), "rank": (int,)}


# -- from the relay ----------------------------------------------------------------------------------------------------


class RankRequest(Message):
    """Request a rank for a new worker that has none and asks to join the relay."""

    request: int
    types: ClassVar = {"request": (int,)}


class DownstreamJoined(Message):
    """A worker has joined downstream."""

    rank: int
    mesh: str
    pid: int
    hostname: str
    coords: dict[str, int | str]
    types: ClassVar = {"rank": (int,), "mesh": (str,), "pid": (int,), "hostname": (str,), "coords": (dict,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless the names and coordinates are valid."""
        check_names(self.hostname, self.mesh)
        check_coords(self.coords)


class DownstreamEnded(Message):
    """A worker downstream has ended or disconnected; all of its records have been forwarded.

    `counters` are its final counters. `hidden` is the number of records of all workers that the relay has hidden so far.
    """

    rank: int
    counters: dict[str, Any]
    hidden: int
    types: ClassVar = {"rank": (int,), "counters": (dict,), "hidden": (int,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless the count is valid."""
        _check_hidden(self.hidden)


class DownstreamReplies(Message):
    """The replies to a forwarded command: ``(rank, error or None)`` for each rank."""

    request: int
    answers: tuple[tuple[int, str | None], ...]
    types: ClassVar = {"request": (int,), "answers": (tuple,)}

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
    types: ClassVar = {"request": (int,), "answers": (tuple,), "found": (tuple,)}

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
    types: ClassVar = {
        "request": (int,),
        "acked": (tuple,),
        "missing": (tuple,),
        "dead": (tuple,),
        "dropped": (int,),
        "counters": (dict,),
        "hidden": (int,),
    }

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are valid."""
        for ranks in (self.acked, self.missing, self.dead):
            _check_ranks(ranks)
        if not all(isinstance(rank, int) and isinstance(each, dict) for rank, each in self.counters.items()):
            raise ProtocolError("malformed counters: expected a dict of counters by rank")
        _check_hidden(self.hidden)


class DownstreamInsight(Message):
    """The reply to an `InsightDownstream`: encoded observations of ranks, see `insight.observation`."""

    request: int
    observations: bytes
    types: ClassVar = {"request": (int,), "observations": (bytes,)}


FROM_RELAY: tuple[type[Message], ...] = (
    RankRequest,
    DownstreamJoined,
    DownstreamEnded,
    DownstreamReplies,
    DownstreamStacks,
    DownstreamReached,
    DownstreamInsight,
)
