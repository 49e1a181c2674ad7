"""Whatever way a record takes, by its shape or in the tagged form, the client gets an equal one."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sys
import traceback
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol import known_traces
from meshlog_handler.protocol.decode import Item, RecordDecoder, TaggedTemplate
from meshlog_handler.protocol.encode import RecordEncoder, SchemaTable, definition, encode_known
from meshlog_handler.protocol.entries import MARK
from meshlog_handler.protocol.packers import NotPacked
from meshlog_handler.protocol.record import PLAIN_SIZE
from meshlog_handler.protocol.templates import ShapedTemplate

from ..crossing import IDENTITY, cross, decode, encode, make, no_side_file
from .test_codec import plain
from .test_traceback_text import chained, fail, module_of


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    HIGH = 35


class Own(str):
    def __str__(self) -> str:
        return "own"


class Broken:
    def __str__(self) -> str:
        raise LookupError("no text")


class OwnError(Exception):
    def __str__(self) -> str:
        return "as told"


objects = st.sampled_from(
    [
        PurePosixPath("/a/b"),
        Decimal("1.5"),
        datetime.date(2026, 1, 2),
        Colour.RED,
        Level.HIGH,
        Own("x"),
        Broken(),
        KeyError("k"),
    ]
)
values = (
    objects
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.booleans()
    | st.none()
    | st.sampled_from(["", "é", "\ud800", b"", b"ab", "%s"])
    | st.lists(objects | st.integers(0, 9), max_size=2)
    | plain
)
msgs = st.sampled_from(
    [
        "%s",
        "a %s",
        "%s and %s",
        "%r",
        "%5s|%-4s",
        "%.2s",
        "%d",
        "%s of %d",
        "%.2f",
        "%5.1f%% of %s",
        "%(a)s",
        "%(a)s %(b)r",
        "100%",
        "",
        "%%%s",
        "%y",
        "%*d",
    ]
)
mappings = st.dictionaries(st.sampled_from("ab") | st.just(Own("b")), values, min_size=1, max_size=2).map(lambda each: (each,))
widths = st.integers(-99, 99)  # one of many digits makes a text that fills the memory
extras = st.dictionaries(st.sampled_from(["user", "epoch", "rank", "größe", "message"]), values, max_size=2)


def _notes() -> None:
    error = ValueError("noted")
    vars(error)["__notes__"] = ["a note"]
    raise error


def _hidden_context() -> None:
    try:
        fail(0, "first")
    except ValueError:
        raise ValueError("second") from None


RAISES: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "one frame": lambda: 1 / 0,
    "some frames": lambda: fail(3, "deep"),
    "a text of two lines": lambda: fail(1, "one\ntwo"),
    "no text": lambda: fail(1, ""),
    "no value": lambda: {"b": 1}["a"],
    "own text": lambda: (_ for _ in ()).throw(OwnError(5)),
    "a cause": lambda: chained("x"),
    "a hidden context": _hidden_context,
    "notes": _notes,
    "a name": lambda: undefined,  # type: ignore[name-defined]  # noqa: F821  # the error that is wanted
    "an attribute": lambda: (5).imaginary,  # type: ignore[attr-defined]  # as above
    "a module": lambda: __import__("no.such.module"),
    "a system error": lambda: os.stat("/no/such/file"),
}


def caught(name: str) -> Any:
    try:
        RAISES[name]()
    except BaseException:
        return sys.exc_info()
    return None


@st.composite
def records(draw: st.DrawFn) -> logging.LogRecord:
    """Draw a record from few places and threads."""
    msg = draw(msgs)
    args = st.tuples(widths | objects, values) if "*" in msg else st.lists(values, max_size=2).map(tuple) | mappings
    made = make(msg, *draw(args), **draw(extras))
    made.lineno, made.thread = draw(st.integers(0, 1)), draw(st.sampled_from([1, 2, None]))
    made.exc_info = caught(draw(st.sampled_from(["none"] * 6 + list(RAISES))))
    return made


def encode_tagged(sent: list[logging.LogRecord]) -> bytes:
    """Return the entries of records in the tagged form."""
    table, parts = SchemaTable(), []
    for record in sent:
        encoded = RecordEncoder(record, fast=False)(table)
        encoded.commit_schema()
        parts += [encoded.data, bytes([MARK])]
    return b"".join(parts)


def shown(item: Item) -> dict[str, object]:
    """Return all that the client makes of an item."""
    when, template, given = item
    record = template.build(given)
    text = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info and record.exc_info[0] else None
    fields = {**record.__dict__, "exc_info": text, "message": record.getMessage(), "info": record.meshlog.failure}
    assert template.text(given) == record.getMessage()
    return {
        **{name: repr(value) for name, value in fields.items()},
        "when": when,
        "args of the template": repr(template.args(given)),
        "signature": template.signature(given),
        "failure": template.failure(given),
        "log": logging.Formatter("%(asctime)s %(levelname)s %(message)s").format(record),
    }


@settings(max_examples=200)
@given(st.lists(records(), min_size=1, max_size=3))
@example([make("%s of %d", PurePosixPath("/a/b"), {(): None})])
def test_a_schema_and_the_tagged_form_give_equal_records(sent: list[logging.LogRecord]) -> None:
    known, tagged = decode(encode([*sent] * 3)), decode(encode_tagged([*sent] * 3))
    assert all(isinstance(template, TaggedTemplate) for _, template, _ in tagged)
    for one, other in zip(map(shown, known), map(shown, tagged), strict=True):
        assert one == other


good = encode(
    [
        *[make("step %d", 1, user="ann", loss=0.5, none=None, raw=b"x", shape=[1, 2])] * 2,
        *[make("step %(n)d", {"n": 1})] * 2,
        *[make(f"step {number}", user=number) for number in range(3)],
        *[make("failed %s", PurePosixPath("a"), exc_info=caught("one frame"))] * 2,
        *[make("step %d", 1, thread=number) for number in range(90)],
    ]
)


@st.composite
def faulty(draw: st.DrawFn) -> bytes:
    """Draw a stream of shapes with some bytes changed."""
    stream = bytearray(good)
    for at in draw(st.lists(st.integers(0, 4000) | st.integers(0, len(good) - 1), min_size=1, max_size=4)):
        stream[at] = draw(st.integers(0, 255))
    return bytes(stream)


@settings(max_examples=150, deadline=None)
@given(faulty())
def test_any_bytes_are_items_or_raise_protocol_error(data: bytes) -> None:
    found: list[Item] = []
    with contextlib.suppress(ProtocolError):
        assert RecordDecoder(IDENTITY, no_side_file, "owner").decode(data, 0, 1 << 30, found) == len(data)
    for item in found:
        if item[1] is None:  # bytes that are a sentinel
            continue
        built = item[1].build(item[2])
        assert item[1].text(item[2]) == built.getMessage()
        assert isinstance(item[1].args(item[2]), tuple)
        hash((item[1].group, item[1].scope, item[1].signature(item[2])))
        logging.Formatter("%(name)s %(levelname)s %(message)s").format(built)
        assert built.meshlog.rank == IDENTITY["rank"]


@pytest.mark.parametrize(
    "shape",
    [
        (1, (), None),
        (2, ("user",), None),
        (("a", 5), (), None),
        (0, ("user", "rank\0", "args"), None),
        (1, ("msg",), None),
        (1, ("exc_info",), ("prefix", ())),
        (1, ("exc_info",), None),
        (-1, ("a", "b", "c"), None),
        (1, ("levelno",), None),
        (1, (5,), None),
        5,
        None,
    ],
)
def test_a_shape_that_does_not_match_its_values_is_refused(shape: object) -> None:
    common = {**make().__dict__, "args": None, "route": None, "shape": shape}
    with pytest.raises(ProtocolError):
        RecordDecoder(IDENTITY, no_side_file).decode(definition(1, "r=qq", 0.0, common), 0, 9, [])


@pytest.mark.parametrize("name", RAISES)
def test_the_text_of_a_known_traceback_is_that_of_logging(name: str) -> None:
    sent = [make("failed %d", number, exc_info=caught(name)) for number in range(3)]
    for record, found in zip(sent, cross(*sent), strict=True):
        expected = record.exc_info and logging.Formatter().formatException(record.exc_info)
        assert (found.exc_text or None) == expected


@pytest.mark.parametrize(
    "record",
    [
        lambda number: make("step %d", number, user="ann", loss=0.5, none=None),
        lambda number: make("step", user=PurePosixPath("a")),
        lambda number: make(f"step {number}", user=number),
        lambda number: make("step %(n)d", {"n": number}),
        lambda number: make("%s of %s", PurePosixPath("a"), number),
        lambda number: make("shape %s", [number, 2]),
        lambda number: make("failed", exc_info=caught("some frames")),
        lambda number: make("failed %s", number, exc_info=caught("some frames"), user=number),
        lambda number: make("step %d", number, thread=number, threadName=f"T{number}"),
        lambda number: make(f"step {number} %d", number),
        lambda number: make(f"step {number}", thread=number),
        lambda number: make("step %d", number, thread=number, user=number),
        lambda number: make("step %d", number, user=number, message=f"step {number}"),
        lambda number: make("at %s", type(f"Kind{number}", (), {})()),
        lambda number: make("at %s", number, user=type(f"Kind{number}", (), {})()),
    ],
)
def test_the_thousandth_record_is_as_cheap_as_the_second(record: Callable[[int], logging.LogRecord]) -> None:
    table = SchemaTable()
    items = decode(encode([record(number) for number in range(1000)], table))
    assert not any(isinstance(template, TaggedTemplate) for _, template, _ in items)
    last = record(1000)
    if len(last.__dict__) > PLAIN_SIZE or last.exc_info or type(last.args) is dict:
        assert encode_known(last, table, None) is not None
    assert len(table) <= 200


def test_threads_of_the_package_are_not_taken_for_threads_of_the_program() -> None:
    table = SchemaTable()
    encode([make("step %d", 1, thread=number) for number in range(200)], table)
    assert encode_known(make("step %d", 1, thread=5000), table, None, {7}) is not None
    assert encode_known(make("step %d", 1, thread=7), table, None, {7}) is None
    assert encode_known(make("step %d", 1, thread=None), table, None, {7}) is None


def test_one_exception_does_not_make_another_one_unknown() -> None:
    table = SchemaTable()
    sent = [make(f"at {line}", exc_info=caught("some frames"), lineno=line) for line in range(5)] * 3
    encode(sent, table)
    assert all(encode_known(record, table, None) is not None for record in sent)


def test_a_traceback_is_formatted_again_if_its_source_changes(tmp_path: Path) -> None:
    path, texts = tmp_path / "changing.py", []
    module = module_of(path, "def run():\n    raise ValueError  # 0\n", 1000)
    for number in range(6):
        if number % 2 == 0:
            path.write_text(f"def run():\n    raise ValueError  # {number}\n")
            os.utime(path, (1000 + number, 1000 + number))
        try:
            module.run()
        except ValueError:
            record = make("failed", exc_info=sys.exc_info())
        (found,) = cross(make("before"), record)[1:]
        assert found.exc_text == logging.Formatter().formatException(record.exc_info)  # type: ignore[arg-type]  # set above
        texts.append(found.exc_text)
    assert len(set(texts)) == 3


def test_the_number_of_known_tracebacks_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_traces, "_MAX_KNOWN", 4)
    for depth in range(20):
        try:
            fail(depth, 0)
        except ValueError:
            cross(make("failed", exc_info=sys.exc_info()))
    assert 0 < len(known_traces._known) <= 4


def test_an_object_whose_text_forks_writes_nothing_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    table = SchemaTable()
    record = make("at %s", PurePosixPath("a"))
    stream = encode([record], table)
    (pack,) = table.values()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(NotPacked):
        pack(1.0, 1.0, 1.0, PurePosixPath("a"))
    assert decode(stream)


class Half:
    """A number whose method is in Python, and may do anything."""

    def __float__(self) -> float:
        return 0.5


def test_what_a_template_formats_as_a_number_is_sent_as_a_number() -> None:
    def sent(template: str, *args: object) -> tuple[object, str]:
        (record,) = cross(make(template, *args))
        return record.args, record.getMessage()

    assert sent("%.3f %d", Decimal("0.25"), Level.HIGH) == ((0.25, 35), "0.250 35")
    assert sent("%s %d", Decimal("0.25"), Level.HIGH) == (("0.25", 35), "0.25 35")
    assert sent("%.1f %.1f", Decimal("0.25"), Half())[1] == "0.2 0.5"
    assert sent("%d", Decimal("2.5"))[1] == "2"  # it has no `__index__`
    assert sent("%.1f" + " " * 999, Decimal("2.5"))[1] == "2.5" + " " * 999


def test_records_with_extras_use_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    items = decode(encode([make("step %d", 1, user="ann"), make("step %d", 1, user=b"")]))
    assert all(isinstance(template, ShapedTemplate) for _, template, _ in items)
