from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from meshlog_handler.worker import timed_levels
from meshlog_handler.worker.timed_levels import TimedLevels, level_of, leveled

NAME = "timed_levels"


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timed_levels, "monotonic", made)
    monkeypatch.setattr(timed_levels, "seconds_until", lambda deadline: deadline - made.now)
    return made


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger(NAME)
    made.setLevel(logging.ERROR)
    yield made
    made.setLevel(logging.NOTSET)


def change(levels: TimedLevels, level: int, for_sec: float | None = None) -> None:
    """Set the level as a command does."""
    before = {NAME: level_of(NAME)}
    logging.getLogger(NAME).setLevel(level)
    levels.changed(before, for_sec)


def test_a_level_reverts_when_its_time_is_over(clock: Clock, logger: logging.Logger) -> None:
    levels = TimedLevels()
    change(levels, 10, 5)
    assert levels.revert_due() == 5
    clock.now += 4
    assert (levels.revert_due(), logger.level) == (1, 10)
    clock.now += 1
    assert (levels.revert_due(), logger.level) == (None, logging.ERROR)


def test_of_two_timed_changes_the_later_counts_and_the_first_level_returns(clock: Clock, logger: logging.Logger) -> None:
    levels = TimedLevels()
    change(levels, 10, 5)
    change(levels, 20, 1)
    clock.now += 1
    assert (levels.revert_due(), logger.level) == (None, logging.ERROR)


def test_a_change_without_end_ends_the_timer_of_an_earlier_one(clock: Clock, logger: logging.Logger) -> None:
    levels = TimedLevels()
    change(levels, 10, 5)
    change(levels, 20)
    clock.now += 5
    assert (levels.revert_due(), logger.level) == (None, 20)
    levels.restore()
    assert logger.level == logging.ERROR


def test_what_was_saved_is_due_again_after_load(clock: Clock, logger: logging.Logger) -> None:
    levels = TimedLevels()
    change(levels, 10, 5)
    saved = levels.saved()
    change(levels, 20)
    assert levels.revert_due() is None
    logger.setLevel(10)  # as the rollback does
    levels.load(saved)
    clock.now += 5
    assert (levels.revert_due(), logger.level) == (None, logging.ERROR)


def test_a_level_that_the_program_has_set_since_then_stays(clock: Clock, logger: logging.Logger) -> None:
    levels = TimedLevels()
    change(levels, 10, 5)
    logger.setLevel(40)
    clock.now += 5
    assert (levels.revert_due(), logger.level) == (None, 40)
    change(levels, 10)
    logger.setLevel(30)
    levels.restore()
    assert logger.level == 30


def test_a_restored_level_is_that_before_the_first_command(clock: Clock, logger: logging.Logger) -> None:
    levels = TimedLevels()
    change(levels, 20)
    change(levels, 10, 5)
    clock.now += 5
    assert (levels.revert_due(), logger.level) == (None, 20)
    levels.restore()
    assert logger.level == logging.ERROR


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"incremental": True, "root": {"level": 10}}, [""]),
        ({"incremental": True, "loggers": {"a": {"level": 10}, "b": {"propagate": False}}}, ["a"]),
        ({"loggers": {"a": {"level": 10}}, "root": {"level": 10}}, []),
        ({"incremental": True, "loggers": None, "root": 5}, []),
        ({"incremental": True, "loggers": ["a"]}, []),
    ],
)
def test_the_names_of_the_loggers_whose_levels_are_set(config: dict[str, Any], names: list[str]) -> None:
    assert leveled(config) == names
