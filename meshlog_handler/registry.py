"""The registry: who may be called what, and what holds for whoever joins later."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .messages import Hello, Order, Prepare, SetLevel, Welcome
from .rendezvous import Newcomer

KEPT_JOURNALS: Final = 4
"""Journals that a rank may leave in a `log_dir`: those of its latest bearers, and of what these forked."""

_JOURNAL = re.compile(r"\d+-\d+-rank\d*\.journal(\.\d+)?")  # as `Registry.admit` names them; side files end in a number


@dataclass(frozen=True)
class Member:
    """A proc that ended: what is left of it in later receipts."""

    mesh: str
    rank: int | None


@dataclass
class Mesh:
    """What the registry knows of a mesh that makes its own procs."""

    coords: Mapping[int, Mapping[str, int]]
    standing: list[Order] = field(default_factory=list)


class Registry:
    """Gives ranks, journals and standing orders to newcomers.

    `admit` is called by the threads of the door, everything else by any thread: a lock guards it all.
    """

    def __init__(self, own_token: str) -> None:
        self.streaming = True
        self._own_token = own_token
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._bearers: Counter[int] = Counter()
        self._reserved: set[int] = set()
        self._meshes: dict[str, Mesh] = {"": Mesh({})}
        self._dead: dict[Member, None] = {}
        self._journals = ""
        self._kept: dict[int | None, deque[Sequence[str]]] = {}

    def keep_journals_in(self, directory: str) -> None:
        """Say where journals lie; those of an earlier run there are removed."""
        self._journals = directory
        for name in os.listdir(directory):
            if _JOURNAL.fullmatch(name):  # the directory is the user's, and may hold other things
                with contextlib.suppress(OSError):  # somebody else's, or gone: then it is in nobody's way
                    os.unlink(os.path.join(directory, name))

    def add_mesh(self, token: str, coords: Mapping[int, Mapping[str, int]]) -> None:
        """Make known a mesh that will start procs under `token`."""
        with self._lock:
            self._meshes[token] = Mesh(coords)
            self._reserved.update(coords)

    def admit(self, newcomer: Newcomer) -> Welcome:
        """Return what to tell a newcomer: its rank, its journal, what holds for all."""
        if newcomer.pid == os.getpid() and newcomer.hello.rank is None and not newcomer.hello.mesh:
            # The client's own process, however it joined.
            newcomer.hello = replace(newcomer.hello, mesh=self._own_token)
        hello = newcomer.hello
        with self._lock:
            rank = self._rank(hello)
            mesh = self._meshes.get(hello.mesh) or self._meshes[""]
            self._dead.pop(Member(hello.mesh, rank), None)
            name = f"{newcomer.pid}-{next(self._numbers)}-rank{'' if rank is None else rank}.journal"
            journal = os.path.join(self._journals, name) if hello.forwarding else ""
            standing = () if hello.mesh == self._own_token else tuple(mesh.standing)  # orders go to other processes only
            return Welcome(rank, journal, tuple(order.encode() for order in standing))

    def _rank(self, hello: Hello) -> int | None:
        if hello.mesh == self._own_token:
            return None
        rank = hello.rank
        if rank is None:
            # The lowest: ranks, and all that is kept for each, are as many as there were procs at once, however often
            # the workers of a pool are replaced.
            rank = next(free for free in itertools.count() if not self._bearers[free] and free not in self._reserved)
        self._bearers[rank] += 1
        return rank

    def coords(self, hello: Hello, rank: int | None) -> Mapping[str, int]:
        """Return the coordinates of a rank in its mesh, such as ``{"gpus": 1}``."""
        with self._lock:
            mesh = self._meshes.get(hello.mesh)
            return mesh.coords.get(rank, {}) if mesh is not None and rank is not None else {}

    def ended(self, mesh: str, rank: int | None) -> None:
        """Note that a proc ended, and all it said was shown. One of a mesh is named in later receipts; a guest came and
        went, and its rank is free for the next one.
        """  # fmt: skip
        with self._lock:
            if rank is not None and self._bearers[rank]:  # not, if it was adopted
                self._bearers[rank] -= 1
            if mesh in self._meshes and mesh not in ("", self._own_token):
                self._dead[Member(mesh, rank)] = None

    def keep(self, rank: int | None, files: Sequence[str]) -> None:
        """Keep the journal of a proc that ended, a list of files; remove those of earlier ones under the same rank."""
        kept = self._kept.setdefault(rank, deque())
        kept.append(files)
        if len(kept) > KEPT_JOURNALS:
            for path in kept.popleft():
                with contextlib.suppress(OSError):  # gone: just as well
                    os.unlink(path)

    def dead(self, chosen: Callable[[Member], bool] | None) -> list[Member]:
        """Return the procs of meshes that ended."""
        with self._lock:
            return [member for member in self._dead if chosen is None or chosen(member)]

    def stand(self, mesh: str, order: Order) -> None:
        """Let an order hold for procs of `mesh` that join later, instead of earlier ones on the same matter."""
        with self._lock:
            standing = self._meshes.setdefault(mesh, Mesh({})).standing
            if isinstance(order, SetLevel):
                standing[:] = [old for old in standing if not (isinstance(old, SetLevel) and old.logger == order.logger)]
            elif isinstance(order, Prepare) and not order.config.get("incremental"):
                standing.clear()
            standing.append(order)
