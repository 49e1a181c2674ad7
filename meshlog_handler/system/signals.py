"""Signals as something to wait for, among other things, and not as something that breaks in."""

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


class Signals:
    """While entered, signals do nothing but wake up `wait`. On the main thread.

    One that the launcher was told to ignore (as `nohup` does with SIGHUP) stays ignored.

    Attributes
    ----------
    suspended : Callable[[signal.Signals], object]
        Called with SIGSTOP before Ctrl-Z stops this process, and with SIGCONT when it goes on.
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
        if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:  # else nobody could let it go on
            self._before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, _nothing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # None: what was there was not installed by Python, and Python cannot put it back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout: float | None) -> list[signal.Signals]:
        """Wait up to `timeout` seconds, and an hour, for a signal or `wake`; return the stopping signals that came."""
        select.select([self._read], [], [], capped(timeout))
        try:
            came = os.read(self._read, 4096)
        except BlockingIOError:
            return []
        if signal.SIGTSTP in came:
            self.suspended(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)  # returns when the shell lets this process go on
            self.suspended(signal.SIGCONT)
        return [number for number in STOPPING if number in came]

    def wake(self) -> None:
        """Let `wait` return. Any thread."""
        with contextlib.suppress(BlockingIOError):  # full of reasons to wake up
            os.write(self._write, b"\0")


def _ignored(number: signal.Signals) -> None:
    """Stop with nobody."""


def _nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal: its number is in the pipe."""
