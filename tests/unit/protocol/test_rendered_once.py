"""What a program's own classes show is rendered once, and is the same as in a plain program."""

from __future__ import annotations

import logging
import sys

from meshlog_handler.protocol import known_traces
from meshlog_handler.protocol.encode import SchemaTable, encode_record


def _failed(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception:
        return logging.LogRecord("a", logging.ERROR, "/a.py", 1, "failed", (), sys.exc_info())


def test_a_type_with_a_new_name_is_another_type() -> None:
    class Renamed(Exception):
        pass

    table = SchemaTable()
    encode_record(_failed(Renamed("x")), table)
    record = _failed(Renamed("x"))
    assert known_traces.find(record.exc_info) is not None
    Renamed.__module__ = "elsewhere"
    assert known_traces.find(record.exc_info) is None
