"""The side of a process that logs: its stream of records, the thread that ships it, the commands it obeys.

May import: errors, settings, protocol, system, journal, transport.
"""

from __future__ import annotations

from typing import Any

from ..system.lazy_imports import load


def __getattr__(name: str) -> Any:
    """Offer what engines call in a worker: `install`, `uninstall`, `enlist`."""
    if name not in ("enlist", "install", "uninstall"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return load("installation", name)
