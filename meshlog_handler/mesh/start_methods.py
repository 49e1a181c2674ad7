"""How processes are started, and who this process is. The one importer of `multiprocess`.

`multiprocess` is the standard library's `multiprocessing` with dill as its pickle. It costs 55 ms to import, so it is
imported where a mesh is (see `load`): a worker that only logs never pays for it.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from .. import settings
from ..errors import SettingError

START_METHODS: Final = ("fork", "spawn", "forkserver")

# fork copies a client that has threads, with every lock as it happens to stand: fast (2 ms) and a deadlock now and then;
# Python 3.12 and later warn of it. spawn is clean, and pays for a new interpreter with all its imports each time (0.2 s).
# forkserver is as clean, for its server never has a thread, and pays for the interpreter once: 10 ms a proc.
DEFAULT_START_METHOD: Final = "forkserver"

# Loaded once, by the fork server, instead of by each proc. Where they cannot be found (the server does not know a path
# that the program added to sys.path) each proc loads them itself.
_PRELOAD: Final = ("meshlog_handler.mesh.process_main", "meshlog_handler.mesh.pickling", "meshlog_handler.installation")


# -- starting ----------------------------------------------------------------------------------------------------------


def check_start_method(start_method: str | None) -> str:
    """Return the start method to use; None asks for the default, forkserver.

    Raises
    ------
    SettingError
        If there is none of this name.
    """
    if start_method is None:
        # Without sockets that carry descriptors, as those of eventlet, there is no fork server.
        return DEFAULT_START_METHOD if reduction().HAVE_SEND_HANDLE else "spawn"
    if start_method not in START_METHODS:
        raise SettingError(
            f"start_method={start_method!r} is not a way to start processes. Valid: {', '.join(START_METHODS)}, or None "
            f"for {DEFAULT_START_METHOD}."
        )
    return start_method


def load() -> Any:
    """Import `multiprocess`, with all that it would import to start a process, and return it.

    Threads that begin with different modules of a package whose modules import each other meet half-imported ones, or a
    deadlock. dill begins with ``multiprocessing.reduction``, a program perhaps with ``multiprocessing.connection``. A thread
    that imports the whole package first, and then the module that another thread may still be importing, waits for the other
    thread where it has to, and is never waited for in a circle.
    """
    # isort: off
    import multiprocessing  # whole, before dill imports a part
    import multiprocessing.reduction  # noqa: F401  # the part; by now nothing that it needs is half-imported
    import multiprocess
    import multiprocess.reduction

    # What `Process.start` imports by and by. A process that is forked while a thread of this one imports a module inherits
    # the module's lock, and can never import it: when threads run, all is imported.
    import multiprocess.forkserver
    import multiprocess.popen_fork
    import multiprocess.popen_spawn_posix
    import multiprocess.process
    import multiprocess.resource_tracker
    import multiprocess.spawn
    import multiprocess.util
    # isort: on

    if multiprocess.reduction.HAVE_SEND_HANDLE:
        import multiprocess.popen_forkserver

    return multiprocess


def get_context(start_method: str | None = None) -> Any:
    """Return the `multiprocess` context of a start method; see `check_start_method`."""
    return load().get_context(check_start_method(start_method))


def reduction() -> Any:
    """Return `multiprocess.reduction`: picklers that also know connections, sockets and file descriptors."""
    return load().reduction


_MAX_PATH: Final = 103
"""Bytes that a socket's path has on macOS; 107 on Linux."""

_start_lock = threading.Lock()
_local = threading.local()


@contextmanager
def starting(start_method: str) -> Iterator[None]:
    """Prepare this thread to start one process: while it lasts, `Process.start` here does not take ``__main__`` along.

    A script without an ``if __name__ == "__main__"`` guard is then not run again by every process it starts, and what it
    defines travels by value instead. Other threads, and what else uses `multiprocess`, are not affected. One at a time: a
    fork in between would copy descriptors that are half handed over.
    """
    with _start_lock:
        _leave_main_out_when_told()
        _local.without_main = True
        try:
            if start_method == "forkserver":
                _ensure_fork_server()
            elif start_method == "spawn":
                ensure_resource_tracker()
            yield
        finally:
            _local.without_main = False


def disown(process: Any) -> None:
    """Take a started process out of the list of children that `multiprocess` polls at any start, and joins at exit.

    The caller is the only one to wait for it from now on: two who poll a process at once can lose its exit code. And
    an interpreter that exits does not wait for it without first telling it to end.
    """
    load().process._children.discard(process)


def ensure_resource_tracker() -> None:
    """Start the process that `multiprocess` starts before the first spawn. It unblocks SIGINT in the calling thread."""
    load().resource_tracker.ensure_running()


def _ensure_fork_server() -> None:
    _shorten_temporary_directory()
    server = load().forkserver._forkserver
    preload, server._preload_modules = server._preload_modules, list(_PRELOAD)
    try:
        try:
            server.ensure_running()
        except ChildProcessError:
            # This process was forked from the one whose child the server is; it needs one of its own.
            os.close(server._forkserver_alive_fd)
            server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
            server.ensure_running()
    finally:
        server._preload_modules = preload


def _shorten_temporary_directory() -> None:
    """Let `multiprocess` put its sockets elsewhere, where TMPDIR is too long for the path of one."""
    config = load().process.current_process()._config
    present = config.get("tempdir") or os.path.join(tempfile.gettempdir(), "pymp-12345678")
    if len(os.fsencode(present)) + len("/listener-12345678") <= _MAX_PATH:
        return
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        try:
            short = tempfile.mkdtemp(prefix="pymp-", dir=place)
        except OSError:
            continue
        config["tempdir"] = short
        # As `multiprocess` does with its own: after what lies in it.
        load().util.Finalize(None, shutil.rmtree, args=(short,), kwargs={"ignore_errors": True}, exitpriority=-100)
        return
    raise OSError(errno.ENAMETOOLONG, "a socket's path is short: set TMPDIR to a place of 70 bytes", present)


def _leave_main_out_when_told() -> None:
    context, spawn = load().context, load().spawn
    original = spawn.get_preparation_data
    if hasattr(original, "_meshlog"):
        return

    @functools.wraps(original)
    def get_preparation_data(*args: Any, **kwargs: Any) -> dict[str, Any]:
        if not getattr(_local, "without_main", False):
            data: dict[str, Any] = original(*args, **kwargs)
            return data
        default = context._default_context
        undecided = default.get_start_method(allow_none=True) is None
        data = original(*args, **kwargs)
        if undecided:
            # To ask for the program's start method is to fix it; a later set_start_method must still be allowed.
            default.set_start_method(None, force=True)
        for name in ("init_main_from_name", "init_main_from_path"):
            data.pop(name, None)
        return data

    get_preparation_data._meshlog = True  # type: ignore[attr-defined]  # the mark that it is done
    spawn.get_preparation_data = get_preparation_data


def _after_fork_in_child() -> None:
    global _start_lock, _local
    _start_lock = threading.Lock()
    _local = threading.local()


os.register_at_fork(after_in_child=_after_fork_in_child)


# -- identity ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcIdentity:
    """Who a proc is.

    Attributes
    ----------
    rank : int
        From 0, in the whole mesh.
    local_rank, local_world_size : int
        The rank among the mesh's procs on this host, and how many these are.
    world_size : int
        Number of procs of the mesh.
    coords : dict
        Position by dimension, such as ``{"gpus": 1}``.
    mesh : str
        Token of the mesh; no two meshes have the same.
    """

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    coords: dict[str, int]
    mesh: str

    def environ(self) -> dict[str, str]:
        """Return the variables by which launchers, and torch.distributed, spell it."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
        }


_identity: ProcIdentity | None = None


def set_identity(identity: ProcIdentity) -> None:
    """Say who this process is. Once, before anything else runs in it."""
    global _identity
    _identity = identity
    os.environ.update(identity.environ())


def current_identity() -> ProcIdentity | None:
    """Return who this process is, or None if no mesh made it."""
    return _identity


def current_rank() -> int:
    """Return the rank of this process: in its mesh, or the one a launcher gave it (``RANK`` and its like).

    Raises
    ------
    SettingError
        If it has none.
    """
    if _identity is not None:
        return _identity.rank
    rank = settings.rank()
    if rank is None:
        raise SettingError(
            f"this process (pid {os.getpid()}) has no rank: no mesh made it, and none of "
            f"{', '.join(settings.RANK_VARIABLES)} is set. Call current_rank() in a function that runs on the procs, as in "
            f"proc_mesh.call(function), or start this process by a launcher such as torchrun."
        )
    return rank


def current_coords() -> dict[str, int]:
    """Return this process's position in its mesh by dimension, such as ``{"hosts": 0, "gpus": 1}``.

    Raises
    ------
    SettingError
        If no mesh made this process.
    """
    if _identity is None:
        raise SettingError(
            f"this process (pid {os.getpid()}) has no coordinates: no mesh made it. Call current_coords() in a function that "
            f"runs on the procs, as in proc_mesh.call(function)."
        )
    return dict(_identity.coords)
