"""Forks, and what happens right before them: with the hooks of `os.fork` that are in force."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from meshlog_handler.system import fork_gate  # noqa: F401 - its hooks are to be registered before ours

_before_forks: list[Callable[[], object]] = []


def _run_before_fork() -> None:
    for each in tuple(_before_forks):
        each()


# The last that was registered is the first to be called: before the hooks of the gate.
os.register_at_fork(before=_run_before_fork)


@pytest.fixture
def before_fork() -> Iterator[list[Callable[[], object]]]:
    yield _before_forks
    _before_forks.clear()


def forked(check: Callable[[], bool]) -> bool:
    """Fork; return what `check` returns in the child."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    return os.waitpid(pid, 0)[1] == 0
