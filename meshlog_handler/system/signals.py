"""Waits for signals, so that they do not interrupt the program."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final

from .waits import capped

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals to the launcher that stop all ranks."""


def wait_for_foreground() -> None:
    """If stdin is the terminal of this process, wait until the shell lets this process read from it.

    The kernel stops a process that reads from its terminal in the background. Processes in other sessions are not stopped, so a
    process that starts such readers must wait for them.
    """
    with contextlib.suppress(OSError):  # stdin is closed, or no shell could continue this process
        os.read(0, 0)  # reads nothing: in the background, the kernel stops this process here


class Signals:
    """A context manager, for the main thread, in which signals only wake up `wait`.

    A signal that was ignored before (SIGHUP under `nohup`) stays ignored. `suspended` is called with SIGSTOP before Ctrl-Z
    stops this process, and with SIGCONT when it continues.
    """

    def __init__(self) -> None:
        self.suspended: Callable[[signal.Signals], object] = _ignored

    def __enter__(self) -> Signals:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before: dict[signal.Signals, Any] = {}
        for number in (*STOPPING, signal.SIGCHLD):
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, _nothing)
        if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:  # otherwise no shell would continue it
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, _nothing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: the handler was not installed by Python, which cannot restore it.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout: float | None) -> list[signal.Signals]:
        """Wait up to `timeout` seconds, at most `LONGEST_SEC`, for a signal or `wake`; return the stopping signals received."""
        select.select([self._read], [], [], capped(timeout))
        try:
            came = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        if signal.SIGTSTP in came:
            self.suspended(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)  # returns when the shell continues this process
            self.suspended(signal.SIGCONT)
        return [number for number in STOPPING if number in came]

    def wake(self) -> None:
        """Make `wait` return. Any thread may call it."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full: `wait` returns anyway
            os.write(self._write, b"\0")


def _ignored(number: signal.Signals) -> None:
    """Do nothing on suspension."""


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number of the signal is in the pipe."""
