"""Stops the clients that nobody has stopped, when their process ends.

In a process that ends in order (the main module returns, `sys.exit`, an uncaught exception) a client is stopped

- after the program's own threads, and those of its executors, have been joined;
- after `multiprocessing` and `multiprocess`, as far as they are loaded, have joined their children. It does not matter
  which of them was imported before the client was started;
- the newest client first, each once. Clients that were stopped before, and those of the process that this one was forked
  from, are left alone.

The same holds in a child of one of these libraries: up to Python 3.12 it ends without running what is registered with
`atexit`. There only the library that made the process joins its children.

Nothing is stopped in a process that is killed, or that calls `os._exit` or `os.exec`.

Notes
-----
`atexit` calls its functions last in, first out, and both libraries join their children in such a function, registered when
they are imported. A function that is called before theirs registers a finalizer with them, which runs after the joins.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from .fd_capture import diagnose

_LIBRARIES: Final = ("multiprocessing", "multiprocess")
_LAST: Final = -(1 << 31)  # negative: after the children are joined; the lowest: after all other finalizers

_stops: Final[dict[object, Callable[[], object]]] = {}
_prepared = 0


def stop_at_exit(client: object, stop: Callable[[], object]) -> None:
    """Let `stop` be called at the end of this process. It takes the place of an earlier one for the same client."""
    _stops[client] = stop
    _prepare()


def forget(client: object) -> None:
    """Do nothing for a client at exit: it was stopped."""
    _stops.pop(client, None)


def _prepare() -> None:
    """In a child of `multiprocessing` or `multiprocess`: have `_stop_all` called where it ends. Once in a process."""
    global _prepared
    makers = _makers() if _prepared != os.getpid() else []
    _prepared = os.getpid()
    if makers:
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)  # from Python 3.13 on, a child forgets what its parent has registered
        _call_after_joins(makers[0])  # before that, it does not call what is registered


def _stop_all() -> None:
    """Stop every client, or have it done by the next library that has not joined its children yet."""
    if not _stops:
        return
    for util in _joining():
        if not util._exiting:
            _call_after_joins(util)
            return
    threads = _running_threads()
    if threads:
        threading.Thread(target=_stop_after, args=(threads,), name="meshlog-exit", daemon=False).start()
    else:
        _stop_now()


def _stop_after(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
    _stop_now()


def _stop_now() -> None:
    while _stops:
        _, stop = _stops.popitem()
        try:
            stop()
        except Exception as failure:
            diagnose(f"a client could not be stopped at exit: {type(failure).__name__}: {failure}")


def _running_threads() -> list[threading.Thread]:
    """Return the threads that are joined later: up to Python 3.12, a child of a library joins its own children first."""
    if not threading.main_thread().is_alive():
        return []
    known = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in known]


def _call_after_joins(util: Any) -> None:
    util.Finalize(None, _stop_all, exitpriority=_LAST)


def _joining() -> list[Any]:
    """Return `util` of the libraries that join children when this process ends: of a child, the one that made it."""
    return _makers() or [sys.modules[f"{name}.util"] for name in _loaded()]


def _makers() -> list[Any]:
    """Return `util` of the library whose child this process is, if it is one."""
    parents = {name: sys.modules[f"{name}.process"].parent_process() for name in _loaded()}
    makers = [name for name, parent in parents.items() if parent is not None]
    if len(makers) > 1:  # forked from a child of the other library, whose parent is further away
        makers.sort(key=lambda name: parents[name].pid != os.getppid())
    return [sys.modules[f"{name}.util"] for name in makers[:1]]


def _loaded() -> list[str]:
    return [name for name in _LIBRARIES if f"{name}.util" in sys.modules]


def _after_fork_in_child() -> None:
    _stops.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
