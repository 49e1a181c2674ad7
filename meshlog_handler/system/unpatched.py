"""The standard library's own threads, locks, sockets and waits, where gevent or eventlet have put theirs in their place.

Greenlets share one thread and wait for each other by agreement. Threads of ours must ship and show records also while the
program computes or blocks, and hand each other locks that only the kernel knows: in such a process they use copies of the
standard modules as they were. The copies are made only there; elsewhere this module does nothing.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import importlib.util
import os
import posix
import queue
import select
import selectors
import socket
import sys
import threading
import time
from types import BuiltinFunctionType, ModuleType
from typing import Any, Final

_ROOT: Final = __name__.partition(".")[0]
_PATCHERS: Final = ("gevent.monkey", "eventlet.patcher")
_PAUSE_SEC: Final = 0.001
_copies: dict[str, ModuleType] = {}


def use() -> None:
    """Let the modules of this package that are loaded use the copies, if the program was patched. Before threads start."""
    if not any(name in sys.modules for name in _PATCHERS) or not _patched():
        return
    if not _copies:
        _make_copies()
    replaced = {id(module): _copies[module.__name__] for module in (threading, socket, select, selectors, queue, time, os)}
    future = vars(_copies["concurrent.futures._base"])["Future"]
    replaced[id(concurrent.futures.Future)] = future
    locks = {type(threading.RLock()): _copies["threading"].RLock, type(threading.Lock()): _copies["threading"].Lock}
    for name, module in tuple(sys.modules.items()):
        if not name.startswith(f"{_ROOT}.") or name in (__name__, f"{__package__}.lazy_imports"):
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


def share(handler: Any) -> None:
    """Let a handler that threads of ours call, too, have a lock that both they and greenlets can wait for."""
    lock = getattr(handler, "lock", None)
    if lock is not None and type(lock).__module__ != "_thread" and not isinstance(lock, SharedLock):
        use()
        if _copies:
            handler.lock = SharedLock()


class SharedLock:
    """An `RLock` of greenlets and threads: each has a number, and who waits lets others of its thread go on."""

    def __init__(self) -> None:
        self._at_fork_reinit()

    def _at_fork_reinit(self) -> None:
        self._lock = _copies["threading"].Lock()
        self._owner: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; False if it is taken, and not to be waited for."""
        this = threading.get_ident()
        if self._owner != this:
            # `time` is the program's, which switches to another greenlet; a thread of ours has none.
            clock = _copies["time"] if _copies["_thread"].get_ident() in _copies["threading"]._active else time
            while not self._lock.acquire(False):
                if not blocking:
                    return False
                clock.sleep(_PAUSE_SEC)
            self._owner = this
        self._count += 1
        return True

    def release(self) -> None:
        """Give up what was taken last."""
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _patched() -> bool:
    functions = threading._allocate_lock, select.select, time.sleep  # type: ignore[attr-defined]  # a name of its own use
    return socket.socket.__module__ != "socket" or not all(isinstance(each, BuiltinFunctionType) for each in functions)


def _make_copies() -> None:
    """Run the source of the modules once more, each with copies of those that it imports."""
    made: dict[str, ModuleType] = {name: _anew(name) for name in ("_thread", "select", "time")}
    sentinel = getattr(made["_thread"], "_set_sentinel", None)
    if sentinel is not None:  # until Python 3.12: it would take the place of the one that tells of this thread's end
        vars(made["_thread"])["_set_sentinel"] = made["_thread"].allocate_lock
    for name in ("threading", "selectors", "queue", "socket", "concurrent.futures._base"):
        made[name] = _run(name, made)
    if sentinel is not None:
        vars(made["threading"])["_set_sentinel"] = sentinel
    _finish(made)
    _copies.update(made)


def _finish(made: dict[str, ModuleType]) -> None:
    base, real = made["concurrent.futures._base"], concurrent.futures._base
    for name in ("Error", "CancelledError", "TimeoutError", "InvalidStateError"):  # who catches them knows the real ones
        if hasattr(real, name):
            vars(base)[name] = getattr(real, name)
    # By this number `logging` knows a thread, or what the program takes for one.
    vars(made["threading"])["_active"].clear()  # the thread that has made this is none of ours
    threads = ModuleType("threading")
    vars(threads).update(vars(made["threading"]), get_ident=threading.get_ident, main_thread=threading.main_thread)
    made["threading"] = threads
    made["os"] = ModuleType("os")
    vars(made["os"]).update(vars(os), read=posix.read, write=posix.write)


def _anew(name: str) -> ModuleType:
    """Return a module written in C as it is when it is first imported."""
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
    code = spec.loader.get_code(name)  # type: ignore[union-attr]  # a module with a source
    module = ModuleType(f"{__name__}:{name}")
    vars(module).update(__file__=spec.origin, __spec__=None, __package__=name.rpartition(".")[0])
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_copy}
    sys.modules[module.__name__] = module  # where enumerations look for their names
    try:
        exec(code, vars(module))
    finally:
        del sys.modules[module.__name__]
    return module
