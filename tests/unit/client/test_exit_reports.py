from __future__ import annotations

import logging
import signal
from dataclasses import dataclass, field

import pytest

from meshlog_handler.client.exit_reports import WORD_SEC, ExitReport, ExitReports, exit_report, last_lines
from meshlog_handler.protocol.decode import Item

from ..crossing import decode, encode, make

WHO = "rank 3 (pid 4711)"


@dataclass
class Proc:
    """A proc that has been heard to its end; of a mesh, if it has a token."""

    rank: int | None = 3
    exitcode: int | None = None
    mesh: str = "token"
    uncaught: str | None = None
    pid: int = 4711
    tail: list[Item] = field(default_factory=list)


def error(how: str) -> ExitReport:
    return ExitReport(logging.ERROR, f"{WHO} {how}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_crash_is_an_error(name: str) -> None:
    for mesh in ("", "token"):
        assert ExitReports().drained(Proc(mesh=mesh, exitcode=-signal.Signals[name]), 0.0) == error(f"ended by {name}")


@pytest.mark.parametrize("uncaught", [None, ""])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_that_asks_for_an_end_is_not_told(name: str, uncaught: str | None) -> None:
    assert exit_report(Proc(mesh="", exitcode=-signal.Signals[name], uncaught=uncaught)) is None


def test_an_exit_code_that_a_guest_has_chosen_is_no_error() -> None:
    assert exit_report(Proc(exitcode=0)) is None
    assert exit_report(Proc(exitcode=3, uncaught="")) is None
    assert exit_report(Proc(exitcode=155)) == ExitReport(logging.INFO, f"{WHO} ended by exit code 155")


def test_an_uncaught_exception_is_an_error() -> None:
    assert exit_report(Proc(exitcode=1, uncaught="ValueError")) == error("ended by exit code 1 (uncaught ValueError)")
    assert exit_report(Proc(uncaught="ValueError")) == error("ended by uncaught ValueError")
    assert exit_report(Proc(exitcode=0, uncaught="ValueError")) is None, "a prompt shows exceptions, and goes on"


def test_of_a_guest_that_is_gone_it_is_said_that_the_cause_is_not_known() -> None:
    obituaries = ExitReports()
    assert obituaries.drained(Proc(mesh=""), 10.0) == error("is gone; the cause is not known to this process")
    assert obituaries.drained(Proc(mesh="", uncaught=""), 10.0) is None, "it ended in order"
    assert obituaries.deadline is None, "no owner will say more"


def test_an_end_waits_for_the_word_of_its_owner() -> None:
    obituaries, proc = ExitReports(), Proc()
    assert obituaries.drained(proc, 10.0) is None
    assert obituaries.deadline == 10.0 + WORD_SEC
    assert obituaries.exited("token", 3, 7) == (proc, error("ended by exit code 7"))
    assert proc.exitcode == 7
    assert obituaries.deadline is None


@pytest.mark.parametrize("code", [7, -signal.SIGTERM])
def test_its_owner_expects_a_proc_to_end_by_0(code: int) -> None:
    obituaries, proc = ExitReports(), Proc(exitcode=code, uncaught="")
    assert obituaries.drained(proc, 0.0) is None
    told = obituaries.exited("token", 3, code)
    assert told is not None
    assert told[1] is not None
    assert told[1].level == logging.ERROR


def test_its_owner_knows_that_it_has_ended_a_proc_itself() -> None:
    obituaries = ExitReports()
    obituaries.exited("token", 3, 0)
    assert obituaries.drained(Proc(), 0.0) is None
    assert obituaries.deadline is None


def test_the_word_may_come_first() -> None:
    obituaries, proc = ExitReports(), Proc()
    assert obituaries.exited("token", 3, -signal.SIGSEGV) is None
    assert obituaries.drained(proc, 0.0) == error("ended by SIGSEGV")
    assert obituaries.deadline is None


def test_a_word_is_of_one_rank_of_one_mesh() -> None:
    obituaries = ExitReports()
    obituaries.drained(Proc(), 0.0)
    assert obituaries.exited("other", 3, 1) is None
    assert obituaries.exited("token", 4, 1) is None
    assert obituaries.exited("token", 3, 1) is not None


def test_a_word_is_used_once() -> None:
    obituaries = ExitReports()
    obituaries.exited("token", 3, 1)
    # The kernel said the same: the word is for this proc nevertheless, and not for the next one of its rank.
    assert obituaries.drained(Proc(exitcode=1), 0.0)
    assert obituaries.drained(Proc(), 0.0) is None
    assert obituaries.exited("token", 3, 2) is not None
    assert obituaries.drained(Proc(), 0.0) is None


def test_a_crash_that_was_told_at_once_is_not_told_again() -> None:
    obituaries = ExitReports()
    assert obituaries.drained(Proc(exitcode=-9), 0.0) == error("ended by SIGKILL")
    assert obituaries.exited("token", 3, -9) is None
    assert obituaries.drained(Proc(), 0.0) is None, "the word was for the one before"


def test_an_end_of_which_nobody_knows_more_is_forgotten() -> None:
    obituaries = ExitReports()
    obituaries.drained(Proc(), 10.0)
    assert obituaries.expire(10.0 + WORD_SEC - 0.01) == []
    assert obituaries.deadline is not None
    assert obituaries.expire(10.0 + WORD_SEC) == []
    assert obituaries.deadline is None
    assert obituaries.exited("token", 3, 1) is None


def test_where_no_owner_speaks_the_kernel_is_believed() -> None:
    obituaries, proc = ExitReports(), Proc(exitcode=155)
    assert obituaries.drained(proc, 0.0) is None
    assert obituaries.expire(WORD_SEC) == [(proc, ExitReport(logging.INFO, f"{WHO} ended by exit code 155"))]


def test_it_ends_with_the_last_lines_as_they_were_shown() -> None:
    tail = decode(
        encode(
            [
                make("loading %d of %d", 3, 8),
                make("it broke\n", levelno=logging.ERROR, levelname="ERROR", exc_text="Traceback:\n  x\nValueError: why\n"),
                make("%d", "x"),
            ]
        )
    )
    report = exit_report(Proc(exitcode=-9, tail=[*tail, (0.0, None, ("owner", 1))]))
    assert report is not None
    first, *rest = report.text.split("\n    ")
    assert first == "rank 3 (pid 4711) ended by SIGKILL; its last lines:"
    assert rest[:2] == ["INFO app.part: loading 3 of 8", "ERROR app.part: it broke: ValueError: why"]
    assert "cannot be formatted" in rest[2]
    assert len(rest) == 3
    assert last_lines([]) == []
