"""Every wait is accepted by the kernel, for any deadline, and does not depend on the patched clocks of a program."""

from __future__ import annotations

import select
import threading
import time
from concurrent.futures import Future
from fractions import Fraction

import pytest

from meshlog_handler import SettingError
from meshlog_handler.system import waits
from meshlog_handler.system.futures import finished
from meshlog_handler.system.waits import (
    LONGEST_SEC,
    capped,
    check_timeout,
    deadline_after,
    ended,
    seconds_until,
    wait_in_parts,
)

MONTH = 30 * 86_400.0
INF = float("inf")


@pytest.mark.parametrize(
    ("seconds", "wait"),
    [(None, LONGEST_SEC), (INF, LONGEST_SEC), (MONTH, LONGEST_SEC), (0.25, 0.25), (0, 0.0), (-1, 0.0), (-INF, 0.0)],
)
def test_wait_has_upper_bound(seconds: float | None, wait: float) -> None:
    assert capped(seconds) == wait
    assert seconds_until(None if seconds is None else 100.0 + seconds, 100.0) == wait


def test_integer_too_large_for_float_is_accepted() -> None:
    assert capped(10**400) == LONGEST_SEC
    assert deadline_after(10**400) == INF


def test_bound_is_far_below_limits_of_poll_and_locks() -> None:
    assert LONGEST_SEC * 1000 < (1 << 31) / 100
    assert threading.TIMEOUT_MAX / 100 > LONGEST_SEC
    ready = select.poll()
    assert ready.poll(capped(-MONTH) * 1000) == []


@pytest.mark.parametrize("value", [-1, -0.001, -INF, -(10**400)])
def test_a_caller_gives_no_timeout_below_0_but_the_time_that_is_left_may_be(value: float) -> None:
    with pytest.raises(SettingError, match=r"timeout=-.* from 0, or None"):
        check_timeout(value)
    assert deadline_after(value) < waits.monotonic()
    assert capped(value) == 0.0


@pytest.mark.parametrize("value", [float("nan"), "3", b"3", [1]])
def test_invalid_timeout_is_rejected(value: float) -> None:
    for check in (check_timeout, capped, deadline_after):
        with pytest.raises(SettingError, match="timeout="):
            check(value)


def test_a_timeout_of_another_type_of_number_becomes_a_float() -> None:
    seconds = check_timeout(Fraction(1, 2))  # type: ignore[arg-type]  # as those of numpy, it is no subclass of float
    assert (type(seconds), seconds) == (float, 0.5)


def test_long_wait_is_split_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(waits, "monotonic", lambda: clock)
    parts: list[float] = []

    def wait(part: float) -> bool:
        nonlocal clock
        parts.append(part)
        clock += part
        return False

    assert not wait_in_parts(wait, 2.5 * LONGEST_SEC)
    assert parts == [LONGEST_SEC, LONGEST_SEC, LONGEST_SEC / 2]


def test_wait_without_limit_ends_with_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(waits, "monotonic", lambda: 0.0)
    assert wait_in_parts(lambda part: next(answers), None)


def test_wait_ends_in_time_with_frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "monotonic", lambda: 0.0)
    assert not wait_in_parts(lambda part: False, 0.01)


@pytest.mark.parametrize("seconds", [None, INF, MONTH, 1.0, 0.0])
def test_done_or_cancelled_future_ends_the_wait(seconds: float | None) -> None:
    done: Future[int] = Future()
    done.set_result(1)
    failed: Future[int] = Future()
    failed.set_exception(TimeoutError("raised by the task"))
    cancelled: Future[int] = Future()
    cancelled.cancel()
    assert [finished(each, seconds) for each in (done, failed, cancelled)] == [True] * 3
    assert not finished(Future(), 0.01)


def test_wait_for_thread_has_limit() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    assert not ended(thread, 0.01)
    gate.set()
    assert ended(thread, None)


def test_deadlines_do_not_depend_on_patched_clock_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1.7e9)
    assert waits.monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_MONOTONIC), abs=1.0)
