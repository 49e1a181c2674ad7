from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.client.relay.uplink import UpstreamHandler
from meshlog_handler.dispatch.dispatcher import Dispatcher
from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.lines.captured import CapturedPipe
from meshlog_handler.output.console import ConsoleHandler
from meshlog_handler.protocol.decode import Item, RecordDecoder
from meshlog_handler.protocol.encode import RecordEncoder, SchemaTable
from meshlog_handler.testing import RecordCollector

from ...screens import Screen
from ..crossing import IDENTITY, encode, make, no_side_file
from ..protocol.test_relayed_records import passed_on

KINDS: list[tuple[str, tuple[object, ...], dict[str, Any]]] = [
    ("step %d", (1,), {}),
    ("step %d loss=%.2f", (1, 0.5), {}),
    ("in %s", ("here",), {"lineno": 8}),
    ("slow %d", (1,), {"levelno": logging.WARNING, "levelname": "WARNING"}),
    ("no arguments", (), {}),
    ("%s", ("text alone",), {"lineno": 9}),
    ("odd %r", ([1, 2],), {"lineno": 10}),
    ("with extra %d", (1,), {"step": 5}),
]


def items_of(rank: int, kinds: list[int]) -> list[Item]:
    """Return the items that the client gets from a rank that logs these kinds of records, one per second."""
    records = []
    for second, kind in enumerate(kinds):
        msg, args, attributes = KINDS[kind]
        records.append(make(msg, *args, created=float(second), **attributes))
    items: list[Item] = []
    RecordDecoder({**IDENTITY, "rank": rank}, no_side_file, rank).decode(encode(records), 0, 1 << 30, items)
    return items


def make_dispatcher(handlers: list[Any], window: float | None, never: Any = (), hide: Any = ()) -> Dispatcher:
    """Return a `Dispatcher` of a client that was given handlers."""
    return Dispatcher(Sinks(Sink(handlers, window=window)), never=never, hide=hide)


def shown(batches: list[list[list[int]]], window: float | None, *, counting: bool) -> tuple[Counter[str], int]:
    """Return the messages shown for the batches of the ranks, and how many records were dispatched one by one."""
    collector = RecordCollector()
    dispatcher = make_dispatcher([collector], window)
    dispatched = 0
    for now, ranks in enumerate(batches):
        items = sorted((item for rank, kinds in enumerate(ranks) for item in items_of(rank, kinds)), key=lambda item: item[0])
        left = dispatcher.count(items, now / 10) if counting else items
        dispatched += len(left)
        assert dispatcher.dispatch(left, now / 10) == []
    dispatcher.flush()
    return Counter(collector.messages), dispatched


@given(
    st.lists(st.lists(st.lists(st.integers(0, len(KINDS) - 1), max_size=12), min_size=2, max_size=3), max_size=4),
    st.sampled_from([None, 0.15, 60.0]),
)
def test_counting_ahead_shows_the_same_as_dispatching_each(batches: list[list[list[int]]], window: float | None) -> None:
    assert shown(batches, window, counting=True)[0] == shown(batches, window, counting=False)[0]


def test_records_that_groups_only_count_are_not_dispatched() -> None:
    batches = [[[0, 1, 2, 3]] * 2, [[0, 1, 2, 3] * 50] * 2]
    messages, dispatched = shown(batches, 60.0, counting=True)
    assert dispatched == 8 + 2 * 50, "the first of each kind, and those with texts"
    assert messages["[102 similar log lines in 196 s] [ranks 0-1] step 1"] == 1
    assert messages["slow 1"] == 1, "shown at once the first time"
    assert messages["[101 similar log lines in 196 s] [ranks 0-1] slow 1"] == 1


@pytest.mark.parametrize("options", [{"window": None}, {"hide": ["nothing"]}, {"never": ["nothing"]}])
def test_records_are_not_counted_ahead_if_each_must_be_examined(options: dict[str, Any]) -> None:
    dispatcher = make_dispatcher([], options.get("window", 60.0), options.get("never", ()), options.get("hide", ()))
    items = items_of(0, [0] * 20)
    dispatcher.dispatch(items[:5], 0.0)
    assert dispatcher.count(items[5:], 0.0) == items[5:]


def test_records_are_not_counted_ahead_at_the_end_of_a_window() -> None:
    dispatcher = make_dispatcher([], 1.0)
    items = items_of(0, [0] * 20)
    dispatcher.dispatch(items[:5], 0.0)
    assert dispatcher.count(items[5:10], 0.9) == []
    assert dispatcher.count(items[10:], 1.0) == items[10:]


def set_window(dispatcher: Dispatcher, window: float | None) -> None:
    era = dispatcher.switch(window)
    assert era is not None
    dispatcher.end_era(era)


def test_each_sink_has_its_own_window() -> None:
    grouped, single = RecordCollector(), RecordCollector()
    sinks = Sinks()
    for number, (collector, window) in enumerate([(grouped, 60.0), (single, None)], 1):
        sinks.add(Sink([collector], window=window))
        assert sinks.find(number, "")[0].direct is (window is None)
    dispatcher = Dispatcher(sinks)
    for route in (1, 2):
        items: list[Item] = []
        written = RecordEncoder(make("step %d", 1), route)(SchemaTable()).data
        decoder = RecordDecoder(IDENTITY, no_side_file, 0)
        for _ in range(3):
            decoder.new_segment()
            decoder.decode(written, 0, 10, items)
        dispatcher.dispatch(dispatcher.count(items, 0.0), 0.0)
    assert (grouped.messages, single.messages) == ([], ["step 1"] * 3)
    set_window(dispatcher, None)
    assert grouped.messages == ["[3 similar log lines] [rank 3] step 1"]
    assert all(sink.direct for sink in sinks.all())
    set_window(dispatcher, 1.0)
    assert not any(sink.direct for sink in sinks.all())
    dispatcher.close()
    assert all(sink.direct for sink in sinks.all()), "the same handlers show later records"


clock = itertools.count(step=10)


def printed(pipe: CapturedPipe, *chunks: bytes) -> list[Item]:
    """Return the items of a rank that prints these chunks, with long pauses between them."""
    items: list[Item] = []
    for chunk in chunks:
        now = float(next(clock))
        items += pipe.items(pipe.framer.expire(now), now)
        items += pipe.items(pipe.framer.feed(chunk, now), now)
    return items


def through_a_relay(items: list[Item]) -> list[Item]:
    """Return the items that a client gets from a relay that got these items."""
    stream = Kept()
    Dispatcher(Sinks(Sink([UpstreamHandler(stream)])), digests=True).dispatch(items, 0.0)  # type: ignore[arg-type]  # only `append_encoded` is used
    return passed_on(stream.records)


class Kept:
    """A stream that keeps its records in a list."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []

    def append_encoded(self, level: int, encode_in: Any) -> None:
        self.records.append(encode_in.args[0])


@pytest.mark.parametrize("way", [list, through_a_relay])
@pytest.mark.parametrize("window", [None, 60.0])
def test_an_ended_bar_is_no_longer_drawn(
    window: float | None, way: Callable[[list[Item]], list[Item]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    console = ConsoleHandler(screen.file, screen.file)
    dispatcher = make_dispatcher([console], window)
    pipe = CapturedPipe(-1, "stderr", base=make("").__dict__, identity={"rank": 3}, max_line=1 << 20)

    def shows(*chunks: bytes) -> list[str]:
        dispatcher.dispatch(way(printed(pipe, *chunks)), 0.0)
        dispatcher.end_tick()
        return screen.rows

    assert shows(b"\ra 10%\n\rb 10%\x1b[A") == ["[3] a 10%", "[3] b 10%"]
    assert shows(b"\n\r      \x1b[A") == ["[3] a 10%"]  # b is erased
    assert shows(b"text\n")[-1:] != ["[3] a 10%"]
    shows(b"\rc 50%")
    shows(b"\n")
    rows = [row.partition("] ")[2] for row in shows(b"\rd 20%")]
    assert rows[-1] == "d 20%"
    assert rows.count("c 50%") == 1  # as a line, because the bar has ended
    dispatcher.write_only(way(printed(pipe, b"\rd 30%")))
    dispatcher.flush()
    assert not [row for row in screen.rows if "] d " in row]
    console.close()
    screen.close()
