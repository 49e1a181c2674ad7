"""A client that the program does not stop is stopped at exit, after all processes and threads have been joined."""

from __future__ import annotations

import re
import sys
from collections import Counter

import pytest

from meshlog_handler.transport import run_directory

from .procs import run_python

# README, "What is guaranteed": Programs end in order. See also `test_released` and `test_slow_handler`.
LIBRARIES = ["multiprocessing", "multiprocess"]
METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["config", "by hand"]

_AT_EXIT = re.compile(r"Exception ignored in: <module 'threading'(?s:.*?)in _python_exit(?s:.*?)Bad file descriptor\n")
"""At exit, `concurrent.futures` wakes a thread of an executor that may have closed the pipe just now."""


def run(*words: str, code: int = 0) -> list[str]:
    """Run a program of `endings`, and return the lines on its stdout."""
    if sys.version_info >= (3, 15) and "multiprocess" in words and "fork" not in words:
        pytest.skip("dill 0.4.1 cannot pickle functions by value on Python 3.15")
    done = run_python("-m", "tests.process.endings", *words, code=code)
    if not code:
        assert _AT_EXIT.sub("", done.stderr) == ""
    return done.stdout.splitlines()


def said(*numbers: int) -> Counter[str]:
    """Return the lines that these children log, with their counts."""
    begins = [f"child {number} begins" for number in numbers]
    return Counter(begins + [f"child {number} says {each}" for number in numbers for each in range(100)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("imported", ["early", "late"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_records_of_children_that_outlive_the_main_module_are_shown(
    library: str, method: str, imported: str, kind: str
) -> None:
    assert Counter(run("unjoined", kind, library, method, imported)) == said(0, 1)


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("exception", 1)])
def test_records_of_children_are_shown_after_an_exit_or_exception_in_the_main_module(how: str, code: int) -> None:
    assert Counter(run("unjoined", "config", "multiprocessing", "fork", "late", how, code=code)) == said(0, 1)


@pytest.mark.parametrize(("how", "code"), [("_exit", 9), ("execv", 9), ("kill", -9)])
@pytest.mark.parametrize("method", METHODS)
def test_records_of_joined_children_are_shown_however_the_process_that_shows_ends(method: str, how: str, code: int) -> None:
    shown = Counter(run("joined", method, how, code=code))
    run_directory.clean(run_directory.base(), 0.0)  # as a client would later
    assert shown == said(0, 1)


@pytest.mark.parametrize(("first", "second"), [LIBRARIES, LIBRARIES[::-1]])
def test_records_of_children_of_both_libraries_are_shown(first: str, second: str) -> None:
    assert Counter(run("both", first, second)) == said(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_in_a_child_stops_after_the_threads_and_children_have_ended(library: str, method: str, kind: str) -> None:
    assert Counter(run("run_nested", kind, library, method)) == said(0, 1, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_records_of_executors_that_still_work_at_exit_are_shown(method: str, kind: str) -> None:
    assert Counter(run("executors", kind, method)) == said(0, 1, 2)


def test_no_thread_runs_while_the_interpreter_exits() -> None:
    """A daemon thread that runs then ends by `pthread_exit`, which aborts the process in a directory tree without libgcc."""
    program = """
import atexit, threading, time
atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))
from meshlog_handler.worker.member import Membership
from tests.process import endings
lose = Membership._lose_client
Membership._lose_client = lambda member: (time.sleep(0.3), lose(member))
endings.begin("config")
endings.LOGGER.info("said")
"""
    assert run_python("-c", program).stdout.splitlines() == ["said", "['MainThread']"]
