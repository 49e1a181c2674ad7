"""The client's formatters format an exception like the formatters of its process."""

from __future__ import annotations

import copy
import gc
import io
import linecache
import logging
import os
import pickle
import sys
import traceback
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.protocol import exceptions
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import SchemaTable
from meshlog_handler.protocol.exceptions import describe, exc_info, is_failure
from meshlog_handler.protocol.record import MeshRecord
from meshlog_handler.protocol.relayed_records import RelayedTemplate, encode_relayed

from .. import failing
from ..crossing import IDENTITY, cross, decode, encode, make, no_side_file
from .test_codec import plain

STANDARD = logging.Formatter()


def across(record: logging.LogRecord) -> list[MeshRecord]:
    """Return a record as decoded by a client, and by the upstream client of a relay."""
    (found,) = cross(record)
    items: list[Item] = []
    RecordDecoder(IDENTITY, no_side_file, None, RelayedTemplate).decode(encode_relayed(found, SchemaTable()).data, 0, 9, items)
    return [found, *(template.build(values) for _, template, values in items)]


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).removesuffix("\n")


@pytest.mark.parametrize("function", failing.ALL)
def test_stand_ins_format_like_the_original(function: Any) -> None:
    original = failing.caught(function)
    text = STANDARD.formatException(original)
    for found in across(make("failed", exc_info=original)):
        assert found.exc_text == text
        assert found.exc_info is not None
        kind, error, trace = found.exc_info
        assert kind is not None
        assert STANDARD.formatException(found.exc_info) == text
        assert STANDARD.format(found) == f"failed\n{text}"
        assert (kind.__name__, kind.__qualname__, kind.__module__) == tuple(
            getattr(original[0], name) for name in ("__name__", "__qualname__", "__module__")
        )
        assert str(error) == str(original[1]) or "Did you mean" in str(error)
        assert isinstance(error, next(base for base in original[0].__mro__ if base.__module__ == "builtins"))
        assert [frame.name for frame in traceback.extract_tb(trace)] == [f.name for f in traceback.extract_tb(original[2])]


def test_records_with_stand_ins_can_be_copied_and_pickled() -> None:
    for found in across(make("failed", exc_info=failing.caught(failing.with_a_context))):
        for copied in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert STANDARD.formatException(copied.exc_info) == found.exc_text  # type: ignore[arg-type]  # there is one
        assert found.exc_info is not None
        again = pickle.loads(pickle.dumps(found.exc_info[1]))
        assert repr(again) == repr(found.exc_info[1])


class OneLine(logging.Formatter):
    """The formatter of the logging cookbook."""

    def formatException(self, ei: Any) -> str:
        return repr(super().formatException(ei))


def test_a_formatter_of_the_program_formats_exceptions_itself() -> None:
    original = failing.caught(failing.with_a_cause)
    out, theirs = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(out), logging.StreamHandler(theirs)]
    handlers[1].setFormatter(OneLine())
    (record,) = cross(make("failed", exc_info=original))
    Sink(handlers).deliver(record)
    assert out.getvalue() == f"failed\n{STANDARD.formatException(original)}\n"
    assert theirs.getvalue() == f"failed\n{OneLine().formatException(original)}\n"


def test_an_exception_in_a_dict_message_arrives_as_an_exception() -> None:
    original = failing.caught(failing.with_a_cause)
    for given_as in (original, original[1]):
        record = make({"event": "failed", "exc_info": given_as})
        for found in across(record):
            assert found.getMessage() == record.getMessage()
            assert found.exc_info is None
            message: Any = found.msg
            assert message["event"] == "failed"
            assert text_of(message["exc_info"]) == STANDARD.formatException(original)
    try:
        failing.over_lines()
    except ZeroDivisionError:
        text = STANDARD.formatException(sys.exc_info())
        (found,) = cross(make({"event": "failed", "exc_info": True}))
        message = found.msg
        assert text_of(message["exc_info"]) == text
    (found,) = cross(make({"event": "nothing", "exc_info": True}))
    assert found.msg == {"event": "nothing", "exc_info": True}


def test_an_exception_in_record_and_message_arrives_in_both() -> None:
    original = failing.caught(failing.with_a_cause)
    for found in across(make({"event": "failed", "exc_info": True}, exc_info=original)):
        message: Any = found.msg
        assert found.getMessage() == "{'event': 'failed', 'exc_info': True}"
        assert text_of(message["exc_info"]) == found.exc_text == STANDARD.formatException(original)


def test_a_message_keeps_other_values_of_exc_info() -> None:
    try:
        failing.over_lines()
    except ZeroDivisionError:
        for value in ("a text", 5, ("a", 1, None), {"a": 1}):
            assert cross(make({"exc_info": value}))[0].msg == {"exc_info": value}


def test_exception_information_without_an_exception() -> None:
    for found in across(make("failed", exc_info=(None, None, None))):
        assert (found.exc_info, found.exc_text) == ((None, None, None), "NoneType: None")


def test_exceptions_are_grouped_by_type_and_place() -> None:
    aggregator = Aggregator(1.0)
    for function in (failing.over_lines, failing.of_text, failing.over_lines):
        for _, template, values in decode(encode([make("failed", exc_info=failing.caught(function))])):
            aggregator.add(template, values, 0.0)
    first, second = aggregator.flush()
    assert first.getMessage() == "[2 similar log lines] [rank 3] failed"
    assert first.exc_info is not None
    assert isinstance(first.exc_info[1], ZeroDivisionError)
    assert "UnicodeDecodeError" in str(second.exc_text)


def test_an_exception_that_cannot_be_described_has_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    original = failing.caught(failing.over_lines)

    def refuse(*_: object) -> None:
        raise LookupError("cannot be described")

    monkeypatch.setattr("meshlog_handler.protocol.encode.describe", refuse)
    (found,) = cross(make("failed", exc_info=original))
    assert (found.exc_text, found.exc_info) == (STANDARD.formatException(original), None)


def test_a_deep_traceback_keeps_both_ends() -> None:
    (found,) = cross(make("failed", exc_info=failing.caught(lambda: failing.deep(300))))
    assert "repeated 298 more times" in str(found.exc_text)
    assert found.exc_info is not None
    frames = traceback.extract_tb(found.exc_info[2])
    assert len(frames) == 100
    assert (frames[0].name, frames[-1].name) == ("caught", "deep")


def test_stand_in_frames_keep_no_other_objects_alive() -> None:
    class Held:
        pass

    def make_one(held: Held) -> Any:
        original = failing.caught(lambda: failing.deep(7))
        trace = traceback.TracebackException(*original, compact=True)
        return exc_info(describe(original[1], trace))

    held = Held()
    watch = weakref.ref(held)
    found = make_one(held)
    frames = [frame for frame, _ in traceback.walk_tb(found[2])]
    assert all(frame.f_back is None and not frame.f_locals for frame in frames)
    assert all(frame.f_lasti >= 0 for frame in frames)
    del held
    gc.collect()
    assert watch() is None


def test_special_files_are_not_read_as_source(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    for filename in (fifo, "/dev/zero", str(tmp_path), "a\0b", "\ud800"):
        frame = (filename, 1, "f", 1, 0, 1)
        failure = ("ValueError", "m", "E", "why", None, (frame,), None, None, None)
        assert is_failure(failure)
        assert STANDARD.formatException(exc_info(failure)).endswith("m.E: why")


@pytest.mark.skipif(not os.path.isfile("/proc/self/pagemap"), reason="this system has no such file")
def test_a_file_without_a_size_is_not_read_as_source() -> None:
    failure = ("ValueError", "m", "E", "why", None, (("/proc/self/pagemap", 1, "f", 1, 0, 1),), None, None, None)
    trace = exc_info(failure)[2]
    assert trace is not None
    assert trace.tb_frame.f_code.co_filename == "</proc/self/pagemap>"


def test_the_source_files_of_frames_take_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exceptions, "_MAX_SOURCES", 5_000)
    names = [str(tmp_path / f"source{number}.py") for number in range(20)]
    for name in names * 2:
        Path(name).write_text("raise E\n" + "#" * 1000)
        failure = ("ValueError", "m", "E", "why", None, ((name, 1, "f", 1, 0, 7),), None, None, None)
        assert "raise E" in STANDARD.formatException(exc_info(failure))
        assert sum(each in linecache.cache for each in names) <= 5


places = st.none() | st.integers(-2, 3) | st.integers(0, 1 << 40)
frames = st.tuples(st.text(max_size=3), places, st.text(max_size=3), places, places, places)
failures = st.recursive(
    st.none(),
    lambda inner: st.tuples(
        st.sampled_from(["ValueError", "KeyError", "SyntaxError", "OSError", "ExceptionGroup", "print", "SystemExit", ""])
        | st.text(max_size=3),
        st.text(max_size=3),
        st.text(max_size=3),
        st.text(max_size=3),
        st.none() | st.lists(st.text(max_size=3), max_size=2).map(tuple),
        st.lists(frames, max_size=3).map(tuple),
        inner,
        inner,
        st.none() | st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=4,
)


@given(failures | plain | st.tuples(*[plain] * 9))
@example(("ValueError", "", "a\0", "", None, (), None, None, None))
@example(("ValueError", "", "a\ud800", "", None, (), None, None, None))
def test_any_data_is_a_valid_failure_or_is_rejected(value: Any) -> None:
    if is_failure(value):
        pack(value)
        assert isinstance(STANDARD.formatException(exc_info(value)), str)
