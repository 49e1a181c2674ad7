"""The worker's side: the stream of records, the thread that ships it, the thread that carries out commands.

May import: errors, settings, system, protocol, journal, transport.
"""

from __future__ import annotations

from typing import Any

from ..system.lazy_imports import load


def __getattr__(name: str) -> Any:
    """Import `install`, `uninstall` or `enlist`, which engines call in a worker."""
    if name not in ("enlist", "install", "uninstall"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load("installation", name)
