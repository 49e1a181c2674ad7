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
    """Moved by hand."""

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
    """Takes so many seconds a record."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.count = clock, seconds, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        self.clock.now += self.seconds


class CountsFor(Dispatcher):
    """Takes so many seconds to count."""

    def __init__(self, clock: Clock, seconds: float, *options: Any) -> None:
        super().__init__(*options)
        self._clock, self._seconds = clock, seconds

    def count(self, items: list[Item], now: float) -> list[Item]:
        self._clock.now += self._seconds
        return super().count(items, now)


def test_a_slow_handler_has_its_tick_and_no_more(clock: Clock) -> None:
    handler = Slow(clock, 0.01)
    shown = Pacer(Dispatcher(Sinks(Sink([handler]))), lambda: False)
    shown.put(items_of(0, [0] * 100), clock.now)
    shown.show_some(clock.now, 1)
    assert handler.count == 5
    assert shown


def test_however_long_counting_took_something_is_shown(clock: Clock) -> None:
    handler = Slow(clock, 0.001)
    shown = Pacer(CountsFor(clock, 10.0, Sinks(Sink([handler]))), lambda: False)
    shown.put(items_of(0, [0] * 10), clock.now)
    for _ in range(10):
        shown.show_some(clock.now, 1)
    assert handler.count == 10
    assert not shown


def test_many_that_are_counted_do_not_make_a_slow_handler_a_fast_one(clock: Clock) -> None:
    handler = Slow(clock, 0.02)
    show = Dispatcher(Sinks(Sink([handler], window=600.0)))
    longest, last = 0.0, clock.now

    def look() -> bool:
        nonlocal longest, last
        longest, last = max(longest, clock.now - last), clock.now
        return False

    shown = Pacer(show, look)
    show.dispatch(items_of(0, [0]), clock.now)
    for turn in range(20):
        shown.put([*items_of(turn, [0] * 500), *warnings(turn)], clock.now)
        while shown:
            shown.show_some(clock.now, 1)
    assert handler.count == 20 * 3
    assert longest < 0.021


def warnings(turn: int) -> list[Item]:
    """Return three items that are shown at once: the first of their kinds."""
    return decode(encode(make("careful", lineno=10 * turn + at, levelno=logging.WARNING) for at in range(3)))


def test_what_is_in_the_tray_at_a_switch_is_shown_by_the_settings_before_it(clock: Clock) -> None:
    handler = Slow(clock, 0.01)
    show = Dispatcher(Sinks(Sink([handler])))
    shown = Pacer(show, lambda: False)
    shown.put(items_of(0, [0] * 20), clock.now)
    shown.show_some(clock.now, 1)
    assert handler.count == 5
    era = show.switch(60.0)
    assert era is not None
    shown.end(era)
    while shown:
        shown.show_some(clock.now, 1)
    assert handler.count == 20, "each by itself, as there was no window"
    shown.put(items_of(1, [0] * 20), clock.now)
    while shown:
        shown.show_some(clock.now, 1)
    assert handler.count == 20, "grouped"
    show.end_era(era)
    show.flush()
    assert handler.count == 21
