"""A record arrives with the attributes that it had at the call, also those that a filter or a factory changed."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import SchemaTable
from meshlog_handler.protocol.relayed_records import RelayedTemplate, encode_relayed

from ..crossing import IDENTITY, cross, decode, encode, make, no_side_file

FIRST, SECOND = "first", "second"
CHANGED: dict[str, tuple[Any, Any]] = {
    "processName": ("job-a", None),
    "process": (11, None),
    "thread": (1, None),
    "threadName": (FIRST, None),
    "module": (FIRST, None),
    "filename": (FIRST, SECOND),
    "pathname": (FIRST, SECOND),
    "funcName": (FIRST, SECOND),
    "lineno": (1, 2),
    "levelname": (FIRST, SECOND),
    "levelno": (21, 22),
    "name": (FIRST, SECOND),
    "relativeCreated": (5.0, 7.25),
    "created": (5.0, 7.25),
    "msecs": (5.0, 7.25),
    "stack_info": (FIRST, SECOND),
    "exc_text": (FIRST, SECOND),
}
if sys.version_info >= (3, 12):
    CHANGED["taskName"] = (FIRST, SECOND)
STYLES: dict[str, tuple[Any, ...]] = {
    "plain arguments": ("step %d of %s", 5, "ten"),
    "no arguments": ("a constant",),
    "odd arguments": ("%s", object),
    "a dict": ("%(a)s", {"a": 1}),
    "data": ({"event": "saved"},),
}


def records(style: str, name: str, **extra: Any) -> list[logging.LogRecord]:
    return [make(*STYLES[style], **{**extra, name: value}) for value in CHANGED[name] * 2]


@pytest.mark.parametrize("extra", [{}, {"user": "ann"}], ids=["plain", "with extra"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_attribute_arrives_unchanged(name: str, style: str, extra: dict[str, Any]) -> None:
    found = cross(make(*STYLES[style]), *records(style, name, **extra))
    assert [vars(each)[name] for each in found[1:]] == [*CHANGED[name] * 2]


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_attribute_arrives_unchanged_through_a_relay(name: str) -> None:
    table, items = SchemaTable(), list[Item]()
    decoder = RecordDecoder(IDENTITY, no_side_file, None, RelayedTemplate)
    for record in cross(*records("plain arguments", name)):
        encoded = encode_relayed(record, table)
        encoded.commit_schema()
        decoder.decode(encoded.data, 0, 9, items)
    assert [vars(template.build(values))[name] for _, template, values in items] == [*CHANGED[name] * 2]


def test_times_are_equal_to_the_last_bit() -> None:
    sent = [make("step %d", number) for number in range(9)]
    for found, record in zip(cross(*sent), sent, strict=True):
        assert (found.created, found.msecs, found.relativeCreated) == (record.created, record.msecs, record.relativeCreated)


class Braces(logging.LogRecord):
    def getMessage(self) -> str:
        args: Any = self.args
        return str(self.msg).format(*args)


def test_a_known_call_site_may_log_another_record_class() -> None:
    plain, other = make("{} is %s", "x"), Braces("app.part", logging.INFO, "/srv/app.py", 7, "{} is %s", ("x",), None, "work")
    texts = [found.getMessage() for found in cross(plain, other, plain, other)]
    assert texts == ["{} is x", "x is %s", "{} is x", "x is %s"]


def test_a_get_message_set_by_a_factory_makes_the_text() -> None:
    record = make("{} is %s", "x")
    record.getMessage = lambda: "from the factory"  # type: ignore[method-assign]  # as factories do
    assert [found.getMessage() for found in cross(make("{} is %s", "x"), record)] == ["{} is x", "from the factory"]


def test_records_have_no_additional_attributes() -> None:
    names = vars(logging.makeLogRecord({})).keys() | {"rank", "local_rank", "hostname", "coords", "stream"}
    for style in STYLES:
        (found,) = cross(make(*STYLES[style]))
        assert vars(found).keys() == names
    if sys.version_info < (3, 12):
        (found,) = cross(make("m", taskName="mine"))
        assert vars(found)["taskName"] == "mine", "an ordinary extra before Python 3.12"


def test_records_with_data_as_message_are_grouped_by_text() -> None:
    aggregator = Aggregator(1.0)
    for number in range(3):
        for _, template, values in decode(encode([make({"event": "step", "n": number}), make(["other", number])])):
            aggregator.add(template, values, 0.0)
    assert [record.getMessage() for record in aggregator.flush()] == [
        "[3 similar log lines] [rank 3] {'event': 'step', 'n': 0..2}",
        "[3 similar log lines] [rank 3] ['other', 0..2]",
    ]
