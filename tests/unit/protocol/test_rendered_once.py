"""What a program's own classes show is rendered once, and is the same as in a plain program."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from meshlog_handler.protocol import known_traces
from meshlog_handler.protocol.encode import SchemaTable, encode_record, texts_of, with_texts
from meshlog_handler.protocol.packers import NotPacked, packer


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


class Counted:
    """Its text says how often it was made."""

    count = 0

    def __str__(self) -> str:
        self.count += 1
        return f"\ud800 {self.count}"


def test_a_text_that_does_not_fit_its_schema_is_made_once() -> None:
    table, counted = SchemaTable(), Counted()
    for number in range(1, 4):
        record = logging.LogRecord("a", logging.INFO, "/a.py", 1, "at %s of %d", (counted, 10**30), None)
        encode_record(record, table)
        assert counted.count == number


def test_the_texts_of_a_record_that_was_not_written_are_known() -> None:
    table = SchemaTable()
    record = logging.LogRecord("a", logging.INFO, "/a.py", 1, "at %s of %d and %s", (Path("b"), 2, Path("c")), None)
    encode_record(record, table).commit_schema()
    (pack,) = table.values()
    assert texts_of(ValueError(), pack(1.0, 2.0, 3.0, *record.args), table) == {0: "b", 2: "c"}  # type: ignore[misc]  # a tuple
    known = with_texts(record, {0: "b", 2: "c"})
    assert known.args == ("b", 2, "c")
    assert known.getMessage() == record.getMessage()


def test_the_texts_that_were_made_before_a_failure_are_known() -> None:
    pack = packer(1, "osoo")
    with pytest.raises(NotPacked) as failed:
        pack(1.0, 2.0, 3.0, Path("a"), "text", Counted(), Path("never reached"))
    assert failed.value.texts == {0: "a", 2: "\ud800 1"}
