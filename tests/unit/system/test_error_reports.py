"""Failures are reported in bounded numbers, and nothing that a failure or a callback does passes on."""

from __future__ import annotations

from concurrent.futures import Future

from meshlog_handler.system.error_reports import ErrorReports, describe, give, name_of, refuse


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def test_an_exception_without_a_text_is_described_by_its_class() -> None:
    assert describe(ValueError("why")) == "ValueError: why"
    assert describe(ValueError()) == "ValueError"
    assert describe(Unspeakable()).startswith("Unspeakable: ")
    assert name_of(Unspeakable()) == "<Unspeakable>"


def test_the_first_failure_is_reported_at_once_and_a_million_more_in_a_few_lines() -> None:
    said: list[str] = []
    now = 0.0
    complaints = ErrorReports(said.append, lambda: now)
    for _ in range(100_000):
        now += 0.001
        complaints.log("showing", ValueError("bad"))
    assert said[0] == "showing: ValueError: bad"
    assert 3 <= len(said) <= 8
    complaints.close()
    counts = [int(line.rpartition("(")[2].split()[0].replace(",", "")) for line in said[1:]]
    assert sum(counts) + len(said) - 1 == 100_000, "every failure is reported, or counted"


def test_failures_of_other_kinds_are_reported_at_once_and_their_number_is_bounded() -> None:
    said: list[str] = []
    complaints = ErrorReports(said.append, lambda: 0.0)
    complaints.log("showing", ValueError("bad"))
    complaints.log("showing", SystemExit(1))
    complaints.log("reading", ValueError("bad"))
    assert len(said) == 3
    for number in range(1000):
        complaints.log(f"thing {number}", ValueError("bad"))
    assert len(complaints._kinds) <= 64


def test_a_kind_that_was_not_heard_of_for_long_is_reported_at_once() -> None:
    said: list[str] = []
    now = 0.0
    complaints = ErrorReports(said.append, lambda: now)
    for moment in (0.0, 0.1, 500.0, 500.1, 501.5):
        now = moment
        complaints.log("showing", ValueError("bad"))
    assert said == [
        "showing: ValueError: bad",
        "showing: ValueError: bad (1 more like it were not reported)",
        "showing: ValueError: bad (1 more like it were not reported)",
    ]


def test_a_future_is_completed_whatever_became_of_it_and_whatever_its_callbacks_raise() -> None:
    cancelled: Future[int] = Future()
    cancelled.cancel()
    give(cancelled, 1)
    refuse(cancelled, ValueError())

    def leave(_: Future[int]) -> None:
        raise SystemExit(1)

    given: Future[int] = Future()
    given.add_done_callback(leave)
    give(given, 1)
    assert given.result(0) == 1
