"""A fork acquires locks that other threads acquire in another order. Uses the registered hooks of `os.fork`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from meshlog_handler.system import fork_locks

from ..forks import before_fork as before_fork
from ..forks import forked

DEADLINE = 30.0


class Told:
    """A lock that tells when a fork has acquired it."""

    def __init__(self) -> None:
        self.lock, self.taken = threading.RLock(), threading.Event()

    def acquire(self, timeout: float) -> bool:
        acquired = self.lock.acquire(timeout=timeout)
        self.taken.set()
        return acquired

    def release(self) -> None:
        self.lock.release()


def is_free(lock: Any) -> bool:
    """Return whether another thread can acquire a reentrant lock."""
    answers: list[bool] = []

    def ask() -> None:
        answers.append(lock.acquire(timeout=0))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(DEADLINE)
    return answers == [True]


def test_fork_holds_no_lock_while_it_waits_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Told(), threading.RLock()
    locks = [(lambda: first, DEADLINE), (lambda: second, DEADLINE)]
    monkeypatch.setattr(fork_locks, "_first", [*fork_locks._first, *locks])
    inside, got = threading.Event(), []

    def work() -> None:
        with second:
            inside.set()
            first.taken.wait(DEADLINE)
            got.append(first.lock.acquire(timeout=DEADLINE / 2))
            first.lock.release()

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(DEADLINE)
    assert forked(lambda: is_free(first.lock) and second.acquire(timeout=0))
    thread.join(DEADLINE)
    assert got == [True]
    assert is_free(first.lock)
    assert is_free(second)


def test_fork_goes_on_without_a_lock_past_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    held, free = threading.RLock(), threading.RLock()
    monkeypatch.setattr(fork_locks, "_first", [*fork_locks._first, (lambda: held, 0.0), (lambda: free, DEADLINE)])
    inside, over = threading.Event(), threading.Event()

    def work() -> None:
        with held:
            inside.set()
            over.wait(DEADLINE)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(DEADLINE)
    assert forked(lambda: is_free(free) and not held.acquire(timeout=0))
    over.set()
    thread.join(DEADLINE)
    assert is_free(free)
    assert is_free(held)


def test_fork_acquires_the_lock_of_logging_before_ours(
    before_fork: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock: Any = vars(logging)["_lock"]
    seen: list[bool] = []

    def locks() -> tuple[()]:
        seen.append(lock._is_owned())
        return ()

    monkeypatch.setattr(fork_locks, "_groups", [])
    fork_locks.ForkLocks(locks, 0.0)
    before_fork.append(lambda: seen.append(lock._is_owned()))
    assert forked(lambda: is_free(lock))
    assert seen == [False, True]
    assert is_free(lock)
