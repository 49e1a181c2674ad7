"""InheritedFd and Process: start one process with any start method, and wait for it."""

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
    """A file descriptor that a new process inherits. Valid only in the arguments of `Process`.

    After pickling, `fd` is a duplicate in the new process; `multiprocess` tracks the duplicates. After a fork, the number is
    unchanged.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (start_methods.reduction().DupFd(self.fd),)


def _arrived(duplicate: Any) -> InheritedFd:
    return InheritedFd(duplicate.detach())


class Process:
    """A process that this process started. Not thread-safe. Do not use it after `close`.

    `target` must be importable; `args` may contain plain data, `InheritedFd` and sockets. Raises `OSError` if the limit of
    processes or of file descriptors is reached.

    Attributes
    ----------
    sentinel : int
        A file descriptor that becomes readable when the process ends.
    prompt : bool
        Whether `sentinel` becomes readable at once. False where the kernel has no process descriptors: `sentinel` is then a
        pipe that grandchildren can keep open, so `poll` must be called from time to time.
    """

    def __init__(self, start_method: str, target: Callable[..., object], args: tuple[Any, ...], name: str) -> None:
        self._process = start_methods.get_context(start_method).Process(target=target, args=args, name=name, daemon=False)
        with start_methods.starting(start_method):
            # Ctrl-C must not end a child with a traceback before it ignores SIGINT. The child unblocks SIGINT after that.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._process.start()
            except (EOFError, ConnectionError) as failure:  # the fork server has exited or closed the connection
                raise OSError(
                    errno.EAGAIN,
                    "the fork server could not start the process: out of processes, threads or memory. Check ulimit -u",
                ) from failure
            finally:
                if os.getpid() == self._process._parent_pid:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
        start_methods.disown(self._process)
        self.pid: int = self._process.pid
        try:
            self._pidfd = exit_status.watch(self.pid)
        except ProcessLookupError:
            self._pidfd = -1  # the child of the fork server has already exited
        # The fork server reports the exit code through a separate pipe, which no grandchild inherits.
        by_server = start_method == "forkserver"
        self.prompt = by_server or self._pidfd >= 0
        self.sentinel: int = self._process.sentinel if by_server or self._pidfd < 0 else self._pidfd

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal); None while the process runs, or if the code is unknown."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it still runs. A process that reuses the pid never receives the signal."""
        # ProcessLookupError: the process has already exited. PermissionError: it now runs as another user, or a sandbox
        # forbids the signal; the caller waits for the exit and reports a timeout.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._pidfd >= 0 and hasattr(signal, "pidfd_send_signal"):
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.poll() is None:
                os.kill(self.pid, number)

    def close(self) -> None:
        """Close the two or three file descriptors of an ended process."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._process.exitcode is None:
            self._process._popen.returncode = 255  # other code consumed the exit code, or the process does not exit
        self._process.close()
