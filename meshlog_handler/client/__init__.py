"""The client: the thread that reads all peers, its flushes, commands, exit reports, relays and observers, and an observer.

May import: _version, errors, settings, system, protocol, journal, transport, grouping, insight, lines, output, worker,
dispatch.
"""

from __future__ import annotations
