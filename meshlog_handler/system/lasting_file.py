"""LastingFile: a small file that is written record by record, and whose content outlives this process.

It is written, not mapped: another process of the same user may truncate it, and a truncated map ends a process with SIGBUS.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from typing import Final

from .descriptors import Held, identity

_PLACES: Final = 1 << 40


class LastingFile(Held):
    """A file that is open to be read and written. It owns `fd`; if the program closes it, the file is opened again.

    One owner. `read` and `write` raise `OSError`, also if the file was removed and its descriptor closed.
    """

    def __init__(self, path: str, fd: int) -> None:
        super().__init__(fd)
        self.path = path
        # The offset of the open file serves only this: it tells, cheaply, whether the number still is that of this file.
        self._offset = os.lseek(fd, random.randrange(1, _PLACES), os.SEEK_SET)

    def read(self, size: int, at: int) -> bytes:
        """Return `size` bytes from a place, or fewer: another process may have truncated the file."""
        self._check()
        return os.pread(self.fd, size, at)

    def write(self, data: bytes, at: int) -> None:
        """Write `data` at a place. If it does not cross a page, then all of it, or nothing if this process is killed."""
        self._check()
        os.pwrite(self.fd, data, at)

    def _check(self) -> None:
        with contextlib.suppress(OSError):  # the number is closed, or of a pipe
            if os.lseek(self.fd, 0, os.SEEK_CUR) == self._offset:
                return
        fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if self._known is None or identity(fd) != self._known:
            os.close(fd)
            raise OSError(errno.ESTALE, "closed, or replaced by another file", self.path)
        self.fd, self._offset = fd, os.lseek(fd, self._offset, os.SEEK_SET)
