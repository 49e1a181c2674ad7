"""What client and procs say to each other, besides records: small frozen classes of plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ..errors import ProtocolError
from .codec import MAX_DEPTH, NotPlain, pack, unpack
from .immutable import Immutable, field

_KINDS: dict[str, type[Message]] = {}
M = TypeVar("M", bound="Message")


class Message(Immutable):
    """Base of all messages. A field holds plain data; `decode` checks its type."""

    types: ClassVar[dict[str, tuple[type, ...]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.__name__] = cls

    def check(self) -> None:
        """Raise `ProtocolError` if a field has a value that none can have, though it is of the right type."""

    def encode(self) -> bytes:
        """Return the message as bytes."""
        return pack((type(self).__name__, self.fields()))


def decode(data: bytes, *expected: type[M]) -> M:
    """Return the message in `data`, which must be one of `expected`.

    Raises
    ------
    ProtocolError
        If it is none of them, or has other fields, or a field of another type.
    """
    value = unpack(data)
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], dict):
        raise ProtocolError("a message is a name and its fields")
    kind = _KINDS.get(value[0]) if isinstance(value[0], str) else None
    if kind is None or not issubclass(kind, expected):
        raise ProtocolError(f"message {value[0]!r} where {' or '.join(each.__name__ for each in expected)} can stand")
    for name, types in kind.types.items():
        if name not in value[1] or not isinstance(value[1][name], types):
            raise ProtocolError(f"message {value[0]} without a valid {name}")
    if value[1].keys() - kind.types.keys():
        raise ProtocolError(f"message {value[0]} with unknown fields")
    made: Any = kind(**value[1])
    made.check()
    return made  # type: ignore[no-any-return]  # one of `expected`, checked above


_MAX_NUMBER = 1 << 62
_MAX_COORDS = 16
_MAX_COORD = 256
_MAYBE_INT = (int, type(None))
_MAYBE_STR = (str, type(None))


def check_coords(coords: Mapping[str, object]) -> None:
    """Raise `ProtocolError` unless these are few positions, or names, by dimension."""
    if len(coords) > _MAX_COORDS or not all(
        isinstance(name, str) and isinstance(value, (int, str)) and len(str(value)) <= _MAX_COORD
        for name, value in coords.items()
    ):
        raise ProtocolError("coordinates are numbers or names by dimension")


_MAX_LAUNCHED = 4096


class Hello(Message):
    """A proc asks to join. `rank` is what it was called by its launcher; `mesh` the token of the mesh that made it.

    `coords` is its position, by dimension. A relay speaks for other procs, and has no rank of its own.
    `output_only`: it is about to become another program, which shall be captured. It will hear and say nothing.
    `launched`: where `rank` is from the environment, what stands there (see `settings.launched`); it may be inherited.
    """

    pid: int
    hostname: str
    rank: int | None
    local_rank: int | None
    mesh: str
    captured: tuple[str, ...]
    forwarding: bool
    started: float
    coords: dict[str, int | str] = field(default_factory=dict)
    relay: bool = False
    output_only: bool = False
    launched: str = ""
    types: ClassVar = {
        "pid": (int,),
        "hostname": (str,),
        "rank": _MAYBE_INT,
        "local_rank": _MAYBE_INT,
        "mesh": (str,),
        "captured": (tuple,),
        "forwarding": (bool,),
        "started": (float,),
        "coords": (dict,),
        "relay": (bool,),
        "output_only": (bool,),
        "launched": (str,),
    }

    def check(self) -> None:
        """Raise `ProtocolError` unless pid and ranks are numbers that a process can have, and streams have names."""
        if not all(number is None or 0 <= number <= _MAX_NUMBER for number in (self.pid, self.rank, self.local_rank)):
            raise ProtocolError(f"a newcomer with pid, rank or local rank out of 0 to {_MAX_NUMBER}")
        if len(self.launched) > _MAX_LAUNCHED:
            raise ProtocolError("a newcomer with too long an account of its launcher")
        if not all(isinstance(name, str) for name in self.captured):
            raise ProtocolError("a captured stream without a name")
        check_coords(self.coords)


class Welcome(Message):
    """The client's answer: the rank to be known by, where to keep the journal, and the standing orders, encoded."""

    rank: int | None
    journal: str
    defaults: tuple[bytes, ...]
    types: ClassVar = {"rank": _MAYBE_INT, "journal": (str,), "defaults": (tuple,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless the orders are encoded ones."""
        if not all(isinstance(command, bytes) for command in self.defaults):
            raise ProtocolError("a standing order that is not encoded")


class Command(Message):
    """Base of what a client asks of a proc. Each is answered by an `Answer` with the same `request`."""

    request: int
    types: ClassVar = {"request": (int,)}


class Flush(Command):
    """Put sentinel `request` into the stream behind all that was logged. A forwarder's answer is the sentinel itself."""


class SetLevel(Command):
    """Set the level of `logger` ("" is root); after `for_sec` seconds, if given, set it back."""

    level: int
    logger: str
    for_sec: float | None
    types: ClassVar = {"request": (int,), "level": (int,), "logger": (str,), "for_sec": (float, int, type(None))}


class LogWarnings(Command):
    """Log warnings that these `filters` let pass; see `proc_warnings`."""

    filters: tuple[Any, ...]
    types: ClassVar = {"request": (int,), "filters": (tuple,)}


class Prepare(Command):
    """Apply a `dictConfig` dictionary such that it can still be undone."""

    config: dict[str, Any]
    types: ClassVar = {"request": (int,), "config": (dict,)}


class Commit(Command):
    """Keep what was prepared under `prepared`."""

    prepared: int
    types: ClassVar = {"request": (int,), "prepared": (int,)}


class Rollback(Command):
    """Undo what was prepared under `prepared`."""

    prepared: int
    types: ClassVar = {"request": (int,), "prepared": (int,)}


class Answer(Message):
    """An order was carried out, or (`error`) why not."""

    request: int
    error: str | None
    types: ClassVar = {"request": (int,), "error": _MAYBE_STR}


class KeepWaiting(Message):
    """The client has more of this proc than it can show at the moment, but gets on. Not answered."""

    types: ClassVar = {}


class Release(Message):
    """The client ends in order: the proc ships what it has logged so far, answers `Goodbye`, and goes on by itself."""

    types: ClassVar = {}


class Relabel(Message):
    """The proc is known by other coordinates from here on: an engine has made something else of it, such as an actor."""

    coords: dict[str, int | str]
    types: ClassVar = {"coords": (dict,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless its coordinates are such."""
        check_coords(self.coords)


class Ending(Message):
    """The interpreter of the proc ends in order, because of an exception that nothing caught (in a line), or "" of none."""

    uncaught: str
    types: ClassVar = {"uncaught": (str,)}


class Leash(Message):
    """The kernel ends the proc by signal `number` when `thread` of process `parent` ends: that is no crash."""

    number: int
    parent: int
    thread: int
    types: ClassVar = {"number": (int,), "parent": (int,), "thread": (int,)}

    def check(self) -> None:
        """Raise `ProtocolError` unless these are numbers that a process can have."""
        if not all(0 < number < 1 << 31 for number in (self.number, self.parent, self.thread)):
            raise ProtocolError("a leash without a process, a thread or a signal")


class Goodbye(Message):
    """The proc leaves of its own will: its end is no failure."""

    types: ClassVar = {}


def check_plain_config(config: object) -> dict[str, Any]:
    """Return a `dictConfig` dictionary that can travel.

    Raises
    ------
    TypeError
        If it is no dictionary of plain data; the message names the first value that cannot travel.
    """
    if not isinstance(config, dict):
        raise TypeError(f"a configuration is a dictionary for logging.config.dictConfig, not {type(config).__name__}")

    def travel(value: object, path: str, depth: int = 2) -> object:  # the message around it is two deep
        if depth > MAX_DEPTH:
            raise TypeError(f"a configuration nested deeper than {MAX_DEPTH} or in itself cannot travel: {path[:200]}")
        if isinstance(value, dict):
            return {
                key if type(key) in (str, int) else str.__str__(key) if isinstance(key, str) else str(key): travel(
                    item, f"{path}[{key!r}]", depth + 1
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, set, frozenset)):
            return [travel(item, path, depth + 1) for item in value]
        if isinstance(value, tuple):
            return tuple(travel(item, path, depth + 1) for item in value)
        try:
            pack(value)
        except NotPlain:
            raise TypeError(
                f"{path} is {value!r}: a configuration for other processes holds plain data only. "
                f'Name objects by their path instead, as in {{"()": "package.factory"}} or "ext://package.object".'
            ) from None
        return value

    travelled = travel(config, "config")
    assert isinstance(travelled, dict)
    return travelled
