"""Stops the clients that still run when their process exits.

In a process that exits normally (the main module returns, `sys.exit`, an uncaught exception) each client is stopped once,
the newest first:

- after the threads of the program and of its executors have been joined;
- after `multiprocessing` and `multiprocess`, if they are loaded, have joined their children. The order of imports does not
  matter: `atexit` calls its functions last in, first out, so a function that runs before theirs registers a finalizer with
  them, which runs after the joins.

The same holds in a child of one of these libraries, where only the library that started the process joins children. Up to
Python 3.12 such a child exits without calling `atexit` functions. No client is stopped in a process that is killed, or that
calls `os._exit` or `os.exec`. A forked child does not stop the clients of its parent.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from .diagnostics import diagnose

_LIBRARIES: Final = ("multiprocessing", "multiprocess")
_LAST: Final = -(1 << 31)  # negative: after the children are joined; the lowest: after all other finalizers

_stops: Final[dict[object, Callable[[], object]]] = {}
_prepared = 0


def stop_at_exit(client: object, stop: Callable[[], object]) -> None:
    """Call `stop` when this process exits. It replaces an earlier `stop` of the same client."""
    _stops[client] = stop
    _prepare()


def call_last(owner: object, stop: Callable[[], object]) -> None:
    """Call `stop` when this process exits, after all clients that are known now have been stopped."""
    others = [pair for pair in _stops.items() if pair[0] is not owner]
    _stops.clear()
    _stops[owner] = stop
    _stops.update(others)
    _prepare()


def forget(client: object) -> None:
    """Remove a client that was stopped."""
    _stops.pop(client, None)


def _prepare() -> None:
    """In a child of `multiprocessing` or `multiprocess`: register `_stop_all`, once per process."""
    global _prepared
    makers = _makers() if _prepared != os.getpid() else []
    _prepared = os.getpid()
    if makers:
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)  # from Python 3.13 on, a child drops the functions of its parent
        _call_after_joins(makers[0])  # up to Python 3.12, a child calls no `atexit` functions


def _stop_all() -> None:
    """Stop every client, after the next library that has not joined its children yet."""
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
    """Return the threads still to be joined: up to Python 3.12, a child of a library joins its own children first."""
    if not threading.main_thread().is_alive():
        return []
    known = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in known]


def _call_after_joins(util: Any) -> None:
    util.Finalize(None, _stop_all, exitpriority=_LAST)


def _joining() -> list[Any]:
    """Return `util` of the libraries that join children at exit. In a child of a library, that library only."""
    return _makers() or [sys.modules[f"{name}.util"] for name in _loaded()]


def _makers() -> list[Any]:
    """Return `util` of the library that started this process, if one did."""
    parents = {name: sys.modules[f"{name}.process"].parent_process() for name in _loaded()}
    makers = [name for name, parent in parents.items() if parent is not None]
    if len(makers) > 1:  # forked from a child of the other library: prefer the direct parent
        makers.sort(key=lambda name: parents[name].pid != os.getppid())
    return [sys.modules[f"{name}.util"] for name in makers[:1]]


def _loaded() -> list[str]:
    return [name for name in _LIBRARIES if f"{name}.util" in sys.modules]


def _after_fork_in_child() -> None:
    _stops.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
