"""What an observer that reads nothing costs the client."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from meshlog_handler.client.observers import observers
from meshlog_handler.client.observers.observers import MAX_UNREAD, Observers
from meshlog_handler.protocol.messages import Welcome
from meshlog_handler.protocol.observer_messages import Ask, Follow, Reply
from meshlog_handler.protocol.relayed_records import encode_relayed


def answer(question: Ask) -> Reply:
    return pytest.fail("nobody asks")


@pytest.mark.parametrize("tick", [1, 700, 5000])
def test_records_for_an_observer_that_reads_nothing_are_only_counted(tick: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[logging.LogRecord] = []

    def noted(record: logging.LogRecord, table: Any) -> Any:
        encoded.append(record)
        return encode_relayed(record, table)

    monkeypatch.setattr(observers, "encode_relayed", noted)
    dispatcher: Any = SimpleNamespace(shown=0, tap=None, pause_tap=lambda paused: None)
    watched = Observers(dispatcher, answer=answer, post=lambda fn: None, backlog=lambda: ())
    reactor: Any = SimpleNamespace(attend=lambda *words: None)
    watched.attach(reactor)
    record = logging.LogRecord("app", logging.INFO, "app.py", 7, "step %d of a training", (7,), None)
    here, there = socket.socketpair()
    with closing(here), closing(there):
        connection: Any = SimpleNamespace(sock=here, pid=os.getpid())
        watched.add(connection, Welcome(None, "", ()))
        (observer,) = watched._observers
        watched._follow(observer, Follow(0, None, 0))
        while not encoded or len(observer.outbox) < MAX_UNREAD - 2 * observers._SEGMENT or watched._streams[0].open:
            for _ in range(tick):
                watched.handle(record)
            watched.end_tick()
        encoded.clear()
        for _ in range(20 * tick):
            watched.handle(record)
        watched.end_tick()
        assert not encoded
        assert len(observer.outbox) <= MAX_UNREAD
        assert observer.missed >= 20 * tick
