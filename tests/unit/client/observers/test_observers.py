"""What an observer that reads nothing costs the client, and what it gets when it reads again."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.cli.view.observer import Observer
from meshlog_handler.client.observers import observers
from meshlog_handler.client.observers.observers import Observers
from meshlog_handler.dispatch import sink
from meshlog_handler.dispatch.dispatcher import Dispatcher
from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.protocol.messages import Welcome
from meshlog_handler.protocol.observer_messages import Ask, Follow, Reply
from meshlog_handler.protocol.record import MeshInfo, MeshRecord
from meshlog_handler.system.error_reports import ErrorReports

EVERYTHING = Follow(0, None, 0)
FOLLOWS = [EVERYTHING, Follow(logging.INFO, None, 0), Follow(0, (0, 1), 0)]


def answer(question: Ask) -> Reply:
    return pytest.fail("nobody asks")


def record_of(level: int) -> logging.LogRecord:
    plain = logging.LogRecord("app", level, "app.py", 7, "step %d of a training", (7,), None)
    info = MeshInfo(0)
    return MeshRecord.of({**plain.__dict__, **info.attributes()}, info)


class Watched:
    """The observers of a client without the client, and one of them, which follows and reads nothing."""

    def __init__(self, follows: Follow, ends: tuple[socket.socket, socket.socket]) -> None:
        self.dispatcher = Dispatcher(Sinks(Sink([logging.NullHandler()])))
        self.observers = Observers(
            self.dispatcher, answer=answer, post=lambda fn: None, backlog=lambda: (), reports=ErrorReports()
        )
        reactor: Any = SimpleNamespace(attend=lambda *words: None)
        self.observers.attach(reactor)
        connection: Any = SimpleNamespace(sock=ends[0], pid=os.getpid())
        self.observers.add(connection, Welcome(None, "", ()))
        assert ends[1].recv(65536)  # the welcome
        (self.observer,) = self.observers._observers
        self.observers._follow(self.observer, follows)
        self.shown = 0

    def show(self, count: int, level: int = logging.INFO) -> None:
        record = record_of(level)
        for _ in range(count):
            self.dispatcher.show(record)
        self.shown += count
        self.observers.end_tick()

    def fill(self, tick: int = 700, level: int = logging.INFO) -> None:
        """Show records until none of this level is taken, although the socket has all that fits."""
        self.show(tick, level)
        while self.dispatcher.tap_level <= level:
            self.show(tick, level)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with closing(here), closing(there):
        yield here, there


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than otherwise, so that it is full soon."""
    monkeypatch.setattr(observers, "MAX_UNREAD", 256 << 10)
    monkeypatch.setattr(observers, "MAX_ERRORS", 64 << 10)
    monkeypatch.setattr(observers, "_SEGMENT", 16 << 10)


def received(watched: Watched, there: socket.socket) -> tuple[list[int], Observer]:
    """Return the levels of what arrives when all of it is read, and the observer that has counted the rest."""
    observer = Observer(there)
    while observer.hold(0) or watched.observer.outbox or watched.observer.missed:
        watched.observers._write(watched.observer)
        watched.observers.end_tick()
    levels: list[int] = []
    while observer._segments or observer._left_out.count:
        levels += [template.levelno for _, template, _ in observer.items(0) or () if template is not None]
    return levels, observer


@pytest.mark.parametrize("tick", [1, 700, 5000])
@pytest.mark.parametrize("follows", FOLLOWS, ids=["all", "a level", "ranks"])
def test_records_for_an_observer_that_reads_nothing_are_not_even_seen(
    follows: Follow, tick: int, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(follows, ends)
    watched.fill(tick)
    monkeypatch.setattr(watched.observers, "handle", lambda record: pytest.fail("it is seen"))
    missed = watched.observer.missed
    watched.show(20 * tick)
    assert len(watched.observer.outbox) <= observers.MAX_UNREAD
    assert watched.observer.missed == missed + 20 * tick


def test_no_tick_tries_again_what_the_socket_has_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    watched = Watched(EVERYTHING, ends)
    watched.fill()
    real, watched.observer.sock = watched.observer.sock, SimpleNamespace(send=lambda data: pytest.fail("it is full"))  # type: ignore[assignment]  # it has what is called
    watched.show(10)
    watched.observer.sock = real


def test_records_of_other_threads_for_an_observer_that_reads_nothing_are_only_counted(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(EVERYTHING, ends)
    watched.fill()
    monkeypatch.setattr(observers, "RecordEncoder", lambda *words: pytest.fail("it is encoded"))
    missed = watched.observer.missed
    for _ in range(50):
        watched.observers.handle_elsewhere(record_of(logging.INFO))
    watched.observers.end_tick()
    assert watched.observer.missed == missed + 50


def test_a_record_of_another_thread_is_not_copied_for_the_handlers(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(EVERYTHING, ends)
    monkeypatch.setattr(sink, "_with", lambda *words: pytest.fail("it is copied"))
    shows = Sink([logging.StreamHandler(io.StringIO())])
    shows.tap = watched.observers
    shows.show_here(logging.LogRecord("app", logging.INFO, "app.py", 7, "step %d", (7,), None))
    watched.observers._take_here()
    watched.observers.end_tick()
    with Observer(ends[1]) as observer:
        (item,) = observer.items(0) or []
    _, template, values = item
    record = template.build(values)
    assert (record.name, record.getMessage(), record.rank, record.hostname) == ("app", "step 7", None, socket.gethostname())


def test_a_slow_observer_gets_the_errors(ends: tuple[socket.socket, socket.socket]) -> None:
    watched = Watched(EVERYTHING, ends)
    watched.fill()
    for _ in range(20):
        watched.show(50)
        watched.show(5, logging.ERROR)
        watched.observers.handle_elsewhere(record_of(logging.CRITICAL))
        watched.observers._take_here()
    levels, observer = received(watched, ends[1])
    assert [level for level in levels if level > logging.INFO] == ([logging.ERROR] * 5 + [logging.CRITICAL]) * 20
    assert len(levels) + observer.dropped == watched.shown + 20
    assert observer.dropped >= 20 * 50
    assert observer.dropped_errors == 0


def test_the_errors_that_do_not_fit_are_counted(ends: tuple[socket.socket, socket.socket]) -> None:
    watched = Watched(EVERYTHING, ends)
    watched.fill()
    errors = watched.dispatcher.errors
    watched.fill(level=logging.ERROR)
    watched.show(1000, logging.ERROR)
    watched.show(1000)
    assert len(watched.observer.outbox) <= observers.MAX_UNREAD + observers.MAX_ERRORS
    errors = watched.dispatcher.errors - errors
    levels, observer = received(watched, ends[1])
    assert levels.count(logging.ERROR) + observer.dropped_errors == errors
    assert observer.dropped_errors >= 1000
    assert len(levels) + observer.dropped == watched.shown


def test_an_observer_that_reads_again_gets_everything_again(ends: tuple[socket.socket, socket.socket]) -> None:
    watched = Watched(EVERYTHING, ends)
    watched.fill()
    _, observer = received(watched, ends[1])
    dropped = observer.dropped
    watched.show(10)
    assert len(observer.items(0) or ()) == 10
    assert observer.dropped == dropped


@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])
def test_a_client_that_is_behind_spends_a_part_of_its_time(
    level: int, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(observers, "monotonic", lambda: next(clock) / 1000)  # each record takes a millisecond
    watched = Watched(EVERYTHING, ends)
    watched.observers.end_tick(behind=True)
    for _ in range(10_000):
        watched.dispatcher.show(record_of(level))
    watched.shown = 10_000
    assert watched.dispatcher.tap_level > level
    watched.observers.end_tick(behind=True)
    levels, observer = received(watched, ends[1])
    assert 0 < len(levels) < 100
    assert len(levels) + observer.dropped == watched.shown
    assert observer.dropped_errors == (observer.dropped if level == logging.ERROR else 0)


class Clock:
    """A clock moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(observers, "monotonic", lambda: self.now)


def test_a_client_that_is_behind_sends_a_few_times_a_second(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, there = Clock(monkeypatch), ends[1]
    there.setblocking(False)
    watched = Watched(EVERYTHING, ends)
    watched.observers.end_tick(behind=True)
    sent = 0
    for _ in range(1000):  # a second
        clock.now += 0.001
        watched.dispatcher.show(record_of(logging.INFO))
        watched.shown += 1
        watched.observers.end_tick(behind=True)
        with contextlib.suppress(BlockingIOError):  # nothing was sent
            sent += bool(there.recv(1, socket.MSG_PEEK)) and bool(there.recv(65536))
    assert 8 <= sent <= 10
    watched.dispatcher.show(record_of(logging.INFO))
    watched.observers.end_tick()  # the client has shown everything
    assert there.recv(65536)


def test_what_an_observer_costs_a_tick_is_counted(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    watched = Watched(EVERYTHING, ends)
    write = watched.observers._write

    def slow_write(observer: Any) -> None:
        clock.now += 0.03
        write(observer)

    monkeypatch.setattr(watched.observers, "_write", slow_write)
    watched.observers.end_tick(behind=True)
    for _ in range(10):
        watched.dispatcher.show(record_of(logging.INFO))
    assert watched.dispatcher.tap_level > logging.INFO
    watched.shown = 10
    levels, observer = received(watched, ends[1])
    assert len(levels) == 1  # the one with which the client found that it has no time left
    assert observer.dropped == 9
