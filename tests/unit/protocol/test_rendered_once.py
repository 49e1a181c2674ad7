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


def test_an_exception_and_the_arguments_are_rendered_once() -> None:
    calls: list[str] = []

    class Counted(Exception):
        def __str__(self) -> str:
            calls.append("error")
            return "text"

    class Argument:
        def __str__(self) -> str:
            calls.append("argument")
            return "text"

    record = _failed(Counted())
    record.msg, record.args = "failed %s", (Argument(),)
    encode_record(record, SchemaTable())
    assert sorted(calls) == ["argument", "error"]


def test_an_exception_without_a_text_is_not_known() -> None:
    class Unshown(Exception):
        def __str__(self) -> str:
            raise ValueError

    table = SchemaTable()
    for _ in range(3):
        record = _failed(Unshown())
        assert b"<exception str() failed>" in encode_record(record, table).data
        assert known_traces.find(record.exc_info) is None
