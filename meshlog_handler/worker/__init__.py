"""The worker's side: the stream of records, the thread that ships it, the thread that carries out commands.

May import: errors, settings, system, protocol, journal, transport.
"""

from __future__ import annotations

from ..system.lazy_imports import exporter

# What engines call in a worker.
__getattr__ = exporter(__name__, dict.fromkeys(("enlist", "install", "uninstall"), "installation"))
