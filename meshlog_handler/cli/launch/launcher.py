"""Starts a command once per rank, watches the processes, and stops them. Does not handle logs.

::

    signals, SIGCHLD -> one pipe -> Ranks.run, on the main thread -> started, ended, stopping

Each rank has its own session. A Ctrl-C on the terminal reaches only the launcher, which sends it to each rank once.
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

from ... import settings
from ...system.descriptors import make_pipe
from ...system.signals import Signals
from ...system.waits import monotonic, seconds_until
from ..messages import CommandError
from .guard import Guard

COMMAND: Final = -1
"""In place of a rank: the one command of ``meshlog serve``."""

_KILLED_SEC: Final = 5.0
_STOPPED_SEC: Final = 1.0


class LaunchError(CommandError):
    """External error: a rank cannot be started. `exitcode` is the code that a shell would return."""

    def __init__(self, message: str, exitcode: int) -> None:
        super().__init__(message)
        self.exitcode = exitcode


@dataclass
class Rank:
    """One started process. `exitcode` is negative for a signal. `when` is the end, in seconds since the epoch.

    `began` is the start on the clock of `monotonic`, `seconds` the time that the process ran.
    """

    rank: int
    process: subprocess.Popen[bytes]
    exitcode: int | None = None
    when: float = 0.0
    began: float = field(default_factory=monotonic)
    seconds: float = 0.0
    sent: set[int] = field(default_factory=set)

    @property
    def was_stopped(self) -> bool:
        """Whether a signal of the launcher ended it."""
        return self.exitcode is not None and -self.exitcode in self.sent


class Watcher(Protocol):
    """What `Ranks` tells and asks the owner of a run (see `run.LocalRun`)."""

    def started(self, rank: int, pid: int, pipes: Mapping[str, int]) -> None:
        """Take the read ends of the output of a rank."""

    def ended(self, rank: Rank) -> None:
        """Note the exit code of a rank."""

    def stopping(self, number: signal.Signals) -> None:
        """Prepare for a signal that all ranks are about to get."""

    def patience(self) -> float:
        """Return the seconds after which to ask again."""

    def unread(self) -> bool:
        """Return whether ranks write output that nothing reads."""

    def hung(self) -> bool:
        """Return whether the ranks hang and are to be ended."""


class Ranks:
    """All ranks of a run, with one environment each. One owner, on the main thread. `watcher` is told what happens.

    `reader` is the rank that reads this process's standard input; the others have none. `grace` is in seconds: from the first
    failure to SIGTERM, and from each signal to the next stronger one. `stopped_by` is the
    signal that stopped all ranks, and `asked_again` whether such a signal arrived more than once.
    """

    def __init__(
        self,
        command: Sequence[str],
        environments: Mapping[int, Mapping[str, str]],
        *,
        grace: float,
        watcher: Watcher,
        reader: int | None = None,
    ) -> None:
        self._command = command
        self._environments = environments
        self._grace = grace
        self._watcher = watcher
        self._reader = reader
        self._plan: list[signal.Signals] = []
        self._due = float("inf")
        self._stopped_at = float("inf")
        self.ranks: list[Rank] = []
        self.stopped_by: signal.Signals | None = None
        self.asked_again = False
        self._guard = Guard(grace)

    @property
    def first_failure(self) -> Rank | None:
        """The first rank that failed by itself, before the launcher stopped it."""
        failed = [rank for rank in self.ranks if rank.exitcode and not rank.was_stopped and rank.when < self._stopped_at]
        return min(failed, key=lambda rank: rank.when, default=None)

    def run(self, signals: Signals) -> None:
        """Start all ranks, and return when all have ended, or when SIGKILL does not end the rest.

        If a rank cannot be started, stop the others, and raise `LaunchError`.
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
        """Suspend or continue running ranks. They have no terminal, so SIGTSTP would do nothing in their sessions.

        Return when suspended ranks have stopped. Until then, one could read what is typed for the shell.
        """
        running = [rank for rank in self.ranks if rank.exitcode is None]
        for rank in running:
            _signal_group(rank, number)
        deadline = monotonic() + _STOPPED_SEC
        while number == signal.SIGSTOP and monotonic() < deadline and not all(_has_stopped(rank.process) for rank in running):
            time.sleep(0.001)

    def reap(self) -> None:
        """Reap all processes. Send SIGTERM to processes that failed or stopped ranks left in their sessions.

        A pid is not reused before its process is reaped, so no signal reaches an unrelated process.
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
            stdin = None if number == self._reader else subprocess.DEVNULL
            process = subprocess.Popen(
                self._command, stdin=stdin, stdout=ends[1], stderr=ends[3], env=environment, start_new_session=True
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
            if self.stopped_by is None and self._watcher.hung():
                self._stop(signal.SIGTERM)
            if monotonic() >= self._due:
                if not self._plan:
                    return
                self._signal(self._plan.pop(0), alive)
                self._due = monotonic() + (self._grace if self._plan else _KILLED_SEC)

    def _note(self, ended: list[Rank]) -> None:
        # Among ranks found at the same time, one that a signal ended counts as the first: it caused the other failures.
        ended.sort(key=lambda rank: (rank.was_stopped, (rank.exitcode or 0) >= 0))
        now = time.time()
        for index, rank in enumerate(ended):
            rank.when = now + index * 1e-6
            rank.seconds = monotonic() - rank.began
            self._watcher.ended(rank)
            if rank.exitcode and self._due == float("inf"):
                self._plan = [signal.SIGTERM, signal.SIGKILL]
                self._due = monotonic() + self._grace

    def _stop(self, number: signal.Signals) -> None:
        """Send a signal to all ranks. At a second call, send the next stronger signal at once."""
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
    # The whole group has ended. macOS raises PermissionError if the process is not reaped yet.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(rank.process.pid, number)


def _has_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Return whether all threads of a child have stopped, or have ended; True if the system cannot tell."""
    if not hasattr(os, "waitid"):
        return True
    try:
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:  # reaped
        return True


def _exitcode(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a child, or None while it runs. Do not reap the child if the system supports that."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll()
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:  # the parent of this process ignores SIGCHLD, or other code reaps every child
        return process.poll()
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _cannot_start(rank: int, program: str, failure: OSError) -> LaunchError:
    what = "the command" if rank == COMMAND else f"rank {rank}"
    words = f"{what} cannot be started: {program}: {failure.strerror}."
    if isinstance(failure, FileNotFoundError):
        return LaunchError(f"{words} If it is a script, its first line names an interpreter that does not exist.", 127)
    if failure.filename is not None:
        return LaunchError(f"{words} If it is a script, name its interpreter: meshlog run -n 4 -- python {program}", 126)
    return LaunchError(f"{words} Start fewer ranks (-n), or raise the limits of this user (ulimit -n, ulimit -u).", 1)
