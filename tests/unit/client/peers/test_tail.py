"""The tail of a worker has its last items, whatever they are, and takes little memory."""

from __future__ import annotations

import logging
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlog_handler.client.peers.tail import TAIL, Tail
from meshlog_handler.lines.captured import CapturedTemplate
from meshlog_handler.lines.framer import Line
from meshlog_handler.protocol.decode import Item
from meshlog_handler.protocol.record import info_of

from ...crossing import decode, encode, make

CAPTURED = CapturedTemplate(logging.makeLogRecord({}).__dict__, info_of(make()).but(stream="stdout"), 20)
ITEMS: list[list[Item]] = [
    decode(encode([make("step %d loss=%s text=%r none=%s", 1, 0.5, "a\udc80\u20ac", None), make("beat")])),
    decode(encode([make("of %(a)s", {"a": True}), make("a list %s", [1, {"b": b"c"}])])),
    [(1.0, CAPTURED, (1.0, None, "plain", b"")), (2.0, CAPTURED, (2.0, Line(b"50 %\r", False, True, 0), "50 %", b""))],
    [(3.0, None, (None, 7)), (4.0, None, (object(), 8))],
    [],
]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(ITEMS), st.integers(1, 15)), max_size=12))
def test_the_last_items_are_kept(batches: list[tuple[list[Item], int]]) -> None:
    tail, given_items = Tail(), list[Item]()
    for items, times in batches:
        tail.add(items * times)
        given_items += items * times
    assert list(tail) == given_items[-TAIL:]


def test_records_of_one_place_take_little_memory() -> None:
    items = [decode(encode([make("step %d loss=%f", number, number / 7)]))[0] for number in range(64)]
    one = [(when, items[0][1], values) for when, _, values in items]
    tracemalloc.start()
    tails = [Tail() for _ in range(100)]
    for tail in tails:
        tail.add(list(one))
    taken = tracemalloc.get_traced_memory()[0] / len(tails)
    tracemalloc.stop()
    assert taken < 100 * TAIL, "the items themselves take three times as much"
