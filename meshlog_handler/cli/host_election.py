"""HostElection: chooses one of the ranks that a launcher started on a host to show all of them. The first claim wins.

The ranks share a file in the user's private directory, named after their parent process. The rank that holds the lock of the
file shows the job, and writes its address to the file. The kernel releases the lock of a process that has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from ..transport import run_directory


class HostElection:
    """An election among the ranks of this host with the same parent process. `path` is the file. One thread uses it."""

    def __init__(self) -> None:
        self.path = os.path.join(run_directory.base(), f"{run_directory.JOB}{os.getppid()}")
        self._lock = -1

    def claim(self) -> bool:
        """Try to claim the job until `release`. Return whether this process shows it."""
        while self._lock < 0:
            lock = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            if self._is_at_its_place(lock):
                os.ftruncate(lock, 0)  # the address of a process that was killed
                self._lock = lock
            else:  # the previous owner has just removed the file
                os.close(lock)
        return True

    def _is_at_its_place(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(lock))
        except FileNotFoundError:
            return False

    def publish(self, address: str) -> None:
        """Write the address of the client for the other ranks."""
        os.write(self._lock, f"{address}\n".encode())

    def address(self) -> str:
        """Return the address of the client, or "" if it is not published yet."""
        with contextlib.suppress(FileNotFoundError), open(self.path) as file:  # removed: the job can be claimed again
            text = file.read()
            return text.rstrip("\n") if text.endswith("\n") else ""
        return ""

    def release(self) -> None:
        """Release the job. A later rank can claim it."""
        if self._lock >= 0:
            os.unlink(self.path)
            os.close(self._lock)
            self._lock = -1
