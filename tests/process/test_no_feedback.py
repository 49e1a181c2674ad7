"""Each line is shown once: the work and the output of a mesh are not forwarded to it again."""

from __future__ import annotations

import pytest

from .procs import run_python


def test_each_line_is_shown_once_if_every_logger_is_enabled() -> None:
    done = run_python("-m", "tests.process.feedback", "loud")
    lines = done.stdout.splitlines()
    assert lines.count("None root client logs") == 1
    assert lines.count("client prints") == 1
    for rank in range(2):
        assert lines.count(f"{rank} root worker logs") == 1
        assert lines.count(f"{rank} stdout worker prints") == 1
        assert any(line.startswith(f"{rank} multiprocess") for line in lines), "it was loud"
    assert sum("logs" in line for line in lines) == 3
    assert sum("prints" in line for line in lines) == 3
    assert lines.count("shown since: 0") == 1
    assert not [line for line in lines if "meshlog" in line], "it says nothing of itself"
    assert len(lines) < 200
    assert done.stderr == ""


def test_a_handler_of_the_client_that_logs_does_not_feed_itself() -> None:
    done = run_python("-m", "tests.process.feedback", "chatty")
    assert done.stdout.splitlines() == [f"None root number {number}" for number in range(10)]
    assert done.stderr == ""


@pytest.mark.parametrize("program", ["mutual", "mutual_grouped"])
def test_two_handlers_that_log_to_each_other_do_so_once_for_each_record(program: str) -> None:
    done = run_python("-m", "tests.process.feedback", program)
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["None b number 3", "None a showed a record"]
    shown, told = lines[:-2:2], lines[1:-2:2]
    assert told == ["None b showed a record"] * len(shown)
    if program == "mutual":
        assert shown == [f"0 a number {number}" for number in range(3)]
    else:  # some may be shown as a group
        assert 1 <= len(shown) <= 3
    assert done.stderr == ""


def test_a_handler_that_logs_does_not_feed_itself_if_records_have_no_thread() -> None:
    done = run_python("-m", "tests.process.feedback", "optimised")
    assert done.stdout.splitlines()[-10:] == [f"None root number {number}" for number in range(10)]
    assert done.stdout.count("showed a record") <= 1


def test_records_that_the_client_passes_to_loggers_of_its_own_process_are_not_forwarded_again() -> None:
    done = run_python("-m", "tests.process.feedback", "relaying")
    lines = done.stdout.splitlines()
    # The records of the process itself are not passed to its loggers again.
    assert [lines.count(line) for line in ("root client logs", "root worker logs", "root client logs again")] == [1, 1, 1]
    assert lines.count("stdout worker prints") == 1
    assert len(lines) < 200
    assert done.stderr == ""
