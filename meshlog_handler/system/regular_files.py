"""Opens files in places where another process may have put something else: a pipe that blocks, a link, a directory."""

from __future__ import annotations

import errno
import os
import stat


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file; return its descriptor. Never blocks. Raises `OSError` if it is a link or no regular file."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file: remove it", path)
    return fd


def read_regular(path: str, most: int) -> bytes:
    """Return the first `most` bytes of a file. Raises `OSError` as `open_regular` does."""
    with open(open_regular(path), "rb") as file:
        return file.read(most)
