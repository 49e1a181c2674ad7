"""Deferred imports: one thread at a time, and never while another thread forks.

A child forked while a thread imports a module inherits the lock of that module. Since no thread of the child releases it, an
import of the module in the child would never end.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

from .fork_locks import acquire_first

_ROOT: Final = __name__.partition(".")[0]
_FORK_SEC: Final = 10.0
"""Seconds that a fork waits at most; imports take a tenth of a second."""

_lock = threading.RLock()


@contextmanager
def importing() -> Iterator[None]:
    """Protect an import inside a function from forks by other threads."""
    with _lock:
        yield


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """If a module of another package is missing that `extra` of this package installs, say so in the error."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if not extra or (missing.name or "").partition(".")[0] == _ROOT:
            raise
        text = f"{missing.name} is not installed in {sys.executable}: pip install 'meshlog-handler[{extra}]'"
        raise ModuleNotFoundError(text, name=missing.name, path=missing.path) from missing


def load(module: str, name: str) -> Any:
    """Import a module of this package, and return its attribute `name`."""
    with importing():
        return getattr(import_module(f"{_ROOT}.{module}"), name)


def exporter(package: str, homes: Mapping[str, str], extra: str = "") -> Callable[[str], Any]:
    """Return a ``__getattr__`` for `package` that imports a name at its first use; `homes` has the module of each name.

    `extra` is the one of this package that installs what the modules need.
    """

    def import_at_first_use(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needing(extra):
            value = vars(sys.modules[package])[name] = load(homes[name], name)
        return value

    return import_at_first_use


def _after_fork_in_child() -> None:
    global _lock
    # If the forking thread itself imports (a signal handler forked), its import continues with the new lock.
    _lock = threading.RLock()


acquire_first(lambda: _lock, _FORK_SEC)
os.register_at_fork(after_in_child=_after_fork_in_child)
