"""Summaries of failures."""

from __future__ import annotations

import re

import pytest

from meshlog_handler.cli.launch.summary import RankEnd, RankFailure, end_table, failure_summary, stdin_hint
from meshlog_handler.system.exit_status import signal_name

TRACEBACK = (
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "    main()",
)


def test_names_of_causes() -> None:
    assert [signal_name(code) for code in (-11, -9, 3, 0)] == ["SIGSEGV", "SIGKILL", "exit code 3", "exit code 0"]
    assert signal_name(-63) == "signal 63"
    assert signal_name(None) == "an unknown cause"


def test_without_failures_the_summary_is_empty() -> None:
    assert failure_summary([], 4) == ""


def test_the_first_failure_comes_first_and_the_others_are_grouped() -> None:
    failures = [
        RankFailure(rank, 100 + rank, 1, 1000.5, ("step 3", *TRACEBACK, f"ConnectionError: rank 2 is gone, says {rank}"))
        for rank in (0, 1, 3, 4, 5, 6, 7)
    ]
    first = RankFailure(2, 102, -11, 1000.1, ("loading", "Fatal Python error: Segmentation fault"))
    lines = failure_summary([*failures, first], 8).splitlines()
    assert lines[0] == "8 of 8 ranks failed, rank 2 first:"
    assert re.fullmatch(r"rank 2 \(pid 102\): SIGSEGV at \d\d:\d\d:\d\d\.\d{3}; its last lines:", lines[1])
    assert lines[2:4] == ["    loading", "    Fatal Python error: Segmentation fault"]
    assert lines[4:] == [
        "then:",
        "    ranks 0-1,3-7: exit code 1, 0.4 s later: ConnectionError: rank 2 is gone, says 0",
    ]


def test_the_traceback_is_complete() -> None:
    failure = RankFailure(0, 7, 1, 5.0, ("before", *TRACEBACK, "ValueError: boom"))
    text = failure_summary([failure], 1)
    assert text.startswith("1 of 1 ranks failed:\nrank 0 (pid 7): exit code 1 at ")
    assert text.endswith("\n    ".join(("", "before", *TRACEBACK, "ValueError: boom")))


def test_other_failures_are_grouped_by_cause_and_exception() -> None:
    text = failure_summary(
        [
            RankFailure(0, 1, 1, 1.0),
            RankFailure(1, 1, 1, 2.0, (*TRACEBACK, "ValueError: a")),
            RankFailure(2, 1, 1, 2.0, (*TRACEBACK, "KeyError: a")),
            RankFailure(3, 1, 1, 2.0, (*TRACEBACK, "ValueError: b")),
            RankFailure(4, 1, -9, 2.0, ("last words",)),
            RankFailure(5, 1, 137, 2.0),
        ],
        9,
    )
    assert text.splitlines()[2:] == [
        "then:",
        "    ranks 1,3: exit code 1, 1.0 s later: ValueError: a",
        "    rank 2: exit code 1, 1.0 s later: KeyError: a",
        "    rank 4: SIGKILL, 1.0 s later: last words",
        "    rank 5: exit code 137 (SIGKILL), 1.0 s later",
    ]


@pytest.mark.parametrize("exitcode", [-15, -9, 143])
def test_at_the_same_time_a_rank_that_ended_by_itself_comes_first(exitcode: int) -> None:
    text = failure_summary([RankFailure(0, 1, exitcode, 1.0), RankFailure(1, 1, 1, 1.0)], 2)
    assert text.startswith("2 of 2 ranks failed, rank 1 first:")


@pytest.mark.parametrize("exitcode", [-2, 130, 1])
def test_after_an_interrupt_there_is_no_traceback(exitcode: int) -> None:
    last = (*TRACEBACK, "KeyboardInterrupt")
    text = failure_summary([RankFailure(rank, 1, exitcode, 1.0, last) for rank in range(8)], 8)
    assert text.startswith("interrupted (Ctrl-C): 8 of 8 ranks ended\n    ranks 0-7: ")
    assert "Traceback" not in text
    assert len(text.splitlines()) == 2


def test_a_prefixed_and_coloured_traceback_is_found() -> None:
    lines = tuple(f"\x1b[31m{line}" for line in (*TRACEBACK, "ValueError: a"))
    text = failure_summary([RankFailure(0, 1, 1, 1.0), RankFailure(1, 1, 1, 1.0, tuple(f"E {line}" for line in lines))], 2)
    assert text.endswith("    rank 1: exit code 1: ValueError: a")
    assert "\x1b" not in text


def test_ranks_that_failed_without_a_standard_input_are_named() -> None:
    failures = [
        RankFailure(0, 1, 1, 1.0, (*TRACEBACK, "EOFError: EOF when reading a line")),
        RankFailure(1, 1, 1, 1.0, ("> train.py(3)main()", "(Pdb) ", *TRACEBACK, "\x1b[31mbdb.BdbQuit\x1b[0m")),
        RankFailure(2, 1, 1, 1.0, (*TRACEBACK, "EOFError: Ran out of input")),
        RankFailure(3, 1, 1, 1.0),
    ]
    assert stdin_hint(failures, None).startswith("ranks 0-1 have no standard input")
    assert stdin_hint(failures, 0).startswith("rank 1 has no standard input")
    assert stdin_hint(failures[2:], None) == ""


def test_the_table_has_a_row_per_rank() -> None:
    ends = [RankEnd(9, 123, 0, 1.0, False), RankEnd(10, 4567, -11, 12.5, False), RankEnd(11, 8, None, 0.0, False)]
    assert end_table([*ends, RankEnd(12, 9, -15, 2.0, True)]).splitlines() == [
        "1 of 4 ranks succeeded:",
        "    rank   pid  seconds  end",
        "       9   123     1.00  exit code 0",
        "      10  4567    12.50  SIGSEGV",
        "      11     8        -  still alive",
        "      12     9     2.00  SIGTERM, stopped",
    ]
