from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshlog_handler.client.peers import registry as registry_module
from meshlog_handler.client.peers.registry import MeshMember, Registry
from meshlog_handler.errors import ProtocolError
from meshlog_handler.journal.writer import Journal
from meshlog_handler.protocol.messages import Command, Hello, LogWarnings, Prepare, Welcome, decode, level_config
from meshlog_handler.protocol.relay_messages import Passed
from meshlog_handler.system.lock_files import is_held
from meshlog_handler.transport.listener import NewConnection

OWN = "0123456789abcdef"
GUEST = Hello(4711, "node", None, None, "", (), True, 1.0)
SET_ROOT, SET_APP = Prepare(0, level_config(10), final=True), Prepare(0, level_config(20, "app"), final=True)
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


class Admission:
    """Admits connections."""

    def __init__(self, registry: Registry, sock: socket.socket) -> None:
        self._registry, self._sock = registry, sock

    def admit(self, hello: Hello = GUEST, pid: int = 4711) -> Welcome:
        connection = NewConnection(self._sock, hello, pid)
        assert not self._registry.identify(connection)
        return self._registry.admit(connection)

    def other_defaults(self, hello: Hello = GUEST) -> list[Command]:
        return [command for command in self.defaults(hello) if not isinstance(command, LogWarnings)]

    def defaults(self, hello: Hello = GUEST) -> list[Command]:
        return [decode(command, Command) for command in self.admit(hello).defaults]


@pytest.fixture
def admission(registry: Registry, sock: socket.socket) -> Admission:
    return Admission(registry, sock)


def test_workers_outside_of_a_mesh_get_free_ranks(registry: Registry, admission: Admission) -> None:
    registry.add_mesh("mesh", {0: {"gpus": 0}, 2: {"gpus": 1}})
    assert admission.admit(GUEST.replaced(rank=3)).rank == 3
    assert [admission.admit().rank for _ in range(4)] == [1, 4, 5, 6]


def test_a_rank_is_not_assigned_twice(registry: Registry, admission: Admission) -> None:
    registry.add_mesh("mesh", {0: {}})
    assert [admission.admit().rank for _ in range(3)] == [1, 2, 3]
    registry.ended("", 2)
    assert admission.admit().rank == 4
    assert registry.next_rank() == 5, "for a new worker of a relay"
    registry.joined("", 5)
    registry.joined("", 7)
    assert [admission.admit().rank for _ in range(2)] == [6, 8]


@pytest.mark.parametrize("here", [True, False])
def test_only_the_pid_from_the_kernel_marks_the_client_itself(registry: Registry, sock: socket.socket, here: bool) -> None:
    """A process of another PID namespace may send this process's number."""
    connection = NewConnection(sock, GUEST, os.getpid(), here=here)
    registry.identify(connection)
    assert registry.admit(connection).rank == (None if here else 0)
    assert connection.hello.mesh == (OWN if here else "")


def test_a_rank_from_a_launcher_is_kept(admission: Admission) -> None:
    assert [admission.admit(GUEST.replaced(rank=7)).rank for _ in range(2)] == [7, 7]


def test_the_clients_own_process_has_no_rank(admission: Admission) -> None:
    assert admission.admit(GUEST.replaced(mesh=OWN)).rank is None
    assert admission.admit(pid=os.getpid()).rank is None
    assert admission.admit(GUEST.replaced(rank=5), pid=os.getpid()).rank == 5


def test_each_connection_gets_its_own_journal_named_by_the_pid_from_the_kernel(admission: Admission, tmp_path: Path) -> None:
    journals = [
        admission.admit(GUEST.replaced(rank=rank, mesh=mesh), 99).journal for rank, mesh in ((3, ""), (3, ""), (None, OWN))
    ]
    assert len(set(journals)) == 3
    assert [os.path.dirname(journal) for journal in journals] == [str(tmp_path)] * 3
    first, _, own = map(os.path.basename, journals)
    assert (first[:3], first[-14:], own[-13:]) == ("99-", "-rank3.journal", "-rank.journal")


def test_without_forwarding_there_is_no_journal(admission: Admission) -> None:
    assert admission.admit(GUEST.replaced(forwarding=False)).journal == ""


def test_only_journals_of_an_earlier_run_are_removed(registry: Registry, admission: Admission, tmp_path: Path) -> None:
    journals = [Path(admission.admit().journal), Path(admission.admit(GUEST.replaced(mesh=OWN)).journal)]
    journals += [Path(f"{journals[0]}.{number}") for number in (1, 20)]
    others = [tmp_path / name for name in ("my.journal", "notes.journal.txt", "rank3.stdout.log", "1-2-rank3.journal.bak")]
    (tmp_path / "3-4-rank5.journal").mkdir()  # a directory, which belongs to no client
    for path in journals + others:
        path.write_text("kept?")
    registry.keep_journals_in(str(tmp_path))
    assert not any(path.exists() for path in journals)
    assert all(path.exists() for path in others)


def test_journals_of_live_clients_and_of_live_writers_stay(tmp_path: Path, sock: socket.socket) -> None:
    first, second = Registry("1" * 16), Registry("2" * 16)
    first.keep_journals_in(str(tmp_path), shared=True)
    written = Journal(Admission(first, sock).admit().journal, 1)
    dead = Path(Admission(first, sock).admit().journal)
    for path in (dead, Path(f"{dead}.1"), Path(f"{written.path}.7")):
        path.touch()
    before = sorted(os.listdir(tmp_path))
    second.keep_journals_in(str(tmp_path), shared=True)
    assert Admission(second, sock).admit().journal not in before, "also for a process with the same pid on another host"
    second.release_journals()
    assert sorted(os.listdir(tmp_path)) == before, "the client is alive and has not read the journal of its ended worker"
    first.forget()  # killed
    second.keep_journals_in(str(tmp_path), shared=True)
    second.release_journals()
    left = [os.path.basename(str(written.path)) + end for end in ("", ".7")]
    assert sorted(os.listdir(tmp_path)) == left
    written.close()
    second.keep_journals_in(str(tmp_path), shared=True)
    second.release_journals()
    assert os.listdir(tmp_path) == []


def test_another_client_finds_no_lock_that_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, found = os.rename, []

    def slow(source: str, target: str) -> None:
        other = Registry("2" * 16)
        other.keep_journals_in(str(tmp_path))  # it removes the locks that nobody holds
        found.append(os.path.exists(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    made = Registry(OWN)
    made.keep_journals_in(str(tmp_path), shared=True)
    assert found == [True]
    [lock] = tmp_path.iterdir()
    assert is_held(str(lock))
    made.release_journals()
    assert list(tmp_path.iterdir()) == []


def test_coordinates_are_those_of_the_mesh(registry: Registry) -> None:
    registry.add_mesh("mesh", {0: {"gpus": 0}, 1: {"gpus": 1}})
    member = GUEST.replaced(mesh="mesh")
    assert registry.coords(member, 1) == {"gpus": 1}
    assert registry.coords(member, 9) == registry.coords(member, None) == registry.coords(GUEST, 1) == {}
    assert registry.coords(GUEST.replaced(mesh="unknown"), 1) == {}


def test_only_ended_workers_of_a_mesh_are_kept(registry: Registry, admission: Admission) -> None:
    registry.add_mesh("mesh", {0: {}, 1: {}})
    for mesh in ("mesh", "", OWN, "unknown"):
        registry.ended(mesh, 1)
    registry.ended("mesh", 0)
    registry.ended("mesh", 1)
    assert registry.dead(None) == [MeshMember("mesh", 1), MeshMember("mesh", 0)]
    assert registry.dead(lambda member: member.rank == 0) == [MeshMember("mesh", 0)]
    admission.admit(GUEST.replaced(mesh="mesh", rank=1))
    assert registry.dead(None) == [MeshMember("mesh", 0)]


def test_other_ended_workers_are_listed_once_unless_they_are_named(registry: Registry, admission: Admission) -> None:
    registry.ended("", 3, named=False)
    registry.ended("", 4)
    registry.ended("", 5, named=False)
    assert registry.dead(lambda member: member.rank == 5) == [MeshMember("", 5)]
    assert registry.dead(None) == [MeshMember("", 3)]
    assert registry.dead(None) == []
    registry.ended("", 3, named=False)
    admission.admit(GUEST.replaced(rank=3))
    assert registry.dead(None) == []
    for rank in range(2000):
        registry.ended("", rank, named=False)
    assert len(registry.dead(None)) == 1024


def test_defaults_are_sent_to_workers_that_join_later(registry: Registry, admission: Admission) -> None:
    assert admission.other_defaults() == []
    registry.set_default("", SET_ROOT)
    registry.set_default("", SET_APP)
    assert admission.other_defaults() == [SET_ROOT, SET_APP]


def test_each_mesh_has_its_own_defaults(registry: Registry, admission: Admission) -> None:
    registry.add_mesh("mesh", {0: {}})
    registry.set_default("mesh", SET_ROOT)
    registry.set_default("", SET_APP)
    assert admission.other_defaults(GUEST.replaced(mesh="mesh", rank=0)) == [SET_ROOT]
    assert admission.other_defaults(GUEST.replaced(mesh="unknown")) == [SET_APP]
    # Commands go to other processes: the client's own process is configured by its program.
    assert admission.other_defaults(GUEST.replaced(mesh=OWN)) == []


def test_a_later_command_replaces_a_default_that_it_overrides(registry: Registry, admission: Admission) -> None:
    again = SET_APP.replaced(config=level_config(50, "app"))
    for command in (SET_APP, SET_ROOT, again):
        registry.set_default("", command)
    assert admission.other_defaults() == [SET_ROOT, again]
    registry.set_default("", PART)
    assert admission.other_defaults() == [SET_ROOT, again, PART]
    registry.set_default("", WHOLE)
    registry.set_default("", SET_ROOT)
    assert admission.other_defaults() == [WHOLE, SET_ROOT]


def test_a_thousand_incremental_configurations_are_kept_as_what_they_leave(registry: Registry, admission: Admission) -> None:
    def part(number: int, **more: Any) -> Prepare:
        loggers = {"app": {"level": number}, f"app.{number % 3}": {"level": number, **more}}
        return Prepare(0, {"version": 1, "incremental": True, "loggers": loggers, "root": {"level": number}})

    registry.set_default("", WHOLE)
    registry.set_default("", part(0, propagate=False))
    for number in range(1, 1000):
        registry.set_default("", part(number))
    whole, *parts = admission.other_defaults()
    assert whole == WHOLE
    assert len(parts) == 4
    in_force: dict[str, dict[str, Any]] = {}
    for each in parts:
        assert isinstance(each, Prepare)
        for name, entry in each.config.get("loggers", {}).items():
            in_force.setdefault(name, {}).update(entry)
    assert in_force == {
        "app": {"level": 999},
        "app.0": {"level": 999, "propagate": False},
        "app.1": {"level": 997},
        "app.2": {"level": 998},
    }
    assert parts[-1] == part(999)


def test_a_mesh_has_one_default_for_warnings_beside_any_others(registry: Registry, admission: Admission) -> None:
    mesh = GUEST.replaced(mesh="mesh", rank=0)
    (own,) = admission.defaults()
    assert isinstance(own, LogWarnings)
    registry.add_mesh("mesh", {0: {}})
    assert admission.defaults(mesh) == [own]
    other = LogWarnings(0, (("error", None, (("builtins", "Warning"),), None, 0),))
    registry.set_default("mesh", other)
    registry.set_default("mesh", WHOLE)
    assert admission.defaults(mesh) == [other, WHOLE]
    assert admission.defaults() == [own]


def test_the_ranks_that_workers_choose_are_remembered_up_to_a_bound(
    registry: Registry, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "MAX_RESERVED", 2)
    for rank in (0, 2, 4, 6):
        registry.joined("", rank)
    assert admission.admit(GUEST.replaced(rank=8)).rank == 8, "it is not refused"
    assert [admission.admit().rank for _ in range(4)] == [1, 3, 4, 5], "0 and 2 are taken, the others are not remembered"


def journal_of(directory: Path, pid: int = 4711, token: str = OWN, rank: int = 3) -> str:
    return str(directory / f"{pid}-7-{token}-rank{rank}.journal")


def test_a_relay_goes_on_with_a_journal_of_the_relay_before_it(registry: Registry, sock: socket.socket, tmp_path: Path) -> None:
    registry.claim = lambda journal, granted: lambda: None
    journal = journal_of(tmp_path)
    connection = NewConnection(sock, GUEST.replaced(rank=3, resumes=journal), 4711)
    assert registry.identify(connection), "the upstream client knows from where on it needs the stream"
    connection.known = Passed(journal, 3, 5, 100, 0, 9, ())
    welcome = registry.admit(connection)
    assert (welcome.rank, welcome.journal, welcome.retains, welcome.generation) == (3, journal, True, 5)


@pytest.mark.parametrize(
    ("relay", "job", "path"),
    [
        (False, "", {}),
        (False, "shop", {}),
        (True, "shop", {}),
        (True, "", {"pid": 4712}),
        (True, "", {"token": "f" * 16}),
        (True, "", {"rank": 4}),
    ],
    ids=["at_no_relay", "of_another_job", "of_a_job_at_a_relay", "of_another_process", "of_another_client", "another_rank"],
)
def test_a_process_can_only_go_on_with_its_own_journal(
    registry: Registry, sock: socket.socket, tmp_path: Path, relay: bool, job: str, path: dict[str, Any]
) -> None:
    if relay:
        registry.claim = lambda journal, granted: lambda: None
    hello = GUEST.replaced(rank=3, job=job, resumes=journal_of(tmp_path, **path))
    with pytest.raises(ProtocolError, match="it resumes a journal that it has not from this client"):
        registry.admit(NewConnection(sock, hello, 4711))


def test_the_newest_journals_of_a_rank_are_kept(registry: Registry, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.journal" for number in range(2 * registry_module.KEPT_JOURNALS)]
    for path in files:
        path.touch()
        registry.keep(3, [str(path)])
    assert sorted(path for path in files if path.exists()) == files[registry_module.KEPT_JOURNALS :]
