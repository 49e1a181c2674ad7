"""What an observer reads from its connection."""

from __future__ import annotations

import logging
import socket

from meshlog_handler.cli.view.observer import Observer
from meshlog_handler.protocol.encode import SchemaTable
from meshlog_handler.protocol.frames import CONTROL, DATA, frame
from meshlog_handler.protocol.observer_messages import Missed
from meshlog_handler.protocol.relayed_records import encode_relayed


def test_what_was_missed_is_reported_although_nothing_more_is_shown() -> None:
    record = logging.LogRecord("app", logging.INFO, "app.py", 7, "step %d", (7,), None)
    here, there = socket.socketpair()
    with Observer(here) as observer:
        with there:
            there.sendall(frame(DATA, encode_relayed(record, SchemaTable()).data) + frame(CONTROL, Missed(5, 2).encode()))
        assert [template.text(values) for _, template, values in observer.items(0) or ()] == ["step 7"]
        assert observer.dropped == 0
        assert observer.items(None) == []
        assert (observer.dropped, observer.dropped_errors) == (5, 2)
        assert observer.items(None) is None
