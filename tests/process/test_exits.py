"""Exit reports: a crash is always reported as an error; a deliberate end is reported by at most one line."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from meshlog_handler import LogClient, install
from meshlog_handler.client.peers.peer import Peer
from meshlog_handler.client.peers.reactor import Reactor
from meshlog_handler.protocol.messages import Message
from meshlog_handler.system import exit_status
from meshlog_handler.testing import RecordCollector, collected

from .forkers import fork, wait
from .procs import DEADLINE, METHODS, held_up, importing, join_all, started

CRASHES = ["SIGKILL", "SIGSEGV", "SIGABRT"]
CHOSEN = ["SIGTERM", "SIGINT", "return", "sys.exit", "sys.exit with a text", "KeyboardInterrupt"]


def end(how: str) -> None:
    """Log, and end this process in the given way."""
    logging.getLogger("worker").info("the last word")
    if how == "sys.exit":
        sys.exit(3)
    if how == "sys.exit with a text":
        sys.exit("that is all")
    if how == "os._exit":
        os._exit(7)
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "raise":
        raise ValueError("what went wrong")
    if how != "return":
        signal.signal(signal.Signals[how], signal.SIG_DFL) if how != "SIGKILL" else None
        os.kill(os.getpid(), signal.Signals[how])


def join_and_end(address: str, how: str) -> None:
    """Join a client, and end in the given way."""
    install(address)
    end(how)


def by_process(address: str, how: str, method: str) -> None:
    with started(method, join_and_end, [(address, how)]) as procs:
        join_all(procs)


def by_executor(address: str, how: str, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context, install, (address,)) as executor:
        executor.submit(end, how).exception(DEADLINE)


def by_pool(address: str, how: str, method: str) -> None:
    """The pool replaces the worker, and the lost task never completes."""
    with multiprocessing.get_context(method).Pool(1, install, (address,)) as pool:
        before = pool.apply(os.getpid)
        lost = pool.apply_async(end, (how,))
        if how in ("return", "raise"):
            lost.wait(DEADLINE)
        else:
            assert pool.apply_async(os.getpid).get(DEADLINE) != before


def by_fork(address: str, how: str, method: str) -> None:
    pid = os.fork()
    if not pid:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):  # as in a program that calls os.fork and ends the child itself
            join_and_end(address, how)
        os._exit(0)
    os.waitpid(pid, 0)


def by_subprocess(address: str, how: str, method: str) -> None:
    subprocess.run(
        [sys.executable, "-c", f"from tests.process.test_exits import *; join_and_end({address!r}, {how!r})"],
        env=importing(),
        check=False,
    )


FAMILIES: list[tuple[Callable[[str, str, str], None], str]] = [
    *[(by_process, method) for method in METHODS],
    *[(by_executor, method) for method in METHODS],
    *[(by_pool, method) for method in METHODS],
    (by_fork, ""),
    (by_subprocess, ""),
]
families = pytest.mark.parametrize(
    ("family", "method"), FAMILIES, ids=[f"{family.__name__}-{method}".rstrip("-") for family, method in FAMILIES]
)


def told(family: Callable[[str, str, str], None], method: str, how: str) -> list[tuple[int, str]]:
    """Return the level and text of each exit report for a worker that ended in this way."""
    collector = RecordCollector()
    with LogClient(collector) as client:
        family(client.address, how, method)
    assert "the last word" in collector.messages
    return [(record.levelno, record.getMessage()) for record in collector.records if record.name == "meshlog"]


@families
@pytest.mark.parametrize("how", CRASHES)
def test_a_crash_is_reported_as_an_error_with_the_last_lines(
    family: Callable[[str, str, str], None], method: str, how: str
) -> None:
    ((level, text),) = told(family, method, how)
    assert level == logging.ERROR
    assert f"ended by {how}; its last lines:\n    INFO worker: the last word" in text


@families
@pytest.mark.parametrize("how", CHOSEN)
def test_a_deliberate_end_is_not_reported(family: Callable[[str, str, str], None], method: str, how: str) -> None:
    assert told(family, method, how) == []


@families
def test_os_exit_is_reported_by_one_line(family: Callable[[str, str, str], None], method: str) -> None:
    ((level, text),) = told(family, method, "os._exit")
    assert level == logging.INFO
    assert text.endswith("ended by exit code 7")


@families
def test_an_uncaught_exception_is_reported(family: Callable[[str, str, str], None], method: str) -> None:
    if family in (by_executor, by_pool):
        assert told(family, method, "raise") == [], "the worker lives, and hands it to who waits for the result"
        return
    if family is by_fork:
        pytest.skip("what forks by hand says by itself what it does with exceptions")
    ((level, text),) = told(family, method, "raise")
    assert level == logging.ERROR
    assert "ended by exit code 1 (uncaught ValueError: what went wrong); its last lines:\n" in text
    if family is by_subprocess:
        assert text.endswith("ValueError: what went wrong"), "its traceback is there"


@pytest.mark.parametrize("family", [by_process, by_executor])
def test_each_of_100_crashes_is_reported(family: Callable[[str, str, str], None]) -> None:
    collector = RecordCollector()
    with LogClient(collector) as client:
        for _ in range(100):
            family(client.address, "SIGKILL", "fork")
    assert sum("ended by SIGKILL; its last lines:" in text for text in collector.messages) == 100


def reaped_first(how: str, method: str = "spawn") -> list[str]:
    """Return the exit reports for a worker that its parent reaps before the client sees the end."""
    with collected() as logs:
        context: Any = multiprocessing.get_context(method)
        go = context.Semaphore(0)
        with started(method, join_and_wait, [(logs.address, go, how)]) as procs:
            logs.wait_for(lambda records: bool(records))
            with held_up(logs.client):
                go.release()
                join_all(procs)
        logs.flush()
        return [record.getMessage() for record in logs.records if record.name == "meshlog"]


def join_and_wait(address: str, go: Any, how: str) -> None:
    """Join, log once, and end when `go` is released."""
    install(address)
    logging.getLogger("worker").info("ready")
    assert go.acquire(timeout=DEADLINE)
    end(how)


def forgets() -> bool:
    """Tell whether the kernel forgets the exit codes of processes that were reaped."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        pidfd = exit_status.watch(child.pid)
        child.communicate(b"\n")
    try:
        return exit_status.exit_code(pidfd, child.pid) is None
    finally:
        os.close(pidfd)


watching = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system tells nobody of the ends of processes")


@watching
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "raise"])
def test_a_parent_that_reaps_first_hides_no_exit_report(how: str) -> None:
    if how != "raise" and forgets():
        pytest.skip("this kernel forgets the exit codes of processes that were reaped")
    texts = reaped_first(how)
    assert [f"ended by {how};" in text or "(uncaught ValueError: " in text for text in texts] == [True] * (how != "SIGTERM")


@watching
def test_the_exit_report_says_that_the_cause_is_unknown_if_the_kernel_forgot_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_status, "_reaped", lambda pidfd, pid: None)
    monkeypatch.setattr("meshlog_handler.client.peers.reactor.started_here", lambda pid: None)
    (text,) = reaped_first("SIGKILL")
    assert "is gone; the cause is not known to this process; its last lines:" in text
    (text,) = reaped_first("raise")
    assert "ended by uncaught ValueError: what went wrong;" in text


@watching
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_reaped_before_it_has_joined_is_not_reported(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool ends its workers at once, also one that is about to join."""
    add, gone = Reactor.add, threading.Event()

    def add_late(reactor: Reactor, peer: Peer, welcome: Message) -> None:
        if peer.rank is not None:
            os.kill(peer.pid, number)
            wait(peer.pid)
            gone.set()
        add(reactor, peer, welcome)

    with collected() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(Reactor, "add", add_late)
            fork(partial(install, logs.address))
            assert gone.wait(DEADLINE)
        logs.flush()
        assert logs.messages == []


@watching
@pytest.mark.parametrize("method", METHODS)
def test_the_exit_code_comes_from_the_process_object_if_the_kernel_forgot_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exit_status, "_reaped", lambda pidfd, pid: None)
    monkeypatch.setattr(exit_status, "remembers", False)
    assert "ended by SIGKILL;" in reaped_first("SIGKILL", method)[0]
    assert reaped_first("SIGTERM", method) == []


@watching
@pytest.mark.parametrize(("how", "code"), [("sys.exit", 3), ("SIGKILL", -signal.SIGKILL), ("SIGABRT", -signal.SIGABRT)])
def test_the_exit_code_of_a_process_that_is_not_a_child_is_found(how: str, code: int) -> None:
    """The code is read while the process is a zombie, and after it was reaped, when a kernel that forgets it returns None."""
    program = (
        "import os, sys; from tests.process.test_exits import end\n"
        "pid = os.fork()\n"
        f"if not pid: input(); end({how!r})\n"
        "print(pid, flush=True)\n"
        "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); print('ended', flush=True)\n"
        "import signal; signal.sigwait([signal.SIGUSR1]); os.waitpid(pid, 0)\n"
        "print('reaped', flush=True); signal.sigwait([signal.SIGUSR1])\n"
    )
    words = [sys.executable, "-c", f"import signal; signal.pthread_sigmask(0, [signal.SIGUSR1])\n{program}"]
    with subprocess.Popen(words, env=importing(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        pidfd = exit_status.watch(pid)
        try:
            assert exit_status.exit_code(pidfd, pid) is None, "it has not ended"
            parent.stdin.write("\n")
            parent.stdin.flush()
            assert parent.stdout.readline() == "ended\n"
            assert exit_status.exit_code(pidfd, pid) == code
            parent.send_signal(signal.SIGUSR1)
            assert parent.stdout.readline() == "reaped\n"
            assert exit_status.exit_code(pidfd, pid) == (None if forgets() else code)
        finally:
            parent.send_signal(signal.SIGUSR1)
            os.close(pidfd)


def bound_to_parent(address: str, ready: Any) -> None:
    """Join, and wait. The kernel sends SIGKILL when the thread that started this process ends: Celery sets this, too."""
    import ctypes

    assert not ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    install(address)
    logging.getLogger("worker").info("the last word")
    ready.release()
    signal.pause()


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel does that")
@pytest.mark.parametrize("killed", [False, True], ids=["its thread ends", "it is killed"])
def test_a_worker_that_is_killed_because_its_starting_thread_ended_is_no_crash(killed: bool) -> None:
    context: Any = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), threading.Event()
    collector = RecordCollector()
    with LogClient(collector) as client:
        worker = context.Process(target=bound_to_parent, args=(client.address, ready))

        def start() -> None:
            worker.start()
            go.wait(DEADLINE)

        thread = threading.Thread(target=start)
        thread.start()
        assert ready.acquire(timeout=DEADLINE)
        if killed:
            worker.kill()
            collector.wait_for(lambda records: any("ended by SIGKILL" in record.getMessage() for record in records))
        go.set()
        thread.join()
        worker.join(DEADLINE)
        assert worker.exitcode == -signal.SIGKILL
        worker.close()
    told = [record.getMessage() for record in collector.records if record.name == "meshlog"]
    assert ["ended by SIGKILL" in text for text in told] == [True] * killed


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there are no pidfds")
def test_reading_the_exit_code_of_a_live_process_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a process has closed its connection and joins again."""
    waits: list[float] = []
    monkeypatch.setattr("meshlog_handler.system.exit_status.time.sleep", waits.append)
    pidfd = os.pidfd_open(os.getpid())
    try:
        assert exit_status.exit_code(pidfd, os.getpid()) is None
    finally:
        os.close(pidfd)
    assert waits == []
