"""Election: chooses one of the processes that share a job to show all of them. The first claim wins.

The processes share a file in the user's private directory. The process that holds the lock of the file shows the job, and
writes its address to the file. The kernel releases the lock of a process that has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from ..errors import SettingError
from ..system.descriptors import Held
from ..system.regular_files import open_regular, read_regular
from ..system.shielded import run_whole
from . import run_directory
from .channel import Address

_MAX_ADDRESS = 8192

OF_LAUNCHER = "~"
"""Begins the name of a launcher's job. The name that a program gives its job has no such character."""


class Election:
    """An election among the processes of this user and machine that use the same `name`. `path` is the file.

    One thread at a time uses it. A forked child calls `forget`.
    """

    def __init__(self, name: str) -> None:
        self.path = os.path.join(run_directory.base(), f"{run_directory.JOB}{name}")
        self._lock: Held | None = None

    def claim(self) -> bool:
        """Try to claim the job until `release`. Return whether this process shows it.

        Raises `OSError` if the file cannot be made, or something else has its name.
        """
        return run_whole(self._claim)  # Ctrl-C leaves no descriptor

    def _claim(self) -> bool:
        if not self.claimed:
            self._lock = None  # the program has closed its descriptor
        while self._lock is None:
            lock = open_regular(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            if self._is_at_its_place(lock):
                os.ftruncate(lock, 0)  # the address of a process that was killed
                self._lock = Held(lock)
            else:  # the previous owner has just removed the file
                os.close(lock)
        return True

    @property
    def claimed(self) -> bool:
        """Whether this process has claimed the job."""
        return self._lock is not None and self._lock.intact

    def _is_at_its_place(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(lock))
        except FileNotFoundError:
            return False

    def publish(self, address: str) -> None:
        """Write the address of the client for the other processes."""
        if self._lock is not None and self.claimed:
            os.write(self._lock.fd, os.fsencode(f"{address}\n"))

    def address(self) -> str:
        """Return the address of the client, or "" if it is not published yet."""
        with contextlib.suppress(FileNotFoundError, SettingError):  # removed: it can be claimed; no address
            text = os.fsdecode(read_regular(self.path, _MAX_ADDRESS))
            return str(Address.parse(text.rstrip("\n"))) if text.endswith("\n") else ""
        return ""

    def release(self) -> None:
        """Release the job. A later process can claim it."""
        if self.claimed:
            with contextlib.suppress(FileNotFoundError):  # a cleaner of temporary files has removed it
                os.unlink(self.path)
            self.forget()

    def forget(self) -> None:
        """In a forked child: close the copy of the lock, which would keep the job claimed after the parent has ended."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
