"""Uses places where another process may have put something else: a pipe that blocks, a link, an open directory."""

from __future__ import annotations

import contextlib
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


def check_private(path: str) -> None:
    """Raise `PermissionError` unless `path` is a directory that belongs to this user and is closed to others."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            errno.EPERM, "not a private directory of this user (mode 0700): remove it, or set TMPDIR to another place", path
        )


def make_private(path: str) -> None:
    """Make a directory with mode 0700 if it does not exist. Raises `PermissionError` as `check_private` does."""
    with contextlib.suppress(FileExistsError):  # checked below
        os.mkdir(path, 0o700)
    check_private(path)
