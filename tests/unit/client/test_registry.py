from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler.client import registry as registry_module
from meshlog_handler.client.registry import MeshMember, Registry
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.messages import Command, Hello, LogWarnings, Prepare, SetLevel, Welcome, decode
from meshlog_handler.system.locks import hold, is_held
from meshlog_handler.transport.listener import NewConnection

OWN = "0123456789abcdef"
GUEST = Hello(4711, "node", None, None, "", (), True, 1.0)
SET_ROOT, SET_APP = SetLevel(0, 10, "", None), SetLevel(0, 20, "app", None)
WHOLE, PART = Prepare(0, {"version": 1}), Prepare(0, {"version": 1, "incremental": True})


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(OWN)
    made.keep_journals_in(str(tmp_path))
    return made


class Door:
    """Lets newcomers in."""

    def __init__(self, registry: Registry, sock: socket.socket) -> None:
        self._registry, self._sock = registry, sock

    def admit(self, hello: Hello = GUEST, pid: int = 4711) -> Welcome:
        return self._registry.admit(NewConnection(self._sock, hello, pid))

    def standing(self, hello: Hello = GUEST) -> list[Command]:
        return [order for order in self.orders(hello) if not isinstance(order, LogWarnings)]

    def orders(self, hello: Hello = GUEST) -> list[Command]:
        return [decode(order, Command) for order in self.admit(hello).defaults]


@pytest.fixture
def door(registry: Registry, sock: socket.socket) -> Door:
    return Door(registry, sock)


def test_guests_get_the_ranks_that_are_free(registry: Registry, door: Door) -> None:
    registry.add_mesh("mesh", {0: {"gpus": 0}, 2: {"gpus": 1}})
    assert door.admit(GUEST.replaced(rank=3)).rank == 3
    assert [door.admit().rank for _ in range(4)] == [1, 4, 5, 6]


def test_a_rank_is_not_given_twice(registry: Registry, door: Door) -> None:
    registry.add_mesh("mesh", {0: {}})
    assert [door.admit().rank for _ in range(3)] == [1, 2, 3]
    registry.ended("", 2)
    assert door.admit().rank == 4
    assert registry.next_rank() == 5, "of a newcomer of a relay"
    registry.joined("", 5)
    registry.joined("", 7)
    assert [door.admit().rank for _ in range(2)] == [6, 8]


@pytest.mark.parametrize("here", [True, False])
def test_only_who_the_kernel_says_it_is_is_the_client_itself(registry: Registry, sock: socket.socket, here: bool) -> None:
    """A process of another pid namespace may say that it has this one's number."""
    newcomer = NewConnection(sock, GUEST, os.getpid(), here=here)
    assert registry.admit(newcomer).rank == (None if here else 0)
    assert newcomer.hello.mesh == (OWN if here else "")


def test_a_rank_from_a_launcher_is_kept(door: Door) -> None:
    assert [door.admit(GUEST.replaced(rank=7)).rank for _ in range(2)] == [7, 7]


def test_the_clients_own_process_has_no_rank(door: Door) -> None:
    assert door.admit(GUEST.replaced(mesh=OWN)).rank is None
    assert door.admit(pid=os.getpid()).rank is None
    assert door.admit(GUEST.replaced(rank=5), pid=os.getpid()).rank == 5


def test_each_gets_a_journal_of_its_own_named_by_the_kernels_pid(door: Door, tmp_path: Path) -> None:
    journals = [door.admit(GUEST.replaced(rank=rank, mesh=mesh), 99).journal for rank, mesh in ((3, ""), (3, ""), (None, OWN))]
    assert len(set(journals)) == 3
    assert [os.path.dirname(journal) for journal in journals] == [str(tmp_path)] * 3
    first, _, own = map(os.path.basename, journals)
    assert (first[:3], first[-14:], own[-13:]) == ("99-", "-rank3.journal", "-rank.journal")


def test_without_forwarding_there_is_no_journal(door: Door) -> None:
    assert door.admit(GUEST.replaced(forwarding=False)).journal == ""


def test_only_journals_of_an_earlier_run_are_removed(registry: Registry, door: Door, tmp_path: Path) -> None:
    journals = [Path(door.admit().journal), Path(door.admit(GUEST.replaced(mesh=OWN)).journal)]
    journals += [Path(f"{journals[0]}.{number}") for number in (1, 20)]
    others = [tmp_path / name for name in ("my.journal", "notes.journal.txt", "rank3.stdout.log", "1-2-rank3.journal.bak")]
    (tmp_path / "3-4-rank5.journal").mkdir()  # nobody's, and in nobody's way
    for path in journals + others:
        path.write_text("kept?")
    registry.keep_journals_in(str(tmp_path))
    assert not any(path.exists() for path in journals)
    assert all(path.exists() for path in others)


def test_journals_of_clients_and_of_writers_that_live_stay(tmp_path: Path, sock: socket.socket) -> None:
    first, second = Registry("1" * 16), Registry("2" * 16)
    first.keep_journals_in(str(tmp_path), shared=True)
    written = Journal(Door(first, sock).admit().journal, 1)
    dead = Path(Door(first, sock).admit().journal)
    for path in (dead, Path(f"{dead}.1"), Path(f"{written.path}.7")):
        path.touch()
    before = sorted(os.listdir(tmp_path))
    second.keep_journals_in(str(tmp_path), shared=True)
    assert Door(second, sock).admit().journal not in before, "also for a process of the same number on another host"
    second.release_journals()
    assert sorted(os.listdir(tmp_path)) == before, "the client lives, and has not read the journal of its dead proc"
    first.forget()  # killed
    second.keep_journals_in(str(tmp_path), shared=True)
    second.release_journals()
    left = [os.path.basename(str(written.path)) + end for end in ("", ".7")]
    assert sorted(os.listdir(tmp_path)) == left
    written.close()
    second.keep_journals_in(str(tmp_path), shared=True)
    second.release_journals()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_another_client_has_just_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Registry(OWN)
    removed: list[str] = []

    def slow(path: str) -> int:
        if not removed:
            removed.append(path)
            fd = hold(path)
            os.unlink(path)
            return fd
        return hold(path)

    monkeypatch.setattr(registry_module, "hold", slow)
    made.keep_journals_in(str(tmp_path), shared=True)
    assert os.listdir(tmp_path) == [os.path.basename(removed[0])]
    assert is_held(removed[0])
    made.release_journals()
    assert os.listdir(tmp_path) == []


def test_coordinates_are_those_of_the_mesh(registry: Registry) -> None:
    registry.add_mesh("mesh", {0: {"gpus": 0}, 1: {"gpus": 1}})
    member = GUEST.replaced(mesh="mesh")
    assert registry.coords(member, 1) == {"gpus": 1}
    assert registry.coords(member, 9) == registry.coords(member, None) == registry.coords(GUEST, 1) == {}
    assert registry.coords(GUEST.replaced(mesh="unknown"), 1) == {}


def test_only_who_belongs_to_a_mesh_is_missed(registry: Registry, door: Door) -> None:
    registry.add_mesh("mesh", {0: {}, 1: {}})
    for mesh in ("mesh", "", OWN, "unknown"):
        registry.ended(mesh, 1)
    registry.ended("mesh", 0)
    registry.ended("mesh", 1)
    assert registry.dead(None) == [MeshMember("mesh", 1), MeshMember("mesh", 0)]
    assert registry.dead(lambda member: member.rank == 0) == [MeshMember("mesh", 0)]
    door.admit(GUEST.replaced(mesh="mesh", rank=1))
    assert registry.dead(None) == [MeshMember("mesh", 0)]


def test_what_stands_is_for_who_joins_later(registry: Registry, door: Door) -> None:
    assert door.standing() == []
    registry.set_default("", SET_ROOT)
    registry.set_default("", SET_APP)
    assert door.standing() == [SET_ROOT, SET_APP]


def test_each_mesh_has_orders_of_its_own(registry: Registry, door: Door) -> None:
    registry.add_mesh("mesh", {0: {}})
    registry.set_default("mesh", SET_ROOT)
    registry.set_default("", SET_APP)
    assert door.standing(GUEST.replaced(mesh="mesh", rank=0)) == [SET_ROOT]
    assert door.standing(GUEST.replaced(mesh="unknown")) == [SET_APP]
    # Orders go to other processes: the client's own is configured by its program.
    assert door.standing(GUEST.replaced(mesh=OWN)) == []


def test_a_later_order_on_the_same_matter_stands_instead(registry: Registry, door: Door) -> None:
    again = SET_APP.replaced(level=50)
    for order in (SET_APP, SET_ROOT, again):
        registry.set_default("", order)
    assert door.standing() == [SET_ROOT, again]
    registry.set_default("", PART)
    assert door.standing() == [SET_ROOT, again, PART]
    registry.set_default("", WHOLE)
    registry.set_default("", SET_ROOT)
    assert door.standing() == [WHOLE, SET_ROOT]


def test_one_order_about_warnings_stands_whatever_else_is_ordered(registry: Registry, door: Door) -> None:
    mesh = GUEST.replaced(mesh="mesh", rank=0)
    (of_the_client,) = door.orders()
    assert isinstance(of_the_client, LogWarnings)
    registry.add_mesh("mesh", {0: {}})
    assert door.orders(mesh) == [of_the_client]
    other = LogWarnings(0, (("error", None, (("builtins", "Warning"),), None, 0),))
    registry.set_default("mesh", other)
    registry.set_default("mesh", WHOLE)
    assert door.orders(mesh) == [other, WHOLE]
    assert door.orders() == [of_the_client]
