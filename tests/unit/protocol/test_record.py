"""A `MeshInfo` is separate from the attributes of its record."""

from __future__ import annotations

import copy
import logging
import logging.handlers
import pickle
import queue
import socket
from typing import Any

import pytest

from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.output.console import RanksFilter
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import SchemaTable
from meshlog_handler.protocol.record import MeshInfo, info_of, shown_kind
from meshlog_handler.protocol.relayed_records import RelayedTemplate, encode_relayed
from meshlog_handler.testing import RecordCollector

from ..crossing import IDENTITY, cross, decode, encode, make, no_side_file

KNOWN = MeshInfo(3, 1, "node", {"gpus": 3})
OURS = {name: f"the program's {name}" for name in (*MeshInfo.__slots__, "meshlog", "raw_text", "getMessage", "_message")}


def test_a_record_has_no_other_attributes() -> None:
    record = make("x %s", object())
    try:
        raise ValueError("x")
    except ValueError as failure:
        record.exc_info = type(failure), failure, failure.__traceback__
    for each in (*cross(record), *cross(make("x"))):
        assert vars(each).keys() == {*vars(logging.makeLogRecord({})), "rank", "local_rank", "hostname", "coords", "stream"}


@pytest.mark.parametrize("text", ["a constant", "x %d"])
def test_extras_of_any_name_keep_their_values(text: str) -> None:
    (found,) = cross(make(text, *[1] * text.count("%"), **OURS))
    assert {name: vars(found)[name] for name in OURS} == OURS
    assert found.meshlog == KNOWN
    assert found.getMessage() == text.replace("%d", "1")
    assert logging.Formatter("%(message)s %(rank)s").format(found) == f"{found.getMessage()} the program's rank"


def test_extras_of_any_name_pass_through_an_aggregator_and_a_relay() -> None:
    aggregator = Aggregator(1.0, digests=True)
    for _, template, values in decode(encode([make("x %s", [1], **OURS), make("x %s", [2], **OURS)])):
        aggregator.add(template, values, 0.0)
    (record,) = aggregator.flush()
    assert (info_of(record).count, info_of(record).ranks) == (2, (3,))
    items: list[Item] = []
    RecordDecoder(IDENTITY, no_side_file, None, RelayedTemplate).decode(encode_relayed(record, SchemaTable()).data, 0, 9, items)
    ((_, template, values),) = items
    assert template.digest
    again = template.build(values)
    for found in (record, again):
        assert {name: vars(found)[name] for name in OURS} == OURS
    assert again.meshlog == info_of(record)


def test_copies_and_pickles_keep_the_mesh_info() -> None:
    (record,) = cross(make("x %d", 1, rank="first"))
    handler = logging.handlers.QueueHandler(queue.Queue())
    for copied in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record)), handler.prepare(record)):
        assert info_of(copied) == KNOWN
        assert vars(copied)["rank"] == "first"


def test_a_copy_of_the_attributes_has_the_same_mesh_info() -> None:
    (record,) = cross(make("x"))
    assert info_of(logging.makeLogRecord(vars(record))) == KNOWN
    odd = logging.makeLogRecord({"rank": "first", "stream": 5, "progress": True, "ranks": "all", "coords": None})
    assert info_of(odd) == MeshInfo()
    assert RanksFilter("3").filter(odd)


class Empty:
    """An object to which formatters that colour a message, such as coloredlogs', give the class of the record."""

    msg: object


def test_the_class_of_a_record_can_be_given_to_an_object_with_a_copy_of_its_attributes() -> None:
    kept = RecordCollector()
    Sink([kept]).show_here(make("x %d", 1))
    for record in (*cross(make("x %d", 1)), *kept.records):
        copied: Any = Empty()
        copied.__class__ = record.__class__
        vars(copied).update(vars(record))
        copied.msg = f"<{record.msg}>"
        assert logging.Formatter("%(message)s %(hostname)s").format(copied) == f"<x 1> {vars(record)['hostname']}"
        assert isinstance(copied, logging.LogRecord)
        assert type(record) is not logging.LogRecord


def test_a_mesh_info_is_immutable() -> None:
    with pytest.raises(AttributeError, match="cannot be changed"):
        KNOWN.rank = 4
    with pytest.raises(AttributeError, match="cannot be changed"):
        del KNOWN.rank
    assert KNOWN.but(rank=4) == MeshInfo(4, 1, "node", {"gpus": 3})
    assert KNOWN.rank == 3
    assert repr(KNOWN) == "MeshInfo(rank=3, local_rank=1, hostname='node', coords={'gpus': 3})"


class Loud(logging.LogRecord):
    """A record class of the program."""

    def getMessage(self) -> str:
        return super().getMessage().upper()

    @property
    def length(self) -> int:
        return len(self.msg)


def test_a_shown_record_keeps_its_own_class() -> None:
    record = Loud("a", logging.INFO, "a.py", 1, "hello %d", (5,), None)
    kept = RecordCollector()
    sink = Sink([kept])
    sink.show_here(record)
    sink.show_here(make("%d", "x"))
    shown, broken = kept.records
    assert not hasattr(record, "meshlog")
    for each in (shown, copy.copy(shown), pickle.loads(pickle.dumps(shown))):
        assert isinstance(each, Loud)
        assert (each.getMessage(), each.length) == ("HELLO 5", 8)
        assert info_of(each).hostname == socket.gethostname()
        assert "meshlog" not in vars(each)
    assert shown_kind(type(record)) is type(shown)
    with pytest.raises(TypeError):
        broken.getMessage()  # as in plain logging, where the handler reports it
