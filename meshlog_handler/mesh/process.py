"""Child: one process of ours, from its start to its end, whatever the start method."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

from ..system import exit_status
from . import start_methods


class InheritedFd:
    """A file descriptor to take along to a process that is being started; only arguments of `Process` hold them.

    Pickled, it is a duplicate in the new process (multiprocess keeps book of which); forked, it is the number.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (start_methods.reduction().DupFd(self.fd),)


def _arrived(duplicate: Any) -> InheritedFd:
    return InheritedFd(duplicate.detach())


class Process:
    """A process that this one started. One thread at a time; after `close` there is nothing left to call.

    Parameters
    ----------
    start_method : str
        fork, spawn or forkserver.
    target : Callable
        A function of a module that can be imported.
    args : tuple
        What it is called with: plain data, `InheritedFd`, sockets.
    name : str
        Of the process, for people.

    Attributes
    ----------
    pid : int
        Its process id.
    sentinel : int
        A file descriptor that becomes readable when the process ends.
    prompt : bool
        Whether it does so at once. False where the kernel has no descriptors of processes, and the sentinel a pipe that
        grandchildren can hold open: then `poll` has to be called now and then.

    Raises
    ------
    OSError
        If there is no room for another process, or no file descriptor left.
    """

    def __init__(self, start_method: str, target: Callable[..., object], args: tuple[Any, ...], name: str) -> None:
        self._process = start_methods.get_context(start_method).Process(target=target, args=args, name=name, daemon=False)
        with start_methods.starting(start_method):
            # Ctrl-C must not end a child, with a traceback, that has not come so far as to ignore it: it unblocks it then.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process.start()
            except (EOFError, ConnectionError) as failure:  # of the fork server, which has ended or has hung up
                raise OSError(
                    errno.EAGAIN,
                    "the fork server could not start it: no room for another process or thread (ulimit -u, memory)",
                ) from failure
            finally:
                if os.getpid() == self._process._parent_pid:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
        start_methods.disown(self._process)
        self.pid: int = self._process.pid
        try:
            self._pidfd = exit_status.watch(self.pid)
        except ProcessLookupError:
            self._pidfd = -1  # the fork server's child has come and gone
        # The fork server reports the exit code through a pipe of its own, which no grandchild inherits.
        by_server = start_method == "forkserver"
        self.prompt = by_server or self._pidfd >= 0
        self.sentinel: int = self._process.sentinel if by_server or self._pidfd < 0 else self._pidfd

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal), or None if it goes on, or nobody can tell."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it has not ended and may get one. It never reaches another that got the same pid."""
        # It ended by itself: what the signal is for. Or it is another user's now, or a sandbox forbids it: who sends the
        # signal waits for the end, and says that it does not come.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._pidfd >= 0 and hasattr(signal, "pidfd_send_signal"):
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.poll() is None:
                os.kill(self.pid, number)

    def close(self) -> None:
        """Give up what is left of an ended process here: two or three file descriptors."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._process.exitcode is None:
            self._process._popen.returncode = 255  # somebody else took the exit code, or it does not end at all
        self._process.close()
