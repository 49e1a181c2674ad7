"""Snapshots of the resources of this process. A test may leave nothing behind.

A snapshot takes about a tenth of a millisecond when nothing was left, so every test can afford one.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import socket
import stat
import sys
import threading
from dataclasses import dataclass

from .waiting import until

_TASKS = "/proc/self/task"
_FDS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"

# Threads that stay by design: trio keeps idle workers for 10 s; tqdm's monitor watches for slow bars; Python
# creates an object for each foreign thread that ran Python code; Dask keeps a pool for heavy work.
_IDLE_THREADS = ("Trio thread ", "tqdm_monitor", "Dummy-", "Dask-Offload")

# Helper processes that stay by design. Each of these packages starts one tracker and one fork server when first
# needed, and keeps the process and one end of a pipe to it until the interpreter exits.
_HELPERS = (
    ("resource_tracker", "_resource_tracker", "_pid", "_fd"),
    ("forkserver", "_forkserver", "_forkserver_pid", "_forkserver_alive_fd"),
)
_HELPER_PACKAGES = ("multiprocessing", "multiprocess", "loky.backend")


# Threads and descriptors of engines that cannot be shut down before this process ends.
_of_engines: set[object] = set()


@dataclass(frozen=True)
class Held:
    """The threads, child processes, file descriptors and run directories of this process at one time."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    fds: frozenset[tuple[int, str]]
    runs: frozenset[str]

    @classmethod
    def take(cls) -> Held:
        """Take a snapshot, without resources that stay by design."""
        pids, pipes = _helpers()
        return cls(
            threads=frozenset(t for t in threading.enumerate() if not t.name.startswith(_IDLE_THREADS)) - _of_engines,
            children=frozenset(children() - pids),
            fds=frozenset(pair for pair in open_fds() if pair[0] not in pipes | _jupyters_loop() and not _is_rays(pair[0]))
            - _of_engines,
            runs=frozenset(run_dirs()),
        )

    def left(self, timeout: float = 5.0) -> list[str]:
        """Name the resources that are newer than this snapshot and are not gone within `timeout` seconds."""
        if not self._new():
            return []
        gc.collect()  # release what only a reference cycle keeps alive
        with contextlib.suppress(AssertionError):  # after the deadline, the code below names what is left
            until(lambda: not self._new(), timeout)
        return self._new()

    def leave_to_engine(self) -> None:
        """Assign the threads and descriptors that are newer than this snapshot to an engine, which keeps them until the end."""
        now = Held.take()
        _of_engines.update(now.threads - self.threads, now.fds - self.fds)

    def _new(self) -> list[str]:
        now = Held.take()
        return [
            *(f"a thread: {thread!r}" for thread in now.threads - self.threads),
            *(f"a child process: {_describe(pid)}" for pid in sorted(now.children - self.children)),
            *(f"a file descriptor: {fd} -> {target}" for fd, target in sorted(now.fds - self.fds)),
            *(f"a run directory: {path}" for path in sorted(now.runs - self.runs) if not _in_use(path)),
        ]


def children() -> set[int]:
    """Return the pids of this process's children, including those that ended and were not waited for."""
    if os.path.exists(f"{_TASKS}/{threading.get_native_id()}/children"):
        return _children_of_tasks()
    if os.path.exists("/proc/self/stat"):
        return _children_by_scan()
    known = (sys.modules.get(package) for package in _HELPER_PACKAGES[:2])
    return {child.pid for module in known if module is not None for child in module.active_children()}


def _children_of_tasks() -> set[int]:
    pids: set[int] = set()
    for task in os.listdir(_TASKS):
        # A thread that has ended since then has passed its children to another thread.
        with contextlib.suppress(OSError), open(f"{_TASKS}/{task}/children") as listing:
            pids.update(map(int, listing.read().split()))
    return pids


def _children_by_scan() -> set[int]:
    """The same for kernels built without lists of children; takes milliseconds."""
    me, pids = os.getpid(), set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        # A process that has ended since then has no parent.
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as stat:
            # pid (name, with any characters) state ppid ...
            if int(stat.read().rpartition(")")[2].split()[1]) == me:
                pids.add(int(name))
    return pids


def open_fds() -> set[tuple[int, str]]:
    """Return the open file descriptors and their targets."""
    found = set()
    for name in os.listdir(_FDS):
        # The descriptor of the directory listing itself is closed by now.
        with contextlib.suppress(OSError):
            if _FDS.startswith("/proc"):
                found.add((int(name), os.readlink(f"{_FDS}/{name}")))
            else:
                status = os.fstat(int(name))
                found.add((int(name), f"device {status.st_dev}, inode {status.st_ino}"))
    return found


def run_dirs() -> set[str]:
    """Return the run directories of this user, from any process."""
    with contextlib.suppress(ModuleNotFoundError):  # the package is not installed yet: there is nothing to check
        base = importlib.import_module("meshlog_handler.transport.run_directory").base()
        return {entry.path for entry in os.scandir(base)}
    return set()


def _in_use(path: str) -> bool:
    """Tell whether a client uses a run directory: it holds a lock there. A job's file is itself the lock.

    A lock of another process is not our leak, and a lock of this process appears as a file descriptor.
    """
    with contextlib.suppress(FileNotFoundError):
        lock = os.open(path if os.path.isfile(path) else os.path.join(path, "client.lock"), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False
    # Without a lock file, the directory is being created, or has just been removed; otherwise it was left behind.
    return not os.path.exists(path)


def _helpers() -> tuple[set[int], set[int]]:
    """Return the pids of the helper processes and the descriptors of their pipes."""
    pids, pipes = set(), set()
    for package in _HELPER_PACKAGES:
        for module, name, pid, pipe in _HELPERS:
            helper = getattr(sys.modules.get(f"{package}.{module}"), name, None)
            pids.add(getattr(helper, pid, None))
            pipes.add(getattr(helper, pipe, None))
    return pids - {None}, pipes - {None}  # type: ignore[return-value]  # None is removed


def _jupyters_loop() -> set[int]:
    """Return the descriptors of the event loop that Jupyter's synchronous calls create once and keep."""
    variable = getattr(sys.modules.get("jupyter_core.utils"), "_loop", None)
    loop = variable.get(None) if variable is not None else None
    parts = (getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock"))
    return {part.fileno() for part in parts if part is not None}


def _is_rays(fd: int) -> bool:
    """Tell whether a descriptor is a network connection from Ray, which keeps connections to its workers. We have none."""
    if "ray" not in sys.modules:
        return False
    # A descriptor closed since then is not one.
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as sock:
                return sock.family in (socket.AF_INET, socket.AF_INET6)
    return False


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as words:
            command = words.read().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"{pid} {command[:200]}" if command else f"{pid}, ended but not waited for"
    return str(pid)
