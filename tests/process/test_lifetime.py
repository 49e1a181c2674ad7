"""A client that nobody stops is stopped at exit, when all that the program started has been joined."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from .procs import DEADLINE, ROOT, importing

# README, "What is guaranteed": Ends are orderly. See also `test_released` and `test_slow_handler`.
LIBRARIES = ["multiprocessing", "multiprocess"]
METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["config", "by hand"]


def run(*words: str, code: int = 0) -> list[str]:
    """Run a program of `endings`; return the lines on its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.process.endings", *words],
        env=importing(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ROOT,
    )
    assert done.returncode == code, done.stderr
    if not code:
        assert done.stderr == ""
    return done.stdout.splitlines()


def said(*numbers: int) -> Counter[str]:
    """Return what so many children say."""
    begins = [f"child {number} begins" for number in numbers]
    return Counter(begins + [f"child {number} says {each}" for number in numbers for each in range(100)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("imported", ["early", "late"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_children_that_outlive_the_main_module_are_shown(library: str, method: str, imported: str, kind: str) -> None:
    assert Counter(run("unjoined", kind, library, method, imported)) == said(0, 1)


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("exception", 1)])
def test_children_are_shown_however_the_main_module_ends(how: str, code: int) -> None:
    assert Counter(run("unjoined", "config", "multiprocessing", "fork", "late", how, code=code)) == said(0, 1)


@pytest.mark.parametrize(("first", "second"), [LIBRARIES, LIBRARIES[::-1]])
def test_children_of_both_libraries_are_shown(first: str, second: str) -> None:
    assert Counter(run("both", first, second)) == said(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_in_a_child_is_stopped_after_its_threads_and_children_have_ended(library: str, method: str, kind: str) -> None:
    assert Counter(run("run_nested", kind, library, method)) == said(0, 1, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_executors_that_are_at_work_at_exit_are_shown(method: str, kind: str) -> None:
    assert Counter(run("executors", kind, method)) == said(0, 1, 2)
