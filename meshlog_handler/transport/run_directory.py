"""The run directory of one client, private to the user: it contains the socket and the journals."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from .. import settings
from ..errors import DirectoryError
from ..journal.shown import SUFFIX as SHOWN
from ..protocol.digests import blake2b
from ..system.descriptors import Held
from ..system.lock_files import hold, is_held, lock, make_held
from ..system.regular_files import check_private, make_private, open_regular, read_regular
from .channel import Address, any_length

_LOCK = "client.lock"
_TOLD = "told-"
_OF_JOB = "job"
"""The file in the run directory of a job's client that has the name of the job."""
_JOB_SEC = 86400.0
"""Seconds for which the directory of a job is kept for the next client of the job."""
_RELAY = "relay.key"
"""The file in the run directory of a relay that has the name of its upstream client, its key and its token."""
SOCKET = "client.sock"
_NOTE = "note"
_MAX_NOTE = 1 << 20
_DIGEST = 16
_KEY = 32
_MAKING = ".making-"
_RUN = "run-"
_MAKING_SEC = 600.0

ORPHAN_SEC = 600.0
"""Seconds for which the directory of a killed relay is kept."""

JOB = "job-"
"""Prefix of the files by which the processes of a job find each other (see `transport.election`)."""

_MAX_PATH = 68  # the whole path of a Unix socket has at most 103 bytes on macOS, 107 on Linux


def base() -> str:
    """Return the parent of this user's run directories; make it with mode 0700 if it does not exist.

    It is in ``MESHLOG_RUN_DIR`` if that is set. Otherwise it is in ``/dev/shm``, so that journals are in memory, or else in
    the temporary directory. Raises `OSError` if no directory that is private to this user can be made: if the variable is
    set, a `DirectoryError`.
    """
    failure: OSError = FileNotFoundError(
        errno.ENOENT, "neither /dev/shm nor a temporary directory is writable; set MESHLOG_RUN_DIR"
    )
    given = os.environ.get(settings.RUN_DIR)
    for parent in _parents():
        try:
            path = parent()
        except FileNotFoundError:  # of `gettempdir`, on a read-only system: there may be shared memory
            continue
        try:
            if len(os.fsencode(path)) > _MAX_PATH and not any_length():
                raise OSError(
                    errno.ENAMETOOLONG, f"too long for a socket: choose a directory of at most {_MAX_PATH - 15} bytes", path
                )
            if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
                if given:
                    why = "this user cannot write to it" if os.path.isdir(given) else "there is no such directory"
                    failure = FileNotFoundError(errno.ENOENT, why, given)
                continue
            make_private(path)
        except OSError as refused:
            failure = refused
            continue
        return path
    if given:
        where = f" ({failure.filename})" if failure.filename not in (None, given) else ""
        raise DirectoryError(
            f"{settings.RUN_DIR}={given!r} cannot be used: {failure.strerror}{where}. Valid: a directory that exists and that "
            f"this user can write to, or nothing for /dev/shm or the temporary directory.",
            failure,
        ) from failure
    raise failure


def _parents() -> Sequence[Callable[[], str]]:
    """Return functions that return where the run directories of this user may be."""
    given = os.environ.get(settings.RUN_DIR)
    anywhere: tuple[Callable[[], str], ...] = (lambda: "/dev/shm", tempfile.gettempdir)
    roots = (lambda: os.path.abspath(given),) if given else anywhere
    return [partial(_below, root) for root in roots]


def _below(root: Callable[[], str]) -> str:
    return os.path.join(root(), f"meshlog-{os.getuid()}")


def living() -> Iterator[str]:
    """Yield the run directories of this user whose client runs."""
    for parent in _parents():
        with contextlib.suppress(OSError):  # it does not exist, or is not private: no client uses it
            path = parent()
            check_private(path)
            for name in sorted(os.listdir(path)):
                directory = os.path.join(path, name)
                if name.startswith(_RUN) and is_held(os.path.join(directory, _LOCK)):
                    yield directory


class RunDir:
    """The run directory of one client. While it runs, the client locks a file in it, which keeps `clean` from removing it.

    A forked child inherits the locks; `forget` closes its copies. The directory of the client of a `job` is kept for the next
    client of the same job, if there are journals in it.
    """

    def __init__(self, job: str = "", upstream: bytes | None = None) -> None:
        self._restoring = threading.Lock()
        self.handed_on = False  # whether another client of this process is to go on in it: then it is not removed
        self._stays = False  # whether a relay of another process may go on in it
        self.note: Callable[[], bytes] = bytes  # returns what `remove` leaves for the relay that goes on in it
        self._files: dict[str, bytes] = {}
        parent = base()
        self.key, self.token = os.urandom(_KEY), os.urandom(8).hex()
        found = _take_over(parent, _note(upstream)) if upstream is not None else None
        clean(parent)
        if found is not None:
            self.path, self._held, self.key, self.token = found
        self._kept_for: dict[str, bytes] = {}  # the file that says for whom the directory is kept
        if job:
            self._kept_for[_OF_JOB] = job.encode()
        if upstream is not None:
            self._kept_for[_RELAY] = _note(upstream) + self.key + self.token.encode()
        if found is not None:
            return
        making, self._held = _make(parent, self._kept_for)
        # The rename comes last, so that other clients never see the directory without its locks.
        self.path = os.path.join(parent, _RUN + os.path.basename(making).removeprefix(_MAKING))
        os.rename(making, self.path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file that only this user can read, if there is room for it; `restore` writes it again."""
        with self._restoring:
            self._files[name] = content
            _write(os.path.join(self.path, name), content)

    def take_note(self) -> bytes:
        """Return the note of the relay before, and remove it; b"" if it has left no note."""
        self.note = bytes
        path = os.path.join(self.path, _NOTE)
        try:
            content = read_regular(path, _MAX_NOTE)
            os.unlink(path)
        except OSError:
            return b""
        return content

    def restore(self) -> None:
        """Make the directory again if a cleaner of temporary files, for instance, has removed it. Any thread may call it.

        Raises `OSError` if the directory cannot be made.
        """
        with self._restoring:
            if not self._held or not _is_gone(os.path.join(self.path, _LOCK)):
                return
            parent = os.path.dirname(self.path)
            make_private(parent)
            making, held = _make(parent, self._kept_for)
            for name, content in self._files.items():
                _write(os.path.join(making, name), content)
            if not _is_gone(self.path):  # a worker has made it for a large record
                _move(self.path, making)
            os.rename(making, self.path)
            self.forget()
            self._held = held

    def take_again(self) -> None:
        """Use the directory for the next client of this process, after it was handed on."""
        self.handed_on = False
        _remove_socket(self.path)

    def leave(self) -> None:
        """Leave the directory for another relay: at the end, `remove` only releases the locks if there are journals."""
        self.handed_on, self._stays = False, True

    def remove(self) -> None:
        """Remove the directory and its contents, unless another client is to read journals in it."""
        note = self.note()
        if note:
            _write(os.path.join(self.path, _NOTE), note)
        if self.handed_on:
            return
        if not (self._stays or _OF_JOB in self._kept_for) or not _is_needed(self.path):
            _remove(self.path)
        self.forget()

    def forget(self) -> None:
        """Release the locks without removing anything."""
        while self._held:
            self._held.pop().close()


def _write(path: str, content: bytes) -> None:
    """Write a whole file or none. The modes of the directory and of the file keep other users out."""
    with contextlib.suppress(OSError):  # no room, or too many open files: the client works without it
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        os.rename(f"{path}.new", path)


def _move(path: str, to: str) -> None:
    """Move what is in a directory to another one, which may have files of the same names, and remove it."""
    kept = os.listdir(to)
    for name in os.listdir(path):
        if name in kept:
            os.unlink(os.path.join(path, name))
        else:
            os.rename(os.path.join(path, name), os.path.join(to, name))
    os.rmdir(path)


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as failure:  # it may also be unreadable, if this process has given up rights
        return failure.errno == errno.ENOENT
    return False


def _note(upstream: bytes) -> bytes:
    """Return the name of an upstream client in the notes of its relays, made from its key."""
    return blake2b(upstream, person=b"relay", digest_size=_DIGEST).digest()


def _take_over(parent: str, note: bytes) -> tuple[str, list[Held], bytes, str] | None:
    """Take over the directory of a relay of the same upstream client that is gone: its workers find its replacement there."""
    for path, found in _relays_of(parent, note):
        held = hold(os.path.join(path, _RELAY))
        if held >= 0:
            return _taken(path, held, found)
    return None


def _relays_of(parent: str, note: bytes) -> list[tuple[str, bytes]]:
    """Return the directories of relays of an upstream client, and what follows its name in their notes."""
    relays = []
    for name in sorted(os.listdir(parent)):
        path = os.path.join(parent, name)
        try:
            with open(os.path.join(path, _RELAY), "rb") as file:
                found = file.read(_DIGEST + _KEY + 16)
        except OSError:  # not a relay's
            continue
        if found.startswith(note) and len(found) == _DIGEST + _KEY + 16:
            relays.append((path, found[_DIGEST:]))
    return relays


def _taken(path: str, relay: int, found: bytes) -> tuple[str, list[Held], bytes, str]:
    held = [Held(relay)]
    try:
        # Another process may just be looking whether the lock of the former relay is held, and hold it meanwhile.
        held.append(Held(make_held(os.path.join(path, _LOCK))))
        held.append(Held(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        lock(held[-1].fd, fcntl.LOCK_SH)
        _remove_socket(path)
    except BaseException:
        for each in held:
            each.close()
        raise
    return path, held, found[:_KEY], found[_KEY:].decode()


def _remove_socket(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # nothing to remove
        os.unlink(os.path.join(path, SOCKET))


def _make(parent: str, kept_for: Mapping[str, bytes]) -> tuple[str, list[Held]]:
    """Make a directory under a temporary name; return its path, and the descriptors that hold its locks.

    The files `kept_for` in it say for whom it is kept: for the next client of a job, or for the replacement of a relay.
    """
    making = tempfile.mkdtemp(prefix=f"{_MAKING}{os.getpid()}-", dir=parent)
    held: list[Held] = []
    try:
        # The lock of the file shows other clients that this one runs. The lock of the directory keeps systemd-tmpfiles out.
        held.append(Held(os.open(os.path.join(making, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)))
        held.append(Held(os.open(making, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        try:
            fcntl.flock(held[0].fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(held[1].fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as failure:
            why = f"files cannot be locked here: {failure.strerror} (flock)"
            raise OSError(failure.errno, why, parent) from failure
        for name, content in kept_for.items():
            # The process that holds the lock of the file of a relay has the directory. No process locks it only to look.
            held.append(Held(os.open(os.path.join(making, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)))
            lock(held[-1].fd)
            with open(held[-1].fd, "wb", closefd=False) as file:
                file.write(content)
    except BaseException:
        for each in held:
            each.close()
        shutil.rmtree(making, ignore_errors=True)
        raise
    return making, held


def clean(parent: str, patience: float = ORPHAN_SEC) -> list[str]:
    """Remove the run directories under `parent` whose client has exited; return their paths.

    A directory is kept while a worker still runs that writes to a journal in it. That of a killed relay is kept for its
    replacement, for `patience` seconds from when it was first seen here.
    """
    removed = []
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if name.startswith(_TOLD):
            parent_pid = name.removeprefix(_TOLD)
            if not (parent_pid.isdecimal() and lives(int(parent_pid))):
                with contextlib.suppress(OSError):  # another client has removed it
                    os.unlink(path)
            continue
        if name.startswith(_MAKING):
            if not _is_recent(path, _MAKING_SEC) and not is_held(os.path.join(path, _LOCK)):
                shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            lock = open_regular(path if name.startswith(JOB) else os.path.join(path, _LOCK), os.O_RDWR)
        except OSError:
            if name.startswith(_RUN):
                with contextlib.suppress(OSError):  # it is not the empty one of a client that was killed while it removed it
                    os.rmdir(path)
                    removed.append(path)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            if name.startswith(JOB):
                with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
                    os.unlink(path)
                removed.append(path)
            elif _removed_if_over(path, lock, patience):
                removed.append(path)
        finally:
            os.close(lock)
    return removed


def _removed_if_over(path: str, lock: int, patience: float) -> bool:
    """Remove a directory that nobody needs any more; return whether it was. Its client has exited, and `lock` is its lock."""
    if not _is_over(path, lock, patience):  # looked at before the lock is taken that a replacement takes
        return False
    relay = os.path.join(path, _RELAY)
    held = hold(relay)
    if held < 0 and os.path.exists(relay):  # another relay has just taken it over
        return False
    try:
        over = os.path.samestat(os.stat(os.path.join(path, _LOCK)), os.fstat(lock))
        if over:  # else another relay has taken it over, and was killed since
            _remove(path)
        return over
    except FileNotFoundError:  # another client has removed it
        return False
    finally:
        if held >= 0:
            os.close(held)


def _is_over(path: str, lock: int, patience: float) -> bool:
    return not (_in_use(path) or _awaits_job(path) or _awaits_replacement(path, lock, patience))


def _awaits_replacement(path: str, lock: int, patience: float) -> bool:
    """Return whether a directory belongs to a killed relay whose replacement may still come.

    When this is first asked, it is written to the lock file. The replacement makes another one.
    """
    if not os.path.exists(os.path.join(path, _RELAY)):
        return False
    if not os.fstat(lock).st_size:
        with contextlib.suppress(OSError):  # the disk is full
            os.write(lock, b"\n")
    return abs(time.time() - os.fstat(lock).st_mtime) < patience


def _awaits_job(path: str) -> bool:
    """Return whether a directory belongs to a client of a job, whose next client may still come."""
    return bool(_job_of(path)) and _is_recent(path, _JOB_SEC)


def _is_recent(path: str, seconds: float) -> bool:
    """Return whether the directory at `path` was changed within the last seconds, or is gone."""
    try:
        return abs(time.time() - os.stat(path).st_mtime) <= seconds
    except OSError:
        return True


def _job_of(path: str) -> str:
    """Return the name of the job whose client made the directory at `path`; "" if no job made it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):  # it has no such file, or it has no name
        return read_regular(os.path.join(path, _OF_JOB), _MAX_PATH).decode()
    return ""


def _is_needed(path: str) -> bool:
    """Return whether the directory at `path` has journals, the mark of one that its writer is about to make, or a note."""
    with contextlib.suppress(OSError):  # it is gone
        return any(name.endswith((".journal", SHOWN)) or name == _NOTE for name in os.listdir(path))
    return False


def of_job(job: str) -> list[str]:
    """Return the run directories of clients of a job. At most one of the clients runs."""
    parent = base()
    paths = [os.path.join(parent, name) for name in sorted(os.listdir(parent)) if name.startswith(_RUN)]
    return [path for path in paths if _job_of(path) == job]


def is_left(path: str) -> bool:
    """Return whether the client that made the run directory at `path` has ended."""
    return not is_held(os.path.join(path, _LOCK))


def is_of_this_process(address: str) -> bool:
    """Return whether the client at `address` was started by this process, perhaps before it called `os.exec`."""
    name = os.path.basename(os.path.dirname(Address.parse(address).path))
    return name.startswith(f"{_RUN}{os.getpid()}-")


def has_ended(address: str) -> bool:
    """Return whether the client at `address` ran on this machine and was stopped: then it has removed its directory."""
    path = os.path.dirname(Address.parse(address).path)
    return _is_gone(path) and os.path.isdir(os.path.dirname(path))


def tell_once(parent: int) -> bool:
    """Return True to one process only of those with this parent."""
    try:
        os.close(os.open(os.path.join(base(), f"{_TOLD}{parent}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def has_left(job: str, *, held: bool) -> bool:
    """Return whether clients of a job have left journals of processes that run (`held`), or that have ended."""
    for path in filter(is_left, of_job(job)):
        with contextlib.suppress(OSError):  # it is gone
            names = os.listdir(path)
            marked = [name for name in names if name.endswith(".journal") and name + SHOWN in names]
            if any(is_held(os.path.join(path, name)) is held for name in marked):
                return True
    return False


def remove_read(paths: Iterable[str]) -> None:
    """Remove those of the directories in which no journal is left."""
    for path in paths:
        if not _is_needed(path):
            _remove(path)


def _remove(path: str) -> None:
    """Remove a run directory, its lock file last: if this is interrupted, `clean` removes the rest."""
    with contextlib.suppress(OSError):  # it is gone
        for entry in os.scandir(path):
            if entry.name != _LOCK and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
    shutil.rmtree(path, ignore_errors=True)


def _in_use(path: str) -> bool:
    """Return whether a worker with a journal in `path` still runs: it holds the lock of the journal."""
    try:
        names = os.listdir(path)
    except OSError:  # the client has just removed it
        return True
    return any(name.endswith(".journal") and is_held(os.path.join(path, name)) for name in names)


def lives(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # a process of another user
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat") as file:  # macOS has no such file
        return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie writes no more
    return True
