"""Starts a command once per rank, watches the processes, and stops them. Knows nothing of logs.

::

    signals and deaths -> one pipe -> Ranks.run, on the main thread -> started, ended, stopping

Each rank leads a session of its own: a Ctrl-C on the terminal reaches the launcher alone, which passes it on once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from .. import settings
from ..errors import MeshlogError
from ..system.descriptors import make_pipe
from ..system.signals import Signals
from ..system.waits import monotonic, seconds_until
from .guard import Guard

_KILLED_SEC: Final = 5.0


class LaunchError(MeshlogError):
    """Outside: a rank cannot be started. `exitcode` is what a shell would say of it."""

    def __init__(self, message: str, exitcode: int) -> None:
        super().__init__(message)
        self.exitcode = exitcode


@dataclass
class Rank:
    """One started process. `exitcode` is negative for a signal; `when` is the end, in seconds since the epoch."""

    rank: int
    process: subprocess.Popen[bytes]
    exitcode: int | None = None
    when: float = 0.0
    sent: set[int] = field(default_factory=set)

    @property
    def was_stopped(self) -> bool:
        """Whether it ended by a signal that the launcher sent."""
        return self.exitcode is not None and -self.exitcode in self.sent


class LaunchObserver(Protocol):
    """Who is told. On the launcher's thread."""

    def started(self, rank: int, pid: int, pipes: Mapping[str, int]) -> None:
        """Take in a process, and the read ends of its output."""

    def ended(self, rank: Rank) -> None:
        """Note an end."""

    def stopping(self, number: signal.Signals) -> None:
        """Note that a signal is going to stop all ranks."""

    def patience(self) -> float:
        """Return after how many seconds at most `unread` has to be asked."""

    def unread(self) -> bool:
        """Tell whether ranks go on writing what nobody reads."""


class Ranks:
    """All ranks of a run. One owner, on the main thread.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environments : mapping of int to mapping
        By rank.
    grace : float
        Seconds from the first failure to SIGTERM, and from each signal that asks to the next, stronger one.
    stdin : int or None
        What all read, as `subprocess.Popen` takes it.

    Attributes
    ----------
    stopped_by : signal.Signals or None
        What came to stop all ranks; `asked_again`: more than once.
    """

    def __init__(
        self,
        command: Sequence[str],
        environments: Mapping[int, Mapping[str, str]],
        grace: float,
        watcher: LaunchObserver,
        stdin: int | None = subprocess.DEVNULL,
    ) -> None:
        self._command = command
        self._environments = environments
        self._grace = grace
        self._watcher = watcher
        self._stdin = stdin
        self._plan: list[signal.Signals] = []
        self._due = float("inf")
        self._stopped_at = float("inf")
        self.ranks: list[Rank] = []
        self.stopped_by: signal.Signals | None = None
        self.asked_again = False
        self._guard = Guard(grace)

    @property
    def first_failure(self) -> Rank | None:
        """The first rank that failed by itself, and not because it was stopped."""
        failed = [rank for rank in self.ranks if rank.exitcode and not rank.was_stopped and rank.when < self._stopped_at]
        return min(failed, key=lambda rank: rank.when, default=None)

    def run(self, signals: Signals) -> None:
        """Start all, and return when all have ended, by themselves or stopped; or when not even SIGKILL ends the rest.

        Raises
        ------
        LaunchError
            If one cannot be started; those that were are stopped.
        """
        try:
            for number, environment in self._environments.items():
                self._start(number, environment)
        except LaunchError:
            self._stop(signal.SIGTERM)
            self._watch(signals)
            raise
        self._watch(signals)

    def suspend(self, number: signal.Signals) -> None:
        """Let those that run stop, or go on. Theirs is no terminal that would: SIGTSTP does nothing in their sessions."""
        for rank in self.ranks:
            if rank.exitcode is None:
                _signal_group(rank, number)

    def reap(self) -> None:
        """Take leave of all. What failed or stopped ranks left running in their sessions gets a SIGTERM.

        Until here their pids stay theirs, so that no signal reaches a stranger.
        """
        if self.stopped_by is not None or any(rank.exitcode for rank in self.ranks):
            self._signal(signal.SIGTERM, self.ranks)
        for rank in self.ranks:
            if rank.exitcode is not None:
                self._guard.leave(rank.process.pid)
                rank.process.wait()
        self._guard.close()

    def _start(self, number: int, environment: Mapping[str, str]) -> None:
        ends: list[int] = []
        try:
            for _ in range(2):
                ends += make_pipe()
            environment = {**environment, **settings.pipes(number, ends[1::2])}
            process = subprocess.Popen(
                self._command, stdin=self._stdin, stdout=ends[1], stderr=ends[3], env=environment, start_new_session=True
            )
        except OSError as failure:
            for end in ends:
                os.close(end)
            raise _cannot_start(number, self._command[0], failure) from failure
        os.close(ends[1])
        os.close(ends[3])
        self._guard.watch(process.pid)
        self.ranks.append(Rank(number, process))
        self._watcher.started(number, process.pid, {"stdout": ends[0], "stderr": ends[2]})

    def _watch(self, signals: Signals) -> None:
        alive = list(self.ranks)
        while True:
            for rank in alive:
                rank.exitcode = _exitcode(rank.process)
            self._note([rank for rank in alive if rank.exitcode is not None])
            alive = [rank for rank in alive if rank.exitcode is None]
            if not alive:
                return
            for number in signals.wait(min(seconds_until(self._due), self._watcher.patience())):
                self._stop(number)
            if self.stopped_by is None and self._watcher.unread():
                self._stop(signal.SIGPIPE)
            if monotonic() >= self._due:
                if not self._plan:
                    return
                self._signal(self._plan.pop(0), alive)
                self._due = monotonic() + (self._grace if self._plan else _KILLED_SEC)

    def _note(self, ended: list[Rank]) -> None:
        # Of those found together, one that a signal ended came first: it drew the others with it.
        ended.sort(key=lambda rank: (rank.was_stopped, (rank.exitcode or 0) >= 0))
        now = time.time()
        for index, rank in enumerate(ended):
            rank.when = now + index * 1e-6
            self._watcher.ended(rank)
            if rank.exitcode and self._due == float("inf"):
                self._plan = [signal.SIGTERM, signal.SIGKILL]
                self._due = monotonic() + self._grace

    def _stop(self, number: signal.Signals) -> None:
        """Pass on a signal; asked again, go on to the stronger one at once."""
        if self.stopped_by is not None:
            self.asked_again = True
            self._due = monotonic()
            return
        self.stopped_by = number
        self._stopped_at = time.time()
        self._watcher.stopping(number)
        self._signal(number, [rank for rank in self.ranks if rank.exitcode is None])
        self._plan = [stronger for stronger in (signal.SIGTERM, signal.SIGKILL) if stronger != number]
        self._due = monotonic() + self._grace

    def _signal(self, number: signal.Signals, ranks: Sequence[Rank]) -> None:
        for rank in ranks:
            if rank.process.returncode is None:
                if rank.exitcode is None:
                    rank.sent.add(number)
                _signal_group(rank, number)


def _signal_group(rank: Rank, number: signal.Signals) -> None:
    # Everything in its session has ended; macOS says so of what was not yet waited for.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(rank.process.pid, number)


def _exitcode(process: subprocess.Popen[bytes]) -> int | None:
    """Return how a child ended, without taking leave of it where the system lets us; None while it runs."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll()
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:  # whoever started us ignores SIGCHLD, or waits for every child
        return process.poll()
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _cannot_start(rank: int, program: str, failure: OSError) -> LaunchError:
    words = f"rank {rank} cannot be started: {program}: {failure.strerror}."
    if isinstance(failure, FileNotFoundError):
        return LaunchError(f"{words} If it is a script, its first line names an interpreter that is not there.", 127)
    if failure.filename is not None:
        return LaunchError(f"{words} If it is a script, name its interpreter: meshlog run -n 4 -- python {program}", 126)
    return LaunchError(f"{words} Start fewer ranks (-n), or raise the limits of this user (ulimit -n, ulimit -u).", 1)
