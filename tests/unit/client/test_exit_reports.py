from __future__ import annotations

import logging
import signal
from dataclasses import dataclass, field

import pytest

from meshlog_handler.client.exit_reports import EXIT_CODE_SEC, ExitReport, ExitReports, exit_report, last_lines
from meshlog_handler.protocol.decode import Item

from ..crossing import decode, encode, make

NAME = "rank 3 (pid 4711)"


@dataclass
class Worker:
    """A worker whose records are all shown; it is of a mesh if it has a token."""

    rank: int | None = 3
    exitcode: int | None = None
    mesh: str = "token"
    uncaught: str | None = None
    pid: int = 4711
    tail: list[Item] = field(default_factory=list)


def error(how: str) -> ExitReport:
    return ExitReport(logging.ERROR, f"{NAME} {how}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_crash_is_an_error(name: str) -> None:
    for mesh in ("", "token"):
        assert ExitReports().drained(Worker(mesh=mesh, exitcode=-signal.Signals[name]), 0.0) == error(f"ended by {name}")


@pytest.mark.parametrize("uncaught", [None, ""])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_that_asks_a_worker_to_stop_is_not_reported(name: str, uncaught: str | None) -> None:
    assert exit_report(Worker(mesh="", exitcode=-signal.Signals[name], uncaught=uncaught)) is None


def test_an_exit_code_outside_of_a_mesh_is_no_error() -> None:
    assert exit_report(Worker(exitcode=0)) is None
    assert exit_report(Worker(exitcode=3, uncaught="")) is None
    assert exit_report(Worker(exitcode=155)) is None, "a worker of billiard or Celery that has done its number of tasks"
    assert exit_report(Worker(exitcode=7)) == ExitReport(logging.INFO, f"{NAME} ended by exit code 7")


def test_an_uncaught_exception_is_an_error() -> None:
    assert exit_report(Worker(exitcode=1, uncaught="ValueError")) == error("ended by exit code 1 (uncaught ValueError)")
    assert exit_report(Worker(uncaught="ValueError")) == error("ended by uncaught ValueError")
    assert exit_report(Worker(exitcode=0, uncaught="ValueError")) is None, "a prompt shows exceptions and continues"


def test_the_report_of_a_lost_worker_outside_of_a_mesh_says_that_the_cause_is_unknown() -> None:
    reports = ExitReports()
    assert reports.drained(Worker(mesh=""), 10.0) == error("is gone; the cause is not known to this process")
    assert reports.drained(Worker(mesh="", uncaught=""), 10.0) is None, "it ended normally"
    assert reports.deadline is None, "no owner reports an exit code"


def test_a_report_waits_for_the_exit_code_from_the_owner() -> None:
    reports, worker = ExitReports(), Worker()
    assert reports.drained(worker, 10.0) is None
    assert reports.deadline == 10.0 + EXIT_CODE_SEC
    assert reports.exited("token", 3, 7) == (worker, error("ended by exit code 7"))
    assert worker.exitcode == 7
    assert reports.deadline is None


@pytest.mark.parametrize("code", [7, -signal.SIGTERM])
def test_an_owner_expects_exit_code_0(code: int) -> None:
    reports, worker = ExitReports(), Worker(exitcode=code, uncaught="")
    assert reports.drained(worker, 0.0) is None
    reported = reports.exited("token", 3, code)
    assert reported is not None
    assert reported[1] is not None
    assert reported[1].level == logging.ERROR


def test_exit_code_0_from_the_owner_means_that_the_owner_ended_the_worker() -> None:
    reports = ExitReports()
    reports.exited("token", 3, 0)
    assert reports.drained(Worker(), 0.0) is None
    assert reports.deadline is None


def test_the_exit_code_may_arrive_first() -> None:
    reports, worker = ExitReports(), Worker()
    assert reports.exited("token", 3, -signal.SIGSEGV) is None
    assert reports.drained(worker, 0.0) == error("ended by SIGSEGV")
    assert reports.deadline is None


def test_an_exit_code_belongs_to_one_rank_of_one_mesh() -> None:
    reports = ExitReports()
    reports.drained(Worker(), 0.0)
    assert reports.exited("other", 3, 1) is None
    assert reports.exited("token", 4, 1) is None
    assert reports.exited("token", 3, 1) is not None


def test_an_exit_code_is_used_once() -> None:
    reports = ExitReports()
    reports.exited("token", 3, 1)
    # The kernel reported the same code. It belongs to this worker, not to the next worker of its rank.
    assert reports.drained(Worker(exitcode=1), 0.0)
    assert reports.drained(Worker(), 0.0) is None
    assert reports.exited("token", 3, 2) is not None
    assert reports.drained(Worker(), 0.0) is None


def test_a_crash_that_was_reported_at_once_is_not_reported_again() -> None:
    reports = ExitReports()
    assert reports.drained(Worker(exitcode=-9), 0.0) == error("ended by SIGKILL")
    assert reports.exited("token", 3, -9) is None
    assert reports.drained(Worker(), 0.0) is None, "the exit code was for the worker before"


def test_an_end_without_an_exit_code_is_removed() -> None:
    reports = ExitReports()
    reports.drained(Worker(), 10.0)
    assert reports.expire(10.0 + EXIT_CODE_SEC - 0.01) == []
    assert reports.deadline is not None
    assert reports.expire(10.0 + EXIT_CODE_SEC) == []
    assert reports.deadline is None
    assert reports.exited("token", 3, 1) is None


def test_without_an_exit_code_from_the_owner_that_of_the_kernel_is_used() -> None:
    reports, worker = ExitReports(), Worker(exitcode=7)
    assert reports.drained(worker, 0.0) is None
    assert reports.expire(EXIT_CODE_SEC) == [(worker, ExitReport(logging.INFO, f"{NAME} ended by exit code 7"))]


def test_a_report_ends_with_the_last_lines_as_they_were_shown() -> None:
    tail = decode(
        encode(
            [
                make("loading %d of %d", 3, 8),
                make("it broke\n", levelno=logging.ERROR, levelname="ERROR", exc_text="Traceback:\n  x\nValueError: why\n"),
                make("%d", "x"),
            ]
        )
    )
    report = exit_report(Worker(exitcode=-9, tail=[*tail, (0.0, None, ("owner", 1))]))
    assert report is not None
    first, *rest = report.text.split("\n    ")
    assert first == "rank 3 (pid 4711) ended by SIGKILL; its last lines:"
    assert rest[:2] == ["INFO app.part: loading 3 of 8", "ERROR app.part: it broke: ValueError: why"]
    assert "cannot be formatted" in rest[2]
    assert len(rest) == 3
    assert last_lines([]) == []


def test_a_record_that_several_handlers_have_forwarded_is_one_line() -> None:
    first, again, last = make("step 1", created=1.0), make("step 1", created=2.0), make("step 2", created=2.0)
    tail = decode(encode([first, first, first, again, again, last, last]))
    assert last_lines(tail) == ["INFO app.part: step 1", "INFO app.part: step 1", "INFO app.part: step 2"]
