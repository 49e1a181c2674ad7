"""What a killed client of a job has left behind, and when the next one removes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshlog_handler.client.jobs.succession import Succession
from meshlog_handler.journal.shown import ShownMark
from meshlog_handler.protocol.messages import Hello
from meshlog_handler.system.error_reports import ErrorReports
from meshlog_handler.transport.run_directory import RunDir, base


@pytest.fixture
def living() -> Iterator[int]:
    """The pid of a process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate(b"\n")


def hello(pid: int) -> Hello:
    """Return what a process of the job says of itself."""
    return Hello(pid, "here", None, None, "", (), True, 0.0, job="shop")


def left_mark(pid: int) -> Path:
    """Let a client of the job be killed after it has let a process join, and before that has made its journal."""
    killed = RunDir("shop")
    journal = os.path.join(killed.path, f"{pid}-1.journal")
    ShownMark.create(journal, {"hello": hello(pid).fields(), "rank": None}).close()
    killed.forget()
    return Path(killed.path)


@pytest.fixture
def directory() -> Iterator[RunDir]:
    """The run directory of the next client."""
    made = RunDir("shop")
    yield made
    made.remove()


def test_a_mark_without_a_journal_is_removed_when_its_process_has_joined_again(living: int, directory: RunDir) -> None:
    left = left_mark(living)
    succession = Succession("shop", directory.path, ErrorReports().tell)
    assert list(succession.ended(1.0)) == []
    assert succession.due is not None
    assert left.exists(), "its process may be about to make the journal"
    mark = succession.mark(hello(living), None, os.path.join(directory.path, f"{living}-2.journal"))
    assert mark is not None
    assert list(succession.ended(100.0)) == []
    assert succession.due is None, "nothing is left to look at"
    assert os.listdir(base()) == [os.path.basename(directory.path)]
    mark.close()
    succession.close()
    os.unlink(mark.path)


def test_a_mark_of_the_process_that_shows_now_is_removed(directory: RunDir) -> None:
    left = left_mark(os.getpid())
    succession = Succession("shop", directory.path, ErrorReports().tell)
    assert list(succession.ended(1.0)) == []
    assert (left.exists(), succession.due) == (False, None)
    succession.close()
