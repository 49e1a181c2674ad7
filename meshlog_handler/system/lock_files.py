"""File locks that a process holds until it exits: they show whether it runs, also across hosts and pid namespaces."""

from __future__ import annotations

import contextlib
import fcntl
import os


def hold(path: str, *, wait: bool = False) -> int:
    """Lock a file; return the descriptor that holds the lock, or -1 if the file does not exist, is locked or was removed.

    A process that looks by `is_held` locks the file, too, for a moment: use `make_held` where others look. With `wait`, such a
    lock is waited for. A forked child inherits the lock with the descriptor, and must close it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    if lock(fd) is False:
        if not wait:
            os.close(fd)
            return -1
        fcntl.flock(fd, fcntl.LOCK_EX)
    if not os.fstat(fd).st_nlink:
        os.close(fd)
        return -1
    return fd


def make_held(path: str) -> int:
    """Make a file that is locked before others see it; return the descriptor that holds the lock.

    The file replaces another one of this name, even if that is locked. Only one process at a time may call this for a name.
    """
    making = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):  # a process that was killed may have left it
        os.unlink(making)
    fd = os.open(making, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        lock(fd)
        os.rename(making, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Lock an open file; return False if another process has locked it, None if the file system has no locks."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_held(path: str) -> bool:
    """Return whether a process holds the lock of a file; True if this is unknown."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not lock(fd, fcntl.LOCK_SH)  # shared, so that processes that look at the same time do not see each other
    finally:
        os.close(fd)
