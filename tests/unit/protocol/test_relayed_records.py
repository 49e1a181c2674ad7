"""A client shows relayed records as if it had received the lines themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.errors import ProtocolError
from meshlog_handler.grouping.aggregator import Aggregator
from meshlog_handler.protocol.codec import pack
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import SchemaTable
from meshlog_handler.protocol.entries import MARK
from meshlog_handler.protocol.record import MeshInfo, MeshRecord
from meshlog_handler.protocol.relayed_records import RelayedTemplate, encode_relayed

from ..crossing import cross, decode, encode, make, no_side_file

NOBODY: dict[str, object] = {"rank": None, "local_rank": None, "hostname": None, "coords": {}}


def passed_on(records: Iterable[logging.LogRecord]) -> list[Item]:
    """Return the items that a client decodes from the records of a relay."""
    table, parts = SchemaTable(), []
    for record in records:
        encoded = encode_relayed(record, table)
        encoded.commit_schema()
        parts += [encoded.data, bytes([MARK])]
    items: list[Item] = []
    data = b"".join(parts)
    decoder = RecordDecoder(NOBODY, no_side_file, None, RelayedTemplate)
    at = 0
    while at < len(data):
        at = decoder.decode(data, at, 1 << 30, items)
    return items


def of_rank(rank: int, record: logging.LogRecord) -> list[Item]:
    """Return the items that a client decodes from a record of one rank."""
    return [(when, _with_rank(template, rank), values) for when, template, values in decode(encode([record]))]


def _with_rank(template: Any, rank: int) -> Any:
    template.rank = template.base["rank"] = rank
    template.info = template.info.but(rank=rank)
    return template


def add(aggregator: Aggregator, items: Iterable[Item]) -> list[logging.LogRecord]:
    """Add items to an aggregator; return the records that it shows at once."""
    out: list[logging.LogRecord] = []
    for _, template, values in items:
        if getattr(template, "digest", False):
            out += aggregator.add_digest(template, values, 0.0)
        else:
            out += aggregator.add(template, values, 0.0)
    return out


def summary(records: Iterable[logging.LogRecord]) -> list[tuple[str, int, object]]:
    return sorted((record.getMessage(), getattr(record, "count", 1), getattr(record, "ranks", None)) for record in records)


def spans(records: Iterable[logging.LogRecord]) -> list[tuple[str, float, object]]:
    return sorted((record.getMessage(), record.created, getattr(record, "span_sec", None)) for record in records)


Line = tuple[int, logging.LogRecord]


def directly(hosts: Sequence[Sequence[Line]]) -> list[logging.LogRecord]:
    root = Aggregator(1.0)
    shown = [record for host in hosts for rank, line in host for record in add(root, of_rank(rank, line))]
    return shown + root.flush()


def by_relays(hosts: Sequence[Sequence[Line]], levels: int = 1) -> tuple[list[logging.LogRecord], Aggregator]:
    """Return the records that a client shows for the lines of some hosts, through `levels` of relays, and its aggregator."""
    batches = [[item for rank, line in host for item in of_rank(rank, line)] for host in hosts]
    for _ in range(levels):
        for at, batch in enumerate(batches):
            relay = Aggregator(1.0, digests=True)
            batches[at] = passed_on(add(relay, batch) + relay.flush())
    root = Aggregator(1.0)
    shown = [record for batch in batches for record in add(root, batch)]
    return shown + root.flush(), root


numbers = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False, width=32))
calls = st.builds(
    lambda rank, n, x, word, at: (rank, make("step %s loss=%.3f on %s", n, x, word, created=at)),
    st.integers(0, 40),
    st.integers(0, 99),
    st.floats(-1e6, 1e6),
    st.sampled_from("abcdef"),
    st.integers(1000, 1100).map(float),
)
texts = st.builds(
    lambda rank, n, x: (rank, make(f"epoch {n}: {x} samples read from /data/part-{n % 7}.bin")),
    st.integers(0, 40),
    st.integers(0, 9999),
    st.integers(0, 9),
)


@given(st.lists(st.lists(calls, max_size=12), min_size=1, max_size=4), st.integers(1, 3))
def test_calls_grouped_at_each_level_are_shown_as_if_grouped_once(hosts: list[list[Line]], levels: int) -> None:
    shown, root = by_relays(hosts, levels)
    assert summary(shown) == summary(directly(hosts))
    assert spans(shown) == spans(directly(hosts))
    assert root.received == root.shown == sum(map(len, hosts))


@given(st.lists(st.lists(texts, max_size=12), min_size=1, max_size=4), st.integers(1, 3))
def test_texts_keep_their_counts_and_ranks(hosts: list[list[Line]], levels: int) -> None:
    shown, root = by_relays(hosts, levels)
    assert root.received == root.shown == sum(map(len, hosts))
    assert sum(getattr(record, "count", 1) for record in shown) == root.received
    ranks = {rank for host in hosts for rank, _ in host}
    assert {rank for record in shown for rank in getattr(record, "ranks", (record.__dict__["rank"],))} == ranks


@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=60)), max_size=40))
def test_any_texts_can_be_grouped_in_levels(lines: list[tuple[int, str]]) -> None:
    hosts = [[(rank, make(text)) for rank, text in lines if rank % 2 == half] for half in (0, 1)]
    _, root = by_relays(hosts, 2)
    assert root.received == root.shown == len(lines)


wordless = st.builds(lambda rank, n: (rank, make(str(n))), st.integers(0, 9), st.integers(0, 30))


@given(st.lists(st.lists(wordless, max_size=12), min_size=1, max_size=4), st.integers(1, 3))
def test_lines_without_words_are_grouped_only_if_equal_at_each_level(hosts: list[list[Line]], levels: int) -> None:
    shown, _ = by_relays(hosts, levels)
    assert summary(shown) == summary(directly(hosts))


def test_the_numbers_of_all_hosts_become_one_range() -> None:
    hosts = [[(rank, make("step %d loss=%.2f", 12, rank / 10)) for rank in range(first, first + 4)] for first in (0, 4)]
    shown, _ = by_relays(hosts)
    assert summary(shown) == [("[8 similar log lines] [ranks 0-7] step 12 loss=0.00..0.70", 8, tuple(range(8)))]


def test_without_grouping_a_digest_is_shown_as_by_the_relay() -> None:
    relay = Aggregator(1.0, digests=True)
    for rank in range(3):
        add(relay, of_rank(rank, make("x=%d", rank)))
    ((_, template, values),) = passed_on(relay.flush())
    assert summary(Aggregator(None).add_digest(template, values, 0.0)) == [
        ("[3 similar log lines] [ranks 0-2] x=0..2", 3, (0, 1, 2))
    ]


@pytest.mark.parametrize(("patterns", "hidden", "shown"), [({"hide": ["x=0"]}, 3, 0), ({"never": ["x=0"]}, 0, 3)])
def test_a_pattern_applies_to_a_whole_digest(patterns: dict[str, list[str]], hidden: int, shown: int) -> None:
    relay = Aggregator(1.0, digests=True)
    for rank in range(3):
        add(relay, of_rank(rank, make("x=%d", rank)))
    root = Aggregator(1.0, **patterns)  # type: ignore[arg-type]  # lists of patterns
    add(root, passed_on(relay.flush()))
    assert (root.hidden, root.shown, root.pending) == (hidden, shown, 0)


def test_the_first_warning_is_shown_at_once_and_the_others_are_counted() -> None:
    warning = {"levelno": logging.WARNING, "levelname": "WARNING"}
    hosts = [[(rank, make("hot: %d", rank, **warning)) for rank in range(first, first + 3)] for first in (0, 3)]
    shown, root = by_relays(hosts)
    assert [record.getMessage() for record in shown] == ["hot: 0", "[5 similar log lines] [ranks 1-5] hot: 1..5"]
    assert root.received == root.shown == 6


def test_a_record_is_relayed_with_all_of_its_data() -> None:
    (record,) = cross(make("%s of %d", "one", 2, stack_info="stack", extra_field=[1, None]))
    ((_, template, values),) = passed_on([record])
    again = template.build(values)
    assert again.getMessage() == "one of 2"
    assert (again.__dict__, again.meshlog) == (record.__dict__, record.meshlog)
    assert (template.rank, template.group) == (3, None), "a record with extras is grouped by its text"


def test_a_call_is_grouped_by_its_template() -> None:
    (record,) = cross(make("%s of %d", "one", 2))
    ((_, template, _),) = passed_on([record])
    assert template.group == ("app.part", "/srv/app.py", 7, "%s of %d")


def test_a_relay_keeps_the_rendered_text() -> None:
    (record,) = cross(make("%r", object()))
    ((_, template, values),) = passed_on([record])
    assert (template.build(values).getMessage(), template.build(values).msg) == (record.getMessage(), "%r")
    assert template.text(values) == record.getMessage()


def test_records_of_one_call_site_share_a_schema_for_all_ranks() -> None:
    table = SchemaTable()
    sizes = []
    for rank in range(200):
        (record,) = cross(make("x=%d", rank, thread=rank, process=rank))
        record.meshlog = record.meshlog.but(rank=rank)
        encoded = encode_relayed(record, table)
        encoded.commit_schema()
        sizes.append(len(encoded.data))
    assert len(table.tagged) == 1
    assert max(sizes[1:]) < sizes[0]


def test_states_and_parts_of_captured_lines_are_not_grouped() -> None:
    def line(**attributes: Any) -> logging.LogRecord:
        info = MeshInfo(1, stream="stdout", raw="50%", **attributes)
        return MeshRecord.of({**make("50%").__dict__, **info.attributes()}, info)

    items = passed_on([line(progress=True), line(partial=True), line(progress=False, partial=False)])
    assert [template.alone for _, template, _ in items] == [True, True, False]
    assert {template.scope for _, template, _ in items} == {("stdout", logging.INFO)}


def test_a_relayed_traceback_is_grouped_as_one_text() -> None:
    def line(rank: int, text: str) -> logging.LogRecord:
        info = MeshInfo(rank, stream="stderr", raw=text)
        return MeshRecord.of({**make(text, levelno=logging.ERROR).__dict__, **info.attributes()}, info)

    text = 'Traceback (most recent call last):\n  File "/a.py", line 3, in f\nOSError: %d'
    root = Aggregator(1.0)
    items = passed_on(line(rank, each) for each in text.split("\n") for rank in range(3))  # of a relay without a window
    assert add(root, items) == []
    first, group = root.flush()
    assert (first.getMessage(), first.meshlog.raw, group.__dict__["count"]) == (text, text, 2)  # type: ignore[attr-defined]  # a client adds it


@pytest.mark.parametrize(
    "named",
    [
        {"rank": "3"},
        {"rank": [3]},
        {"stream": 1},
        {"digest": (None,)},
        {"digest": (None, []), "count": 1, "ranks": ()},
        {"digest": (None, ["x"]), "count": 0, "ranks": ()},
        {"digest": (None, [("x",)]), "count": 3, "ranks": ()},
        {"digest": ("x", ["x"]), "count": 3, "ranks": ()},
        {"digest": (None, ["x"]), "count": 3, "ranks": ("a",)},
    ],
)
def test_an_invalid_record_is_rejected(named: dict[str, Any]) -> None:
    record = cross(make("x"))[0]
    record.meshlog = record.meshlog.but(**named)
    with pytest.raises(ProtocolError):
        passed_on([record])


def test_only_a_relay_may_send_relayed_records() -> None:
    encoded = encode_relayed(cross(make("x"))[0], SchemaTable())
    with pytest.raises(ProtocolError, match="invalid codes"):
        RecordDecoder(NOBODY, no_side_file).decode(encoded.data, 0, 10, [])


def test_an_object_added_by_a_filter_of_the_relay_arrives_as_text() -> None:
    (record,) = cross(make("x=%d", 1))
    record.__dict__["odd"] = object
    ((_, template, values),) = passed_on([record])
    assert template.build(values).__dict__["odd"] == str(object)
    assert pack(values[4])


@pytest.mark.parametrize("message", [("hot: %d", 1), ("too hot",)])
def test_a_digest_of_warnings_without_a_first_warning_is_shown_whole(message: tuple[Any, ...]) -> None:
    warning = {"levelno": logging.WARNING, "levelname": "WARNING"}
    relay, root = Aggregator(1.0, digests=True), Aggregator(1.0)
    for rank in range(4):
        add(relay, of_rank(rank, make(*message, **warning)))
    shown = add(root, passed_on(relay.flush())) + root.flush()  # the first one was relayed in an earlier window
    assert sum(getattr(record, "count", 1) for record in shown) == 3
    assert root.received == root.shown == 3
