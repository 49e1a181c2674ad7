"""The run directory: private to the user and to one client; socket and journals lie in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable

from .. import settings
from ..system.locks import is_held
from .channel import any_length

_LOCK = "client.lock"
_MAKING = ".making-"
_MAKING_SEC = 600.0

JOB = "job-"
"""With what the names of files begin by which the ranks of a launcher find each other: see `job`."""

_MAX_PATH = 76  # a Unix socket's whole path has room for 103 bytes on macOS, 107 on Linux


def base() -> str:
    """Return the directory that holds this user's run directories, made with mode 0700 if it is not there.

    In ``MESHLOG_RUN_DIR`` if that is set; else in ``/dev/shm`` where there is one (the journals are memory then), or in
    the temporary directory.

    Raises
    ------
    OSError
        If the place belongs to somebody else or is open to others, and no other can be made.
    """
    failure: OSError = FileNotFoundError(errno.ENOENT, "no directory for temporary files can be written; set MESHLOG_RUN_DIR")
    # Asked for one by one: on a read-only system there may be shared memory and no temporary directory, which is an error.
    given = os.environ.get(settings.RUN_DIR)
    anywhere: tuple[Callable[[], str], ...] = (lambda: "/dev/shm", tempfile.gettempdir)
    for root in (lambda: os.path.abspath(given),) if given else anywhere:
        try:
            path = os.path.join(root(), f"meshlog-{os.getuid()}")
            if len(os.fsencode(path)) > _MAX_PATH and not any_length():
                raise OSError(errno.ENAMETOOLONG, f"a socket's path is short: choose a place of {_MAX_PATH - 15} bytes", path)
            if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
                if given:
                    failure = FileNotFoundError(errno.ENOENT, f"{settings.RUN_DIR} is no directory that can be written", given)
                continue
            with contextlib.suppress(FileExistsError):  # as it should be: looked at below
                os.mkdir(path, 0o700)
            check_private(path)
        except OSError as refused:
            failure = refused
            continue
        return path
    raise failure


def check_private(path: str) -> None:
    """Raise `PermissionError` unless `path` is a directory of this user that nobody else can enter."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            errno.EPERM, "not a private directory of this user (mode 0700): remove it, or set TMPDIR to another place", path
        )


class RunDir:
    """One client's directory. It holds a locked file for as long as the client lives: who can lock it may clean up.

    A forked child shares the locks by inheritance: `forget` gives up its copies.
    """

    def __init__(self) -> None:
        parent = base()
        clean(parent)
        self._restoring = threading.Lock()
        making, self._held = _make(parent)
        # Only now may others see it: nobody can find it without a lock, and take it for a dead client's.
        self.path = os.path.join(parent, "run-" + os.path.basename(making).removeprefix(_MAKING))
        os.rename(making, self.path)

    def restore(self) -> None:
        """Make it again where it was removed, as by a cleaner of temporary files. Any thread.

        Raises
        ------
        OSError
            If it cannot be made.
        """
        with self._restoring:
            if not self._held or not _is_gone(self.path):
                return
            parent = os.path.dirname(self.path)
            with contextlib.suppress(FileExistsError):  # as it should be: looked at below
                os.mkdir(parent, 0o700)
            check_private(parent)
            making, held = _make(parent)
            os.rename(making, self.path)
            self.forget()
            self._held = held

    def remove(self) -> None:
        """Remove the directory and all that lies in it."""
        _remove(self.path)
        self.forget()

    def forget(self) -> None:
        """Give up the locks without removing anything."""
        while self._held:
            os.close(self._held.pop())


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as failure:  # or this process has given up the right to look
        return failure.errno == errno.ENOENT
    return False


def _make(parent: str) -> tuple[str, list[int]]:
    """Make a directory that is not yet a client's; return its path and descriptors that hold its locks."""
    making = tempfile.mkdtemp(prefix=_MAKING, dir=parent)
    held: list[int] = []
    try:
        # The file's tells other clients that this one lives. The directory's keeps systemd-tmpfiles out.
        held.append(os.open(os.path.join(making, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(os.open(making, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        fcntl.flock(held[1], fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BaseException:
        for fd in held:
            os.close(fd)
        shutil.rmtree(making, ignore_errors=True)
        raise
    return making, held


def clean(parent: str) -> list[str]:
    """Remove the run directories under `parent` whose client is dead; return their paths.

    One whose procs still live is left alone: they write to journals in it.
    """
    removed = []
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if name.startswith(_MAKING):
            if _is_old(path) and not is_held(os.path.join(path, _LOCK)):
                shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            lock = os.open(path if name.startswith(JOB) else os.path.join(path, _LOCK), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            if name.startswith(JOB):
                os.unlink(path)
                removed.append(path)
            elif not _in_use(path):
                _remove(path)
                removed.append(path)
        finally:
            os.close(lock)
    return removed


def _is_old(path: str) -> bool:
    """Tell whether nobody can be about to rename what was made at `path`: that takes a millisecond."""
    try:
        return abs(time.time() - os.stat(path).st_mtime) > _MAKING_SEC
    except OSError:
        return False


def _remove(path: str) -> None:
    """Remove a run directory, its lock file last: where this is cut short, `clean` finds the rest."""
    with contextlib.suppress(OSError):  # it is gone
        for entry in os.scandir(path):
            if entry.name != _LOCK and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
    shutil.rmtree(path, ignore_errors=True)


def _in_use(path: str) -> bool:
    """Tell whether a proc that keeps its journal in `path` still lives: it holds the journal's lock."""
    try:
        names = os.listdir(path)
    except OSError:  # its client has just removed it
        return True
    return any(name.endswith(".journal") and is_held(os.path.join(path, name)) for name in names)


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # as another user's
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as file:  # macOS has none: taken for alive
        return file.read().rpartition(")")[2].split()[0] != "Z"  # one that only waits to be reaped writes no more
    return True
