"""Start methods of processes. The only module that imports `multiprocess`.

`multiprocess` is the standard library's `multiprocessing` with dill as its pickle. Its import takes 55 ms, so only `load`
imports it: a worker that only logs never does.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import shutil
import signal
import site
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..errors import SettingError, quoted

START_METHODS: Final = ("fork", "spawn", "forkserver")

# fork copies a client that has threads, with every lock in its current state: fast (2 ms), with an occasional deadlock.
# Python 3.12 and later warn about it. spawn is safe, but starts a new interpreter with all its imports each time (0.2 s).
# forkserver is equally safe, because its server never has threads, and starts the interpreter once: 10 ms a proc.
DEFAULT_START_METHOD: Final = "forkserver"

# Imported once, by the fork server, instead of by each proc. A proc imports them itself if the server cannot find them,
# because the program added a path to sys.path.
_PRELOAD: Final = ("meshlog_handler.mesh.process_main", "meshlog_handler.mesh.pickling", "meshlog_handler.installation")


def check_start_method(start_method: str | None) -> str:
    """Return the start method to use (None: the default, forkserver); raise `SettingError` if it is unknown, or cannot work.

    A frozen program (PyInstaller and similar tools set ``sys.frozen``) can only be forked: its executable is no interpreter.
    """
    frozen = hasattr(sys, "frozen")
    if start_method is None:
        if frozen:
            return "fork"
        # The fork server needs sockets that pass descriptors; those of eventlet do not.
        return DEFAULT_START_METHOD if reduction().HAVE_SEND_HANDLE else "spawn"
    if start_method not in START_METHODS:
        raise SettingError(
            f"start_method={quoted(start_method)} is not a start method. Valid: {', '.join(START_METHODS)}, or None "
            f"for {DEFAULT_START_METHOD}."
        )
    if frozen and start_method != "fork":
        raise SettingError(
            f"start_method={quoted(start_method)} starts a Python interpreter, and a frozen program (sys.frozen) has none: its "
            f"executable would run this program again. Use start_method='fork', which is its default."
        )
    return start_method


def load() -> Any:
    """Import `multiprocess`, with everything that it imports later to start a process, and return it."""
    try:
        return _load()
    except RuntimeError:
        # Python 3.14 raises it when it detects a deadlock with another thread, which imports the part first. Wait for that
        # thread, this time without the lock of the package.
        importlib.import_module("multiprocessing.reduction")
        return _load()


def _load() -> Any:
    # Modules of multiprocessing import each other. Two threads that start with different modules can see half-imported ones,
    # or deadlock. dill starts with ``multiprocessing.reduction``, a program perhaps with ``multiprocessing.connection``.
    # A thread that imports the whole package first, then the module, may wait for another thread, but never in a cycle.
    # isort: off
    import multiprocessing  # the whole package, before dill imports a part
    import multiprocessing.reduction  # noqa: F401  # the part: by now, nothing that it needs is half-imported
    import multiprocess
    import multiprocess.reduction

    # Modules that `Process.start` imports later. A process forked while another thread imports a module inherits the locked
    # import lock of the module and can never import it, so import everything before threads run.
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
    if sys.version_info >= (3, 14):  # its fork server asks for a proof of the key
        import hmac  # noqa: F401  # imported later by the fork server's client

    return multiprocess


def get_context(start_method: str | None = None) -> Any:
    """Return the `multiprocess` context of a start method; see `check_start_method`."""
    return load().get_context(check_start_method(start_method))


def reduction() -> Any:
    """Return `multiprocess.reduction`: picklers that also support connections, sockets and file descriptors."""
    return load().reduction


_MAX_PATH: Final = 103
"""Maximum length of a socket path in bytes on macOS; 107 on Linux."""

_start_lock = threading.Lock()
_local = threading.local()


@contextmanager
def starting(start_method: str) -> Iterator[None]:
    """Prepare this thread to start one process: within the context, `Process.start` does not transfer ``__main__``.

    A script without an ``if __name__ == "__main__"`` guard is then not run again by each process, and its definitions are
    pickled by value. Other threads and other users of `multiprocess` are unaffected. One start at a time: a concurrent fork
    would copy descriptors that are being passed.
    """
    with _start_lock:
        _patch_preparation_data()
        _patch_command_lines()
        _local.without_main = True
        try:
            if start_method == "forkserver":
                _ensure_fork_server()
            elif start_method == "spawn":
                ensure_resource_tracker()
            yield
        finally:
            _local.without_main = False


def start_ahead(start_method: str) -> None:
    """Start the servers that a start method needs, and do not wait until they are ready."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with contextlib.suppress(OSError), starting(start_method):  # the start of the first proc fails, too, and reports it
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # `multiprocess` unblocks SIGINT


def disown(process: Any) -> None:
    """Remove a started process from the children that `multiprocess` polls at each start and joins at exit."""
    # Only the caller waits for the process from now on: two pollers can lose its exit code. And an exiting interpreter would
    # join the process without asking it to end.
    load().process._children.discard(process)


def ensure_resource_tracker() -> None:
    """Start the process that `multiprocess` needs before the first spawn. It unblocks SIGINT in the calling thread."""
    load().resource_tracker.ensure_running()


def _ensure_fork_server() -> None:
    _shorten_temporary_directory()
    server = load().forkserver._forkserver
    preload, server._preload_modules = server._preload_modules, list(_PRELOAD)
    try:
        try:
            server.ensure_running()
        except ChildProcessError:
            # The server is a child of the process that this one was forked from. This one needs its own server.
            os.close(server._forkserver_alive_fd)
            server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
            server.ensure_running()
    finally:
        server._preload_modules = preload


def _shorten_temporary_directory() -> None:
    """Move the sockets of `multiprocess` to a shorter directory if TMPDIR is too long for a socket path."""
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
        # As `multiprocess` does with its default directory: removed after its contents are closed.
        load().util.Finalize(None, shutil.rmtree, args=(short,), kwargs={"ignore_errors": True}, exitpriority=-100)
        return
    raise OSError(
        errno.ENAMETOOLONG,
        "the temporary directory is too long for a socket path. Set TMPDIR to a path of at most 70 bytes",
        present,
    )


def _patch_preparation_data() -> None:
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
            # Reading the program's start method fixes it. A later set_start_method must still be possible.
            default.set_start_method(None, force=True)
        for name in ("init_main_from_name", "init_main_from_path"):
            data.pop(name, None)
        return data

    get_preparation_data._meshlog = True  # type: ignore[attr-defined]  # marks it as patched
    spawn.get_preparation_data = get_preparation_data


def _patch_command_lines() -> None:
    """Let new interpreters import `multiprocess` from where this one did: from a zipapp, or a directory added to sys.path.

    The resource tracker pickles nothing: it does not import dill, which takes more time than all else that it does.
    """
    multiprocess = load()
    original = multiprocess.util.spawnv_passfds
    root = os.path.dirname(os.path.dirname(multiprocess.__file__))
    if hasattr(original, "_meshlog"):
        return
    found = root in site.getsitepackages() or root == site.getusersitepackages()

    @functools.wraps(original)
    def spawnv_passfds(path: Any, args: Any, passfds: Any) -> int:
        args = list(args)
        if "-c" in args:
            code = args.index("-c") + 1
            if "resource_tracker import main" in args[code]:
                args[code] = f"import sys; sys.modules['dill'] = None; {args[code]}"
            if not found:
                # At the end of the path, nothing that the interpreter finds by itself changes. Its first imports are dill, too.
                args[code] = f"import sys; sys.path += {sys.path!r}; {args[code]}"
        pid: int = original(path, args, passfds)
        return pid

    spawnv_passfds._meshlog = True  # type: ignore[attr-defined]  # marks it as patched
    multiprocess.util.spawnv_passfds = spawnv_passfds


def _after_fork_in_child() -> None:
    global _start_lock, _local
    _start_lock = threading.Lock()
    _local = threading.local()


os.register_at_fork(after_in_child=_after_fork_in_child)
