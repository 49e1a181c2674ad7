"""The client decodes the records that a worker encodes. For odd records, see `test_odd_records`."""

from __future__ import annotations

import contextlib
import logging
import math
import struct
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.protocol import interning
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import SchemaTable, definition, encode_record
from meshlog_handler.protocol.entries import DEFINE, FLUSH, HEADER, LARGE, RECORD, number_entry, walk
from meshlog_handler.protocol.record import STANDARD, MeshRecord

from ..crossing import ATTRIBUTES, IDENTITY, borders, cross, decode, encode, make, no_side_file
from .test_codec import plain, same, texts

words = st.sampled_from(["", "step", "loss", "é\u20ac", "\ud800", "a\nb", "\0", "100%%"])
specs = st.sampled_from(["%s", "%d", "%r", "%5.2f", "%x", "%a", "%(a)s", "%", "{}", "{0}"])
templates = st.lists(words | specs, max_size=5).map(" ".join)
argument = st.integers(-(1 << 65), 1 << 65) | st.floats() | st.booleans() | st.text(max_size=8) | texts | plain
tables = st.dictionaries(st.sampled_from("ab"), argument, min_size=1).map(lambda table: (table,))
arguments = st.lists(argument, max_size=3).map(tuple) | tables
stacks = st.sampled_from([None, None, None, "Stack (most recent call last):\n  x"])
extras = st.dictionaries(st.sampled_from(["user", "epoch", "frozen", "größe"]), plain, max_size=2)
numbers = st.integers(0, 1 << 40)


@st.composite
def records(draw: st.DrawFn) -> logging.LogRecord:
    """Draw a record as loggers make them, from few call sites, so that schemas repeat."""
    exc_info: Any = None
    if draw(st.integers(0, 5)) == 0:
        try:
            raise draw(st.sampled_from([ValueError, KeyError]))(draw(words))
        except Exception:
            exc_info = sys.exc_info()
    made = logging.LogRecord(
        draw(st.sampled_from(["root", "app", "app.é"])),
        draw(st.sampled_from([0, 7, 10, 20, 30, 50])),
        draw(st.sampled_from(["/srv/a.py", "<stdin>", ""])),
        draw(st.integers(0, 3)),
        draw(templates),
        draw(arguments),
        exc_info,
        draw(st.sampled_from(["work", None])),
        draw(stacks),
    )
    made.created = draw(st.floats(0, 1e10))
    made.msecs = draw(st.floats(0, 1000, exclude_max=True))
    made.thread, made.process = draw(st.sampled_from([1, 2, None])), draw(st.sampled_from([11, None]))
    made.__dict__.update(draw(extras))
    return made


def message(record: logging.LogRecord) -> str | None:
    """Return the message of a record, or None if it cannot be formatted."""
    try:
        return record.getMessage()
    except Exception:
        return None


def assert_same(found: logging.LogRecord, sent: logging.LogRecord) -> None:
    """Check that a decoded record is shown like the original."""
    for name in ATTRIBUTES:
        assert same(getattr(found, name), getattr(sent, name)), name
    for name in sent.__dict__.keys() - STANDARD:
        assert same(getattr(found, name), getattr(sent, name)), name
    for name, value in IDENTITY.items():
        assert getattr(found, name) == value
    assert (found.msg, found.stack_info, bool(found.exc_info)) == (sent.msg, sent.stack_info, bool(sent.exc_info))
    assert same(found.args, sent.args)
    text = message(sent)
    if text is None:
        assert f"{sent.msg} " in found.getMessage()
        assert "cannot be formatted" in found.getMessage()
        return
    assert found.getMessage() == text
    every = "%(asctime)s %(levelname)s %(name)s %(module)s:%(lineno)s %(funcName)s %(threadName)s %(process)s %(message)s"
    assert logging.Formatter(every).format(found) == logging.Formatter(every).format(sent)


@settings(max_examples=50)
@given(st.lists(records(), min_size=1, max_size=4))
def test_the_decoded_record_equals_the_original(sent: list[logging.LogRecord]) -> None:
    # Each record twice: the first one defines its schema, the second one uses it.
    for found, record in zip(cross(*sent, *sent), [*sent, *sent], strict=True):
        assert_same(found, record)


@settings(max_examples=50)
@given(st.lists(records(), min_size=1, max_size=4))
def test_a_template_agrees_with_the_built_record(sent: list[logging.LogRecord]) -> None:
    for _, template, values in decode(encode(sent)):
        built = template.build(values)
        assert template.text(values) == built.getMessage()
        assert template.levelno == built.levelno
        assert template.rank == IDENTITY["rank"]
        assert hash((template.group, template.scope, template.signature(values))) is not None
        if template.group is not None:
            assert same(template.args(values), built.args)
            assert built.args


@settings(max_examples=50)
@given(st.lists(records(), min_size=1, max_size=4), st.data())
def test_chunks_of_whole_entries_decode_to_the_same_items(sent: list[logging.LogRecord], data: st.DataObject) -> None:
    stream = encode([*sent, *sent])
    cuts = sorted(data.draw(st.sets(st.sampled_from(borders(stream)))) | {0, len(stream)})
    pieces = [stream[begin:end] for begin, end in pairwise(cuts)]
    chunked = decode(*pieces, limit=data.draw(st.integers(1, 7)))
    assert same([_shown(item) for item in chunked], [_shown(item) for item in decode(stream)])


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 60))
def test_a_run_of_one_schema_ends_at_another_schema(count: int, limit: int, other_at: int) -> None:
    sent = [make("step %d", number, created=float(number)) for number in range(count)]
    sent.insert(min(other_at, count), make("another", created=float(other_at)))
    texts = [template.text(values) for _, template, values in decode(encode(sent), limit=limit)]
    assert texts == [record.getMessage() for record in sent]


@given(st.floats(), st.floats(), st.floats(), st.booleans())
def test_any_times_can_be_formatted(created: float, msecs: float, relative: float, plain_args: bool) -> None:
    sent = make("tick %s", 1 if plain_args else [1])
    sent.created, sent.msecs, sent.relativeCreated = created, msecs, relative
    [(_, template, values)] = decode(encode([sent]))
    style = "%(asctime)s %(msecs)d %(relativeCreated)d %(message)s"
    assert logging.Formatter(style).format(template.build(values)).endswith("tick 1" if plain_args else "tick [1]")


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_item_times_never_decrease_and_are_never_nan(times: list[float]) -> None:
    items = decode(encode(make("tick", created=time) for time in times))
    built = [template.build(values).created for _, template, values in items]
    assert built == [time if -62e9 < time < 253e9 else 0.0 for time in times], (
        "no formatter can write a time outside the calendar"
    )
    when = [item[0] for item in items]
    assert when == sorted(when)
    assert not any(map(math.isnan, when))


def test_relative_time_is_that_of_the_worker() -> None:
    first, second = make("tick"), make("tick")
    for found, sent in zip(cross(first, second), (first, second), strict=True):
        assert found.relativeCreated == pytest.approx(sent.relativeCreated, abs=0.01)


def test_an_incomplete_sentinel_does_not_count() -> None:
    """The client uses this count to count the records among the items."""
    decoder, items = RecordDecoder({"rank": 0}, no_side_file), []  # type: ignore[var-annotated]  # an empty list
    with pytest.raises(ProtocolError):
        decoder.decode(number_entry(FLUSH, 1)[:4] + bytes(4), 0, 10, items)
    assert (decoder.sentinels, items) == (0, [])


def test_sentinels_keep_their_position() -> None:
    stream = encode([make("before")]) + number_entry(FLUSH, 9) + encode([make("after", lineno=8)], _used_table())
    found = [(values if template is None else template.text(values)) for _, template, values in decode(stream)]
    assert found == ["before", ("owner", 9), "after"]


def _used_table() -> SchemaTable:
    table = SchemaTable()
    encode([make("before")], table)
    return table


def test_the_records_of_a_side_file_take_the_position_of_its_entry() -> None:
    files = {5: encode([make("large", lineno=99)])}
    stream = number_entry(LARGE, 5) + encode([make("small")])
    found = [template.text(values) for _, template, values in decode(stream, read_large=files.__getitem__)]
    assert found == ["large", "small"]


@pytest.mark.parametrize("content", [None, b"\x07rubbish", number_entry(LARGE, 5), encode([make("cut")])[:-9]])
def test_an_unreadable_side_file_loses_one_record(content: bytes | None) -> None:
    stream = encode([make("before")]) + number_entry(LARGE, 5) + encode([make("after", lineno=8)], _used_table())
    items = decode(stream, read_large=no_side_file if content is None else {5: content}.__getitem__)
    shown = [template.build(values) for _, template, values in items]
    assert [record.getMessage() for record in (shown[0], shown[-1])] == ["before", "after"]
    (note,) = shown[1:-1]
    assert (note.name, note.levelname, note.rank) == ("meshlog", "WARNING", 3)
    assert "cannot be read" in logging.Formatter("%(asctime)s %(message)s").format(note)


def test_schemas_belong_to_one_segment() -> None:
    table = SchemaTable()
    first, second = encode([make("tick")], table), encode([make("tick")], table)
    assert len(second) < len(first) / 2
    decoder = RecordDecoder(IDENTITY, no_side_file)
    items: list[Item] = []
    decoder.decode(first + second, 0, 9, items)
    decoder.new_segment()
    with pytest.raises(ProtocolError):
        decoder.decode(second, 0, 9, items)
    assert len(items) == 2


def test_two_threads_may_define_a_schema_at_once() -> None:
    table = SchemaTable()
    first, second = (encode_record(make("tick %d", number), table) for number in (1, 2))
    stream = second.data
    second.commit_schema()
    stream += encode([make("tick %d", 3)], table) + first.data
    first.commit_schema()
    stream += encode([make("tick %d", 4)], table)
    assert [template.text(values) for _, template, values in decode(stream)] == ["tick 2", "tick 3", "tick 1", "tick 4"]


def test_unique_messages_define_few_schemas() -> None:
    kinds = [kind for kind, *_ in walk(encode(make(f"step {number}") for number in range(500)))]
    assert kinds.count(RECORD) == 500
    assert kinds.count(DEFINE) < 10


messages = st.lists(words | st.text(max_size=8), max_size=3).map(" ".join)


@given(st.lists(messages, min_size=6, max_size=12, unique=True))
def test_messages_without_arguments_are_the_data_of_few_schemas(msgs: list[str]) -> None:
    sent = [make(msg, created=float(at)) for at, msg in enumerate(msgs)]
    for found, record in zip(cross(*sent, *sent), [*sent, *sent], strict=True):
        assert_same(found, record)
    items = decode(encode(sent))
    assert [template.text(values) for _, template, values in items] == msgs
    assert [template.args(values) for _, template, values in items] == [()] * len(msgs)


class Redacted(logging.LogRecord):
    def getMessage(self) -> str:
        return super().getMessage().replace("secret", "***")


def test_a_record_class_formats_each_of_its_messages() -> None:
    sent = []
    for msg in ("a secret", "starts", "a secret", "nothing", "b secret", "c secret", "d secret", "the secret") * 2:
        record = Redacted("app", logging.INFO, "/srv/app.py", 7, msg, (), None, "work")
        sent.append(record)
        sent.append(Redacted("app", logging.INFO, "/srv/app.py", 9, "%s of %s", (msg, [1]), None, "work"))
    assert [record.getMessage() for record in cross(*sent)] == [record.getMessage() for record in sent]


@pytest.mark.parametrize("odd", [[], [None, None, None], True, "text"])
def test_an_exc_info_that_is_none_of_an_exception_is_shown_each_time(odd: object) -> None:
    sent = [make("step", exc_info=odd, created=float(number)) for number in range(8)]
    shown = [(record.getMessage(), record.exc_text) for record in cross(*sent)]
    assert len(set(map(repr, shown))) == 1
    assert len(shown) == 8


def test_names_of_extras_that_are_no_texts_become_texts() -> None:
    sent = [make("step %d", 1, **{"user": 1}) for _ in range(3)]
    for record in sent:
        record.__dict__[5] = 1  # type: ignore[index]  # as `extra` does
    assert [vars(record)["5"] for record in cross(*sent)] == [1, 1, 1]


def test_each_of_many_threads_sends_its_messages_as_data_up_to_a_limit() -> None:
    sent = [make(f"step {number}", thread=number % 300, threadName=f"T{number % 300}") for number in range(1000)]
    stream = encode(sent)
    assert [kind for kind, *_ in walk(stream)].count(DEFINE) < 150
    for (_, template, values), record in zip(decode(stream), sent, strict=True):
        assert_same(template.build(values), record)


def test_more_schemas_than_there_are_numbers() -> None:
    table = SchemaTable()
    table.ids = iter(range(0xFFFE, 1 << 20))  # type: ignore[assignment]  # an iterator is enough
    sent = [make("tick", lineno=line, created=float(line)) for line in range(6)] * 2
    assert [template.build(values).lineno for _, template, values in decode(encode(sent, table))] == [*range(6)] * 2


def test_a_decoder_does_not_keep_long_schemas() -> None:
    decoder = RecordDecoder(IDENTITY, no_side_file)
    for number in range(50):
        decoder.new_segment()
        decoder.decode(encode([make(f"{number} " + "x" * 50_000)]), 0, 9, [])
    assert not decoder._known
    assert not [key for key in interning._known if len(str(key)) > 50_000]


def test_ranks_share_what_is_the_same_in_their_schemas() -> None:
    """Ten thousand ranks, each with hundreds of places that log, would need gigabytes."""
    sent = encode([make(f"{name} of step %d", 1, lineno=line) for line, name in enumerate(("begin", "end"))])
    (_, first, _), (_, other, _) = decode(sent)
    (_, again, _), _ = decode(sent)
    assert first is not again
    assert first.scope is again.scope
    assert first.group is again.group is not None
    assert first.route is again.route is other.route
    assert first.info is other.info


def _shown(item: Item) -> tuple[object, ...]:
    when, template, values = item
    fields = template.build(values).__dict__
    return when, {name: bool(value) if name == "exc_info" else value for name, value in fields.items() if name != "coords"}


def _show_all(items: list[Item]) -> None:
    """Do everything that the client does with items: no data from a worker may raise there."""
    for when, template, values in items:
        assert not math.isnan(when)
        if template is not None:
            built = template.build(values)
            assert isinstance(built, MeshRecord)
            assert isinstance(built.getMessage(), str)
            assert isinstance(template.text(values), str)
            assert isinstance(template.args(values), tuple)
            hash((template.group, template.scope, template.signature(values)))
            assert isinstance(built.levelno, int)
            assert isinstance(built.name, str)
            assert built.meshlog.rank == 3
            logging.Formatter("%(name)s %(levelname)s %(message)s").format(built)


def entry(kind: int, schema: int, body: bytes) -> bytes:
    return HEADER.pack(kind, schema, len(body)) + body


bodies = st.binary(max_size=40) | st.tuples(
    st.sampled_from(["qs", "", "-", "x", "rm", "m", "rmm", "rmq"]), st.floats(), plain
).map(pack)
entries = st.builds(entry, st.integers(0, 5), st.integers(0, 2), bodies)
good = (
    encode(
        [
            *[make("step %d of %s", 4, "ten")] * 3,
            *[make("loss %f", 0.5)] * 3,
            *[make("done")] * 2,
            *[make(f"f-string {number}") for number in range(6)],
            *[make("%(a)s", {"a": [1, None]}, epoch=3)] * 2,
            make("bad", exc_text="Traceback", stack_info="Stack"),
        ]
    )
    + number_entry(FLUSH, 1)
    + number_entry(LARGE, 2)
)


@st.composite
def faulty(draw: st.DrawFn) -> bytes:
    """Draw a valid stream with some bytes changed."""
    stream = bytearray(good)
    for at in draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=4)):
        stream[at] = draw(st.integers(0, 255))
    return bytes(stream[: draw(st.none() | st.integers(0, len(good)))])


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.lists(entries, max_size=5).map(b"".join) | faulty())
def test_any_bytes_are_items_or_raise_protocol_error(data: bytes) -> None:
    items: list[Item] = []
    with contextlib.suppress(ProtocolError):
        assert RecordDecoder(IDENTITY, lambda number: data[:number], "owner").decode(data, 0, 1 << 30, items) == len(data)
    _show_all(items)


def decoded(data: bytes, limit: int) -> tuple[object, ...]:
    """Return all that a decoder knows after it has decoded data, up to `limit` items at a time."""
    items: list[Item] = []
    decoder, at, failed = RecordDecoder(IDENTITY, lambda number: data[:number], "owner"), 0, False
    try:
        while at < len(data):
            at = decoder.decode(data, at, limit, items)
    except ProtocolError:
        failed = True
    known = {id(template): template for _, template, _ in items if template is not None}.values()
    return (
        [(last, repr(values)) for last, _, values in items],
        [(template.count, repr(template.newest and template.newest[2])) for template in known],
        [repr(values) for _, _, values in decoder.touched],
        [repr(values) for _, _, values in decoder.texts],
        (decoder.last, decoder.sentinels, failed),
    )


@settings(max_examples=300)
@given(faulty(), st.integers(2, 20))
def test_records_in_a_row_decode_as_each_by_itself(data: bytes, limit: int) -> None:
    assert decoded(data, limit) == decoded(data, 1) == decoded(data, 1 << 30)
    assert decoded(good, limit) == decoded(good, 1)


names = st.sampled_from(["rank", "msg", "name", "levelno", "lineno", "exc_text", "stream", "meshlog", "route"])


@given(st.dictionaries(texts | names, argument, max_size=3), argument, st.none() | texts, st.booleans())
def test_a_worker_cannot_override_its_identity(named: dict[str, Any], args: object, text: object, at_first: bool) -> None:
    common = {**make().__dict__, **(named if at_first else {})}
    body = pack(("-", 0.0, common))
    odd = {**named, "rank": 9, "levelno": "high", "exc_info": 5, "args": 7, "getMessage": 1}
    tail = struct.pack("<dd", 1.0, 0.0) + pack((args, odd, text))
    stream = entry(DEFINE, 1, body) + entry(RECORD, 1, tail)
    items: list[Item] = []
    with contextlib.suppress(ProtocolError):
        RecordDecoder(IDENTITY, no_side_file).decode(stream, 0, 9, items)
        assert len(items) == 1
    _show_all(items)


UNBOUNDED = [
    "%1500000000d",
    "%.1500000000f",
    "%*d",
    "%(a)99999999s",
    "%65536d%65536d",
    "%(a()b)1500000000d",
    "%((a))1500000000d",
    "%(a)s" * 20000,
    "%(a)s %(a)r %(a)d %(b)s %(a)s %(a)5s",
]


@pytest.mark.parametrize("msg", UNBOUNDED, ids=range(len(UNBOUNDED)))
def test_an_unbounded_template_is_rejected_without_its_text(msg: str) -> None:
    args = {"a": 1} if "(" in msg else (1,)
    fixed = {**dict.fromkeys(("pathname", "filename", "module", "name", "levelname"), ""), "levelno": 20, "lineno": 1}
    common = {**dict.fromkeys(vars(make("m"))), **fixed}
    for named in ({}, {"msg": msg}):
        defined = definition(1, "-", 0.0, {**common, "msg": "" if named else msg})
        for text in (None, "the text of its process"):
            tail = pack((args, named, text))
            entry = HEADER.pack(RECORD, 1, 16 + len(tail)) + struct.pack("<dd", 0.0, 0.0) + tail
            items: list[Any] = []
            decoder = RecordDecoder(IDENTITY, no_side_file)
            if text is None:
                with pytest.raises(ProtocolError, match="width"):
                    decoder.decode(defined + entry, 0, 10, items)
            else:
                decoder.decode(defined + entry, 0, 10, items)
                ((_, template, values),) = items
                assert template.build(values).getMessage() == text
    with pytest.raises(ProtocolError, match="width"):
        RecordDecoder(IDENTITY, no_side_file).decode(definition(1, "q", 0.0, {**common, "msg": msg}), 0, 10, [])
