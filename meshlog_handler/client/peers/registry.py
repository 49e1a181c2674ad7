"""The registry: assigns ranks and journals, and keeps the defaults for workers that join later."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ... import settings
from ...errors import ClosedError, ProtocolError, quoted
from ...protocol.immutable import Immutable
from ...protocol.messages import Command, Hello, LogWarnings, Prepare, Welcome
from ...protocol.relay_messages import RankGranted
from ...system.descriptors import Held
from ...system.lock_files import is_held, make_held
from ...transport.listener import NewConnection
from ...transport.run_directory import lives
from ...worker.warning_filters import warnings_command

KEPT_JOURNALS: Final = 4
"""Journals kept in a `log_dir` for each rank of a launcher: those of its latest processes and of their forked children."""

KEPT_GUESTS: Final = 64
"""Journals kept there for all workers with ranks assigned here, such as pool workers, together."""

_MAX_LATELY_DEAD: Final = 1024
FIRST_UNGRANTED: Final = 1_000_000
"""Ranks from here on are chosen at random by a relay whose upstream client does not answer, so that no two are the same."""

_UNGRANTED: Final = 99_000_000

MAX_RESERVED: Final = 1 << 18
"""Ranks that workers have chosen themselves, and that are therefore not assigned to others."""

_MAX_LAUNCHED: Final = 65536

_JOURNAL = re.compile(  # the names that `Registry.admit` makes; side files end in a number
    r"((\d+)-\d+-(?:([0-9a-f]{16})-)?rank(\d*)\.journal)(?:\.\d+(?:\.kept)?)?"
)


Claim = Callable[[str, Callable[[RankGranted], None]], Callable[[], object]]
"""Asks the upstream client for a rank, or for what is known of a journal (see `Uplink.claim`), and returns at once."""


class Orphan(NamedTuple):
    """The journal of a worker of a relay that is gone."""

    journal: str
    pid: int
    rank: int


_LOCK = re.compile(r"\.meshlog-([0-9a-f]{16})\.lock")


def _lock_name(token: str) -> str:
    return f".meshlog-{token}.lock"


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):  # not ours, or already removed: neither needs an action
        os.unlink(path)


class MeshMember(Immutable):
    """A worker that ended, as later receipts list it."""

    mesh: str
    rank: int | None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Its rank, if it had one."""
        return () if self.rank is None else (self.rank,)


@dataclass
class Mesh:
    """A mesh that starts its own workers."""

    coords: Mapping[int, Mapping[str, int | str]] | None
    defaults: list[Command] = field(default_factory=list)


class Registry:
    """Assigns ranks and journals to new connections, and keeps the default commands.

    The client's thread calls `identify` and `admit`, and any thread may call the rest: a lock guards the state.
    """

    def __init__(self, own_token: str) -> None:
        self.refuses_commands = False  # whether to refuse commands of a launcher, whose output would come here
        self.launched = settings.launched()  # this process's own rank of a launcher; "" in a launcher
        self._launched: dict[str, int] = {}  # a launcher's setting, and the pid of the first process that joined with it
        self._streaming: dict[str | None, bool] = {None: True}  # by mesh; None: all other meshes
        self.claim: Claim | None = None  # a relay sets it: ranks come from its upstream client
        self.job = ""  # its client sets it: processes of this job may resume their streams
        self._own_token = own_token
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._reserved: set[int] = set()
        self._next_rank = 0
        self._warnings = warnings_command()  # default in every mesh, until its owner replaces it
        self._meshes: dict[str, Mesh] = {"": Mesh(None, [self._warnings])}
        self._dead: dict[MeshMember, None] = {}
        self._lately_dead: dict[MeshMember, None] = {}  # since the last flush, of workers without fixed ranks
        self._journals = ""
        self._held: Held | None = None
        self.orphans: dict[str, Orphan] = {}
        self.unsent: dict[int, int] = {}  # lines of ranks that the relay before this one had read and not passed on
        self._kept: dict[int | None, deque[Sequence[str]]] = {}

    def keep_journals_in(self, directory: str, *, shared: bool = False) -> None:
        """Set the directory of the journals, and remove the journals of earlier runs from it.

        A `shared` directory may hold journals of other clients. Journals of a live client or of a live writer stay; locks tell.
        """
        self._journals = directory
        if shared:
            self._hold_lock()
        self._numbers = itertools.count(time.time_ns())  # there may be journals of a relay that is gone
        living: dict[str, bool] = {}
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            match = _JOURNAL.fullmatch(name)
            if match is not None:  # the directory is the user's and may hold other files
                journal, pid, token, rank = match.groups()
                if self.claim is not None and token == self._own_token:  # of a relay that is gone
                    if name == journal and rank:
                        self.orphans[path] = Orphan(path, int(pid), int(rank))
                    continue
                if token is not None and token not in living:
                    living[token] = is_held(os.path.join(directory, _lock_name(token)))
                if journal not in living:
                    living[journal] = living.get(token, False) or is_held(os.path.join(directory, journal))
                if not living[journal]:
                    _unlink(path)
            elif (lock := _LOCK.fullmatch(name)) is not None and lock[1] != self._own_token and not is_held(path):
                _unlink(path)

    def ended_orphans(self) -> list[Orphan]:
        """Return, once, the orphans whose worker has ended. The others may still resume. Any thread may call it."""
        ended = [orphan for orphan in tuple(self.orphans.values()) if not is_held(orphan.journal)]
        return [each for each in ended if self.orphans.pop(each.journal, None) is not None]

    def _hold_lock(self) -> None:
        with contextlib.suppress(OSError):  # without a lock, journals of this client stay as long as their writers live
            self._held = Held(make_held(os.path.join(self._journals, _lock_name(self._own_token))))

    def release_journals(self) -> None:
        """Release the lock, because this client ends: the next client in the same directory removes its journals."""
        if self._held is not None:
            _unlink(os.path.join(self._journals, _lock_name(self._own_token)))
        self.forget()

    def forget(self) -> None:
        """In a forked child: close the copy of the lock."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def add_mesh(self, token: str, coords: Mapping[int, Mapping[str, int | str]] | None) -> None:
        """Add a mesh whose workers join with `token`. Without `coords`, they get ranks like workers outside of a mesh."""
        with self._lock:
            self._meshes[token] = Mesh(coords, [self._warnings])
            self._reserved.update(coords or ())

    def identify(self, connection: NewConnection) -> bool:
        """Correct what a new connection says about itself; return whether its rank has to come from an upstream client."""
        if connection.hello.observer:
            return False
        own = connection.here and connection.pid == os.getpid()
        if own and connection.hello.rank is None and not (connection.hello.mesh or connection.hello.relay):
            # The client's own process, by any way of joining.
            connection.hello = connection.hello.replaced(mesh=self._own_token)
        pid = connection.pid if connection.here else None
        if connection.hello.launched and not connection.hello.mesh and self._inherited(connection.hello.launched, pid):
            connection.hello = connection.hello.replaced(rank=None, local_rank=None)
        hello = connection.hello
        if self.claim is None or hello.relay or hello.mesh == self._own_token:
            return False
        return hello.rank is None or bool(hello.resumes)

    def admit(self, connection: NewConnection) -> Welcome:
        """Return the reply to an identified connection: its rank, its journal, the defaults.

        Raises `ClosedError` if it is too late.
        """
        hello = connection.hello
        if self.refuses_commands and hello.output_only:
            raise ClosedError("this job is ending.")
        if hello.observer:
            if not settings.observe():
                raise ClosedError("this client has no observers.")
            return Welcome(None, "", ())
        if hello.resumes and not hello.relay and not (hello.job and hello.job == self.job):
            return self._admit_again(connection)
        with self._lock:
            rank = self._rank(hello)
            self._revive(hello.mesh, rank)
            # Without the token, a client on another host could use the same name.
            token, number = self._own_token, next(self._numbers)
            name = f"{connection.pid}-{number}-{token}-rank{'' if rank is None else rank}.journal"
            journal = os.path.join(self._journals, name) if hello.forwarding else ""
            retains = self.claim is not None and bool(journal) and (rank is not None or hello.relay)
            return Welcome(rank, journal, self._commands_for(hello), retains)

    def _admit_again(self, connection: NewConnection) -> Welcome:
        """Return the reply to a worker of a relay that is gone: it goes on with its journal."""
        hello = connection.hello
        directory, name = os.path.split(hello.resumes)
        match = _JOURNAL.fullmatch(name)
        # With the lock of the journal, its worker may already count as ended: `ended_orphans` returns a journal once.
        if (
            self.claim is None
            or hello.job
            or directory != self._journals
            or match is None
            or match.groups() != (name, str(connection.pid), self._own_token, str(hello.rank))
        ):
            raise ProtocolError(f"it resumes a journal that it has not from this client: {quoted(hello.resumes)}")
        with self._lock:
            self.orphans.pop(hello.resumes, None)
            generation = 0 if connection.known is None else connection.known.generation
            return Welcome(hello.rank, hello.resumes, self._commands_for(hello), True, generation)

    def _commands_for(self, hello: Hello) -> tuple[bytes, ...]:
        # Only other processes get commands; a relay gets them after it is added.
        if hello.mesh == self._own_token or hello.relay:
            return ()
        return tuple(command.encode() for command in (self._meshes.get(hello.mesh) or self._meshes[""]).defaults)

    def _inherited(self, launched: str, pid: int | None) -> bool:
        """Return whether the process has only inherited a launcher's rank, which belongs to another process.

        A process in another PID namespace, whose `pid` is unknown, counts as one that the launcher started.
        """
        if launched == self.launched:
            return True
        if pid is None:
            return False
        with self._lock:
            if len(self._launched) >= _MAX_LAUNCHED:
                self._launched.clear()
            first = self._launched.setdefault(launched, pid)
            if first == pid or not lives(first):
                self._launched[launched] = pid  # the launcher may have restarted it
                return False
            # Ranks of the launcher may still join, so their numbers stay reserved.
            self._next_rank = max(self._next_rank, settings.launched_size(launched))
            return True

    def _rank(self, hello: Hello) -> int | None:
        if hello.mesh == self._own_token or hello.relay:
            return None
        if hello.rank is None and self.claim is not None:  # the upstream client, which knows all ranks, does not answer
            return FIRST_UNGRANTED + int.from_bytes(os.urandom(8), "big") % _UNGRANTED
        if hello.rank is None:
            return self._new_rank()
        self._reserve(hello.rank)
        return hello.rank

    def _reserve(self, rank: int) -> None:
        """Do not assign `rank` here. Beyond `MAX_RESERVED`, which no job needs, a rank may be assigned again."""
        if rank >= self._next_rank and len(self._reserved) < MAX_RESERVED:
            self._reserved.add(rank)

    def _new_rank(self) -> int:
        """Return an unused rank: a replacement worker gets a new rank."""
        while self._next_rank in self._reserved:
            self._reserved.discard(self._next_rank)
            self._next_rank += 1
        self._next_rank += 1
        return self._next_rank - 1

    def next_rank(self) -> int:
        """Return a rank for a new worker downstream."""
        with self._lock:
            return self._new_rank()

    def coords(self, hello: Hello, rank: int | None) -> Mapping[str, int | str]:
        """Return the coordinates of a rank in its mesh, such as ``{"gpus": 1}``; outside of a mesh, those that it sent."""
        with self._lock:
            mesh = self._meshes.get(hello.mesh)
            known = mesh.coords.get(rank) if mesh is not None and mesh.coords and rank is not None else None
            return known if known is not None else hello.coords

    def stream(self, streaming: bool, mesh: str | None) -> None:
        """Show or suppress workers that join `mesh` later (None: any mesh)."""
        with self._lock:
            if mesh is None:
                self._streaming.clear()
            self._streaming[mesh] = streaming

    def streams(self, mesh: str) -> bool:
        """Return whether workers that join a mesh now are shown."""
        with self._lock:
            return self._streaming.get(mesh, self._streaming[None])

    def streaming(self) -> dict[str | None, bool]:
        """Return the setting of `stream` by mesh; None holds the one for all other meshes."""
        with self._lock:
            return dict(self._streaming)

    def joined(self, mesh: str, rank: int) -> None:
        """Note that a worker joined downstream of a relay."""
        with self._lock:
            self._reserve(rank)
            self._revive(mesh, rank)

    def _revive(self, mesh: str, rank: int | None) -> None:
        """Note that a rank has a worker, perhaps in the place of one that ended."""
        for ended in (self._dead, self._lately_dead):
            ended.pop(MeshMember(mesh, rank), None)

    def meshes(self) -> list[str]:
        """Return the tokens of all meshes; "" is outside of a mesh."""
        with self._lock:
            return list(self._meshes)

    def defaults(self) -> list[tuple[str, Command]]:
        """Return all default commands with their meshes."""
        with self._lock:
            return [(token, command) for token, mesh in self._meshes.items() for command in mesh.defaults]

    def ended(self, mesh: str, rank: int | None, *, named: bool = True) -> None:
        """Note that a worker ended. In a mesh with fixed ranks, later receipts list it; else the next, unless it is `named`."""
        with self._lock:
            known = self._meshes.get(mesh)
            if known is not None and known.coords is not None:
                self._dead[MeshMember(mesh, rank)] = None
            elif not named:
                self._lately_dead[MeshMember(mesh, rank)] = None
                if len(self._lately_dead) > _MAX_LATELY_DEAD:
                    del self._lately_dead[next(iter(self._lately_dead))]

    def keep(self, rank: int | None, files: Sequence[str]) -> None:
        """Keep the journal files of a worker that ended, and remove older ones. `rank` is None if it was assigned here."""
        kept = self._kept.setdefault(rank, deque())
        kept.append(files)
        if len(kept) > (KEPT_GUESTS if rank is None else KEPT_JOURNALS):
            for path in kept.popleft():
                _unlink(path)

    def dead(self, chosen: Callable[[MeshMember], bool] | None) -> list[MeshMember]:
        """Return the members that a receipt lists as dead (see `ended`)."""
        with self._lock:
            lately = list(filter(chosen, self._lately_dead))  # None: all, because every member is true
            for member in lately:
                del self._lately_dead[member]
            return [*filter(chosen, self._dead), *lately]

    def set_default(self, mesh: str, command: Command) -> None:
        """Add a default command for workers that join `mesh` later. It replaces earlier defaults that it overrides."""
        with self._lock:
            defaults = self._meshes.setdefault(mesh, Mesh(None)).defaults
            defaults[:] = [*_left(defaults, command), command]


def _left(defaults: Sequence[Command], command: Command) -> Sequence[Command]:
    """Return what a default leaves of the earlier ones."""
    if isinstance(command, Prepare) and not command.config.get("incremental"):
        return [old for old in defaults if isinstance(old, LogWarnings)]
    if isinstance(command, Prepare):
        return [left for old in defaults if (left := _not_overridden(old, command.config)) is not None]
    if isinstance(command, LogWarnings):
        return [old for old in defaults if not isinstance(old, LogWarnings)]
    return defaults


def _not_overridden(command: Command, config: Mapping[str, Any]) -> Command | None:
    """Return what an incremental configuration leaves of an earlier one; None if it overrides all of it."""
    if not isinstance(command, Prepare) or not command.config.get("incremental"):
        return command
    left = dict(command.config)
    for section in ("handlers", "loggers"):
        new = config.get(section) or {}
        entries = {name: _without(entry, new.get(name) or {}) for name, entry in (left.pop(section, None) or {}).items()}
        if entries := {name: entry for name, entry in entries.items() if entry}:
            left[section] = entries
    if root := _without(left.pop("root", None) or {}, config.get("root") or {}):
        left["root"] = root
    return command.replaced(config=left) if left.keys() & {"handlers", "loggers", "root"} else None


def _without(entry: Mapping[str, Any], overridden: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in overridden}
