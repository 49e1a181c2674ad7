from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlog_handler.client.uplink import UpstreamHandler
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
    """Return what the client gets of a rank that logs these kinds of records, one a second."""
    records = []
    for second, kind in enumerate(kinds):
        msg, args, attributes = KINDS[kind]
        records.append(make(msg, *args, created=float(second), **attributes))
    items: list[Item] = []
    RecordDecoder({**IDENTITY, "rank": rank}, no_side_file, rank).decode(encode(records), 0, 1 << 30, items)
    return items


def make_show(handlers: list[Any], window: float | None, never: Any = (), hide: Any = ()) -> Dispatcher:
    """Return a `Dispatcher` of a client that was given handlers."""
    return Dispatcher(Sinks(Sink(handlers, window=window)), never=never, hide=hide)


def shown(batches: list[list[list[int]]], window: float | None, *, counting: bool) -> tuple[Counter[str], int]:
    """Return what is shown of the ranks' batches, and how many records were given to be shown one by one."""
    collector = RecordCollector()
    show = make_show([collector], window)
    given_on = 0
    for now, ranks in enumerate(batches):
        items = sorted((item for rank, kinds in enumerate(ranks) for item in items_of(rank, kinds)), key=lambda item: item[0])
        left = show.count(items, now / 10) if counting else items
        given_on += len(left)
        assert show.dispatch(left, now / 10) == []
    show.flush()
    return Counter(collector.messages), given_on


@given(
    st.lists(st.lists(st.lists(st.integers(0, len(KINDS) - 1), max_size=12), min_size=2, max_size=3), max_size=4),
    st.sampled_from([None, 0.15, 60.0]),
)
def test_counted_ahead_or_one_by_one_the_same_is_shown(batches: list[list[list[int]]], window: float | None) -> None:
    assert shown(batches, window, counting=True)[0] == shown(batches, window, counting=False)[0]


def test_what_groups_only_count_is_not_given_on() -> None:
    batches = [[[0, 1, 2, 3]] * 2, [[0, 1, 2, 3] * 50] * 2]
    told, given_on = shown(batches, 60.0, counting=True)
    assert given_on == 8 + 2 * 50, "the first ones, and those with a text"
    assert told["[102 similar log lines] [ranks 0-1] step 1"] == 1
    assert told["slow 1"] == 1, "shown at once the first time"
    assert told["[101 similar log lines] [ranks 0-1] slow 1"] == 1


@pytest.mark.parametrize("options", [{"window": None}, {"hide": ["nothing"]}, {"never": ["nothing"]}])
def test_where_each_record_is_looked_at_all_are_given_on(options: dict[str, Any]) -> None:
    show = make_show([], options.get("window", 60.0), options.get("never", ()), options.get("hide", ()))
    items = items_of(0, [0] * 20)
    show.dispatch(items[:5], 0.0)
    assert show.count(items[5:], 0.0) == items[5:]


def test_at_the_end_of_a_window_records_are_given_on() -> None:
    show = make_show([], 1.0)
    items = items_of(0, [0] * 20)
    show.dispatch(items[:5], 0.0)
    assert show.count(items[5:10], 0.9) == []
    assert show.count(items[10:], 1.0) == items[10:]


def test_each_sink_has_a_window_of_its_own() -> None:
    grouped, single = RecordCollector(), RecordCollector()
    sinks = Sinks()
    for number, (collector, window) in enumerate([(grouped, 60.0), (single, None)], 1):
        sinks.add(Sink([collector], window=window))
        assert sinks.find(number, "")[0].direct is (window is None)
    show = Dispatcher(sinks)
    for route in (1, 2):
        items: list[Item] = []
        written = RecordEncoder(make("step %d", 1), route)(SchemaTable()).data
        thawer = RecordDecoder(IDENTITY, no_side_file, 0)
        for _ in range(3):
            thawer.new_segment()
            thawer.decode(written, 0, 10, items)
        show.dispatch(show.count(items, 0.0), 0.0)
    assert (grouped.messages, single.messages) == ([], ["step 1"] * 3)
    show.set_window(None)
    assert grouped.messages == ["[3 similar log lines] [rank 3] step 1"]
    assert all(sink.direct for sink in sinks.all())
    show.set_window(1.0)
    assert not any(sink.direct for sink in sinks.all())
    show.close()
    assert all(sink.direct for sink in sinks.all()), "what comes after the end is shown by the same handlers"


clock = itertools.count(step=10)


def printed(pipe: CapturedPipe, *chunks: bytes) -> list[Item]:
    """Return what the client reads of a rank that prints this, with time enough between two chunks."""
    items: list[Item] = []
    for chunk in chunks:
        now = float(next(clock))
        items += pipe.items(pipe.framer.expire(now), now)
        items += pipe.items(pipe.framer.feed(chunk, now), now)
    return items


def above_a_relay(items: list[Item]) -> list[Item]:
    """Return what a client reads of a relay that has read these."""
    stream = Kept()
    Dispatcher(Sinks(Sink([UpstreamHandler(stream)])), digests=True).dispatch(items, 0.0)  # type: ignore[arg-type]  # what it needs of one
    return passed_on(stream.records)


class Kept:
    """A stream that keeps what is appended to it."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []

    def append_encoded(self, level: int, freeze_in: Any) -> None:
        self.records.append(freeze_in.args[0])


@pytest.mark.parametrize("way", [list, above_a_relay])
@pytest.mark.parametrize("window", [None, 60.0])
def test_a_bar_that_has_ended_is_drawn_no_more(
    window: float | None, way: Callable[[list[Item]], list[Item]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    console = ConsoleHandler(screen.file, screen.file)
    show = make_show([console], window)
    pipe = CapturedPipe(-1, "stderr", make("").__dict__, {"rank": 3}, 1 << 20)

    def shows(*chunks: bytes) -> list[str]:
        show.dispatch(way(printed(pipe, *chunks)), 0.0)
        show.end_tick()
        return screen.rows

    assert shows(b"\ra 10%\n\rb 10%\x1b[A") == ["[3] a 10%", "[3] b 10%"]
    assert shows(b"\n\r      \x1b[A") == ["[3] a 10%"]  # b is wiped out
    assert shows(b"text\n")[-1:] != ["[3] a 10%"]
    shows(b"\rc 50%")
    shows(b"\n")
    rows = [row.partition("] ")[2] for row in shows(b"\rd 20%")]
    assert rows[-1] == "d 20%"
    assert rows.count("c 50%") == 1  # as a line, for that was all of it
    show.write_only(way(printed(pipe, b"\rd 30%")))
    show.flush()
    assert not [row for row in screen.rows if "] d " in row]
    console.close()
    screen.close()
