"""Original threads, locks, sockets and waits of the standard library, for programs patched by gevent or eventlet.

Greenlets share one thread and switch only where they wait. The threads of this package must ship and show records also while
the program computes or blocks, and need kernel locks. In a patched process they use unpatched copies of the standard modules.
In other processes this module does nothing.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import importlib.util
import math
import os
import posix
import queue
import select
import selectors
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import BuiltinFunctionType, ModuleType
from typing import Any, Final

from .waits import deadline_after, monotonic

_ROOT: Final = __name__.partition(".")[0]
_PATCHERS: Final = ("gevent.monkey", "eventlet.patcher")
_PAUSE_SEC: Final = 0.001
_copies: dict[str, ModuleType] = {}


def use() -> None:
    """If the program is patched, make the loaded modules of this package use the copies. Call it before threads start."""
    if not any(name in sys.modules for name in _PATCHERS) or not _patched():
        return
    if not _copies:
        _make_copies()
    replaced = {id(module): _copies[module.__name__] for module in (threading, socket, select, selectors, queue, time, os)}
    future = vars(_copies["concurrent.futures._base"])["Future"]
    replaced[id(concurrent.futures.Future)] = future
    locks = {type(threading.RLock()): _copies["threading"].RLock, type(threading.Lock()): _copies["threading"].Lock}
    for name, module in tuple(sys.modules.items()):
        if not name.startswith(f"{_ROOT}.") or name == __name__:
            continue
        names = vars(module)
        for key, value in tuple(names.items()):
            if id(value) in replaced:
                names[key] = replaced[id(value)]
            elif type(value) in locks and type(value).__module__ != "_thread":
                names[key] = locks[type(value)]()
            elif isinstance(value, type) and value.__bases__ == (concurrent.futures.Future,):
                value.__bases__ = (future,)
            elif key in ("RLock", "get_ident"):
                names[key] = vars(_copies["threading"])[key]


def in_use() -> bool:
    """Return whether this package uses the copies: a thread that the program starts may be a greenlet."""
    return bool(_copies)


def share(handler: Any) -> None:
    """Give a handler a lock that both the threads of this package and greenlets can wait for."""
    lock = getattr(handler, "lock", None)
    if lock is not None and type(lock).__module__ != "_thread" and not isinstance(lock, SharedLock):
        use()
        if _copies:
            handler.lock = SharedLock()


def let_greenlets_leave(seconds: float | None, over: Callable[[], bool] = lambda: False) -> None:
    """Wait up to `seconds` (None: no limit) until other greenlets of this thread have left the handlers.

    Call it before this thread waits for a thread that calls these handlers. That thread may wait for a greenlet in a handler,
    which could not continue.
    """
    deadline = deadline_after(seconds)
    while not over() and any(lock.held_beside() for lock in tuple(_shared)) and monotonic() < deadline:
        try:
            time.sleep(_PAUSE_SEC)
        except Exception:  # the hub of the greenlets cannot wait for them
            return


class SharedLock:
    """An `RLock` for greenlets and threads, identified by `get_ident`. A waiting greenlet lets others of its thread run."""

    def __init__(self) -> None:
        self._at_fork_reinit()
        _shared.add(self)

    def _at_fork_reinit(self) -> None:
        self._lock = _copies["threading"].Lock()
        self._owner: int | None = None
        self._thread = 0  # of the owner: all greenlets of a thread have the same
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; return False if it is held and `blocking` is false, or after `timeout` seconds (-1: no limit)."""
        this = threading.get_ident()
        deadline = deadline_after(timeout) if timeout >= 0 else math.inf
        if self._owner != this:
            # The program's `time` switches to another greenlet; the threads of this package have no greenlets. The copy also
            # knows threads of the program that have called it: these are of other classes.
            threads, thread = _copies["threading"], _copies["_thread"].get_ident()
            own = type(threads._active.get(thread)) is threads.Thread
            clock = _copies["time"] if own else time
            while not self._lock.acquire(False):
                if not blocking or monotonic() >= deadline:
                    return False
                clock.sleep(_PAUSE_SEC)
            self._thread = thread
            self._owner = this
        self._count += 1
        return True

    def release(self) -> None:
        """Release the lock once; `RuntimeError` if another thread or greenlet holds it, or none."""
        if self._owner != threading.get_ident():
            raise RuntimeError("cannot release a lock that is not held")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def held_beside(self) -> bool:
        """Return whether another greenlet of this thread holds the lock."""
        owner = self._owner  # first: see `acquire`
        return owner not in (None, threading.get_ident()) and self._thread == _copies["_thread"].get_ident()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


_shared: Final[weakref.WeakSet[SharedLock]] = weakref.WeakSet()


def _patched() -> bool:
    functions = threading._allocate_lock, select.select, time.sleep  # type: ignore[attr-defined]  # a private name
    return socket.socket.__module__ != "socket" or not all(isinstance(each, BuiltinFunctionType) for each in functions)


def _make_copies() -> None:
    """Run the source of the modules again; each imports the copies of the others."""
    made: dict[str, ModuleType] = {name: _fresh(name) for name in ("_thread", "select", "time")}
    sentinel = getattr(made["_thread"], "_set_sentinel", None)
    if sentinel is not None:  # up to Python 3.12: it would replace the sentinel that signals the end of this thread
        vars(made["_thread"])["_set_sentinel"] = made["_thread"].allocate_lock
    for name in ("threading", "selectors", "queue", "socket", "concurrent.futures._base"):
        made[name] = _run(name, made)
    if sentinel is not None:
        vars(made["threading"])["_set_sentinel"] = sentinel
    _finish(made)
    _copies.update(made)


def _finish(made: dict[str, ModuleType]) -> None:
    base, real = made["concurrent.futures._base"], concurrent.futures._base
    for name in ("Error", "CancelledError", "TimeoutError", "InvalidStateError"):  # callers catch the real classes
        if hasattr(real, name):
            vars(base)[name] = getattr(real, name)
    # `get_ident` stays the program's: `logging` identifies threads and greenlets by it.
    vars(made["threading"])["_active"].clear()  # the calling thread belongs to the program
    threads = ModuleType("threading")
    vars(threads).update(vars(made["threading"]), get_ident=threading.get_ident, main_thread=threading.main_thread)
    made["threading"] = threads
    made["os"] = ModuleType("os")
    vars(made["os"]).update(vars(os), read=posix.read, write=posix.write)


def _fresh(name: str) -> ModuleType:
    """Return a fresh copy of a module written in C."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(name: str, made: dict[str, ModuleType]) -> ModuleType:
    def import_copy(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        return made[name] if name in made else builtins.__import__(name, *args, **kwargs)

    spec = importlib.util.find_spec(name)
    assert spec is not None
    code = spec.loader.get_code(name)  # type: ignore[union-attr]  # the module has a source
    module = ModuleType(f"{__name__}:{name}")
    vars(module).update(__file__=spec.origin, __spec__=None, __package__=name.rpartition(".")[0])
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_copy}
    sys.modules[module.__name__] = module  # enumerations look up their module
    try:
        exec(code, vars(module))
    finally:
        del sys.modules[module.__name__]
    return module
