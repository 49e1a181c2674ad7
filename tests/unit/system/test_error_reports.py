"""The number of reports is bounded, and no exception of a failure or a callback propagates."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from meshlog_handler.system.diagnostics import diagnose
from meshlog_handler.system.error_reports import AT_ONCE, ErrorReports, describe, name_of
from meshlog_handler.system.futures import give, refuse


class WithoutText(Exception):
    """An exception whose text cannot be formatted."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


def test_exception_without_text_is_described_by_its_class() -> None:
    assert describe(ValueError("why")) == "ValueError: why"
    assert describe(ValueError()) == "ValueError"
    assert describe(WithoutText()).startswith("WithoutText: ")
    assert name_of(WithoutText()) == "<WithoutText>"


def test_first_failure_is_reported_at_once_and_many_more_in_few_lines() -> None:
    lines: list[str] = []
    now = 0.0
    reports = ErrorReports(lines.append, lambda: now)
    for _ in range(100_000):
        now += 0.001
        reports.log("showing", ValueError("bad"))
    assert lines[0] == "showing: ValueError: bad"
    assert 3 <= len(lines) <= 8
    reports.close()
    counts = [int(line.rpartition("(")[2].split()[0].replace(",", "")) for line in lines[1:]]
    assert sum(counts) + len(lines) - 1 == 100_000, "every failure is reported, or counted"


def test_other_kinds_are_reported_at_once_and_number_of_kinds_is_bounded() -> None:
    lines: list[str] = []
    reports = ErrorReports(lines.append, lambda: 0.0)
    reports.log("showing", ValueError("bad"))
    reports.log("showing", SystemExit(1))
    reports.log("reading", ValueError("bad"))
    assert len(lines) == 3
    for number in range(1000):
        reports.log(f"thing {number}", ValueError("bad"))
    assert len(reports._kinds) <= 64


def test_kind_without_failures_for_a_long_time_is_reported_at_once() -> None:
    lines: list[str] = []
    now = 0.0
    reports = ErrorReports(lines.append, lambda: now)
    for moment in (0.0, 0.1, 500.0, 500.1, 501.5):
        now = moment
        reports.log("showing", ValueError("bad"))
    assert lines == [
        "showing: ValueError: bad",
        "showing: ValueError: bad (1 more like it were not reported)",
        "showing: ValueError: bad (1 more like it were not reported)",
    ]


def test_what_peers_cause_is_reported_a_bounded_number_of_times_in_any_minute() -> None:
    lines: list[tuple[float, str]] = []
    now = 0.0
    reports = ErrorReports(lambda line: lines.append((now, line)), lambda: now)
    for number in range(9_000):
        now += 0.1 if number % 2_000 else 100.0  # from time to time, it is quiet for a while
        reports.tell("a process misbehaves", f"process {number} misbehaves")
    assert [line for _, line in lines[:AT_ONCE]] == [f"process {number} misbehaves" for number in range(AT_ONCE)]
    assert max(sum(begin <= when < begin + 60.0 for when, _ in lines) for begin, _ in lines) <= AT_ONCE + 5
    reports.close()
    left_out = [int(found[1].replace(",", "")) for _, line in lines if (found := re.search(r"\(([\d,]+) more", line))]
    assert sum(line.startswith("process ") for _, line in lines) + sum(left_out) == 9_000, "each is reported, or counted"


def test_threads_lose_no_report() -> None:
    lines: list[str] = []
    reports = ErrorReports(lines.append, lambda: 0.0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: reports.tell("a process misbehaves", f"process {number}"), range(4_000)))
    assert len(lines) == AT_ONCE
    reports.close()
    assert lines[-1] == f"a process misbehaves ({4_000 - AT_ONCE:,} more like it were not reported)"


def test_completing_a_future_never_raises() -> None:
    cancelled: Future[int] = Future()
    cancelled.cancel()
    give(cancelled, 1)
    refuse(cancelled, ValueError())

    def exit_in_callback(_: Future[int]) -> None:
        raise SystemExit(1)

    given: Future[int] = Future()
    given.add_done_callback(exit_in_callback)
    give(given, 1)
    assert given.result(0) == 1


def test_a_message_of_any_length_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    diagnose(f"a peer sent {'x' * 1_000_000}")
    (line,) = capfd.readouterr().err.splitlines()
    assert len(line) < 20_000
    assert line.startswith("meshlog: a peer sent xxx")
    assert line.endswith(" more characters]")
