"""The messages between client and workers, besides records: small immutable classes with plain data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ..errors import ProtocolError, printable, quoted
from .codec import MAX_DEPTH, NotPlain, pack, unpack
from .immutable import Immutable, field

_KINDS: dict[str, type[Message]] = {}
_INNER = re.compile(r"\[.*]")
_TYPES: dict[str, type] = {each.__name__: each for each in (int, float, bool, str, bytes, tuple, dict)} | {"None": type(None)}
M = TypeVar("M", bound="Message")


class Message(Immutable):
    """Base of all messages. A field has plain data. `decode` checks its type, but not that of what it contains."""

    types: ClassVar[dict[str, tuple[type, ...]]] = {}  # of the fields, by their annotations

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _KINDS[cls.__name__] = cls
        own = {name: _INNER.sub("", kind).split(" | ") for name, kind in cls.__annotations__.items() if name in cls.names}
        cls.types = {**cls.types, **{name: tuple(_TYPES[kind] for kind in kinds) for name, kinds in own.items()}}

    def check(self) -> None:
        """Raise `ProtocolError` if a field has the right type, but an invalid value."""

    def encode(self) -> bytes:
        """Return the message as bytes."""
        return pack((type(self).__name__, self.fields()))


def decode(data: bytes, *expected: type[M]) -> M:
    """Return the message in `data`; raise `ProtocolError` unless it is one of `expected` and its fields are valid."""
    value = unpack(data)
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], dict):
        raise ProtocolError("malformed message: expected a name and its fields")
    kind = _KINDS.get(value[0]) if isinstance(value[0], str) else None
    if kind is None or not issubclass(kind, expected):
        raise ProtocolError(
            f"unexpected message {quoted(value[0])}; expected {' or '.join(each.__name__ for each in expected)}"
        )
    for name, types in kind.types.items():
        if name not in value[1] or not isinstance(value[1][name], types):
            raise ProtocolError(f"message {value[0]} without a valid {name}")
    if value[1].keys() - kind.types.keys():
        raise ProtocolError(f"message {value[0]} with unknown fields")
    made: Any = kind(**value[1])
    made.check()
    return made  # type: ignore[no-any-return]  # one of `expected`, checked above


_MAX_NUMBER = 1 << 62
MAX_STACKS = 256 * 1024
"""The size limit of the stacks of one process, in bytes."""
_MAX_COORDS = 16
_MAX_COORD = 256


def check_coords(coords: Mapping[str, object]) -> None:
    """Raise `ProtocolError` unless these are a few short positions or names by dimension."""
    if len(coords) > _MAX_COORDS or not all(
        isinstance(name, str) and isinstance(value, (int, str)) and len(str(value)) <= _MAX_COORD
        for name, value in coords.items()
    ):
        raise ProtocolError("invalid coordinates: expected a few numbers or short names by dimension")


def check_stacks(found: tuple[object, ...]) -> None:
    """Raise `ProtocolError` unless these are the encoded stacks of processes, none of which is too large."""
    if not all(isinstance(each, bytes) and len(each) <= MAX_STACKS for each in found):
        raise ProtocolError(f"malformed stacks: expected at most {MAX_STACKS} encoded bytes for each process")


_MAX_LAUNCHED = 4096
_MAX_NAME = 255
_MAX_PATH = 4096


def check_names(hostname: str, mesh: str) -> None:
    """Raise `ProtocolError` unless the name of a host and the token of a mesh are short."""
    if max(len(hostname), len(mesh)) > _MAX_NAME:
        raise ProtocolError(f"the name of a host or the token of a mesh is longer than {_MAX_NAME} characters")


def check_path(path: str) -> None:
    """Raise `ProtocolError` unless the path of a journal or a directory is short."""
    if len(path) > _MAX_PATH:
        raise ProtocolError(f"a path is longer than {_MAX_PATH} characters")


class Hello(Message):
    """A worker or relay asks to join. `rank` comes from its launcher, and `mesh` is the token of the mesh that started it.

    `coords` is its position by dimension. A `relay` forwards for other workers, and has no rank itself.
    `output_only`: it is about to execute another program, whose output the client captures. It neither reads nor sends.
    An `observer` has no logs and no rank: it asks the client, and follows what is shown.
    `launched`: the launcher's variables (see `settings.launched`) if `rank` comes from the environment; they may be inherited.
    `resumes`: the journal that it has from a client which is gone; it asks another client to go on with it: the next one of
    the `job` of that name, or else the replacement of a relay. Of a relay, its run directory, which it may have taken over.
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
    observer: bool = False
    job: str = ""
    resumes: str = ""

    def check(self) -> None:
        """Raise `ProtocolError` unless pid, ranks, launcher's variables, streams and coordinates are valid."""
        if not all(number is None or 0 <= number <= _MAX_NUMBER for number in (self.pid, self.rank, self.local_rank)):
            raise ProtocolError(f"malformed Hello: pid, rank or local_rank is not in 0 to {_MAX_NUMBER}")
        if len(self.launched) > _MAX_LAUNCHED:
            raise ProtocolError(f"malformed Hello: launched is longer than {_MAX_LAUNCHED} characters")
        if len(self.job) > _MAX_NAME or len(self.resumes) > _MAX_PATH:
            raise ProtocolError("malformed Hello: the name of its job or the path of its journal is too long")
        if not all(isinstance(name, str) for name in self.captured):
            raise ProtocolError("malformed Hello: the name of a captured stream is not a text")
        check_coords(self.coords)
        check_names(self.hostname, self.mesh)


class Welcome(Message):
    """The client's reply to `Hello`: the rank, the path for the journal, and the encoded default commands.

    `retains`: the client is a relay. The worker keeps what it has sent until a `Kept`, for the case that the relay is killed.
    `generation`: where a worker that resumes begins to send.
    """

    rank: int | None
    journal: str
    defaults: tuple[bytes, ...]
    retains: bool = False
    generation: int = 0

    def check(self) -> None:
        """Raise `ProtocolError` unless the default commands are encoded."""
        if not all(isinstance(command, bytes) for command in self.defaults):
            raise ProtocolError("malformed Welcome: a default command is not encoded")


class Command(Message):
    """Base of the client's commands. A worker acknowledges each with an `Answer` with the same `request`."""

    request: int


class Flush(Command):
    """Append sentinel `request` to the stream after all logged records. A forwarder sends no other acknowledgement."""


class LogWarnings(Command):
    """Log the warnings that these `filters` select; see `worker.warning_filters`."""

    filters: tuple[Any, ...]


class Prepare(Command):
    """Apply a `dictConfig` dictionary so that `Rollback` can undo it. If it is `final`, no `Commit` is needed.

    After `for_sec` seconds, if given, the loggers whose levels an incremental dictionary sets have their levels before.
    """

    config: dict[str, Any]
    for_sec: float | int | None = None
    final: bool = False


def level_config(level: int, logger: str = "") -> dict[str, Any]:
    """Return the incremental `dictConfig` dictionary that sets the level of a logger; "" is the root logger."""
    levels: dict[str, Any] = {"loggers": {logger: {"level": level}}} if logger else {"root": {"level": level}}
    return {"version": 1, "incremental": True, **levels}


class Commit(Command):
    """Keep the configuration of the `Prepare` with request `prepared`."""

    prepared: int


class Rollback(Command):
    """Undo the configuration of the `Prepare` with request `prepared`."""

    prepared: int


_MAX_REASON = 4000


def reason_of(error: str | None) -> str | None:
    """Return the reason that a worker gave as one line for an error message."""
    return error and printable(error, _MAX_REASON)


def check_seconds(timeout: float | None) -> None:
    """Raise `ProtocolError` unless this is a timeout or None."""
    if timeout is not None and not timeout >= 0:
        raise ProtocolError(f"invalid timeout: expected 0 or more, got {timeout}")


class TakeStacks(Command):
    """Reply with a `StacksAnswer`. A relay collects those of its workers within `timeout` seconds (None: no limit)."""

    timeout: float | int | None

    def check(self) -> None:
        """Raise `ProtocolError` unless the timeout is valid."""
        check_seconds(self.timeout)


class Answer(Message):
    """The acknowledgement of a command; `error` is None, or the reason why it failed."""

    request: int
    error: str | None


class StacksAnswer(Answer):
    """The acknowledgement of `TakeStacks`, with the encoded stacks of all threads."""

    stacks: bytes

    def check(self) -> None:
        """Raise `ProtocolError` if the stacks are too large."""
        check_stacks((self.stacks,))


class KeepWaiting(Message):
    """Keep waiting: the client is behind but making progress. No reply."""


class Kept(Message):
    """The client above the relay has everything before `generation` of the worker's journal. No reply."""

    generation: int


class Release(Message):
    """The client closes: the worker sends its remaining records, replies `Goodbye`, and continues without a client."""


class Relabel(Message):
    """The worker has new coordinates from now on, because an engine has turned it into an actor, for example."""

    coords: dict[str, int | str]

    def check(self) -> None:
        """Raise `ProtocolError` unless the coordinates are valid."""
        check_coords(self.coords)


class Complete(Message):
    """The worker asks the client to show everything that it has logged, and to reply with `Completed` within `timeout` seconds.

    `timeout` None: no limit.
    """

    number: int
    timeout: float | None

    def check(self) -> None:
        """Raise `ProtocolError` unless the numbers are possible."""
        if not 0 < self.number <= _MAX_NUMBER or not (self.timeout is None or 0 <= self.timeout <= _MAX_NUMBER):
            raise ProtocolError(f"malformed Complete: number or timeout is not in 0 to {_MAX_NUMBER}")


class Completed(Message):
    """The reply to `Complete` with the same `number`: whether everything is shown."""

    number: int
    shown: bool


class Ending(Message):
    """The worker's interpreter exits in order. `uncaught` is the uncaught exception that ended it, in one line, or ""."""

    uncaught: str


class ParentDeath(Message):
    """The kernel kills the worker with signal `number` when `thread` of process `parent` ends; this is not a crash."""

    number: int
    parent: int
    thread: int

    def check(self) -> None:
        """Raise `ProtocolError` unless the numbers are possible."""
        if not all(0 < number < 1 << 31 for number in (self.number, self.parent, self.thread)):
            raise ProtocolError("malformed ParentDeath: number, parent or thread is not in 1 to 2147483647")


class StackSignal(Message):
    """Signal `number` to the worker's native `thread` writes the stacks of all threads to its descriptor `fd`.

    `main` is the identifier of its main thread.
    """

    number: int
    fd: int
    thread: int
    main: int

    def check(self) -> None:
        """Raise `ProtocolError` unless this is a real-time signal and the numbers are possible."""
        if not 32 < self.number <= 64 or not all(0 <= number < 1 << 31 for number in (self.fd, self.thread)):
            raise ProtocolError("malformed StackSignal: not a real-time signal, or impossible numbers")


class Goodbye(Message):
    """The worker disconnects on purpose: this is not a failure."""


def _plain(value: object) -> object:
    """Return the plain value that a path, a member of an enumeration, or another subclass of text and numbers stands for."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def check_plain_config(config: object) -> dict[str, Any]:
    """Return a `dictConfig` dictionary as plain data; raise `TypeError` that names the first value that cannot be sent."""
    if not isinstance(config, dict):
        raise TypeError(f"a configuration must be a dictionary for logging.config.dictConfig, not {type(config).__name__}")

    def copied(value: object, path: str, depth: int = 2) -> object:  # the message around it is two deep
        if depth > MAX_DEPTH:
            raise TypeError(f"a configuration cannot be sent: it is nested deeper than {MAX_DEPTH}, or in itself: {path[:200]}")
        if isinstance(value, dict):
            return {
                key if type(key) in (str, int) else str.__str__(key) if isinstance(key, str) else str(key): copied(
                    item, f"{path}[{key!r}]", depth + 1
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, set, frozenset)):
            return [copied(item, path, depth + 1) for item in value]
        if isinstance(value, tuple):
            return tuple(copied(item, path, depth + 1) for item in value)
        value = _plain(value)
        try:
            pack(value)
        except NotPlain:
            raise TypeError(
                f"{path} is {quoted(value)}: a configuration for other processes holds plain data only. "
                f'Name objects by their path instead, as in {{"()": "package.factory"}} or "ext://package.object".'
            ) from None
        return value

    plain = copied(config, "config")
    assert isinstance(plain, dict)
    return plain
