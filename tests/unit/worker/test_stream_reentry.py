"""Records logged while the same thread is logging: by arguments, signal handlers and the garbage collector."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest

from ..one_proc import PADDING, Proc, Waits


class LoggingArgument:
    """An argument that logs when it is formatted."""

    def __init__(self, proc: Proc, number: int, size: int) -> None:
        self._proc, self._number, self._size = proc, number, size

    def __repr__(self) -> str:
        self._proc.log("rendering %d %s", self._number, "x" * self._size)
        return f"argument {self._number}"


@pytest.mark.parametrize("size", [10, 600, 3000])
def test_an_argument_that_logs_is_formatted_once_even_if_the_segment_is_full(proc: Proc, size: int) -> None:
    expected = []
    for number in range(60):
        # With the largest size, both records together exceed a segment.
        proc.log("outer %s %s", LoggingArgument(proc, number, size), "y" * 1500)
        proc.ship()
        rendered = sum(text.startswith(f"rendering {number} ") for text in proc.texts)
        expected.append(rendered)
        assert proc.texts[-1].startswith(f"outer argument {number} y")
    assert set(expected) == {expected[0]}  # the same count when the segment was full
    assert sum(text.startswith("outer") for text in proc.texts) == 60


def test_records_logged_during_a_segment_change_all_arrive(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    rotate, inner = proc.stream.journal.rotate, itertools.count()
    depth = itertools.count()

    def logging_rotate(*args: Any, **options: Any) -> bool:
        if next(depth) % 3:
            return rotate(*args, **options)
        proc.log(f"before {next(inner)} {PADDING}")
        changed = rotate(*args, **options)
        proc.log(f"after {next(inner)}")
        return changed

    monkeypatch.setattr(proc.stream.journal, "rotate", logging_rotate)
    for number in range(100):
        proc.log("%d %s", number, PADDING * 2)
        proc.ship()
    found = proc.texts
    assert [text for text in found if text.isdecimal()] == [str(number) for number in range(100)]
    inside = [text.split() for text in found if not text.isdecimal()]
    assert sorted(int(number) for _, number in inside) == list(range(next(inner)))
    assert len(inside) > 10
    assert not proc.drops


class Terminate:
    """A signal handler that logs, and then ends the interrupted call with SystemExit."""

    def __init__(self, proc: Proc) -> None:
        self._proc = proc
        self.called = False

    def __call__(self) -> None:
        if not self.called:
            self.called = True
            self._proc.log("terminating " + PADDING * 3)
            raise SystemExit


def test_a_signal_handler_that_logs_and_raises_during_a_wait_loses_no_record(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = proc.fill()
    Waits(monkeypatch, proc, Terminate(proc), proc.ship)
    with pytest.raises(SystemExit):
        proc.log("never " + PADDING * 3)
    proc.log("goes on")
    proc.ship()
    assert proc.texts == [*map(str, range(count)), "terminating", "goes on"]


def test_a_signal_handler_that_logs_and_raises_during_a_segment_change_loses_no_record(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate, terminate = proc.stream.journal.rotate, Terminate(proc)

    def interrupted(*args: Any, **options: Any) -> bool:
        terminate()
        return rotate(*args, **options)

    monkeypatch.setattr(proc.stream.journal, "rotate", interrupted)
    with pytest.raises(SystemExit):
        proc.fill()
    proc.log("goes on")
    proc.ship()
    *before, terminating, last = proc.texts
    assert before == [str(number) for number in range(len(before))]
    assert (terminating, last) == ("terminating", "goes on")


def test_an_interrupt_raised_by_an_argument_leaves_the_stream_unchanged(proc: Proc) -> None:
    class Interrupting:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        proc.log("%s", Interrupting())
    proc.log("goes on")
    proc.ship()
    assert proc.texts == ["goes on"]


def test_finalizers_may_log_at_any_time(proc: Proc) -> None:
    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            proc.log("collected %s", PADDING)

    thresholds, made = gc.get_threshold(), 300
    gc.collect()
    gc.set_threshold(5, 1, 1)
    try:
        for number in range(made):
            Garbage()
            proc.log("%d %s", number, [PADDING])
            if number % 10 == 0:
                proc.ship()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    proc.ship()
    assert proc.texts.count("collected") == made
    assert [text.split()[0] for text in proc.texts if text != "collected"] == [str(number) for number in range(made)]
