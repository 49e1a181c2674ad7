"""Where the ranks that a launcher started on one host find the one of them that shows all: the first that claims it.

A file in the user's private directory, named by the process that started them. Whoever holds its lock shows the job, and
has written its address there. A lock goes with its holder, so nobody waits for the dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from ..transport import run_directory


class HostElection:
    """The ranks of this host with the same parent process. Used by one thread.

    Attributes
    ----------
    path : str
        The file.
    """

    def __init__(self) -> None:
        self.path = os.path.join(run_directory.base(), f"{run_directory.JOB}{os.getppid()}")
        self._lock = -1

    def claim(self) -> bool:
        """Tell whether this process is the one that shows the job, from now until `release`."""
        while self._lock < 0:
            lock = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            if self._is_at_its_place(lock):
                os.ftruncate(lock, 0)  # what a process that was killed left there
                self._lock = lock
            else:  # whoever had it has just removed it
                os.close(lock)
        return True

    def _is_at_its_place(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(lock))
        except FileNotFoundError:
            return False

    def publish(self, address: str) -> None:
        """Tell the others where to join."""
        os.write(self._lock, f"{address}\n".encode())

    def address(self) -> str:
        """Return where to join; "" if nobody has said so yet."""
        with contextlib.suppress(FileNotFoundError), open(self.path) as file:  # removed: the job is to be claimed again
            text = file.read()
            return text.rstrip("\n") if text.endswith("\n") else ""
        return ""

    def release(self) -> None:
        """Show the job no more: who comes now claims it."""
        if self._lock >= 0:
            os.unlink(self.path)
            os.close(self._lock)
            self._lock = -1
