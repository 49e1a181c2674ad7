"""Imports that wait until they are needed: one thread at a time, and never while another thread forks.

A child that is forked while a thread imports a module inherits the lock of that module, which nobody will release: its own
import of the module never ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

_ROOT: Final = __name__.partition(".")[0]
_FORK_SEC: Final = 10.0
"""Seconds that a fork waits, at most: imports take a tenth of one."""

_lock = threading.RLock()
_forking: set[int] = set()


@contextmanager
def importing() -> Iterator[None]:
    """What an import in a function stands in: no fork by another thread comes in between."""
    with _lock:
        yield


def load(module: str, name: str) -> Any:
    """Import a module of this package, and return what is called `name` there."""
    with importing():
        return getattr(import_module(f"{_ROOT}.{module}"), name)


def _before_fork() -> None:
    if _lock.acquire(timeout=_FORK_SEC):
        _forking.add(threading.get_ident())


def _after_fork_in_parent() -> None:
    if threading.get_ident() in _forking:
        _forking.discard(threading.get_ident())
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    # The thread that forked may be importing itself, as where a signal handler forks: it goes on, with a lock that is free.
    _lock = threading.RLock()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
