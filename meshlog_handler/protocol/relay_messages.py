"""What a client and its relays say to each other: a relay is a client itself, and speaks for the procs below it."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import ProtocolError
from .messages import Command, Message, check_coords

_MAX_BELOW = 1 << 20
_MAYBE_INT = (int, type(None))
_MAYBE_RANKS = (tuple, type(None))


def _check_ranks(ranks: tuple[object, ...] | None) -> None:
    if ranks is not None and (len(ranks) > _MAX_BELOW or not all(isinstance(rank, int) for rank in ranks)):
        raise ProtocolError("ranks are whole numbers, and not too many")


def _check_hidden(hidden: int) -> None:
    if hidden < 0:
        raise ProtocolError(f"{hidden} records cannot be hidden")


# -- from the client ---------------------------------------------------------------------------------------------------


class FlushDownstream(Command):
    """Flush those of `ranks` (None: all) that are below, within `timeout` seconds (None: no limit); then as `Flush`."""

    timeout: float | None
    ranks: tuple[int, ...] | None
    types: ClassVar = {"request": (int,), "timeout": (float, int, type(None)), "ranks": _MAYBE_RANKS}

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are numbers."""
        _check_ranks(self.ranks)


class CommandDownstream(Command):
    """Pass on an order, encoded, to `ranks`; the answer is an `DownstreamReplies`."""

    command: bytes
    ranks: tuple[int, ...]
    types: ClassVar = {"request": (int,), "command": (bytes,), "ranks": (tuple,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are numbers."""
        _check_ranks(self.ranks)


class DefaultDownstream(Command):
    """Let an order, encoded, hold for procs of `mesh` that join later. Not answered."""

    mesh: str
    command: bytes
    types: ClassVar = {"request": (int,), "mesh": (str,), "command": (bytes,)}


class WindowDownstream(Command):
    """Group within `window` seconds at most (None: not at all) before passing on. Not answered."""

    window: float | None
    types: ClassVar = {"request": (int,), "window": (float, int, type(None))}


class StreamDownstream(Command):
    """Pass on, or do not, what `ranks` (None: all) say, and those that join `mesh` later (None: no mesh). Not answered."""

    streaming: bool
    ranks: tuple[int, ...] | None
    mesh: str | None = None
    types: ClassVar = {"request": (int,), "streaming": (bool,), "ranks": _MAYBE_RANKS, "mesh": (str, type(None))}

    def check(self) -> None:
        """Raise `ProtocolError` unless the ranks are numbers."""
        _check_ranks(self.ranks)


class RankGranted(Command):
    """The rank for the newcomer that was asked for under `request`."""

    rank: int
    types: ClassVar = {"request": (int,), "rank": (int,)}


# -- from the relay ----------------------------------------------------------------------------------------------------


class RankRequest(Message):
    """A newcomer without a rank asks to join the relay: which one is it?"""

    request: int
    types: ClassVar = {"request": (int,)}


class DownstreamJoined(Message):
    """A proc has joined below."""

    rank: int
    mesh: str
    pid: int
    hostname: str
    coords: dict[str, int | str]
    types: ClassVar = {"rank": (int,), "mesh": (str,), "pid": (int,), "hostname": (str,), "coords": (dict,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless its coordinates are such."""
        check_coords(self.coords)


class DownstreamEnded(Message):
    """A proc below has ended, or left; everything of it has been passed on.

    `counters` are its last ones. `hidden`: how many records the relay has hidden so far, of all its procs.
    """

    rank: int
    counters: dict[str, Any]
    hidden: int
    types: ClassVar = {"rank": (int,), "counters": (dict,), "hidden": (int,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless the count is one."""
        _check_hidden(self.hidden)


class DownstreamReplies(Message):
    """The answers to an order that was passed on: ``(rank, error or None)`` for each."""

    request: int
    answers: tuple[tuple[int, str | None], ...]
    types: ClassVar = {"request": (int,), "answers": (tuple,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless these are answers."""
        if not all(
            isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], int) and isinstance(each[1], (str, type(None)))
            for each in self.answers
        ):
            raise ProtocolError("an answer is a rank and a reason, or None")


class DownstreamReached(Message):
    """What a flush reached below. Sent before the sentinel that answers it.

    `counters`: by rank, as of now. `hidden`: as of `DownstreamEnded`.
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
        """Raise `ProtocolError` unless the ranks are numbers."""
        for ranks in (self.acked, self.missing, self.dead):
            _check_ranks(ranks)
        if not all(isinstance(rank, int) and isinstance(each, dict) for rank, each in self.counters.items()):
            raise ProtocolError("counters are by rank and name")
        _check_hidden(self.hidden)


FROM_RELAY: tuple[type[Message], ...] = (RankRequest, DownstreamJoined, DownstreamEnded, DownstreamReplies, DownstreamReached)
