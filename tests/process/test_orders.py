"""Commands: a worker that joins meanwhile gets them, an interrupt leaves nothing half done, and a finalizer does not wait."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from meshlog_handler import LogClient, LogRelay, RankError, SettingError, this_host
from meshlog_handler.mesh import control
from meshlog_handler.mesh.control import LoggingMeshClient
from meshlog_handler.protocol.messages import Command, Commit, Message, Prepare, level_config
from meshlog_handler.protocol.relay_messages import DownstreamJoined
from meshlog_handler.testing import RecordCollector
from meshlog_handler.transport.channel import Steps
from meshlog_handler.transport.listener import NewConnection
from meshlog_handler.worker import this_process
from meshlog_handler.worker.member import JoinOptions
from tests.waiting import until

from .procs import DEADLINE, started, stop_process

NAME = "app"


def answer(pipe: Connection, address: str, rank: int) -> None:
    """Join, then send the level of each logger whose name is received."""
    this_process.join(JoinOptions(address, rank, rank, "mesh"))
    pipe.send("joined")
    while (name := pipe.recv()) is not None:
        pipe.send(logging.getLogger(name or None).level)


class Member:
    """A worker of the mesh."""

    def __init__(self, pipe: Connection, pid: int) -> None:
        self.pipe, self.pid = pipe, pid

    def joined(self) -> None:
        """Wait until the worker has joined."""
        assert self.pipe.poll(DEADLINE)
        assert self.pipe.recv() == "joined"

    def level(self, name: str = "") -> int:
        """Return the level of a logger in the worker."""
        self.pipe.send(name)
        assert self.pipe.poll(DEADLINE)
        level: int = self.pipe.recv()
        return level


class Mesh:
    """A client, and workers that join it one by one."""

    def __init__(self, client: LogClient, logs: LoggingMeshClient) -> None:
        self.client, self.logs = client, logs
        self._ends: list[Any] = []

    def start(self, rank: int) -> Member:
        """Start a worker."""
        here, there = multiprocessing.Pipe()
        running = started("fork", answer, [(there, self.client.address, rank)])
        (proc,) = running.__enter__()
        there.close()
        self._ends.append((here, running))
        assert proc.pid is not None
        return Member(here, proc.pid)

    def member(self, rank: int) -> Member:
        """Start a worker and wait until it has joined."""
        made = self.start(rank)
        made.joined()
        return made

    def end(self) -> None:
        """End all workers."""
        for here, running in self._ends:
            here.close()
            running.__exit__(None, None, None)


@contextmanager
def mesh() -> Iterator[Mesh]:
    """Yield a mesh without workers."""
    with LogClient(RecordCollector()) as client:
        made = Mesh(client, LoggingMeshClient(client, "mesh", None))
        try:
            yield made
        finally:
            made.end()


def hold_in_handshake(client: LogClient, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Hold a new connection after it has proved the key, and before the client reads its `Hello`."""
    connected, let_in = threading.Event(), threading.Event()
    receive = client._listener._receive_hello

    def later(handshake: Any) -> Steps[NewConnection]:
        connected.set()
        while not let_in.is_set():
            yield
        return (yield from receive(handshake))

    monkeypatch.setattr(client._listener, "_receive_hello", later)
    return connected, let_in


@pytest.mark.parametrize("how", ["set_level", "configure", "set_mode"])
def test_a_worker_that_joins_while_a_command_is_pending_applies_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh() as made:
        connected, let_in = hold_in_handshake(made.client, monkeypatch)
        late = made.start(0)
        assert connected.wait(10)
        if how == "set_level":
            made.logs.set_level(33)
        elif how == "configure":
            made.logs.configure({"version": 1, "root": {"level": 33}})
        else:
            made.logs.set_mode(True, None, 33)
        let_in.set()
        late.joined()
        assert late.level() == 33


@pytest.mark.parametrize("how", ["configure", "set_mode"])
def test_a_worker_that_joins_between_prepare_and_commit_obeys_the_command(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh() as made:
        first = made.member(0)
        late: list[Member] = []
        original = LogClient.commit_soon

        def join_first(self: LogClient, *args: Any) -> Any:
            if not late:
                late.append(made.member(1))
            return original(self, *args)

        monkeypatch.setattr(LogClient, "commit_soon", join_first)
        if how == "configure":
            made.logs.configure({"version": 1, "root": {"level": 33}})
        else:
            made.logs.set_mode(True, None, 33)
        assert [first.level(), late[0].level(), made.member(2).level()] == [33] * 3


def test_a_refused_configuration_is_not_applied_to_a_worker_that_joins_later() -> None:
    with mesh() as made:
        first = made.member(0)
        with pytest.raises(RankError):
            made.logs.configure({"version": 1, "root": {"level": "LOUD"}})
        assert [first.level(), made.member(1).level()] == [logging.WARNING] * 2


def test_a_level_that_one_rank_cannot_set_applies_to_workers_that_join_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "COMMAND_SEC", 0.3)
    with mesh() as made:
        first, second = made.member(0), made.member(1)
        stop_process(first.pid)
        with pytest.raises(RankError, match="rank 0"):
            made.logs.set_level(33)
        assert [second.level(), made.member(2).level()] == [33] * 2
        os.kill(first.pid, signal.SIGCONT)
        until(lambda: first.level() == 33)


def test_a_mode_that_one_rank_cannot_set_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "COMMAND_SEC", 0.3)
    with mesh() as made:
        first, second = made.member(0), made.member(1)
        made.logs.set_level(15)
        made.logs.set_mode(True, 60.0, 25)
        stop_process(first.pid)
        with pytest.raises(RankError, match="rank 0"):
            made.logs.set_mode(False, None, 33)
        core = made.client._loop
        assert made.client.ask(lambda: (core.dispatcher.window, [each.streaming for each in core.reactor.peers])) == (
            60.0,
            [True] * 2,
        )
        assert second.level() == 25
        os.kill(first.pid, signal.SIGCONT)
        until(lambda: first.level() == 25)
        assert made.member(2).level() == 25


def test_logging_option_and_set_mode_refuse_an_invalid_mode_with_the_same_message() -> None:
    with this_host().spawn_procs(per_host={"gpus": 1}, handlers=[RecordCollector()], start_method="fork") as procs:
        texts = []
        for refuse in (
            lambda: procs.logging_option(stream_to_client=False, aggregate_window_sec=3),
            lambda: procs.logging.set_mode(False, 3, "INFO"),
        ):
            with pytest.raises(SettingError) as caught:
                refuse()
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


@pytest.mark.parametrize("at", ["prepare", "commit"])
def test_an_interrupt_leaves_no_transaction_open(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Prepare if at == "prepare" else Commit
    with mesh() as made:
        member = made.member(0)
        original = LoggingMeshClient._responses

        def interrupted(self: LoggingMeshClient, order: Command, asked: Any) -> Any:
            answers = original(self, order, asked)
            if isinstance(order, kind):
                raise KeyboardInterrupt
            return answers

        with monkeypatch.context() as patched:
            patched.setattr(LoggingMeshClient, "_responses", interrupted)
            with pytest.raises(KeyboardInterrupt):
                made.logs.configure({"version": 1, "root": {"level": 33}})
        expected = logging.WARNING if at == "prepare" else 33
        until(lambda: member.level() == expected)
        made.logs.set_level(44)
        assert member.level() == 44
        made.logs.configure({"version": 1, "loggers": {NAME: {"level": 11}}})
        assert member.level(NAME) == 11


def test_a_rollback_restores_a_level_and_the_time_at_which_it_expires() -> None:
    with mesh() as made:
        member = made.member(0)
        made.logs.set_level(15, for_sec=0.5)
        order = Prepare(made.client.next_request(), level_config(33))
        chosen = made.logs._chosen(None)
        made.logs._ask(order, chosen)
        assert member.level() == 33
        made.logs._roll_back(order.request, chosen, wait=True)
        assert member.level() == 15
        until(lambda: member.level() == logging.WARNING)


def test_garbage_collection_stops_the_client_without_waiting() -> None:
    with mesh() as made:
        other = LogClient(RecordCollector()).start()
        logs: LoggingMeshClient | None = LoggingMeshClient(other, "mesh", None)
        made.client = other
        member = made.member(0)
        stop_process(member.pid)  # a flush would wait for it
        cycle: list[Any] = [logs]
        cycle.append(cycle)
        del cycle, logs
        began = time.monotonic()
        gc.collect()
        assert time.monotonic() - began < 5.0  # half of what a flush would take
        until(lambda: not other.running, DEADLINE, "the client to be stopped")
        until(lambda: not any(thread.name == "meshlog-stop" for thread in threading.enumerate()), DEADLINE)


def test_a_client_that_is_garbage_collected_on_its_own_thread_is_stopped() -> None:
    client = LogClient(RecordCollector()).start()
    cycle: list[Any] = [LoggingMeshClient(client, "mesh", None)]
    cycle.append(cycle)
    gc.disable()
    try:
        del cycle
        client.ask(gc.collect)
    finally:
        gc.enable()
    until(lambda: not client.running, DEADLINE, "the client to be stopped")
    until(lambda: not any(thread.name == "meshlog-stop" for thread in threading.enumerate()), DEADLINE)


class Leaves:
    """A handler, or a sys.stdout, that raises SystemExit."""

    closed = False

    def __init__(self, quiet: bool = False) -> None:
        if not quiet:
            raise SystemExit(3)

    def flush(self) -> None:
        raise SystemExit(3)


def replace_stdout() -> None:
    """Replace sys.stdout by an object that raises when it is flushed."""
    sys.stdout = Leaves(quiet=True)


def test_an_exception_that_a_rank_raises_in_a_command_is_its_answer() -> None:
    factory = {"version": 1, "handlers": {"bad": {"()": f"{__name__}.Leaves"}}, "root": {"handlers": ["bad"]}}
    with this_host().spawn_procs(per_host={"gpus": 1}, handlers=[RecordCollector()], start_method="fork") as procs:
        with pytest.raises(RankError, match="SystemExit"):
            procs.logging.configure(factory)
        assert procs.flush(10).get().acked == (0,)
        procs.call(replace_stdout).get(DEADLINE)
        assert procs.flush(10).get().acked == (0,)
        procs.logging.set_level("DEBUG")


@pytest.mark.parametrize("how", ["set_level", "configure"])
def test_a_worker_that_joins_a_relay_while_a_command_is_pending_applies_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh() as made, LogRelay(made.client.address) as relay:
        joining, go_on = threading.Event(), threading.Event()
        assert relay._uplink is not None
        send = relay._uplink.send

        def later(message: Message) -> None:
            if isinstance(message, DownstreamJoined):
                joining.set()
                assert go_on.wait(DEADLINE)
            send(message)

        monkeypatch.setattr(relay._uplink, "send", later)
        above, made.client = made.client, relay.client
        late = made.start(0)
        assert joining.wait(10)  # the relay has accepted the worker; the client upstream does not know it yet
        if how == "set_level":
            made.logs.set_level(33)
        else:
            made.logs.configure({"version": 1, "root": {"level": 33}})
        go_on.set()
        late.joined()
        until(lambda: late.level() == 33)
        until(lambda: not any(getattr(source, "unacknowledged", ()) for source in above._loop.reactor.peers))
        made.end()
