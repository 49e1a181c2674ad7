"""Separate programs that take part in a trial: workers with their own interpreter, and clients that can be killed."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import meshlog_handler
from tests.process.procs import ROOT, importing

from .counting import Counting
from .tally import Lane, Tally


class Program:
    """A new interpreter that runs one of the functions below. It has the interface of a `multiprocessing.Process`."""

    def __init__(self, address: str, tally: Tally, lanes: list[Lane], how: str) -> None:
        words = [sys.executable, "-c", f"from tests.stress import apart; apart.{how}", tally.path, str(lanes[0].number)]
        env = importing({**os.environ, "MESHLOG_ADDRESS": address})
        self._popen = subprocess.Popen(words, env=env, cwd=ROOT)
        self.pid = self._popen.pid

    @property
    def exitcode(self) -> int | None:
        """The exit code, as of a process."""
        return self._popen.poll()

    def is_alive(self) -> bool:
        """Tell whether it is still running."""
        return self._popen.poll() is None

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        """Kill it."""
        self._popen.kill()

    def close(self) -> None:
        """Release its resources."""


def log_on_lane(path: str, number: str) -> None:
    """Join, and log until told to end."""
    tally = Tally(path)
    lane = Lane(tally, int(number))
    meshlog_handler.install(capture=False)
    while not tally.stopped:
        lane.log()
        time.sleep(0.0005)


# -- endings of an interpreter -----------------------------------------------------------------------------------------


def _ready() -> tuple[Tally, list[Lane]]:
    tally = Tally(sys.argv[1])
    meshlog_handler.install()
    return tally, [Lane(tally, int(sys.argv[2]) + more) for more in range(8)]


def _log(lane: Lane, count: int = 3000) -> None:
    for _ in range(count):
        lane.log()


def by_return() -> None:
    """End with records that were not shipped yet."""
    _log(_ready()[1][0])


def by_sys_exit() -> NoReturn:
    """The same, ending with `sys.exit`."""
    _log(_ready()[1][0])
    sys.exit(3)


def by_error() -> NoReturn:
    """The same, ending with an exception."""
    _log(_ready()[1][0])
    raise SystemExit("told as an error")


def by_os_exit() -> NoReturn:
    """The same, ending with `os._exit`."""
    _log(_ready()[1][0])
    os._exit(5)


def by_abort() -> NoReturn:
    """The same, ending with SIGABRT."""
    _log(_ready()[1][0])
    os.abort()


def in_a_thread() -> None:
    """Call `sys.exit` in a thread while other threads log."""
    _, lanes = _ready()

    def leave() -> NoReturn:
        _log(lanes[1])
        sys.exit(4)

    threads = [threading.Thread(target=leave), threading.Thread(target=_log, args=(lanes[2],))]
    for thread in threads:
        thread.start()
    _log(lanes[0])


def with_threads() -> None:
    """End the main thread while other threads, which the interpreter waits for, still log."""
    _, lanes = _ready()
    for lane in lanes[1:4]:
        threading.Thread(target=_log, args=(lane, 10_000)).start()
    _log(lanes[0])


def with_daemon_threads() -> None:
    """End the main thread while daemon threads, which the interpreter does not wait for, still log."""
    _, lanes = _ready()
    for lane in lanes[1:4]:
        threading.Thread(target=_log, args=(lane, 10_000_000), daemon=True).start()
    _log(lanes[0])


def with_atexit() -> None:
    """Log more at exit, and in the finalizers that run last."""
    _, lanes = _ready()

    class Last:
        def __init__(self, log: Callable[[Lane], object], lane: Lane) -> None:
            self.log, self.lane = log, lane

        def __del__(self) -> None:
            self.log(self.lane)

    atexit.register(_log, lanes[1])
    vars(sys)["last one"] = Last(_log, lanes[2])
    _log(lanes[0])


def with_a_full_journal() -> None:
    """Log a lot in finalizers when no thread runs any more."""
    _, lanes = _ready()

    class Last:
        def __init__(self, log: Callable[[Lane, int], object], lane: Lane) -> None:
            self.log, self.lane = log, lane

        def __del__(self) -> None:
            self.log(self.lane, 60_000)

    vars(sys)["last one"] = Last(_log, lanes[2])
    _log(lanes[0])


# -- a client ----------------------------------------------------------------------------------------------------------


def run_client(connection: Connection, path: str) -> None:
    """Run a client. Send its address, then answer each question with what was received, until the questions end."""
    logging.getLogger().handlers.clear()
    counting = Counting()
    counting.tally = Tally(path)
    with meshlog_handler.LogClient(counting) as client:
        connection.send(client.address)
        while connection.recv():
            client.flush(60)
            answer: tuple[dict[int, array[int]], int, Any] = dict(counting.numbers), client.stats().dropped, counting.others
            connection.send(answer)
