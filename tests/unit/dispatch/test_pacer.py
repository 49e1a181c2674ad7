from __future__ import annotations

import logging
from typing import Any

import pytest

from meshlog_handler.dispatch import pacer
from meshlog_handler.dispatch.dispatcher import Dispatcher
from meshlog_handler.dispatch.pacer import Pacer
from meshlog_handler.dispatch.sink import Sink
from meshlog_handler.dispatch.sinks import Sinks
from meshlog_handler.protocol.decode import Item

from ..crossing import decode, encode, make
from .test_dispatcher import items_of


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacer, "monotonic", clock.monotonic)
    return clock


class Slow(logging.Handler):
    """A handler that takes `seconds` for each record."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.count = clock, seconds, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        self.clock.now += self.seconds


class CountsFor(Dispatcher):
    """A dispatcher that takes `seconds` to count."""

    def __init__(self, clock: Clock, seconds: float, *options: Any) -> None:
        super().__init__(*options)
        self._clock, self._seconds = clock, seconds

    def count(self, items: list[Item], now: float) -> list[Item]:
        self._clock.now += self._seconds
        return super().count(items, now)


def test_a_slow_handler_runs_for_one_tick_only(clock: Clock) -> None:
    handler = Slow(clock, 0.01)
    held = Pacer(Dispatcher(Sinks(Sink([handler]))), lambda: False)
    held.put(items_of(0, [0] * 100), clock.now)
    held.show_some(clock.now, 1)
    assert handler.count == 5
    assert held


def test_records_are_shown_however_long_counting_took(clock: Clock) -> None:
    handler = Slow(clock, 0.001)
    held = Pacer(CountsFor(clock, 10.0, Sinks(Sink([handler]))), lambda: False)
    held.put(items_of(0, [0] * 10), clock.now)
    for _ in range(10):
        held.show_some(clock.now, 1)
    assert handler.count == 10
    assert not held


def test_counted_records_do_not_make_a_slow_handler_look_fast(clock: Clock) -> None:
    handler = Slow(clock, 0.02)
    dispatcher = Dispatcher(Sinks(Sink([handler], window=600.0)))
    longest, last = 0.0, clock.now

    def look() -> bool:
        nonlocal longest, last
        longest, last = max(longest, clock.now - last), clock.now
        return False

    held = Pacer(dispatcher, look)
    dispatcher.dispatch(items_of(0, [0]), clock.now)
    for turn in range(20):
        held.put([*items_of(turn, [0] * 500), *warnings(turn)], clock.now)
        while held:
            held.show_some(clock.now, 1)
    assert handler.count == 20 * 3
    assert longest < 0.021


def warnings(turn: int) -> list[Item]:
    """Return three items that are shown at once: the first of their kinds."""
    return decode(encode(make("careful", lineno=10 * turn + at, levelno=logging.WARNING) for at in range(3)))


def test_items_held_at_a_switch_are_shown_by_the_earlier_settings(clock: Clock) -> None:
    handler = Slow(clock, 0.01)
    dispatcher = Dispatcher(Sinks(Sink([handler])))
    held = Pacer(dispatcher, lambda: False)
    held.put(items_of(0, [0] * 20), clock.now)
    held.show_some(clock.now, 1)
    assert handler.count == 5
    era = dispatcher.switch(60.0)
    assert era is not None
    held.end(era)
    while held:
        held.show_some(clock.now, 1)
    assert handler.count == 20, "ungrouped, because there was no window"
    held.put(items_of(1, [0] * 20), clock.now)
    while held:
        held.show_some(clock.now, 1)
    assert handler.count == 20, "grouped"
    dispatcher.end_era(era)
    dispatcher.flush()
    assert handler.count == 21
