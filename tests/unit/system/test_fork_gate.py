"""A fork waits for a thread that holds locks, and the thread for the fork. Uses the registered hooks of `os.fork`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from meshlog_handler.system import fork_gate, fork_locks
from meshlog_handler.system.fork_gate import ForkGate

from ..forks import before_fork as before_fork
from ..forks import forked

DEADLINE = 30.0


class Worker:
    """A thread that holds a lock inside the gate until `release` is set, then enters the gate again."""

    def __init__(self, gate: ForkGate, again: bool = False) -> None:
        self.lock = threading.Lock()
        self.inside, self.release, self.again = threading.Event(), threading.Event(), threading.Event()
        self._gate = gate
        self.thread = threading.Thread(target=self._work)
        self.thread.start()
        assert self.inside.wait(DEADLINE)

    def _work(self) -> None:
        with self._gate, self.lock:
            self.inside.set()
            self.release.wait(DEADLINE)
        with self._gate:
            self.again.set()


def passes(gate: ForkGate) -> None:
    with gate:
        assert not gate.wanted


def test_fork_waits_until_thread_leaves_the_gate(
    before_fork: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_gate.fork_locks, "seconds", DEADLINE)
    worker = Worker(ForkGate())
    before_fork.append(worker.release.set)
    assert forked(lambda: not worker.lock.locked() and not worker.again.is_set())
    assert worker.again.wait(DEADLINE)
    worker.thread.join()


def test_fork_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_gate.fork_locks, "seconds", 0.0)
    gate = ForkGate()
    worker = Worker(gate)
    assert forked(worker.lock.locked)
    assert not gate.wanted
    worker.release.set()
    assert worker.again.wait(DEADLINE)
    worker.thread.join()


def test_deadline_is_shared_by_all_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork does not wait for ten clients with slow handlers one after the other."""
    now = [0.0]
    monkeypatch.setattr(fork_locks, "seconds_until", lambda deadline: max(0.0, deadline - now[0]))
    waits: list[float] = []

    class HeldLock:
        """A lock that cannot be acquired."""

        def acquire(self, timeout: float) -> bool:
            waits.append(timeout)
            now[0] += timeout
            return False

    monkeypatch.setattr(fork_locks, "deadline_after", lambda seconds: now[0] + seconds)
    gates = [ForkGate() for _ in range(10)]
    for gate in gates:
        monkeypatch.setattr(gate, "inside", HeldLock())
    assert forked(lambda: True)
    assert sum(waits) == fork_gate.fork_locks.seconds
    assert len(waits) == 10


def test_thread_inside_the_gate_may_fork() -> None:
    gate = ForkGate()
    with gate:
        assert forked(lambda: not gate.wanted)
        assert not gate.wanted


def test_gate_is_open_in_a_child() -> None:
    gate = ForkGate()

    def enters() -> bool:
        with gate:
            return True

    assert forked(enters)
    assert enters()


def test_forks_of_several_threads_do_not_block_each_other() -> None:
    gate = ForkGate()
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(forked(lambda: True))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert answers == [True] * 8
    with gate:
        assert not gate.wanted


def test_exception_of_signal_handler_leaves_no_gate_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints an exception of a hook, and continues with the fork."""
    monkeypatch.setattr(fork_gate.fork_locks, "seconds", DEADLINE)
    printed: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_value))

    def interrupt(*_: Any) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    gates = [ForkGate() for _ in range(4)]
    worker = Worker(gates[2])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert forked(lambda: True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        worker.release.set()
    assert [type(error) for error in printed] == [InterruptedError]
    assert worker.again.wait(DEADLINE)
    worker.thread.join()
    for gate in gates:
        assert not gate.wanted
        another = threading.Thread(target=passes, args=(gate,))  # the locks are reentrant
        another.start()
        another.join(DEADLINE)
        assert not another.is_alive()
