"""A MeshHandler can be copied and pickled, and can take the place of a logger's handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .procs import DEADLINE, METHODS, ROOT


def shown(*words: str) -> list[str]:
    """Run a program of `tests.process.copied`; return what its handlers wrote."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.process.copied", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("method", METHODS)
def test_a_handler_that_is_passed_to_a_process_shows_as_the_original(method: str) -> None:
    assert shown("passed", method) == ["0 WARNING from a child", "1 WARNING from a child, copied twice"]


def test_copies_show_by_the_same_handlers() -> None:
    assert shown("copies") == ["None WARNING from a copy"] * 3


def test_the_handlers_of_a_logger_are_wrapped_and_unwrapped() -> None:
    assert shown("wrapped") == ["None WARNING wrapped", "0 WARNING from a child", "plain again", "on the console"]
