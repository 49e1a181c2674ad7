"""Start, hold up, stop and end real processes, each with a deadline; read their states."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from meshlog_handler import LogClient
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
"""Seconds after which a process that has not ended is a failure: far longer than any process takes."""

METHODS = ("fork", "spawn", "forkserver")


@contextmanager
def started(method: str, target: Callable[..., object], calls: Iterable[Sequence[Any]]) -> Iterator[list[BaseProcess]]:
    """Start a process for each tuple of arguments; at the end, kill the processes that still run, and reap all."""
    context: Any = multiprocessing.get_context(method)
    procs: list[BaseProcess] = [context.Process(target=target, args=tuple(args)) for args in calls]
    running: list[BaseProcess] = []
    try:
        for proc in procs:
            proc.start()
            running.append(proc)
        yield procs
    finally:
        for proc in running:
            if proc.is_alive():
                proc.kill()
            proc.join()
            proc.close()


def join_all(procs: Iterable[BaseProcess], timeout: float = DEADLINE) -> list[int | None]:
    """Wait for all processes to end; return their exit codes. Fails at the deadline."""
    procs = list(procs)
    deadline = time.monotonic() + timeout
    for proc in procs:
        proc.join(max(0.0, deadline - time.monotonic()))
    late = [proc.pid for proc in procs if proc.is_alive()]
    assert not late, f"{len(late)} of {len(procs)} processes still run after {timeout:g} s: {late}"
    return [proc.exitcode for proc in procs]


def run_python(
    *words: str, env: dict[str, str] | None = None, text: str | None = None, timeout: float = DEADLINE, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with these words; otherwise as `run_command`."""
    return run_command(sys.executable, *words, env=env, text=text, timeout=timeout, code=code)


def run_command(
    *words: str,
    env: dict[str, str] | None = None,
    text: str | None = None,
    timeout: float = DEADLINE,
    code: int | None = None,
    cwd: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """Run a command that can import the package and the tests, with `text` as stdin; fail if its exit code is not `code`."""
    done = subprocess.run(words, env=importing(env), input=text, capture_output=True, text=True, timeout=timeout, cwd=cwd)
    assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def importing(env: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which the package and the tests can be imported."""
    return {**(os.environ if env is None else env), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore::DeprecationWarning"}


@contextmanager
def held_up(client: LogClient) -> Iterator[None]:
    """Hold up the client's thread during the block: it receives nothing and shows nothing."""
    stopped, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        stopped.set()
        go_on.wait(DEADLINE)

    done = client.on_thread(hold)
    try:
        assert stopped.wait(DEADLINE)
        yield
    finally:
        go_on.set()
        done.result(DEADLINE)


def state_of(pid: int) -> str:
    """Return the kernel's letter for the state of a process, as in ``ps``: T is stopped."""
    with open(f"/proc/{pid}/stat", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def stop_process(pid: int) -> None:
    """Send SIGSTOP, and wait until every thread of the process has stopped. Before that, the process may still answer."""
    os.kill(pid, signal.SIGSTOP)
    wait_stopped(pid)


def wait_stopped(pid: int) -> None:
    """Wait until a signal has stopped every thread of a process."""

    def stopped() -> bool:
        try:
            states = {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}
        except (FileNotFoundError, ProcessLookupError):  # a thread has just ended: try again
            return False
        return states == {"T"}

    until(stopped, what=f"process {pid} to stop")
